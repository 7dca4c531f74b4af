"""Comparisons at several times: a curve each, quality over encoding time, BD-rates at equal time.

Networks are fitted for as many epochs as they are given seconds, so that no result depends on a clock.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

import vinr
from command_line import Run
from vinr.comparison import ComparisonReport, runs
from vinr.comparison.kept import work_of_fit
from vinr.comparison.on_workers import order_of
from vinr.comparison.page import ComparisonPage
from vinr.comparison.plan import Budget, ComparedFile, FitJob, plan_fits
from vinr.comparison.plots import time_plots
from vinr.comparison.points import Measured, Points, list_points
from vinr.comparison.rd import RDCurve, RDPoint, equal_time_table
from vinr.video.spec import VideoSpec

SPEC = VideoSpec(132, 160, 320)
MODELS = ("hnerv", "vinr")
FILES = [f"{model}-12000-{seconds}s.vinr" for model in MODELS for seconds in (1, 2)]
CURVES = ["vinr hnerv 1 s", "vinr 1 s", "vinr hnerv 2 s", "vinr 2 s"]


def fit_by_epochs(patch: pytest.MonkeyPatch) -> list[str]:
    """Let a second of fitting be an epoch; return a list that gets the name of each file that is fitted."""
    fitted: list[str] = []

    def encode(source: str, path: Path, *, time: float, epochs: None, **options: Any) -> None:
        fitted.append(path.name)
        vinr.encode(source, path, epochs=round(time), **options)

    patch.setattr(runs, "encode", encode)
    return fitted


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are fitted, in their order."""
    return fit_by_epochs(monkeypatch)


