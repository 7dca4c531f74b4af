"""Convolutions of a fit on a CPU: all three of a step by transforms (see :mod:`vinr.device`).

A step convolves three times in each layer, and all three are convolutions that NNPACK can do::

    output             = input           * kernel
    gradient of input  = output gradient * kernel, turned by 180°, its channels swapped
    gradient of kernel = input ⋆ output gradient:  a "kernel" as large as the map

The last one is cut into tiles, which add up. A tile of t×t of the output gradient meets t + k − 1 pixels of
the input; with t = 17 − k these are 16, one Fourier tile of NNPACK. Tiles take the place of input channels,
over which a convolution sums anyway, and channels of the input that of the frames of a batch::

    input tiles     (C_in, tiles, 16, 16)  ─┐
    gradient tiles  (C_out, tiles, t, t)   ─┴─> (C_in, C_out, k, k)

Layers of few output channels (heads) gain nothing by that. Their output gradient, unfolded once (k² · C_out
rows), gives both gradients as matrix products. Depthwise convolutions (of encoders) stay direct, but the
gradient of their kernel is a depthwise convolution too, frames times channels as groups; PyTorch's own takes
ten times as long.

Axes: N frames of a batch, I channels of the input, O of the output, H rows, W columns, T tiles, P pixels.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vinr.device import is_transformed, use_transforms

# Side of NNPACK's Fourier tiles.
TILE: Final = 16
# Tiles at a time: those of more do not stay in the cache. Measured: 190 ms, all at once 298 ms (33 to 112
# channels, 320×640).
TILES: Final = 256
# Up to so many rows the unfolded gradient is faster. Measured: 27 rows 74 ms, direct 147 ms, tiles 180 ms.
UNFOLDED_ROWS: Final = 32
UNFOLDED_PIXELS: Final = 8192


def use_trained_transforms(model: nn.Module) -> bool:
    """Let the convolutions of ``model`` compute after a transform while it is trained; see there."""
    for module in model.modules():
        if _is_depthwise(module):
            module.__class__ = _DepthwiseConv2d
    return use_transforms(model, _TrainedConv2d)


def _is_depthwise(module: nn.Module) -> bool:
    """Return whether ``module`` is a depthwise convolution that keeps the size."""
    if type(module) is not nn.Conv2d or isinstance(module.padding, str) or module.padding_mode != "zeros":
        return False
    rows, cols = module.kernel_size
    same_size = module.stride == module.dilation == (1, 1) and module.padding == (rows // 2, cols // 2)
    return (
        same_size and rows % 2 == cols % 2 == 1 and module.groups == len(module.weight) == module.in_channels
    )


class _TrainedConv2d(nn.Conv2d):
    """A convolution computed after a transform, forward and backward, where the map is large enough."""

    def forward(self, feature_NIHW: Tensor) -> Tensor:
        """Return what the direct convolution does, to its last bits."""
        if not is_transformed(feature_NIHW):
            return super().forward(feature_NIHW)
        bias_O = self.weight.new_zeros(self.out_channels) if self.bias is None else self.bias
        result: Tensor = _Convolution.apply(feature_NIHW, self.weight, bias_O)  # type: ignore[no-untyped-call]
        return result


class _Convolution(torch.autograd.Function):
    """Same-size convolution with an odd square kernel, all by NNPACK."""

    @staticmethod
    def forward(ctx: Any, feature_NIHW: Tensor, kernel_OIkk: Tensor, bias_O: Tensor) -> Tensor:
        """Return result_NOHW."""
        feature_NIHW = feature_NIHW.contiguous()
        ctx.save_for_backward(feature_NIHW, kernel_OIkk)
        return _convolve(feature_NIHW, kernel_OIkk, bias_O)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NOHW: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of feature, kernel and bias, those that are needed."""
        feature_NIHW, kernel_OIkk = ctx.saved_tensors
        needs_feature, needs_kernel, needs_bias = ctx.needs_input_grad
        grad_NOHW = grad_NOHW.contiguous()
        of_feature = of_kernel = None
        if kernel_OIkk[:, 0].numel() <= UNFOLDED_ROWS:
            of_feature, of_kernel = _unfolded(feature_NIHW, kernel_OIkk, grad_NOHW, needs_feature)
        else:
            if needs_feature:
                turned_IOkk = kernel_OIkk.flip(2, 3).transpose(0, 1).contiguous()
                of_feature = _convolve(grad_NOHW, turned_IOkk, grad_NOHW.new_zeros(len(turned_IOkk)))
            if needs_kernel:
                of_kernel = _by_tiles(feature_NIHW, grad_NOHW, kernel_OIkk.shape[2])
        return of_feature, of_kernel, grad_NOHW.sum((0, 2, 3)) if needs_bias else None


