"""Crop, resize and frame range: applied once, to levels, before anything else sees the frames.

Axes: H rows, W columns, C colour channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vinr.errors import UsageError, argument
from vinr.video.aspect import round_aspect
from vinr.video.spec import Levels, max_level


@dataclass(frozen=True)
class Edit:
    """How an original is edited before training, so that the same can be repeated later.

    ``crop`` (rows, columns): the centred part that is kept. ``resize`` (rows, columns): the size after that.
    Frames ``first_frame`` ≤ i < ``stop_frame`` are kept; ``None`` means to the end.
    """

    crop: tuple[int, int] | None = None
    resize: tuple[int, int] | None = None
    first_frame: int = 0
    stop_frame: int | None = None

    def __post_init__(self) -> None:
        for name, size in (("crop", self.crop), ("resize", self.resize)):
            if size is not None and min(size) < 1:
                raise UsageError(f"{name} to {_text(size)}: both numbers must be at least 1")
        if self.first_frame < 0:
            raise UsageError(f"first frame {self.first_frame}: frames are numbered from 0")
        if self.stop_frame is not None and self.stop_frame <= self.first_frame:
            frames = f"frames {self.first_frame}:{self.stop_frame}"
            raise UsageError(f"{frames}: the range is empty; the end must be greater than the start")

    def frame_range(self, num_frames: int) -> tuple[int, int]:
        """Return first and stop frame for an original of ``num_frames``.

        Raises
        ------
        UsageError
            If the range reaches past the end.
        """
        stop = num_frames if self.stop_frame is None else self.stop_frame
        if self.first_frame >= num_frames or stop > num_frames:
            frames = f"frames {self.first_frame}:{'' if self.stop_frame is None else stop}"
            raise UsageError(f"{frames} are out of range; the video has frames 0:{num_frames}")
        return self.first_frame, stop

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns that a frame of ``height`` × ``width`` has afterwards.

        Raises
        ------
        UsageError
            If the crop is larger than the frame.
        """
        if self.crop is not None and (self.crop[0] > height or self.crop[1] > width):
            problem = (
                f"crop to {_text(self.crop)} is larger than the frame, {height}x{width} (height x width)"
            )
            rows, cols = self.crop
            if cols <= height and rows <= width:
                problem += f"; for {rows} wide and {cols} high write {argument('crop', f'{rows}:{cols}')}"
            raise UsageError(problem)
        return self.resize or self.crop or (height, width)

    def output_aspect(self, pixel_aspect: Fraction, height: int, width: int) -> Fraction:
        """Return the pixel aspect that a frame of ``height`` × ``width`` has afterwards.

        What is shown keeps its shape: a frame resized to half its width alone has pixels twice as wide.
        """
        if self.resize is None:
            return pixel_aspect
        rows, cols = self.crop or (height, width)
        aspect = pixel_aspect * Fraction(cols, self.resize[1]) / Fraction(rows, self.resize[0])
        return round_aspect(aspect)

    def apply(self, rgb_HWC: Levels) -> Levels:
        """Return one frame, cropped and resized, of the same bit depth."""
        if self.crop is not None:
            rgb_HWC = _crop_centre(rgb_HWC, *self.crop)
        if self.resize is not None and self.resize != rgb_HWC.shape[:2]:
            rgb_HWC = _resize(rgb_HWC, *self.resize)
        return rgb_HWC


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _crop_centre(rgb_HWC: Levels, height: int, width: int) -> Levels:
    # Python rounds halves to even, so 720 rows cropped to 640 are rows 40 … 679.
    top = round((rgb_HWC.shape[0] - height) / 2)
    left = round((rgb_HWC.shape[1] - width) / 2)
    return rgb_HWC[top : top + height, left : left + width]


def _resize(rgb_HWC: Levels, height: int, width: int) -> Levels:
    """Average whole blocks where both factors are whole numbers, else antialiased bicubic (Pillow's)."""
    rows, row_rest = divmod(rgb_HWC.shape[0], height)
    cols, col_rest = divmod(rgb_HWC.shape[1], width)
    if rows and cols and not row_rest and not col_rest:
        #   (height · rows, width · cols, 3)  ->  one block of rows × cols samples per pixel; halves round up
        blocks = rgb_HWC.reshape(height, rows, width, cols, 3)
        total = blocks.sum(axis=(1, 3), dtype=np.uint64)
        count = np.uint64(rows * cols)
        mean: NDArray[np.uint64] = (2 * total + count) // (2 * count)
        return mean.astype(np.uint8) if rgb_HWC.dtype == np.uint8 else mean.astype(np.uint16)
    if rgb_HWC.dtype == np.uint16:
        return _resize_deep(rgb_HWC, height, width)
    image = Image.fromarray(np.ascontiguousarray(rgb_HWC))
    resized: NDArray[np.uint8] = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    return resized


def _resize_deep(rgb_HWC: Levels, height: int, width: int) -> NDArray[np.uint16]:
    """Resize 10-bit frames as 8-bit ones; Pillow has no colour images of more bits, but floats."""
    channels = []
    for channel in range(rgb_HWC.shape[2]):
        image = Image.fromarray(rgb_HWC[..., channel].astype(np.float32))
        channels.append(np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)))
    # Bicubic overshoots at edges.
    rounded_HWC: NDArray[np.float32] = np.rint(np.stack(channels, axis=-1))
    return rounded_HWC.clip(0, max_level(10)).astype(np.uint16)
