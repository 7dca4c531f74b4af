"""Each published learning-rate rule as fields of Schedule and a progress, against the reference values."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from golden_tensors import Golden
from vinr.config import Schedule
from vinr.fit.schedules import learning_rate_multiplier

GOLDEN = Golden("learning_rate")
EPOCHS, FRAMES = GOLDEN.config["epochs"], GOLDEN.config["num_frames"]
UPDATES_PER_EPOCH = GOLDEN.config["iterations_per_epoch"]
UPDATES = EPOCHS * UPDATES_PER_EPOCH


def cosine(name: str) -> Schedule:
    """Return ``cosine_u_1_m``: a straight warm-up from m over the share u, then a cosine to zero."""
    warmup, power, start = map(float, GOLDEN.config[name].split("_")[1:])
    assert power == 1
    return Schedule(warmup=warmup, warmup_start=start, final=0)


def hybrid(name: str) -> Schedule:
    """Return ``hnerv_hybrid_u_1_g_m_f``: the same warm-up, then down to f by the power g."""
    warmup, power, decay, start, final = map(float, name.split("_")[2:])
    assert power == 1
    return Schedule(warmup=warmup, warmup_start=start, final=final, decay="power", power=decay)


def nerv(warmup: float) -> Schedule:
    return Schedule(warmup=warmup, warmup_start=0.1, final=0)


NERV = nerv(GOLDEN.config["nerv_warmup_epochs"] / EPOCHS)
(HYBRID,) = [name for name in GOLDEN.below("multiplier") if name.startswith("hnerv_hybrid_")]
# The cosine is not shifted by the warm-up.
RATES = GOLDEN.config["hinerv"]
HINERV = Schedule(
    warmup=RATES["warmup_epochs"] / EPOCHS,
    warmup_start=RATES["warmup_lr"] / RATES["lr"],
    final=RATES["min_lr"] / RATES["lr"],
    decay_from="start",
)
HINERV_FINE_TUNING = Schedule(warmup=0, final=RATES["min_lr"] / RATES["lr"])


def load(key: str) -> list[float]:
    values: list[float] = GOLDEN[key].tolist()
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
    "enerv": (nerv(GOLDEN.config["enerv_warmup"]), by_update),
    "ffnerv": (NERV, by_epoch),
    "dnerv_diff": (NERV, by_update),
    "dnerv_diverse": (NERV, by_epoch),
    "hnerv": (cosine("hnerv_schedule"), by_epoch),
    "boost": (cosine("boost_schedule"), by_epoch),
    HYBRID: (hybrid(HYBRID), by_epoch),
    "boost_compression": (cosine("boost_compression_schedule"), by_epoch),
    "hinerv": (HINERV, one_behind),
}

# Absolute rates of HiNeRV's three stages: schedule, full rate, updates.
HINERV_STAGES = {
    "main": (HINERV, RATES["lr"], UPDATES),
    "prune": (HINERV_FINE_TUNING, RATES["lr"], RATES["prune_epochs"] * UPDATES_PER_EPOCH),
    "quant": (
        HINERV_FINE_TUNING,
        RATES["lr"] * RATES["quant_lr_scale"],
        RATES["quant_epochs"] * UPDATES_PER_EPOCH,
    ),
}


def test_every_family_of_the_fixture_is_checked() -> None:
    assert GOLDEN.below("multiplier").keys() == FAMILIES.keys()


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
