"""Tasks other than compression: inpainting, interpolation, denoising."""

from __future__ import annotations

from vinr.tasks.denoising import Denoise
from vinr.tasks.inpainting import Inpaint
from vinr.tasks.interpolation import Interpolate
from vinr.tasks.noise import Noise

__all__ = ["Denoise", "Inpaint", "Interpolate", "Noise"]
