"""The command line: whole jobs, machine-readable output, exit codes, one line for each bad input."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from typer.main import get_command

import vinr
from clips import MemoryClip, moving_shapes, write_clip
from command_line import TINY, Run, refused
from fresh import COMMAND, run_fresh
from vinr.cli.app import app
from vinr.config import default_model, list_presets
from vinr.models import list_models
from vinr.video.source import open_video

# -- whole jobs ----------------------------------------------------------------------------------------------


def test_encode_decode_and_evaluate(run: Run, tiny_video: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.vinr"
    settings = ("--preset", TINY, "--epochs", 3, "--device", "cpu", "--crop", "32x48", "--frames", "1:7")
    status, out, err = run("encode", tiny_video, file, *settings, "--json")
    assert status == 0, err
    report = json.loads(out)
    assert report["num_bytes"] == file.stat().st_size
    assert list(tmp_path.iterdir()) == [file]

    assert run("decode", file, tmp_path / "out.mkv", "--codec", "ffv1")[0] == 0
    with open_video(tmp_path / "out.mkv") as reader:
        written = reader.read().rgb_NCHW
    with vinr.open(file, device="cpu") as video:
        decoded = torch.stack(list(video))
    assert (written.int() - decoded.int()).abs().max() <= 3  # limited-range 4:4:4 rounds

    status, out, _ = run("eval", file, tiny_video, "--json")
    evaluation = json.loads(out)
    assert status == 0
    wanted = {"psnr_db", "ms_ssim", "bpp", "kbit_per_s", "num_bytes", "num_frames", "decode_fps"}
    assert wanted <= evaluation.keys()
    assert evaluation["num_frames"] == 6
    assert evaluation["psnr_db"] == pytest.approx(report["psnr_db"], abs=1e-6)
    assert evaluation["bpp"] == pytest.approx(8 * file.stat().st_size / (6 * 32 * 48))
    assert evaluation["kbit_per_s"] == pytest.approx(8 * file.stat().st_size / (6 / 25) / 1000)
    assert (
        len(json.loads(run("eval", file, tiny_video, "--json", "--per-frame")[1])["per_frame_psnr_db"]) == 6
    )
    assert "PSNR" in run("eval", file, tiny_video)[1]


def test_decoded_frames_as_images_and_y4m(run: Run, tiny_file: Path, tmp_path: Path) -> None:
    assert run("decode", tiny_file, tmp_path / "frames", "--frames", "0,5:8:2")[0] == 0
    # Images have the numbers of their frames; of frames that do not rise, the places in the list.
    names = sorted(path.name for path in (tmp_path / "frames").iterdir())
    assert names == ["frame_00000.png", "frame_00005.png", "frame_00007.png"]
    assert run("decode", tiny_file, tmp_path / "f_%02d.png", "--frames", "6:8")[0] == 0
    assert sorted(path.name for path in tmp_path.glob("f_*.png")) == ["f_06.png", "f_07.png"]
    assert run("decode", tiny_file, tmp_path / "back", "--frames", "7,2,2")[0] == 0
    assert len(list((tmp_path / "back").iterdir())) == 3
    assert run("decode", tiny_file, tmp_path / "twice.y4m", "--fps-scale", 2)[0] == 0
    with open_video(tmp_path / "twice.y4m") as reader:
        assert (reader.spec.num_frames, reader.spec.fps) == (15, 50)


def test_y4m_on_stdout_can_be_piped(tiny_file: Path) -> None:
    piped = run_fresh(COMMAND, "decode", str(tiny_file), "-", "--device", "cpu")
    assert (piped.returncode, piped.stderr) == (0, b"")
    assert piped.stdout.startswith(b"YUV4MPEG2 ")
    assert piped.stdout.count(b"FRAME\n") == 8


@pytest.mark.skipif(os.name == "nt", reason="the system has no such pipes")
def test_frames_that_nobody_reads_end_the_program_without_a_word(tiny_file: Path) -> None:
    closed = (
        "import os, sys\n"
        "reader, writer = os.pipe()\n"
        "os.close(reader)\n"
        "os.dup2(writer, 1)\n"
        "sys.stdout = open(1, 'w', closefd=False)\n"
    )
    ended = run_fresh(closed + COMMAND, "decode", str(tiny_file), "-")
    assert (ended.stderr, ended.returncode) == (b"", 141)  # as SIGPIPE would end it


@pytest.mark.skipif(os.name == "nt", reason="the system has no such pipes")
def test_output_that_nobody_reads_ends_the_program_without_a_word(tiny_file: Path) -> None:
    """By the end of the interpreter too, at which Python writes what it holds back."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "vinr", "info", str(tiny_file), "--json"]
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (ended.stderr, ended.returncode) == (b"", 141)


