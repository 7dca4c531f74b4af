"""An edit as people ask for it: sizes may follow from that of the video, which is known once it is open."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from vinr.errors import argument
from vinr.units import FrameSize, SizeLike
from vinr.video.edit import Edit

# A picture's width over its height may change by this factor without a note: rounding does that.
SAME_SHAPE: Final = Fraction(102, 100)


@dataclass(frozen=True)
class AskedEdit:
    """What :class:`Edit` says, with sizes as :meth:`vinr.units.FrameSize.of` takes them.

    Raises
    ------
    UsageError
        If a size cannot be read, or the range of frames is empty.
    """

    crop: SizeLike | None = None
    resize: SizeLike | None = None
    first_frame: int = 0
    stop_frame: int | None = None

    def __post_init__(self) -> None:
        # What is wrong whatever the video is said before it is opened.
        crop, resize = (size if isinstance(size, tuple) else None for size in (self.crop, self.resize))
        Edit(crop, resize, self.first_frame, self.stop_frame)
        for size in (self.crop, self.resize):
            if size is not None:
                FrameSize.of(size)

    def for_video(self, height: int, width: int) -> tuple[Edit, tuple[str, ...]]:
        """Return the edit of a video of ``height`` × ``width``, and lines for the user on what it changes."""
        rows, cols, crop, resize = height, width, None, None
        notes: tuple[str, ...] = ()
        if self.crop is not None:
            rows, cols = crop = FrameSize.of(self.crop).of_frame(rows, cols)
        if self.resize is not None:
            size = FrameSize.of(self.resize)
            resize = size.of_frame(rows, cols)
            if not is_same_shape(resize, (rows, cols)):
                notes = (_shape_note(size, resize, (rows, cols)),)
        return Edit(crop, resize, self.first_frame, self.stop_frame), notes


def is_same_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Return whether two sizes (rows, columns) have one ratio of width to height, but for rounding."""
    change = Fraction(size[1] * other[0], size[0] * other[1])
    return 1 / SAME_SHAPE <= change <= SAME_SHAPE


def _shape_note(asked: FrameSize, size: tuple[int, int], before: tuple[int, int]) -> str:
    """Return a line on a resize that changes the shape of the frame: what was read, what may be meant."""
    rows, cols = size
    note = (
        f"{asked.reading}: {cols} wide and {rows} high. The frame was {before[1]} wide and {before[0]} high: "
        f"players stretch the pixels back to that shape"
    )
    if asked.follows:  # it asks for the same shape, and so few pixels have none so close
        return note
    if rows != cols:
        note += f"; for {rows} wide and {cols} high write {argument('resize', f'{rows}:{cols}')}"
    return f"{note}; {argument('resize', f'{cols}:-2')} keeps the shape"
