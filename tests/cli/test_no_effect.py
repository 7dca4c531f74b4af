"""Options that change nothing where they are given are refused or noted, never ignored without a word.

Refused where the result is not what was asked for, noted where it is so anyway.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from clips import moving_shapes, write_clip
from command_line import TINY, Run, refused
from vinr.encoding.advice import without_effect
from vinr.encoding.plan import plan_encode
from vinr.units import SegmentLength
from vinr.video.spec import VideoSpec

CLIP, OTHER, LARGE = VideoSpec(9, 24, 40), VideoSpec(9, 40, 24), VideoSpec(300, 1080, 1920)
JOINED, WARM = ["fit.join_clips=true"], ["fit.warm_start=true"]


@pytest.mark.parametrize(
    ("specs", "overrides", "segment", "said"),
    [
        ([CLIP], JOINED, None, "join=True has no effect: there is one input"),
        ([CLIP, OTHER], JOINED, None, "join=True has no effect: no two inputs have one size and bit depth"),
        ([LARGE, LARGE], JOINED, None, "join=True has no effect: the frames of two inputs fill more than"),
        ([CLIP, CLIP], JOINED, None, None),
        ([CLIP, OTHER, CLIP], JOINED, None, None),
        ([CLIP], ["fit.join_clips=false"], None, None),
        ([CLIP], [], None, None),
        ([CLIP], WARM, None, "fit.warm_start has no effect: there is one network; segment='10s' makes"),
        ([CLIP], WARM, SegmentLength(frames=90), "fit.warm_start has no effect: there is one network"),
        ([CLIP], WARM, SegmentLength(frames=3), None),
    ],
)
def test_of_some_clips_an_option_changes_nothing(
    specs: list[VideoSpec], overrides: list[str], segment: SegmentLength | None, said: str | None
) -> None:
    preset = "nerv-tiny" if CLIP in specs else "nerv-1.5m-bunny"
    plan = plan_encode(specs, preset=preset, overrides=overrides, segment=segment, epochs=5)
    lines = without_effect(plan, specs)
    assert [line.startswith(said) for line in lines] == [True] if said else lines == []


def test_join_of_one_input_is_noted_and_encoded(run: Run, tiny_video: Path, tmp_path: Path) -> None:
    options = ("--preset", TINY, "--epochs", 1, "--device", "cpu", "--no-reference")
    status, _, err = run("encode", tiny_video, tmp_path / "a.vinr", *options, "--join")
    assert status == 0
    assert "--join has no effect: there is one input, which has one network anyway" in err
    status, _, err = run("encode", tiny_video, tmp_path / "b.vinr", *options)
    assert "no effect" not in err
    assert (tmp_path / "a.vinr").read_bytes() == (tmp_path / "b.vinr").read_bytes()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--scene-cuts"], "--scene-cuts ends segments at cuts; say how long they are at most"),
        (["--gpus-per-worker", "1"], "--gpus-per-worker 1 has no effect without --workers or --ray"),
        (["--threads-per-worker", "2"], "--threads-per-worker 2 has no effect without --workers or --ray"),
        (["--rate", "24"], "leave --rate out"),
        (["--pix-fmt", "nv12"], "leave --pix-fmt out"),
        (["--quality", "high", "--params", "20k"], "chooses the size of the network, and so does params"),
        (["--quality", "low", "--size", "20kB"], "chooses the size of the network, and so does size"),
        (["--quiet", "--verbose"], "--verbose and --quiet exclude each other"),
        (["--set", "compress.weight_bits=6"], "changes nothing where steps are learned"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_of_encode_that_others_make_idle_are_refused(
    run: Run, tiny_video: Path, tmp_path: Path, options: list[str], said: str
) -> None:
    refused(run("encode", tiny_video, tmp_path / "a.vinr", "--epochs", 5, *options), said)
    assert list(tmp_path.iterdir()) == []


def test_options_for_many_files_are_refused_of_one(
    run: Run, tiny_file: Path, tiny_video: Path, tmp_path: Path
) -> None:
    output = tmp_path / "a.mp4"
    refused(
        run("decode", tiny_file, output, "--suffix", ".mkv"), "--suffix .mkv is for the files of a folder"
    )
    refused(run("eval", tiny_file, tiny_video, "--workers", 2), "--workers and --ray are for many files")
    assert list(tmp_path.iterdir()) == []


def test_options_for_one_file_are_told_of_many(run: Run, tiny_file: Path, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    clip = write_clip(tmp_path / "videos" / "a.mkv", moving_shapes(num_frames=2, height=24, width=40))
    folder, options = tmp_path / "files", ("--preset", "nerv-tiny", "--epochs", 1, "--device", "cpu")
    refused(run("encode", clip.parent, folder, "--join"), "--join is for several inputs of one output")
    status, _, err = run("encode", clip.parent, folder, *options, "--resume", "--no-reference")
    assert status == 0
    assert "--resume has no effect: files of a folder continue by themselves" in err
    assert "--no-reference has no effect: of a folder x264 is not measured" in err
    refused(run("eval", folder, clip.parent, "--per-frame"), "--per-frame is for one file")


def test_a_folder_is_decoded_at_the_crf_that_is_asked_for(run: Run, tiny_file: Path, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.vinr").write_bytes(tiny_file.read_bytes())
    sizes = []
    for crf in (0, 40):
        folder = tmp_path / f"crf-{crf}"
        assert run("decode", tmp_path / "files", folder, "--crf", crf, "--device", "cpu")[0] == 0
        sizes.append((folder / "a.mp4").stat().st_size)
    assert sizes[0] > 1.5 * sizes[1]


@pytest.mark.parametrize("name", ["frames", "a.gif", "a.y4m"])
def test_a_codec_of_what_has_none_is_noted(run: Run, tiny_file: Path, tmp_path: Path, name: str) -> None:
    status, _, err = run("decode", tiny_file, tmp_path / name, "--crf", 20, "--frames", "0")
    assert status == 0
    assert "crf 20 has no effect" in err
    refused(run("decode", tiny_file, tmp_path / "b.mkv", "--codec", "ffv1", "--crf", 20), "loses nothing")


def test_a_plan_counts_workers_or_gpus(run: Run, tiny_video: Path) -> None:
    refused(run("plan", tiny_video, "--workers", 2, "--gpus", 2), "--workers and --gpus exclude each other")


def test_replacing_nothing_is_noted(run: Run, tiny_file: Path) -> None:
    status, _, err = run("info", tiny_file, "--force")
    assert status == 0
    assert "--force has no effect without --plot" in err


@pytest.mark.parametrize(
    "options",
    [
        *(["--scale", "tiny"], ["--data", "x"], ["--out", "x"], ["--epochs", "3"], ["--device", "cpu"]),
        *(["--workers", "2"], ["--set", "fit.seed=3"], ["--force"]),
    ],
    ids=lambda options: options[0],
)
def test_options_of_a_recipe_are_refused_without_one(run: Run, options: list[str]) -> None:
    refused(run("bench", *options), f"{options[0]} belongs to a recipe")


def test_how_long_to_train_is_noted_where_nothing_is_trained(
    run: Run, tiny_file: Path, tiny_video: Path, tmp_path: Path
) -> None:
    options = ("--vinr", tiny_file, "--anchors", "x264:40", "--device", "cpu")
    status, _, err = run("compare", tiny_video, tmp_path / "a.html", *options, "--time", "5m", "--epochs", 3)
    assert status == 0
    for name in ("--time", "--epochs"):
        assert f"{name} has no effect: files are compared, and no network is trained" in err
