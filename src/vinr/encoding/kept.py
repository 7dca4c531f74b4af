"""What an interrupted encode has left, read from its folder."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vinr.encoding.segment import SegmentValues
from vinr.errors import InputError, plural
from vinr.fit.checkpoint import FitValues
from vinr.fit.precision import PrecisionName
from vinr.state.tensorfile import read_state_values

Values = TypeVar("Values", SegmentValues, FitValues)


def segment_path(folder: Path, number: int) -> Path:
    """Return the file in ``folder`` of the finished segment ``number``."""
    return folder / f"segment-{number:05d}.safetensors"


def fit_path(folder: Path, number: int) -> Path:
    """Return the file in ``folder`` of the fit of segment ``number``."""
    return folder / f"fit-{number:05d}.safetensors"


@dataclass(frozen=True)
class Kept:
    """What a folder holds: finished segments, a fit and how far it came, the arithmetic of all of them."""

    num_segments: int = 0
    epochs_done: float | None = None
    is_finished: bool = False
    precision: PrecisionName | None = None

    def __bool__(self) -> bool:
        return self.num_segments > 0 or self.epochs_done is not None

    def __str__(self) -> str:
        parts = []
        if self.num_segments:
            parts.append(plural(self.num_segments, "finished network"))
        if self.is_finished:
            parts.append("the finished fit")
        elif self.epochs_done is not None:
            parts.append(f"{self.epochs_done:.1f} epochs")
        return " and ".join(parts) or "nothing"


def find_kept(folder: Path) -> Kept:
    """Return what ``folder`` holds; files that are not readable as such count for nothing."""
    segments = _read_all(folder, "segment-*.safetensors", SegmentValues)
    fits = _read_all(folder, "fit-*.safetensors", FitValues)
    last = fits[-1] if fits else None
    kept: list[SegmentValues | FitValues] = [*segments, *fits]
    return Kept(
        num_segments=len(segments),
        epochs_done=None if last is None else last.epochs_done,
        is_finished=last is not None and last.is_finished,
        precision=kept[0].precision if kept else None,
    )


def _read_all(folder: Path, pattern: str, kind: type[Values]) -> list[Values]:
    """Return the values of the readable files of a kind, in the order of their names."""
    values = []
    for path in sorted(folder.glob(pattern)):
        with suppress(InputError):
            values.append(read_state_values(path, kind))
    return values
