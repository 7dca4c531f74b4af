"""The kinds of experiment with several files or codecs: curves of rate and quality, speed of decoding.

Axes: N frames of a batch.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from vinr.bench.points import point_values, published_points
from vinr.bench.stages import measure
from vinr.bench.work import Values, Work
from vinr.comparison.anchor_runs import choose_upsampling, measure_anchor
from vinr.comparison.anchors import parse_anchor
from vinr.config import Preset
from vinr.decoding.file import open_clip
from vinr.decoding.streams import StreamClock
from vinr.fit import fit
from vinr.models import VideoModel
from vinr.quality.clip import bits_per_pixel
from vinr.video.source import FrameTensor
from vinr.video.spec import Query

WARM_UP_FRAMES = 2


def rate_distortion_experiment(work: Work) -> Values:
    """Return the ``points`` (bpp, psnr_db, ms_ssim) of a network at several sizes or weights of the rate, of
    a codec, or of published ones; beside them the means over the points."""
    setup = work.setup
    if setup.published is not None:
        points = published_points(setup.published, work.data)
    elif setup.anchor is not None:
        points = anchor_points(setup.anchor, work.frames)
    else:
        points = [_network_point(work, preset) for preset in _presets(work)]
    means: Values = {
        name: sum(point[name] for point in points) / len(points)
        for name in ("bpp", "psnr_db", "ms_ssim")
        if all(name in point for point in points)
    }
    return {"points": points, **means}


def _presets(work: Work) -> list[Preset]:
    setup = work.setup
    if setup.presets is not None:
        return [work.alone(preset=name, presets=None).preset() for name in setup.presets]
    presets = [work.preset(params=size) for size in setup.sizes or (None,)]
    return [_with_weight(p, weight) for p in presets for weight in setup.rate_weights or (None,)]


def _with_weight(preset: Preset, weight: float | None) -> Preset:
    """Return ``preset`` whose last phase weighs the rate so."""
    if weight is None:
        return preset
    *others, last = preset.fit.phases
    phases = (*others, last.model_copy(update={"rate_weight": weight}))
    return preset.model_copy(update={"fit": preset.fit.model_copy(update={"phases": phases})})


def _network_point(work: Work, preset: Preset) -> dict[str, float]:
    started = time.perf_counter()
    result = fit(work.frames, preset, device=work.device, on_event=work.on_event)
    seconds = time.perf_counter() - started
    found = measure(work.frames, preset, result, device=work.device)
    point = {
        "bpp": bits_per_pixel(found.num_bytes, work.frames.spec.num_pixels),
        "psnr_db": found.quality.psnr_db,
        "num_bytes": float(found.num_bytes),
        "num_parameters": float(found.num_parameters),
        "seconds": seconds,
    }
    return point if found.quality.ms_ssim is None else {**point, "ms_ssim": found.quality.ms_ssim}


def anchor_points(text: str, frames: FrameTensor) -> list[dict[str, float]]:
    """Return the points of a codec; ``text`` as :func:`vinr.comparison.anchors.parse_anchor` has it."""
    anchor, qualities = parse_anchor(text)
    upsampling = choose_upsampling(frames)
    return [point_values(measure_anchor(anchor, q, frames, upsampling=upsampling)) for q in qualities]


def decode_experiment(work: Work) -> Values:
    """Measure how fast frames come: of the network alone, of the file, and of a half and a quarter of it.

    Weights do not change the speed, so few epochs will do. An anchor is measured by the same clock.
    """
    setup = work.setup
    if setup.anchor is not None:
        points = anchor_points(setup.anchor, work.frames)
        speeds = [point["decode_fps"] for point in points]
        fps = sum(speeds) / len(speeds)
        return {"file_fps": fps, "all_seconds": work.frames.spec.num_frames / fps, "points": points}
    preset = work.preset()
    result = fit(work.frames, preset, device=work.device, on_event=work.on_event)
    path = work.file()
    found = measure(work.frames, preset, result, path=path, device=work.device)
    seconds = {f"{name}_seconds": _play_seconds(path, work.device, step) for name, step in STEPS.items()}
    return {
        "network_fps": _network_fps(result.model, work.frames.spec.num_frames),
        "file_fps": work.frames.spec.num_frames / seconds["all_seconds"],
        **seconds,
        "num_parameters": found.num_parameters,
        "num_bytes": found.num_bytes,
        "psnr_db": found.quality.psnr_db,
    }


# Every frame, every second, every fourth.
STEPS = {"all": 1, "half": 2, "quarter": 4}


def _play_seconds(path: Path, device: str, step: int) -> float:
    """Return the seconds that every ``step``-th frame of a file takes, weights read and the network warm."""
    with open_clip(path, device=device) as decoder:
        next(decoder.play([0]))
        if step == 1:
            clock = StreamClock()
            for _ in clock.watch(decoder.stream()):
                pass
            return clock.seconds
        started = time.perf_counter()
        for _ in decoder.play(range(0, decoder.spec.num_frames, step)):
            pass
        return time.perf_counter() - started


def _network_fps(model: VideoModel, num_frames: int) -> float:
    """Return frames a second of the network, one after another, without the file around it."""
    device = next(model.parameters()).device
    indices: Sequence[int] = range(num_frames)
    with torch.inference_mode():
        for index in indices[:WARM_UP_FRAMES]:
            model(Query.of_frames(torch.tensor([index], device=device)))
        _synchronise(device)
        started = time.perf_counter()
        for index in indices:
            model(Query.of_frames(torch.tensor([index], device=device)))
        _synchronise(device)
    return num_frames / (time.perf_counter() - started)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
