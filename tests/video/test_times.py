"""When frames are shown: each comes out, in the order and at the time of the file, and for as long."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.rational import AVRational
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from video.video_clips import decoded, picture, pictures, spec_of, write_clip, write_clip_with_tone
from vinr.bitstream import Clip
from vinr.compress import decode_times, encode_times
from vinr.errors import InputError, UsageError
from vinr.video.coded import RULES, HasPicture
from vinr.video.sink import open_sink
from vinr.video.source import VideoReader, open_video
from vinr.video.spec import Timeline
from vinr.video.times import Stated, bounded, make_timeline

# Groups of ten frames, of which later ones refer to the group before.
OPEN_X264 = {"x264-params": "keyint=10:open-gop=1:bframes=3:b-adapt=0:scenecut=0"}
OPEN_X265 = {"x265-params": "log-level=none:keyint=10:open-gop=1:bframes=3"}
CLOSED_X264 = {"crf": "8", "x264-params": "keyint=10:bframes=2:b-adapt=0:scenecut=0"}


def write_at(
    path: Path,
    rate: Fraction | int,
    num_frames: int,
    *,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Like write_clip, with a stated rate."""
    with av.open(str(path), "w", options=container_options or {}) as output:
        stream = output.add_stream("libx264", rate=rate, options={"threads": "1", **(options or {})})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(picture(48, 64, index), format="rgb24")
            frame = frame.reformat(format="yuv420p")
            frame.pts, frame.time_base = index, 1 / Fraction(rate)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def copy_packets(
    source: Path,
    target: Path,
    *,
    first: int = 0,
    change: Callable[[int, av.Packet], Sequence[av.Packet]] = lambda number, packet: [packet],
) -> Path:
    """Copy the video packets from ``first`` on, each as what ``change`` makes of it."""
    with av.open(str(source)) as container, av.open(str(target), "w") as output:
        stream = output.add_stream_from_template(container.streams.video[0])
        packets = [packet for packet in container.demux(video=0) if packet.size]
        for number, packet in enumerate(packets):
            for changed in change(number, packet) if number >= first else []:
                changed.stream = stream
                output.mux(changed)
    return target


def at_decoding_times(number: int, packet: av.Packet) -> list[av.Packet]:
    """Give a packet the time at which it is decoded, as programs do that put raw streams into containers."""
    packet.pts = packet.dts = number
    packet.duration, packet.time_base = 1, AVRational(1, 25)
    return [packet]


def seconds_of(reader: VideoReader) -> list[float]:
    """When each frame is shown."""
    return [float(reader.timeline.seconds(index)) for index in range(reader.timeline.num_frames)]


def frames_of(reader: VideoReader) -> NDArray[np.uint8]:
    """All frames, NHWC."""
    return reader.read().rgb_NCHW.permute(0, 2, 3, 1).numpy()


def is_like(found_NHWC: NDArray[np.uint8], expected_NHWC: NDArray[np.uint8]) -> bool:
    """Whether frames are the same, but for another conversion of colours."""
    if found_NHWC.shape != expected_NHWC.shape:
        return False
    return int(np.abs(found_NHWC.astype(int) - expected_NHWC).max()) <= 24


# -- frames in another order than their packets --------------------------------------------------------------


def write_without_times(path: Path) -> Path:
    """A clip with B-frames in a container that does not say when frames are shown."""
    is_hevc = "hevc" in path.name
    codec, options = ("libx265", OPEN_X265) if is_hevc else ("libx264", OPEN_X264)
    if path.suffix in (".avi", ".asf", ".h264", ".hevc"):
        return write_clip(path, 40, codec=codec, options=options)
    raw = write_clip(path.with_name(f"raw.{'hevc' if is_hevc else 'h264'}"), 40, codec=codec, options=options)
    return copy_packets(raw, path, change=at_decoding_times)


