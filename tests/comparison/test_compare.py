"""Comparison of networks and codecs: whole runs on a tiny clip, and what is refused before any work."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from typer.main import get_command

import vinr
from clips import moving_shapes, write_clip
from command_line import TINY, Run, refused
from vinr.cli.app import app
from vinr.codecs.anchors import parse_anchor
from vinr.comparison import ComparisonReport, runs
from vinr.comparison.page import ComparisonPage
from vinr.comparison.plan import DEFAULT_ANCHORS, Budget, plan_fits, read_anchors
from vinr.comparison.rd import RDCurve
from vinr.config import default_model
from vinr.errors import UsageError
from vinr.video.samples import sample_clip
from vinr.video.spec import VideoSpec

DOCUMENT = Path(__file__).parents[2] / "docs" / "compare.md"
PUBLISHED = Path(__file__).parents[2] / "docs" / "published" / "codecs-uvg.csv"


@pytest.fixture
def run(run: Run) -> Run:
    """Run ``vinr compare`` in this process; return exit status, stdout, stderr."""
    return lambda *arguments: run("compare", *arguments)


@pytest.fixture(scope="module")
def compared(tiny_video: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ComparisonReport]:
    """A page of two fitted sizes, two codecs and published points, in a folder of its own."""
    folder = tmp_path_factory.mktemp("compare")
    report = vinr.compare(
        tiny_video,
        folder / "page.html",
        models=[default_model()],
        params=["8k", 12_000],
        epochs=1,
        anchors=["x264:20:28:36:44", "av1-12:40", str(PUBLISHED)],
        crop=(32, 48),
        frames=(1, 7),
        device="cpu",
    )
    return folder, report


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without plots, which take longer to draw than the points to measure."""
    monkeypatch.setattr(ComparisonPage, "plots", [])


def curve_of(report: ComparisonReport, name: str) -> RDCurve:
    (found,) = [curve for curve in report.curves if curve.name == name]
    return found


# -- whole runs ----------------------------------------------------------------------------------------------


def test_every_point_is_measured_on_the_same_frames(
    compared: tuple[Path, ComparisonReport],
) -> None:
    _, report = compared
    assert (report.num_frames, report.height, report.width, report.fps) == (6, 32, 48, 25)
    measured = [curve for curve in report.curves if curve.kind != "published"]
    assert [(curve.kind, len(curve.points)) for curve in measured] == [
        ("vinr", 2),
        ("anchor", 4),
        ("anchor", 1),
    ]
    for curve in measured:
        for point in curve.points:
            assert point.bpp == pytest.approx(8 * (point.num_bytes or 0) / (6 * 32 * 48))
            assert len(point.per_frame_psnr_db) == 6
            assert None not in (point.psnr_db, point.yuv_psnr_db, point.encode_seconds, point.decode_fps)
    assert curve_of(report, "x264 medium").points[-1].options["crf"] == "20"
    assert {"HM 18.0 random access", "VCT"} <= {curve.name for curve in report.curves}


def test_fitted_files_are_kept_and_are_what_was_measured(
    compared: tuple[Path, ComparisonReport], tiny_video: Path
) -> None:
    folder, report = compared
    files = sorted((folder / "page-files").iterdir())
    assert [file.name for file in files] == [f"{default_model()}-{count}.vinr" for count in (12000, 8000)]
    points = curve_of(report, f"vinr {default_model()}").points
    assert sorted(point.num_bytes or 0 for point in points) == sorted(file.stat().st_size for file in files)
    assert sorted(path.name for path in folder.iterdir()) == ["page-files", "page.html"]
    evaluation = vinr.evaluate(points[0].options["file"], str(tiny_video), device="cpu")
    assert points[0].psnr_db == pytest.approx(evaluation.psnr_db)
    assert points[0].per_frame_psnr_db == pytest.approx(evaluation.per_frame_psnr_db)


def test_the_page_shows_the_report(compared: tuple[Path, ComparisonReport]) -> None:
    _, report = compared
    text = Path(report.page).read_text(encoding="utf-8")
    assert "6 frames of 48×32 (width × height) at 25.000 fps" in text
    assert "crop 48×32" in text
    assert not re.search(r'(?:src|href)="(?!data:)', text)
    assert 'class="verdict"' in text
    for fact in ("measured", "machine", "versions"):
        assert f"<td>{fact}</td>" in text
    for curve in report.curves:
        for point in curve.points:
            assert f"<td>{point.bpp:.5f}</td>" in text
    assert text.count("<figcaption>") == 1 + 3  # the original, and each measured codec
    assert "2 points of RGB-PSNR" in text  # why there is no BD-rate of the networks


