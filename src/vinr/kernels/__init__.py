"""Layers that compute faster on a CPU than PyTorch's own, put in their place when a network is to decode.

They stand in the package itself, since every program that decodes loads them; :mod:`vinr.kernels.training`
adds gradients, and is loaded by fits alone.

Most of the time of a decoder on a CPU goes to convolutions of 3×3 and 5×5 pixels. NNPACK, a part of PyTorch,
computes them after a transform (Winograd, Fourier), where they take a fraction of the products::

    tiles of the map ──> transform ──> products of channels ──> back    5×5: 3.6 products per pixel, not 25

The result differs from the direct one in its last bits (at most 1e-5 of the largest value).

Axes: N frames of a batch, C channels (I of the input, O of the output), H rows, W columns, k rows and columns
of a kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, TypeGuard

import torch
from torch import Tensor, nn

# The operator is private in PyTorch: where a version lacks it, all convolutions stay direct.
NNPACK: Final[Callable[..., Tensor] | None] = getattr(torch, "_nnpack_spatial_convolution", None)
# On smaller maps (rows times columns) transforming the weights costs more than it saves.
MIN_PIXELS: Final = 2048
# NNPACK knows AVX2; the direct convolution of wider vectors catches up with Winograd's of 3×3.
MIN_KERNEL: Final = {"AVX2": 3, "AVX512": 5}
# A Fourier tile has 16 rows: of a larger kernel, too few of them are result.
MAX_KERNEL: Final = 11


def arrange_layers(model: nn.Module, *, transforms: bool = True, channels_last: bool | None = None) -> None:
    """Let ``model`` decode as is fastest on this CPU; the one rule for single frames and for many in order.

    Parameters
    ----------
    model
        A network that is ready to decode; its layers are replaced, its parameters stay.
    transforms
        Whether convolutions may be computed after a transform (float32 on CPUs).
    channels_last
        Whether values are stored pixel by pixel; None: where no layer computes after a transform.
    """
    is_any_transformed = transforms and replace_convolutions(model)
    if channels_last is None:
        channels_last = not is_any_transformed
    if channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def replace_convolutions(model: nn.Module) -> bool:
    """Let convolutions of ``model`` compute after a transform where that is faster; return whether any does.

    The new layers hold the parameters of the old ones, under the same names. Depth to space becomes one copy
    on any CPU. No convolution changes where PyTorch has no NNPACK.
    """
    new_layers = replace_layers(model, partial(_decoding_layer, min_kernel=min_transformed_kernel()))
    return any(isinstance(layer, TransformConv2d) for layer in new_layers)


def replace_layers(
    model: nn.Module, make_replacement: Callable[[nn.Module], nn.Module | None]
) -> list[nn.Module]:
    """Replace each layer in ``model`` for which ``make_replacement`` returns another; return the new ones.

    A layer that has several names is replaced by one layer.
    """
    replacements: dict[nn.Module, nn.Module] = {}
    for name, layer in list(model.named_modules(remove_duplicate=False)):
        if layer not in replacements:
            replacement = make_replacement(layer)
            if replacement is None:
                continue
            replacements[layer] = replacement
        model.set_submodule(name, replacements[layer])
    return list(replacements.values())


# -- convolutions --------------------------------------------------------------------------------------------


class SharedConv2d(nn.Conv2d):
    """Base of same-size convolutions that compute in another way, with the parameters of a plain one."""

    def __init__(self, plain: nn.Conv2d) -> None:
        # Parameters made here are dropped at once; on the meta device they take neither memory nor time.
        super().__init__(
            plain.in_channels,
            plain.out_channels,
            plain.kernel_size,  # type: ignore[arg-type]
            padding=plain.padding,  # type: ignore[arg-type]
            groups=plain.groups,
            bias=plain.bias is not None,
            device="meta",
        )
        self.weight, self.bias = plain.weight, plain.bias
        self.train(plain.training)

    def reset_parameters(self) -> None:
        """Draw no initial values: a fit's random numbers stay those of the plain model."""


