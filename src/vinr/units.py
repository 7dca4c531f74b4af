"""Numbers as people write them: 1.5M parameters, 10m of time, 640x1280 pixels, frames 0:48."""

from __future__ import annotations

import re

from vinr.errors import UsageError

__all__ = [
    "format_bytes",
    "format_count",
    "parse_count",
    "parse_frames",
    "parse_indices",
    "parse_seconds",
    "parse_size",
]

_COUNT_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_CLOCK = re.compile(r"(?:(\d+(?:\.\d*)?)h)?(?:(\d+(?:\.\d*)?)m)?(?:(\d+(?:\.\d*)?)s?)?")


def parse_count(text: str | float) -> int:
    """Return a positive whole number from 1500000, ``1.5M``, ``200k``."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([kmgKMG]?)", str(text).strip())
    value = float(match[1]) * _COUNT_UNITS[match[2].lower()] if match else 0
    if value < 1:
        raise UsageError(f"number {str(text)!r}: give a positive one such as 200k or 1.5M")
    return round(value)


def parse_seconds(text: str | float) -> float:
    """Return seconds from 90, ``90s``, ``10m``, ``1h30m``."""
    match = _CLOCK.fullmatch(str(text).strip().lower())
    parts = [float(part or 0) for part in match.groups()] if match else [0.0]
    seconds = sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
    if seconds <= 0:
        raise UsageError(f"time {str(text)!r}: give a positive one such as 90s, 10m or 1h30m")
    return seconds


def parse_size(text: str) -> tuple[int, int]:
    """Return (height, width) from ``640x1280``: rows first, as in the papers' tables."""
    match = re.fullmatch(r"(\d{1,5})[x×](\d{1,5})", str(text).strip().lower())
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if min(size) < 1:
        raise UsageError(f"size {text!r}: give height x width in pixels, such as 640x1280")
    return size


def parse_frames(text: str) -> tuple[int | None, int | None]:
    """Return (first, stop) from ``A:B``, half open, either end may be left out."""
    match = re.fullmatch(r"(\d*):(\d*)", str(text).strip())
    if not match:
        raise UsageError(f"frames {text!r}: give A:B, half open, such as 0:48, :48 or 100:")
    first, stop = (int(part) if part else None for part in match.groups())
    return first, stop


def parse_indices(text: str, num_frames: int) -> list[int]:
    """Return frame numbers from a list such as ``0,10,20:40:5``; parts are numbers or Python slices."""
    indices: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(-?\d*)(?::(-?\d*))?(?::(-?\d*))?", part.strip())
        numbers = (
            [int(item) if item not in (None, "", "-") else None for item in match.groups()] if match else []
        )
        if not match or not part.strip() or numbers[2:] == [0]:
            raise UsageError(f"frames {text!r}: give numbers and slices, such as 0,10,20:40:5")
        if ":" in part:
            indices += range(num_frames)[slice(*numbers)]
        elif numbers[0] is None or not -num_frames <= numbers[0] < num_frames:
            raise UsageError(
                f"frame {part.strip()!r} is not there; the clip has frames 0 to {num_frames - 1}"
            )
        else:
            indices.append(numbers[0] % num_frames)
    if not indices:
        raise UsageError(f"frames {text!r} select nothing; the clip has frames 0 to {num_frames - 1}")
    return indices


def format_count(value: float) -> str:
    """Return 1500000 as ``1.50 M``."""
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= unit:
            return f"{value / unit:.2f} {name}"
    return f"{value:.0f}"


def format_bytes(value: int) -> str:
    """Return 163840 as ``163,840 bytes``."""
    return f"{value:,} bytes"
