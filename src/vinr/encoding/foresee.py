"""Tries an encode out, before anything is written: refuses what cannot be done in time, chooses a time.

::

    multiply-accumulates ─> less than any machine needs: refused at once
    a few frames read, the network tried ─> Workload ─> refused, or the time of a default, and a warning
"""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch

from vinr.compress.rescale import MAX_TRIALS
from vinr.config import Preset
from vinr.encoding.forecast import LONGEST_DEFAULT, Workload, check_time, choose_seconds, warning_of
from vinr.encoding.plan import EncodePlan
from vinr.encoding.segment_work import COARSER_TRIALS
from vinr.encoding.splitting import Job, busiest_worker
from vinr.encoding.trial import Costs, guess_costs, largest, try_costs
from vinr.errors import UsageError, argument
from vinr.fit import Event, StageBegun
from vinr.fit.fingerprint import hash_frames
from vinr.fit.precision import Precision
from vinr.units import format_seconds, seconds_as_option
from vinr.video.source import VideoReader
from vinr.video.spec import VideoSpec

# What writing the file and ending the process compute.
CLOSING_SECONDS: Final = 0.7
# The least that an encode takes, of a clip of a few frames: so many times what loading takes.
LOADING_FACTOR: Final = 2.0
# How long reading takes is tried on so many frames.
READ_FRAMES: Final = 8
# What is left for x264 of a time.
REFERENCE_SHARE, MOST_REFERENCE_SECONDS = 0.04, 60.0
# Networks run so many times more slowly than the convolution by which their costs are guessed.
TYPICAL_SLOWDOWN: Final = 4.0


@dataclass(frozen=True)
class Foreseen:
    """What a plan by time comes to: the plan with its time, and what it costs here."""

    plan: EncodePlan
    work: Workload

    @property
    def seconds(self) -> float:
        """The time for everything."""
        assert self.plan.seconds is not None
        return self.plan.seconds

    @property
    def steps_per_network(self) -> float:
        """Steps that each network gets."""
        return self.work.epochs_in(self.seconds) * self.work.costs.steps_per_epoch

    def notes(self) -> list[str]:
        """Return lines on what to expect."""
        epochs = self.work.epochs_in(self.seconds)
        fit = self.plan.presets[0].fit
        step = f"a step takes {self.work.costs.step:.2g} s"
        lines = [f"about {epochs:.1f} epochs in {format_seconds(self.seconds)}; {step}"]
        if (warning := warning_of(self.work, epochs, self.seconds, fit.recipe)) is not None:
            lines.append(warning)
        return lines


@dataclass(frozen=True)
class Trial:
    """What a network was found to cost; ``read`` is the seconds that reading a frame takes."""

    costs: Costs
    read: float


def try_network(
    job: Job,
    preset: Preset,
    readers: Mapping[int, VideoReader],
    device: torch.device,
    precision: Precision,
    *,
    choose_threads: bool = False,
) -> Trial:
    """Try a network on the first frames of ``job``; ``readers`` of its clips by number.

    ``choose_threads`` is that of :func:`try_costs`.
    """
    first = job.spans[0]
    count = min(READ_FRAMES, first.num_frames)
    began = clock.monotonic()
    frames = readers[first.clip].read(first.first_frame, first.first_frame + count)
    hash_frames(frames)  # as a fit does, to know its state again
    read = (clock.monotonic() - began) / count
    spec = job.spec({number: reader.spec for number, reader in readers.items()})
    frame_1CHW = frames.rgb_NCHW[:1]
    return Trial(try_costs(preset, spec, frame_1CHW, device, precision, choose_threads=choose_threads), read)


def slowest(trials: Sequence[Trial]) -> Trial:
    """Return the most that each part takes, of trials that ran side by side."""
    return Trial(largest([trial.costs for trial in trials]), max(trial.read for trial in trials))


def slowdown(passed: float, computed: float) -> float:
    """Return how much longer work takes than it computes, by ``passed`` seconds and those of the CPU."""
    return max(passed / max(computed, 1e-3), 1.0)


def closing_seconds(started: float) -> float:
    """Return what writing the file and ending the process take, as busy as the machine is.

    ``started`` is the reading of ``time.monotonic()`` when the process, or its work, began.
    """
    return CLOSING_SECONDS * slowdown(clock.monotonic() - started, clock.process_time())


