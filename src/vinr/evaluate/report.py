"""Results for people and programs: pictures and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vinr.files import atomic_path

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["side_by_side", "to_json"]

CAPTION_ROWS = 20
GAP_COLUMNS = 4


def side_by_side(
    original_CHW: Tensor,
    decoded_CHW: Tensor,
    path: Path,
    *,
    captions: tuple[str, str] = ("original", "decoded"),
    amplification: int = 8,
    force: bool = False,
) -> None:
    """Write a PNG: original | decoded | absolute difference, ``amplification`` times as bright, as it says.

    Parameters
    ----------
    original_CHW, decoded_CHW
        uint8 red, green, blue of equal size.
    captions
        Text above the first two pictures.
    force
        Whether an existing file may be replaced.

    Raises
    ------
    OutputError
        If the file exists (without ``force``) or cannot be written.
    """
    if original_CHW.dtype != torch.uint8 or decoded_CHW.dtype != torch.uint8:
        raise ValueError(f"frames must be uint8, got {original_CHW.dtype} and {decoded_CHW.dtype}")
    if original_CHW.shape != decoded_CHW.shape or original_CHW.shape[0] != 3:
        raise ValueError(f"shapes differ: {tuple(original_CHW.shape)}, {tuple(decoded_CHW.shape)}")
    difference_CHW = (original_CHW.short() - decoded_CHW.short()).abs()
    pictures_CHW = (original_CHW, decoded_CHW, (difference_CHW * amplification).clamp(max=255).byte())
    height, width = original_CHW.shape[1:]
    step = width + GAP_COLUMNS
    sheet = Image.new("RGB", (3 * step - GAP_COLUMNS, height + CAPTION_ROWS), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    texts = (*captions, f"difference ×{amplification}")
    for column, (picture_CHW, text) in enumerate(zip(pictures_CHW, texts, strict=True)):
        draw.text((column * step + 2, 4), text, fill="black", font=font)
        picture = Image.fromarray(picture_CHW.permute(1, 2, 0).cpu().contiguous().numpy())
        sheet.paste(picture, (column * step, CAPTION_ROWS))
    with atomic_path(path, force=force) as temporary:
        sheet.save(temporary, format="PNG")


def to_json(result: DataclassInstance) -> dict[str, Any]:
    """Return a result as JSON types: tuples become lists, paths and fractions text."""
    return {name: _plain(value) for name, value in asdict(result).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path | Fraction):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} has no form in JSON")
