"""The points of a comparison: what is to be measured, and what is measured by now, in whatever order.

::

    codecs, files, networks ──> jobs ──> here or on workers ──> measured points ──> curves
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from vinr.codecs.anchors import Anchor
from vinr.comparison.kept import Crops
from vinr.comparison.plan import ComparedFile, FitJob, Sweep
from vinr.comparison.rd import Kind, RDCurve, RDPoint
from vinr.fit import Event, RoundDone
from vinr.fit.events import FramesDone
from vinr.units import format_length

PROGRAM: Final = "vinr"
Progress = Callable[[str, float], None]
"""Takes what is being done, and the share of all that is done, 0 to 1."""


@dataclass(frozen=True)
class CodecRun:
    """A codec at one quality."""

    anchor: Anchor
    quality: int


@dataclass(frozen=True)
class PointJob:
    """A point to measure: of ``curve``, among whose points ``setting`` tells it.

    ``file`` is what the page calls the .vinr file that is measured, ``network`` what it calls the model,
    whatever time it was given; a codec has neither.
    """

    curve: str
    setting: str
    work: CodecRun | ComparedFile | FitJob
    file: str = ""
    network: str = ""

    @property
    def kind(self) -> Kind:
        """The kind of its curve."""
        return "anchor" if isinstance(self.work, CodecRun) else "vinr"

    @property
    def budget_seconds(self) -> float | None:
        """The wall-clock time a network is given, if it is given one."""
        return self.work.seconds if isinstance(self.work, FitJob) else None

    @property
    def name(self) -> str:
        """What tells it from all other points."""
        return f"{self.curve}, {self.setting}"


@dataclass(frozen=True)
class Measured:
    """What came of a job. ``made_by``: the versions of a codec, or what a network was computed on."""

    point: RDPoint
    crops: Crops
    made_by: str


def list_points(
    sweeps: Sequence[Sweep],
    files: Sequence[ComparedFile],
    models: Sequence[str],
    fits: Sequence[FitJob],
    folder: Path,
    *,
    width: int,
) -> list[PointJob]:
    """Return all points. Codecs come first: they are quick to refuse a frame size.

    ``models`` are those of ``files``, ``folder`` holds what is fitted; frames have ``width`` pixels.
    """
    jobs = []
    for anchor, qualities in sweeps:
        for quality in qualities:
            setting = anchor.setting(quality, width=width)
            jobs.append(PointJob(anchor.name, setting, CodecRun(anchor, quality)))
    names = [Path(file.name).name for file in files]
    for file, name, model in zip(files, names, models, strict=True):
        # Files of one name are told apart by their paths: points and crops are found by what is shown.
        setting = name if names.count(name) == 1 else file.name
        network = _network_name(model)
        jobs.append(PointJob(network, setting, file, file.name, network))
    has_times = len({fit.seconds for fit in fits}) > 1
    for fit in fits:
        file_name = str(folder / fit.file_name)
        network = _network_name(fit.curve)
        curve = f"{network} {format_length(fit.seconds)}" if has_times and fit.seconds else network
        jobs.append(PointJob(curve, fit.setting, fit, file_name, network))
    return jobs


def _network_name(model: str) -> str:
    """Return what the page calls a model; one that is called as the program is not called so twice."""
    return model if model == PROGRAM else f"{PROGRAM} {model}"


@final
class Points:
    """Takes the points of ``jobs`` as they are measured, and says how far all is; each counts the same."""

    def __init__(self, jobs: Sequence[PointJob], on_progress: Progress | None) -> None:
        self.jobs, self._on_progress = jobs, on_progress
        self._measured: dict[int, Measured] = {}
        self._shares: dict[int, float] = {}  # of those at work

    @property
    def num_done(self) -> int:
        """How many are measured."""
        return len(self._measured)

    def hear(self, number: int, event: Event) -> None:
        """Take an event of point ``number``, which is being measured."""
        name = self.jobs[number].name
        match event:
            case FramesDone():
                self._move(number, event.done / event.total, name)
            case RoundDone():
                detail = f"epoch {event.epochs_done:.1f}, {event.psnr_db:.2f} dB"
                self._move(number, event.progress, f"{name}: {detail}")

    def take(self, number: int, measured: Measured) -> bool:
        """Take point ``number``; return whether it completes something: a network, or a codec's curve."""
        self._measured[number] = measured
        self._shares.pop(number, None)
        job = self.jobs[number]
        self._show(job.name)
        if job.kind == "vinr":
            return True
        return all(other in self._measured for other, own in enumerate(self.jobs) if own.curve == job.curve)

    def curves(self) -> list[RDCurve]:
        """Return the curves of all that is measured, networks first, in the order of the jobs."""
        found: dict[tuple[Kind, str], list[int]] = {}
        for number, job in enumerate(self.jobs):
            if number in self._measured:
                found.setdefault((job.kind, job.curve), []).append(number)
        curves = map(self._curve, found.values())
        return sorted(curves, key=lambda curve: curve.kind != "vinr")

    def _curve(self, numbers: Sequence[int]) -> RDCurve:
        """Return the curve of the points ``numbers``, all of one name."""
        first = self.jobs[numbers[0]]
        points, budgets = [], set()
        for number in numbers:
            points.append(self._measured[number].point)
            budgets.add(self.jobs[number].budget_seconds)
        return RDCurve(
            first.curve,
            first.kind,
            tuple(points),
            self._measured[numbers[0]].made_by,
            network=first.network,
            # A file that was fitted before joins the curve of its model: then the time is no common one.
            budget_seconds=first.budget_seconds if len(budgets) == 1 else None,
        )

    def crops(self, curve: str, setting: str) -> Crops:
        """Return the crops of a measured point."""
        for number, measured in self._measured.items():
            job = self.jobs[number]
            if (job.curve, job.setting) == (curve, setting):
                return measured.crops
        raise KeyError(curve, setting)

    def _move(self, number: int, share: float, text: str) -> None:
        if number not in self._measured:  # told late, which changes nothing any more
            self._shares[number] = min(share, 1.0)
            self._show(text)

    def _show(self, text: str) -> None:
        if self._on_progress is not None:
            done = self.num_done + sum(self._shares.values())
            self._on_progress(text, done / max(len(self.jobs), 1))
