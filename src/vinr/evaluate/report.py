"""Results for people: pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vinr.files import atomic_path

__all__ = ["side_by_side"]

CAPTION_ROWS = 20
GAP_COLUMNS = 4


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
    amplified_NCHW = (difference_NCHW * amplification).clamp(max=255).byte()
    num_frames, _, height, width = original_NCHW.shape
    step, row_height = width + GAP_COLUMNS, height + CAPTION_ROWS
    sheet = Image.new("RGB", (3 * step - GAP_COLUMNS, num_frames * row_height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for frame, caption in zip(range(num_frames), captions, strict=True):
        texts = (f"{caption}, original", "decoded", f"difference, {amplification} times as bright")
        columns = (original_NCHW[frame], decoded_NCHW[frame], amplified_NCHW[frame])
        for column, (picture_CHW, text) in enumerate(zip(columns, texts, strict=True)):
            corner = column * step, frame * row_height
            draw.text((corner[0] + 2, corner[1] + 4), text, fill="black", font=font)
            picture = Image.fromarray(picture_CHW.permute(1, 2, 0).cpu().contiguous().numpy())
            sheet.paste(picture, (corner[0], corner[1] + CAPTION_ROWS))
    with atomic_path(path, force=force) as temporary:
        sheet.save(temporary, format="PNG")
