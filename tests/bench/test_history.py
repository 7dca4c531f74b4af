"""How fits went: the curves that jobs keep and pages show, seeds, and parts of several clips."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from vinr.bench.datasets import comes_with_vinr, find_clip, find_clips
from vinr.bench.experiments.clips import chosen_parts
from vinr.bench.history import History, curves_of, curves_picture, curves_table, psnr_after
from vinr.bench.recipe import Recipe, Setup, parse_recipe
from vinr.bench.report import Result, RowResult, page
from vinr.bench.run import plan_jobs, run_recipe
from vinr.errors import InputError, UsageError
from vinr.fit import Event, Noted, RoundDone
from vinr.video.source import FrameTensor
from vinr.video.spec import VideoSpec

RECIPE = {
    "paper": "vinr",
    "table": "test",
    "title": "two seeds",
    "source": "none",
    "kind": "fit",
    "curves": True,
    "metrics": {"psnr_db": {"title": "PSNR, dB"}},
    "rows": [{"label": "a network", "tiny": {"preset": "hnerv-tiny", "seeds": [4, 5]}}],
}


def recipe() -> Recipe:
    return parse_recipe("two-seeds", RECIPE)


def rounds(count: int) -> list[RoundDone]:
    return [RoundDone(number, number / count, 20.0 + number, 1.0, 1.0) for number in range(1, count + 1)]


def test_a_history_keeps_few_points_and_passes_all_events_on() -> None:
    passed: list[Event] = []
    history = History(passed.append)
    events = [Noted("a line"), *rounds(100)]
    for event in events:
        history(event)
    assert passed == events
    curve = history.curve()
    assert len(curve) == 40
    assert curve[0] == [1, 21.0]
    assert curve[-1] == [100, 120.0]
    assert curve == sorted(curve)


def test_short_and_empty_histories() -> None:
    history = History(lambda event: None)
    assert history.curve() == []
    history(RoundDone(1.0, 1.0, 25.0, 1.0, 0.0))
    assert history.curve() == [[1.0, 25.0]]


def test_psnr_between_points_lies_on_a_line() -> None:
    curve = [[1.0, 20.0], [3.0, 24.0], [4.0, 30.0]]
    assert psnr_after(curve, 0.5) == pytest.approx(22.0)
    assert psnr_after(curve, 1.0) == pytest.approx(30.0)
    assert psnr_after(curve, 0.1) == pytest.approx(20.0)


def test_the_table_shows_the_mean_of_seeds() -> None:
    text = curves_table({"HNeRV": [[[1.0, 20.0], [2.0, 30.0]], [[1.0, 22.0], [2.0, 34.0]]]})
    assert text.splitlines()[-1] == "| HNeRV | 21.00 | 21.00 | 21.00 | 26.50 | 32.00 |"


def test_each_clip_and_seed_is_a_job() -> None:
    setup = Setup(model="hnerv", clips=("bunny", "bikes"), seeds=(1, 2), resize=(80, 160), params=20_000)
    jobs = plan_jobs("fit", setup, "mini")
    assert [job.label for job in jobs] == ["bunny, seed 1", "bunny, seed 2", "bikes, seed 1", "bikes, seed 2"]
    assert len({job.key for job in jobs}) == 4
    # The papers crop Bunny alone.
    assert [job.setup.crop for job in jobs] == [(640, 1280), (640, 1280), None, None]


def test_codecs_have_no_seeds() -> None:
    (job,) = plan_jobs("clips", Setup(anchor="x264-medium:30", clips=("bikes",), seeds=(1, 2)), "mini")
    assert job.label == "bikes"


def documents() -> dict[str, Any]:
    made = {}
    for seed, psnr_db in ((4, 30.0), (5, 32.0)):
        made[f"bunny, seed {seed}"] = {
            "kind": "fit",
            "clip": "bunny",
            "setup": {"seeds": [seed], "resize": [32, 64]},
            "device": "cpu",
            "values": {"psnr_db": psnr_db, "curve": [[1.0, psnr_db - 4], [2.0, psnr_db]]},
            "seconds": 1.0,
            "date": "2026-01-01",
            "commit": "0123456789",
            "machine": {"cpu": "one", "threads": 1, "torch": "2"},
        }
    return made


def test_a_page_shows_mean_spread_and_curves() -> None:
    document = Result(recipe(), "tiny", {"a network": RowResult(documents())}, {}).document()
    text = page(document)
    assert "| a network | 31.00 ± 1.41 |" in text
    assert "![PSNR over epochs](two-seeds-tiny.png)" in text
    assert "| a network | 27.00 | 27.00 | 27.00 | 29.00 | 31.00 |" in text
    assert curves_picture(curves_of(document)).startswith(b"\x89PNG")


def test_one_seed_has_no_spread() -> None:
    one = {label: job for label, job in documents().items() if "5" in label}
    document = Result(recipe(), "tiny", {"a network": RowResult(one)}, {}).document()
    assert document["rows"][0]["spread"] == {"psnr_db": None}
    assert "| a network | 32.00 |" in page(document)


def test_seeds_give_different_networks(tmp_path: Path) -> None:
    result = run_recipe(recipe(), scale="tiny", out=tmp_path)
    values = [job["values"] for job in result.rows["a network"].documents.values()]
    assert len(values) == 2
    assert values[0]["psnr_db"] != values[1]["psnr_db"]
    assert all(value["curve"] for value in values)
    assert (tmp_path / "two-seeds-tiny.png").read_bytes().startswith(b"\x89PNG")


def test_samples_come_with_vinr() -> None:
    assert find_clip("bikes", None).name == "bikes.mp4"
    assert [path.name for path in find_clips("bikes+carphone", None)] == [
        "bikes.mp4",
        "carphone_pristine.mp4",
    ]
    assert comes_with_vinr("bunny+bikes")
    assert not comes_with_vinr("bunny+davis/bmx-trees")
    with pytest.raises(InputError, match="davis/bmx-trees does not come with vinr"):
        find_clips("bunny+davis/bmx-trees", None)


def part(value: int) -> FrameTensor:
    spec = VideoSpec(num_frames=2, height=8, width=8)
    return FrameTensor(torch.full((2, 3, 8, 8), value, dtype=torch.uint8), replace(spec, span_lengths=()))


def test_parts_are_spread_over_clips_and_along_each() -> None:
    clips = [[part(number) for number in range(first, first + 6)] for first in (0, 10)]

    def chosen(count: int | None) -> list[int]:
        return [int(frames.rgb_NCHW[0, 0, 0, 0]) for frames in chosen_parts(clips, count)]

    assert chosen(None) == [*range(6), *range(10, 16)]
    assert chosen(4) == [0, 3, 10, 13]
    assert chosen(5) == [0, 2, 4, 10, 13]
    assert chosen(1) == [0]
    with pytest.raises(UsageError, match="13 parts need 7 of a clip that has 6"):
        chosen(13)
