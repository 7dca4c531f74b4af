"""A file whose end is missing is refused, or read with a line that says so; whole files are read without."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from video.video_clips import picture, write_clip
from vinr.cli.app import app
from vinr.errors import InputError
from vinr.video.bounds import Verdict
from vinr.video.ends import read_end
from vinr.video.source import open_video

NUM_FRAMES, HEIGHT, WIDTH = 30, 80, 96
X264 = {"x264-params": "asm=avx2:keyint=12"}


VP8 = {"deadline": "realtime", "cpu-used": "16"}


@dataclass(frozen=True)
class Kind:
    """How a clip is written; ``is_marked``: whether its container says where it ends."""

    codec: str
    options: dict[str, str] = field(default_factory=dict)
    container: dict[str, str] = field(default_factory=dict)
    pixel_format: str = "yuv420p"
    is_marked: bool = True


KINDS = {
    "mpeg2.ts": Kind("mpeg2video", {"g": "8"}, is_marked=False),
    "h264.ts": Kind("libx264", {**X264, "crf": "33"}, is_marked=False),
    "mpeg2.m2ts": Kind("mpeg2video", {"g": "8"}, {"mpegts_m2ts_mode": "1"}, is_marked=False),
    "mpeg4.mkv": Kind("mpeg4"),
    "low.mkv": Kind("libx264", {**X264, "crf": "45"}),
    "live.mkv": Kind("mpeg4", {}, {"live": "1"}, is_marked=False),
    "vp8.webm": Kind("libvpx", VP8),
    "mpeg4.avi": Kind("mpeg4"),
    "fast.mp4": Kind("mpeg4", {}, {"movflags": "faststart"}),
    "end.mp4": Kind("mpeg4"),
    "fragments.mp4": Kind("mpeg4", {"g": "5"}, {"movflags": "frag_keyframe+empty_moov"}),
    "raw.y4m": Kind("wrapped_avframe", is_marked=False),
    "flv1.flv": Kind("flv"),
    "h264.flv": Kind("libx264", X264),
    "vp8.ivf": Kind("libvpx", VP8),
    "wmv2.wmv": Kind("wmv2"),
    "mpeg1.mpg": Kind("mpeg1video", is_marked=False),
    "mpeg2.vob": Kind("mpeg2video", {"bf": "2"}, is_marked=False),
    "raw.h264": Kind("libx264", {"x264-params": "asm=avx2:keyint=12:bframes=0"}, is_marked=False),
    "cavlc.h264": Kind("libx264", {"x264-params": "asm=avx2:keyint=12:bframes=0:cabac=0"}, is_marked=False),
    "raw.hevc": Kind("libx265", {"x265-params": "log-level=none:keyint=12:bframes=0"}, is_marked=False),
    "raw.m2v": Kind("mpeg2video", {"g": "8"}, is_marked=False),
    "raw.mjpeg": Kind("mjpeg", pixel_format="yuvj420p", is_marked=False),
    "vp8.ogg": Kind("libvpx", VP8),
    "mpeg4.nut": Kind("mpeg4"),
    "mpeg2.mxf": Kind("mpeg2video"),
    "small.gif": Kind("gif", pixel_format="rgb8"),
    "small.apng": Kind("apng", pixel_format="rgb24"),
}
# As libav numbers the pictures of a transport stream, plain and M2TS.
VIDEO_PIDS = {(0x01, 0x00), (0x10, 0x11)}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a whole clip of the kind; written once."""
    folder = tmp_path_factory.mktemp("whole")

    def written(name: str) -> Path:
        path, kind = folder / name, KINDS[name]
        if not path.exists():
            write_clip(
                path,
                NUM_FRAMES,
                height=HEIGHT,
                width=WIDTH,
                codec=kind.codec,
                pixel_format=kind.pixel_format,
                options=kind.options,
                container_options=kind.container,
            )
        return path

    return written


def read(path: Path) -> tuple[torch.Tensor, tuple[str, ...]]:
    """All frames, and what is said of them."""
    with open_video(path) as reader:
        return reader.read().rgb_NCHW, reader.notes


def cut(path: Path, length: int, folder: Path) -> Path:
    """The first bytes of a file, under its own name."""
    target = folder / path.name
    target.write_bytes(path.read_bytes()[:length])
    return target


def outcome(path: Path, whole_NCHW: torch.Tensor) -> str:
    """``refused``, ``noted``, ``all``, ``shorter`` (and not a word), or ``damaged`` (and not a word)."""
    try:
        found_NCHW, notes = read(path)
    except InputError as error:
        return "refused" if "\n" not in str(error) else "refused at length"
    if notes:
        assert all("may be cut short" in note and "\n" not in note for note in notes)
        return "noted"
    if not torch.equal(found_NCHW, whole_NCHW[: len(found_NCHW)]):
        return "damaged"
    return "all" if len(found_NCHW) == len(whole_NCHW) else "shorter"


@pytest.mark.parametrize("name", KINDS)
def test_whole_files_are_read_without_a_word(name: str, clip: Callable[[str], Path]) -> None:
    rgb_NCHW, notes = read(clip(name))
    assert (len(rgb_NCHW), notes) == (NUM_FRAMES, ())


