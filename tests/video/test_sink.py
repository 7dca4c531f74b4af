"""Writing: what comes back, and that an output appears whole or not at all."""

from __future__ import annotations

import io
import os
import resource
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from video.video_clips import pictures, psnr_db, said, spec_of
from vinr.errors import OutputError, UsageError
from vinr.video.samples import sample_clip
from vinr.video.sink import open_sink
from vinr.video.source import open_video
from vinr.video.spec import ColorSpec, Timeline, VideoSpec

LOSSY = [("a.mp4", "x264"), ("a.mkv", "x264"), ("a.mp4", "x265"), ("a.mkv", "av1"), ("a.mp4", "av1")]


@pytest.mark.parametrize("color", [ColorSpec(), ColorSpec("bt709", "full")], ids=str)
@pytest.mark.parametrize(("name", "codec"), LOSSY)
def test_encoded_frames_come_back_with_their_tags(
    tmp_path: Path, name: str, codec: str, color: ColorSpec
) -> None:
    rgb_NCHW = pictures(5, 64, 80)
    spec, timeline = spec_of(rgb_NCHW, color=color)
    with open_sink(str(tmp_path / name), spec, timeline, codec=codec) as sink:
        sink.write(rgb_NCHW[:2])
        sink.write(rgb_NCHW[2:])
    with open_video(tmp_path / name) as reader:
        assert (reader.spec, reader.timeline) == (replace(spec, color=said(color)), timeline)
        assert psnr_db(reader.read().rgb_NCHW, rgb_NCHW) > 38


@pytest.mark.parametrize(("name", "codec"), LOSSY)
def test_odd_sizes_are_kept(tmp_path: Path, name: str, codec: str) -> None:
    rgb_NCHW = pictures(3, 65, 79)
    with open_sink(str(tmp_path / name), *spec_of(rgb_NCHW), codec=codec) as sink:
        sink.write(rgb_NCHW)
    with open_video(tmp_path / name) as reader:
        assert reader.original == (65, 79)
        assert psnr_db(reader.read().rgb_NCHW, rgb_NCHW) > 38


@settings(max_examples=15)
@example(height=272, width=640, num_frames=1, seed=0)  # large enough that the encoder insists on slices
@example(height=2, width=300, num_frames=1, seed=0)
@example(height=16, width=700, num_frames=1, seed=0)
@given(
    height=st.integers(1, 40), width=st.integers(1, 40), num_frames=st.integers(1, 3), seed=st.integers(0, 99)
)
def test_ffv1_is_exact_at_any_size(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, num_frames: int, seed: int
) -> None:
    path = tmp_path_factory.mktemp("ffv1") / "a.mkv"
    generator = torch.Generator().manual_seed(seed)
    rgb_NCHW = torch.randint(0, 256, (num_frames, 3, height, width), dtype=torch.uint8, generator=generator)
    with open_sink(str(path), *spec_of(rgb_NCHW), codec="ffv1") as sink:
        sink.write(rgb_NCHW)
    with open_video(path) as reader:
        assert torch.equal(reader.read().rgb_NCHW, rgb_NCHW)


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "ffv1"), ("a.mp4", "x264"), ("a.mkv", "x265")])
def test_variable_rate_comes_back(tmp_path: Path, name: str, codec: str) -> None:
    timeline = Timeline(6, Fraction(25), Fraction(1, 1000), (0, 40, 55, 300, 333, 1000))
    rgb_NCHW = pictures(6)
    with open_sink(str(tmp_path / name), spec_of(rgb_NCHW)[0], timeline, codec=codec) as sink:
        sink.write(rgb_NCHW)
    with open_video(tmp_path / name) as reader:
        assert reader.timeline.pts is not None
        assert [reader.timeline.seconds(i) for i in range(6)] == [timeline.seconds(i) for i in range(6)]


@pytest.mark.parametrize("rate", [Fraction(30_000, 1001), Fraction(24), Fraction(60), Fraction(12_345, 1000)])
@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.y4m"])
def test_constant_rate_comes_back(tmp_path: Path, name: str, rate: Fraction) -> None:
    rgb_NCHW = pictures(9)
    spec, timeline = spec_of(rgb_NCHW, rate)
    with open_sink(str(tmp_path / name), spec, timeline) as sink:
        sink.write(rgb_NCHW)
    with open_video(tmp_path / name) as reader:
        assert reader.timeline.pts is None
        assert abs(reader.timeline.frame_rate - rate) < Fraction(1, 100)


