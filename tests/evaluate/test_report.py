"""The picture written is the one described, and results become plain JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vinr.errors import OutputError
from vinr.evaluate import ClipQuality, side_by_side, to_json
from vinr.evaluate.report import CAPTION_ROWS, GAP_COLUMNS


def test_side_by_side(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    original_CHW = torch.randint(0, 256, (3, 30, 120), generator=generator, dtype=torch.uint8)
    decoded_CHW = original_CHW.clone()
    decoded_CHW[0, 3, 5] = original_CHW[0, 3, 5] ^ 4
    decoded_CHW[1, 0, 0] = 255 - original_CHW[1, 0, 0]
    path = tmp_path / "picture.png"
    side_by_side(original_CHW, decoded_CHW, path, captions=("in", "out"), amplification=8)
    sheet = np.asarray(Image.open(path)).transpose(2, 0, 1)
    assert sheet.shape == (3, 30 + CAPTION_ROWS, 3 * 120 + 2 * GAP_COLUMNS)
    panels = [
        sheet[:, CAPTION_ROWS:, first : first + 120]
        for first in (0, 120 + GAP_COLUMNS, 240 + 2 * GAP_COLUMNS)
    ]
    np.testing.assert_array_equal(panels[0], original_CHW.numpy())
    np.testing.assert_array_equal(panels[1], decoded_CHW.numpy())
    difference = np.abs(original_CHW.numpy().astype(int) - decoded_CHW.numpy())
    np.testing.assert_array_equal(panels[2], np.minimum(8 * difference, 255))
    assert panels[2][0, 3, 5] == 32
    captions = sheet[:, :CAPTION_ROWS]
    assert all((captions[:, :, first : first + 120] < 128).any() for first in (0, 120 + GAP_COLUMNS, 248))


def test_side_by_side_refusals(tmp_path: Path) -> None:
    frame_CHW = torch.zeros(3, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match="differ"):
        side_by_side(frame_CHW, frame_CHW[:, :4], tmp_path / "a.png")
    with pytest.raises(ValueError, match="uint8"):
        side_by_side(frame_CHW, frame_CHW.float(), tmp_path / "a.png")
    path = tmp_path / "b.png"
    side_by_side(frame_CHW, frame_CHW, path)
    with pytest.raises(OutputError):
        side_by_side(frame_CHW, frame_CHW, path)
    side_by_side(frame_CHW, frame_CHW, path, force=True)
    with pytest.raises(OutputError):
        side_by_side(frame_CHW, frame_CHW, tmp_path / "missing" / "c.png")
    assert [item.name for item in tmp_path.iterdir()] == ["b.png"]


def test_to_json() -> None:
    quality = ClipQuality(30.0, 29.5, None, None, 2, (31.0, 29.0), None)
    document = to_json(quality)
    assert document["per_frame_psnr_db"] == [31.0, 29.0]
    assert json.loads(json.dumps(document)) == document


@dataclass(frozen=True)
class Mixed:
    path: Path
    rate: Fraction
    inner: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Odd:
    value: complex


def test_to_json_of_other_types() -> None:
    assert to_json(Mixed(Path("a.vinr"), Fraction(30000, 1001), {"x": (1, 2)})) == {
        "path": "a.vinr",
        "rate": "30000/1001",
        "inner": {"x": [1, 2]},
    }
    with pytest.raises(TypeError, match="complex"):
        to_json(Odd(1j))
