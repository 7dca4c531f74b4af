"""Each published learning-rate rule as fields of Schedule and a progress, against the reference values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors import safe_open

from vinr.config import Schedule
from vinr.fit.schedules import learning_rate_multiplier

FIXTURE = Path(__file__).parents[1] / "parity" / "learning_rate.safetensors"
EPOCHS, FRAMES = 300, 132
UPDATES = EPOCHS * FRAMES

NERV = Schedule(warmup=0.2, warmup_start=0.1, final=0)
HNERV = Schedule(warmup=0.1, warmup_start=0.1, final=0)
HNERV_HYBRID = Schedule(warmup=0.1, warmup_start=0.1, final=0.05, decay="power", power=2)
BOOST_COMPRESSION = Schedule(warmup=0, final=0)
# Rates 2e-5 … 2e-3 … 2e-5; the cosine is not shifted by the warm-up.
HINERV = Schedule(warmup=0.1, warmup_start=0.01, final=0.01, decay_from="start")
HINERV_FINE_TUNING = Schedule(warmup=0, final=0.01)


def load(key: str) -> list[float]:
    with safe_open(FIXTURE, framework="pt") as file:
        values: list[float] = file.get_tensor(key).tolist()
    return values


def by_epoch(prefix: str = "") -> list[float]:
    """(epoch + iteration / frames) / epochs. NeRV divides by frames with two a batch, too."""
    pairs = zip(load(f"{prefix}epoch"), load(f"{prefix}iteration"), strict=True)
    return [(epoch + iteration / FRAMES) / EPOCHS for epoch, iteration in pairs]


def by_update(key: str = "update_index", num_updates: int = UPDATES) -> list[float]:
    return [index / num_updates for index in load(key)]


def one_behind(key: str = "update_index", num_updates: int = UPDATES) -> list[float]:
    """HiNeRV's scheduler lags: the first two updates use the starting rate."""
    return [max(index - 1, 0) / num_updates for index in load(key)]


FAMILIES: dict[str, tuple[Schedule, Callable[[], list[float]]]] = {
    "nerv": (NERV, by_epoch),
    "nerv_batch2": (NERV, lambda: by_epoch("batch2.")),
    "enerv": (NERV, by_update),
    "ffnerv": (NERV, by_epoch),
    "dnerv_diff": (NERV, by_update),
    "dnerv_diverse": (NERV, by_epoch),
    "hnerv": (HNERV, by_epoch),
    "boost": (HNERV, by_epoch),
    "hnerv_hybrid_0.1_1_2_0.1_0.05": (HNERV_HYBRID, by_epoch),
    "boost_compression": (BOOST_COMPRESSION, by_epoch),
    "hinerv": (HINERV, one_behind),
}

# Absolute rates of HiNeRV's three stages: schedule, full rate, updates.
HINERV_STAGES = {
    "main": (HINERV, 2e-3, UPDATES),
    "prune": (HINERV_FINE_TUNING, 2e-3, 60 * FRAMES),
    "quant": (HINERV_FINE_TUNING, 2e-4, 30 * FRAMES),
}


def test_every_family_of_the_fixture_is_checked() -> None:
    with safe_open(FIXTURE, framework="pt") as file:
        names = {key.removeprefix("multiplier/") for key in file.keys() if key.startswith("multiplier/")}  # noqa: SIM118
    assert names == set(FAMILIES)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_family(family: str) -> None:
    schedule, progress = FAMILIES[family]
    values = [learning_rate_multiplier(p, schedule) for p in progress()]
    assert values == pytest.approx(load(f"multiplier/{family}"), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("edge", ["", "edge_"])
@pytest.mark.parametrize("stage", sorted(HINERV_STAGES))
def test_hinerv_rates(stage: str, edge: str) -> None:
    schedule, full_rate, num_updates = HINERV_STAGES[stage]
    progress = one_behind(f"hinerv.{stage}.{edge}update_index", num_updates)
    rates = [full_rate * learning_rate_multiplier(p, schedule) for p in progress]
    assert rates == pytest.approx(load(f"hinerv.{stage}.{edge}learning_rate"), rel=1e-12, abs=0)


schedules = st.builds(
    Schedule,
    warmup=st.floats(0, 0.9),
    warmup_start=st.floats(0, 1),
    final=st.floats(0, 1),
    decay=st.sampled_from(["cosine", "power"]),
    power=st.floats(0.5, 8),
    decay_from=st.sampled_from(["warmup", "start"]),
)


@given(schedule=schedules)
def test_ends(schedule: Schedule) -> None:
    start = schedule.warmup_start if schedule.warmup else 1.0
    assert learning_rate_multiplier(0.0, schedule) == pytest.approx(start)
    assert learning_rate_multiplier(1.0, schedule) == pytest.approx(schedule.final, abs=1e-12)
    if schedule.decay_from == "warmup":
        assert learning_rate_multiplier(schedule.warmup, schedule) == pytest.approx(1)


@given(schedule=schedules, first=st.floats(0, 1), second=st.floats(0, 1))
def test_rises_then_falls_within_bounds(schedule: Schedule, first: float, second: float) -> None:
    early, late = sorted([first, second])
    before, after = learning_rate_multiplier(early, schedule), learning_rate_multiplier(late, schedule)
    assert 0 <= before <= 1 + 1e-12
    if late < schedule.warmup:
        assert before <= after + 1e-12
    elif early >= schedule.warmup:
        assert before >= after - 1e-12


def test_constant_rate() -> None:
    constant = Schedule(warmup=0, final=1)
    assert [learning_rate_multiplier(p / 7, constant) for p in range(8)] == [1.0] * 8


@pytest.mark.parametrize("progress", [-0.01, 1.01, float("nan")])
def test_progress_outside_is_refused(progress: float) -> None:
    with pytest.raises(ValueError, match="progress"):
        learning_rate_multiplier(progress, Schedule())


@pytest.mark.parametrize("field", [{"decay": "step"}, {"decay_from": "end"}, {"power": 0}, {"warmup": 1}])
def test_schedules_that_make_no_sense_are_refused(field: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Schedule.model_validate(field)
