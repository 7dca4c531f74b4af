"""The state of a fit as named tensors and checked values, in memory and in a file.

::

    good   the end of the last good round, where a collapse goes back to ─┐
    now    inside the round at hand, if a step of it was done ────────────┴─> one file, with a fingerprint
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from vinr.errors import InputError, plural
from vinr.fit.draws import Draws
from vinr.fit.fingerprint import Fingerprint
from vinr.fit.precision import PrecisionName
from vinr.settings import StoredValues
from vinr.state.tensorfile import read_state, write_tensors

MOST_STEPS = 10**12
GOOD, NOW = "good.", "now."
Count = Annotated[int, Field(ge=0, le=MOST_STEPS)]
Seconds = Annotated[float, Field(ge=0)]


class ControlValues(StoredValues):
    """The state of rate control; means are none before the first step."""

    weight: float = Field(ge=0, description="weight of the rate")
    ratio: float = Field(gt=0, description="bytes of the coded network to those the prior expects")
    mean_bits: float | None = Field(description="running mean of the bits of all parameters")
    mean_psnr_db: float | None = Field(description="running mean of the PSNR, dB")
    cost_db: float = Field(description="what coding may cost to meet a quality, dB")
    rounds: tuple[tuple[float, float], ...] = Field(description="progress and mean PSNR of the last rounds")
    round_db: float = Field(description="mean PSNR of the steps of the round at hand, dB")
    round_steps: int = Field(ge=0, description="how many they are")
    round_start: float = Field(ge=0, le=1, description="progress of the phase where it began")
    progress: float = Field(ge=0, le=1, description="progress of the phase at the last step")


class SnapshotValues(StoredValues):
    """The values of a run between two steps."""

    part: int = Field(ge=-1, lt=16, description="-1: plain fit, 0 …: number of the phase")
    steps_done: Count = Field(description="steps since the start")
    round_steps: Count = Field(description="steps of them in the round at hand")
    seconds_done: Seconds = Field(description="seconds of work")
    step_seconds: Seconds = Field(description="seconds per step")
    best_psnr_db: float | None = Field(description="best round of the part, dB; none: no round yet")
    rate_scale: float = Field(gt=0, le=1, description="factor of the learning rate")
    num_collapses: int = Field(ge=0, le=100, description="collapses so far")
    optimizer_steps: tuple[Count | None, ...] = Field(description="steps that groups count, none: do not")
    control: ControlValues | None = Field(description="rate control; none in the plain fit")


class FitValues(StoredValues):
    """The values of a state of a fit."""

    kind: Literal["fit"] = Field(description="what the file holds")
    fingerprint: Fingerprint = Field(description="what it belongs to")
    precision: PrecisionName = Field(description="arithmetic of the fit")
    epochs_done: float = Field(ge=0, description="passes over all frames so far")
    is_finished: bool = Field(description="whether nothing is left to fit")
    good: SnapshotValues = Field(description="end of the last good round")
    now: SnapshotValues | None = Field(description="inside the round at hand; none: at its start")


@dataclass(frozen=True)
class Snapshot:
    """A run between two steps: ``tensors`` holds network, optimiser and random state, by name."""

    tensors: Mapping[str, Tensor] = field(repr=False)
    values: SnapshotValues


@dataclass(frozen=True)
class FitState:
    """Everything that decides how a fit goes on: from ``now`` if there is such, else from ``good``."""

    good: Snapshot
    now: Snapshot | None
    precision: PrecisionName
    epochs_done: float
    fingerprint: Fingerprint
    is_finished: bool = False

    @property
    def last(self) -> Snapshot:
        """Where the fit goes on."""
        return self.good if self.now is None else self.now

    def check_rounds(self, most_steps: float) -> None:
        """Refuse a state of more than ``most_steps``, or whose two rounds do not follow one another.

        Raises
        ------
        InputError
            Naming what does not fit.
        """
        good, last = self.good.values, self.last.values
        steps_done = max(good.steps_done, last.steps_done)
        if steps_done > most_steps:
            raise InputError(f"the kept state has {steps_done} steps, the fit only {most_steps:.0f}")
        # steps    0 ────────── good ──────── last        good ends a round, last lies in the next one
        #                        └ round_steps ┘
        is_next_round = last.part == good.part and last.steps_done - last.round_steps == good.steps_done
        if good.round_steps or not is_next_round:
            raise InputError("the rounds of the kept state do not follow one another")
        for snapshot in (self.good, self.last):
            check_tensors({"mse": torch.zeros(())}, under_prefix("round.", snapshot.tensors), "tensor")


def write_fit_state(path: Path, state: FitState) -> None:
    """Keep ``state``.

    Raises
    ------
    OutputError
        If the system refuses to write; what ``path`` held before is still there.
    """
    tensors = with_prefix(GOOD, state.good.tensors)
    if state.now is not None:
        tensors |= with_prefix(NOW, state.now.tensors)
    values = FitValues(
        kind="fit",
        fingerprint=state.fingerprint,
        precision=state.precision,
        epochs_done=state.epochs_done,
        is_finished=state.is_finished,
        good=state.good.values,
        now=None if state.now is None else state.now.values,
    )
    write_tensors(path, tensors, values.model_dump(mode="json"))


def read_fit_state(path: Path, fingerprint: Fingerprint | None = None) -> FitState:
    """Return what :func:`write_fit_state` kept.

    Raises
    ------
    InputError
        If it is no state of a fit, of another version, or damaged.
    UsageError
        If its fingerprint is not ``fingerprint``.
    """
    tensors, values = read_state(path, FitValues)
    if fingerprint is not None:
        fingerprint.check(values.fingerprint)
    now = None if values.now is None else Snapshot(under_prefix(NOW, tensors), values.now)
    good = Snapshot(under_prefix(GOOD, tensors), values.good)
    return FitState(
        good, now, values.precision, values.epochs_done, values.fingerprint, is_finished=values.is_finished
    )


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``tensors`` under names that begin with ``prefix``."""
    return {prefix + name: value for name, value in tensors.items()}


