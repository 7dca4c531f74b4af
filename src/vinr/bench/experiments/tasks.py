"""The kinds of experiment in which a network sees less than it is scored on.

Axes: T frames of the video, H rows, W columns.
"""

from __future__ import annotations

from contextlib import suppress
from typing import cast, get_args

from torch import Tensor

from vinr.bench.datasets import OBJECT_MASK, find_masks
from vinr.bench.work import Values, Work
from vinr.errors import UsageError
from vinr.tasks import Noise
from vinr.tasks.denoising import measure_denoising
from vinr.tasks.inpainting_scores import fit_inpainting
from vinr.tasks.interpolation import fit_held_out
from vinr.tasks.masks import grow_mask, open_mask
from vinr.tasks.noise import NoiseKind

# Every second frame is held out, as in the papers on interpolation by such networks.
DEFAULT_EVERY = 2


def interpolate_experiment(work: Work) -> Values:
    """Fit every k-th frame and score the others.

    ``held_out_psnr_db`` needs no held-out frame: by embeddings mixed over time, or by time where a model has
    none; ``encoder_psnr_db`` passes held-out frames through the encoder. ``nearest_psnr_db`` and
    ``mean_psnr_db`` need no network.
    """
    every = work.setup.every or DEFAULT_EVERY
    fitted = fit_held_out(work.frames, work.preset(), every=every, device=work.device, on_event=work.on_event)
    score = fitted.score()
    shown = {"original": work.frames, "interpolated": fitted.predicted, "nearest": fitted.nearest}
    work.keep_shown(shown, fitted.held_out_N)
    values: Values = {
        "way": fitted.way,
        "seen_psnr_db": score.seen_psnr_db,
        "nearest_psnr_db": score.nearest_psnr_db,
        "mean_psnr_db": score.mean_psnr_db,
        "num_parameters": fitted.result.model.num_stored(),
        "num_epochs": score.num_epochs,
    }
    # `fitted.way` is what the model can do without the frame itself: embeddings, or time.
    names = {fitted.way: "held_out_psnr_db", "encoder": "encoder_psnr_db"}
    for way in score.held_out:
        if way.way in names:
            values[names[way.way]] = way.psnr_db
    return values


def inpaint_experiment(work: Work) -> Values:
    """Fit without masked pixels and score these as :class:`vinr.tasks.InpaintingScore` says."""
    fitted = fit_inpainting(
        work.frames, job_mask(work), work.preset(), device=work.device, on_event=work.on_event
    )
    work.keep_shown({"original": work.frames, "seen": fitted.seen, "filled": fitted.filled})
    score = fitted.score()
    return {
        "filled_psnr_db": score.filled_psnr_db,
        "masked_psnr_db": score.masked_psnr_db,
        "network_psnr_db": score.network_psnr_db,
        "visible_psnr_db": score.visible_psnr_db,
        "input_psnr_db": score.input_psnr_db,
        "input_masked_psnr_db": score.input_masked_psnr_db,
        "surroundings_psnr_db": score.surroundings_psnr_db,
        "surroundings_masked_psnr_db": score.surroundings_masked_psnr_db,
        "nearest_psnr_db": score.nearest_psnr_db,
        "nearest_masked_psnr_db": score.nearest_masked_psnr_db,
        "masked_percent": 100 * score.masked_share,
        "num_parameters": fitted.result.model.num_stored(),
        "num_epochs": score.num_epochs,
    }


def job_mask(work: Work) -> Tensor:
    """Return mask_T1HW, bool, of what a job fills.

    Raises
    ------
    InputError, UsageError
        As :func:`vinr.tasks.masks.open_mask`.
    """
    mask = work.setup.mask or "boxes"
    if mask == OBJECT_MASK:
        mask = str(find_masks(work.job.clip, work.data))
    # The mask follows the clip's crop and resize, which the reader knows.
    with work.open() as reader:
        mask_T1HW = open_mask(mask, reader, frames=work.setup.frames)
    return grow_mask(mask_T1HW, work.setup.grow or 0)


def denoise_experiment(work: Work) -> Values:
    """Fit a noisy copy of the clip and score against the clean one."""
    noise = parse_noise(work.setup.noise or "")
    score = measure_denoising(work.frames, work.preset(), noise, device=work.device, on_event=work.on_event)
    return {
        "psnr_db": score.psnr_db,
        "input_psnr_db": score.input_psnr_db,
        "noisy_psnr_db": score.noisy_psnr_db,
        "num_epochs": score.num_epochs,
    }


def parse_noise(text: str) -> Noise:
    """Return the noise that ``KIND:AMOUNT`` stands for.

    Raises
    ------
    UsageError
        If it stands for none.
    """
    kind, _, amount = text.partition(":")
    if kind in get_args(NoiseKind):
        with suppress(ValueError):
            return Noise(cast(NoiseKind, kind), float(amount))
    raise UsageError(f"noise {text!r}: write KIND:AMOUNT, with one of {', '.join(get_args(NoiseKind))}")
