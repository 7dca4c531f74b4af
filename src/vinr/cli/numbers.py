"""Options that take a number: bounds and mistakes are said in plain words, in one line."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import typer

from vinr.errors import UsageError, quoted


def whole_number(option: str, *, least: int, most: int | None = None, metavar: str = "N", help: str) -> Any:
    """Return an option that takes a whole number of ``least`` to ``most``."""
    allowed = (
        f"a whole number, at least {least}" if most is None else f"a whole number from {least} to {most}"
    )
    parser = _reader(option, int, least, math.inf if most is None else most, allowed)
    return typer.Option(option, parser=parser, metavar=metavar, help=help)


def number(option: str, *, least: float = -math.inf, metavar: str = "N", help: str) -> Any:
    """Return an option that takes a number of at least ``least``."""
    allowed = "a number" if least == -math.inf else f"a number, at least {least:g}"
    return typer.Option(
        option, parser=_reader(option, float, least, math.inf, allowed), metavar=metavar, help=help
    )


def _reader(
    option: str, kind: type[int] | type[float], least: float, most: float, allowed: str
) -> Callable[[str], float]:
    # Not the bounds of typer: those are shown as ``<int range>`` and ``x>=1``, and refused in the words of a
    # library.
    def read(text: str) -> float:
        try:
            value = kind(text)
        except (ValueError, OverflowError):
            value = math.nan
        if not least <= value <= most:  # not a number, too
            raise UsageError(f"{option} {quoted(text)}: give {allowed}")
        return value

    return read
