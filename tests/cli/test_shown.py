"""What the commands print of reports: every figure with its unit, as JSON the report and nothing else."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from typing import Any

import pytest

from vinr.bench.recipe import list_recipes, load_recipe
from vinr.cli import console, progress
from vinr.cli.catalogue import ModelEntry, PresetEntry
from vinr.cli.show_bench import show_recipes
from vinr.cli.show_compare import show_comparison
from vinr.cli.show_tasks import show_inpaint
from vinr.comparison import ComparisonReport
from vinr.comparison.rd import BDResult, RDCurve, RDPoint
from vinr.decoding.exporting import ExportedGraph
from vinr.decoding.playback import EvaluationReport
from vinr.encoding.convert import ConvertReport
from vinr.encoding.reference import X264Reference
from vinr.encoding.report import EncodeReport
from vinr.errors import OutputError
from vinr.fit import Event, NotKept, Resumed, RoundDone
from vinr.fit.events import Collapsed, Noted, Written
from vinr.tasks.inpainting import InpaintReport

ENCODED = EncodeReport(
    path="out.vinr",
    num_bytes=163_840,
    bpp=0.0712,
    kbit_per_s=912.34,
    psnr_db=33.456,
    ms_ssim=0.97654,
    ms_ssim_window=11,
    model="hnerv",
    num_parameters=1_500_000,
    num_frames=132,
    num_epochs=299.96,
    train_psnr_db=33.6,
    num_collapses=0,
    seconds=61.4,
    precision="bf16",
    height=640,
    width=1280,
)
INPAINTED = InpaintReport(
    path="filled.mkv",
    num_frames=8,
    masked_share=0.0625,
    visible_psnr_db=31.234,
    model="nerv",
    num_parameters=30_400,
    num_epochs=12.0,
    num_collapses=0,
    seconds=3.0,
)
CONVERTED = ConvertReport(
    path="out.vinr",
    num_bytes=1_000,
    checkpoint_bytes=6_000_000,
    model="hnerv",
    num_parameters=1_480_000,
    bits_per_parameter=8.123,
    num_frames=132,
    height=640,
    width=1280,
    fps=29.97003,
    largest_difference=0.01234,
    num_compared=3,
)
EVALUATED = EvaluationReport(
    psnr_db=33.456,
    pooled_psnr_db=33.2,
    ms_ssim=0.97654,
    ms_ssim_window=5,
    bpp=0.0712,
    kbit_per_s=912.34,
    num_bytes=163_840,
    audio_bytes=0,
    num_frames=2,
    decode_fps=12.34,
    per_frame_psnr_db=(33.0, 33.912),
    per_frame_ms_ssim=(0.97, 0.98308),
)
PRESET = PresetEntry(
    name="hnerv-1.5m-bunny",
    source="HNeRV, Table 1",
    height=640,
    width=1280,
    num_frames=132,
    stored_parameters=1_480_321,
    encoder_parameters=93_040,
    macs_per_pixel=212_345.0,
    paper_parameters=1_480_321,
    paper_gmacs=None,
    paper_psnr_db=35.57,
)


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return what a function prints on stdout; it prints nothing on stderr."""

    def call(show: Callable[..., None], *arguments: Any, **options: Any) -> str:
        capsys.readouterr()
        show(*arguments, **options)
        out, err = capsys.readouterr()
        assert err == ""
        return out

    return call


Shown = Callable[..., str]


def pairs(text: str) -> dict[str, str]:
    """Return the lines of a report as names and values, which all begin in the same column."""
    found = dict(line.split("  ", 1) for line in text.splitlines())
    starts = {
        line.index(value.strip()) for line, value in zip(text.splitlines(), found.values(), strict=True)
    }
    assert len(starts) == 1
    return {name.strip(): value.strip() for name, value in found.items()}


# -- reports -------------------------------------------------------------------------------------------------


def test_an_encode(shown: Shown) -> None:
    assert pairs(shown(console.show_encode, ENCODED, as_json=False)) == {
        "file": "out.vinr  163,840 bytes",
        "rate": "0.0712 bpp  912.3 kbit/s",
        "frames": "132 of 1280×640 (width × height)",
        "PSNR": "33.46 dB (mean of frames)",
        "MS-SSIM": "0.9765 (window 11)",
        "model": "hnerv, 1.50 M parameters",
        "fit": "300.0 epochs in bf16, 61 s in all",
    }