class TransformConv2d(SharedConv2d):
    """A convolution that is computed after a transform where the map is large enough, else directly."""

    def forward(self, feature_NIHW: Tensor) -> Tensor:
        """Return what the direct convolution does, to its last bits."""
        if not is_transformed(feature_NIHW):
            return super().forward(feature_NIHW)
        return convolve_transformed(feature_NIHW, self.weight, self.bias, self.kernel_size[0] // 2)


def convolve_transformed(
    feature_NIHW: Tensor, kernel_OIkk: Tensor, bias_O: Tensor | None, padding: int
) -> Tensor:
    """Return the convolution with ``padding`` zeros on each side, computed by NNPACK."""
    assert NNPACK is not None, "layers are replaced only where the operator is there"
    if bias_O is None:
        bias_O = kernel_OIkk.new_zeros(len(kernel_OIkk))
    return NNPACK(feature_NIHW, kernel_OIkk, bias_O, [padding, padding])


def is_transformed(feature_NCHW: Tensor) -> bool:
    """Return whether convolving this map after a transform pays; half precision has no such convolution."""
    is_float32 = feature_NCHW.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return is_float32 and feature_NCHW.shape[2] * feature_NCHW.shape[3] >= MIN_PIXELS


def min_transformed_kernel() -> int | None:
    """Return the side of the smallest kernel that is faster after a transform here; None: no kernel is."""
    if NNPACK is None or not torch.backends.nnpack.is_available():  # type: ignore[no-untyped-call]
        return None
    return MIN_KERNEL.get(torch.backends.cpu.get_cpu_capability())


def is_same_size(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Return whether ``layer`` is a convolution with zeros around the map, whose result has its size."""
    # Subclasses of others may do more than convolve.
    if type(layer) is not nn.Conv2d and not isinstance(layer, SharedConv2d):
        return False
    rows, cols = layer.kernel_size
    is_dense = layer.stride == layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    # The middle of an odd kernel lies on a pixel: rows // 2 stand out above it, and as many below.
    return is_dense and rows % 2 == cols % 2 == 1 and layer.padding == (rows // 2, cols // 2)


def is_transformable(layer: nn.Module, min_kernel: int | None) -> TypeGuard[nn.Conv2d]:
    """Return whether NNPACK can compute ``layer``, and is faster from kernels of ``min_kernel`` on."""
    if min_kernel is None or not is_same_size(layer) or layer.groups != 1:
        return False
    rows, cols = layer.kernel_size
    return rows == cols and min_kernel <= rows <= MAX_KERNEL


# -- depth to space ------------------------------------------------------------------------------------------


class CopiedShuffle(nn.PixelShuffle):
    """Depth to space as one strided copy: faster than PyTorch's own, value for value the same."""

    def forward(self, feature_NCHW: Tensor) -> Tensor:
        """Return features with ``upscale_factor`` times the rows and columns."""
        # Maps of 1×1 lie in both layouts; those stored pixel by pixel alone keep theirs, at the same speed.
        is_by_pixel = feature_NCHW.is_contiguous(memory_format=torch.channels_last)
        if is_by_pixel and not feature_NCHW.is_contiguous():
            return super().forward(feature_NCHW)
        scale = self.upscale_factor
        count, _, height, width = feature_NCHW.shape
        # Channel (c · scale + y) · scale + x is pixel (y, x) of each cell of scale × scale pixels.
        cells = feature_NCHW.view(count, -1, scale, scale, height, width)  # N, C, y, x, H, W
        return cells.permute(0, 1, 4, 2, 5, 3).reshape(count, -1, height * scale, width * scale)


def copied_shuffle(layer: nn.Module) -> CopiedShuffle | None:
    """Return what takes the place of ``layer`` if it is PyTorch's depth to space."""
    return CopiedShuffle(layer.upscale_factor) if type(layer) is nn.PixelShuffle else None


def _decoding_layer(layer: nn.Module, min_kernel: int | None) -> nn.Module | None:
    return TransformConv2d(layer) if is_transformable(layer, min_kernel) else copied_shuffle(layer)
