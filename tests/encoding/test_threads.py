"""On how many threads an encode computes: by cores, size and load, never by what a clock says in a test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import vinr
from vinr.cli.began import PASSIVE, wait_passively
from vinr.device import may_choose_threads
from vinr.encoding import trial
from vinr.encoding.fits import Here
from vinr.encoding.plan import plan_encode
from vinr.encoding.trial import fewest_threads, has_small_steps
from vinr.fit import Trainer
from vinr.video.spec import VideoSpec

CPU = torch.device("cpu")


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A machine of four cores whose number of threads is open; the last number is that in use."""
    used = [4]
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: used[-1])
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    return used


@pytest.mark.parametrize(
    ("count", "step", "alone", "chosen"),
    [
        (2, 0.10, 0.19, 2),  # idle machine, large steps
        (2, 0.10, 0.105, 1),  # hardly faster: the other core is left to others
        (2, 0.90, 0.20, 1),  # busy machine: threads wait for each other
        (16, 0.10, 0.11, 16),
        (16, 0.10, 0.09, 1),
        (1, 0.10, 0.10, 1),
    ],
)
def test_threads_that_gain_nothing_are_not_taken(count: int, step: float, alone: float, chosen: int) -> None:
    assert fewest_threads(count, step, alone) == chosen


def test_the_choice_goes_over_from_one_to_all_once() -> None:
    chosen = [fewest_threads(8, 1.0, alone / 100) for alone in range(10, 400)]
    assert chosen == sorted(chosen)
    assert {*chosen} == {1, 8}


@pytest.mark.parametrize(("height", "width", "small"), [(64, 96, True), (90, 160, True), (1080, 1920, False)])
def test_small_steps_are_told_by_operations(height: int, width: int, small: bool) -> None:
    spec = VideoSpec(90, height, width)
    assert has_small_steps(plan_encode([spec], epochs=5), [spec]) is small


def test_a_number_that_is_given_is_kept(threads: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    assert may_choose_threads(CPU)
    assert not may_choose_threads(torch.device("cuda"))
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert not may_choose_threads(CPU)
    monkeypatch.delenv("OMP_NUM_THREADS")
    threads.append(1)
    assert not may_choose_threads(CPU)


@pytest.mark.parametrize(
    ("asked", "limit", "chosen"),
    [(None, {"epochs": 5}, 1), (None, {"seconds": 60.0}, 4), (3, {"epochs": 5}, 4)],
)
def test_epochs_count_by_size_alone(
    threads: list[int], asked: int | None, limit: dict[str, float], chosen: int, tiny_video: Path
) -> None:
    """So the same command gives the same bytes; a fit by time tries it, and who names a number has it."""
    with vinr.video.source.open_video(tiny_video) as reader:
        place = Here([reader], "cpu", asked)
        place.settle(plan_encode([reader.spec], preset="nerv-tiny", **limit), None)  # type: ignore[arg-type]
    assert threads[-1] == chosen


def test_threads_of_a_program_wait_without_computing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the environment says otherwise: waiting that computes is 20 times slower on a busy machine."""
    for name in PASSIVE:
        monkeypatch.delenv(name, raising=False)
    wait_passively()
    assert {name: os.environ[name] for name in PASSIVE} == {
        "OMP_WAIT_POLICY": "PASSIVE",
        "KMP_BLOCKTIME": "0",
    }
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    wait_passively()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


@pytest.mark.parametrize(("seconds", "chosen"), [((0.2, 0.1), 1), ((0.1, 0.2), 4)])
def test_a_trial_goes_on_with_what_was_faster(
    threads: list[int], monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, float], chosen: int
) -> None:
    """On all threads a step takes the first number of seconds, on one the second."""
    tried: list[int] = []

    def step_on(trainer: Trainer) -> float:
        tried.append(threads[-1])
        return seconds[threads[-1] == 1]

    monkeypatch.setattr(trial, "try_steps", step_on)
    spec = VideoSpec(6, 32, 48)
    preset = plan_encode([spec], preset="nerv-tiny", epochs=1).presets[0]
    frame_1CHW = torch.zeros(1, 3, 32, 48, dtype=torch.uint8)
    precision = vinr.fit.Precision("fp32")
    costs = trial.try_costs(preset, spec, frame_1CHW, CPU, precision, choose_threads=True)
    assert tried == [4, 1]
    assert threads[-1] == chosen
    assert costs.step == min(seconds)
    trial.try_costs(preset, spec, frame_1CHW, CPU, precision)
    assert threads[-1] == chosen
