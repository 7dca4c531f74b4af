"""Measurements of speed: numbers make sense, the page names every part, and wrong requests are refused."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.speed.limits import COPY, MATMUL, limit_works
from benchmarks.speed.measure import SpeedReport, run_speed
from benchmarks.speed.memory import step_memory
from benchmarks.speed.quality import Curve, level_rows
from benchmarks.speed.turns import Clock, Spread, ratios, take_turns

from fresh import run_fresh
from vinr.bench.pages import records_table
from vinr.config import load_preset
from vinr.errors import OutputError, UsageError
from vinr.tasks.frames import plain_fit
from vinr.video.spec import VideoSpec

CPU = torch.device("cpu")


# What a clock that nothing but being read moves on gives for any work.
READING_SECONDS = 0.01


@pytest.fixture(scope="module", autouse=True)
def _ticking_clock() -> Iterator[None]:
    """Every work takes as long, whatever the CPU and what else it does."""
    readings = count(0, READING_SECONDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Clock, "__call__", lambda clock: next(readings))
        yield


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> SpeedReport:
    return run_speed(quick=True, device="cpu", threads=1, out=tmp_path_factory.mktemp("speed") / "out")


@pytest.fixture(scope="module")
def network(report: SpeedReport) -> dict[str, Any]:
    found: dict[str, Any] = report.document["networks"][0]
    return found


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Yield all numbers with where they stand."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from leaves(part, f"{path}/{name}")
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from leaves(part, f"{path}/{number}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, float(value)


def test_every_number_is_finite(network: dict[str, Any]) -> None:
    assert all(math.isfinite(number) for _, number in leaves(network))


def test_times_rates_and_bytes_are_positive(network: dict[str, Any]) -> None:
    steps = network["steps"]
    for recipe in ("paper", "vinr"):
        own = steps[recipe]
        assert own["epoch_seconds"] > 0
        assert own["step_macs"] > 3 * 2 * network["decode_macs"]  # two frames a step, and an encoder
        assert 0 < own["step_seconds"]["low"] <= own["step_seconds"]["median"] <= own["step_seconds"]["high"]
    assert all(limit["low"] > 0 for limit in steps["limits"].values())
    assert all(row["best_fps"] >= row["fps"] > 0 for row in network["decoding"])
    assert all(number > 0 for _, number in leaves(network["whole_file"]))
    assert network["first_frame"]["first frame s"] > 0


def test_shares_of_limits_are_shares(network: dict[str, Any]) -> None:
    """Multiply-accumulates a second over those of a matrix product."""
    limits, steps = network["steps"]["limits"], network["steps"]
    for recipe in ("paper", "vinr"):
        own = steps[recipe]
        limit = limits[MATMUL.format(arithmetic(own["precision"]))]["median"]
        achieved = own["step_macs"] / 1e9 / own["step_seconds"]["median"]
        assert own["share_of_matmul"]["median"] == pytest.approx(achieved / limit)
    limit = limits[MATMUL.format("fp32")]["median"]
    for row in network["decoding"]:
        achieved = network["decode_macs"] / 1e9 * row["fps"]
        assert row["share_of_matmul"]["median"] == pytest.approx(achieved / limit)


def arithmetic(reason: str) -> str:
    """Return the precision that was used, from why it was chosen."""
    return "bf16" if reason.startswith("bf16") else "fp32"


def test_quality_is_that_of_fits(network: dict[str, Any]) -> None:
    paper, ours = network["quality"]["fits"]
    assert paper["recipe"] == "paper"
    assert ours["recipe"] == "vinr"
    assert all(5 < fit["final_psnr_db"] < 40 for fit in (paper, ours))
    assert ours["seconds"] == pytest.approx(ours["epochs"][-1] * network["steps"]["vinr"]["epoch_seconds"])
    assert ours["seconds"] <= paper["seconds"] + network["steps"]["vinr"]["epoch_seconds"]


def test_ways_of_decoding_agree(network: dict[str, Any]) -> None:
    assert network["decoding"][0]["way"] == "plain"
    assert network["decoding"][0]["times_plain"] == {"median": 1, "low": 1, "high": 1}
    assert all(abs(row["psnr_change_db"]) < 0.01 for row in network["decoding"])


def test_page_names_every_part(report: SpeedReport) -> None:
    page = report.page_path.read_text(encoding="utf-8")
    parts = ("The machine", "A step", "Time to quality", "Decoding", "Peak memory")
    assert [line.removeprefix("### ") for line in page.splitlines() if line.startswith("### ")] == list(parts)
    assert "hnerv-tiny" in page
    for name in (
        MATMUL.format("fp32"),
        MATMUL.format("bf16"),
        COPY,
        "channels last, batch 4",
        "first frame s",
    ):
        assert name in page
    assert "nan" not in page
    assert json.loads(report.json_path.read_text(encoding="utf-8")) == report.document


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"presets": ["nothing-tiny"]}, "nothing"),
        ({"overrides": ["fit.recipe=paper"]}, "both recipes"),
        ({"overrides": ["speed.turns=1"]}, "speed.turns"),
        ({"overrides": ["speed.laps=5"]}, "laps"),
        ({"overrides": ["fit.batch=5"]}, "batch"),
        ({"epochs": 0}, "speed.epochs"),
        ({"threads": 0}, "threads 0"),
        ({"device": "abacus"}, "abacus"),
    ],
)
def test_what_cannot_be_used_is_refused(arguments: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        run_speed(**{"quick": True, "device": "cpu", "out": tmp_path / "out", **arguments})
    assert not (tmp_path / "out").exists()


def test_results_are_not_overwritten_unasked(report: SpeedReport) -> None:
    with pytest.raises(OutputError, match="force=True"):
        run_speed(quick=True, device="cpu", out=report.page_path.parent)


def test_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="create it first"):
        run_speed(quick=True, device="cpu", out=tmp_path / "missing" / "out")
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match="no folder"):
        run_speed(quick=True, device="cpu", out=tmp_path / "file")


def test_limits_are_work_over_time() -> None:
    works = limit_works(CPU, Clock(CPU), seconds=4 * READING_SECONDS)
    assert list(works) == [MATMUL.format("fp32"), MATMUL.format("bf16"), COPY]
    # The smallest sizes take a quarter of the time by this clock.
    for name in ("fp32", "bf16"):
        assert works[MATMUL.format(name)]() == pytest.approx(256**3 / 1e9 / READING_SECONDS)
    assert works[COPY]() == pytest.approx(2 * 2**24 / 1e9 / READING_SECONDS)


def test_the_clock_of_one_thread_is_that_of_the_process() -> None:
    assert Clock(CPU).is_cpu_time
    assert Clock(CPU).of(lambda: None) == pytest.approx(READING_SECONDS)


def test_turns_alternate() -> None:
    order: list[str] = []

    def work(name: str) -> float:
        order.append(name)
        return len(order)

    assert take_turns({name: partial(work, name) for name in "ab"}, turns=2) == {"a": [1, 3], "b": [2, 4]}
    assert order == ["a", "b", "a", "b"]
    assert ratios([2.0, 8.0, 3.0], [1.0, 2.0, 1.0]) == Spread(median=3, low=2, high=4)


def test_levels_are_reached_by_the_first_fit_to_do_so() -> None:
    def curve(recipe: str, *psnr_db: float) -> Curve:
        epochs = tuple(float(number + 1) for number in range(len(psnr_db)))
        return Curve(recipe, recipe, epochs, psnr_db, 1.0, None)  # type: ignore[arg-type]

    rows = level_rows(
        curve("paper", 20, 25, 26),
        [curve("vinr", 24, 24.5), curve("vinr", 22, 23, 27)],
        paper_epoch_seconds=10,
        vinr_epoch_seconds=5,
    )
    by_level = {row.level_db: row for row in rows}
    assert by_level[24.0].times_as_fast == 20 / 5
    assert by_level[26.0].times_as_fast == 30 / 15
    assert by_level[27.0].paper_seconds is None
    assert by_level[27.0].vinr_seconds == 15
    assert by_level[28.0].times_as_fast is None


def test_peak_memory_counts_what_is_touched() -> None:
    # In a process that has held little yet: what is touched is more than any earlier peak.
    code = (
        "import torch\n"
        "from benchmarks.speed.memory import peak_bytes\n"
        "before = peak_bytes()\n"
        "held = torch.ones(before + 2**26, dtype=torch.uint8)\n"
        "print(before > 0 and peak_bytes() >= held.numel())\n"
    )
    assert run_fresh(code).stdout == b"True\n"


@pytest.mark.slow
def test_memory_of_a_fit_is_measured_in_a_process_of_its_own() -> None:
    preset = plain_fit(load_preset("hnerv-tiny"))
    held = 16 * 32 * 64 * 3  # the frames alone
    assert held < step_memory(preset, VideoSpec(16, 32, 64), CPU) < 2**30


def test_missing_values_are_dashes() -> None:
    assert records_table([{"a": None, "b": 12.345}]) == "| a | b |\n| --- | ---: |\n| — | 12.35 |"