def packet_layout(name: str) -> tuple[int, int]:
    """Bytes of a packet of a transport stream, and before its sync byte."""
    return (192, 4) if name.endswith("m2ts") else (188, 0)


def is_between_pictures(name: str, data: bytes, length: int) -> bool:
    """Whether a cut at ``length`` leaves whole pictures of a kind without an end mark: nobody can know."""
    rest = data[length:]
    if name.endswith((".h264", ".hevc", ".m2v")):
        # Up to a byte of a NAL unit's end, or zeros before the next, carry no picture.
        return any(rest.startswith(b"\0" * zeros + b"\1", skip) for zeros in (1, 2, 3) for skip in (0, 1))
    if name.endswith("ts"):
        size, sync = packet_layout(name)
        if length % size:
            return False
        packets = [rest[place + sync : place + sync + 3] for place in range(0, len(rest), size)]
        video = [packet for packet in packets if (packet[1] & 0x1F, packet[2]) in VIDEO_PIDS]
        return bool(video) and bool(video[0][1] & 0x40)
    return False


def check_places(name: str, path: Path, places: Sequence[int], folder: Path) -> None:
    """Cut at each place; no frame may be lost or damaged without a word."""
    whole_NCHW, _ = read(path)
    data = path.read_bytes()
    for length in places:
        result = outcome(cut(path, length, folder), whole_NCHW)
        is_unknowable = not KINDS[name].is_marked and is_between_pictures(name, data, length)
        assert result in {"refused", "noted", "all"} | ({"shorter"} if is_unknowable else set()), length


def places_in(path: Path, count: int) -> list[int]:
    """Places all over a file, the last bytes among them."""
    size = path.stat().st_size
    rng = random.Random(size)
    return sorted({rng.randrange(1, size) for _ in range(count - 2)} | {size - 1, size - 20})


