"""Timelines and the other small facts about a video."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vinr.video.spec import FrameBatch, Query, Timeline, VideoSpec


@given(st.lists(st.integers(1, 10**6), max_size=50), st.integers(1, 10**5))
def test_frame_on_screen_is_the_last_one_that_appeared(steps: list[int], ticks_a_second: int) -> None:
    pts = [0]
    for step in steps:
        pts.append(pts[-1] + step)
    timeline = Timeline(len(pts), Fraction(25), Fraction(1, ticks_a_second), tuple(pts))
    for index in range(len(pts)):
        assert timeline.index_at(timeline.seconds(index)) == index
        if index:
            assert timeline.index_at(timeline.seconds(index) - Fraction(1, 2 * ticks_a_second)) == index - 1


@given(st.integers(1, 1000), st.fractions(min_value=Fraction(1, 10), max_value=240))
def test_constant_rate(num_frames: int, rate: Fraction) -> None:
    timeline = Timeline(num_frames, rate)
    assert timeline.seconds(num_frames - 1) == (num_frames - 1) / rate
    assert timeline.index_at(timeline.seconds(num_frames - 1)) == num_frames - 1
    assert timeline.index_at(10**6) == min(int(10**6 * rate), num_frames - 1)


def test_choosing_frames_keeps_their_times() -> None:
    uneven = Timeline(4, Fraction(25), Fraction(1, 1000), (0, 10, 50, 90))
    assert uneven.selected([1, 3]).pts == (0, 80)
    even = Timeline(10, Fraction(30))
    assert even.selected([1, 3, 5]) == Timeline(3, Fraction(15))
    gaps = even.selected([0, 1, 5])
    assert [gaps.seconds(i) for i in range(3)] == [0, Fraction(1, 30), Fraction(1, 6)]
    assert even.selected([4]) == Timeline(1, Fraction(30))


def test_the_last_frame_is_held_as_long_as_it_was() -> None:
    held = Fraction(3)
    uneven = Timeline(4, Fraction(25), Fraction(1, 1000), (0, 10, 50, 90), last_seconds=held)
    assert uneven.duration == Fraction(90, 1000) + held
    assert uneven.selected([1, 3]).last_seconds == held
    assert uneven.selected([0, 2]).last_seconds is None  # 40 ms, as the rate says
    assert uneven.selected([0, 1]).duration == Fraction(50, 1000)
    assert uneven.without_others([0, 1]).duration == Fraction(50, 1000)
    assert uneven.without_others([3]).last_seconds == held
    assert uneven.scaled(2).duration == uneven.duration
    even = Timeline(4, Fraction(10), last_seconds=held)
    assert even.selected(range(4)) == even
    assert even.selected([1, 3]) == Timeline(2, Fraction(5), last_seconds=held)
    assert even.selected([0, 1, 3]).last_seconds == held
    assert even.selected(range(0, 4, 2)) == Timeline(2, Fraction(5))
    assert even.scaled(3).duration == even.duration
    with pytest.raises(ValueError, match="above 0"):
        Timeline(4, Fraction(10), last_seconds=Fraction(0))


def test_impossible_values_are_refused() -> None:
    for arguments in ((0, 4, 4), (1, 0, 4), (1, 4, 0)):
        with pytest.raises(ValueError, match="at least one frame"):
            VideoSpec(*arguments)
    with pytest.raises(ValueError, match="do not add up"):
        VideoSpec(5, 4, 4, span_lengths=(2, 2))
    with pytest.raises(ValueError, match="rise strictly"):
        Timeline(3, Fraction(25), Fraction(1, 25), (0, 2, 2))
    with pytest.raises(IndexError, match="before the first"):
        Timeline(3, Fraction(25)).index_at(-0.1)
    with pytest.raises(ValueError, match="must be uint8 or"):
        FrameBatch(torch.zeros(1), torch.zeros(1, 3, 4, 4))


def test_queries_of_frames() -> None:
    query = Query.of_frames(torch.tensor([3, 5]))
    assert len(query) == 2
    assert query.grid.is_whole_frame
    assert query.time_N.dtype == torch.float64
    assert VideoSpec(7, 4, 6).num_pixels == 168