@pytest.mark.parametrize("name", ["a.avi", "a.asf", "a.h264", "a.hevc", "b.mkv", "b.mp4", "hevc.mkv"])
def test_b_frames_without_presentation_times(tmp_path: Path, name: str) -> None:
    path = write_without_times(tmp_path / name)
    expected_NHWC = decoded(path)
    assert len(expected_NHWC) == 40
    with open_video(path) as reader:
        assert (reader.timeline.pts, reader.spec.frame_rate, reader.notes) == (None, 25, ())
        found_NHWC = frames_of(reader)
        assert is_like(found_NHWC, expected_NHWC)
        for first, stop in ((17, 20), (9, 11), (len(found_NHWC) - 2, len(found_NHWC))):
            part_NHWC = reader.read(first, stop).rgb_NCHW.permute(0, 2, 3, 1).numpy()
            assert np.array_equal(part_NHWC, found_NHWC[first:stop])


def test_times_that_contradict_the_decoder_lose_no_frame(tmp_path: Path) -> None:
    def change(number: int, packet: av.Packet) -> list[av.Packet]:
        packet.pts += {2: 80, 3: -40}.get(number % 10, 0)  # two neighbours are exchanged, or nearly
        return [packet]

    source = write_clip(tmp_path / "a.mkv", 30, options=CLOSED_X264)
    path = copy_packets(source, tmp_path / "b.mkv", change=change)
    with open_video(path) as reader:
        assert is_like(frames_of(reader), decoded(source))


# -- streams that begin anywhere -----------------------------------------------------------------------------

BEGINNINGS = {
    "x264": ("libx264", OPEN_X264, ".mkv"),
    "x265": ("libx265", OPEN_X265, ".mkv"),
    "mpeg2": ("mpeg2video", {"bf": "2", "g": "10"}, ".mkv"),
    "mpeg2 in ts": ("mpeg2video", {"bf": "2", "g": "10"}, ".ts"),
    "x265 in ts": ("libx265", OPEN_X265, ".ts"),
    "vp8": ("libvpx", {"g": "10", "deadline": "realtime"}, ".webm"),
    "vp9": ("libvpx-vp9", {"g": "10", "deadline": "realtime"}, ".webm"),
}


@pytest.mark.parametrize("kind", BEGINNINGS)
@pytest.mark.parametrize("first", [4, 10])
def test_what_cannot_be_decoded_at_the_beginning_is_left_out(tmp_path: Path, kind: str, first: int) -> None:
    codec, options, suffix = BEGINNINGS[kind]
    whole = write_clip(tmp_path / "a.mkv", 40, codec=codec, options=options)
    path = copy_packets(whole, tmp_path / f"b{suffix}", first=first)
    all_NHWC = decoded(whole)
    with open_video(path) as reader:
        found_NHWC = frames_of(reader)
        num_left_out = 40 - first - len(found_NHWC)
        assert is_like(found_NHWC, all_NHWC[-len(found_NHWC) :])
        assert len(found_NHWC) >= 20
        count = "1 frame is" if num_left_out == 1 else f"{num_left_out} frames are"
        expected = [f"{path}: begins in mid-stream: {count} left out, up to the first that can be decoded"]
        assert list(reader.notes) == expected[: num_left_out > 0]
        assert np.allclose(seconds_of(reader), np.arange(len(found_NHWC)) / 25, atol=0.0011)
    with open_video(path, frames=(14, 18)) as reader:
        assert np.array_equal(frames_of(reader), found_NHWC[14:18])


def test_frames_before_the_first_keyframe_are_left_out_even_if_they_decode(tmp_path: Path) -> None:
    """libav shows MPEG-4 that refers to nothing as grey with a few moving blocks."""
    whole = write_clip(tmp_path / "a.mkv", 30, codec="mpeg4", options={"g": "10"})
    path = copy_packets(whole, tmp_path / "b.mkv", first=4)
    with open_video(path) as reader:
        assert is_like(frames_of(reader), decoded(whole)[10:])
        assert "6 frames are left out" in reader.notes[0]