def test_bd_rates_are_between_all_pairs(compared: tuple[Path, ComparisonReport]) -> None:
    _, report = compared
    found = {(r.test, r.anchor, r.measure): r for r in report.bd}
    refused = found[f"vinr {default_model()}", "x264 medium", "psnr_db"]
    assert refused.rate_percent is None
    assert "2 points" in refused.reason
    assert (f"vinr {default_model()}", f"vinr {default_model()}", "psnr_db") not in found
    value = found["HM 18.0 random access", "VTM 17.0 random access", "psnr_db"].rate_percent
    assert value == pytest.approx(17.2, abs=0.1)


@pytest.mark.usefixtures("no_plots")
def test_files_are_compared_as_they_were_cut(
    run: Run, compared: tuple[Path, ComparisonReport], tiny_video: Path, tmp_path: Path
) -> None:
    folder, report = compared
    files = [option for file in sorted((folder / "page-files").iterdir()) for option in ("--vinr", file)]
    page = tmp_path / "again.html"
    status, out, err = run(tiny_video, page, *files, "--anchors", "av1-12:40", "--device", "cpu", "--json")
    assert (status, err) == (0, "")
    document = json.loads(out)
    assert (document["num_frames"], document["height"], document["width"]) == (6, 32, 48)
    assert list(tmp_path.iterdir()) == [page]
    before = {p.num_bytes: p.psnr_db for p in curve_of(report, f"vinr {default_model()}").points}
    after = {p["num_bytes"]: p["psnr_db"] for p in document["curves"][0]["points"]}
    assert after == pytest.approx(before)
    (point,) = document["curves"][1]["points"]
    assert point["psnr_db"] == curve_of(report, "SVT-AV1 preset 12").points[0].psnr_db

    status, out, _ = run(tiny_video, page, *files, "--anchors", "x264:20", "--device", "cpu", "--force")
    assert status == 0
    assert "x264 medium" in out
    assert f"page: {page}" in out
    with pytest.raises(json.JSONDecodeError):
        json.loads(out)


@pytest.mark.usefixtures("no_plots")
def test_a_preset_brings_its_size_and_sound_is_left_out(tmp_path: Path, tiny_video: Path) -> None:
    report = vinr.compare(
        tiny_video, tmp_path / "p.html", presets=[TINY], epochs=1, anchors=[], seed=3, device="cpu"
    )
    (networks,) = report.curves
    (point,) = networks.points
    assert point.setting == TINY
    assert point.options["compress.audio"] == "false"
    assert point.options["epochs"] == "1.0"
    assert (tmp_path / "p-files" / f"{TINY}.vinr").stat().st_size == point.num_bytes


@pytest.mark.usefixtures("no_plots")
def test_progress_rises_to_all_points(tiny_video: Path, tiny_file: Path, tmp_path: Path) -> None:
    calls: list[tuple[str, float]] = []
    vinr.compare(
        tiny_video,
        tmp_path / "p.html",
        files=[tiny_file],
        anchors=["x264:30", "vp9-5:40"],
        device="cpu",
        on_progress=lambda text, share: calls.append((text, share)),
    )
    assert calls[-1][1] == 1
    assert {text for text, _ in calls} >= {"x264 medium, CRF 30", "VP9 good, cpu-used 5, CRF 40"}
    starts = [share for text, share in calls if text.startswith("vinr")]
    assert starts[0] > 2 / 3


