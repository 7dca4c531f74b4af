"""The kinds of experiment on one network: fitted frames, written files.

Axes: N frames of a batch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from vinr.bench.stages import Measured, at_bits, drop_pruned, float_psnr_db, go_on, measure
from vinr.bench.work import Values, Work
from vinr.compress import ComponentSize
from vinr.config import Preset
from vinr.decoding.file import open_clip
from vinr.fit import FitResult, Trainer, fit
from vinr.quality.clip import bits_per_pixel, compare
from vinr.tasks.frames import FittedFrames, plain_fit

# Parts of a file in the terms of T-NeRV's study of bytes: what role belongs to which.
PARTS = {
    "weight": "decoder",
    "bias": "decoder",
    "grid": "grids",
    "latent": "embeddings",
    "keyframe": "keyframes",
}


def fit_experiment(work: Work) -> Values:
    """Fit a network; measure its frames as 8-bit, nothing else quantised.

    With ``tune``: go on from the shared plain fit, and measure after each phase with what it pruned set to 0
    (``psnr_db_1``, ``psnr_db_2``, …); the last is ``psnr_db``.
    """
    frames, started = work.frames, time.perf_counter()
    if work.setup.tune is None:
        result = _fitted(work, plain_fit(work.preset()))
        after: Values = {}
    else:
        result, after = _tuned_and_pruned(work)
    seconds = time.perf_counter() - started
    quality = compare(FittedFrames(result.model, frames.spec), frames)
    return {
        "psnr_db": quality.psnr_db,
        "ms_ssim": quality.ms_ssim,
        "ms_ssim_window": quality.ms_ssim_window,
        **after,
        **_facts(result, seconds),
    }


def _fitted(work: Work, preset: Preset) -> FitResult:
    """Fit ``preset``; an interrupted fit goes on."""
    checkpoint = work.checkpoint()
    result = fit(
        work.frames, preset, device=work.device, on_event=work.on_event, checkpoint=checkpoint, resume=True
    )
    checkpoint.unlink(missing_ok=True)
    return result


def _tuned_and_pruned(work: Work) -> tuple[FitResult, Values]:
    after: Values = {}

    def note(number: int, trainer: Trainer) -> None:
        model = drop_pruned(trainer)
        quality = compare(FittedFrames(model, work.frames.spec), work.frames)
        after[f"psnr_db_{number + 1}"] = quality.psnr_db
        model.train()

    base = work.base()
    phases = [(tuning.epochs, tuning.phase) for tuning in work.setup.tune or ()]
    return go_on(work.frames, base, phases, at_end=note, on_event=work.on_event), after


def encode_experiment(work: Work) -> Values:
    """Fit and write a file; measure what it decodes to, and its bytes.

    With ``tune`` the fit goes on from the shared plain fit. With ``bits`` a file is written for each number
    of bits, tuned for it, with values ``psnr_db_6bit`` and so on beside those of the first.
    """
    started = time.perf_counter()
    values: Values = {}
    for bits, preset, result in _fits(work, work.preset()):
        found = measure(work.frames, preset, result, path=_file(work, bits), device=work.device)
        own = figures(found, work.frames.spec.num_pixels)
        if not values:
            values = own | {"float_psnr_db": float_psnr_db(result.model, work.frames)}
            facts = _facts(result, 0.0)
        if bits is not None:
            values |= {f"{name}_{bits}bit": value for name, value in own.items()}
    with open_clip(_file(work), device=work.device) as decoder:
        work.keep_shown({"original": work.frames, "decoded": decoder})
    return {**values, **facts, "seconds": time.perf_counter() - started}


def _fits(work: Work, preset: Preset) -> Iterator[tuple[int | None, Preset, FitResult]]:
    """Fit once, or tune the plain fit for each number of bits; yield these, how to write it, and the fit."""
    setup, fitted = work.setup, None
    for bits in setup.bits or (None,):
        own = (
            preset if bits is None else preset.model_copy(update={"compress": at_bits(preset.compress, bits)})
        )
        if setup.tune is not None:
            phases = [(tuning.epochs, tuning.phase) for tuning in setup.tune]
            base = work.base().with_settings(own.compress)
            fitted = go_on(work.frames, base, phases, on_event=work.on_event)
        elif fitted is None:
            fitted = _fitted(work, preset)
        yield bits, own, fitted


def _file(work: Work, bits: int | None = None) -> Path:
    """Return the .vinr file of ``bits`` a number, or that whose figures are the job's: the first."""
    bits = work.setup.bits[0] if bits is None and work.setup.bits else bits
    return work.file("" if bits is None else f"-{bits}bit")


def figures(found: Measured, num_pixels: int) -> Values:
    """Return what tables show of a file; shares are percent of all its bytes."""
    return {
        "num_bytes": found.num_bytes,
        "bpp": bits_per_pixel(found.num_bytes, num_pixels),
        "bits_a_number": found.bits_a_number,
        "psnr_db": found.quality.psnr_db,
        "ms_ssim": found.quality.ms_ssim,
        "ms_ssim_window": found.quality.ms_ssim_window,
        **_shares(found.components, found.keyframe_bytes, found.num_bytes),
    }


def _shares(components: Sequence[ComponentSize], keyframe_bytes: int, num_bytes: int) -> Values:
    held = dict.fromkeys(PARTS.values(), 0)
    held["keyframes"] = keyframe_bytes
    for component in components:
        held[PARTS[component.role]] += component.num_bytes
    found: Values = {f"{part}_bytes": count for part, count in held.items()}
    return found | {f"{part}_percent": 100 * count / num_bytes for part, count in held.items()}


def _facts(result: FitResult, seconds: float) -> Values:
    return {
        "num_parameters": result.model.num_stored(),
        "num_epochs": result.num_epochs,
        "num_collapses": result.num_collapses,
        "seconds": seconds,
    }
