"""How close decoded frames are to others, and what rate a size is.

Every comparison is between two streams of frames of one bit depth: decoded ones and their reference. Sizes
are sizes of files.
"""

from __future__ import annotations

from vinr.quality.clip import (
    ClipQuality,
    ClipQualityMeter,
    bits_per_pixel,
    compare,
    kilobits_per_second,
    mean_frame_psnr_db,
    ms_ssim_per_frame,
    ms_ssim_window,
    pooled_psnr_db,
    psnr_per_frame_db,
)
from vinr.quality.record import Quality

__all__ = [
    "ClipQuality",
    "ClipQualityMeter",
    "Quality",
    "bits_per_pixel",
    "compare",
    "kilobits_per_second",
    "mean_frame_psnr_db",
    "ms_ssim_per_frame",
    "ms_ssim_window",
    "pooled_psnr_db",
    "psnr_per_frame_db",
]
