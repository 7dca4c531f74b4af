"""Cuts frames into equal patches and joins them again, without seams and without losing a pixel.

::

    frame, its last row and column repeated     0,0 │ 0,1 │ 0,2
    until a grid of rows × cols fits        ──> ────┼─────┼────  ──> patches ──> joined, repeats cut off
                                                1,0 │ 1,1 │ 1,2

Axes: N frames of a clip, P patches, C channels, H rows, W columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vinr.video.spec import PatchGrid, Query, computable


def all_patches(index_N: Tensor, grid: PatchGrid) -> Query:
    """Return the query of all patches of frames ``index_N``: frame by frame, then row by row."""
    #   time  0 0 0 0 0 0  1 1 …     2 × 3 patches: each frame number six times,
    #   cell  0 1 2 3 4 5  0 1 …     row = cell // 3, column = cell % 3
    cell = torch.arange(grid.rows * grid.cols, device=index_N.device)
    time_P = index_N.to(torch.float64).repeat_interleave(len(cell))
    cell_P = cell.repeat(len(index_N))
    return Query(time_P, cell_P // grid.cols, cell_P % grid.cols, grid)


def cut(frames_NCHW: Tensor, grid: PatchGrid, *, coded_size: tuple[int, int] | None = None) -> Tensor:
    """Return all patches of all frames in the order of :func:`all_patches`, see :func:`cut_at`."""
    query = all_patches(torch.arange(len(frames_NCHW), device=frames_NCHW.device), grid)
    return cut_at(frames_NCHW, query, coded_size=coded_size)


def cut_at(frames_NCHW: Tensor, query: Query, *, coded_size: tuple[int, int] | None = None) -> Tensor:
    """Return the patches of ``query``, in the data type of ``frames_NCHW``.

    Parameters
    ----------
    frames_NCHW
        All frames, of any number of channels; ``query.time_N`` counts along the first axis.
    coded_size
        Rows and columns that the grid divides: the frame's, or more, in which case the last row and column
        are repeated. Default: the fewest that the grid divides.

    Raises
    ------
    ValueError
        If ``coded_size`` is smaller than the frame or the grid does not divide it.
    """
    height, width = frames_NCHW.shape[2:]
    grid = query.grid
    rows, cols = coded_size or (_divided(height, grid.rows), _divided(width, grid.cols))
    if rows < height or cols < width or rows % grid.rows or cols % grid.cols:
        raise ValueError(f"{grid} does not cut {rows}×{cols}, made of {height}×{width} frames, into patches")
    device = frames_NCHW.device
    row_PH = _positions(query.row_N.to(device), rows // grid.rows, height)
    col_PW = _positions(query.col_N.to(device), cols // grid.cols, width)
    frame_P = query.time_N.to(device).long()
    # frame (P, 1, 1), row (P, H, 1) and column (P, 1, W) broadcast to (P, H, W). With a slice between them,
    # NumPy's rule puts the axis of the slice last: P, H, W, C in memory, the layout that convolutions prefer.
    frames = computable(frames_NCHW)
    patches_PHWC = frames[frame_P[:, None, None], :, row_PH[:, :, None], col_PW[:, None, :]]
    return patches_PHWC.permute(0, 3, 1, 2).view(frames_NCHW.dtype)


def join(patches_PCHW: Tensor, grid: PatchGrid, *, height: int, width: int) -> Tensor:
    """Return the frames of ``height`` × ``width`` that consist of these patches, in the order of :func:`cut`.

    Raises
    ------
    ValueError
        If the patches do not make whole frames, or are too small for them.
    """
    count, channels, patch_height, patch_width = patches_PCHW.shape
    rows, cols = grid.rows * patch_height, grid.cols * patch_width
    if count % (grid.rows * grid.cols) or rows < height or cols < width:
        patches = f"{count} patches of {patch_height}×{patch_width} in {grid}"
        raise ValueError(f"{patches} do not make {height}×{width} frames")
    # (N · grid rows · grid cols, C, h, w)  ->  (N, C, grid rows, h, grid cols, w)  ->  (N, C, H, W)
    split = patches_PCHW.reshape(-1, grid.rows, grid.cols, channels, patch_height, patch_width)
    frames_NCHW = split.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, rows, cols)
    return frames_NCHW[..., :height, :width]


def _divided(length: int, parts: int) -> int:
    return -(-length // parts) * parts


def _positions(patch_P: Tensor, length: int, size: int) -> Tensor:
    """Return the pixels of patches along one side, (P, ``length``), limited to the frame's."""
    return (patch_P.unsqueeze(1) * length + torch.arange(length, device=patch_P.device)).clamp(max=size - 1)
