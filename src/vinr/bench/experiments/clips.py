"""Many clips in one network, compared with a network for each and with a codec for each.

Axes: K clips, N frames, C channels, H rows, W columns.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from vinr.bench.experiments.curves import anchor_points
from vinr.bench.history import Curve, History, OnEvent
from vinr.bench.points import KEPT, mean_point
from vinr.bench.work import Values, Work
from vinr.bench.written import WrittenNetwork, write_network
from vinr.errors import UsageError, format_frame, plural
from vinr.fit import fit
from vinr.quality.clip import bits_per_pixel
from vinr.quality.record import Quality
from vinr.video.source import FrameTensor


def clips_experiment(work: Work) -> Values:
    """Represent all clips by one network (or one each, ``joint = false``), or code each by a codec.

    PSNR and MS-SSIM are means over all frames, the rate is that of all bytes. ``clip_psnr_db``: of each clip.
    ``sizes``: a point for each number of parameters. A codec has a point for each setting, the same for all
    clips; its bytes are those of all its streams.
    """
    setup = work.setup
    parts = [cut_clips(frames, setup.tiles, setup.length) for frames in work.all_frames()]
    clips = chosen_parts(parts, setup.parts)
    if setup.anchor is not None:
        return _coded_one_by_one(setup.anchor, clips)
    started = time.perf_counter()
    if setup.sizes is not None:
        points = [_point(work, clips, params) for params in setup.sizes]
        return {"points": points, "num_clips": len(clips), "seconds": time.perf_counter() - started}
    if setup.joint is False:
        # As many parameters in all as the joint network has.
        share = None if setup.params is None else max(setup.params // len(clips), 1)
        networks, curve = [_fitted(work, clip, share, work.on_event) for clip in clips], Curve()
    else:
        networks = [_fitted(work, join(clips), setup.params, history := History(work.on_event))]
        curve = history.curve()
    return {**_values(networks, clips), "curve": curve, "seconds": time.perf_counter() - started}


def cut_clips(frames: FrameTensor, tiles: tuple[int, int] | None, length: int | None) -> list[FrameTensor]:
    """Cut a clip into tiles (rows × columns of equal size) and parts of ``length`` frames; rests are dropped.

    ::

        tiles (1, 2), length 22 of 132 frames:      part 0   ┌───┬───┐   clips 0, 1
                                                    part 1   ├───┼───┤   clips 2, 3
                                                    …        └───┴───┘

    Raises
    ------
    UsageError
        If nothing is left of a part.
    """
    rows, columns = tiles or (1, 1)
    spec = frames.spec
    height, width, count = spec.height // rows, spec.width // columns, length or spec.num_frames
    if not height or not width or count > spec.num_frames:
        frames_of = f"{plural(spec.num_frames, 'frame')} of {format_frame(spec.height, spec.width)}"
        raise UsageError(
            f"clips of {frames_of} cannot be cut into {rows}×{columns} tiles and parts of {count} frames"
        )
    clip_spec = replace(spec, num_frames=count, height=height, width=width, span_lengths=())
    clips = []
    for first, row, column in product(range(spec.num_frames // count), range(rows), range(columns)):
        # product: columns run fastest, parts slowest, as drawn above.
        part_NCHW = frames.rgb_NCHW[first * count : (first + 1) * count]
        tile_NCHW = part_NCHW[..., row * height : (row + 1) * height, column * width : (column + 1) * width]
        # A tile is a view of the whole clip, which it would keep in memory.
        clips.append(FrameTensor(tile_NCHW.contiguous(), clip_spec))
    return clips


def chosen_parts(parts: Sequence[Sequence[FrameTensor]], count: int | None) -> list[FrameTensor]:
    """Return ``count`` parts (None: all), as many of each clip to within one, evenly spread over it.

    Raises
    ------
    UsageError
        If a clip has too few parts.
    """
    if count is None:
        return [part for of_clip in parts for part in of_clip]
    chosen: list[FrameTensor] = []
    for number, of_clip in enumerate(parts):
        # 5 of 2 clips: 3 and 2 parts.
        quota = (count - number + len(parts) - 1) // len(parts)
        if quota > len(of_clip):
            raise UsageError(f"{count} parts need {quota} of a clip that has {len(of_clip)}; give fewer")
        chosen += [of_clip[index * len(of_clip) // quota] for index in range(quota)]
    return chosen


def join(clips: Sequence[FrameTensor]) -> FrameTensor:
    """Return clips of one size as the spans of one video.

    Raises
    ------
    UsageError
        If their sizes differ.
    """
    sizes, lengths, clip_tensors = set(), list[int](), list[Tensor]()
    for clip in clips:
        sizes.add((clip.spec.height, clip.spec.width))
        lengths.append(clip.spec.num_frames)
        clip_tensors.append(clip.rgb_NCHW)
    if len(sizes) > 1:
        raise UsageError(f"clips of sizes {sorted(sizes)} cannot share a network; give resize")
    spec = replace(clips[0].spec, num_frames=sum(lengths), span_lengths=tuple(lengths))
    return FrameTensor(torch.cat(clip_tensors), spec)


def _point(work: Work, clips: Sequence[FrameTensor], params: int) -> dict[str, float]:
    """Return a point of the curve of joint networks."""
    values = _values([_fitted(work, join(clips), params, work.on_event)], clips)
    point = {}
    for name in KEPT:
        value = values.get(name)
        if isinstance(value, (int, float)):
            point[name] = float(value)
    return point


def _fitted(work: Work, frames: FrameTensor, params: int | None, on_event: OnEvent) -> WrittenNetwork:
    preset = work.preset(frames.spec, params=params)
    result = fit(frames, preset, device=work.device, on_event=on_event)
    return write_network(frames, preset, result, device=work.device)


def _values(networks: Sequence[WrittenNetwork], clips: Sequence[FrameTensor]) -> Values:
    spans, num_bytes, keyframe_bytes, num_parameters = list[Quality](), 0, 0, 0
    for network in networks:
        spans += network.spans  # one per clip, whether the clips share a network or not
        num_bytes += network.num_bytes
        keyframe_bytes += network.keyframe_bytes
        num_parameters += network.num_parameters
    num_pixels = sum(clip.spec.num_pixels for clip in clips)
    quality = Quality.of_all(spans)
    values: Values = {
        "psnr_db": quality.psnr_db,
        "num_bytes": num_bytes,
        "bpp": bits_per_pixel(num_bytes, num_pixels),
        "keyframes_percent": 100 * keyframe_bytes / num_bytes,
        "num_parameters": num_parameters,
        "num_clips": len(clips),
        "clip_psnr_db": [span.psnr_db for span in spans],
    }
    return values if quality.ms_ssim is None else {**values, "ms_ssim": quality.ms_ssim}


def _coded_one_by_one(anchor: str, clips: Sequence[FrameTensor]) -> Values:
    curves, num_pixels, num_frames = [], [], []
    for clip in clips:
        curves.append(anchor_points(anchor, clip))
        num_pixels.append(clip.spec.num_pixels)
        num_frames.append(clip.spec.num_frames)
    # Of each setting the mean over clips: their streams together.
    points = [mean_point(clip_points, num_pixels, num_frames) for clip_points in zip(*curves, strict=True)]
    return {"points": points, "num_clips": len(clips)}
