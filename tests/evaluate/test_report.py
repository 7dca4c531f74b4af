"""The picture written is the one described."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vinr.errors import OutputError
from vinr.evaluate import side_by_side
from vinr.evaluate.report import CAPTION_ROWS, GAP_COLUMNS


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
