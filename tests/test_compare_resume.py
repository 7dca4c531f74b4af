"""A comparison that was stopped: the same command goes on with what was finished, any other does not."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import vinr
from clips import moving_shapes, write_clip
from compare_kills import PLACES, count_fits, is_second_network, run, without_times
from fresh import run_fresh
from kill_points import KILLED
from vinr.comparison.rd import RDPoint
from vinr.config import default_model
from vinr.errors import OutputError

FILES = [f"{default_model()}-{count}.vinr" for count in (12000, 8000)]
LEFT = ["page-files", *(f"page-files/{name}" for name in FILES), "page.html"]


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Of each fit an item."""
    monkeypatch.setattr(
        "vinr.encoding.segment_work.fit", vinr.encoding.segment_work.fit
    )  # put back afterwards
    return count_fits()


def left() -> list[str]:
    return sorted(str(path).replace(os.sep, "/") for path in Path().rglob("*"))


def stop_in_second(text: str, share: float) -> None:
    if is_second_network(text):
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def stopped_once(tiny_video: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a comparison was stopped while its second network was fitted."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with pytest.raises(KeyboardInterrupt):
            run(tiny_video, stop_in_second)
    return folder


@pytest.fixture
def stopped(stopped_once: Path, tiny_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a copy of that folder; return the video."""
    shutil.copytree(stopped_once, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    assert "page.html.partial" in left()
    assert "page.html" not in left()
    return tiny_video


def pictures(page: str) -> list[str]:
    return re.findall(r"data:image/png;base64,[^\"']+", page)


def point_of(report: vinr.ComparisonReport, params: str) -> RDPoint:
    (found,) = [point for curve in report.curves for point in curve.points if params in point.setting]
    return found


# -- the same command ----------------------------------------------------------------------------------------


def test_the_same_command_goes_on(
    stopped: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, fits: list[Any]
) -> None:
    resumed = run(stopped)
    assert len(fits) == 1
    assert left() == LEFT
    files = [Path("page-files", name).read_bytes() for name in FILES]
    page = Path("page.html").read_text(encoding="utf-8")

    monkeypatch.chdir(tmp_path_factory.mktemp("undisturbed"))
    undisturbed = run(stopped)
    assert without_times(resumed) == without_times(undisturbed)
    assert [Path("page-files", name).read_bytes() for name in FILES] == files
    assert len(pictures(page)) >= 6
    assert pictures(page) == pictures(Path("page.html").read_text(encoding="utf-8"))


def test_the_time_of_a_network_is_that_of_all_runs(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1_000_000, 1000))  # each look at it costs 1000 s
    monkeypatch.setattr("vinr.comparison.runs.monotonic", lambda: next(clock))
    with pytest.raises(KeyboardInterrupt):
        run(stopped, stop_in_second)
    assert (point_of(run(stopped), "12.00 k").encode_seconds or 0) > 1000


def test_force_goes_on_too(stopped: Path, fits: list[Any]) -> None:
    """The page was there before: the command that replaces it is repeated as it was."""
    Path("page.html").write_text("old", encoding="utf-8")
    with pytest.raises(OutputError, match="exists already"):
        run(stopped)
    run(stopped, force=True)
    assert len(fits) == 1
    assert left() == LEFT


def test_what_was_to_be_overwritten_still_is(
    tmp_path: Path, tiny_video: Path, monkeypatch: pytest.MonkeyPatch, fits: list[Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("page-files").mkdir()
    for name in FILES:
        Path("page-files", name).write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        run(tiny_video, stop_in_second, force=True)
    run(tiny_video)
    assert len(fits) == 3
    assert left() == LEFT
    assert b"old" not in [Path("page-files", name).read_bytes() for name in FILES]


def test_a_damaged_point_is_measured_again(stopped: Path, fits: list[Any]) -> None:
    notes: list[str] = []
    points = sorted(Path("page.html.partial").glob("point-*"))
    assert len(points) == 2  # a codec and a network
    for path in points:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    run(stopped, on_note=notes.append)
    assert len(fits) == 1
    assert len([note for note in notes if "checksum" in note and "made anew" in note]) == 2
    assert left() == LEFT


def test_more_sizes_take_what_is_finished(stopped: Path, fits: list[Any]) -> None:
    """Points are told apart one by one."""
    report = run(stopped, params=(8_000, 16_000), force=True)
    assert len(fits) == 1
    assert {point.setting[:7] for point in report.curves[0].points} == {"8.00 k ", "16.00 k"}


# -- another command -----------------------------------------------------------------------------------------


def test_other_settings_take_nothing(stopped: Path, fits: list[Any]) -> None:
    before = {name: Path(name).read_bytes() for name in left() if Path(name).is_file()}
    with pytest.raises(OutputError, match=r"8000\.vinr: exists already; compare it with files"):
        run(stopped, epochs=3)
    with pytest.raises(OutputError, match="exists already"):
        run(stopped, seed=5)
    assert {name: Path(name).read_bytes() for name in left() if Path(name).is_file()} == before
    report = run(stopped, epochs=3, force=True)
    assert len(fits) == 2
    assert [point.options["epochs"] for point in report.curves[0].points] == ["3.0", "3.0"]
    assert left() == LEFT


def test_another_clip_of_the_name_takes_nothing(
    stopped: Path, tmp_path_factory: pytest.TempPathFactory, fits: list[Any]
) -> None:
    other = write_clip(
        tmp_path_factory.mktemp("other") / stopped.name, moving_shapes(num_frames=8, height=36, width=52)
    )
    with pytest.raises(OutputError, match="exists already"):
        run(other)
    report = run(other, force=True)
    assert (len(fits), report.width) == (2, 52)
    assert left() == LEFT


def test_state_of_another_clip_is_set_aside(stopped: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = write_clip(
        tmp_path_factory.mktemp("other") / "b.mkv", moving_shapes(num_frames=8, height=36, width=50)
    )
    notes: list[str] = []
    run(other, force=True, on_note=notes.append)
    assert any("held an interrupted comparison of shapes.mkv" in note for note in notes)
    assert "page.html.partial-1" in left()
    assert "page.html.partial" not in left()


def test_a_file_that_someone_replaced_is_not_touched(stopped: Path) -> None:
    path = Path("page-files", FILES[1])
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match=r"8000\.vinr: exists already"):
        run(stopped)
    assert path.read_bytes() == b"precious"


def test_two_at_once_are_refused(stopped: Path) -> None:
    def second(text: str, share: float) -> None:
        with pytest.raises(OutputError, match="another comparison is writing it"):
            run(stopped)

    run(stopped, second)
    assert left() == LEFT


# -- kills ---------------------------------------------------------------------------------------------------


# Places before, in and after the work; those between with -m slow.
USUAL = [
    "SIGKILL in the second fit",
    "file of the first network has its name",
    "state of the comparison is removed",
]
OTHERS = [place for place in PLACES if place not in USUAL]
Killed = Callable[[str], tuple[dict[str, Any], dict[str, Any]]]


@pytest.fixture(scope="module")
def killed(tiny_video: Path, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """What became of a comparison that was killed at a place, and of one that was not."""
    if not hasattr(os, "fork"):
        pytest.skip("the system has no fork")

    @cache
    def try_all(*places: str) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("kills")
        code = "import compare_kills; compare_kills.main()"
        found = run_fresh(code, str(tiny_video), str(folder), *places)
        assert found.returncode == 0, found.stderr.decode()[-3000:]
        documents: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
        return documents

    def of_place(place: str) -> tuple[dict[str, Any], dict[str, Any]]:
        documents = try_all(*(USUAL if place in USUAL else OTHERS))
        return documents[place], documents["undisturbed"]

    return of_place


@pytest.mark.parametrize(
    "place", [*USUAL, *(pytest.param(place, marks=pytest.mark.slow) for place in OTHERS)]
)
def test_a_killed_comparison_goes_on(killed: Killed, place: str) -> None:
    found, undisturbed = killed(place)
    assert undisturbed["fits"] == 2
    assert found["again"] == 0
    assert found["status"] == (-signal.SIGKILL if place.startswith("SIGKILL") else KILLED)
    assert (found["left"], undisturbed["left"]) == (LEFT, LEFT)
    assert pictures(found["page"]) == pictures(undisturbed["page"])
    if place == "state of the comparison is removed":
        assert found["report"] == {"refused": "page.html: is already complete; there is nothing to resume"}
        assert found["fits"] == 0
        return
    assert found["report"] == undisturbed["report"]
    assert found["fits"] == (2 if "announced" in place else 1)


def test_the_command_line_says_what_is_kept(
    tmp_path: Path,
    tiny_video: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    usual_signals: None,
) -> None:
    from vinr.cli.app import main

    monkeypatch.chdir(tmp_path)
    options = ("--params", "8k,12k", "--epochs", "2", "--anchors", "x264:30", "--device", "cpu")
    monkeypatch.setattr(sys, "argv", ["vinr", "compare", str(tiny_video), "page.html", *options])
    with monkeypatch.context() as patch:
        patch.setattr(
            "vinr.comparison.points.Points._show",
            lambda points, text: is_second_network(text) and os.kill(os.getpid(), signal.SIGTERM),
        )
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 128 + signal.SIGTERM
    so_far = Path("page.html.partial", "so-far.html")
    assert (
        f"interrupted; saved: 2 points and 2 networks; the page so far: {so_far}. "
        "Repeat the command to continue"
    ) in capfd.readouterr().err
    assert "2 of 3 points are here; repeat the command" in so_far.read_text(encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert left() == LEFT
