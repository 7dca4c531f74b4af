"""Cutting frames to patches and joining them again."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vinr.video.patches import all_patches, cut, cut_at, join
from vinr.video.spec import PatchGrid, Query

GRIDS = st.builds(PatchGrid, st.integers(1, 7), st.integers(1, 7))


def numbered(num_frames: int, height: int, width: int) -> Tensor:
    """Return frames in which every number appears once."""
    return torch.arange(num_frames * 3 * height * width).view(num_frames, 3, height, width)


@settings(max_examples=60)
@given(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40), GRIDS, st.integers(0, 3), st.integers(0, 3))
def test_joined_patches_are_the_frames(
    num_frames: int, height: int, width: int, grid: PatchGrid, more_rows: int, more_cols: int
) -> None:
    frames = numbered(num_frames, height, width)
    fewest = -(-height // grid.rows) * grid.rows, -(-width // grid.cols) * grid.cols
    coded_size = fewest[0] + more_rows * grid.rows, fewest[1] + more_cols * grid.cols
    for patches, size in (
        (cut(frames, grid), fewest),
        (cut(frames, grid, coded_size=coded_size), coded_size),
    ):
        assert patches.shape == (
            num_frames * grid.rows * grid.cols,
            3,
            size[0] // grid.rows,
            size[1] // grid.cols,
        )
        assert torch.equal(join(patches, grid, height=height, width=width), frames)


@settings(max_examples=40)
@given(st.integers(1, 30), st.integers(1, 30), GRIDS)
def test_padding_repeats_the_last_row_and_column(height: int, width: int, grid: PatchGrid) -> None:
    frames = torch.rand(2, 3, height, width)
    patches = cut(frames, grid)
    rows, cols = patches.shape[2] * grid.rows, patches.shape[3] * grid.cols
    padded = torch.nn.functional.pad(frames, (0, cols - width, 0, rows - height), mode="replicate")
    assert torch.equal(join(patches, grid, height=rows, width=cols), padded)


def test_patches_come_frame_by_frame_and_row_by_row() -> None:
    query = all_patches(torch.tensor([4, 1]), PatchGrid(2, 3))
    assert query.time_N.tolist() == [4.0] * 6 + [1.0] * 6
    assert query.row_N.tolist() == [0, 0, 0, 1, 1, 1] * 2
    assert query.col_N.tolist() == [0, 1, 2] * 4
    frames = numbered(2, 4, 6)
    assert torch.equal(cut(frames, query.grid)[6 + 5], frames[1, :, 2:, 4:])


def test_single_patches_are_cut_from_anywhere() -> None:
    frames = numbered(5, 7, 9).to(torch.uint8)
    query = Query(
        torch.tensor([3.0, 0, 3]), torch.tensor([1, 0, 1]), torch.tensor([2, 0, 0]), PatchGrid(2, 3)
    )
    patches = cut_at(frames, query, coded_size=(8, 12))
    assert patches.dtype == torch.uint8
    assert torch.equal(patches[1], frames[0, :, :4, :4])
    assert torch.equal(patches[2, :, :3], frames[3, :, 4:, :4])
    assert torch.equal(patches[2, :, 3], frames[3, :, 6, :4])  # the last row, once more
    assert torch.equal(patches[0, :, :3, 1:], frames[3, :, 4:, 8:].expand(3, 3, 3))


@pytest.mark.parametrize("coded_size", [(7, 12), (8, 11), (6, 12), (8, 8)])
def test_sizes_that_the_grid_does_not_divide_are_refused(coded_size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="does not cut"):
        cut(numbered(1, 7, 9), PatchGrid(2, 3), coded_size=coded_size)


@pytest.mark.parametrize(("count", "height"), [(5, 8), (6, 9)])
def test_patches_of_other_frames_are_refused(count: int, height: int) -> None:
    with pytest.raises(ValueError, match="do not make"):
        join(torch.zeros(count, 3, 4, 4), PatchGrid(2, 3), height=height, width=12)
