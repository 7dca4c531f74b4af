"""What an encode by epochs is told beforehand: how long it takes, and what is likely not meant."""

from __future__ import annotations

import pytest

from vinr.encoding.advice import WARM_STEPS, FirstSteps, advise
from vinr.encoding.plan import plan_encode
from vinr.encoding.splitting import SegmentLength
from vinr.fit import Event, Noted, StepDone
from vinr.video.spec import VideoSpec

CLIP = VideoSpec(16, 32, 64)


@pytest.mark.parametrize(
    ("seconds_left", "segment", "said"),
    [
        (90.0, None, ["300 epochs take about 2 min on this machine"]),
        (90.0, 0.3, ["300 epochs take about 4 min on this machine"]),
        (9000.0, None, ["300 epochs take about 2 h 47 min on this machine"]),
        (5.0, None, []),
    ],
)
def test_the_first_steps_tell_how_long_all_take(
    seconds_left: float, segment: float | None, said: list[str]
) -> None:
    """A tenth is done: what is left is nine tenths of the first network, which may be half of all."""
    length = None if segment is None else SegmentLength.of(segment)
    plan = plan_encode([CLIP], preset="nerv-tiny", epochs=300, segment=length)
    assert plan.jobs[0].share == (1.0 if segment is None else 0.5)
    told: list[Event] = []
    first = FirstSteps(plan, told.append)
    for _ in range(WARM_STEPS - 1):
        first(StepDone(0.01, 0.0001, 1e6))
    assert told == []
    for _ in range(2):
        first(StepDone(30.0, 0.1, seconds_left))
    assert [event.text for event in told if isinstance(event, Noted)] == said


def test_a_fit_by_time_has_said_it_already() -> None:
    told: list[Event] = []
    first = FirstSteps(plan_encode([CLIP], preset="nerv-tiny", seconds=60), told.append)
    for _ in range(5):
        first(StepDone(1.0, 0.1, 1e6))
    assert told == []


def test_few_epochs_give_no_picture() -> None:
    (line,) = advise(plan_encode([CLIP], preset="nerv-tiny", epochs=2), [CLIP])
    assert line == "2 epochs give no usable picture; epochs=5 is the least, or leave it out"
    (line,) = advise(plan_encode([CLIP], preset="nerv-tiny", epochs=1), [CLIP])
    assert line.startswith("1 epoch gives no usable picture")
    assert advise(plan_encode([CLIP], preset="nerv-tiny", epochs=5), [CLIP]) == []


def test_frames_that_a_paper_had_not_are_told() -> None:
    preset, override = "hnerv-1.5m-bunny", ["fit.recipe=paper"]
    whole, cropped = VideoSpec(132, 720, 1280), VideoSpec(132, 640, 1280)
    (line,) = advise(plan_encode([whole], preset=preset, overrides=override), [whole])
    assert line.startswith(
        "hnerv-1.5m-bunny is for frames of 1280×640 (width × height), these are of 1280×720"
    )
    assert advise(plan_encode([cropped], preset=preset, overrides=override), [cropped]) == []
    assert advise(plan_encode([whole], preset=preset, epochs=30), [whole]) == []