class _DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution whose gradients are depthwise convolutions."""

    def forward(self, feature_NCHW: Tensor) -> Tensor:
        """Return what the plain layer does."""
        if feature_NCHW.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            return super().forward(feature_NCHW)
        result: Tensor = _Depthwise.apply(feature_NCHW, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return result


class _Depthwise(torch.autograd.Function):
    """Same-size depthwise convolution with an odd kernel."""

    @staticmethod
    def forward(ctx: Any, feature_NCHW: Tensor, kernel_C1kk: Tensor, bias_C: Tensor | None) -> Tensor:
        """Return result_NCHW."""
        ctx.save_for_backward(feature_NCHW, kernel_C1kk)
        padding = kernel_C1kk.shape[2] // 2, kernel_C1kk.shape[3] // 2
        return F.conv2d(feature_NCHW, kernel_C1kk, bias_C, padding=padding, groups=len(kernel_C1kk))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NCHW: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of feature, kernel and bias, those that are needed."""
        feature_NCHW, kernel_C1kk = ctx.saved_tensors
        padding = kernel_C1kk.shape[2] // 2, kernel_C1kk.shape[3] // 2
        of_feature = of_kernel = None
        if ctx.needs_input_grad[0]:
            turned_C1kk = kernel_C1kk.flip(2, 3)
            of_feature = F.conv2d(grad_NCHW, turned_C1kk, padding=padding, groups=len(kernel_C1kk))
        if ctx.needs_input_grad[1]:
            maps_1BHW = feature_NCHW.flatten(0, 1)[None]
            kernels_B1HW = grad_NCHW.flatten(0, 1)[:, None]
            parts_1Bkk = F.conv2d(maps_1BHW, kernels_B1HW, padding=padding, groups=len(kernels_B1HW))
            of_kernel = parts_1Bkk.view(len(feature_NCHW), *kernel_C1kk.shape).sum(0)
        return of_feature, of_kernel, grad_NCHW.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None


def _convolve(feature_NIHW: Tensor, kernel_OIkk: Tensor, bias_O: Tensor) -> Tensor:
    padding = [kernel_OIkk.shape[2] // 2] * 2
    return torch._nnpack_spatial_convolution(feature_NIHW, kernel_OIkk, bias_O, padding)


def _by_tiles(feature_NIHW: Tensor, grad_NOHW: Tensor, kernel: int) -> Tensor:
    """Return the gradient of the kernel (O, I, k, k), summed over tiles."""
    side, (_, out_channels, height, width) = TILE + 1 - kernel, grad_NOHW.shape
    rows, cols = -(-height // side), -(-width // side)
    rows_a_time = max(1, TILES // cols)
    total_IOkk = grad_NOHW.new_zeros(feature_NIHW.shape[1], out_channels, kernel, kernel)
    zero_O = grad_NOHW.new_zeros(out_channels)
    for feature_IHW, grad_OHW in zip(feature_NIHW, grad_NOHW, strict=True):
        for first in range(0, rows, rows_a_time):
            top, bottom = first * side, min(first + rows_a_time, rows) * side
            around_IHW = _window(feature_IHW, top, bottom, cols * side, kernel // 2)
            tiles_ITyx = around_IHW.unfold(1, TILE, side).unfold(2, TILE, side).flatten(1, 2)
            inside_OHW = _window(grad_OHW, top, bottom, cols * side, 0)
            kernels_OTyx = inside_OHW.unfold(1, side, side).unfold(2, side, side).flatten(1, 2)
            total_IOkk += torch._nnpack_spatial_convolution(tiles_ITyx, kernels_OTyx, zero_O, [0, 0])
    return total_IOkk.transpose(0, 1)


def _unfolded(
    feature_NIHW: Tensor, kernel_OIkk: Tensor, grad_NOHW: Tensor, needs_feature: bool
) -> tuple[Tensor | None, Tensor]:
    """Return the gradients of feature and kernel; the output gradient is unfolded a few rows at a time."""
    out_channels, in_channels, kernel, _ = kernel_OIkk.shape
    height, width = grad_NOHW.shape[2:]
    turned_IR = kernel_OIkk.flip(2, 3).transpose(0, 1).flatten(1)
    of_feature = torch.empty_like(feature_NIHW) if needs_feature else None
    of_kernel_RI = grad_NOHW.new_zeros(turned_IR.shape[1], in_channels)
    rows_a_time = max(1, UNFOLDED_PIXELS // width)
    for number, (feature_IHW, grad_OHW) in enumerate(zip(feature_NIHW, grad_NOHW, strict=True)):
        for top in range(0, height, rows_a_time):
            bottom = min(top + rows_a_time, height)
            around_OHW = _window(grad_OHW, top, bottom, width, kernel // 2)
            unfolded_RP = (
                around_OHW.unfold(1, bottom - top, 1).unfold(2, width, 1).reshape(len(of_kernel_RI), -1)
            )
            of_kernel_RI.addmm_(unfolded_RP, feature_IHW[:, top:bottom].flatten(1).T)
            if of_feature is not None:
                torch.mm(turned_IR, unfolded_RP, out=of_feature[number, :, top:bottom].view(in_channels, -1))
    of_kernel = of_kernel_RI.view(out_channels, kernel, kernel, in_channels).flip(1, 2).permute(0, 3, 1, 2)
    return of_feature, of_kernel


def _window(map_CHW: Tensor, top: int, bottom: int, width: int, margin: int) -> Tensor:
    """Return rows ``top`` to ``bottom`` and ``width`` columns with a margin, zeros outside the map."""
    _, height, map_width = map_CHW.shape
    inside_CHW = map_CHW[:, max(top - margin, 0) : bottom + margin]
    sides = margin, margin + width - map_width
    return F.pad(inside_CHW, (*sides, max(margin - top, 0), max(bottom + margin - height, 0)))