def under_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return those of ``tensors`` whose names begin with ``prefix``, under the rest of their names."""
    chosen = {}
    for name, value in tensors.items():
        if name.startswith(prefix):
            chosen[name.removeprefix(prefix)] = value
    return chosen


def all_finite(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether no number of the floating ones is NaN or infinite; the device is waited for once."""
    floats = [value.detach() for value in tensors.values() if value.is_floating_point() and value.numel()]
    if not floats:
        return True
    # The largest magnitude of a tensor is finite if all of it is; so the device is waited for once.
    largest = torch._foreach_norm(floats, float("inf"))
    return bool(torch.stack(list(map(Tensor.float, largest))).isfinite().all())


def check_tensors(expected: Mapping[str, Tensor], kept: Mapping[str, Tensor], what: str) -> None:
    """Refuse tensors that are not those ``expected``, by name, type and shape.

    Raises
    ------
    InputError
        Naming the first one.
    """
    for name in sorted(expected.keys() ^ kept.keys()):
        article = "an unknown" if name in kept else "no"
        raise InputError(f"the kept state has {article} {what} {name[:100]!r}")
    for name, value in kept.items():
        like = expected[name]
        if value.shape != like.shape or value.dtype != like.dtype:
            raise InputError(
                f"the kept state has {what} {name!r} of {value.dtype} {tuple(value.shape)}, "
                f"not of {like.dtype} {tuple(like.shape)}"
            )


def pack_optimizer(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], tuple[int | None, ...]]:
    """Return from ``optimizer.state_dict()`` what steps change: tensors by name, steps of groups that count.

    Rates are set before each step, and all else of the groups follows from the settings.
    """
    tensors: dict[str, Tensor] = {}
    for index, slots in state["state"].items():
        tensors |= with_prefix(f"{index}.", slots)
    return tensors, tuple(group.get("step") for group in state["param_groups"])


def unpack_optimizer(
    state: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    steps: tuple[int | None, ...],
    slots: Mapping[int, Mapping[str, Tensor]],
) -> dict[str, Any]:
    """Return the ``state_dict()`` of an optimiser that has done ``steps``, given one of a new optimiser.

    ``slots``: for the number of each parameter what its rule keeps of it once it has moved it.

    Raises
    ------
    InputError
        If tensors or steps do not belong to it.
    """
    # "12.exp_avg" is what Adam keeps of parameter 12; a parameter that no step has moved has nothing.
    kept: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        if not index.isdecimal() or int(index) not in slots:
            raise InputError(f"the kept state has an unknown moment {key[:100]!r}")
        kept.setdefault(int(index), {})[name] = value
    for number, values in kept.items():
        check_tensors(slots[number], values, f"moment of parameter {number}")
    if len(steps) != len(state["param_groups"]):
        raise InputError(
            f"the kept state has {plural(len(steps), 'group')} of parameters, not "
            f"{len(state['param_groups'])}"
        )
    groups = list(map(dict, state["param_groups"]))
    for group, count in zip(groups, steps, strict=True):
        if count is not None:
            group["step"] = count
    return {"state": kept, "param_groups": groups}


def restore_draws(draws: Draws, states: Mapping[str, Tensor]) -> None:
    """Let ``draws`` go on from ``states``.

    Raises
    ------
    InputError
        If ``states`` are none.
    """
    # A fit begun on another device has no generator of this one's; every fit has one on the CPU.
    expected = draws.state()
    for name in expected.keys() - states.keys() - {"cpu"}:
        del expected[name]
    usable = dict(states)
    for name in states.keys() - expected.keys():
        del usable[name]
    check_tensors(expected, usable, "random state")
    try:
        draws.load(states)
    except RuntimeError as error:
        raise InputError(f"the kept state has an unusable random state ({error})") from None
