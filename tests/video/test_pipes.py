"""Pipes as inputs: standard input, FIFOs, process substitution."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

import vinr
from video.several_streams import Part, write_streams
from video.video_clips import picture, write_clip, write_clip_with_tone
from vinr.errors import InputError, UsageError
from vinr.video import pipes
from vinr.video.reading import ReadOptions
from vinr.video.source import open_video

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no FIFOs")

Feed = Callable[[Path], None]


@contextmanager
def fed(fifo: Path, content: Path) -> Iterator[str]:
    """A FIFO into which a file is written once."""
    os.mkfifo(fifo)

    def write() -> None:
        with content.open("rb") as source, fifo.open("wb") as pipe:
            shutil.copyfileobj(source, pipe)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    yield str(fifo)
    writer.join(timeout=60)


@contextmanager
def standard_input(content: Path) -> Iterator[None]:
    """Standard input is a pipe with the bytes of a file."""
    before = os.dup(0)
    feeder = subprocess.Popen(["cat", content], stdout=subprocess.PIPE)
    assert feeder.stdout is not None
    os.dup2(feeder.stdout.fileno(), 0)
    try:
        yield
    finally:
        os.dup2(before, 0)
        os.close(before)
        feeder.stdout.close()
        feeder.wait()


@pytest.mark.parametrize(
    ("suffix", "codec", "pixel_format"),
    [
        ("y4m", "wrapped_avframe", "yuv420p"),
        ("mkv", "ffv1", "yuv420p"),
        ("mp4", "libx264", "yuv420p"),
        ("avi", "mpeg4", "yuv420p"),
        ("ts", "libx264", "yuv420p"),
    ],
)
def test_pipe_is_read_as_its_file(tmp_path: Path, suffix: str, codec: str, pixel_format: str) -> None:
    path = write_clip(tmp_path / f"a.{suffix}", 12, codec=codec, pixel_format=pixel_format)
    with open_video(path) as expected, fed(tmp_path / "camera", path) as fifo, open_video(fifo) as reader:
        assert reader.spec == expected.spec
        assert reader.timeline == expected.timeline
        assert (reader.name, reader.notes) == ("camera", expected.notes)
        assert torch.equal(reader.read(7, 9).rgb_NCHW, expected.read(7, 9).rgb_NCHW)
        assert torch.equal(reader.read().rgb_NCHW, expected.read().rgb_NCHW)


def test_sound_comes_through(tmp_path: Path) -> None:
    path = write_clip_with_tone(tmp_path / "a.mkv", "flac")
    with open_video(path) as expected, fed(tmp_path / "b.mkv", path) as fifo, open_video(fifo) as reader:
        assert reader.audio() == expected.audio()
        assert reader.has_audio


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_standard_input(tmp_path: Path, name: str) -> None:
    path = write_clip(tmp_path / "a.mkv", 3, codec="ffv1")
    with standard_input(path), open_video(name) as reader, open_video(path) as expected:
        assert reader.name == "video"
        assert torch.equal(reader.read().rgb_NCHW, expected.read().rgb_NCHW)


def test_raw_video_and_options(tmp_path: Path) -> None:
    path = tmp_path / "a.raw"
    path.write_bytes(np.stack([picture(24, 32, index) for index in range(3)]).tobytes())
    options = ReadOptions.of(raw_size=(24, 32), pix_fmt="rgb24", rate=10)
    with fed(tmp_path / "b", path) as fifo, open_video(fifo, options=options) as reader:
        assert reader.spec.frame_rate == 10
        assert np.array_equal(reader.read().rgb_NCHW[1].permute(1, 2, 0).numpy(), picture(24, 32, 1))
    with fed(tmp_path / "clip_32x24_10_rgb24.yuv", path) as fifo, open_video(fifo) as reader:
        assert np.array_equal(reader.read().rgb_NCHW[2].permute(1, 2, 0).numpy(), picture(24, 32, 2))


def test_nothing_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    path = write_clip(tmp_path / "a.mkv", 3, codec="ffv1")
    (tmp_path / "text").write_text("This is no video.\n" * 200, encoding="utf-8")
    before = os.listdir("/proc/self/fd") if Path("/proc/self/fd").exists() else []
    with fed(tmp_path / "b", path) as fifo, open_video(fifo) as reader:
        reader.read()
    with fed(tmp_path / "c", tmp_path / "text") as fifo, pytest.raises(InputError):
        open_video(fifo)
    assert os.listdir(tmp_path / "temporary") == []
    assert not before or len(os.listdir("/proc/self/fd")) <= len(before)


def test_without_files_that_open_by_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipes, "OPEN_FILES", tmp_path / "none")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    path = write_clip(tmp_path / "a.mkv", 3, codec="ffv1")
    with fed(tmp_path / "b", path) as fifo, open_video(fifo) as reader, open_video(path) as expected:
        assert torch.equal(reader.read().rgb_NCHW, expected.read().rgb_NCHW)
        assert len(os.listdir(tmp_path / "temporary")) == 1
    assert os.listdir(tmp_path / "temporary") == []


def test_an_open_pipe_can_be_opened_again(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mkv", 3, codec="ffv1")
    with fed(tmp_path / "b", path) as fifo, open_video(fifo) as reader:
        with open_video(fifo) as again:
            assert torch.equal(again.read().rgb_NCHW, reader.read().rgb_NCHW)
        reader.read(1, 2)


@pytest.mark.parametrize(
    ("content", "match"), [("", "^{}: nothing came out of the pipe; "), ("x" * 99, "^{}: ")]
)
def test_what_does_not_do_is_named_as_the_user_did(tmp_path: Path, content: str, match: str) -> None:
    (tmp_path / "content").write_text(content, encoding="utf-8")
    with (
        fed(tmp_path / "camera", tmp_path / "content") as fifo,
        pytest.raises(InputError, match=match.format(tmp_path / "camera")) as caught,
    ):
        open_video(fifo)
    assert "/proc" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_standard_input_that_was_closed_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # what Python makes of it; number 0 may be another file's
    with pytest.raises(InputError, match=r"^-: standard input is closed; pipe"):
        open_video("-")


def test_notes_name_the_pipe(tmp_path: Path) -> None:
    path = write_streams(tmp_path / "a.mkv", (Part(40), Part(80)))
    with open_video(path) as expected, fed(tmp_path / "camera", path) as fifo, open_video(fifo) as reader:
        assert len(expected.notes) == 1
        assert reader.notes == (expected.notes[0].replace(str(path), fifo),)


def test_late_errors_name_the_pipe(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 30, options={"crf": "8"})
    data = bytearray(path.read_bytes())
    for place in range(len(data) // 4, 3 * len(data) // 4, len(data) // 20):
        data[place : place + 60] = bytes(60)
    path.write_bytes(data)
    with (
        fed(tmp_path / "camera", path) as fifo,
        pytest.raises(InputError) as caught,
        open_video(fifo) as reader,
    ):
        reader.read()
    assert str(caught.value).startswith(f"{tmp_path / 'camera'}: ")
    assert "/proc" not in str(caught.value)


def test_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vinr.video.pipes.shutil.copyfileobj", fill)
    os.mkfifo(tmp_path / "b")
    writer = os.open(tmp_path / "b", os.O_RDWR)
    try:
        with pytest.raises(InputError, match=r"cannot be copied to .*No space left.*TMPDIR"):
            open_video(tmp_path / "b")
    finally:
        os.close(writer)


def test_resume_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "b")
    with pytest.raises(UsageError, match="cannot be read again"):
        vinr.encode(tmp_path / "b", tmp_path / "o.vinr", resume=True)
    with pytest.raises(UsageError, match=r"^-: what came"):
        vinr.encode("-", tmp_path / "o.vinr", resume=True)


def test_commands_read_pipes(tmp_path: Path, tiny_video: Path) -> None:
    output, preset = tmp_path / "o.vinr", "hnerv-tiny"
    with standard_input(tiny_video):
        vinr.encode("-", output, preset=preset, epochs=1, device="cpu")
    with vinr.VinrFile.open(output, device="cpu") as file:
        assert [clip.name for clip in file.header.clips] == ["video"]
    expected = vinr.evaluate(output, tiny_video, device="cpu")
    with standard_input(tiny_video):
        assert vinr.evaluate(output, "-", device="cpu").psnr_db == expected.psnr_db
    with fed(tmp_path / "camera", tiny_video) as fifo:
        vinr.compare(fifo, tmp_path / "a.html", presets=[preset], epochs=1, anchors=["x264:30"], device="cpu")
    with fed(tmp_path / "other", tiny_video) as fifo:
        vinr.inpaint(fifo, tmp_path / "a.mkv", mask="center", preset=preset, epochs=1, device="cpu")
    assert (tmp_path / "a.html").exists()
    with open_video(tmp_path / "a.mkv") as reader:
        assert reader.spec.num_frames == 8


def test_addresses_are_named_as_typed() -> None:
    with pytest.raises(InputError, match=r"^https://example\.org/a\.mp4: URLs are not read"):
        open_video("https://example.org/a.mp4")
