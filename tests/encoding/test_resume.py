"""Interrupted encodes: what is kept, what is said of it, what it goes on with, and what it refuses."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import vinr
from clips import MemoryClip, moving_shapes, write_clip
from vinr.cli.app import main
from vinr.encoding import encode as encoding
from vinr.encoding import segment_work
from vinr.errors import OutputError
from vinr.fit import Trainer
from vinr.fit import keeper as keeper_module
from vinr.fit import precision as precision_module
from vinr.state import interruption
from vinr.state.tensorfile import read_tensors, write_tensors

pytestmark = pytest.mark.usefixtures("usual_signals")
Run = Callable[..., tuple[int, str]]
OPTIONS = ("--model", "hnerv", "--params", "20k", "--epochs", "2", "--device", "cpu")
STEPS = 6  # 2 epochs of 3


@pytest.fixture(scope="module")
def clip() -> MemoryClip:
    return moving_shapes(num_frames=6, height=24, width=40)


@pytest.fixture(scope="module")
def video(clip: MemoryClip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("video") / "clip.mkv", clip)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run ``vinr encode`` in this process; return exit status and the last line of stderr."""

    def call(*arguments: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["vinr", "encode", *map(str, arguments)])
        capfd.readouterr()
        status = 0
        try:
            main()
        except SystemExit as error:
            status = int(error.code or 0)
        err = capfd.readouterr().err
        assert "Traceback" not in err
        return status, (err.strip().splitlines() or [""])[-1]

    return call


class Stop:
    """Sends ``number`` on the call after ``after`` others, and goes on."""

    def __init__(self, number: int, after: int, original: Callable[..., Any]) -> None:
        self.number, self.left, self.original = number, after, original

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        if not self.left:
            signal.raise_signal(self.number)
        self.left -= 1
        return self.original(*arguments, **settings)


def stop_in_step(patch: pytest.MonkeyPatch, step: int, number: int = signal.SIGTERM) -> None:
    stop = Stop(number, step - 1, Trainer.train_on)
    patch.setattr(Trainer, "train_on", lambda *arguments: stop(*arguments))


def stop_in(patch: pytest.MonkeyPatch, name: str, after: int = 0, number: int = signal.SIGTERM) -> None:
    module: Any = encoding if hasattr(encoding, name) else segment_work
    patch.setattr(module, name, Stop(number, after, getattr(module, name)))


def count_steps(patch: pytest.MonkeyPatch) -> list[int]:
    steps: list[int] = []
    original = Trainer.train_on

    def counted(self: Trainer, batch: Any) -> torch.Tensor:
        steps.append(1)
        return original(self, batch)

    patch.setattr(Trainer, "train_on", counted)
    return steps


