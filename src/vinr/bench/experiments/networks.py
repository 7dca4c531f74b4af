"""One network on one clip: its fitted frames, or the file that is written of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from vinr.bench.base_fits import continue_fit, drop_pruned
from vinr.bench.history import History, OnEvent
from vinr.bench.work import Values, Work, file_suffix
from vinr.bench.written import float_psnr_db, write_network
from vinr.config import Preset
from vinr.decoding.file import open_clip
from vinr.fit import FitResult, Trainer, fit
from vinr.quality.clip import compare
from vinr.tasks.frames import FittedFrames, plain_fit


def fit_experiment(work: Work) -> Values:
    """Fit a network; measure its frames as 8-bit, nothing else quantised.

    With ``tune``: go on from the shared plain fit, and measure after each phase with what it pruned set to 0
    (``psnr_db_1``, ``psnr_db_2``, …); the last is ``psnr_db``.
    """
    frames, started = work.frames, time.perf_counter()
    after_phases: Values = {}

    def measure_pruned(trainer: Trainer) -> None:
        model = drop_pruned(trainer)
        quality = compare(FittedFrames(model, frames.spec), frames)
        after_phases[f"psnr_db_{len(after_phases) + 1}"] = quality.psnr_db

    if not work.needs_base:
        history = History(work.on_event)
        result = _fitted(work, plain_fit(work.preset()), history)
        after_phases["curve"] = history.curve()
    else:
        phases = work.phases()
        result = continue_fit(frames, work.base(), phases, at_end=measure_pruned, on_event=work.on_event)
    seconds = time.perf_counter() - started
    quality = compare(FittedFrames(result.model, frames.spec), frames)
    return {
        "psnr_db": quality.psnr_db,
        "ms_ssim": quality.ms_ssim,
        "ms_ssim_window": quality.ms_ssim_window,
        **after_phases,
        **_fit_values(result),
        "seconds": seconds,
    }


def encode_experiment(work: Work) -> Values:
    """Fit and write a file; measure what it decodes to, and its bytes.

    With ``tune`` the fit goes on from the shared plain fit. With ``bits`` a file is written for each number
    of bits, tuned for it, with values ``psnr_db_6bit`` and so on beside those of the first.
    """
    started, history = time.perf_counter(), History(work.on_event)
    values: Values = {}
    for bits, preset, result in _fits(work, work.preset(), history):
        network = write_network(work.frames, preset, result, path=_file(work, bits), device=work.device)
        file_values = network.values(work.frames.spec.num_pixels)
        if not values:  # the first fit's figures are the job's
            float_db = float_psnr_db(result.model, work.frames)
            values = {**file_values, "float_psnr_db": float_db, **_fit_values(result)}
            values["curve"] = history.curve()
        if bits is not None:
            values |= {f"{name}_{bits}bit": value for name, value in file_values.items()}
    with open_clip(_file(work), device=work.device) as decoder:
        work.keep_shown({"original": work.frames, "decoded": decoder})
    return {**values, "seconds": time.perf_counter() - started}


def _fitted(work: Work, preset: Preset, on_event: OnEvent) -> FitResult:
    """Fit ``preset``; an interrupted fit goes on."""
    checkpoint = work.checkpoint()
    result = fit(
        work.frames, preset, device=work.device, on_event=on_event, checkpoint=checkpoint, resume=True
    )
    # The state is needed no more, and a later job of the same key starts anew.
    checkpoint.unlink(missing_ok=True)
    return result


def _fits(work: Work, preset: Preset, on_event: OnEvent) -> Iterator[tuple[int | None, Preset, FitResult]]:
    """Fit once, or tune the plain fit for each number of bits; yield these, how to write it, and the fit."""
    result = None
    for bits in work.setup.bits or (None,):
        compress = preset.compress
        if bits is not None:
            # Everything but vectors, as HiNeRV quantises.
            depths = {"weight_bits": bits, "grid_bits": bits, "latent_bits": bits}
            compress = compress.model_copy(update=depths)
        if work.needs_base:
            base = work.base().with_settings(compress)
            result = continue_fit(work.frames, base, work.phases(), on_event=on_event)
        # Without tuning, the fit knows nothing of bits: one fit is written at each.
        elif result is None:
            result = _fitted(work, preset, on_event)
        yield bits, preset.model_copy(update={"compress": compress}), result


def _file(work: Work, bits: int | None = None) -> Path:
    """Return the .vinr file of ``bits`` per parameter, or that whose figures are the job's: the first."""
    # The names of files have bits in them only where the row states bits.
    bits = work.setup.bits[0] if bits is None and work.setup.bits else bits
    return work.file(file_suffix(bits))


def _fit_values(result: FitResult) -> Values:
    return {
        "num_parameters": result.model.num_stored(),
        "num_epochs": result.num_epochs,
        "num_collapses": result.num_collapses,
    }
