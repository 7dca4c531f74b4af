"""Named losses, the weighted sum a preset writes, and the image measures they are made of.

All compare float rgb_NCHW in [0, 1] (predictions may leave it: nothing is clamped), one value a frame, then
the mean over frames. SSIM (Wang et al., 2004) and MS-SSIM (Wang et al., 2003) come from ``pytorch_msssim``:
Gaussian window of σ = 1.5 kept in float32, valid filtering, constants 0.01 and 0.03, data range 1.

Axes: N frames of a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import pytorch_msssim
import torch
import torch.nn.functional as F
from torch import Tensor

from vinr.errors import UsageError

PSNR_EPSILON = 1e-9
SSIM_WINDOW = 11
MS_SSIM_WINDOW = 11
MS_SSIM_SMALL_WINDOW = 5
MS_SSIM_HALVINGS = 4

FUSIONS: dict[str, dict[str, float]] = {
    "Fusion1": {"l2": 0.3, "ssim": 0.7},
    "Fusion2": {"l1": 0.3, "ssim": 0.7},
    "Fusion3": {"l2": 0.5, "ssim": 0.5},
    "Fusion4": {"l1": 0.5, "ssim": 0.5},
    "Fusion5": {"l2": 0.7, "ssim": 0.3},
    "Fusion6": {"l1": 0.7, "ssim": 0.3},
    "Fusion7": {"l2": 0.7, "l1": 0.3},
    "Fusion8": {"l2": 0.5, "l1": 0.5},
    "Fusion9": {"l1": 0.9, "ssim": 0.1},
    "Fusion10": {"l1": 0.7, "ms_ssim": 0.3},
    "Fusion11": {"l1": 0.9, "ms_ssim": 0.1},
    "Fusion12": {"l1": 0.8, "ms_ssim": 0.2},
}
"""Weights under the names of the NeRV code base, for presets and tables that quote them."""


# -- measures ------------------------------------------------------------------------------------------------


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


# -- terms ---------------------------------------------------------------------------------------------------


def _l1(prediction_NCHW: Tensor, target_NCHW: Tensor) -> Tensor:
    return (prediction_NCHW - target_NCHW).abs().mean((1, 2, 3))


def _ssim(prediction_NCHW: Tensor, target_NCHW: Tensor) -> Tensor:
    return 1 - ssim_per_frame(prediction_NCHW, target_NCHW)


def _ms_ssim(prediction_NCHW: Tensor, target_NCHW: Tensor) -> Tensor:
    return 1 - ms_ssim_per_frame(prediction_NCHW, target_NCHW, window=MS_SSIM_WINDOW)


def _ms_ssim_small(prediction_NCHW: Tensor, target_NCHW: Tensor) -> Tensor:
    return 1 - ms_ssim_per_frame(prediction_NCHW, target_NCHW, window=MS_SSIM_SMALL_WINDOW)


def _frequency(prediction_NCHW: Tensor, target_NCHW: Tensor) -> Tensor:
    # The transform is linear: one of the difference does for two.
    spectrum_NCHW = torch.fft.fft2(prediction_NCHW - target_NCHW)
    return torch.view_as_real(spectrum_NCHW).abs().mean((1, 2, 3, 4))


@dataclass(frozen=True)
class _Term:
    """One named loss: ``per_frame`` gives Tensor[N]; ``min_side`` is the smallest frame side it works on."""

    per_frame: Callable[[Tensor, Tensor], Tensor]
    min_side: int = 1


_TERMS: dict[str, _Term] = {
    "frequency": _Term(_frequency),
    "l1": _Term(_l1),
    "l2": _Term(mse_per_frame),
    "ms_ssim": _Term(_ms_ssim, ((MS_SSIM_WINDOW - 1) << MS_SSIM_HALVINGS) + 1),
    "ms_ssim5": _Term(_ms_ssim_small, ((MS_SSIM_SMALL_WINDOW - 1) << MS_SSIM_HALVINGS) + 1),
    "ssim": _Term(_ssim, SSIM_WINDOW),
}


# -- weighted sum --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LossValue:
    """What a batch scored: ``total`` carries the gradient; ``mse`` does not. Both stay on the device.

    ``mse`` is the mean squared error of the batch over the pixels that count, whatever the loss is.
    """

    total: Tensor
    mse: Tensor


@dataclass(frozen=True)
class Loss:
    """A weighted sum of named losses; make one with :func:`build_loss`."""

    weights: Mapping[str, float]

    def check_size(self, height: int, width: int) -> None:
        """Refuse frames (or patches) that a term cannot measure.

        Raises
        ------
        UsageError
            If the smaller side is too small for a term.
        """
        for name in self.weights:
            if min(height, width) < _TERMS[name].min_side:
                fitting = [other for other, term in _TERMS.items() if min(height, width) >= term.min_side]
                raise UsageError(
                    f"loss {name} needs frames of at least {_TERMS[name].min_side} pixels on the smaller "
                    f"side, these have {height}×{width}; losses that fit: {', '.join(fitting)}"
                )

    def __call__(
        self, prediction_NCHW: Tensor, target_NCHW: Tensor, weight_N1HW: Tensor | None = None
    ) -> LossValue:
        """Return the loss of a batch.

        Parameters
        ----------
        prediction_NCHW, target_NCHW
            Float colours of equal shape, [0, 1]; half precision is lifted to float32 first.
        weight_N1HW
            Visibility of each pixel, 0 to 1. Both images are multiplied by it and every term still averages
            over *all* pixels, as HNeRV's inpainting does; ``mse`` is divided by the visible share.

        Raises
        ------
        UsageError
            If the frames are too small for a term.
        """
        if prediction_NCHW.shape != target_NCHW.shape:
            raise ValueError(f"shapes differ: {tuple(prediction_NCHW.shape)}, {tuple(target_NCHW.shape)}")
        self.check_size(*prediction_NCHW.shape[2:])
        with torch.autocast(prediction_NCHW.device.type, enabled=False):
            return self._measure(_full_precision(prediction_NCHW), _full_precision(target_NCHW), weight_N1HW)

    def _measure(self, prediction_NCHW: Tensor, target_NCHW: Tensor, weight_N1HW: Tensor | None) -> LossValue:
        visible: Tensor | None = None
        if weight_N1HW is not None:
            weight_N1HW = weight_N1HW.to(prediction_NCHW.dtype)
            visible = weight_N1HW.square().mean().clamp_min(1e-12)
            prediction_NCHW, target_NCHW = prediction_NCHW * weight_N1HW, target_NCHW * weight_N1HW
        values = {name: _TERMS[name].per_frame(prediction_NCHW, target_NCHW).mean() for name in self.weights}
        total = torch.stack([weight * values[name] for name, weight in self.weights.items()]).sum()
        mse = values.get("l2")
        if mse is None:
            mse = F.mse_loss(prediction_NCHW.detach(), target_NCHW)
        mse = mse.detach()
        return LossValue(total, mse if visible is None else mse / visible)


def _full_precision(rgb_NCHW: Tensor) -> Tensor:
    return rgb_NCHW.float() if rgb_NCHW.dtype in (torch.float16, torch.bfloat16) else rgb_NCHW


def list_losses() -> list[str]:
    """Return the names of all losses, sorted.

    ``l1``: mean absolute error. ``l2``: mean squared error. ``ssim``, ``ms_ssim``: 1 − the 11 × 11 measure.
    ``ms_ssim5``: 1 − MS-SSIM with HiNeRV's 5 × 5 window. ``frequency``: mean absolute difference of real and
    imaginary parts of the un-normalised 2-D Fourier transforms (Boosting-NeRV), which grows with √(H·W).
    """
    return sorted(_TERMS)


def build_loss(weights: Mapping[str, float]) -> Loss:
    """Return the weighted sum of named losses; those of weight 0 are left out.

    Raises
    ------
    UsageError
        If a name is unknown, a weight is negative or not finite, or no weight is above 0.
    """
    for name, weight in weights.items():
        if name not in _TERMS:
            raise UsageError(f"unknown loss {name!r}; there are {', '.join(list_losses())}")
        if not (math.isfinite(weight) and weight >= 0):
            raise UsageError(f"loss {name} has weight {weight}; weights are 0 or above")
    used = {name: float(weight) for name, weight in weights.items() if weight}
    if not used:
        raise UsageError(f"the loss has no term of weight above 0; choose from {', '.join(list_losses())}")
    return Loss(used)