def test_several_clips_in_one_file(run: Run, tmp_path: Path) -> None:
    first = write_clip(tmp_path / "a.mkv", moving_shapes(num_frames=3, height=32, width=48))
    (tmp_path / "more").mkdir()
    second = write_clip(tmp_path / "more" / "a.mkv", moving_shapes(num_frames=2, height=40, width=40))
    file = tmp_path / "set.vinr"
    assert run("encode", first, second, file, "--preset", TINY, "--epochs", 1)[0] == 0
    refused(run("decode", file, tmp_path / "x.y4m"), "holds 2 clips", "#a")
    assert run("decode", f"{file}#a-2", tmp_path / "x.y4m")[0] == 0
    with open_video(tmp_path / "x.y4m") as reader:
        assert (reader.spec.num_frames, reader.spec.height, reader.spec.width) == (2, 40, 40)
    assert "2 clips" in run("verify", file)[1]
    assert [clip["name"] for clip in json.loads(run("info", file, "--json")[1])["clips"]] == ["a", "a-2"]


def test_segments_play_as_one_clip(run: Run, tiny_video: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.vinr"
    assert run("encode", tiny_video, file, "--preset", TINY, "--epochs", 1, "--segment", "0.12s")[0] == 0
    info = json.loads(run("info", file, "--json")[1])
    assert [network["num_frames"] for network in info["networks"]] == [3, 2, 3]
    with vinr.open(file, device="cpu") as video:
        assert torch.equal(video[2:6], torch.stack(list(video))[2:6])


def some_or_slow() -> list[Any]:
    """The default model, and the others with -m slow: all are solved for in tests/models/test_sizing.py."""
    usual = default_model()
    others = [pytest.param(name, marks=pytest.mark.slow) for name in list_models() if name != usual]
    return [usual, *others]


@pytest.mark.parametrize("model", some_or_slow())
def test_size_is_solved_for(run: Run, tiny_video: Path, tmp_path: Path, model: str) -> None:
    options = ("--model", model, "--params", "30k", "--epochs", 1, "--json")
    status, out, err = run("encode", tiny_video, tmp_path / "a.vinr", *options)
    assert status == 0, err
    assert abs(json.loads(out)["num_parameters"] - 30_000) <= 600


def test_info_adds_up_to_the_file(run: Run, tiny_file: Path) -> None:
    info = json.loads(run("info", tiny_file, "--json")[1])
    assert info["num_bytes"] == tiny_file.stat().st_size
    assert sum(info["bytes_by_component"].values()) == info["num_bytes"]
    assert info["clips"][0]["psnr_db"] > 5
    assert "component" in run("info", tiny_file)[1]


def test_models_and_presets_are_listed(run: Run) -> None:
    models = json.loads(run("models", "--json")[1])
    assert [entry["name"] for entry in models] == list_models()
    assert all(entry.keys() >= {"name", "paper", "sizes"} and "tiny" in entry["sizes"] for entry in models)
    model = default_model()
    presets = json.loads(run("presets", "--model", model, "--json")[1])
    of_the_model = [name for name in list_presets() if name.startswith(f"{model}-")]
    assert [entry["name"] for entry in presets] == of_the_model
    assert run("models")[0] == run("presets", "--model", model)[0] == 0


@pytest.mark.slow  # 171 networks are built without values
def test_presets_of_all_models_are_listed(run: Run) -> None:
    presets = json.loads(run("presets", "--json")[1])
    assert [entry["name"] for entry in presets] == list_presets()
    assert run("presets")[0] == 0


def test_interrupted_encode_resumes_to_the_same_file(
    run: Run, tiny_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--preset", TINY, "--epochs", 3, "--segment", "0.16s", "--device", "cpu")
    whole = tmp_path / "whole.vinr"
    assert run("encode", tiny_video, whole, *options)[0] == 0

    from vinr.fit import Trainer

    steps = []
    original = Trainer.train_on

    def stop_in_the_second_segment(self: Trainer, index_N: torch.Tensor) -> torch.Tensor:
        steps.append(1)
        if len(steps) == 9:  # 2 steps an epoch, 3 epochs in the first segment
            raise KeyboardInterrupt
        return original(self, index_N)

    monkeypatch.setattr(Trainer, "train_on", stop_in_the_second_segment)
    parts = tmp_path / "parts.vinr"
    status, _, err = run("encode", tiny_video, parts, *options)
    assert status == 130
    assert "--resume" in err
    assert not parts.exists()
    refused(run("encode", tiny_video, parts, *options), "interrupted encode", "--resume")
    assert run("encode", tiny_video, parts, *options, "--resume")[0] == 0
    assert len(steps) == 9 + 4 + 0
    assert parts.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "parts.vinr.partial").exists()


# -- bad input -----------------------------------------------------------------------------------------------


def test_unusable_videos_are_refused(run: Run, tmp_path: Path, tiny_video: Path) -> None:
    output = tmp_path / "out.vinr"
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("this is no video\n" * 50, encoding="utf-8")
    whole = write_clip(
        tmp_path / "whole.mp4",
        moving_shapes(num_frames=8, height=32, width=32),
        codec="libx264",
        pixel_format="yuv420p",
    )
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[:-400])
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    for name in ("missing.mp4", "empty.mp4", "text.mp4", "cut.mp4", "sound.mkv"):
        refused(run("encode", tmp_path / name, output, "--preset", TINY, "--epochs", 1), name)
    assert not output.exists()
    assert not output.with_name("out.vinr.partial").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--crop", "64x64"], ["64x64", "36x50"]),
        (["--crop", "0x20"], ["0x20"]),
        (["--frames", "5:5"], ["5:5"]),
        (["--frames", "0:9"], ["0:9", "0:8"]),
        (["--frames", "1-3"], ["A:B"]),
        (["--preset", "nothing-at-all"], ["nothing-at-all"]),
        (["--model", "vgg"], ["vgg"]),
        (["--model", "vgg", "--preset", TINY], ["give one of them"]),
        (["--preset", TINY, "--set", "fit.speed=3"], ["fit.speed"]),
        (["--preset", TINY, "--set", "architecture.depth=3"], ["architecture.depth"]),
        (["--preset", TINY, "--set", "fit.loss={l3=1.0}"], ["l3", "l2"]),
        (["--preset", TINY, "--params", "1M"], ["fixes the size"]),
        (["--params", "10"], ["smallest"]),
        (["--params", "many"], ["1.5M"]),
        (["--epochs", "3", "--time", "10m"], ["give one of them"]),
        (["--time", "soon"], ["10m"]),
        (["--device", "tpu"], ["auto, cpu, cuda"]),
    ],
    ids=lambda value: " ".join(value)[:30],
)
def test_bad_options_are_refused(
    run: Run, tiny_video: Path, tmp_path: Path, options: Sequence[str], words: Sequence[str]
) -> None:
    output = tmp_path / "out.vinr"
    refused(run("encode", tiny_video, output, *options), *words)
    assert list(tmp_path.iterdir()) == []


