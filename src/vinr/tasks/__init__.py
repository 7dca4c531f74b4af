"""Tasks other than compression: inpainting, interpolation, denoising.

``fit_`` functions fit a network for a task and give its frames beside the original's; ``measure_`` functions
return the scores of the papers' experiments, for clips whose hidden pixels or frames are known.
"""

from __future__ import annotations

from vinr.tasks.denoising import DenoisingScore, measure_denoising
from vinr.tasks.inpainting import InpaintedFit, InpaintingScore, fit_inpainting, measure_inpainting
from vinr.tasks.interpolation import HeldOutFit, InterpolationScore, fit_held_out, measure_interpolation

__all__ = [
    "DenoisingScore",
    "HeldOutFit",
    "InpaintedFit",
    "InpaintingScore",
    "InterpolationScore",
    "fit_held_out",
    "fit_inpainting",
    "measure_denoising",
    "measure_inpainting",
    "measure_interpolation",
]