def compare(video: Path, folder: Path, *times: float, **options: Any) -> ComparisonReport:
    settings: dict[str, Any] = {"models": MODELS, "params": [12_000], "anchors": [], "device": "cpu"}
    return vinr.compare(video, folder / "page.html", time=list(times), **{**settings, **options})


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without plots, where they are not looked at."""
    monkeypatch.setattr(ComparisonPage, "plots", [])


def plan(
    *times: float, models: tuple[str, ...] = MODELS, params: tuple[int, ...] = (200_000,)
) -> list[FitJob]:
    return plan_fits(models, [], params, [], SPEC, Budget(None, times, None, ()), on_note=pytest.fail)


def point(setting: str, bpp: float, psnr_db: float, seconds: float | None) -> RDPoint:
    return RDPoint(setting, bpp, num_bytes=1000, psnr_db=psnr_db, encode_seconds=seconds)


def curve(network: str, seconds: float | None, shift: float = 0.0) -> RDCurve:
    """Return a curve of four sizes, each encoded in a tenth more than it was given."""
    spent = None if seconds is None else 1.1 * seconds
    points = tuple(point(f"size {n}", 0.01 * 2**n, 30.0 + 2 * n + shift, spent) for n in range(4))
    name = f"{network} {seconds}"
    return RDCurve(name, "vinr", points, network=network, budget_seconds=seconds)


# -- planning ------------------------------------------------------------------------------------------------


def test_each_network_is_fitted_for_each_time_short_ones_first() -> None:
    jobs = plan(300, 60, params=(400_000, 200_000))
    assert [(job.seconds, job.model, job.params) for job in jobs] == [
        (seconds, model, params) for seconds in (60, 300) for model in MODELS for params in (200_000, 400_000)
    ]
    assert all(job.plan is not None and job.plan.seconds == job.seconds for job in jobs)
    assert {job.setting for job in jobs} == {"200.00 k parameters", "400.00 k parameters"}


def test_files_of_other_times_have_other_names() -> None:
    assert [job.file_name for job in plan(60, 90.5, models=("hnerv",))] == [
        "hnerv-200000-60s.vinr",
        "hnerv-200000-90.5s.vinr",
    ]
    (untimed,) = plan(models=("hnerv",))
    assert untimed.file_name == "hnerv-200000.vinr"


def test_what_is_kept_of_one_time_is_not_taken_for_another() -> None:
    first, second = plan(60, 300, models=("hnerv",))
    works = [work_of_fit(job, overrides=(), device="cpu") for job in (first, second)]
    assert works[0] != works[1]
    assert works[0] == work_of_fit(plan(60, models=("hnerv",))[0], overrides=(), device="cpu")


def test_a_size_that_is_left_out_is_noted_once_for_all_times() -> None:
    notes: list[str] = []
    budget = Budget(None, (60, 300), None, ())
    jobs = plan_fits(["hnerv"], [], [100, 200_000], [], SPEC, budget, notes.append)
    assert [job.seconds for job in jobs] == [60, 300]
    assert len(notes) == 1


def test_presets_are_fitted_for_each_time() -> None:
    budget = Budget(None, (60, 300), None, ())
    jobs = plan_fits([], ["hnerv-tiny", "vinr-tiny"], [], [], SPEC, budget)
    assert [job.file_name for job in jobs] == [
        f"{preset}-{seconds}s.vinr" for seconds in (60, 300) for preset in ("hnerv-tiny", "vinr-tiny")
    ]


@pytest.mark.parametrize(
    ("times", "names"),
    [
        ((), ["vinr hnerv", "vinr"]),
        ((300,), ["vinr hnerv", "vinr"]),
        ((60, 5400), ["vinr hnerv 1 min", "vinr 1 min", "vinr hnerv 1 h 30 min", "vinr 1 h 30 min"]),
    ],
)
def test_curves_are_called_by_model_and_by_time_where_there_are_several(
    times: tuple[float, ...], names: list[str]
) -> None:
    jobs = list_points([], [], [], plan(*times), Path("page-files"), width=320)
    assert [job.curve for job in jobs] == names
    assert [job.network for job in jobs][:2] == ["vinr hnerv", "vinr"]


def test_on_workers_the_longest_fits_begin_first() -> None:
    jobs = list_points([], [], [], plan(60, 300), Path("page-files"), width=320)
    assert [jobs[number].budget_seconds for number in order_of(jobs)] == [300, 300, 60, 60]


def test_a_curve_that_a_file_joins_has_no_common_time() -> None:
    def budget_of(files: list[ComparedFile]) -> float | None:
        fits = plan(60, models=("hnerv",))
        jobs = list_points([], files, ["hnerv"] * len(files), fits, Path("page-files"), width=320)
        points = Points(jobs, None)
        for number, job in enumerate(jobs):
            points.take(number, Measured(point(job.setting, 0.1, 30.0, None), {}, ""))
        (found,) = points.curves()
        return found.budget_seconds

    assert budget_of([]) == 60
    assert budget_of([ComparedFile("a.vinr", "a.vinr")]) is None


# -- whole runs ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(tiny_video: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ComparisonReport]:
    """A comparison of two models at two times, in a folder of its own."""
    folder = tmp_path_factory.mktemp("times")
    with pytest.MonkeyPatch.context() as patch:
        fit_by_epochs(patch)
        return folder, compare(tiny_video, folder, 2, 1)


def test_each_time_gives_a_curve_and_a_file(compared: tuple[Path, ComparisonReport]) -> None:
    folder, report = compared
    assert [(curve.name, curve.budget_seconds) for curve in report.curves] == [
        (name, seconds) for name, seconds in zip(CURVES, (1, 1, 2, 2), strict=True)
    ]
    assert sorted(path.name for path in (folder / "page-files").iterdir()) == FILES
    assert not (folder / "page.html.partial").exists()
    for found in report.curves:
        (measured,) = found.points
        assert measured.options["epochs"] == f"{found.budget_seconds:.1f}"
        assert measured.num_bytes == Path(measured.options["file"]).stat().st_size
        assert measured.encode_seconds is not None


def test_networks_of_one_time_are_compared_with_each_other(compared: tuple[Path, ComparisonReport]) -> None:
    _, report = compared
    pairs = {(result.test, result.anchor) for result in report.bd_equal_time}
    assert pairs == {("vinr 1 s", "vinr hnerv 1 s"), ("vinr 2 s", "vinr hnerv 2 s")}
    assert report.bd == ()
    text = Path(report.page).read_text(encoding="utf-8")
    for name in CURVES[::2]:
        assert f"{name} has 1 point of RGB-PSNR, mean of frames (dB), 4 are needed" in text


@pytest.mark.usefixtures("no_plots")
def test_the_command_takes_lists(run: Run, fits: list[str], tiny_video: Path, tmp_path: Path) -> None:
    options = ("--model", "hnerv", "--params", "12k", "--anchors", "x264:30", "--device", "cpu")
    status, out, err = run("compare", tiny_video, tmp_path / "p.html", *options, "--time", "1s,2", "--json")
    assert (status, err) == (0, "")
    assert fits == ["hnerv-12000-1s.vinr", "hnerv-12000-2s.vinr"]
    document = json.loads(out)
    assert [(item["name"], item["network"], item["budget_seconds"]) for item in document["curves"]] == [
        ("vinr hnerv 1 s", "vinr hnerv", 1),
        ("vinr hnerv 2 s", "vinr hnerv", 2),
        ("x264 medium", "", None),
    ]
    assert document["bd_equal_time"] == []


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize("time", [2, "2s", ["2s"]])
def test_one_time_is_given_as_ever(
    time: float | str | list[str], fits: list[str], tiny_video: Path, tmp_path: Path
) -> None:
    report = vinr.compare(
        tiny_video,
        tmp_path / "p.html",
        models=["hnerv"],
        params=["12k"],
        anchors=[],
        device="cpu",
        time=time,
    )
    assert [(curve.name, curve.budget_seconds) for curve in report.curves] == [("vinr hnerv", 2)]
    assert fits == ["hnerv-12000-2s.vinr"]


# -- interrupted ---------------------------------------------------------------------------------------------


def stop_in(name: str) -> Callable[[str, float], None]:
    """Return a watch of progress that interrupts when the fit of a point of curve ``name`` has begun."""

    def stop(text: str, share: float) -> None:
        if text.startswith(f"{name},") and "epoch" in text:
            raise KeyboardInterrupt

    return stop


@pytest.mark.usefixtures("no_plots")
def test_an_interrupted_comparison_goes_on_with_each_time(
    fits: list[str], tiny_video: Path, tmp_path: Path, compared: tuple[Path, ComparisonReport]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        compare(tiny_video, tmp_path, 1, 2, on_progress=stop_in("vinr hnerv 2 s"))
    assert fits == [FILES[0], FILES[2], FILES[1]]
    fits.clear()
    report = compare(tiny_video, tmp_path, 1, 2)
    assert fits == [FILES[1], FILES[3]]
    undisturbed = compared[1]
    for found, expected in zip(report.curves, undisturbed.curves, strict=True):
        assert (found.name, found.points[0].psnr_db) == (expected.name, expected.points[0].psnr_db)
    for name in FILES:
        ours, theirs = (path / "page-files" / name for path in (tmp_path, compared[0]))
        assert ours.read_bytes() == theirs.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page-files", "page.html"]


@pytest.mark.usefixtures("no_plots")
def test_one_more_time_takes_what_is_finished(fits: list[str], tiny_video: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        compare(tiny_video, tmp_path, 1, on_progress=stop_in("vinr"))
    assert fits == [FILES[0], FILES[2]]
    fits.clear()
    compare(tiny_video, tmp_path, 1, 2, models=["hnerv"])
    assert fits == [FILES[1]]


@pytest.mark.usefixtures("no_plots")
def test_another_time_overwrites_no_file_and_force_those_of_its_own(
    fits: list[str], tiny_video: Path, tmp_path: Path
) -> None:
    compare(tiny_video, tmp_path, 1, models=["hnerv"])
    kept = tmp_path / "page-files" / FILES[0]
    before = kept.read_bytes()
    compare(tiny_video, tmp_path, 2, models=["hnerv"], force=True)
    assert kept.read_bytes() == before
    kept.write_bytes(b"old")
    compare(tiny_video, tmp_path, 1, 2, models=["hnerv"], force=True)
    assert kept.read_bytes() == before
    assert fits == [FILES[0], FILES[1], FILES[0], FILES[1]]


# -- quality over encoding time ------------------------------------------------------------------------------


def test_points_lie_at_the_seconds_that_encoding_took() -> None:
    curves = [curve("vinr hnerv", 60.0), curve("vinr", 60.0), curve("vinr hnerv", 300.0, shift=3.0)]
    (plot,) = time_plots(curves)
    assert (plot.is_log, plot.x_label, plot.y_label) == (True, "encoding time (s)", "RGB-PSNR (dB)")
    assert [line.name for line in plot.lines] == [
        *(f"vinr hnerv, size {n}" for n in range(4)),
        *(f"vinr, size {n}" for n in range(4)),
    ]
    assert [(found.x, found.y) for found in plot.lines[1].points] == [(66.0, 32.0), (330.0, 35.0)]
    assert plot.lines[1].points[1].text.endswith("35.00 dB, encoded in 330 s")


def test_lines_of_a_network_have_its_colour_and_a_dash_per_size() -> None:
    (plot,) = time_plots([curve("vinr hnerv", 60.0), curve("vinr", 60.0), curve("vinr", 300.0)])
    assert [line.number for line in plot.lines] == [0] * 4 + [1] * 4
    assert [line.dash for line in plot.lines] == [0, 1, 2, 3] * 2


def test_points_without_encoding_time_are_left_out() -> None:
    resumed = curve("vinr", 300.0)
    points = tuple(replace(found, encode_seconds=None) for found in resumed.points[:2]) + resumed.points[2:]
    (plot,) = time_plots([curve("vinr", 60.0), replace(resumed, points=points)])
    assert [len(line.points) for line in plot.lines] == [1, 1, 2, 2]


def test_without_several_times_there_is_no_such_plot() -> None:
    codec = RDCurve("x264", "anchor", (point("CRF 30", 0.1, 30.0, 0.5),))
    assert time_plots([codec, curve("vinr hnerv", 60.0), curve("vinr", 60.0)]) == []
    assert time_plots([codec, curve("vinr hnerv", None), curve("vinr", 60.0)]) == []


# -- BD-rates at equal time ----------------------------------------------------------------------------------


TIMED = [curve("vinr hnerv", 60.0), curve("vinr", 60.0, shift=0.5), curve("vinr", 300.0, shift=3.0)]


def test_pairs_are_those_of_one_time() -> None:
    (found,) = equal_time_table([*TIMED, curve("vinr tnerv", None), curve("old", None)], ["psnr_db"])
    assert (found.anchor, found.test) == ("vinr hnerv 60.0", "vinr 60.0")
    # Twice the rate is 2 dB, and half a decibel a quarter of that.
    assert found.rate_percent == pytest.approx(100 * (2**-0.25 - 1))
    assert found.quality_db == pytest.approx(0.5)


def rendered(curves: list[RDCurve]) -> str:
    table = equal_time_table(curves, ["psnr_db", "ms_ssim_db"])
    return ComparisonPage("clip", [], curves, [], [], [], equal_time=table).render()


def test_the_page_has_a_row_for_each_pair() -> None:
    text = re.sub(r"\s+", " ", rendered(TIMED))
    assert "Networks against each other, at equal time" in text
    row = '<td>1 min</td><td class="name">vinr</td><td class="name">vinr hnerv</td>'
    assert f'{row} <td class="good">-15.9 % (+0.50)</td>' in text
    assert "MS-SSIM, −10·log10(1 − x) (dB)</th>" not in text
    assert "vinr hnerv 60.0 has 0 points of MS-SSIM" in text


def test_a_small_overlap_has_a_star() -> None:
    text = rendered([curve("vinr hnerv", 60.0), curve("vinr", 60.0, shift=4.0)])
    assert re.search(r"\(\+4\.00\)\*</td>", text)


def test_pairs_that_cannot_be_compared_give_their_reason_alone() -> None:
    text = rendered([curve("vinr hnerv", 60.0), curve("vinr", 60.0, shift=40.0)])
    assert "at equal time" not in text
    assert "vinr 60.0 and vinr hnerv 60.0 do not overlap in quality" in text


def test_the_csv_has_network_and_time() -> None:
    codec = RDCurve("x264", "anchor", (point("CRF 30", 0.1, 30.0, 0.5),))
    text = ComparisonPage("clip", [], [*TIMED, codec], [], [], []).csv_uri
    rows = list(csv.DictReader(io.StringIO(unquote(text.partition(",")[2]))))
    found = [(row["network"], row["budget_seconds"]) for row in rows[::4]]
    assert found == [("vinr hnerv", "60.0"), ("vinr", "60.0"), ("vinr", "300.0"), ("", "")]