@pytest.mark.parametrize("name", KINDS)
def test_cut_at_twelve_places(name: str, clip: Callable[[str], Path], tmp_path: Path) -> None:
    check_places(name, clip(name), places_in(clip(name), 12), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_cut_at_sixty_places(name: str, clip: Callable[[str], Path], tmp_path: Path) -> None:
    check_places(name, clip(name), places_in(clip(name), 60), tmp_path)


@pytest.mark.parametrize("name", ["mpeg2.ts", "h264.ts", "mpeg2.m2ts"])
def test_transport_stream_cut_between_its_packets(
    name: str, clip: Callable[[str], Path], tmp_path: Path
) -> None:
    size, _ = packet_layout(name)
    num_packets = clip(name).stat().st_size // size
    check_places(name, clip(name), range(3 * size, num_packets * size, 7 * size), tmp_path)


def test_frame_that_is_cut_off_can_be_left_out(clip: Callable[[str], Path], tmp_path: Path) -> None:
    data = clip("mpeg2.ts").read_bytes()
    lengths = range(188 * (len(data) // 188 - 1), 0, -188)
    length = next(n for n in lengths if not is_between_pictures("mpeg2.ts", data, n))
    path = cut(clip("mpeg2.ts"), length, tmp_path)
    with pytest.raises(InputError, match=r"cut short: frame [0-9]+ of [0-9]+ is incomplete") as caught:
        read(path)
    incomplete = int(str(caught.value).split("frame ")[1].split()[0])
    with open_video(path, frames=(0, incomplete)) as reader:
        assert reader.notes == ()
        assert torch.equal(reader.read().rgb_NCHW, read(clip("mpeg2.ts"))[0][:incomplete])


def boundaries(name: str, data: bytes) -> Iterator[int]:
    """Where elements that hold a picture begin, from the last one back."""
    mark = {"mpeg4.avi": b"00dc", "flv1.flv": b"\x09\x00", "fragments.mp4": b"moof"}[name]
    before = {"mpeg4.avi": 0, "flv1.flv": 0, "fragments.mp4": 4}[name]
    end = data.find(b"idx1") if name == "mpeg4.avi" else len(data)
    while (end := data.rfind(mark, 0, end)) > 0:
        yield end - before


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("mpeg4.avi", "cut short: it has .* bytes"),
        ("flv1.flv", "header states .* bytes, the file has .*; it states 1.20 s but ends at"),
        ("fragments.mp4", "no closing index"),
    ],
)
def test_cut_where_a_picture_begins(
    name: str, match: str, clip: Callable[[str], Path], tmp_path: Path
) -> None:
    data = clip(name).read_bytes()
    seen = []
    for _, length in zip(range(3), boundaries(name, data), strict=False):
        path = cut(clip(name), length, tmp_path)
        try:
            seen += read(path)[1]
        except InputError as error:
            seen.append(str(error))
    assert len(seen) == 3
    assert any(re.search(match, line) for line in seen)


def write_b_frames(path: Path, num_packets: int) -> Path:
    """The first packets, in the order they are decoded in, of a stream of I and P with two B between them."""
    source = write_clip(
        path.with_name("all.mkv"), 13, codec="mpeg2video", options={"bf": "2", "b_strategy": "0"}
    )
    with av.open(str(source)) as container, av.open(str(path), "w", options={"live": "1"}) as output:
        stream = output.add_stream_from_template(container.streams.video[0])
        packets = [packet for packet in container.demux(video=0) if packet.size]
        for packet in packets[:num_packets]:
            packet.stream = stream
            output.mux(packet)
    return path


def test_gap_before_the_last_frame_is_told(tmp_path: Path) -> None:
    # Shown: I B B P B B P ...; stored: I P B B P B B ...
    for num_packets, num_missing in ((7, 0), (8, 2), (9, 1), (10, 0)):
        _, notes = read(write_b_frames(tmp_path / "live.mkv", num_packets))
        if num_missing:
            assert re.search(rf"{num_missing} frames? (is|are) missing before the last one", notes[0])
        else:
            assert notes == ()


def hold_last(path: Path, milliseconds: float) -> None:
    """Change the duration that the header of a Matroska file states."""
    duration = b"\x44\x89\x88"
    data = path.read_bytes()
    at = data.index(duration) + len(duration)
    path.write_bytes(data[:at] + struct.pack(">d", milliseconds) + data[at + 8 :])


def test_last_frame_that_is_held_is_not_cut_off(tmp_path: Path) -> None:
    """Matroska's duration may be longer than its packets say: nothing is missing from the Segment."""
    path = write_clip(tmp_path / "a.mkv", 6, codec="mpeg4")
    hold_last(path, 5000)
    with open_video(path) as reader:
        assert (len(reader.read().rgb_NCHW), reader.notes) == (6, ())
        assert reader.timeline.last_seconds == Fraction(4800, 1000)


def test_zeros_in_place_of_the_end_are_told(tmp_path: Path) -> None:
    """Downloads that reserve their space first have the right size from the start."""
    path = write_clip(tmp_path / "a.mkv", 200, codec="mpeg4", options={"g": "10"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    with open_video(path) as reader:
        assert reader.spec.num_frames < 200
        assert len(reader.notes) == 1
        assert "zeros in place of its end" in reader.notes[0]
        assert reader.timeline.last_seconds is None


@pytest.mark.parametrize("sound_seconds", [1, 2])
def test_sound_and_pictures_that_end_apart(tmp_path: Path, sound_seconds: int) -> None:
    path = tmp_path / "a.ts"
    with av.open(str(path), "w") as output:
        video, sound = output.add_stream("mpeg2video", rate=25), output.add_stream("mp2", rate=48_000)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for index in range(25):
            frame = av.VideoFrame.from_ndarray(picture(48, 64, index), format="rgb24")
            frame.pts = index
            output.mux(video.encode(frame.reformat(format="yuv420p")))
        output.mux(video.encode(None))
        for index in range(25 * sound_seconds):
            silence = av.AudioFrame.from_ndarray(
                np.zeros((1, 2 * 1920), np.int16), format="s16", layout="stereo"
            )
            silence.sample_rate, silence.pts = 48_000, 1920 * index
            output.mux(sound.encode(silence))
        output.mux(sound.encode(None))
    notes = read(path)[1]
    assert len(notes) == sound_seconds - 1
    assert all("its video ends" in note for note in notes)


def test_encode_says_that_its_input_may_be_cut_short(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "flv1.flv", 8, height=32, width=48, codec="flv")
    (tmp_path / "cut").mkdir()
    path = cut(source, next(boundaries(source.name, source.read_bytes())), tmp_path / "cut")
    target = tmp_path / "o.vinr"
    options = ["--preset", "nerv-tiny", "--epochs", "1", "--device", "cpu"]
    result = CliRunner().invoke(app, ["encode", str(path), str(target), *options])
    assert (result.exit_code, target.exists()) == (0, True)
    assert "may be cut short: its header states" in " ".join(result.stderr.split())


def test_nothing_is_said_where_the_end_is_not_read(clip: Callable[[str], Path], tmp_path: Path) -> None:
    source = clip("flv1.flv")
    path = cut(source, next(boundaries(source.name, source.read_bytes())), tmp_path)
    with open_video(path, frames=(0, 5)) as reader:
        assert reader.notes == ()


@pytest.mark.parametrize("name", KINDS)
def test_damaged_sizes_are_only_a_finding(name: str, clip: Callable[[str], Path], tmp_path: Path) -> None:
    whole, path = clip(name).read_bytes(), tmp_path / name
    with av.open(str(clip(name))) as container:
        format_name = container.format.name
    rng = random.Random(name)
    for _ in range(60):
        data = bytearray(whole[:4000])
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(min(len(data), 600))
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        path.write_bytes(data)
        end = read_end(path, format_name)
        assert len(end.reason) < 150
        assert bool(end.reason) == (end.verdict in (Verdict.MISSING, Verdict.DOUBTFUL))


def test_readers_give_up_on_endless_elements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vinr.video.bounds.MAX_READS", 1000)
    path = tmp_path / "a.gif"
    path.write_bytes(b"GIF89a" + bytes(7) + b"!\xff" + b"\x01\x01" * 10_000)
    assert read_end(path, "gif").verdict is Verdict.OPEN
