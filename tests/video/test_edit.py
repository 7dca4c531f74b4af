"""Crop, resize and frame range."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from video.video_clips import picture
from vinr.errors import UsageError
from vinr.video.edit import Edit

SIZES = st.tuples(st.integers(1, 12), st.integers(1, 12))


@pytest.mark.parametrize(("height", "crop", "top"), [(720, 640, 40), (7, 4, 2), (5, 4, 0), (1080, 960, 60)])
def test_crop_is_centred_half_to_even(height: int, crop: int, top: int) -> None:
    rgb_HWC = (
        np.arange(height, dtype=np.uint16).view(np.uint8).reshape(height, 1, 2).repeat(2, axis=2)[..., :3]
    )
    assert np.array_equal(Edit(crop=(crop, 1)).apply(rgb_HWC), rgb_HWC[top : top + crop])


@given(size=SIZES, factors=st.tuples(st.integers(1, 5), st.integers(1, 5)), seed=st.integers(0, 99))
def test_whole_factors_average_areas_exactly(
    size: tuple[int, int], factors: tuple[int, int], seed: int
) -> None:
    height, width, rows, cols = *size, *factors
    rgb_HWC = np.random.default_rng(seed).integers(0, 256, (height * rows, width * cols, 3), dtype=np.uint8)
    small = Edit(resize=size).apply(rgb_HWC)
    assert small.dtype == np.uint8
    for row in range(height):
        for col in range(width):
            block = rgb_HWC[row * rows : (row + 1) * rows, col * cols : (col + 1) * cols]
            assert np.abs(block.reshape(-1, 3).mean(axis=0) - small[row, col]).max() <= 0.5


@given(size=SIZES, crop=SIZES)
def test_output_size_is_what_apply_gives(size: tuple[int, int], crop: tuple[int, int]) -> None:
    edit = Edit(crop=crop, resize=size)
    assert edit.apply(picture(12, 12, 0)).shape[:2] == edit.output_size(12, 12) == size
    assert Edit(crop=crop).apply(picture(12, 12, 0)).shape[:2] == Edit(crop=crop).output_size(12, 12) == crop


def test_other_factors_are_antialiased_bicubic() -> None:
    checkers = (np.indices((60, 60)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    small = Edit(resize=(25, 25)).apply(checkers)
    assert np.array_equal(
        small, np.asarray(Image.fromarray(checkers).resize((25, 25), Image.Resampling.BICUBIC))
    )
    # Without the low-pass filter the finest pattern would turn into a coarse one.
    assert small.std() < 20
    large = Edit(resize=(90, 120)).apply(picture(60, 60, 0))
    assert large.shape == (90, 120, 3)


def test_crop_comes_before_resize() -> None:
    rgb_HWC = picture(40, 40, 0)
    both = Edit(crop=(20, 30), resize=(10, 15)).apply(rgb_HWC)
    assert np.array_equal(both, Edit(resize=(10, 15)).apply(Edit(crop=(20, 30)).apply(rgb_HWC)))


def test_frame_range_is_filled_in() -> None:
    assert Edit().frame_range(7) == (0, 7)
    assert Edit(first_frame=2, stop_frame=7).frame_range(7) == (2, 7)


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        ({"crop": (0, 5)}, "crop to 0x5"),
        ({"resize": (5, -1)}, "resize to 5x-1"),
        ({"first_frame": -1}, "numbered from 0"),
        ({"first_frame": 3, "stop_frame": 3}, "3:3"),
    ],
)
def test_impossible_edits_are_refused(edit: dict[str, tuple[int, int] | int], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        Edit(**edit)


def test_edits_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="10x20 is larger than the frame, 9x30"):
        Edit(crop=(10, 20)).output_size(9, 30)
    with pytest.raises(UsageError, match="frames 0:8 are out of range; the video has frames 0:7"):
        Edit(stop_frame=8).frame_range(7)
    with pytest.raises(UsageError, match="frames 7: are out of range"):
        Edit(first_frame=7).frame_range(7)