@pytest.mark.parametrize("color", [ColorSpec(), ColorSpec("bt709", "full")], ids=str)
def test_y4m_comes_back(tmp_path: Path, color: ColorSpec) -> None:
    rgb_NCHW = pictures(3, 33, 47)
    with open_sink(str(tmp_path / "a.y4m"), *spec_of(rgb_NCHW, color=color)) as sink:
        sink.write(rgb_NCHW)
    with open_video(tmp_path / "a.y4m") as reader:
        assert (reader.spec.color.matrix, reader.spec.color.range) == ("bt601", color.range)
        assert psnr_db(reader.read().rgb_NCHW, rgb_NCHW) > 47


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pts": (0, 10, 90), "time_base": Fraction(1, 100)}, "all frames are shown at 25 frames per second"),
        ({"last_seconds": Fraction(5)}, "all frames are shown at 25 frames per second"),
        ({}, ""),
    ],
)
def test_y4m_says_what_times_it_loses(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    rgb_NCHW = pictures(3)
    spec, timeline = spec_of(rgb_NCHW)
    with open_sink(str(tmp_path / "a.y4m"), spec, replace(timeline, **changes)) as sink:
        sink.write(rgb_NCHW)
    assert sink.notes == ((f"y4m has no times: {said}; .mkv and .mp4 keep their times",) if said else ())


@pytest.mark.parametrize(("name", "num_notes"), [("a.mkv", 1), ("a.mp4", 0)])
def test_matroska_says_that_its_times_are_milliseconds(tmp_path: Path, name: str, num_notes: int) -> None:
    rgb_NCHW = pictures(3)
    for timeline, expected in (
        (Timeline(3, Fraction(1000)), 0),
        (Timeline(3, Fraction(2000)), num_notes),
        (Timeline(3, Fraction(25), Fraction(1, 90_000), (0, 89, 9000)), num_notes),
        (Timeline(3, Fraction(25), Fraction(1, 90_000), (0, 90, 9000)), 0),
        (Timeline(2, Fraction(25), Fraction(1, 90_000), (0, 178)).scaled(2), num_notes),
    ):
        with open_sink(str(tmp_path / name), spec_of(rgb_NCHW)[0], timeline, force=True) as sink:
            sink.write(rgb_NCHW)
        assert len(sink.notes) == expected
        assert all("closer than a millisecond may get the same time" in note for note in sink.notes)


@pytest.mark.parametrize("name", ["a.y4m", "folder"])
def test_codec_without_effect_is_said(tmp_path: Path, name: str) -> None:
    rgb_NCHW = pictures(2)
    with open_sink(str(tmp_path / name), *spec_of(rgb_NCHW), codec="x265") as sink:
        sink.write(rgb_NCHW)
    kind = "y4m" if name == "a.y4m" else "PNG"
    assert sink.notes == (f"codec x265 has no effect: {kind} has none; write .mkv or .mp4 for it",)


def test_y4m_of_bunny_is_nearly_exact(tmp_path: Path) -> None:
    with open_video(sample_clip(), frames=(60, 62)) as reader:
        original, color = reader.read().rgb_NCHW, reader.spec.color
    with open_sink(str(tmp_path / "bunny.y4m"), *spec_of(original, color=color)) as sink:
        sink.write(original)
    with open_video(tmp_path / "bunny.y4m") as reader:
        # Measured: 52.7 dB.
        assert psnr_db(reader.read().rgb_NCHW, original) > 52


def test_dash_streams_y4m_to_standard_output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rgb_NCHW = pictures(2)
    streamed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(streamed, encoding="utf-8", write_through=True))
    with open_sink("-", *spec_of(rgb_NCHW)) as sink:
        sink.write(rgb_NCHW[:1])
        assert len(streamed.getvalue()) > 48 * 64 * 3
        sink.write(rgb_NCHW[1:])
    with open_sink(str(tmp_path / "a.y4m"), *spec_of(rgb_NCHW)) as sink:
        sink.write(rgb_NCHW)
    assert streamed.getvalue() == (tmp_path / "a.y4m").read_bytes()


def test_closed_pipe_is_an_output_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    class Stdout:
        buffer = Closed()

    monkeypatch.setattr(sys, "stdout", Stdout())
    rgb_NCHW = pictures(1)
    with (
        pytest.raises(OutputError, match="standard output: cannot be written: Broken pipe"),
        open_sink("-", *spec_of(rgb_NCHW)) as sink,
    ):
        sink.write(rgb_NCHW)


