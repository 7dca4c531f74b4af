"""The picture written is the one described."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vinr.comparison.report import (
    CAPTION_ROWS,
    GAP_COLUMNS,
    Panel,
    draw_sheet,
    side_by_side,
    signed_difference,
)
from vinr.errors import OutputError


def test_side_by_side(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    original_NCHW = torch.randint(0, 256, (2, 3, 30, 120), generator=generator, dtype=torch.uint8)
    decoded_NCHW = original_NCHW.clone()
    decoded_NCHW[1, 0, 3, 5] = original_NCHW[1, 0, 3, 5] ^ 4
    decoded_NCHW[1, 1, 0, 0] = 255 - original_NCHW[1, 1, 0, 0]
    path = tmp_path / "picture.png"
    side_by_side(original_NCHW, decoded_NCHW, path, captions=["first", "second"], amplification=8)
    sheet = np.asarray(Image.open(path)).transpose(2, 0, 1)
    row = 30 + CAPTION_ROWS
    starts = (0, 120 + GAP_COLUMNS, 240 + 2 * GAP_COLUMNS)
    assert sheet.shape == (3, 2 * row, 3 * 120 + 2 * GAP_COLUMNS)
    difference_NCHW = np.abs(original_NCHW.numpy().astype(int) - decoded_NCHW.numpy())
    expected = (original_NCHW.numpy(), decoded_NCHW.numpy(), np.minimum(8 * difference_NCHW, 255))
    for frame in range(2):
        top = frame * row
        for start, frames_NCHW in zip(starts, expected, strict=True):
            panel = sheet[:, top + CAPTION_ROWS : top + row, start : start + 120]
            np.testing.assert_array_equal(panel, frames_NCHW[frame])
            assert (sheet[:, top : top + CAPTION_ROWS, start : start + 120] < 128).any()
    assert expected[2][1, 0, 3, 5] == 32


def test_sheet_of_enlarged_panels() -> None:
    generator = torch.Generator().manual_seed(0)
    rgb_NCHW = torch.randint(0, 256, (3, 3, 20, 40), generator=generator, dtype=torch.uint8)
    rows = [[Panel("a", rgb_NCHW[0]), Panel("b", rgb_NCHW[1])], [Panel("c", rgb_NCHW[2])]]
    sheet_HWC = torch.from_numpy(np.array(draw_sheet(rows, enlarge=3)))
    assert sheet_HWC.shape == (2 * (60 + CAPTION_ROWS), 2 * 120 + GAP_COLUMNS, 3)
    for number, (row, left) in enumerate(((0, 0), (0, 120 + GAP_COLUMNS), (1, 0))):
        top = row * (60 + CAPTION_ROWS) + CAPTION_ROWS
        panel_HWC = sheet_HWC[top : top + 60, left : left + 120]
        enlarged_CHW = rgb_NCHW[number].repeat_interleave(3, 1).repeat_interleave(3, 2)
        assert torch.equal(panel_HWC.permute(2, 0, 1), enlarged_CHW)
    assert (sheet_HWC[60 + CAPTION_ROWS :, 120:] == 255).all()  # no second panel in the second row
    with pytest.raises(ValueError, match="one size"):
        draw_sheet([[Panel("a", rgb_NCHW[0]), Panel("b", rgb_NCHW[1, :, :10])]])


def test_signed_difference_lies_around_grey() -> None:
    original = torch.tensor([100, 100, 100, 0, 255], dtype=torch.uint8)
    frame = torch.tensor([100, 101, 97, 255, 0], dtype=torch.uint8)
    assert signed_difference(frame, original).tolist() == [128, 136, 104, 255, 0]


def test_side_by_side_refusals(tmp_path: Path) -> None:
    frame_NCHW = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match="differ"):
        side_by_side(frame_NCHW, frame_NCHW[:, :, :4], tmp_path / "a.png", captions=["0"])
    with pytest.raises(ValueError, match="uint8"):
        side_by_side(frame_NCHW, frame_NCHW.float(), tmp_path / "a.png", captions=["0"])
    with pytest.raises(ValueError, match="argument 2 is"):
        side_by_side(frame_NCHW, frame_NCHW, tmp_path / "a.png", captions=["0", "1"])
    path = tmp_path / "b.png"
    side_by_side(frame_NCHW, frame_NCHW, path, captions=["0"])
    with pytest.raises(OutputError):
        side_by_side(frame_NCHW, frame_NCHW, path, captions=["0"])
    side_by_side(frame_NCHW, frame_NCHW, path, captions=["0"], force=True)
    with pytest.raises(OutputError):
        side_by_side(frame_NCHW, frame_NCHW, tmp_path / "missing" / "c.png", captions=["0"])
    assert [item.name for item in tmp_path.iterdir()] == ["b.png"]
