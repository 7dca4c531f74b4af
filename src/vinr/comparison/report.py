"""Results for people: pictures.

Axes: N frames, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vinr.files import atomic_path

CAPTION_ROWS: Final = 20
GAP_COLUMNS: Final = 4
FONT_SIZE: Final = 12
GREY: Final = 128


@dataclass(frozen=True)
class Panel:
    """A picture, uint8 rgb_CHW, with a line of text above it, in ASCII: the font has little more."""

    caption: str
    rgb_CHW: Tensor


def draw_sheet(rows: Sequence[Sequence[Panel]], *, enlarge: int = 1) -> Image.Image:
    """Return rows of panels of equal size, each pixel as ``enlarge`` × ``enlarge``.

    ::

        caption   │gap│ caption   │gap│ caption      CAPTION_ROWS
        panel     │   │ panel     │   │ panel        enlarge · H rows, enlarge · W columns
        caption   …
    """
    sizes = {tuple(panel.rgb_CHW.shape[1:]) for panel in chain(*rows)}
    if len(sizes) != 1:
        raise ValueError(f"panels must have one size, got {sorted(sizes)}")
    ((height, width),) = sizes
    height, width = enlarge * height, enlarge * width
    # No gap follows the last column.
    step, row_height = width + GAP_COLUMNS, height + CAPTION_ROWS
    num_columns = max(map(len, rows))
    sheet = Image.new("RGB", (num_columns * step - GAP_COLUMNS, len(rows) * row_height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    for number, row in enumerate(rows):
        for column, panel in enumerate(row):
            left, top = column * step, number * row_height
            draw.text((left + 2, top + 3), panel.caption, fill="black", font=font)
            picture = Image.fromarray(panel.rgb_CHW.permute(1, 2, 0).cpu().contiguous().numpy())
            # Nothing is smoothed: what is shown are the pixels themselves.
            picture = picture.resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(picture, (left, top + CAPTION_ROWS))
    return sheet


def signed_difference(frame_CHW: Tensor, original_CHW: Tensor, *, amplification: int = 8) -> Tensor:
    """Return ``amplification`` · (frame − original) around grey of 128, as uint8; too bright is brighter."""
    # Differences of uint8 need a sign and a ninth bit.
    difference_CHW = frame_CHW.short() - original_CHW.short()
    return (GREY + amplification * difference_CHW).clamp(0, 255).byte()


def side_by_side(
    original_NCHW: Tensor,
    decoded_NCHW: Tensor,
    path: Path,
    *,
    captions: Sequence[str],
    amplification: int = 8,
    force: bool = False,
) -> None:
    """Write a PNG with a row a frame: original | decoded | difference, ``amplification`` times as bright.

    Parameters
    ----------
    original_NCHW, decoded_NCHW
        uint8 red, green, blue of equal size.
    captions
        Text above the original of each frame, such as its number.
    force
        Whether an existing file may be replaced.

    Raises
    ------
    OutputError
        If the file exists (without ``force``) or cannot be written.
    """
    if original_NCHW.dtype != torch.uint8 or decoded_NCHW.dtype != torch.uint8:
        raise ValueError(f"frames must be uint8, got {original_NCHW.dtype} and {decoded_NCHW.dtype}")
    if original_NCHW.shape != decoded_NCHW.shape or original_NCHW.ndim != 4 or original_NCHW.shape[1] != 3:
        raise ValueError(f"shapes differ: {tuple(original_NCHW.shape)}, {tuple(decoded_NCHW.shape)}")
    difference_NCHW = (original_NCHW.short() - decoded_NCHW.short()).abs()
    # Clamped, not wrapped around: too large differences are white.
    amplified_NCHW = (difference_NCHW * amplification).clamp(max=255).byte()
    rows = [
        (
            Panel(f"{caption}, original", original_NCHW[frame]),
            Panel("decoded", decoded_NCHW[frame]),
            Panel(f"difference, {amplification} times as bright", amplified_NCHW[frame]),
        )
        for frame, caption in zip(range(len(original_NCHW)), captions, strict=True)
    ]
    with atomic_path(path, force=force) as temporary:
        draw_sheet(rows).save(temporary, format="PNG")
