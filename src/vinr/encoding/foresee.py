"""Tries an encode out, before anything is written: refuses what cannot be done in time, chooses a time.

::

    multiply-accumulates ─> less than any machine needs: refused at once
    a few frames read, the network tried ─> Workload ─> refused, or the time of a default, and a warning
"""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch

from vinr.compress.rescale import MAX_TRIALS
from vinr.encoding.forecast import LONGEST_DEFAULT, Workload, check_time, choose_seconds, warning_of
from vinr.encoding.plan import EncodePlan, count_pixels
from vinr.encoding.segment_work import COARSER_TRIALS, Allowance
from vinr.encoding.trial import Costs, guess_costs, try_costs
from vinr.fit import Event, Reserve, StageBegun
from vinr.fit.precision import Precision
from vinr.units import format_seconds
from vinr.video.source import VideoReader
from vinr.video.spec import VideoSpec

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

    def allowance(self, number: int, began: float) -> Allowance:
        """Return the time of network ``number`` of the plan, which ``began`` then."""
        job, costs = self.plan.jobs[number], self.work.costs
        # The last step ends within the time, too.
        reserve = Reserve(self.work.after * job.share + costs.step, costs.step * costs.steps_per_epoch)
        return Allowance(self.seconds * job.share, began, costs.build, reserve)

    def notes(self) -> list[str]:
        """Return lines on what to expect."""
        epochs = self.work.epochs_in(self.seconds)
        fit = self.plan.presets[0].fit
        step = f"a step takes {self.work.costs.step:.2g} s"
        lines = [f"about {epochs:.1f} epochs in {format_seconds(self.seconds)}; {step}"]
        if (warning := warning_of(self.work, epochs, self.seconds, fit.recipe)) is not None:
            lines.append(warning)
        return lines


def foresee(
    plan: EncodePlan,
    readers: Sequence[VideoReader],
    *,
    device: torch.device,
    precision: Precision,
    started: float,
    decided: float | None,
    reference: bool,
    choose_threads: bool,
    on_event: Callable[[Event], None],
) -> Foreseen:
    """Try a plan by time on a few frames.

    Parameters
    ----------
    started
        The reading of ``time.monotonic()`` from which the time counts.
    decided
        The time that an interrupted run of this encode was given; nothing is refused then.
    reference
        Whether x264 is measured in the end.
    choose_threads
        As for :func:`try_costs`.

    Raises
    ------
    UsageError
        If the time is too short for the encode, or a default encode would take too long.
    """
    assert plan.seconds is not None
    specs = [reader.spec for reader in readers]
    if decided is None and device.type == "cpu":
        _refuse_hopeless(plan, specs, clock.monotonic() - started)
    on_event(StageBegun("trying"))
    first = plan.jobs[0].spans[0]
    count = min(READ_FRAMES, first.num_frames)
    began = clock.monotonic()
    frames = readers[first.clip].read(first.first_frame, first.first_frame + count)
    per_frame = (clock.monotonic() - began) / count
    preset, spec = plan.presets[0], plan.jobs[0].spec(specs)
    frame_1CHW = frames.rgb_NCHW[:1]
    costs = try_costs(preset, spec, frame_1CHW, device, precision, choose_threads=choose_threads)
    num_frames = sum(spec.num_frames for spec in specs)
    spent = clock.monotonic() - started + per_frame * num_frames
    work = _workload(plan, specs, costs, spent)
    if reference:
        work = replace(work, extra=min(REFERENCE_SHARE * plan.seconds, MOST_REFERENCE_SECONDS))
    if decided is not None:
        return Foreseen(replace(plan, seconds=decided), work)
    if plan.time_is_chosen:
        return Foreseen(replace(plan, seconds=choose_seconds(work, plan.seconds)), work)
    check_time(work, plan.seconds)
    return Foreseen(plan, work)


def _refuse_hopeless(plan: EncodePlan, specs: Sequence[VideoSpec], spent: float) -> None:
    """Refuse what no machine of this speed can do, without trying it."""
    least = guess_costs(plan.presets[0], plan.jobs[0].spec(specs))
    typical = replace(least, step=TYPICAL_SLOWDOWN * least.step, frame=TYPICAL_SLOWDOWN * least.frame)
    work, likely = (_workload(plan, specs, costs, spent) for costs in (least, typical))
    assert plan.seconds is not None
    if plan.time_is_chosen:
        if work.seconds_for(1) > LONGEST_DEFAULT:
            choose_seconds(likely, plan.seconds)
    elif work.least_seconds > plan.seconds:
        check_time(likely, plan.seconds)


def _workload(plan: EncodePlan, specs: Sequence[VideoSpec], costs: Costs, spent: float) -> Workload:
    spec, preset = plan.jobs[0].spec(specs), plan.presets[0]
    phases = preset.fit.phases
    # With a target of bytes networks are coded, with one of quality also decoded, until they meet it.
    to_bytes, to_quality = plan.network_bytes is not None, bool(phases and phases[-1].target_psnr_db)
    return Workload(
        costs,
        num_frames=spec.num_frames,
        height=spec.height,
        width=spec.width,
        scale=count_pixels(specs) / spec.num_pixels,
        num_networks=len(plan.jobs),
        spent=spent,
        codings=1 + MAX_TRIALS * to_bytes + COARSER_TRIALS * to_quality,
        decodings=1 + COARSER_TRIALS * to_quality,
    )
