"""How long a fit lasts."""

from __future__ import annotations

import pytest

from vinr.fit.budget import Budget


def test_steps_are_counted_where_no_time_is_given() -> None:
    budget = Budget(40)
    assert [budget.progress(steps, 1e9, 1e9) for steps in (0, 10, 40, 41)] == [0, 0.25, 1, 1]


def test_a_slow_first_step_does_not_use_up_the_time() -> None:
    """A step of 6 s on a busy machine would reserve more than there is; the fit goes on all the same."""
    budget = Budget(1000, seconds=180, reserve_epochs=0.8)
    assert budget.progress(1, 6.0, epoch_seconds=6.0 * 66) == pytest.approx(6 / 135)
    assert budget.progress(60, 60.0, epoch_seconds=10.0) == pytest.approx(60 / 172)
    assert budget.progress(200, 175.0, epoch_seconds=10.0) == 1
