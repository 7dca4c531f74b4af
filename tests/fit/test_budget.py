"""How long a fit lasts."""

from __future__ import annotations

import time

import pytest

from vinr.fit.budget import Budget, Reserve, StepClock


def test_steps_are_counted_where_no_time_is_given() -> None:
    budget = Budget(40)
    assert [budget.progress(steps, 1e9, 1e9) for steps in (0, 10, 40, 41)] == [0, 0.25, 1, 1]


def test_the_clock_is_that_of_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    budget = Budget(1000, seconds=10)
    monkeypatch.setattr(time, "monotonic", lambda: 105.0)
    assert budget.progress(1, 1.0, epoch_seconds=1.0) == 0.5


def test_a_slow_first_step_does_not_use_up_the_time() -> None:
    """A step of 6 s on a busy machine would reserve more than there is; the fit goes on all the same."""
    budget = Budget(1000, seconds=180, reserve=Reserve(epochs=0.8))
    assert budget.progress(1, 6.0, epoch_seconds=6.0 * 66) == pytest.approx(6 / 135)
    assert budget.progress(60, 60.0, epoch_seconds=10.0) == pytest.approx(60 / 172)
    assert budget.progress(200, 175.0, epoch_seconds=10.0) == 1


def test_however_little_time_there_is_one_step_is_done() -> None:
    budget = Budget(1000, seconds=1e-9)
    assert budget.progress(0, 0.0, epoch_seconds=0.0) == 0
    assert budget.progress(1, 1.0, epoch_seconds=66.0) == 1


class FakeTime:
    """A clock that goes on when told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_steps_that_return_before_the_device_is_done_are_timed_by_rounds() -> None:
    """Launching takes 1 s, computing 3 s: a round of 5 steps takes 15 s, whatever the launches say."""
    now = FakeTime()
    clock = StepClock(now)
    steps = 0
    for _ in range(4):
        clock.start()
        for _ in range(5):
            now.seconds += 1
            steps += 1
            clock.tick(steps)
        now.seconds += 10
        clock.wait(steps)
        assert clock.seconds == pytest.approx(3 * steps)
        assert clock.step_seconds == pytest.approx(3)


def test_what_is_no_step_is_not_timed() -> None:
    now = FakeTime()
    clock = StepClock(now)
    clock.start()
    for step in (1, 2):
        now.seconds += 2
        clock.tick(step)
        now.seconds += 50  # the state is written
        clock.skip()
    clock.wait(2)
    assert (clock.seconds, clock.step_seconds) == (4, pytest.approx(2))


def test_the_first_steps_are_forgotten() -> None:
    now = FakeTime()
    clock = StepClock(now)
    clock.start()
    for step in range(1, 201):
        now.seconds += 60 if step == 1 else 1
        clock.tick(step)
        clock.start()
    assert clock.step_seconds == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("prepared", "passed", "progress"),
    [
        (0.0, 0.0, 0.0),
        (0.0, 40.0, 0.5),  # 100 s, of which 20 s are left for what follows
        (20.0, 0.0, 0.0),  # building took 20 s: the schedule begins at its start, and ends 20 s sooner
        (20.0, 30.0, 0.5),
        (20.0, 60.0, 1.0),
        (500.0, 1.0, 1.0),  # building took more than there was: one step, no more
    ],
)
def test_what_building_took_is_taken_off_the_time(prepared: float, passed: float, progress: float) -> None:
    now = FakeTime()
    budget = Budget(9, seconds=100.0, reserve=Reserve(20.0), began=now.seconds, prepared=prepared, now=now)
    now.seconds += passed
    assert budget.progress(1, 0.0, epoch_seconds=0.0) == pytest.approx(progress)


def test_a_fit_and_what_follows_end_within_the_time_as_the_machine_becomes_busier() -> None:
    """Steps of 1 s become ones of 2 s: what was tried is taken to last twice as long, too."""
    now = FakeTime()
    reserve = Reserve(seconds=10.0, epoch_seconds=5.0)
    budget = Budget(10**6, seconds=100.0, reserve=reserve, began=now.seconds, prepared=6.0, now=now)
    steps, usual = 0, 1.0
    while budget.progress(steps, 0.0, 5 * usual) < 1:
        took = 1.0 if now.seconds < 130 else 2.0
        now.seconds += took
        steps += 1
        usual += 0.2 * (took - usual)
    spent = 6.0 + now.seconds - 100.0
    assert 100 - 2 * 10 - 2 <= spent <= 100 - 2 * 10 + 2