def test_an_encode_stands_beside_its_source_and_x264(shown: Shown) -> None:
    """Audio is no rate of the video, and is not compared with that of x264."""
    beside = replace(
        ENCODED, other_bytes=81_920, source_bytes=327_680, reference=X264Reference(40_960, 30, 33.46)
    )
    found = pairs(shown(console.show_encode, beside, as_json=False))
    assert found["source"] == "327,680 bytes"
    assert found["file"] == "out.vinr  163,840 bytes, 50% of the source"
    assert found["rate"] == "0.0356 bpp  456.2 kbit/s, audio and times 456.2 kbit/s"
    assert found["x264"] == "medium needs about 40,960 bytes for 33.46 dB, 2.0 times fewer than this video"
    larger = replace(beside, num_bytes=10_000_000)
    assert pairs(shown(console.show_encode, larger, as_json=False))["file"].endswith(
        "bytes, 31 times the source: larger than what it was made of"
    )
    better = replace(beside, reference=X264Reference(122_880, 30, 33.46))
    assert "1.5 times more than" in pairs(shown(console.show_encode, better, as_json=False))["x264"]
    missing = replace(ENCODED, reference_note="this PyAV has no x264")
    found = pairs(shown(console.show_encode, missing, as_json=False))
    assert found["x264"] == "not measured: this PyAV has no x264; `vinr compare` measures it"


def test_a_blur_is_called_one(shown: Shown) -> None:
    assert "usable" not in shown(console.show_encode, replace(ENCODED, psnr_db=25.0), as_json=False)
    found = pairs(shown(console.show_encode, replace(ENCODED, psnr_db=24.9), as_json=False))
    assert "too low for a usable picture" in found["PSNR"]


def test_frames_too_small_for_ms_ssim_have_no_line_of_it(shown: Shown) -> None:
    small = replace(ENCODED, ms_ssim=None, ms_ssim_window=None)
    assert "MS-SSIM" not in shown(console.show_encode, small, as_json=False)


def test_an_inpainting(shown: Shown) -> None:
    found = pairs(shown(show_inpaint, INPAINTED, as_json=False))
    assert found["video"] == "filled.mkv  8 frames"
    assert found["filled"] == "6.25% of all pixels"
    assert found["PSNR"] == "31.23 dB of the network where nothing was masked"
    assert found["model"] == "nerv, 30.40 k parameters"


def test_a_conversion(shown: Shown) -> None:
    found = pairs(shown(console.show_convert, CONVERTED, as_json=False))
    assert found["checkpoint"] == "6,000,000 bytes"
    assert found["video"] == "132 frames of 1280×640 (width × height) at 29.970 fps"
    assert found["model"] == "hnerv, 1.48 M parameters, 8.12 bits per parameter"
    assert found["frames"].startswith(
        "at most 0.012 of 255 off the checkpoint's (before rounding, 3 compared)"
    )