@pytest.fixture(scope="module")
def whole(video: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of an encode that nothing interrupts."""
    path = tmp_path_factory.mktemp("whole") / "clip.vinr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["vinr", "encode", str(video), str(path), *OPTIONS])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
    return path.read_bytes()


PLACES: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str, int]] = {
    "the first step": (lambda patch: stop_in_step(patch, 1), "0.3 epochs", 1),
    "a step": (lambda patch: stop_in_step(patch, 4), "1.3 epochs", 4),
    "the last step": (lambda patch: stop_in_step(patch, STEPS), "2.0 epochs", STEPS),
    "coding": (lambda patch: stop_in(patch, "pack_tensors"), "the finished fit", STEPS),
    "measuring": (lambda patch: stop_in(patch, "compare"), "the finished fit", STEPS),
    "writing": (lambda patch: stop_in(patch, "assemble"), "1 finished network", STEPS),
}


@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_lost_wherever_an_encode_is_stopped(
    place: str, run: Run, video: Path, whole: bytes, tmp_path: Path
) -> None:
    output = tmp_path / "clip.vinr"
    stop, kept, steps_done = PLACES[place]
    with pytest.MonkeyPatch.context() as patch:
        stop(patch)
        status, said = run(video, output, *OPTIONS)
    assert status == 128 + signal.SIGTERM
    command = f"vinr encode {video} {output} {' '.join(OPTIONS)} --resume"
    assert said == f"interrupted; saved: {kept}. Continue with: {command}"
    assert not output.exists()
    with pytest.MonkeyPatch.context() as patch:
        steps = count_steps(patch)
        status, said = run(video, output, *OPTIONS, "--resume")
    assert status == 0, said
    assert len(steps) == STEPS - steps_done
    assert output.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize("number", interruption.NUMBERS)
def test_every_signal_that_asks_to_stop_keeps_the_state(
    number: int, run: Run, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_in_step(monkeypatch, 2, number)
    status, said = run(video, tmp_path / "clip.vinr", *OPTIONS)
    assert status == 128 + number
    assert "saved: 0.7 epochs" in said


def test_it_is_said_at_once_that_a_signal_was_seen(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stop_in_step(monkeypatch, 2)
    monkeypatch.setattr(sys, "argv", ["vinr", "encode", str(video), str(tmp_path / "clip.vinr"), *OPTIONS])
    with pytest.raises(SystemExit):
        main()
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if "stopping after this step" in line] == ["stopping after this step…"]


def test_nothing_is_said_to_be_kept_of_nothing(
    run: Run, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_in(monkeypatch, "fingerprint_of", number=signal.SIGINT)
    assert run(video, tmp_path / "clip.vinr", *OPTIONS) == (130, "interrupted; nothing was saved")
    assert list(tmp_path.iterdir()) == []


def test_without_room_for_the_state_that_is_said(
    run: Run, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OutputError("fit-00000.safetensors: cannot be written: No space left on device")

    monkeypatch.setattr(keeper_module, "write_fit_state", full)
    stop_in_step(monkeypatch, 4)
    status, said = run(video, tmp_path / "clip.vinr", *OPTIONS)
    assert status == 128 + signal.SIGTERM
    assert said.startswith("interrupted; nothing was saved (")
    assert "No space left on device" in said
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_for_the_state_does_not_end_the_encode(
    run: Run, video: Path, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OutputError("x: cannot be written: No space left on device")

    monkeypatch.setattr(keeper_module, "write_fit_state", full)
    monkeypatch.setattr(segment_work, "save_segment", full)
    output = tmp_path / "clip.vinr"
    assert run(video, output, *OPTIONS)[0] == 0
    assert output.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [output]


def test_an_encode_goes_on_in_the_arithmetic_it_was_begun_in(
    run: Run, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    options = (*OPTIONS, "--segment", "0.12s")  # two networks: the second one is begun after the resume
    output = tmp_path / "clip.vinr"
    monkeypatch.setattr(precision_module, "cpu_has_bf16", lambda: True)
    report = encoding.encode(video, tmp_path / "first.vinr", epochs=1, preset="nerv-tiny", device="cpu")
    assert report.precision == "bf16"
    with pytest.MonkeyPatch.context() as patch:
        stop_in(patch, "save_segment")
        run(video, output, *options)
    monkeypatch.setattr(precision_module, "cpu_has_bf16", lambda: False)
    monkeypatch.setattr(sys, "argv", ["vinr", "encode", str(video), str(output), *options, "--resume"])
    with pytest.raises(SystemExit):
        main()
    out, err = capfd.readouterr()
    assert "bf16 (as when the fit began; this machine would choose fp32)" in err
    assert "epochs in bf16" in out
    assert [network.precision for network in vinr.info(str(output)).networks] == ["bf16", "bf16"]


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["fit", "segment"])
def folder(request: pytest.FixtureRequest, video: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state inside a fit, and that of a finished segment."""
    path = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["vinr", "encode", str(video), str(path / "clip.vinr"), *OPTIONS])
        if request.param == "fit":
            stop_in_step(patch, 5)
        else:
            stop_in(patch, "assemble")
        with pytest.raises(SystemExit):
            main()
    partial = path / "clip.vinr.partial"
    assert [file.name for file in partial.glob("*.safetensors")] == [f"{request.param}-00000.safetensors"]
    return partial


def noise(clip: MemoryClip) -> MemoryClip:
    generator = torch.Generator().manual_seed(3)
    return MemoryClip(torch.randint(256, clip.rgb_NCHW.shape, generator=generator, dtype=torch.uint8))


CONTENTS: dict[str, tuple[Callable[[MemoryClip], MemoryClip], str]] = {
    "other content": (noise, "the frames differ"),
    "mirrored": (lambda clip: MemoryClip(clip.rgb_NCHW.flip(3)), "the frames differ"),
    "reversed": (lambda clip: MemoryClip(clip.rgb_NCHW.flip(0)), "the frames differ"),
    "channels swapped": (lambda clip: MemoryClip(clip.rgb_NCHW.flip(1)), "the frames differ"),
    "one value": (lambda clip: MemoryClip(one_value_changed(clip.rgb_NCHW)), "the frames differ"),
    "larger frames": (
        lambda clip: moving_shapes(num_frames=6, height=32, width=40),
        "40×32 (width × height) were 40×24",
    ),
    "turned frames": (
        lambda clip: MemoryClip(clip.rgb_NCHW.transpose(2, 3)),
        "24×40 (width × height) were 40×24",
    ),
    "more frames": (
        lambda clip: moving_shapes(num_frames=7, height=24, width=40),
        "frames 7 was 6",
    ),
}


def one_value_changed(rgb_NCHW: torch.Tensor) -> torch.Tensor:
    changed = rgb_NCHW.clone()
    changed[3, 1, 7, 9] ^= 1
    return changed


