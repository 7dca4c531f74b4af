"""Numbers as people write them: 1.5M parameters, 10m of time, 640x1280 pixels, frames 0:48."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, Self

from vinr.errors import UsageError, plural, quoted, unknown

# Digits of a number, before and after the point: more is a mistake, and int() and float() have limits of
# their own.
_DIGITS = r"(\d{1,15}(?:\.\d{0,15})?)"
_MAX_COUNT = 10**15
_MAX_SECONDS = 10**9
_MAX_RATE_PART = 2 * 10**9
_COUNT_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_CLOCK = re.compile(f"(?:{_DIGITS}h)?(?:{_DIGITS}m)?(?:{_DIGITS}s?)?")


def parse_count(text: str | float) -> int:
    """Return a positive whole number from 1500000, ``1.5M``, ``200k``."""
    match = re.fullmatch(rf"{_DIGITS}\s*([kmgKMG]?)", str(text).strip())
    value = float(match[1]) * _COUNT_UNITS[match[2].lower()] if match else 0
    if not 1 <= value <= _MAX_COUNT:
        raise UsageError(f"number {quoted(text)}: give a positive one such as 200k or 1.5M")
    return round(value)


def parse_bytes(text: str | float) -> int:
    """Return bytes from 500000, ``500kB``, ``1.5MB`` (1 kB is 1000 bytes)."""
    match = re.fullmatch(rf"{_DIGITS}\s*([kmg]?)b?", str(text).strip().lower())
    value = float(match[1]) * _COUNT_UNITS[match[2]] if match else 0
    if not 1 <= value <= _MAX_COUNT:
        raise UsageError(f"size {quoted(text)}: give a positive one such as 500kB or 1.5MB")
    return round(value)


def parse_seconds(text: str | float) -> float:
    """Return seconds from 90, ``90s``, ``10m``, ``1h30m``."""
    match = _CLOCK.fullmatch(str(text).strip().lower())
    seconds = 0.0
    if match:
        hours, minutes, rest = match.groups("0")
        seconds = 3600 * float(hours) + 60 * float(minutes) + float(rest)
    if not 0 < seconds <= _MAX_SECONDS:
        raise UsageError(f"time {quoted(text)}: give a positive one such as 90s, 10m or 1h30m")
    return seconds


@dataclass(frozen=True)
class SegmentLength:
    """The longest length of a segment: ``seconds`` at the rate of the clip, or else ``frames``."""

    seconds: float | None = None
    frames: int | None = None

    @classmethod
    def of(cls, text: str | float) -> Self:
        """Return the length that 5, ``5s``, ``1m`` (of time) or ``120f`` (frames) stands for."""
        if match := re.fullmatch(r"(\d{1,9})\s*f", str(text).strip().lower()):
            if not int(match[1]):
                raise UsageError(f"segment {quoted(text)}: give at least one frame, such as 120f")
            return cls(frames=int(match[1]))
        try:
            return cls(seconds=parse_seconds(text))
        except UsageError:
            message = f"segment {quoted(text)}: give a time such as 5s or 1m, or frames such as 120f"
            raise UsageError(message) from None

    def num_frames(self, frame_rate: Fraction) -> int:
        """Return the length in frames of a clip of so many frames per second, at least 1."""
        if self.frames is not None:
            return self.frames
        assert self.seconds is not None
        return max(round(self.seconds * float(frame_rate)), 1)


def parse_depth(text: str | int | None) -> Literal[8, 10] | None:
    """Return a bit depth, 8 or 10; None stays None."""
    if text is None:
        return None
    match str(text).strip():
        case "8":
            return 8
        case "10":
            return 10
    raise UsageError(f"bit depth {quoted(text)}: give 8 or 10")


def parse_quality(text: str) -> Literal["low", "medium", "high"]:
    """Return one of three names."""
    match str(text).strip().lower():
        case "low":
            return "low"
        case "medium":
            return "medium"
        case "high":
            return "high"
    raise UsageError(unknown("quality", text, ("low", "medium", "high")))


def parse_rate(text: str | float | Fraction) -> Fraction:
    """Return frames per second from 25, ``29.97``, ``30000/1001``.

    Decimal numbers that round n · 1000/1001 stand for that: 23.976 and 23.98, 29.97, 59.94, 119.88.
    Fractions are taken as they are.
    """
    # A decimal number, or a fraction whose denominator has a digit other than 0.
    match = re.fullmatch(r"\d{1,6}(?:\.(\d{1,18}))?|\d{1,9}/0*[1-9]\d{0,8}", str(text).strip())
    rate = Fraction(match[0]) if match else Fraction(0)
    if match and match[1]:
        rate = _ntsc_rate(rate, len(match[1]))
        # Of many decimals as many as fit a file's header, which holds numerator and denominator.
        rate = rate.limit_denominator(_MAX_RATE_PART // (int(rate) + 1))
    if rate <= 0:
        raise UsageError(f"rate {quoted(text)}: give frames per second such as 25, 29.97 or 30000/1001")
    return rate


def _ntsc_rate(rate: Fraction, num_decimals: int) -> Fraction:
    """Return the rate of television in the NTSC countries that ``rate`` rounds, else ``rate``."""
    exact = Fraction(round(rate) * 1000, 1001)
    half_digit = Fraction(1, 2 * 10**num_decimals)
    return exact if rate.denominator != 1 and abs(rate - exact) <= half_digit else rate


SizeLike = tuple[int, int] | str
"""The size of a frame: (rows, columns), or as people write it (:meth:`FrameSize.of`)."""


@dataclass(frozen=True)
class FrameSize:
    """A size of frames, which may follow from that of another frame.

    ``height`` and ``width`` are in pixels; one that is None follows from the other and the shape of the
    frame, as a multiple of ``multiple``. Where ``share`` is set, both are that share of the frame's.
    ``reading`` says how it was read: ``160x90 is height x width``.
    """

    reading: str
    height: int | None = None
    width: int | None = None
    multiple: int = 1
    share: Fraction | None = None

    @classmethod
    def of(cls, size: SizeLike) -> Self:
        """Return the size that (rows, columns) or a text stands for.

        ``360x640`` is height x width, as in the papers' tables, ``640:360`` width:height, as in ffmpeg, where
        one may be -1 or -2: it follows, with -2 as an even number. ``360p`` is a height; the width follows as
        an even number. ``50%`` is a share of both.

        Raises
        ------
        UsageError
            If the text is none of these.
        """
        if not isinstance(size, str):
            return cls(f"{tuple(size)} is (rows, columns)", *size)
        text = size.strip().lower()
        if match := re.fullmatch(r"(\d{1,5})[x×](\d{1,5})", text):
            found = cls(f"{text} is height x width", int(match[1]), int(match[2]))
        elif match := re.fullmatch(r"(\d{1,5}|-[12]):(\d{1,5}|-[12])", text):
            width, height = int(match[1]), int(match[2])
            follows = max(1, -min(width, height))
            sides = [None if side < 0 else side for side in (height, width)]
            found = cls(f"{text} is width:height", sides[0], sides[1], follows)
        elif match := re.fullmatch(r"(\d{1,5})p", text):
            found = cls(f"{text} is a height", int(match[1]), None, 2)
        elif match := re.fullmatch(r"(\d{1,4}(?:\.\d{1,3})?)\s*%", text):
            found = cls(f"{text} is a share of both sides", share=Fraction(match[1]) / 100)
        else:
            found = cls("", 0)
        # A side of nothing, or two that would follow from each other.
        given = [side for side in (found.height, found.width, found.share) if side is not None]
        if not given or min(given) <= 0:
            raise UsageError(
                f"size {quoted(size)}: give width:height such as 640:360, 640:-2 or -2:360, "
                "height x width such as 360x640, 360p or 50%"
            )
        return found

    def of_frame(self, height: int, width: int) -> tuple[int, int]:
        """Return (rows, columns) for a frame of ``height`` × ``width``."""
        if self.share is not None:
            return _nearest(height * self.share, 1), _nearest(width * self.share, 1)
        rows, cols = self.height, self.width
        if rows is None:
            rows = _nearest(Fraction(height * (cols or 1), width), self.multiple)
        if cols is None:
            cols = _nearest(Fraction(width * rows, height), self.multiple)
        return rows, cols

    @property
    def follows(self) -> bool:
        """Whether a side follows from those of a frame."""
        return self.height is None or self.width is None

    def stored(self) -> list[int] | str:
        """Return the size as plain JSON: the same for all ways to write the same two numbers."""
        if self.height is not None and self.width is not None:
            return [self.height, self.width]
        return self.reading.partition(" is ")[0]


def _nearest(value: Fraction, multiple: int) -> int:
    """Return the multiple that is nearest, but not 0; halves go up."""
    return max(math.floor(value / multiple + Fraction(1, 2)), 1) * multiple


def parse_size(size: SizeLike) -> tuple[int, int]:
    """Return (rows, columns) where there is no frame that they could follow from."""
    if not isinstance(size, str):
        return size
    found = FrameSize.of(size)
    if found.height is None or found.width is None:
        raise UsageError(
            f"size {quoted(size)}: give both sides, such as 640:360 (width:height), 360x640 (height x width)"
        )
    return found.height, found.width


def parse_frames(text: str) -> tuple[int | None, int | None]:
    """Return (first, stop) from ``A:B``, half open; either end may be omitted (None)."""
    match = re.fullmatch(r"(\d{0,12}):(\d{0,12})", str(text).strip())
    if not match:
        raise UsageError(f"frames {quoted(text)}: give A:B, half open, such as 0:48, :48 or 100:")
    return _optional_int(match[1]), _optional_int(match[2])


def parse_indices(text: str, num_frames: int) -> list[int]:
    """Return frame numbers from a list such as ``0,10,20:40:5``; parts are numbers or Python slices."""
    indices: list[int] = []
    for part in text.split(","):
        # start, start:stop or start:stop:step; a negative start or stop counts from the end
        match = re.fullmatch(r"(-?\d{0,12})(?::(-?\d{0,12}))?(?::(-?\d{0,12}))?", part.strip())
        start, stop, step = map(_optional_int, match.groups()) if match else (None, None, 0)
        if not part.strip() or step == 0:
            raise UsageError(f"frames {quoted(text)}: give numbers and slices, such as 0,10,20:40:5")
        if ":" in part:
            indices += range(num_frames)[start:stop:step]
        elif start is None or not -num_frames <= start < num_frames:
            name = part.strip()
            raise UsageError(f"frame {name!r} does not exist; the clip has frames 0 to {num_frames - 1}")
        else:
            indices.append(start % num_frames)
    if not indices:
        raise UsageError(f"frames {quoted(text)} select nothing; the clip has frames 0 to {num_frames - 1}")
    return indices


def parse_list(text: str | None) -> list[str]:
    """Return the items of ``a,b,c``, none for ``None``; an empty item is refused."""
    parts = [] if text is None else [part.strip() for part in text.split(",")]
    if not all(parts):
        raise UsageError(f"list {quoted(text)}: has an empty item; separate items with one comma")
    return parts


def parse_numbers(text: str | None) -> list[float]:
    """Return the numbers of ``0.02,0.05``, none for ``None``."""
    try:
        numbers = [float(part) for part in parse_list(text)]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise UsageError(f"list {quoted(text)}: give numbers separated by commas, such as 0.02,0.05")
    return numbers


def _optional_int(text: str | None) -> int | None:
    """Return the number; None for nothing, and for a sign alone."""
    return int(text) if text and text != "-" else None


def format_count(value: float) -> str:
    """Return 1500000 as ``1.50 M``."""
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= unit:
            return f"{value / unit:.2f} {name}"
    return f"{value:.0f}"


def format_bytes(value: int) -> str:
    """Return 163840 as ``163,840 bytes``."""
    return plural(value, "byte")


def format_size(num_bytes: int) -> str:
    """Return 163840 as ``164 kB``: for what is known roughly."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.3g} {name}"
    return plural(num_bytes, "byte")


def format_seconds(seconds: float) -> str:
    """Return 12.3 as ``13 s``, 2300 as ``39 min``, 12000 as ``3 h 20 min``; rounded up."""
    if seconds <= 90:
        return f"{math.ceil(seconds)} s"
    minutes = math.ceil(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")


def format_length(seconds: float) -> str:
    """Return 300 as ``5 min``, 5400 as ``1 h 30 min``, 12.5 as ``12.5 s``: not rounded."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    words = []
    for value, unit in ((hours, "h"), (minutes, "min"), (rest, "s")):
        if value:
            words.append(f"{value:.6g} {unit}")
    return " ".join(words)


def seconds_as_option(seconds: float) -> str:
    """Return 12.3 as ``13s``, 2300 as ``39m``, 12000 as ``3h20m``: as :func:`parse_seconds` reads it."""
    return format_seconds(seconds).replace(" min", "m").replace(" ", "")