@pytest.mark.parametrize("slash", ["", "/"])
def test_png_folder_is_exact(tmp_path: Path, slash: str) -> None:
    rgb_NCHW = pictures(3, 5, 7)
    with open_sink(f"{tmp_path}/frames{slash}", *spec_of(rgb_NCHW)) as sink:
        sink.write(rgb_NCHW)
    assert sorted(path.name for path in (tmp_path / "frames").iterdir()) == [
        f"frame_{i:05d}.png" for i in range(3)
    ]
    with open_video(tmp_path / "frames") as reader:
        assert torch.equal(reader.read().rgb_NCHW, rgb_NCHW)


def test_png_pattern_is_exact(tmp_path: Path) -> None:
    rgb_NCHW = pictures(3, 5, 7)
    with open_sink(str(tmp_path / "f_%03d.png"), *spec_of(rgb_NCHW)) as sink:
        sink.write(rgb_NCHW)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f_000.png", "f_001.png", "f_002.png"]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "f_002.png")), rgb_NCHW[2].permute(1, 2, 0))


@pytest.mark.parametrize("name", ["50%/a.mkv", "50%/f_%d.png", "a%d.y4m", "100% real.mp4", "50% off/", "50%"])
def test_a_per_cent_sign_in_another_name_is_no_pattern(tmp_path: Path, name: str) -> None:
    (tmp_path / "50%").mkdir()
    rgb_NCHW = pictures(1, 16, 16)
    with open_sink(str(tmp_path) + "/" + name, *spec_of(rgb_NCHW)) as sink:
        sink.write(rgb_NCHW)
    written = {
        "50%/f_%d.png": "50%/f_0.png",
        "50% off/": "50% off/frame_00000.png",
        "50%": "50%/frame_00000.png",
    }
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / written.get(name, name)]


OUTPUTS = ["a.mp4", "a.mkv", "a.y4m", "folder", "f_%02d.png"]


@pytest.mark.parametrize("name", OUTPUTS)
def test_nothing_is_left_after_an_error(tmp_path: Path, name: str) -> None:
    rgb_NCHW = pictures(3)

    def write_half() -> None:
        with open_sink(str(tmp_path / name), *spec_of(rgb_NCHW)) as sink:
            sink.write(rgb_NCHW[:2])
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_half()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", OUTPUTS)
def test_existing_output_is_replaced_only_by_force(tmp_path: Path, name: str) -> None:
    old, new = pictures(3, 32, 32), pictures(3, 48, 48)
    output = str(tmp_path / name)
    with open_sink(output, *spec_of(old)) as sink:
        sink.write(old)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(OutputError, match="exists already"), open_sink(output, *spec_of(new)) as sink:
        sink.write(new)
    first = tmp_path if "%" in name else tmp_path / name
    with open_video(first) as reader:
        assert reader.original == (32, 32)
    with open_sink(output, *spec_of(new), force=True) as sink:
        sink.write(new)
    with open_video(first) as reader:
        assert (reader.original, reader.spec.num_frames) == ((48, 48), 3)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", OUTPUTS)
def test_missing_folder(tmp_path: Path, name: str) -> None:
    rgb_NCHW = pictures(1)
    output = str(tmp_path / "missing" / name)
    with pytest.raises(OutputError, match="does not exist"), open_sink(output, *spec_of(rgb_NCHW)):
        pass


@contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
    """Let every write past ``num_bytes`` fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", OUTPUTS)
def test_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    rgb_NCHW = torch.randint(0, 256, (4, 3, 96, 96), dtype=torch.uint8)
    with (
        pytest.raises(OutputError, match="cannot be written: File too large") as caught,
        file_size_limit(5000),
        open_sink(str(tmp_path / name), *spec_of(rgb_NCHW)) as sink,
    ):
        sink.write(rgb_NCHW)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "codec", "match"),
    [
        ("a.avi", "x264", r"end the name in \.mp4"),
        ("a.mp4", "ffv1", r"\.mp4 cannot hold ffv1; write \.mkv"),
        ("a.mkv", "h264", "unknown codec 'h264'; there are av1, ffv1, vp9, x264, x265; did you mean 'x264'?"),
        ("f_%s.png", "x264", "a pattern has one number"),
        ("f_%d.jpg", "x264", "a pattern has one number"),
        ("f_%d_%d.png", "x264", "a pattern has one number"),
        ("%d/f.png", "x264", "a pattern has one number"),
    ],
)
def test_names_that_do_not_go(tmp_path: Path, name: str, codec: str, match: str) -> None:
    rgb_NCHW = pictures(1)
    with (
        pytest.raises(UsageError, match=match),
        open_sink(str(tmp_path / name), *spec_of(rgb_NCHW), codec=codec),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("codec", ["x265", "av1"])
def test_sizes_an_encoder_refuses(tmp_path: Path, codec: str) -> None:
    rgb_NCHW = pictures(1, 2, 2)
    output = str(tmp_path / "a.mkv")
    refused = pytest.raises(UsageError, match="cannot encode frames of 2x2")
    with refused, open_sink(output, *spec_of(rgb_NCHW), codec=codec):
        pass
    assert list(tmp_path.iterdir()) == []


def test_frames_must_fit_what_was_announced(tmp_path: Path) -> None:
    rgb_NCHW = pictures(2)
    spec, timeline = spec_of(rgb_NCHW)
    wrong = [rgb_NCHW.float(), rgb_NCHW[0], rgb_NCHW[..., 1:], torch.cat([rgb_NCHW, rgb_NCHW])]
    for frames in wrong:
        with (
            pytest.raises(ValueError, match="frames"),
            open_sink(str(tmp_path / "a.y4m"), spec, timeline) as sink,
        ):
            sink.write(frames)
    with (
        pytest.raises(ValueError, match="1 of 2 frames"),
        open_sink(str(tmp_path / "a.y4m"), spec, timeline) as sink,
    ):
        sink.write(rgb_NCHW[:1])
    assert list(tmp_path.iterdir()) == []


def test_one_frame(tmp_path: Path) -> None:
    rgb_NCHW = pictures(1)
    with open_sink(str(tmp_path / "a.mp4"), VideoSpec(1, 48, 64), Timeline(1, Fraction(30))) as sink:
        sink.write(rgb_NCHW)
    with open_video(tmp_path / "a.mp4") as reader:
        assert reader.spec.num_frames == 1


def test_encoders_keep_standard_error_clean(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rgb_NCHW = pictures(2, 64, 64)
    for codec in ("x264", "x265", "av1", "ffv1"):
        with open_sink(str(tmp_path / f"{codec}.mkv"), *spec_of(rgb_NCHW), codec=codec) as sink:
            sink.write(rgb_NCHW)
    assert capfd.readouterr() == ("", "")


def test_mp4_has_its_index_in_front(tmp_path: Path) -> None:
    rgb_NCHW = pictures(3)
    with open_sink(str(tmp_path / "a.mp4"), *spec_of(rgb_NCHW)) as sink:
        sink.write(rgb_NCHW)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"


# -- named pipes and devices ---------------------------------------------------------------------------------


def piped(path: Path, write: Callable[[], None]) -> bytes:
    """Return what ``write`` puts into a named pipe at ``path``."""
    os.mkfifo(path)
    with ThreadPoolExecutor(1) as thread:
        read = thread.submit(path.read_bytes)
        write()
        return read.result()


@pytest.mark.parametrize("name", ["pipe", "pipe.y4m"])
def test_named_pipe_takes_y4m_as_it_comes(tmp_path: Path, name: str) -> None:
    rgb_NCHW = pictures(2)

    def write(path: Path) -> None:
        with open_sink(str(path), *spec_of(rgb_NCHW)) as sink:
            sink.write(rgb_NCHW)

    write(tmp_path / "a.y4m")
    pipe = tmp_path / name
    assert piped(pipe, lambda: write(pipe)) == (tmp_path / "a.y4m").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["a.y4m", name])


def test_null_device_takes_y4m() -> None:
    rgb_NCHW = pictures(2)
    with open_sink(os.devnull, *spec_of(rgb_NCHW)) as sink:
        sink.write(rgb_NCHW)


def test_pipe_whose_reader_has_gone_is_one_line(tmp_path: Path) -> None:
    rgb_NCHW = pictures(2, 200, 300)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as thread:
        reader = thread.submit(lambda: open(pipe, "rb").close())

        def write() -> None:
            with open_sink(str(pipe), *spec_of(rgb_NCHW)) as sink:
                reader.result()
                sink.write(rgb_NCHW)

        with pytest.raises(OutputError, match="pipe: cannot be written: Broken pipe"):
            write()


@pytest.mark.parametrize("name", ["pipe.mp4", "pipe.mkv", "pipe_%d.png"])
def test_formats_that_need_a_file_refuse_a_pipe(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    rgb_NCHW = pictures(1)
    with (
        pytest.raises(OutputError, match=r"is not a regular file, which \.\w+ needs"),
        open_sink(str(tmp_path / name), *spec_of(rgb_NCHW), force=True),
    ):
        pass