@pytest.mark.parametrize("name", ["a.h264", "a.m2v"])
def test_raw_streams_that_begin_anywhere(tmp_path: Path, name: str) -> None:
    codec, options = ("libx264", OPEN_X264) if name == "a.h264" else ("mpeg2video", {"bf": "2", "g": "10"})
    path = write_clip(tmp_path / name, 40, codec=codec, options=options)
    all_NHWC, data = decoded(path), path.read_bytes()
    path.write_bytes(data[len(data) // 5 :])
    with open_video(path) as reader:
        found_NHWC = frames_of(reader)
        assert len(found_NHWC) >= 20
        assert is_like(found_NHWC, all_NHWC[-len(found_NHWC) :])
        assert "begins in mid-stream" in reader.notes[0]


def test_transport_stream_cut_anywhere(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "a.ts", 60, options=OPEN_X264 | {"crf": "12"})
    all_NHWC, data = decoded(whole), whole.read_bytes()
    path = tmp_path / "b.ts"
    for num_packets in (30, 61):
        path.write_bytes(data[188 * num_packets :])
        with open_video(path) as reader:
            found_NHWC = frames_of(reader)
            assert 20 <= len(found_NHWC) < 60
            assert is_like(found_NHWC, all_NHWC[-len(found_NHWC) :])


def first_begin(packets: Iterable[av.Packet]) -> float:
    """When the first of the packets begins, in seconds."""
    return min(float(packet.pts * packet.time_base) for packet in packets if packet.size)


def test_audio_keeps_step_where_frames_are_left_out(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "a.mkv", 50, options=CLOSED_X264)
    tone = write_clip_with_tone(tmp_path / "tone.mkv", "libopus", seconds=2)
    path = tmp_path / "b.mkv"
    with av.open(str(whole)) as pictured, av.open(str(tone)) as heard, av.open(str(path), "w") as output:
        streams = (pictured.streams.video[0], heard.streams.audio[0])
        copies = [output.add_stream_from_template(stream) for stream in streams]
        for stream, copy, first in zip(streams, copies, (4, 0), strict=True):
            packets = [packet for packet in stream.container.demux(stream) if packet.size]
            for packet in packets[first:]:
                packet.stream = copy
                output.mux(packet)
    with av.open(str(path)) as container:
        begin = first_begin(container.demux(audio=0))
    with open_video(path) as reader:
        assert "frames are left out" in reader.notes[0]
        first = (50 - reader.spec.num_frames) / 25  # of the frames, where the first one of the whole is 0
        audio = reader.audio()
        assert audio is not None
    with av.open(io.BytesIO(audio.data)) as section:
        found = first_begin(section.demux(audio=0)) + float(audio.start)
    assert abs(found - (begin - first)) < 0.002


# -- damage --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.h264"])
def test_damaged_frame_is_named_and_others_can_be_read(tmp_path: Path, name: str) -> None:
    path = write_clip(tmp_path / name, 50, options=CLOSED_X264)
    expected_NHWC = decoded(path)
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    (place, size), data = packets[14], bytearray(path.read_bytes())
    data[place + 8 : place + size - 2] = bytes(size - 10)
    path.write_bytes(data)
    message = r"frame 1[0-9] of 50 cannot be decoded: .*; choose other frames, such as :1[0-9] or 20:"
    with open_video(path) as reader, pytest.raises(InputError, match=message):
        reader.read()
    for first, stop in ((0, 10), (20, 30), (32, 50)):
        with open_video(path, frames=(first, stop)) as reader:
            assert is_like(frames_of(reader), expected_NHWC[first:stop])
    with open_video(path, frames=(5, 25)) as reader, pytest.raises(InputError, match=r"frame 1[0-9] of 50"):
        reader.read()


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.h264"])
def test_frames_between_damaged_ones_keep_their_numbers(tmp_path: Path, name: str) -> None:
    path = write_clip(tmp_path / name, 50, options=CLOSED_X264)
    expected_NHWC = decoded(path)
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for place, size in (packets[14], packets[16], packets[31]):
        data[place + 8 : place + size - 2] = bytes(size - 10)
    path.write_bytes(data)
    for first, stop in ((20, 30), (40, 50)):
        with open_video(path, frames=(first, stop)) as reader:
            assert is_like(frames_of(reader), expected_NHWC[first:stop])


# -- joined streams ------------------------------------------------------------------------------------------


def write_part(path: Path, *, start: int = 0, num_frames: int = 50, pause: int = 0) -> bytes:
    """A transport stream of 25 frames a second; ``pause`` frames are missing after the 15th."""
    pts = [start + index + (pause if index >= 15 else 0) for index in range(num_frames)]
    write_clip(path, num_frames, options=CLOSED_X264 | {"crf": "30"}, pts=pts)
    return path.read_bytes()


@pytest.mark.parametrize("order", ["aa", "ab", "ba", "aba", "ac", "c"])
def test_joined_transport_streams_go_on(tmp_path: Path, order: str) -> None:
    # The clock of 33 bits starts again after 95 443.7 s.
    starts = {"a": 0, "b": 25 * 5000, "c": 25 * 95_442}
    parts = {name: write_part(tmp_path / f"{name}.ts", start=starts[name]) for name in set(order)}
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(parts[name] for name in order))
    one_NHWC = decoded(tmp_path / f"{order[0]}.ts")
    with open_video(path) as reader:
        assert (reader.timeline.pts, reader.spec.frame_rate, reader.notes) == (None, 25, ())
        assert is_like(frames_of(reader), np.concatenate([one_NHWC] * len(order)))


@pytest.mark.parametrize("pause", [200, 1500])
def test_pause_in_a_transport_stream_is_kept(tmp_path: Path, pause: int) -> None:
    write_part(tmp_path / "a.ts", num_frames=30, pause=pause)
    expected = [(index + (pause if index >= 15 else 0)) / 25 for index in range(30)]
    with open_video(tmp_path / "a.ts") as reader:
        assert np.allclose(seconds_of(reader), expected, atol=0.001)
        assert reader.notes == ()


def test_slow_transport_stream_is_not_joined(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.ts", 10, pts=[750 * index for index in range(10)])
    with open_video(path) as reader:
        assert np.allclose(seconds_of(reader), np.arange(10) * 30, atol=0.001)


def test_audio_of_joined_streams_keeps_step(tmp_path: Path) -> None:
    one = write_clip_with_tone(tmp_path / "a.ts", "mp2", seconds=2).read_bytes()
    path = tmp_path / "joined.ts"
    path.write_bytes(3 * one)
    with av.open(str(tmp_path / "a.ts")) as container:
        num_packets = sum(packet.size > 0 for packet in container.demux(audio=0))
    with open_video(path) as reader:
        assert (reader.spec.num_frames, reader.timeline.pts) == (150, None)
        audio = reader.audio()
        assert audio is not None
    with av.open(io.BytesIO(audio.data)) as section:
        begins = [float(packet.pts * packet.time_base) for packet in section.demux(audio=0) if packet.size]
    assert len(begins) == 3 * num_packets
    assert all(later > earlier for earlier, later in pairwise(begins))
    # The tone of each part begins with its pictures, every two seconds.
    for part in (1, 2):
        assert abs(begins[part * num_packets] - begins[0] - 2 * part) < 0.05


# -- how long the last frame is held -------------------------------------------------------------------------


def write_animation(path: Path, milliseconds: Sequence[int]) -> Path:
    """A GIF or PNG whose frames are shown so long."""
    images = [Image.fromarray(picture(32, 48, 9 * index)) for index in range(len(milliseconds))]
    images[0].save(path, save_all=True, append_images=images[1:], duration=list(milliseconds), loop=0)
    return path


@pytest.mark.parametrize("name", ["a.gif", "a.apng", "a.png"])
@pytest.mark.parametrize("last", [200, 4000, 50])
def test_animations_hold_their_last_frame(tmp_path: Path, name: str, last: int) -> None:
    path = write_animation(tmp_path / name, [200] * 5 + [last])
    with open_video(path) as reader:
        assert (reader.spec.num_frames, reader.spec.frame_rate) == (6, 5)
        assert reader.timeline.last_seconds == (None if last == 200 else Fraction(last, 1000))


LINES = {
    "even": Timeline(6, Fraction(5), last_seconds=Fraction(4)),
    "NTSC": Timeline(6, Fraction(30_000, 1001), last_seconds=Fraction(7, 3)),
    "short": Timeline(6, Fraction(5), last_seconds=Fraction(1, 20)),
    "uneven": Timeline(6, Fraction(25), Fraction(1, 1000), (0, 40, 55, 300, 333, 1000), None, Fraction(3)),
    "usual": Timeline(6, Fraction(25)),
    "one": Timeline(1, Fraction(25), last_seconds=Fraction(5)),
    "hours": Timeline(4, Fraction(1, 9000), Fraction(1, 1000), (0, 3_601_000, 14_402_000, 90_005_000)),
    "days": Timeline(4, Fraction(1, 5 * 86_400)),
    "pause of days": Timeline(3, Fraction(25), Fraction(1, 1000), (0, 40, 5 * 86_400_000)),
    "2000 a second": Timeline(30, Fraction(2000)),
}


# SVT-AV1 takes at most 240 frames a second.
@pytest.mark.parametrize(
    ("line", "codec"),
    [
        (line, codec)
        for line in LINES
        for codec in ("a.mkv ffv1", "a.mkv x264", "a.mp4 x264", "a.mp4 x265", "a.mp4 av1")
        if (line, codec) != ("2000 a second", "a.mp4 av1")
    ],
)
def test_times_and_duration_come_back(tmp_path: Path, codec: str, line: str) -> None:
    timeline, (name, encoder) = LINES[line], codec.split()
    rgb_NCHW = pictures(timeline.num_frames)
    path = tmp_path / name
    with open_sink(str(path), spec_of(rgb_NCHW, timeline.frame_rate)[0], timeline, codec=encoder) as sink:
        sink.write(rgb_NCHW)
    with open_video(path) as reader:
        expected = [float(timeline.seconds(index)) for index in range(timeline.num_frames)]
        assert np.allclose(seconds_of(reader), expected, rtol=0, atol=0.001)
        assert abs(reader.timeline.duration - timeline.duration) <= Fraction(1, 1000)
        assert reader.notes == ()
    with av.open(str(path)) as container:
        assert abs(Fraction(container.duration, av.time_base) - timeline.duration) <= Fraction(2, 1000)


def test_mp4_has_no_frames_of_months(tmp_path: Path) -> None:
    timeline = Timeline(2, Fraction(1, 60 * 86_400))
    with (
        pytest.raises(UsageError, match=r"mp4 cannot show a frame for more than 24 days; write \.mkv"),
        open_sink(str(tmp_path / "a.mp4"), spec_of(pictures(2))[0], timeline),
    ):
        pass


def test_hold_of_some_frames_is_until_the_next_one(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mkv", 5, pts=[0, 40, 100, 700, 740], time_base=Fraction(1, 1000))
    with open_video(path, frames=(0, 3)) as reader:
        assert reader.timeline.last_seconds == Fraction(600, 1000)
        assert reader.timeline.duration == Fraction(700, 1000)
    with open_video(path, frames=(2, 3)) as reader:
        assert reader.timeline.last_seconds == Fraction(600, 1000)


def test_matroska_that_lasts_as_long_as_its_audio_holds_nothing(tmp_path: Path) -> None:
    path = write_clip_with_tone(tmp_path / "a.mkv", "libopus", seconds=2)
    with open_video(path) as reader:
        assert reader.timeline.last_seconds is None


# -- rates ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [2000, 1500, 480, 300, Fraction(60_000, 1001), Fraction(24_000, 1001), 50])
@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_stated_rates_are_found(tmp_path: Path, rate: Fraction | int, suffix: str) -> None:
    path = write_at(tmp_path / f"a.{suffix}", rate, 60)
    with open_video(path) as reader:
        assert (reader.spec.frame_rate, reader.timeline.pts) == (rate, None)
        assert is_like(frames_of(reader), decoded(path))


@pytest.mark.parametrize("options", [{}, {"bf": "0"}])
def test_frames_of_the_same_millisecond_share_it(tmp_path: Path, options: dict[str, str]) -> None:
    pts = [0, 3, 400, 800, 804, 1200, 5000, 5003]  # in tenths of a millisecond
    path = write_clip(tmp_path / "a.mkv", 8, pts=pts, time_base=Fraction(1, 10_000), options=options)
    with open_video(path) as reader:
        seconds = seconds_of(reader)
        assert np.allclose(seconds, np.array(pts) / 10_000, atol=0.001)
        assert all(np.diff(seconds) > 0)
        assert is_like(frames_of(reader), decoded(path))


@given(st.fractions(min_value=Fraction(1, 10**14), max_value=10**14))
def test_rates_fit_into_a_file(rate: Fraction) -> None:
    found = bounded(rate)
    assert max(found.numerator, found.denominator) < 2**31
    if Fraction(1, 2**31 - 1) <= rate <= 2**31 - 1:
        assert abs(found - rate) <= rate / 1000


@given(
    st.lists(st.integers(0, 2**42), min_size=1, max_size=30),
    st.builds(Fraction, st.integers(1, 2**31 - 1), st.integers(1, 2**31 - 1)),
    st.fractions(min_value=Fraction(1, 10**7), max_value=10**7),
)
def test_all_times_fit_into_a_file(steps: list[int], base: Fraction, rate: Fraction) -> None:
    time_F = np.cumsum([0, *steps])
    timeline = make_timeline(time_F, 0, len(time_F), Stated(base, (rate,), base))
    parts = timeline.frame_rate.as_integer_ratio()
    held = None if timeline.last_seconds is None else timeline.last_seconds.as_integer_ratio()
    Clip(name="a", num_frames=len(time_F), height=1, width=1, frame_rate=parts, last_seconds=held)
    longest = max(steps) * base
    if timeline.pts is not None and longest < 2**40:
        back = decode_times(encode_times(timeline), len(time_F), timeline.frame_rate)
        assert back.pts == timeline.pts


# -- packets without a picture -------------------------------------------------------------------------------


# 0 0 1 B6 | 01 P, 0 same second, 1, time of 5 bits, 1, 0 not coded, stuffing
AS_BEFORE = bytes.fromhex("000001b6504f")


def test_comment_after_the_last_image(tmp_path: Path) -> None:
    path = write_animation(tmp_path / "a.gif", [200] * 6)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"\x21\xfe\x05hello\0\x3b")
    with open_video(path) as reader:
        assert (reader.spec.num_frames, reader.spec.frame_rate, reader.notes) == (6, 5, ())
        assert len(frames_of(reader)) == 6


def test_mpeg4_that_says_as_before(tmp_path: Path) -> None:
    def change(number: int, packet: av.Packet) -> list[av.Packet]:
        if number not in (4, 5, 9):
            return [packet]
        changed = av.Packet(AS_BEFORE)
        changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
        return [changed]

    source = write_clip(tmp_path / "a.avi", 12, codec="mpeg4", options={"g": "12"})
    path = copy_packets(source, tmp_path / "b.avi", change=change)
    expected_NHWC = decoded(path)
    assert len(expected_NHWC) == 9
    with open_video(path) as reader:
        assert is_like(frames_of(reader), expected_NHWC)
        assert np.allclose(seconds_of(reader), np.array([0, 1, 2, 3, 6, 7, 8, 10, 11]) / 25)


def test_packed_b_frames(tmp_path: Path) -> None:
    """DivX and Xvid put a B-frame into the packet of the frame it needs, then one that says as before."""
    source = write_clip(tmp_path / "a.mkv", 21, codec="mpeg4", options={"bf": "1", "b_strategy": "0"})
    with av.open(str(source)) as container:
        stored = [(packet.pts, bytes(packet)) for packet in container.demux(video=0) if packet.size]
    packed: list[bytes] = []
    for number, (time, data) in enumerate(stored):
        if number and time < stored[number - 1][0]:
            packed[-1] += data
            packed.append(AS_BEFORE)
        else:
            packed.append(data)
    assert packed.count(AS_BEFORE) >= 8

    def change(number: int, packet: av.Packet) -> list[av.Packet]:
        changed = av.Packet(packed[number])
        changed.is_keyframe = packet.is_keyframe
        return at_decoding_times(number, changed)

    path = copy_packets(source, tmp_path / "b.avi", change=change)
    with open_video(path) as reader:
        assert (reader.timeline.pts, reader.notes) == (None, ())
        assert is_like(frames_of(reader), decoded(source))


def test_vp8_frame_that_is_not_shown(tmp_path: Path) -> None:
    def change(number: int, packet: av.Packet) -> list[av.Packet]:
        if number != 4:
            return [packet]
        data = bytearray(bytes(packet))
        data[0] &= ~0x10  # the bit "show"
        changed = av.Packet(bytes(data))
        changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
        return [changed]

    source = write_clip(tmp_path / "a.webm", 12, codec="libvpx", options={"deadline": "realtime"})
    path = copy_packets(source, tmp_path / "b.webm", change=change)
    with open_video(path) as reader:
        assert reader.spec.num_frames == 11
        assert is_like(frames_of(reader), decoded(path))


def test_h264_with_parameters_in_packets_of_their_own(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mkv", 12, options={"g": "4", "bf": "0"})

    def change(number: int, packet: av.Packet) -> list[av.Packet]:
        if number % 4:
            return [packet]
        parameters = av.Packet((5).to_bytes(4, "big") + b"\x09\x10\0\0\x80")  # a delimiter, no picture
        parameters.pts = parameters.dts = packet.pts - (1 if packet.pts else 0)
        parameters.time_base = packet.time_base
        return [parameters, packet]

    path = copy_packets(source, tmp_path / "b.mkv", change=change)
    with open_video(path) as reader:
        assert reader.spec.num_frames == 12
        assert is_like(frames_of(reader), decoded(source))


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (0b10_00_0010, 0x00, HasPicture.YES),  # a frame that is shown
        (0b10_00_0100, 0x00, HasPicture.NO),  # one that is not
        (0b10_00_1000, 0x00, HasPicture.YES),  # an earlier one is shown
        (0b10_00_0100, 0xC1, HasPicture.YES),  # several in one packet
    ],
)
def test_vp9_frames_that_are_not_shown(first: int, last: int, expected: HasPicture) -> None:
    data = bytes([first, 1, 2, last])
    assert RULES["vp9"](data, memoryview(data), 0) is expected


# -- encryption ----------------------------------------------------------------------------------------------


def test_encrypted_video_is_named(tmp_path: Path) -> None:
    key = {"encryption_key": "76a6c65c5ea762046bd749a2e632ccbb", "encryption_kid": "0" * 32}
    path = write_at(
        tmp_path / "a.mp4", 25, 10, container_options={"encryption_scheme": "cenc-aes-ctr", **key}
    )
    with pytest.raises(InputError, match="the video is encrypted; decrypt it first"):
        open_video(path)


def element(identifier: str, content: bytes) -> bytes:
    """A short element of Matroska."""
    return bytes.fromhex(identifier) + bytes([0x80 | len(content)]) + content


def test_encrypted_matroska_is_named(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.webm", 3, codec="libvpx", container_options={"live": "1"})
    key = element("5035", element("47e1", b"\5") + element("47e2", b"0123456789abcdef"))
    encoding = element("5031", b"\0") + element("5032", b"\1") + element("5033", b"\1") + key
    encodings = element("6d80", element("6240", encoding))
    # Tracks, size in a byte | TrackEntry, size in eight bytes | …
    data = path.read_bytes()
    tracks = data.rindex(bytes.fromhex("1654ae6b"), 0, data.index(b"\xae\1\0\0\0\0\0\0"))
    entry = tracks + 5
    size = int.from_bytes(data[entry + 2 : entry + 9], "big") + len(encodings)
    changed = bytes([data[tracks + 4] + len(encodings)]) + b"\xae\1" + size.to_bytes(7, "big") + encodings
    path.write_bytes(data[: tracks + 4] + changed + data[entry + 9 :])
    with pytest.raises(InputError, match="the video is encrypted; decrypt it first"):
        open_video(path)
