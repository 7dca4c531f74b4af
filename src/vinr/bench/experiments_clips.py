"""Many clips in one network, beside a network for each and beside a codec for each.

Axes: K clips, N frames, C channels, H rows, W columns.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import torch

from vinr.bench.experiments_rates import anchor_points
from vinr.bench.stages import Measured, measure
from vinr.bench.work import Values, Work
from vinr.errors import UsageError
from vinr.fit import fit
from vinr.quality.clip import bits_per_pixel
from vinr.video.source import FrameTensor


def clips_experiment(work: Work) -> Values:
    """Represent all clips by one network (or one each, ``joint = false``), or code each by a codec.

    PSNR and MS-SSIM are means over all frames, the rate is that of all bytes. ``clip_psnr_db``: of each clip.
    A codec has a point for each setting, the same for all clips; its bytes are those of all its streams.
    """
    setup = work.setup
    clips = [clip for frames in work.all_frames() for clip in cut_clips(frames, setup.tiles, setup.length)]
    if setup.anchor is not None:
        return _coded_one_by_one(setup.anchor, clips)
    started = time.perf_counter()
    if setup.joint is False:
        share = None if setup.params is None else max(setup.params // len(clips), 1)
        found = [_fitted(work, clip, share) for clip in clips]
    else:
        found = [_fitted(work, join(clips), setup.params)]
    return {**_together(found, clips), "seconds": time.perf_counter() - started}


def cut_clips(frames: FrameTensor, tiles: tuple[int, int] | None, length: int | None) -> list[FrameTensor]:
    """Cut a clip into tiles (rows × columns of equal size) and parts of ``length`` frames; rests are dropped.

    Raises
    ------
    UsageError
        If nothing is left of a part.
    """
    rows, columns = tiles or (1, 1)
    spec = frames.spec
    height, width, count = spec.height // rows, spec.width // columns, length or spec.num_frames
    if not height or not width or count > spec.num_frames:
        raise UsageError(
            f"clips of {spec.num_frames} frames of {spec.height}×{spec.width} cannot be cut into "
            f"{rows}×{columns} tiles and parts of {count} frames"
        )
    own = replace(spec, num_frames=count, height=height, width=width, span_lengths=())
    return [
        FrameTensor(
            frames.rgb_NCHW[
                first : first + count,
                :,
                row * height : (row + 1) * height,
                column * width : (column + 1) * width,
            ].contiguous(),
            own,
        )
        for first in range(0, spec.num_frames - count + 1, count)
        for row in range(rows)
        for column in range(columns)
    ]


def join(clips: Sequence[FrameTensor]) -> FrameTensor:
    """Return clips of one size as the spans of one video.

    Raises
    ------
    UsageError
        If their sizes differ.
    """
    sizes = {(clip.spec.height, clip.spec.width) for clip in clips}
    if len(sizes) > 1:
        raise UsageError(f"clips of sizes {sorted(sizes)} cannot share a network; give resize")
    lengths = tuple(clip.spec.num_frames for clip in clips)
    spec = replace(clips[0].spec, num_frames=sum(lengths), span_lengths=lengths)
    return FrameTensor(torch.cat([clip.rgb_NCHW for clip in clips]), spec)


def _fitted(work: Work, frames: FrameTensor, params: int | None) -> Measured:
    preset = work.preset(frames.spec, params=params)
    result = fit(frames, preset, device=work.device, on_event=work.on_event)
    return measure(frames, preset, result, device=work.device)


def _together(found: Sequence[Measured], clips: Sequence[FrameTensor]) -> Values:
    spans = [span for measured in found for span in measured.spans]
    num_bytes = sum(measured.num_bytes for measured in found)
    weights = [clip.spec.num_frames for clip in clips]
    values: Values = {
        "psnr_db": fmean([span.psnr_db for span in spans], weights),
        "num_bytes": num_bytes,
        "bpp": bits_per_pixel(num_bytes, sum(clip.spec.num_pixels for clip in clips)),
        "keyframes_percent": 100 * sum(measured.keyframe_bytes for measured in found) / num_bytes,
        "num_parameters": sum(measured.num_parameters for measured in found),
        "num_clips": len(clips),
        "clip_psnr_db": [span.psnr_db for span in spans],
    }
    similarities = [span.ms_ssim for span in spans if span.ms_ssim is not None]
    return {**values, "ms_ssim": fmean(similarities, weights)} if len(similarities) == len(spans) else values


def _coded_one_by_one(anchor: str, clips: Sequence[FrameTensor]) -> Values:
    curves = [anchor_points(anchor, clip) for clip in clips]
    weights = [clip.spec.num_pixels for clip in clips]
    points = []
    for settings in zip(*curves, strict=True):
        names = [name for name in ("bpp", "psnr_db", "ms_ssim") if all(name in point for point in settings)]
        points.append({name: fmean([point[name] for point in settings], weights) for name in names})
    return {"points": points, "num_clips": len(clips)}
