"""What the commands decode and eval call: settings, notes, and errors half-way."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vinr
from random_files import random_file
from vinr.decoding.settings import DecodeSettings, load_decode_settings
from vinr.video.source import open_video
from vinr.video.spec import VideoSpec

VIDEO = VideoSpec(6, 48, 64)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(random_file(tmp_path_factory.mktemp("playback") / "clip.vinr", VIDEO))


def written(path: Path) -> Tensor:
    with open_video(path) as reader:
        return reader.read().rgb_NCHW


def failing_compiler(function: Any) -> Any:
    def run(*arguments: Any) -> Tensor:
        raise RuntimeError("no compiler found")

    return run


def test_frames_written_are_those_decoded(file: str, tmp_path: Path) -> None:
    seen = []
    report = vinr.decode(
        file,
        str(tmp_path / "a.mkv"),
        codec="ffv1",
        device="cpu",
        settings=DecodeSettings(batch=4),
        on_frame=lambda done, total: seen.append((done, total)),
    )
    path = tmp_path / "a.mkv"
    size = path.stat().st_size
    assert report == vinr.DecodeReport(str(path), VIDEO.num_frames, written="ffv1", num_bytes=size)
    assert seen == [(4, 6), (6, 6)]
    with vinr.open(file, device="cpu") as video:
        difference = written(tmp_path / "a.mkv").int() - torch.stack(list(video)).int()
    assert difference.abs().max() <= 1


def test_what_was_chosen_instead_is_told(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", failing_compiler)
    settings, path = DecodeSettings(compile=True), tmp_path / "a.mkv"
    decoded = vinr.decode(file, path, codec="ffv1", device="cpu", settings=settings)
    report = vinr.evaluate(file, path, device="cpu", settings=settings)
    note = "torch.compile failed, decoding continues without it: RuntimeError: no compiler found"
    assert decoded.notes == report.notes == (note,)
    assert report.psnr_db > 60
    assert vinr.evaluate(file, path, device="cpu").notes == ()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backend": "tvm"}, "decode.backend: Input should be 'torch' or 'onnx'"),
        ({"overrides": ["decode.precision=fp16"]}, "fp16 is for GPUs"),
        ({"overrides": ["decode.depth=3"]}, "decode.depth"),
    ],
)
def test_unusable_settings_leave_nothing(
    file: str, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    def decode() -> None:
        settings = load_decode_settings(**options)
        vinr.decode(file, tmp_path / "a.y4m", device="cpu", settings=settings)

    with pytest.raises(vinr.UsageError, match=words):
        decode()
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_nothing(file: str, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vinr.decode(file, str(tmp_path / "a.y4m"), device="cpu", on_frame=interrupt)
    assert list(tmp_path.iterdir()) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vinr-writer")]