def test_the_documented_commands_exist() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")  # its Python is run by tests/test_docs.py
    (commands,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    known = {option for item in get_command(app).commands["compare"].params for option in item.opts}  # type: ignore[attr-defined]
    for line in commands.splitlines():
        program, command, *words = shlex.split(line, comments=True)
        assert (program, command) == ("vinr", "compare")
        assert {word for word in words if word.startswith("--")} <= known
    listed = re.findall(r"^\| `(\w+)` .*CRF ([\d ]+) \|$", text, re.MULTILINE)
    assert len(listed) == 4
    for name, sweep in listed:
        assert parse_anchor(name)[1] == tuple(int(value) for value in sweep.split())
    assert ",".join(DEFAULT_ANCHORS) in text


# -- planning ------------------------------------------------------------------------------------------------


def test_without_sizes_four_are_chosen() -> None:
    budget = Budget(epochs=1, times=(), seed=None, overrides=())
    for spec in (VideoSpec(8, 36, 50), VideoSpec(132, 160, 320)):
        jobs = plan_fits([], [], [], [], spec, budget)
        counts = [job.params or 0 for job in jobs]
        assert len(counts) == 4
        assert all(2 * low == pytest.approx(high, abs=1) for low, high in pairwise(counts))
        assert {(job.model, job.curve) for job in jobs} == {(default_model(), default_model())}


def test_small_networks_are_fitted_first() -> None:
    budget = Budget(epochs=1, times=(), seed=None, overrides=())
    spec = VideoSpec(132, 160, 320)
    jobs = plan_fits([default_model()], [], [400_000, 100_000], [0.5, 0.05], spec, budget)
    assert [(job.params, job.bpp) for job in jobs] == [
        (100_000, None),
        (400_000, None),
        (None, 0.05),
        (None, 0.5),
    ]
    assert [job.setting for job in jobs][::2] == ["100.00 k parameters", "at most 0.05 bpp"]
    assert len({job.file_name for job in jobs}) == 4


def test_a_size_that_one_model_cannot_have_is_left_out_with_a_word() -> None:
    budget = Budget(epochs=1, times=(), seed=None, overrides=())
    spec, notes = VideoSpec(132, 160, 320), list[str]()
    jobs = plan_fits(["nerv", "hnerv"], [], [100, 200_000], [], spec, budget, notes.append)
    assert [(job.model, job.params) for job in jobs] == [("nerv", 200_000), ("hnerv", 200_000)]
    assert len(notes) == 2
    assert all(note.startswith("left out: 100 parameters are too few: the smallest ") for note in notes)
    with pytest.raises(UsageError, match="100 parameters are too few"):
        plan_fits(["nerv"], [], [100], [], spec, budget)
    with pytest.raises(UsageError, match="unknown model 'nervv'"):
        plan_fits(["nervv", "nerv"], [], [200_000], [], spec, budget)


def test_default_anchors_are_all_four_codecs() -> None:
    sweeps, published = read_anchors(DEFAULT_ANCHORS)
    assert {anchor.encoder for anchor, _ in sweeps} == {"libx264", "libx265", "libsvtav1", "libvpx-vp9"}
    assert all(len(qualities) >= 4 for _, qualities in sweeps)
    assert any("no B-frames (as in papers)" in anchor.name for anchor, _ in sweeps)
    assert {anchor.chroma for anchor, _ in sweeps} == {"4:2:0", "4:4:4"}
    assert published == []


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--anchors", "h266"], ["x264, x265, av1, vp9"]),
        (["--anchors", "x264,,vp9"], ["empty item"]),
        (["--anchors", "x264:99"], ["0 to 51"]),
        (["--anchors", "x264:30,x264-medium:40"], ["given twice"]),
        (["--anchors", "missing.csv"], ["missing.csv", "cannot be read"]),
        (["--anchors", f"{PUBLISHED}#Nowhere"], ["Nowhere", "Average"]),
        (["--model", "vgg"], ["vgg"]),
        (["--preset", TINY, "--params", "1M"], ["fixes the size"]),
        (["--params", "10"], ["smallest"]),
        (["--params", "many"], ["1.5M"]),
        (["--params", "20k,20k"], ["twice"]),
        (["--bpp", "0.1,no"], ["0.02,0.05"]),
        (["--bpp", "0.1,30"], ["at most 24"]),
        (["--bpp", "0.0001"], ["give a larger size"]),
        (["--epochs", "3", "--time", "10m"], ["give one of them"]),
        (["--time", "soon"], ["10m"]),
        (["--time", "1m,1m"], ["time '1 min' is given twice"]),
        (["--time", "60s,1m"], ["time '1 min' is given twice"]),
        (["--time", "5m,"], ["'5m,'", "empty item"]),
        (["--time", "5m,soon"], ["'soon'", "10m"]),
        (["--model", "hnerv,vinr,hnerv"], ["model 'hnerv' is given twice"]),
        (["--preset", f"{TINY},{TINY}"], [f"preset '{TINY}' is given twice"]),
        (["--device", "tpu"], ["auto, cpu, cuda"]),
        (["--crop", "64x64"], ["64x64", "36x50"]),
        (["--frames", "0:9"], ["0:9", "0:8"]),
        (["--set", "fit.speed=3"], ["fit.speed"]),
        (["--vinr", "missing.vinr"], ["missing.vinr"]),
    ],
    ids=lambda value: " ".join(value)[:30],
)
def test_bad_options_are_refused_before_anything_runs(
    run: Run, tiny_video: Path, tmp_path: Path, options: Sequence[str], words: Sequence[str]
) -> None:
    refused(run(tiny_video, tmp_path / "p.html", "--anchors", "x264:30", *options), *words)
    assert list(tmp_path.iterdir()) == []


