"""The kinds of experiment in which a network sees less than it is scored on."""

from __future__ import annotations

from typing import get_args

from vinr.bench.datasets import OBJECT_MASK, find_masks
from vinr.bench.work import Values, Work
from vinr.denoising import measure_denoising
from vinr.errors import UsageError
from vinr.fit import Noise
from vinr.fit.masks import open_mask
from vinr.fit.noise import NoiseKind
from vinr.inpainting import measure_inpainting
from vinr.interpolation import measure_interpolation

__all__ = ["denoise_experiment", "inpaint_experiment", "interpolate_experiment"]

DEFAULT_EVERY = 2


def interpolate_experiment(work: Work) -> Values:
    """Fit every k-th frame and score the others.

    ``held_out_psnr_db`` needs no held-out frame: by embeddings mixed over time, or by time where a model has
    none; ``encoder_psnr_db`` passes held-out frames through the encoder. ``nearest_psnr_db`` and
    ``mean_psnr_db`` need no network.
    """
    every = work.setup.every or DEFAULT_EVERY
    score = measure_interpolation(
        work.frames, work.preset(), every=every, device=work.device, on_event=work.on_event
    )
    ways = {way.way: way.psnr_db for way in score.held_out}
    held_out = ways["embeddings"] if "embeddings" in ways else ways["time"]
    encoder = {"encoder_psnr_db": ways["encoder"]} if "encoder" in ways else {}
    return {
        "held_out_psnr_db": held_out,
        **encoder,
        "seen_psnr_db": score.seen_psnr_db,
        "nearest_psnr_db": score.nearest_psnr_db,
        "mean_psnr_db": score.mean_psnr_db,
        "num_epochs": score.num_epochs,
    }


def inpaint_experiment(work: Work) -> Values:
    """Fit without masked pixels and score these; PSNR as :class:`vinr.inpainting.InpaintingScore` has it."""
    mask = work.setup.mask or "boxes"
    if mask == OBJECT_MASK:
        mask = str(find_masks(work.job.clip, work.data))
    with work.open() as reader:
        mask_T1HW = open_mask(mask, reader, frames=work.setup.frames)
    score = measure_inpainting(
        work.frames, mask_T1HW, work.preset(), device=work.device, on_event=work.on_event
    )
    return {
        "filled_psnr_db": score.filled_psnr_db,
        "masked_psnr_db": score.masked_psnr_db,
        "network_psnr_db": score.network_psnr_db,
        "input_psnr_db": score.input_psnr_db,
        "input_masked_psnr_db": score.input_masked_psnr_db,
        "masked_percent": 100 * score.masked_share,
        "num_epochs": score.num_epochs,
    }


def denoise_experiment(work: Work) -> Values:
    """Fit a noisy copy of the clip and score against the clean one."""
    noise = _noise(work.setup.noise or "")
    score = measure_denoising(work.frames, work.preset(), noise, device=work.device, on_event=work.on_event)
    return {
        "psnr_db": score.psnr_db,
        "input_psnr_db": score.input_psnr_db,
        "noisy_psnr_db": score.noisy_psnr_db,
        "num_epochs": score.num_epochs,
    }


def _noise(text: str) -> Noise:
    wanted, _, amount = text.partition(":")
    for kind in get_args(NoiseKind):
        if kind == wanted:
            try:
                return Noise(kind, float(amount))
            except ValueError:
                break
    raise UsageError(f"noise {text!r}: write KIND:AMOUNT, with one of {', '.join(get_args(NoiseKind))}")