def test_outputs_are_protected(run: Run, tiny_video: Path, tiny_file: Path, tmp_path: Path) -> None:
    refused(run("encode", tiny_video, tmp_path / "no" / "out.vinr"), "does not exist")
    refused(run("encode", tiny_video, tmp_path / "out.mp4"), ".vinr")
    refused(run("encode", tiny_video, tmp_path / ".vinr"), "a name is missing", "out.vinr")
    refused(run("decode", tiny_file, tmp_path / ".mp4"), "a name is missing", "out.mp4")
    refused(run("compare", tiny_video, tmp_path / ".html"), "a name is missing", "out.html")
    refused(run("info", tiny_file, "--plot", tmp_path / ".png"), "a name is missing", "out.png")
    refused(run("encode", tiny_video), "INPUT")
    kept = tmp_path / "kept.vinr"
    kept.write_bytes(b"precious")
    refused(run("encode", tiny_video, kept, "--preset", TINY, "--epochs", 1), "--force")
    frames = tmp_path / "kept.mkv"
    frames.write_bytes(b"precious")
    refused(run("decode", tiny_file, frames), "--force")
    refused(run("decode", tiny_file, tmp_path / "out.avi"), ".avi")
    refused(run("decode", tiny_file, tmp_path / "no" / "out.mkv"), "does not exist")
    refused(run("decode", tiny_file, tmp_path / "out.mkv", "--frames", "9"), "0 to 7")
    assert kept.read_bytes() == frames.read_bytes() == b"precious"
    assert run("encode", tiny_video, kept, "--preset", TINY, "--epochs", 1, "--force")[0] == 0
    with vinr.open(kept, device="cpu") as video:
        assert video[0].shape == (3, 36, 50)


