"""Which of several video streams is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

import vinr
from command_line import Run
from video.several_streams import DEFAULT, Part, write_streams
from vinr.decoding.file import open_clip
from vinr.encoding.encode import encode
from vinr.errors import UsageError
from vinr.video.reading import ReadOptions
from vinr.video.source import open_video


def level_of(path: Path, stream: int | None = None) -> tuple[int, int, tuple[str, ...]]:
    """Grey level and number of the frames that are read, and notes."""
    with open_video(path, options=ReadOptions(stream=stream)) as reader:
        rgb_NCHW = reader.read().rgb_NCHW
        assert torch.equal(reader.read(1, 2).rgb_NCHW, rgb_NCHW[1:2]) if len(rgb_NCHW) > 1 else True
        return round(float(rgb_NCHW.double().mean()) / 20) * 20, len(rgb_NCHW), reader.notes


@pytest.mark.parametrize(
    ("parts", "level"),
    [
        ((Part(40), Part(80, disposition=DEFAULT), Part(120, 64, 96)), 80),
        ((Part(40), Part(80, 64, 96), Part(120)), 80),
        ((Part(40, disposition=DEFAULT), Part(80, 64, 96, DEFAULT)), 80),
        ((Part(40), Part(80)), 40),
        ((Part(40, 16, 16), Part(80, 32, 16)), 80),
    ],
)
def test_default_flag_then_pixels_and_a_note(tmp_path: Path, parts: Sequence[Part], level: int) -> None:
    path = write_streams(tmp_path / "a.mkv", parts)
    number = [part.level for part in parts].index(level)
    found, num_frames, (note,) = level_of(path)
    assert (found, num_frames) == (level, 6)
    size = f"{parts[number].height}x{parts[number].width}"
    assert (
        note
        == f"{path}: has {len(parts)} video streams; number {number} ({size}) is read, stream chooses another"
    )


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize("place", [0, 1])
def test_pictures_beside_a_video_do_not_count(tmp_path: Path, suffix: str, place: int) -> None:
    parts = [Part(80)]
    parts.insert(place, Part(40, 64, 96, DEFAULT, num_frames=1))  # a preview
    found = level_of(write_streams(tmp_path / f"a{suffix}", parts))
    assert found == (80, 6, ())


def test_streams_of_one_frame_are_read_if_there_are_no_others(tmp_path: Path) -> None:
    parts = (Part(40, num_frames=1), Part(80, 64, 96, num_frames=1))
    level, num_frames, (note,) = level_of(write_streams(tmp_path / "a.mkv", parts))
    assert (level, num_frames) == (80, 1)
    assert "number 1 (64x96) is read" in note


@pytest.mark.parametrize("place", [0, 1])
def test_grey_stream_beside_a_coloured_one_is_its_alpha(tmp_path: Path, place: int) -> None:
    parts = [Part(80)]
    parts.insert(place, Part(40, disposition=DEFAULT, pixel_format="gray"))
    assert level_of(write_streams(tmp_path / "a.mkv", parts)) == (80, 6, ())
    other = [Part(80), Part(40, 64, 96, pixel_format="gray")]
    assert level_of(write_streams(tmp_path / "b.mkv", other))[0] == 40


@pytest.mark.parametrize("stream", [0, 1, 2])
def test_stream_that_is_asked_for(tmp_path: Path, stream: int) -> None:
    parts = (Part(40), Part(80, disposition=DEFAULT), Part(120, num_frames=1))
    path = write_streams(tmp_path / "a.mkv", parts)
    assert level_of(path, stream) == (parts[stream].level, parts[stream].num_frames, ())


def test_pictures_without_times_have_an_ordinary_rate(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), "red").save(tmp_path / "a.ico", sizes=[(16, 16), (32, 32)])
    with open_video(tmp_path / "a.ico") as reader:
        assert (reader.original, reader.spec.num_frames, reader.spec.frame_rate) == ((32, 32), 1, 25)


def test_streams_that_are_not_there(tmp_path: Path, tiny_video: Path) -> None:
    with pytest.raises(UsageError, match=r"no video stream 1; it has 1 video stream, numbered from 0"):
        open_video(tiny_video, options=ReadOptions(stream=1))
    path = write_streams(tmp_path / "a.mkv", (Part(40), Part(80)))
    with pytest.raises(UsageError, match=r"no video stream 2; it has 2 video streams, numbered from 0"):
        open_video(path, options=ReadOptions(stream=2))


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_animated_avif_is_its_track(tmp_path: Path, mode: str) -> None:
    images = [Image.new(mode, (48, 32), (40 * index,) * len(mode)) for index in range(6)]
    durations = [100, 200, 300, 100, 100, 700]
    path = tmp_path / "a.avif"
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, quality=95)
    with open_video(path) as reader:
        assert (reader.spec.num_frames, reader.notes) == (6, ())
        milliseconds = [reader.timeline.seconds(index) * 1000 for index in range(6)]
        assert milliseconds == [0, 100, 300, 600, 700, 800]
        means = reader.read().rgb_NCHW.double().mean(dim=(1, 2, 3))
    assert means.tolist() == pytest.approx([0, 40, 80, 120, 160, 200], abs=3)


def test_eval_reads_the_stream_that_was_fitted(run: Run, tmp_path: Path) -> None:
    path = write_streams(tmp_path / "a.mkv", (Part(40), Part(200, disposition=DEFAULT)))
    arguments = ("--preset", "hnerv-tiny", "--epochs", 1, "--device", "cpu")
    status, _, err = run("encode", path, tmp_path / "a.vinr", *arguments, "--stream", 0)
    assert (status, "streams" in err) == (0, False)
    with open_clip(str(tmp_path / "a.vinr"), device="cpu") as decoder:
        assert decoder.clip.edit is not None
        assert decoder.clip.edit.stream == 0
        assert decoder.clip.quality is not None
        fitted_db = decoder.clip.quality.psnr_db
    assert "video stream 0" in run("info", tmp_path / "a.vinr")[1]
    report = vinr.evaluate(tmp_path / "a.vinr", path, device="cpu")
    other = vinr.evaluate(tmp_path / "a.vinr", path, stream=1, device="cpu")
    assert report.psnr_db == pytest.approx(fitted_db, abs=0.01)
    assert other.psnr_db != pytest.approx(fitted_db, abs=0.1)
    assert report.notes == ()
    encode([path], tmp_path / "b.vinr", preset="hnerv-tiny", epochs=1, device="cpu")
    assert len(vinr.evaluate(tmp_path / "b.vinr", path, device="cpu").notes) == 1
    status, _, err = run(
        "compare", path, tmp_path / "a.html", "--vinr", tmp_path / "a.vinr", "--anchors", "x264:30"
    )
    assert (status, "streams" in err) == (0, False), err


def test_files_of_other_streams_are_not_compared(tmp_path: Path) -> None:
    path = write_streams(tmp_path / "a.mkv", (Part(40), Part(200)))
    for stream in (0, 1):
        encode(
            [path], tmp_path / f"{stream}.vinr", preset="hnerv-tiny", epochs=1, stream=stream, device="cpu"
        )
    files = [tmp_path / "0.vinr", tmp_path / "1.vinr"]
    with pytest.raises(UsageError, match="was read otherwise than"):
        vinr.compare(path, tmp_path / "a.html", files=files, anchors=["x264:30"])