def refused(run: Run, folder: Path, video: Path, tmp_path: Path, *options: str) -> str:
    """Try to go on with a copy of ``folder``; return the reason why that is refused."""
    shutil.copytree(folder, tmp_path / folder.name)
    status, said = run(video, tmp_path / "clip.vinr", *options, "--resume")
    assert status == 2, said
    assert said.startswith("vinr: ")
    assert not (tmp_path / "clip.vinr").exists()
    assert len(list((tmp_path / folder.name).glob("*.safetensors"))) == 1  # nothing is taken away
    return said


@pytest.mark.parametrize("name", CONTENTS)
def test_a_state_of_another_video_is_refused(
    name: str, run: Run, folder: Path, clip: MemoryClip, tmp_path: Path
) -> None:
    make, words = CONTENTS[name]
    other = write_clip(tmp_path / "clip.mkv", make(clip))
    params = "20k"
    said = refused(run, folder, other, tmp_path, *OPTIONS[:2], "--params", params, *OPTIONS[4:])
    assert "another video or other settings" in said
    assert words in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--params", "30k"], "architecture."),
        (["--epochs", "3"], "fit.epochs 3 was 2"),
        (["--seed", "9"], "fit.seed 9 was 1"),
        (["--model", "nerv"], 'model "nerv" was "hnerv"'),
        (["--size", "9kB"], "fit.phases."),
        (["--set", "fit.batch_size=3"], "fit.batch_size 3 was 2"),
        (["--set", "compress.weight_bits=7", "--set", "fit.phases=[]"], "was"),
        (["--set", "fit.precision=fp32"], 'fit.precision "fp32" was "auto"'),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_state_of_other_settings_is_refused(
    options: list[str], words: str, run: Run, folder: Path, video: Path, tmp_path: Path
) -> None:
    said = refused(run, folder, video, tmp_path, *OPTIONS, *options)
    assert "another video or other settings" in said
    assert words in said


@pytest.mark.parametrize("options", [["--crop", "16x32"], ["--frames", "0:5"]], ids=" ".join)
def test_a_state_of_other_parts_of_the_frames_is_refused(
    options: list[str], run: Run, folder: Path, video: Path, tmp_path: Path
) -> None:
    said = refused(run, folder, video, tmp_path, *OPTIONS, *options)
    assert "holds an interrupted encode of" in said
    assert options[0].removeprefix("--") in said


def test_a_state_by_epochs_is_refused_by_time(run: Run, folder: Path, video: Path, tmp_path: Path) -> None:
    options = [word for word in OPTIONS if word not in ("--epochs", "2")]
    said = refused(run, folder, video, tmp_path, *options, "--time", "60s")
    assert "was" in said


def test_a_state_of_another_version_is_refused(run: Run, folder: Path, video: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed" / folder.name
    shutil.copytree(folder, changed)
    (file,) = changed.glob("*.safetensors")
    tensors, values = read_tensors(file)
    values["fingerprint"]["program"] = "vinr 0.0.1"
    write_tensors(file, tensors, values)
    (tmp_path / "go").mkdir()
    assert "vinr 0.0.1 wrote it" in refused(run, changed, video, tmp_path / "go", *OPTIONS)


def test_a_damaged_state_is_refused(run: Run, folder: Path, video: Path, tmp_path: Path) -> None:
    (file,) = folder.glob("*.safetensors")
    content = file.read_bytes()
    for number, place in enumerate((9, len(content) // 3, len(content) - 9)):
        damaged = tmp_path / str(number) / folder.name
        damaged.mkdir(parents=True)
        (damaged / file.name).write_bytes(
            content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        )
        target = tmp_path / f"go{number}"
        target.mkdir()
        said = refused(run, damaged, video, target, *OPTIONS)
        assert "not a readable state" in said


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("frames_per_chunk", 3),
        ("qualities", []),
        ("num_parameters", 0),
        ("components", [{"name": 3}]),
        ("precision", "fp16"),
        ("empty", "fixed"),
        ("empty", ["fixed"]),
        ("kind", "fit"),
    ],
)
def test_a_forged_segment_is_refused(
    key: str, value: object, run: Run, video: Path, tmp_path: Path, segment_file: Path
) -> None:
    folder = tmp_path / "from" / "clip.vinr.partial"
    folder.mkdir(parents=True)
    tensors, values = read_tensors(segment_file)
    values[key] = value
    write_tensors(folder / segment_file.name, tensors, values)
    (tmp_path / "go").mkdir()
    assert "not a readable state" in refused(run, folder, video, tmp_path / "go", *OPTIONS)


@pytest.fixture(scope="module")
def segment_file(video: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("segment")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["vinr", "encode", str(video), str(path / "clip.vinr"), *OPTIONS])
        stop_in(patch, "assemble")
        with pytest.raises(SystemExit):
            main()
    return path / "clip.vinr.partial" / "segment-00000.safetensors"
