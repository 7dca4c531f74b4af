"""How long a fit lasts."""

from __future__ import annotations

import pytest

from vinr.fit.budget import Budget, Reserve, StepClock


def test_steps_are_counted_where_no_time_is_given() -> None:
    budget = Budget(40)
    assert [budget.progress(steps, 1e9, 1e9) for steps in (0, 10, 40, 41)] == [0, 0.25, 1, 1]


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
