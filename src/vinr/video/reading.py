"""How an input is read: what its file does not say, or says more than one way."""

from __future__ import annotations

from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Final, Self

from vinr.errors import UsageError, argument
from vinr.units import SizeLike, parse_rate, parse_size
from vinr.video.spec import BitDepth

# Fields that arguments of functions call otherwise.
ARGUMENTS: Final = {"pixel_format": "pix_fmt"}


@dataclass(frozen=True)
class ReadOptions:
    """How an input is read.

    ``stream`` is the number of the video stream, from 0; None takes the one that players show.
    ``pixel_format`` and ``raw_size`` (rows, columns) are those of raw video, which states neither; None takes
    them from its name. ``rate`` is the frames per second of raw video and of folders of images.
    ``deinterlace`` makes full frames of interlaced ones. ``bit_depth`` is that of the frames, 8 or 10; None
    takes 8, and 10 for video of more than 8.
    """

    stream: int | None = None
    pixel_format: str | None = None
    raw_size: tuple[int, int] | None = None
    rate: Fraction | None = None
    deinterlace: bool = False
    bit_depth: BitDepth | None = None

    def __post_init__(self) -> None:
        if self.stream is not None and self.stream < 0:
            raise UsageError(f"stream {self.stream}: video streams are numbered from 0")
        if self.raw_size is not None and min(self.raw_size) < 1:
            raise UsageError(
                f"raw size {self.raw_size[0]}x{self.raw_size[1]}: both numbers must be at least 1"
            )

    @classmethod
    def of(
        cls,
        *,
        stream: int | None = None,
        pix_fmt: str | None = None,
        raw_size: SizeLike | None = None,
        rate: Fraction | float | str | None = None,
        deinterlace: bool = False,
        bit_depth: BitDepth | None = None,
    ) -> Self:
        """Return the options, with rate and size as people write them (:mod:`vinr.units`)."""
        exact = None if rate is None else parse_rate(rate)
        size = None if raw_size is None else parse_size(raw_size)
        return cls(stream, pix_fmt, size, exact, deinterlace, bit_depth)

    def refuse(self, path: str, names: tuple[str, ...], reason: str) -> None:
        """Raise :class:`UsageError` if one of the fields ``names`` is set: it has no effect on ``path``."""
        unset = ReadOptions()
        for field in fields(self):
            name = field.name
            if name in names and getattr(self, name) != getattr(unset, name):
                raise UsageError(f"{path}: {reason}; leave {argument(ARGUMENTS.get(name, name))} out")