def refuse_used_up(seconds: float, spent: float) -> None:
    """Refuse a time that is over before anything was read: loading PyTorch takes seconds, at times minutes.

    Raises
    ------
    UsageError
        If ``spent`` is not less than ``seconds``.
    """
    if spent >= seconds:
        taken = f"loading PyTorch alone took {format_seconds(spent)}, busy as this machine is now"
        needed = argument("time", seconds_as_option(LOADING_FACTOR * spent))
        raise UsageError(f"{format_seconds(seconds)} are too short: {taken}; give {needed} or more")


def foresee(
    plan: EncodePlan,
    specs: Sequence[VideoSpec],
    attempt: Callable[[], Trial],
    *,
    num_slots: int,
    on_this_cpu: bool,
    started: float,
    decided: float | None,
    reference: bool,
    on_event: Callable[[Event], None],
) -> Foreseen:
    """Try a plan by time on a few frames.

    Parameters
    ----------
    attempt
        Tries the first network, where networks will be fitted.
    num_slots
        How many networks are fitted at a time.
    on_this_cpu
        They are fitted on this machine's CPU, so that what is hopeless shows without trying it.
    started
        The reading of ``time.monotonic()`` from which the time counts.
    decided
        The time that an interrupted run of this encode was given; nothing is refused then.
    reference
        Whether x264 is measured in the end.

    Raises
    ------
    UsageError
        If the time is too short for the encode, or a default encode would take too long.
    """
    assert plan.seconds is not None
    if decided is None and on_this_cpu:
        _refuse_hopeless(plan, specs, clock.monotonic() - started, num_slots)
    on_event(StageBegun("trying"))
    trial = attempt()
    work = _workload(plan, specs, trial.costs, clock.monotonic() - started, num_slots)
    work = replace(work, spent=work.spent + trial.read * work.num_frames * work.scale)
    extra = closing_seconds(started)
    if reference:
        extra += min(REFERENCE_SHARE * plan.seconds, MOST_REFERENCE_SECONDS)
    work = replace(work, extra=extra)
    if decided is not None:
        return Foreseen(replace(plan, seconds=decided), work)
    if plan.time_is_chosen:
        return Foreseen(replace(plan, seconds=choose_seconds(work, plan.seconds)), work)
    check_time(work, plan.seconds)
    return Foreseen(plan, work)


def _refuse_hopeless(plan: EncodePlan, specs: Sequence[VideoSpec], spent: float, num_slots: int) -> None:
    """Refuse what no machine of this speed can do, without trying it."""
    least = guess_costs(plan.presets[0], plan.jobs[0].spec(specs))
    typical = replace(least, step=TYPICAL_SLOWDOWN * least.step, frame=TYPICAL_SLOWDOWN * least.frame)
    work, likely = (_workload(plan, specs, costs, spent, num_slots) for costs in (least, typical))
    assert plan.seconds is not None
    if plan.time_is_chosen:
        if work.seconds_for(1) > LONGEST_DEFAULT:
            choose_seconds(likely, plan.seconds)
    elif work.least_seconds > plan.seconds:
        check_time(likely, plan.seconds)


def _workload(
    plan: EncodePlan, specs: Sequence[VideoSpec], costs: Costs, spent: float, num_slots: int
) -> Workload:
    """Return the work of the worker with the most."""
    spec, preset = plan.jobs[0].spec(specs), plan.presets[0]
    load, num_networks = busiest_worker([job.share for job in plan.jobs], num_slots)
    phases = preset.fit.phases
    # With a target of bytes networks are coded, with one of quality also decoded, until they meet it.
    to_bytes, to_quality = plan.network_bytes is not None, bool(phases and phases[-1].target_psnr_db)
    return Workload(
        costs,
        num_frames=spec.num_frames,
        height=spec.height,
        width=spec.width,
        scale=load / plan.jobs[0].share,
        num_networks=num_networks,
        spent=spent,
        codings=1 + MAX_TRIALS * to_bytes + COARSER_TRIALS * to_quality,
        decodings=1 + COARSER_TRIALS * to_quality,
    )
