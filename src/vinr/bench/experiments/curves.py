"""Curves of rate and quality: a network at several sizes or rate weights, a codec, or published points."""

from __future__ import annotations

import time

from vinr.bench.points import mean_point, point_values, published_points
from vinr.bench.work import Values, Work
from vinr.bench.written import write_network
from vinr.codecs.anchors import parse_anchor
from vinr.codecs.runs import choose_upsampling
from vinr.comparison.anchor_runs import measure_anchor
from vinr.config import Preset
from vinr.fit import fit
from vinr.quality.clip import bits_per_pixel
from vinr.video.source import FrameTensor


def rate_distortion_experiment(work: Work) -> Values:
    """Return the ``points`` (bpp, psnr_db, ms_ssim) of a curve, and beside them their means."""
    setup = work.setup
    if setup.published is not None:
        points = published_points(setup.published, work.data)
    elif setup.anchor is not None:
        points = anchor_points(setup.anchor, work.frames)
    else:
        points = [_network_point(work, preset) for preset in _presets(work)]
    return {"points": points, **mean_point(points)}


def anchor_points(text: str, frames: FrameTensor) -> list[dict[str, float]]:
    """Return the points of a codec; ``text`` as :func:`vinr.codecs.anchors.parse_anchor` has it."""
    anchor, qualities = parse_anchor(text)
    upsampling = choose_upsampling(frames)
    points = []
    for quality in qualities:
        point = measure_anchor(anchor, quality, frames, upsampling=upsampling)
        points.append(point_values(point))
    return points


def _presets(work: Work) -> list[Preset]:
    setup = work.setup
    if setup.presets is not None:
        return [work.preset(name=name) for name in setup.presets]
    presets = []
    for size in setup.sizes or (None,):
        preset = work.preset(params=size)
        # Sizes outside, weights inside: points of one network size lie together.
        presets += [_with_weight(preset, weight) for weight in setup.rate_weights or (None,)]
    return presets


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
    seconds = time.perf_counter() - started  # of the fit: writing and scoring come after it
    network = write_network(work.frames, preset, result, device=work.device)
    point = {
        "bpp": bits_per_pixel(network.num_bytes, work.frames.spec.num_pixels),
        "psnr_db": network.quality.psnr_db,
        "num_bytes": float(network.num_bytes),
        "num_parameters": float(network.num_parameters),
        "seconds": seconds,
    }
    return point if network.quality.ms_ssim is None else {**point, "ms_ssim": network.quality.ms_ssim}
