"""PSNR, SSIM and MS-SSIM of tensors: float rgb_NCHW in [0, 1], one value per frame.

Predictions may leave the range: nothing is clamped. SSIM (Wang et al., 2004) and MS-SSIM (Wang et al., 2003)
come from ``pytorch_msssim``: Gaussian window of σ = 1.5 kept in float32, valid filtering, constants 0.01 and
0.03, data range 1.

Axes: N frames of a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

from typing import cast

import pytorch_msssim
import torch
from torch import Tensor

# Identical frames would have an infinite PSNR, and no mean: −10 · log10(1e-9) = 90 dB instead.
PSNR_EPSILON = 1e-9
SSIM_WINDOW = 11
MS_SSIM_WINDOW = 11


def psnr_from_mse_db(mse: Tensor, *, epsilon: float = PSNR_EPSILON) -> Tensor:
    """Return −10·log10(mse + epsilon) in dB of mean squared errors of values in [0, 1].

    With the usual ``epsilon`` of 1e-9 identical frames have 90 dB; NeRV's own code uses none.
    """
    return -10 * torch.log10(mse + epsilon)


def mse_per_frame(prediction_NCHW: Tensor, target_NCHW: Tensor) -> Tensor:
    """Return the mean squared error of each frame, all pixels and channels together: Tensor[N]."""
    return (prediction_NCHW - target_NCHW).square().mean((1, 2, 3))


def ssim_per_frame(prediction_NCHW: Tensor, target_NCHW: Tensor) -> Tensor:
    """Return the SSIM of each frame with the 11 × 11 window (may be negative): Tensor[N]."""
    return cast(
        Tensor,
        pytorch_msssim.ssim(
            prediction_NCHW, target_NCHW, data_range=1, size_average=False, win_size=SSIM_WINDOW
        ),
    )


def ms_ssim_per_frame(prediction_NCHW: Tensor, target_NCHW: Tensor, *, window: int) -> Tensor:
    """Return the five-scale MS-SSIM of each frame, 0 to 1: Tensor[N].

    ``window`` is 11 as usual, or 5 as in HiNeRV; the smaller side must exceed (window − 1) · 16.
    """
    return cast(
        Tensor,
        pytorch_msssim.ms_ssim(
            prediction_NCHW, target_NCHW, data_range=1, size_average=False, win_size=window
        ),
    )