@pytest.mark.parametrize("as_json", [False, True])
def test_a_conversion_that_readers_refuse_says_so_on_stderr(
    capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    console.show_convert(replace(CONVERTED, refused="a frame takes 9 GB"), as_json=as_json)
    assert capsys.readouterr().err == "readers refuse this file by default: a frame takes 9 GB\n"


def test_an_evaluation(shown: Shown) -> None:
    found = pairs(shown(console.show_evaluation, EVALUATED, per_frame=False, as_json=False))
    assert found["MS-SSIM"] == "0.9765 (window 5)"
    assert found["PSNR of mean MSE"] == "33.20 dB"
    assert found["file"] == "163,840 bytes"
    assert found["decoding"] == "12.3 frames/s"
    loud = replace(EVALUATED, audio_bytes=4_096, notes=("frames are shown at a constant rate",))
    found = pairs(shown(console.show_evaluation, loud, per_frame=False, as_json=False))
    assert found["file"] == "163,840 bytes, of which audio 4,096"
    assert found["note"] == "frames are shown at a constant rate"


def test_an_evaluation_frame_by_frame(shown: Shown) -> None:
    lines = shown(console.show_evaluation, EVALUATED, per_frame=True, as_json=False).splitlines()
    assert lines[-2:] == ["frame     0  33.000 dB  0.97000", "frame     1  33.912 dB  0.98308"]
    small = replace(EVALUATED, ms_ssim=None, ms_ssim_window=None, per_frame_ms_ssim=None)
    lines = shown(console.show_evaluation, small, per_frame=True, as_json=False).splitlines()
    assert lines[-2:] == ["frame     0  33.000 dB", "frame     1  33.912 dB"]


def test_a_document_has_single_frames_where_they_are_asked_for(shown: Shown) -> None:
    names = {"per_frame_psnr_db", "per_frame_ms_ssim"}
    short = json.loads(shown(console.show_evaluation, EVALUATED, per_frame=False, as_json=True))
    whole = json.loads(shown(console.show_evaluation, EVALUATED, per_frame=True, as_json=True))
    assert whole.keys() - short.keys() == names
    assert whole["per_frame_psnr_db"] == [33.0, 33.912]


def test_exported_graphs(shown: Shown) -> None:
    graphs = (ExportedGraph("a.onnx", 9_000, 0, 4, 0), ExportedGraph("b.onnx", 9_001, 4, 3, 12))
    assert shown(console.show_export, graphs).splitlines() == [
        "a.onnx  9,000 bytes, frames 0 to 3",
        "b.onnx  9,001 bytes, frames 4 to 6, its inputs from 12 on",
    ]


@pytest.mark.parametrize(
    ("show", "report"),
    [
        (console.show_encode, ENCODED),
        (show_inpaint, INPAINTED),
        (console.show_convert, CONVERTED),
    ],
)
def test_as_json_a_report_is_its_fields(shown: Shown, show: Callable[..., None], report: Any) -> None:
    assert json.loads(shown(show, report, as_json=True)) == json.loads(json.dumps(asdict(report)))


def test_json_has_no_numbers_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON knows neither NaN nor infinity; readers refuse documents that have them."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        console.print_json({"psnr_db": math.nan})
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(OutputError, match="standard output is closed"):
        console.print_json({})


# -- lists ---------------------------------------------------------------------------------------------------


def test_models_and_their_sizes(shown: Shown) -> None:
    entries = [ModelEntry("nerv", "NeRV (Chen et al., 2021)", ("tiny", "s"))]
    assert shown(console.show_models, entries, as_json=False).splitlines() == [
        "nerv: NeRV (Chen et al., 2021)",
        "    sizes: tiny, s",
    ]
    assert json.loads(shown(console.show_models, entries, as_json=True))[0]["sizes"] == ["tiny", "s"]


def test_presets_stand_in_one_line_each_however_long(shown: Shown) -> None:
    long = replace(PRESET, name="hnerv-" + "x" * 90, paper_psnr_db=None)
    head, first, second = shown(console.show_presets, [PRESET, long], as_json=False).splitlines()
    assert head.split() == ["preset", "video", "stored", "paper", "encoder", "kMAC/pixel", "paper", "dB"]
    assert first.split() == [
        PRESET.name,
        "132",
        "×",
        "1280×640",
        "1,480,321",
        "1,480,321",
        "93,040",
        "212.3",
        "35.57",
    ]
    assert second.split()[0] == long.name
    assert second.split()[-1] == "212.3"


def test_recipes(shown: Shown) -> None:
    recipes = [load_recipe(name) for name in list_recipes()]
    lines = shown(show_recipes, recipes, as_json=False).splitlines()
    assert [line.split()[0] for line in lines] == ["name", *(recipe.name for recipe in recipes)]
    document = json.loads(shown(show_recipes, recipes, as_json=True))
    assert [entry.keys() for entry in document] == [{"name", "paper", "table", "title"}] * len(recipes)


# -- comparisons ---------------------------------------------------------------------------------------------


def compared(*bd: BDResult) -> ComparisonReport:
    fitted = RDPoint("100 k", 0.1, num_bytes=12_345, psnr_db=30.0, yuv_psnr_db=31.25, encode_seconds=9.96)
    published = RDPoint("QP 22", 0.05, psnr_db=33.3, ms_ssim=0.98765)
    curves = (RDCurve("vinr hnerv", "vinr", (fitted,)), RDCurve("HM", "published", (published,)))
    return ComparisonReport("in.mp4", "page.html", 8, 36, 50, 25.0, "nearest", curves, bd)


def test_a_comparison_shows_what_is_known_of_each_point(shown: Shown) -> None:
    head, fitted, published, page = shown(show_comparison, compared(), as_json=False).splitlines()
    assert head.split()[:4] == ["codec", "setting", "bytes", "bpp"]
    assert fitted.split() == ["vinr", "hnerv", "100", "k", "12,345", "0.1000", "30.00", "31.25", "10.0"]
    assert published.split() == ["HM", "QP", "22", "0.0500", "33.30", "0.9877"]
    assert page == "page: page.html"


def test_a_comparison_says_what_networks_save_and_nothing_of_codecs(shown: Shown) -> None:
    report = compared(
        BDResult("HM", "vinr hnerv", "psnr_db", "pchip", rate_percent=-12.34, quality_db=0.5),
        BDResult("x264", "vinr hnerv", "psnr_db", "pchip", reason="the curves share no quality"),
        BDResult("HM", "vinr hnerv", "ms_ssim_db", "pchip", rate_percent=1.0, quality_db=0.5),
        BDResult("vinr hnerv", "HM", "psnr_db", "pchip", rate_percent=14.1, quality_db=-0.5),
    )
    lines = shown(show_comparison, report, as_json=False).splitlines()
    assert lines[3:] == [
        "vinr hnerv against HM: -12.3 % bits at equal RGB-PSNR",
        "vinr hnerv against x264: the curves share no quality",
        "page: page.html",
    ]
    document = json.loads(shown(show_comparison, report, as_json=True))
    assert len(document["bd"]) == 4


def test_a_comparison_says_what_networks_save_against_each_other(shown: Shown) -> None:
    pair = BDResult("vinr tnerv", "vinr hnerv", "psnr_db", "pchip", rate_percent=-8.0, quality_db=0.4)
    other = replace(pair, measure="ms_ssim_db", rate_percent=3.0)
    report = replace(compared(), bd_equal_time=(pair, other))
    lines = shown(show_comparison, report, as_json=False).splitlines()
    assert lines[3:] == ["vinr hnerv against vinr tnerv: -8.0 % bits at equal RGB-PSNR", "page: page.html"]


def interrupt(progress: AbstractContextManager[Callable[..., None]], *arguments: Any) -> None:
    with progress as show:
        show(*arguments)
        raise KeyboardInterrupt


def check_interrupted(progress: AbstractContextManager[Callable[..., None]], *arguments: Any) -> None:
    """Assert that Ctrl-C after a call with ``arguments`` ends the program as Ctrl-C does."""
    with pytest.raises(SystemExit) as ended:
        interrupt(progress, *arguments)
    assert ended.value.code == 130


# -- progress ------------------------------------------------------------------------------------------------


def said_of(capsys: pytest.CaptureFixture[str], *events: Event) -> list[str]:
    """Return the lines on stderr of a fit that sends ``events``, where stderr is no terminal."""
    with progress.fit_progress(lambda: "saved: nothing") as watch:
        for event in events:
            watch.on_event(event)
    out, err = capsys.readouterr()
    assert out == ""
    return str(err).splitlines()


def test_rounds_say_nothing_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    rounds = (RoundDone(1.0, 0.5, 30.0, 1.0, 1.0), RoundDone(2.0, 1.0, 31.0, 2.0, math.inf))
    assert said_of(capsys, *rounds, Written(1_000, 2.0, 2.0)) == []


def test_what_is_worth_a_line_has_one(capsys: pytest.CaptureFixture[str]) -> None:
    events = (
        Resumed(12.34),
        Noted("precision fp32: this CPU has no bfloat16 [x]"),
        Collapsed(psnr_db=11.0, best_psnr_db=30.0, epochs_lost=0.5, rate_scale=0.5),
        NotKept("No space left on device"),
    )
    assert said_of(capsys, *events) == [
        "resumed after 12.3 epochs",
        "precision fp32: this CPU has no bfloat16 [x]",
        "the fit collapsed from 30.0 dB to 11.0 dB; it went back 0.5 epochs, its learning rate is now × 0.5",
        "the state could not be saved: No space left on device; the fit continues",
    ]


def test_an_interruption_says_that_the_state_could_not_be_saved(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        with progress.fit_progress(lambda: "saved: 2.0 epochs") as watch:
            watch.on_event(NotKept("No space left on device"))
            raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        interrupted()
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "interrupted; saved: 2.0 epochs (the state could not be saved: No space left on device)"


def test_an_interrupted_decode_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    check_interrupted(progress.frame_progress("decoding"), 3, 8)
    assert capsys.readouterr() == ("", "interrupted\n")


# -- terminals that are narrow -------------------------------------------------------------------------------


def test_a_table_that_is_too_wide_is_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No name is broken, and no line is longer than the terminal is wide."""
    screen = io.StringIO()
    out = type(console.OUT)()
    out.file, out._force_terminal, out.width = screen, True, 80
    monkeypatch.setattr(console, "OUT", out)
    long = replace(PRESET, name="hnerv-" + "x" * 40, paper_psnr_db=None)
    console.show_presets([PRESET, long], as_json=False)
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if not line.startswith(" ")] == [PRESET.name, long.name]
    assert "kMAC/pixel 212.3   paper dB 35.57" in screen.getvalue()
    assert screen.getvalue().count("paper dB") == 1  # a cell without content has no title
