"""The shape of pixels in Matroska: read back by libav, and the file whole afterwards."""

from __future__ import annotations

import zlib
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from video.video_clips import pictures, spec_of, write_clip, write_clip_with_tone
from vinr.video import matroska
from vinr.video.aspect import round_aspect
from vinr.video.matroska import (
    CRC,
    SEEK,
    SEEK_HEAD,
    SEEK_POSITION,
    SEGMENT,
    TRACKS,
    VOID,
    Element,
    state_shape,
)
from vinr.video.sink import open_sink
from vinr.video.source import open_video
from vinr.video.spec import VideoSpec


def elements(data: bytes) -> list[Element]:
    return list(Element(b"", data, 0, len(data)).children())


def segment(path: Path) -> Element:
    return next(element for element in elements(path.read_bytes()) if element.id == SEGMENT)


def aspect_in(path: Path) -> Fraction | None:
    with av.open(str(path)) as container:
        return container.streams.video[0].sample_aspect_ratio


@pytest.mark.parametrize("aspect", [Fraction(16, 11), Fraction(8, 9), Fraction(136, 135), Fraction(64)])
@pytest.mark.parametrize("codec", ["ffv1", "libsvtav1", "libx264"])
def test_libav_reads_the_shape_of_any_codec(tmp_path: Path, codec: str, aspect: Fraction) -> None:
    path = write_clip(tmp_path / "a.mkv", 3, codec=codec)
    with av.open(str(path)) as container:
        before = [bytes(packet) for packet in container.demux()]
    num_bytes = path.stat().st_size
    assert state_shape(path, 48, 64, aspect)
    assert (aspect_in(path), path.stat().st_size) == (aspect, num_bytes)
    with av.open(str(path)) as container:
        assert [bytes(packet) for packet in container.demux()] == before


def test_positions_and_checksums_hold(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mkv", 3, codec="ffv1")
    old = segment(path)
    assert state_shape(path, 48, 64, Fraction(4, 3))
    new = segment(path)
    old_ids, new_ids = ([item.id for item in whole.children()] for whole in (old, new))
    assert new_ids == old_ids
    starts = {item.id: item.start for item in new.children()}
    (seek_head,) = (item for item in new.children() if item.id == SEEK_HEAD)
    for seek in seek_head.children():
        if seek.id == SEEK:
            name, position = seek.children()
            assert position.id == SEEK_POSITION
            assert starts[name.content] == int.from_bytes(position.content)
    checked = 0
    for item in new.children():
        first = next(item.children(), None)
        if item.id in (SEEK_HEAD, TRACKS) and first is not None and first.id == CRC:
            assert zlib.crc32(item.content[first.stop :]) == int.from_bytes(first.content, "little")
            checked += 1
    assert checked == 2
    # What is behind Tracks has not moved.
    tracks = [next(item for item in whole.children() if item.id == TRACKS) for whole in (old, new)]
    assert tracks[0].stop == tracks[1].stop
    assert old.content[tracks[0].stop :] == new.content[tracks[1].stop :]


@pytest.mark.parametrize("codec", ["ffv1", "x264", "av1"])
def test_files_with_audio(tmp_path: Path, codec: str) -> None:
    """libav then writes the sizes of tracks in eight bytes."""
    with open_video(write_clip_with_tone(tmp_path / "in.mkv", "aac")) as reader:
        wide = replace(reader.spec, pixel_aspect=Fraction(16, 11))
        path, audio = tmp_path / "a.mkv", reader.audio()
        with open_sink(str(path), wide, reader.timeline, audio=audio, codec=codec) as sink:
            sink.write(reader.read().rgb_NCHW)
    assert (sink.notes, aspect_in(path)) == ((), Fraction(16, 11))
    with av.open(str(path)) as container, av.open(str(tmp_path / "in.mkv")) as source:
        packets = [bytes(packet) for packet in container.demux(audio=0) if packet.size]
        assert packets == [bytes(packet) for packet in source.demux(audio=0) if packet.size]


def test_seeking_still_works(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mkv", 30, options={"g": "5"})
    before = sought(path)
    assert before > 600
    assert state_shape(path, 48, 64, Fraction(4, 3))
    assert sought(path) == before


def sought(path: Path) -> int | None:
    with av.open(str(path)) as container:
        container.seek(800, stream=container.streams.video[0])
        return next(container.decode(video=0)).pts


@pytest.mark.parametrize("damage", ["no room", "no segment", "cut"])
def test_other_layouts_are_left_alone(tmp_path: Path, damage: str) -> None:
    path = write_clip(tmp_path / "a.mkv", 1, codec="ffv1")
    data = path.read_bytes()
    whole = segment(path)
    void = next(item for item in whole.children() if item.id == VOID)
    begin = len(data) - len(whole.content)
    if damage == "no room":
        # The same bytes as another element that readers pass over.
        data = data[: begin + void.start] + b"\xbf" + data[begin + void.start + 1 :]
    elif damage == "no segment":
        data = data[: begin - 12]
    else:
        data = data[: begin + void.start + 3]
    path.write_bytes(data)
    assert not state_shape(path, 48, 64, Fraction(4, 3))
    assert path.read_bytes() == data


def test_what_could_not_be_stated_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matroska, "SEEK_HEAD", b"none")
    spec, timeline = spec_of(pictures(1))
    wide = VideoSpec(1, spec.height, spec.width, spec.frame_rate, pixel_aspect=Fraction(4, 3))
    with open_sink(str(tmp_path / "a.mkv"), wide, timeline, codec="ffv1") as sink:
        sink.write(pictures(1))
    (note,) = sink.notes
    assert note.endswith("a.mkv: pixels 4/3 times as wide as high may be shown as square; write .mp4")


@given(st.binary(max_size=60))
def test_no_bytes_make_the_parser_fail(data: bytes) -> None:
    for element in elements(data):
        list(element.children())


@pytest.mark.parametrize("more", [0, 20, 45, 46, 47, 60, 200])
def test_room_of_any_size(tmp_path: Path, more: int) -> None:
    """As other versions of libav may leave it."""
    data = write_clip(tmp_path / "a.mkv", 1, codec="ffv1").read_bytes()
    whole = segment(tmp_path / "a.mkv")
    begin = len(data) - len(whole.content)
    void = next(item for item in whole.children() if item.id == VOID)
    num_bytes = void.stop - void.start + more
    size = (num_bytes - 3 | 1 << 14).to_bytes(2)
    wider = VOID + size + bytes(num_bytes - 3)
    path = tmp_path / "b.mkv"
    path.write_bytes(data[: begin + void.start] + wider + data[begin + void.stop :])
    assert state_shape(path, 48, 64, Fraction(4, 3))
    assert len(path.read_bytes()) == len(data) + more
    # The end of the segment is where it was, so what lies there is cut.
    ids = [item.id for item in whole.children()]
    assert [item.id for item in segment(path).children()][:4] == ids[:4]
    assert ids[3] == TRACKS


def test_the_longest_numbers_have_room(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mkv", 1, codec="ffv1")
    assert state_shape(path, 16_381, 16_383, round_aspect(Fraction(63_999, 1000)))
