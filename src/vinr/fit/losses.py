"""Named losses, and the weighted sum of them that a preset writes.

All compare float rgb_NCHW in [0, 1] (predictions may leave it: nothing is clamped), one value per frame, then
the mean over frames.

Axes: N frames of a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vinr.errors import UsageError, format_frame, unknown
from vinr.quality.measures import (
    MS_SSIM_WINDOW,
    SSIM_WINDOW,
    ms_ssim_per_frame,
    mse_per_frame,
    ssim_per_frame,
)
from vinr.settings import list_plugins, load_plugin

MS_SSIM_SMALL_WINDOW = 5
MS_SSIM_HALVINGS = 4
# Added to the error of a frame: beyond 50 dB it is hardly weighed more, or frames of one colour would rule.
PSNR_FLOOR = 1e-5
# Added to the error of a frame before its root is taken, whose gradient is infinite at 0: 80 dB.
ROOT_FLOOR = 1e-8
# PSNR that an error loses which grows by its own size, to first order: d(10 · log₁₀ e) / d(ln e), dB.
PSNR_SLOPE_DB = 10 / math.log(10)


# -- terms ---------------------------------------------------------------------------------------------------


def _l1(prediction_NCHW: Tensor, target_NCHW: Tensor) -> Tensor:
    return (prediction_NCHW - target_NCHW).abs().mean((1, 2, 3))


def _psnr(prediction_NCHW: Tensor, target_NCHW: Tensor) -> Tensor:
    return 10 * torch.log10(mse_per_frame(prediction_NCHW, target_NCHW) + PSNR_FLOOR)


def _rmse(prediction_NCHW: Tensor, target_NCHW: Tensor) -> Tensor:
    return (mse_per_frame(prediction_NCHW, target_NCHW) + ROOT_FLOOR).sqrt()


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


LossFunction = Callable[[Tensor, Tensor], Tensor]
"""A loss: from float prediction_NCHW and target_NCHW to one value per frame, Tensor[N]."""


@dataclass(frozen=True)
class Term:
    """A named loss; ``min_side`` is the smallest frame side that it works on.

    Where the error changes by its own size, it changes by ``slope``, if that is given, or by ``power`` times
    what it is.
    """

    name: str
    per_frame: LossFunction
    min_side: int = 1
    slope: float | None = None
    power: float = 1.0


_TERMS = (
    Term("frequency", _frequency),
    Term("l1", _l1),
    Term("l2", mse_per_frame),
    Term("ms_ssim", _ms_ssim, ((MS_SSIM_WINDOW - 1) << MS_SSIM_HALVINGS) + 1),
    Term("ms_ssim5", _ms_ssim_small, ((MS_SSIM_SMALL_WINDOW - 1) << MS_SSIM_HALVINGS) + 1),
    Term("psnr", _psnr, slope=PSNR_SLOPE_DB),
    Term("rmse", _rmse, power=0.5),
    Term("ssim", _ssim, SSIM_WINDOW),
)
_BUILT_IN = {term.name: term for term in _TERMS}
GROUP = "vinr.losses"


def find_term(name: str) -> Term:
    """Return the loss of that name.

    A package of its own offers a :data:`LossFunction` under the entry point group ``vinr.losses``.

    Raises
    ------
    UsageError
        If there is none, or what a package offers cannot be loaded.
    """
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    if name not in list_losses():
        raise UsageError(unknown("loss", name, list_losses()))
    return Term(name, load_plugin(GROUP, name))


# -- weighted sum --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LossValue:
    """What a batch scored: ``total`` carries the gradient, the others do not. All stay on the device.

    ``mse`` is the mean squared error of the batch over the pixels that count, whatever the loss is;
    ``slope`` by how much ``total`` changes where the error changes by its own size.
    """

    total: Tensor
    mse: Tensor
    slope: Tensor


@dataclass(frozen=True)
class Loss:
    """A weighted sum of losses, (weight, term) each; make one with :func:`build_loss` or :func:`loss_of`."""

    terms: tuple[tuple[float, Term], ...]

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each loss by name."""
        return {term.name: weight for weight, term in self.terms}

    def check_size(self, height: int, width: int) -> None:
        """Refuse frames (or patches) that a term cannot measure.

        Raises
        ------
        UsageError
            If the smaller side is too small for a term.
        """
        side = min(height, width)
        for _, term in self.terms:
            if side < term.min_side:
                fitting = [other.name for other in _TERMS if side >= other.min_side]
                raise UsageError(
                    f"loss {term.name} needs frames of at least {term.min_side} pixels on the smaller "
                    f"side, these have {format_frame(height, width)}; losses that fit: {', '.join(fitting)}"
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
        losses, slopes = [], []
        mse = None
        for weight, term in self.terms:
            value_N = term.per_frame(prediction_NCHW, target_NCHW)
            _check_value(term, value_N, prediction_NCHW)
            value = value_N.mean()
            losses.append(weight * value)
            known = value.detach()
            slope = term.power * known if term.slope is None else torch.full_like(known, term.slope)
            slopes.append(weight * slope)
            if term is _BUILT_IN["l2"]:
                mse = value.detach()  # measured already
        if mse is None:
            mse = F.mse_loss(prediction_NCHW.detach(), target_NCHW)
        if visible is not None:
            mse = mse / visible
        return LossValue(torch.stack(losses).sum(), mse, torch.stack(slopes).sum())


def _check_value(term: Term, value_N: object, prediction_NCHW: Tensor) -> None:
    """Refuse what a loss of a package or program returns that is not one value per frame."""
    count = len(prediction_NCHW)
    if not isinstance(value_N, Tensor):
        came = f"a {type(value_N).__name__}"
    elif value_N.shape != (count,) or not value_N.is_floating_point():
        came = f"a tensor {tuple(value_N.shape)} of {value_N.dtype}"
    elif prediction_NCHW.requires_grad and not value_N.requires_grad:
        came = "values without gradient"
    else:
        return
    raise UsageError(f"loss {term.name} returns {came}; return one float per frame, Tensor[{count}]")


def _full_precision(rgb_NCHW: Tensor) -> Tensor:
    return rgb_NCHW.float() if rgb_NCHW.dtype in (torch.float16, torch.bfloat16) else rgb_NCHW


def list_losses() -> list[str]:
    """Return the names of all losses, sorted; those of installed packages are among them.

    ``l1``: mean absolute error. ``l2``: mean squared error, ``rmse`` its root. ``psnr``: minus the PSNR, dB,
    whose mean over frames is what papers report. ``ssim``, ``ms_ssim``: 1 − the 11 × 11 measure.
    ``ms_ssim5``: 1 − MS-SSIM with HiNeRV's 5 × 5 window. ``frequency``: mean absolute difference of real and
    imaginary parts of the un-normalised 2-D Fourier transforms (Boosting-NeRV), which grows with √(H·W).
    """
    return sorted(_BUILT_IN.keys() | set(list_plugins(GROUP)))


def build_loss(weights: Mapping[str, float]) -> Loss:
    """Return the weighted sum of named losses; those of weight 0 are left out.

    Raises
    ------
    UsageError
        If a name is unknown, a weight is negative or not finite, or no weight is above 0.
    """
    terms = []
    for name, weight in weights.items():
        term = find_term(name)
        if not (math.isfinite(weight) and weight >= 0):
            raise UsageError(f"loss {name} has weight {weight}; weights are 0 or above")
        if weight:
            terms.append((float(weight), term))
    if not terms:
        raise UsageError(f"the loss has no term of weight above 0; choose from {', '.join(list_losses())}")
    return Loss(tuple(terms))


def loss_of(function: LossFunction) -> Loss:
    """Return a loss that is ``function`` alone."""
    return Loss(((1.0, Term(getattr(function, "__name__", "loss"), function)),))
