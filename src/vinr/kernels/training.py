"""Convolutions of a fit on a CPU, computed after transforms with their gradients (see :mod:`vinr.kernels`).

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
gradient of their kernel is a depthwise convolution too, frames times channels as groups; PyTorch's own is
several times slower.

Axes: N frames of a batch, I channels of the input, O of the output, C of both, H rows, W columns, T tiles,
P pixels, R rows of the unfolded gradient, k rows and columns of a kernel.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vinr.kernels import (
    SharedConv2d,
    convolve_transformed,
    copied_shuffle,
    is_same_size,
    is_transformable,
    is_transformed,
    min_transformed_kernel,
    replace_layers,
)

# Side of NNPACK's Fourier tiles.
TILE: Final = 16
# Tiles per convolution: more of them do not stay in the cache.
MAX_TILES: Final = 256
# Up to so many rows the unfolded gradient is faster than tiles and than the direct convolution.
MAX_UNFOLDED_ROWS: Final = 32
# Pixels that are unfolded at once: their rows stay in the cache.
UNFOLDED_PIXELS: Final = 8192

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]
"""Of feature, kernel and bias; None where it is not needed."""


def replace_trained_convolutions(model: nn.Module) -> bool:
    """Let convolutions of ``model`` compute after a transform in training; return whether any does.

    The new layers hold the parameters of the old ones, under the same names. Depthwise convolutions get
    faster gradients on any CPU.
    """
    new_layers = replace_layers(model, partial(_training_layer, min_kernel=min_transformed_kernel()))
    return any(isinstance(layer, TrainedConv2d) for layer in new_layers)


def _training_layer(layer: nn.Module, min_kernel: int | None) -> nn.Module | None:
    if is_same_size(layer) and layer.groups == layer.in_channels == layer.out_channels:
        return DepthwiseConv2d(layer)
    return TrainedConv2d(layer) if is_transformable(layer, min_kernel) else copied_shuffle(layer)


# -- convolutions of all channels ----------------------------------------------------------------------------


class TrainedConv2d(SharedConv2d):
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
        return convolve_transformed(feature_NIHW, kernel_OIkk, bias_O, kernel_OIkk.shape[2] // 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NOHW: Tensor) -> Gradients:
        """Return the gradients of feature, kernel and bias, those that are needed."""
        feature_NIHW, kernel_OIkk = ctx.saved_tensors
        needs_feature, needs_kernel, needs_bias = ctx.needs_input_grad
        grad_NOHW = grad_NOHW.contiguous()
        of_feature = of_kernel = None
        if kernel_OIkk[:, 0].numel() <= MAX_UNFOLDED_ROWS:
            of_feature, of_kernel = _gradients_by_unfolding(
                feature_NIHW, kernel_OIkk, grad_NOHW, needs_feature
            )
        else:
            side = kernel_OIkk.shape[2]
            if needs_feature:
                # Pixel p reached result q with weight q − p: the way back has the kernel turned by 180°.
                turned_IOkk = kernel_OIkk.flip(2, 3).transpose(0, 1).contiguous()
                of_feature = convolve_transformed(grad_NOHW, turned_IOkk, None, side // 2)
            if needs_kernel:
                of_kernel = _kernel_gradient_by_tiles(feature_NIHW, grad_NOHW, side)
        return of_feature, of_kernel, grad_NOHW.sum((0, 2, 3)) if needs_bias else None


def _kernel_gradient_by_tiles(feature_NIHW: Tensor, grad_NOHW: Tensor, kernel: int) -> Tensor:
    """Return the gradient of the kernel (O, I, k, k), summed over tiles."""
    # Of the output gradient a tile has side × side pixels, and a margin of k // 2 more in the input:
    #
    #     ├ k // 2 ┼────── side ──────┼ k // 2 ┤   = TILE, the next one starts side pixels later
    #
    side = TILE + 1 - kernel
    _, out_channels, height, width = grad_NOHW.shape
    rows, cols = -(-height // side), -(-width // side)
    # Whole rows of tiles, as many as stay in the cache.
    rows_per_call = max(1, MAX_TILES // cols)
    total_IOkk = grad_NOHW.new_zeros(feature_NIHW.shape[1], out_channels, kernel, kernel)
    for feature_IHW, grad_OHW in zip(feature_NIHW, grad_NOHW, strict=True):
        for first in range(0, rows, rows_per_call):
            top, bottom = first * side, min(first + rows_per_call, rows) * side
            around_IHW = _window(feature_IHW, top, bottom, cols * side, kernel // 2)
            tiles_ITyx = around_IHW.unfold(1, TILE, side).unfold(2, TILE, side).flatten(1, 2)
            inside_OHW = _window(grad_OHW, top, bottom, cols * side, 0)
            kernels_OTyx = inside_OHW.unfold(1, side, side).unfold(2, side, side).flatten(1, 2)
            total_IOkk += convolve_transformed(tiles_ITyx, kernels_OTyx, None, 0)
    return total_IOkk.transpose(0, 1)


def _gradients_by_unfolding(
    feature_NIHW: Tensor, kernel_OIkk: Tensor, grad_NOHW: Tensor, needs_feature: bool
) -> tuple[Tensor | None, Tensor]:
    """Return the gradients of feature and kernel; the output gradient is unfolded a few rows at a time."""
    out_channels, in_channels, kernel, _ = kernel_OIkk.shape
    height, width = grad_NOHW.shape[2:]
    # Row (o · k + y) · k + x of the unfolded gradient is channel o, shifted by y and x: both products run
    # over it.   of_feature_IP = turned_IR · unfolded_RP      of_kernel_RI = unfolded_RP · feature_PI
    turned_IR = kernel_OIkk.flip(2, 3).transpose(0, 1).flatten(1)
    of_feature = torch.empty_like(feature_NIHW) if needs_feature else None
    of_kernel_RI = grad_NOHW.new_zeros(turned_IR.shape[1], in_channels)
    rows_per_call = max(1, UNFOLDED_PIXELS // width)
    for number, (feature_IHW, grad_OHW) in enumerate(zip(feature_NIHW, grad_NOHW, strict=True)):
        for top in range(0, height, rows_per_call):
            bottom = min(top + rows_per_call, height)
            around_OHW = _window(grad_OHW, top, bottom, width, kernel // 2)
            unfolded_OkkHW = around_OHW.unfold(1, bottom - top, 1).unfold(2, width, 1)
            unfolded_RP = unfolded_OkkHW.reshape(len(of_kernel_RI), -1)
            of_kernel_RI.addmm_(unfolded_RP, feature_IHW[:, top:bottom].flatten(1).T)
            if of_feature is not None:
                torch.mm(turned_IR, unfolded_RP, out=of_feature[number, :, top:bottom].view(in_channels, -1))
    of_kernel = of_kernel_RI.view(out_channels, kernel, kernel, in_channels).flip(1, 2).permute(0, 3, 1, 2)
    return of_feature, of_kernel


def _window(map_CHW: Tensor, top: int, bottom: int, width: int, margin: int) -> Tensor:
    """Return rows ``top`` to ``bottom`` and ``width`` columns with a margin, zeros outside the map."""
    _, height, map_width = map_CHW.shape
    inside_CHW = map_CHW[:, max(top - margin, 0) : bottom + margin]
    left, right = margin, margin + width - map_width
    above, below = max(margin - top, 0), max(bottom + margin - height, 0)
    return F.pad(inside_CHW, (left, right, above, below))


# -- convolutions of single channels -------------------------------------------------------------------------


class DepthwiseConv2d(SharedConv2d):
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
        return _convolve_depthwise(feature_NCHW, kernel_C1kk, bias_C)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NCHW: Tensor) -> Gradients:
        """Return the gradients of feature, kernel and bias, those that are needed."""
        feature_NCHW, kernel_C1kk = ctx.saved_tensors
        of_feature = of_kernel = None
        if ctx.needs_input_grad[0]:
            of_feature = _convolve_depthwise(grad_NCHW, kernel_C1kk.flip(2, 3))
        if ctx.needs_input_grad[1]:
            # Each map of each frame is a group of its own (B = N · C), and its output gradient the kernel.
            padding = kernel_C1kk.shape[2] // 2, kernel_C1kk.shape[3] // 2
            maps_1BHW = feature_NCHW.flatten(0, 1)[None]
            kernels_B1HW = grad_NCHW.flatten(0, 1)[:, None]
            parts_1Bkk = F.conv2d(maps_1BHW, kernels_B1HW, padding=padding, groups=len(kernels_B1HW))
            of_kernel = parts_1Bkk.view(len(feature_NCHW), *kernel_C1kk.shape).sum(0)
        return of_feature, of_kernel, grad_NCHW.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None


def _convolve_depthwise(feature_NCHW: Tensor, kernel_C1kk: Tensor, bias_C: Tensor | None = None) -> Tensor:
    padding = kernel_C1kk.shape[2] // 2, kernel_C1kk.shape[3] // 2
    return F.conv2d(feature_NCHW, kernel_C1kk, bias_C, padding=padding, groups=len(kernel_C1kk))
