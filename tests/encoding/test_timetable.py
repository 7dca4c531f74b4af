"""A time is shared by networks, whether they are fitted one after another or by several workers at once."""

from __future__ import annotations

import time as clock
from pathlib import Path
from types import SimpleNamespace

import pytest

import vinr
from vinr.encoding import timetable
from vinr.encoding.encode import time_counted_from
from vinr.encoding.forecast import Workload
from vinr.encoding.foresee import Foreseen, refuse_used_up
from vinr.encoding.plan import plan_encode
from vinr.encoding.splitting import busiest_worker
from vinr.encoding.timetable import Timetable, sent
from vinr.encoding.trial import Costs
from vinr.errors import UsageError, command_line_words
from vinr.units import SegmentLength
from vinr.video.spec import VideoSpec

CLIP = VideoSpec(36, 24, 40)
COSTS = Costs(build=0.5, step=1.0, freeze=0.0, code=2.0, frame=0.25, steps_per_epoch=2)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands at 10 s."""
    clock = SimpleNamespace(seconds=10.0)
    clock.monotonic = lambda: clock.seconds
    monkeypatch.setattr(timetable, "clock", clock)
    return clock


def foreseen(seconds: float) -> Foreseen:
    """Nine networks of four frames each."""
    plan = plan_encode([CLIP], preset="nerv-tiny", seconds=seconds, segment=SegmentLength(frames=4))
    assert len(plan.jobs) == 9
    return Foreseen(plan, Workload(COSTS, num_frames=4, height=24, width=40, scale=9.0, num_networks=9))


def test_the_busiest_worker_takes_all_that_is_left(now: SimpleNamespace) -> None:
    assert busiest_worker([1 / 9] * 9, 4) == (pytest.approx(3 / 9), 3)
    table = Timetable(foreseen(100.0), 4, began=4.0)  # 6 s have gone into opening and trying
    allowances = [table.allowance(number) for number in range(9)]
    assert [allowance.seconds for allowance in allowances] == pytest.approx([94 / 3] * 9)
    assert {allowance.began for allowance in allowances[:4]} == {10.0}
    # What follows the fits, and one step.
    assert allowances[0].reserve.seconds == pytest.approx(1.2 * (2 + 36 * 0.25 + 8 * 2) / 3 + 1)


def test_a_network_that_took_too_long_is_paid_for_by_the_next(now: SimpleNamespace) -> None:
    table = Timetable(foreseen(100.0), 1, began=10.0)
    first = table.allowance(0)
    assert (first.began, first.seconds) == (10.0, pytest.approx(100 / 9))
    now.seconds = 10 + first.seconds + 3
    late = table.allowance(1)
    assert late.began == pytest.approx(10 + first.seconds)
    assert sent(late).seconds == pytest.approx(late.seconds - 3)
    now.seconds = late.began + 1  # one that was quick leaves its time to nobody
    early = table.allowance(2)
    assert (early.began, early.seconds) == (now.seconds, pytest.approx(100 / 9))


def test_a_time_holds_however_long_each_part_takes(now: SimpleNamespace) -> None:
    """Networks are fitted until their reserve begins; what follows takes as long as was foreseen."""
    seconds = 400.0
    table = Timetable(foreseen(seconds), 1, began=3.0)  # 7 s have gone into loading and trying
    for number in range(9):
        allowance = table.allowance(number)
        now.seconds += 0.3  # reading
        now.seconds += max(allowance.began + allowance.seconds - now.seconds - allowance.reserve.seconds, 0.1)
        now.seconds += COSTS.step + COSTS.after(4)  # the step at hand ends late, then coding and scoring
    assert now.seconds - 3.0 <= seconds
    assert now.seconds - 3.0 >= 0.8 * seconds


def test_loading_that_takes_all_the_time_is_refused_at_once() -> None:
    refuse_used_up(30.0, 29.0)
    with command_line_words(), pytest.raises(UsageError) as error:
        refuse_used_up(5.0, 55.0)
    said = (
        "5 s are too short: loading PyTorch alone took 55 s, busy as this machine is now; give --time 2m or"
    )
    assert str(error.value).startswith(said)


def test_a_process_that_began_long_ago_refuses_before_it_reads(tmp_path: Path) -> None:
    """The time of a command counts from the start of its process: ``time_counted_from``."""
    with time_counted_from(clock.monotonic() - 90), pytest.raises(UsageError, match="loading PyTorch alone"):
        vinr.encode(tmp_path / "there-is-none.mp4", tmp_path / "a.vinr", time="20s")
    assert list(tmp_path.iterdir()) == []