def test_full_disk_leaves_nothing(tiny_video: Path, tmp_path: Path) -> None:
    # A limit on the size of files fails in the same place as a full disk: in the middle of writing.
    limited = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
    )
    output = tmp_path / "out.vinr"
    options = ("--preset", TINY, "--epochs", "1")
    failed = run_fresh(limited + COMMAND, "encode", str(tiny_video), str(output), *options)
    said = failed.stderr.decode()
    assert failed.returncode == 2, said
    assert said.strip().splitlines()[-1].startswith("vinr: ")
    assert "Traceback" not in said
    assert not output.exists()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_damaged_files_are_refused(run: Run, tiny_file: Path, tmp_path: Path) -> None:
    good = tiny_file.read_bytes()
    cases = {
        "empty": b"",
        "magic": b"RIFF" + good[4:],
        "newer": good[:4] + bytes([99]) + good[5:],
        "cut": good[: len(good) // 2],
        "longer": good + b"more",
        "flip": good[:-20] + bytes([good[-20] ^ 16]) + good[-19:],
    }
    for name, content in cases.items():
        path = tmp_path / f"{name}.vinr"
        path.write_bytes(content)
        if name == "flip":
            status, out, err = run("verify", path)
            assert (status, err) == (2, "")
            assert "CHUNKS 0 is damaged" in out
        else:
            refused(run("verify", path))
        refused(run("decode", path, tmp_path / "out.y4m"))
        assert not (tmp_path / "out.y4m").exists()
    refused(run("info", tmp_path / "missing.vinr"), "missing.vinr")
    assert "newer" in run("info", tmp_path / "newer.vinr")[2]


def test_500_random_mutations_are_refused_or_change_nothing(tiny_file: Path) -> None:
    good = tiny_file.read_bytes()
    with vinr.open(good, device="cpu") as video:
        expected = torch.stack(list(video))
    rng = random.Random(1)
    refusals = 0
    for _ in range(500):
        content = bytearray(good)
        match rng.randrange(4):
            case 0:
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            case 1:
                start = rng.randrange(len(content))
                content[start : start + 8] = rng.randbytes(min(8, len(content) - start))
            case 2:
                del content[rng.randrange(len(content)) :]
            case 3:
                start = rng.randrange(len(content))
                del content[start : start + rng.randrange(1, 9)]
        try:
            with vinr.VinrFile.open(bytes(content), device="cpu") as file:
                damaged = file.verify().damaged
                frames = None if damaged else torch.stack(list(file.clip()))
        except vinr.BitstreamError:
            frames = None
        if frames is None:
            refusals += 1
        else:
            assert torch.equal(frames, expected)
    assert refusals > 450


# -- surface -------------------------------------------------------------------------------------------------

OPTIONS = {
    "encode": "bit-depth bpp crop deinterlace device epochs force frames gpus-per-worker join json log model "
    "no-reference params pix-fmt preset psnr quality quiet rate raw-size ray resize resume scene-cuts "
    "seed segment set size stream threads threads-per-worker time verbose workers",
    "decode": "backend bit-depth codec crf device force fps-scale frames gpus-per-worker keep-going "
    "max-memory ray set suffix threads-per-worker workers",
    "info": "force json max-memory plot",
    "verify": "device json max-memory",
    "eval": "backend deinterlace device gpus-per-worker json max-memory per-frame pix-fmt rate raw-size "
    "ray set stream threads-per-worker workers",
    "compare": "anchors bpp crop deinterlace device epochs force frames gpus-per-worker json model params "
    "pix-fmt preset rate raw-size ray resize set stream threads-per-worker time vinr workers",
    "convert": "force fps json name set",
    "export": "force max-memory onnx safetensors",
    "bench": "data device epochs force gpus-per-worker json out ray scale set threads-per-worker workers",
    "inpaint": "all-pixels bit-depth codec crf crop deinterlace device epochs force frames json mask "
    "model params pix-fmt preset rate raw-size resize seed set stream time",
    "interpolate": "bit-depth codec crf device factor force max-memory",
    "models": "json",
    "presets": "json model",
    "settings": "json model",
    "plan": "crop device epochs frames gpus json model params preset quality rates resize segment set "
    "size time workers",
}


def test_commands_and_options_are_the_documented_ones() -> None:
    found = {}
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        names = [
            option.removeprefix("--") for item in command.params for option in item.opts if option[:2] == "--"
        ]
        found[name] = " ".join(sorted(names))
    assert found == OPTIONS


def test_python_m_vinr_works() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "vinr", "--help"], capture_output=True, text=True, check=True
    )
    assert all(name in shown.stdout for name in OPTIONS)
    assert subprocess.run([sys.executable, "-m", "vinr", "encode"], capture_output=True).returncode == 2


def test_nothing_is_fitted_before_inputs_are_checked(run: Run, tiny_video: Path, tmp_path: Path) -> None:
    refused(
        run("encode", tiny_video, tmp_path / "missing.mkv", tmp_path / "out.vinr", "--epochs", 100_000),
        "missing.mkv",
    )
    assert os.listdir(tmp_path) == []


def test_clip_too_small_for_sizes_says_so(run: Run, tmp_path: Path) -> None:
    video = write_clip(tmp_path / "dot.mkv", MemoryClip(torch.full((1, 3, 2, 2), 9, dtype=torch.uint8)))
    status, _, err = run("encode", video, tmp_path / "dot.vinr", "--epochs", 1, "--device", "cpu")
    assert status == 0, err
    with vinr.open(tmp_path / "dot.vinr", device="cpu") as decoded:
        assert decoded[0].shape == (3, 2, 2)
