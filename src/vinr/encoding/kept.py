"""What an interrupted encode has left, read from its folder."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vinr.encoding.segment import SegmentValues
from vinr.errors import InputError
from vinr.fit.checkpoint import FitValues
from vinr.fit.precision import PrecisionName
from vinr.state.tensorfile import read_state_values


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
            parts.append(f"{self.num_segments} finished network{'s' * (self.num_segments > 1)}")
        if self.is_finished:
            parts.append("the finished fit")
        elif self.epochs_done is not None:
            parts.append(f"{self.epochs_done:.1f} epochs")
        return " and ".join(parts) or "nothing"


def find_kept(folder: Path) -> Kept:
    """Return what ``folder`` holds; files that are not readable as such count for nothing."""
    segments: list[SegmentValues] = []
    fits: list[FitValues] = []
    for path in sorted(folder.glob("segment-*.safetensors")):
        with suppress(InputError):
            segments.append(read_state_values(path, SegmentValues))
    for path in sorted(folder.glob("fit-*.safetensors")):
        with suppress(InputError):
            fits.append(read_state_values(path, FitValues))
    last = fits[-1] if fits else None
    known = [values.precision for values in segments] + [values.precision for values in fits]
    return Kept(
        num_segments=len(segments),
        epochs_done=None if last is None else last.epochs_done,
        is_finished=last is not None and last.is_finished,
        precision=known[0] if known else None,
    )
