"""What an encode is foreseen to come to: times chosen and refused, warnings, proposals. No clock is read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vinr.encoding.forecast import (
    EXPECTED_DB,
    LEAST_EPOCHS,
    LONGEST_DEFAULT,
    SPARE,
    WANTED_EPOCHS,
    Workload,
    check_time,
    choose_seconds,
    expected_psnr,
    warning_of,
)
from vinr.encoding.foresee import slowdown
from vinr.encoding.trial import Costs
from vinr.errors import UsageError, command_line_words

# An epoch takes 45 s; what follows 1.2 · (2 + 90 · 0.15) = 18.6 s; 10 s have passed.
COSTS = Costs(build=0.5, step=1.0, freeze=0.05, code=2.0, frame=0.1, steps_per_epoch=45)
WORK = Workload(COSTS, num_frames=90, height=1080, width=1920, spent=10.0)
FIXED = 10 + 0.5 + SPARE * (2 + 90 * 0.15)


def test_everything_is_counted() -> None:
    assert WORK.fixed == pytest.approx(FIXED)
    assert WORK.epochs_in(FIXED + 90) == pytest.approx(2)
    assert WORK.epochs_in(1.0) == 0
    assert WORK.seconds_for(2) == pytest.approx(FIXED + 90)
    assert WORK.least_seconds == pytest.approx(FIXED + 1)
    twice = replace(WORK, scale=2.0, num_networks=2)
    assert twice.epoch_seconds == 90
    assert twice.fixed == pytest.approx(10 + 2 * 0.5 + 2 * SPARE * (2 + 90 * 0.15))
    to_quality = replace(WORK, codings=9, decodings=9)
    assert to_quality.after == pytest.approx(SPARE * (9 * 2 + 90 * (0.05 + 9 * 0.1)))


def test_a_time_that_cannot_hold_one_step_is_refused_with_the_least() -> None:
    check_time(WORK, FIXED + 1.01)
    with command_line_words(), pytest.raises(UsageError) as error:
        check_time(WORK, 12.0)
    # 1.1 · (FIXED + 1) is 33.1 s
    assert str(error.value).startswith("12 s are too short for this video on this machine")
    assert "give --time 34s or more" in str(error.value)


@pytest.mark.parametrize(
    ("step", "usual", "seconds"),
    [
        (0.01, 100.0, 100.0),  # the usual time holds more than enough
        (1.0, 100.0, FIXED + WANTED_EPOCHS * 45),
        (12.0, 100.0, LONGEST_DEFAULT),  # eight epochs would take 4349 s, five take 2729 s
        (12.0, 5000.0, 5000.0),  # a long video has a long time anyway
    ],
)
def test_a_default_announces_the_time_that_it_needs(step: float, usual: float, seconds: float) -> None:
    work = replace(WORK, costs=replace(COSTS, step=step))
    assert choose_seconds(work, usual) == pytest.approx(seconds)


def test_a_default_that_would_take_too_long_asks() -> None:
    work = replace(WORK, costs=replace(COSTS, step=60.0))
    with command_line_words(), pytest.raises(UsageError) as error:
        choose_seconds(work, 946.0)
    words = str(error.value)
    assert f"{LEAST_EPOCHS} epochs" in words
    assert "3 h 46 min at 1920×1080 (width × height)" in words
    assert "--time 4h9m, or --resize 270p, which takes about" in words


def test_a_proposed_resize_fits_the_time() -> None:
    """A step costs the pixels of a frame to the power of 1.745."""
    smaller = WORK.resized(540)
    assert (smaller.height, smaller.width) == (540, 960)
    assert smaller.costs.step == pytest.approx(COSTS.step / 4**1.745)
    assert smaller.costs.code == COSTS.code


def test_what_was_measured_is_expected() -> None:
    steps, low, likely, high = EXPECTED_DB[2]
    found = expected_psnr(steps)
    assert found is not None
    assert (found.low, found.likely, found.high) == (low, likely, high)
    assert expected_psnr(EXPECTED_DB[-1][0] + 1) is None
    between = [expected_psnr(steps) for steps in (1, 24, 30, 50, 100, 200, 384)]
    assert [item.likely for item in between if item] == sorted(item.likely for item in between if item)


@pytest.mark.parametrize(
    ("epochs", "recipe", "words"),
    [
        (2.0, "vinr", "about 90 steps, 2.0 epochs, 18 to 24 dB"),
        (2.0, "paper", "about 90 steps, 2.0 epochs; give"),
        (3.5, "vinr", "about 158 steps, 3.5 epochs, 19 to 28 dB"),
    ],
)
def test_too_few_epochs_are_warned_of(epochs: float, recipe: str, words: str) -> None:
    with command_line_words():
        warning = warning_of(WORK, epochs, 100.0, recipe)
    assert warning is not None
    assert words in warning
    assert "--time 5m" in warning  # 254 s hold five epochs


def test_few_steps_are_warned_of_however_many_epochs_they_are() -> None:
    short = replace(WORK, num_frames=4, costs=replace(COSTS, steps_per_epoch=2))
    assert "usable" in (warning_of(short, 20.0, 60.0, "vinr") or "")
    assert warning_of(short, 20.0, 60.0, "paper") is None
    assert warning_of(short, 200.0, 300.0, "vinr") is None
    assert warning_of(WORK, 8.0, 400.0, "vinr") is None


def test_a_process_that_gets_little_of_the_cpu_ends_slowly() -> None:
    assert slowdown(60.0, 4.0) == 15
    assert slowdown(2.0, 300.0) == 1  # many threads, or a process that has run for long
    assert slowdown(2.0, 0.0) == 2000
