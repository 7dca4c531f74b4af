"""Windows that make patches equal the whole frame, as HiNeRV computes them.

A patch P pixels long is computed from a window that reaches p pixels over both ends. Pixels of a window that
lie outside of the frame are zero wherever a convolution reads them, as the zero padding of a whole frame is::

    frame          |----patch 0----|----patch 1----|----patch 2----|
    windows   0 0 0|===============|===|       |===|===============|0 0 0
                        patch 0                         patch 2

Axes: N patches, C channels, H rows, W columns, L pixels along one side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vinr.video.spec import Query


@dataclass(frozen=True)
class Paddings:
    """How far windows reach over each edge of a patch, in pixels of their own resolution.

    ``base``: the base grid and the stem. ``before``: each stage's input. ``after``: each stage's blocks.
    """

    base: int
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """The part of a stage's maps that patches need.

    ``crop_before`` and ``crop_after`` pixels are cut off each side before and after upsampling. In between,
    ``gain_N1HW`` undoes the loss of weight where an interpolation reads outside of the frame, and
    ``inside_N1HW`` is 1 in the frame and 0 elsewhere.
    """

    crop_before: int
    crop_after: int
    gain_N1HW: Tensor
    inside_N1HW: Tensor


def window_paddings(strides: Sequence[int], depths: Sequence[int], kernel: int, stem_kernel: int) -> Paddings:
    """Return the least paddings with which patches equal the whole frame."""
    before: list[int] = []
    after: list[int] = []
    needed = 0
    for stride, depth in zip(reversed(strides), reversed(depths), strict=True):
        after.insert(0, needed + depth * (kernel // 2))
        # Pixel o of the output lies at (o + ½) / s − ½ of the input and reads both neighbours, so a reach of
        # p output pixels takes ⌈(2p − 1 + s) / 2s⌉ input pixels.
        needed = -(-(2 * after[0] - 1 + stride) // (2 * stride))
        before.insert(0, needed)
    return Paddings(needed + stem_kernel // 2, tuple(before), tuple(after))


def inside(patch_N: Tensor, length: int, padding: int, size: int) -> tuple[Tensor, Tensor]:
    """Return the positions of windows, limited to 0 … size − 1, and where they are in the frame: both (N, …).

    ``patch_N`` numbers the patches along one side; they are ``length`` long and reach ``padding`` further.
    """
    # Patch p covers p · length … (p + 1) · length − 1; its window reaches padding further at both ends.
    offset_1 = torch.arange(-padding, length + padding, device=patch_N.device)
    position = patch_N.unsqueeze(1) * length + offset_1
    return position.clamp(0, size - 1), (position >= 0) & (position < size)


def stage_windows(
    query: Query, base_size: tuple[int, int], strides: Sequence[int], paddings: Paddings, like: Tensor
) -> list[Window]:
    """Return the window of each stage, in the number format of ``like``."""
    windows = []
    scale = 1
    padding = paddings.base
    for stride, before, after in zip(strides, paddings.before, paddings.after, strict=True):
        sides = (
            (query.row_N, base_size[0] * scale, query.grid.rows),
            (query.col_N, base_size[1] * scale, query.grid.cols),
        )
        gains, insides = [], []
        for patch_N, size, count in sides:
            length = size // count
            _, source_NL = inside(patch_N, length, before, size)
            _, inside_NL = inside(patch_N, length * stride, before * stride, size * stride)
            share_N1L = F.interpolate(
                source_NL.to(like.dtype).unsqueeze(1), scale_factor=stride, mode="linear"
            )
            # At least half the weight of a pixel in the frame lies in the frame.
            gains.append(1 / share_N1L.squeeze(1).clamp(min=0.5))
            insides.append(inside_NL.to(like.dtype))
        window = Window(padding - before, before * stride - after, _outer(*gains), _outer(*insides))
        windows.append(window)
        scale, padding = scale * stride, after
    return windows


def _outer(row_NH: Tensor, col_NW: Tensor) -> Tensor:
    """Return the products (N, 1, H, W) of values of rows and of columns."""
    return (row_NH.unsqueeze(2) * col_NW.unsqueeze(1)).unsqueeze(1)


def crop(feature_NCHW: Tensor, pixels: int) -> Tensor:
    """Cut ``pixels`` off each side."""
    if pixels == 0:
        return feature_NCHW
    return feature_NCHW[..., pixels:-pixels, pixels:-pixels]