def test_inputs_and_outputs_are_checked(
    run: Run, tiny_video: Path, tiny_file: Path, tmp_path: Path, compared: tuple[Path, ComparisonReport]
) -> None:
    folder, _ = compared
    kept = tmp_path / "kept.html"
    kept.write_text("precious", encoding="utf-8")
    refused(run(tiny_video, kept, "--vinr", tiny_file), "--force")
    refused(run(tiny_video, tmp_path / "p.pdf", "--vinr", tiny_file), "must end in .html")
    refused(run(tiny_video, tmp_path / "no" / "p.html", "--vinr", tiny_file), "does not exist")
    refused(run(tmp_path / "missing.mp4", tmp_path / "p.html"), "missing.mp4")
    refused(run(tiny_video, tmp_path / "p.html", "--vinr", tiny_video), "shapes.mkv")
    cut = next((folder / "page-files").iterdir())
    refused(run(tiny_video, tmp_path / "p.html", "--vinr", tiny_file, "--vinr", cut), "compare them apart")
    refused(run(tiny_video, tmp_path / "p.html", "--vinr", cut, "--crop", "32x48"), "leave them out")
    other = write_clip(tmp_path / "other.mkv", moving_shapes(num_frames=8, height=40, width=50))
    refused(
        run(other, tmp_path / "p.html", "--vinr", tiny_file),
        "8 frames of 50×36 (width × height)",
        "the video it was made from",
    )
    other.unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["kept.html"]
    assert kept.read_text(encoding="utf-8") == "precious"


@pytest.mark.usefixtures("no_plots")
def test_fitted_files_are_not_overwritten(run: Run, tiny_video: Path, tmp_path: Path) -> None:
    (tmp_path / "p-files").mkdir()
    kept = tmp_path / "p-files" / f"{TINY}.vinr"
    kept.write_bytes(b"precious")
    options = ("--preset", TINY, "--epochs", 1, "--anchors", "x264:30")
    refused(run(tiny_video, tmp_path / "p.html", *options), "--vinr", "--force")
    assert kept.read_bytes() == b"precious"
    kept.unlink()
    kept.with_name(f"{kept.name}.partial").mkdir()
    (kept.with_name(f"{kept.name}.partial") / "fit-00000.safetensors").write_bytes(b"precious")
    refused(run(tiny_video, tmp_path / "p.html", *options), "was interrupted", "--force")
    assert run(tiny_video, tmp_path / "p.html", *options, "--force")[0] == 0
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


@pytest.mark.usefixtures("no_plots")
def test_files_of_one_name_are_told_apart(tiny_video: Path, tiny_file: Path, tmp_path: Path) -> None:
    files = [tmp_path / folder / "x.vinr" for folder in "ab"]
    for file in files:
        file.parent.mkdir()
        shutil.copy(tiny_file, file)
    report = vinr.compare(tiny_video, tmp_path / "p.html", files=files, anchors=[], device="cpu")
    settings = [point.setting for curve in report.curves for point in curve.points]
    assert settings == [str(file) for file in files]


@pytest.mark.usefixtures("no_plots")
def test_sound_is_not_counted(tmp_path: Path) -> None:
    """A file that was fitted with sound is compared by the bytes of its pictures."""
    source = sample_clip("bigbuckbunny.mp4")
    edit = {"frames": (0, 5), "resize": (32, 48)}
    vinr.encode(source, tmp_path / "a.vinr", preset=TINY, epochs=1, device="cpu", **edit)
    report = vinr.compare(source, tmp_path / "p.html", files=[tmp_path / "a.vinr"], anchors=[], device="cpu")
    (point,) = report.curves[0].points
    with vinr.open(tmp_path / "a.vinr", device="cpu") as video:
        sound = video.audio()
    assert sound is not None
    assert point.options["audio left out"] == f"{len(sound.data):,} bytes"
    assert point.num_bytes == (tmp_path / "a.vinr").stat().st_size - len(sound.data)


def test_a_frame_size_that_a_codec_refuses_stops_before_any_fit(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "encode", lambda *args, **kwargs: pytest.fail("fitted before the codecs ran"))
    video = write_clip(tmp_path / "dot.mkv", moving_shapes(num_frames=2, height=6, width=6))
    options = ("--params", "2k", "--epochs", 1, "--anchors", "x265:30")
    status, out, err = run(video, tmp_path / "p.html", *options)
    refused((status, out, err), "x265 medium cannot encode frames of 6x6", "leave it out")


def test_a_failure_leaves_no_page_and_no_temporary_files(
    tiny_video: Path, tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))

    def stop(text: str, share: float) -> None:
        if text.startswith("x264") and share > 0.3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vinr.compare(
            tiny_video,
            tmp_path / "p.html",
            files=[tiny_file],
            anchors=["x264:30"],
            device="cpu",
            on_progress=stop,
        )
    assert [path.name for path in tmp_path.rglob("*")] == ["temporary"]
