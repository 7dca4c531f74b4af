"""All fits of an encode: they are tried, given their time, and done, in this process or on workers.

::

    plan ─> Place.settle: arithmetic ─> foresee: Place.attempt ─> state ─> Place.run ─> segments
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import torch

from vinr.device import may_choose_threads, resolve_device
from vinr.encoding.assembly import FinishedSegment
from vinr.encoding.choice import describe_choice, model_ahead
from vinr.encoding.foresee import Foreseen, Trial, foresee, try_network
from vinr.encoding.kept import find_kept
from vinr.encoding.plan import EncodePlan, describe_threads
from vinr.encoding.segment_work import SegmentWork
from vinr.encoding.timetable import Timetable
from vinr.encoding.trial import has_small_steps
from vinr.fit import Event, Noted
from vinr.fit.precision import Precision, PrecisionName, keep_precision, resolve_precision
from vinr.state.folder import StateFolder
from vinr.video.source import VideoReader
from vinr.video.spec import VideoSpec


class Place(ABC):
    """Where the networks of a plan are fitted."""

    @abstractmethod
    def settle(self, plan: EncodePlan, kept: PrecisionName | None) -> Precision:
        """Return the arithmetic of all fits: ``kept`` where something is gone on with."""

    @property
    @abstractmethod
    def num_slots(self) -> int:
        """How many networks are fitted at a time."""

    @property
    @abstractmethod
    def is_this_cpu(self) -> bool:
        """Whether networks are fitted on the CPU of this machine, in this process."""

    @abstractmethod
    def attempt(self, plan: EncodePlan, precision: Precision) -> Trial:
        """Try the first network."""

    @abstractmethod
    def run(
        self,
        plan: EncodePlan,
        timetable: Timetable | None,
        *,
        precision: Precision,
        folder: Path,
        resume: bool,
        on_event: Callable[[Event], None],
    ) -> list[FinishedSegment]:
        """Fit all networks, which keep their state in ``folder``; ``timetable`` is None without a time."""

    @abstractmethod
    def __str__(self) -> str:
        """Return the place in words, once the arithmetic is settled."""


class Here(Place):
    """This process: one network after another.

    Parameters
    ----------
    readers
        Those of all clips, in their order.
    device
        As for :func:`resolve_device`.
    threads
        Those that were asked for, None where they are open.
    """

    def __init__(self, readers: Sequence[VideoReader], device: str, threads: int | None) -> None:
        self._readers, self._device = dict(enumerate(readers)), resolve_device(device)
        self._may_choose_threads = threads is None and may_choose_threads(self._device)
        self._threads = torch.get_num_threads()

    def settle(self, plan: EncodePlan, kept: PrecisionName | None) -> Precision:
        """Return the arithmetic of all fits; choose the threads where no trial will."""
        specs = [reader.spec for reader in self._readers.values()]
        if plan.seconds is None and self._may_choose_threads and has_small_steps(plan, specs):
            # By size, not by a measurement: the same command gives the same bytes.
            torch.set_num_threads(1)
        here = resolve_precision(plan.presets[0].fit.precision, self._device)
        return here if kept is None else keep_precision(kept, here, self._device)

    @property
    def num_slots(self) -> int:
        """One."""
        return 1

    @property
    def is_this_cpu(self) -> bool:
        """Whether the device is a CPU."""
        return self._device.type == "cpu"

    def attempt(self, plan: EncodePlan, precision: Precision) -> Trial:
        """Try the first network."""
        if self._may_choose_threads:
            torch.set_num_threads(self._threads)  # a model tried before may have needed fewer
        return try_network(
            plan.jobs[0],
            plan.presets[0],
            self._readers,
            self._device,
            precision,
            choose_threads=self._may_choose_threads,
        )

    def run(
        self,
        plan: EncodePlan,
        timetable: Timetable | None,
        *,
        precision: Precision,
        folder: Path,
        resume: bool,
        on_event: Callable[[Event], None],
    ) -> list[FinishedSegment]:
        """Fit all networks, one after another."""
        segments: list[FinishedSegment] = []
        for number in range(len(plan.jobs)):
            work = SegmentWork.of(plan, number, precision=precision, folder=folder, resume=resume)
            allowance = None if timetable is None else timetable.allowance(number)
            before = segments[-1] if segments else None
            segments.append(
                work.run(
                    self._readers,
                    device=self._device,
                    allowance=allowance,
                    on_event=on_event,
                    before=before,
                )
            )
        return segments

    def __str__(self) -> str:
        return describe_threads(self._device)


@dataclass(frozen=True)
class Fits:
    """The fits of a plan.

    Parameters
    ----------
    plan, specs
        What is fitted, and the clips.
    state
        Where what is interrupted is kept.
    other_bytes
        Bytes of the file that are no networks.
    started
        The reading of ``time.monotonic()`` from which the time of the plan counts.
    resume
        Whether what is kept is gone on with.
    reference
        Whether x264 is measured in the end.
    replan
        Returns the plan with another model, by name; None if the model is not to be chosen.
    """

    plan: EncodePlan
    specs: Sequence[VideoSpec]
    state: StateFolder
    _: KW_ONLY
    other_bytes: int
    started: float
    resume: bool
    reference: bool
    replan: Callable[[str], EncodePlan] | None
    on_event: Callable[[Event], None]

    def run(self, place: Place) -> tuple[EncodePlan, list[FinishedSegment]]:
        """Return the plan, its time and model decided, and its segments.

        Raises
        ------
        UsageError
            If the time is too short for the encode, or a default encode would take too long.
        """
        kept = find_kept(self.state.folder).precision if self.resume else None
        precision = place.settle(self.plan, kept)
        foreseen = None if self.plan.seconds is None else self._foresee(self.plan, place, precision)
        if foreseen is not None and self.replan is not None:
            foreseen = self._with_model_ahead(foreseen, self.replan, place, precision)
        plan = self.plan if foreseen is None else foreseen.plan
        folder = self.state.prepare(decided_seconds=plan.seconds, decided_model=plan.presets[0].model)
        self.on_event(Noted(f"{plan.in_full(self.specs, self.other_bytes)}, on {place}, {precision}"))
        for note in [] if foreseen is None else foreseen.notes():
            self.on_event(Noted(note))
        timetable = None if foreseen is None else Timetable(foreseen, place.num_slots, self.started)
        segments = place.run(
            plan, timetable, precision=precision, folder=folder, resume=self.resume, on_event=self.on_event
        )
        return plan, segments

    def _with_model_ahead(
        self, foreseen: Foreseen, replan: Callable[[str], EncodePlan], place: Place, precision: Precision
    ) -> Foreseen:
        """Return ``foreseen``, or that of the model which is ahead in so much time."""
        model, steps = foreseen.plan.presets[0].model, foreseen.steps_per_network
        chosen = model_ahead(model, steps=steps, num_frames=foreseen.work.num_frames)
        if chosen is None:
            return foreseen
        self.on_event(Noted(describe_choice(model, chosen, steps)))
        return self._foresee(replan(chosen), place, precision)

    def _foresee(self, plan: EncodePlan, place: Place, precision: Precision) -> Foreseen:
        # A resumed encode has the time that was given, or that was chosen then.
        decided = self.state.decided_seconds if plan.time_is_chosen else plan.seconds
        return foresee(
            plan,
            self.specs,
            lambda: place.attempt(plan, precision),
            num_slots=place.num_slots,
            on_this_cpu=place.is_this_cpu,
            started=self.started,
            decided=decided if self.resume else None,
            reference=self.reference,
            on_event=self.on_event,
        )
