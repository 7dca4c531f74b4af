"""Tasks other than compression: inpainting, interpolation, denoising.

``fit_`` functions fit a network for a task and give its frames beside the original's; ``measure_`` functions
return the scores of the papers' experiments, for clips whose hidden pixels or frames are known.
"""

from __future__ import annotations

from vinr.tasks.denoising import Denoise, DenoisingScore, measure_denoising
from vinr.tasks.inpainting import Inpaint
from vinr.tasks.inpainting_scores import (
    InpaintedFit,
    InpaintingScore,
    fit_inpainting,
    measure_inpainting,
)
from vinr.tasks.interpolation import (
    HeldOutFit,
    Interpolate,
    InterpolationScore,
    fit_held_out,
    measure_interpolation,
)
from vinr.tasks.noise import Noise

__all__ = [
    "Denoise",
    "DenoisingScore",
    "HeldOutFit",
    "Inpaint",
    "InpaintedFit",
    "InpaintingScore",
    "Interpolate",
    "InterpolationScore",
    "Noise",
    "fit_held_out",
    "fit_inpainting",
    "measure_denoising",
    "measure_inpainting",
    "measure_interpolation",
]
