"""What an encode will take: arithmetic from rates, and rates that are measured."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

import vinr
from clips import moving_shapes, write_clip
from command_line import Run
from vinr.encoding.capacity import Rates, estimate
from vinr.encoding.plan import plan_encode
from vinr.encoding.splitting import makespan
from vinr.errors import InputError, UsageError
from vinr.units import SegmentLength
from vinr.video.source import VideoReader, open_video
from vinr.video.spec import VideoSpec

OPTIONS = ("--preset", "nerv-tiny", "--segment", "6f", "--device", "cpu", "--set", "fit.phases=[]")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clip = moving_shapes(num_frames=12, height=24, width=40)
    return write_clip(tmp_path_factory.mktemp("video") / "clip.mkv", clip)


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clip = moving_shapes(num_frames=80, height=16, width=24)
    return write_clip(tmp_path_factory.mktemp("video") / "long.mkv", clip)


def rates(**changes: Any) -> Rates:
    values: dict[str, Any] = {
        "device": "a CPU",
        "is_gpu": False,
        "threads": 2,
        "model": "nerv",
        "parameters": 1000,
        "height": 24,
        "width": 40,
        "batch_size": 2,
        "read_seconds_per_frame": 0.25,
        "seconds_per_step": 0.5,
        "code_seconds": 10.0,
        "measure_seconds_per_frame": 0.75,
        "memory_bytes": 10_000,
    }
    return Rates(**{**values, **changes})


def test_jobs_go_to_the_worker_that_is_free_first() -> None:
    assert makespan([3, 3, 3], 1) == 9
    assert makespan([3, 3, 3], 2) == 6
    assert makespan([1, 5, 2, 2], 2) == 5
    assert makespan([4], 8) == 4


def test_hours_bytes_and_memory_follow_from_the_rates() -> None:
    spec = VideoSpec(300, 24, 40, Fraction(25))
    overrides = ["fit.batch_size=2", "fit.phases=[]"]
    length = SegmentLength(frames=100)
    planned = plan_encode([spec], preset="nerv-tiny", epochs=8, segment=length, overrides=overrides)
    report = estimate(planned, spec, rates(), 2, other_bytes=500, opening=20.0)
    # A segment: 100 frames read and measured (1 s each), 8 · 50 steps (0.5 s each), coded once.
    seconds = 100 + 200 + 10
    assert report.num_segments == 3
    assert report.worker_hours == pytest.approx(3 * seconds / 3600)
    assert report.wall_hours == pytest.approx((20 + 2 * seconds) / 3600)
    assert report.cpu_hours == pytest.approx(2 * report.worker_hours)
    assert report.gpu_hours == 0
    assert report.fit_share == pytest.approx(200 / seconds)
    bits = planned.presets[0].compress.weight_bits
    assert report.num_bytes == round(3000 * bits / 8) + 500
    assert report.memory_bytes == 10_000 + 100 * 3 * 24 * 40
    gpu = estimate(planned, spec, rates(is_gpu=True), 2)
    assert gpu.gpu_hours == gpu.worker_hours


def test_a_given_time_is_kept_and_buys_epochs() -> None:
    spec = VideoSpec(300, 24, 40, Fraction(25))
    overrides = ["fit.batch_size=2", "fit.phases=[]"]
    length = SegmentLength(frames=100)
    planned = plan_encode([spec], preset="nerv-tiny", seconds=1000, segment=length, overrides=overrides)
    one, two = (estimate(planned, spec, rates(), count) for count in (1, 2))
    assert one.wall_hours == two.wall_hours == pytest.approx(1000 / 3600)
    # 1 worker: 333 s a segment; 2 workers: 500 s, since one of them has two segments.
    assert one.epochs == pytest.approx((1000 / 3 - 110) / 0.5 / 50)
    assert two.epochs == pytest.approx((1000 / 2 - 110) / 0.5 / 50)


def test_the_command_measures_and_its_json_is_a_file_of_rates(run: Run, video: Path, tmp_path: Path) -> None:
    status, out, _ = run("plan", video, "--epochs", "4", *OPTIONS, "--workers", "2", "--json")
    assert status == 0
    document = json.loads(out)
    assert document["num_segments"] == 2
    assert document["rates"]["seconds_per_step"] > 0
    (tmp_path / "rates.json").write_text(out, encoding="utf-8")
    settings = {"preset": "nerv-tiny", "segment": "6f", "overrides": ["fit.phases=[]"]}
    report = vinr.plan(video, epochs=4, rates=tmp_path / "rates.json", workers=2, **settings)
    assert report.rates.model_dump() == document["rates"]
    assert report.worker_hours == pytest.approx(document["worker_hours"])
    status, out, _ = run("plan", video, "--epochs", "4", *OPTIONS, "--rates", tmp_path / "rates.json")
    assert status == 0
    assert "12 frames of 40×24 (width × height), 2 segments of up to 6 frames" in out
    with pytest.raises(UsageError, match="gpus 2: these rates are those of 1 CPU thread"):
        vinr.plan(video, epochs=4, rates=tmp_path / "rates.json", gpus=2, **settings)
    with pytest.raises(UsageError, match=r"the rates are those of \w+ \d+, this encode has"):
        vinr.plan(video, epochs=4, rates=tmp_path / "rates.json", crop=(16, 32), **settings)


@pytest.mark.parametrize("content", ["", "[]", '{"rates": {"device": 3}}'])
def test_what_holds_no_rates_is_refused(content: str, video: Path, tmp_path: Path) -> None:
    path = tmp_path / "rates.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"holds no rates \(.*\); `vinr plan` prints them as JSON"):
        vinr.plan(video, epochs=1, rates=path)


def test_who_names_a_model_is_told_of_no_other(long_video: Path) -> None:
    asked: dict[str, Any] = {"params": "12k", "epochs": 1000, "device": "cpu"}
    told = [vinr.plan(long_video, **asked), vinr.plan(long_video, model="hnerv", **asked)]
    assert [any("model=" in note for note in report.notes) for report in told] == [True, False]
    assert [report.rates.model for report in told] == ["hnerv", "hnerv"]


def test_a_long_time_is_planned_with_the_model_that_an_encode_would_choose(
    long_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []

    def open_counted(source: str, **options: Any) -> VideoReader:
        opened.append(source)
        return open_video(source, **options)

    monkeypatch.setattr("vinr.encoding.capacity.open_video", open_counted)
    report = vinr.plan(long_video, params="12k", time="10h", device="cpu")
    assert report.rates.model == "vinr"
    assert len(opened) == 1
    assert "in this time hnerv would get" in report.notes[0]


def test_rates_of_a_chosen_model_are_taken_again(run: Run, long_video: Path, tmp_path: Path) -> None:
    options = ("--params", "12k", "--time", "10h", "--device", "cpu")
    status, out, _ = run("plan", long_video, *options, "--json")
    assert status == 0
    rates = tmp_path / "rates.json"
    rates.write_text(out, encoding="utf-8")
    report = vinr.plan(long_video, params="12k", time="10h", rates=rates)
    assert report.rates.model == "vinr"
    assert any("the rates are of vinr" in note for note in report.notes)
    with pytest.raises(UsageError, match="the rates are those of model vinr, this encode has hnerv"):
        vinr.plan(long_video, params="12k", epochs=9, rates=rates)
