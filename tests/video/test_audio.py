"""Sound: the same packets in and out, cut to the frames and in step with them."""

from __future__ import annotations

import io
import random
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import pytest

from video.video_clips import pictures, spec_of, write_clip, write_clip_with_tone
from vinr.errors import InputError, VinrError
from vinr.video.audio import extract_audio
from vinr.video.samples import sample_clip
from vinr.video.sink import open_sink
from vinr.video.source import open_video

SOURCES = [("aac", "mp4"), ("aac", "mkv"), ("libopus", "mp4"), ("libopus", "mkv"), ("mp2", "mkv")]


def sound_packets(file: object) -> list[tuple[float, bytes]]:
    """Time in seconds and bytes of each packet, and all streams' packets in order."""
    with av.open(file) as container:
        packets = [packet for packet in container.demux(container.streams.audio) if packet.size]
        return [(float(packet.pts * packet.time_base), bytes(packet)) for packet in packets]


def write_with(audio: bytes | None, path: Path, num_frames: int = 25) -> Path:
    rgb_NCHW = pictures(num_frames, 32, 32)
    with open_sink(str(path), *spec_of(rgb_NCHW), audio=audio) as sink:
        sink.write(rgb_NCHW)
    return path


@pytest.mark.parametrize("output", ["mp4", "mkv"])
@pytest.mark.parametrize(("codec", "container"), SOURCES)
def test_packets_come_back_unchanged_and_in_time(
    tmp_path: Path, codec: str, container: str, output: str
) -> None:
    path = write_clip_with_tone(tmp_path / f"tone.{container}", codec)
    with open_video(path) as reader:
        assert reader.has_audio
        audio = reader.audio()
    written = write_with(audio, tmp_path / f"out.{output}")
    before, after = sound_packets(str(path)), sound_packets(str(written))
    assert [data for _, data in after] == [data for _, data in before]
    # Matroska counts in milliseconds.
    assert max(abs(one - other) for (one, _), (other, _) in zip(before, after, strict=True)) <= 0.0015
    with open_video(written) as reader:
        assert [data for _, data in sound_packets(io.BytesIO(reader.audio() or b""))] == [
            data for _, data in before
        ]


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    path = write_clip_with_tone(tmp_path / "tone.mp4", "aac")
    with open_video(path) as one, open_video(path) as other:
        assert one.audio() == other.audio()


def test_part_of_the_frames_has_its_part_of_the_sound(tmp_path: Path) -> None:
    path = write_clip_with_tone(tmp_path / "tone.mkv", "libopus", seconds=2)
    whole = sound_packets(str(path))
    with open_video(path, frames=(10, 35)) as reader:
        part = sound_packets(io.BytesIO(reader.audio() or b""))
    start, stop = Fraction(10, 25), Fraction(35, 25)
    assert [data for _, data in part] == [data for time, data in whole if start <= time < stop]
    # The first packet begins within one packet, 20 ms, after the first frame.
    assert 0 <= part[0][0] <= 0.021


def test_sound_that_ends_before_the_frames_is_none(tmp_path: Path) -> None:
    path = tmp_path / "late.mkv"
    source = write_clip_with_tone(tmp_path / "tone.mkv", "libopus")
    with av.open(str(source)) as container, av.open(str(path), "w") as output:
        copies = {stream.index: output.add_stream_from_template(stream) for stream in container.streams}
        for packet in container.demux():
            if packet.size and (packet.stream.type == "video" or packet.pts * packet.time_base < 0.3):
                packet.stream = copies[packet.stream_index]
                output.mux(packet)
    with open_video(path, frames=(15, None)) as reader:
        assert reader.audio() is None
        assert not reader.has_audio


def test_without_sound(tmp_path: Path) -> None:
    with open_video(write_clip(tmp_path / "clip.mp4", 3)) as reader:
        assert (reader.has_audio, reader.audio()) == (False, None)


def test_two_languages(tmp_path: Path) -> None:
    source = write_clip_with_tone(tmp_path / "tone.mkv", "libopus")
    path = tmp_path / "two.mkv"
    with av.open(str(source)) as container, av.open(str(path), "w") as output:
        picture = output.add_stream_from_template(container.streams.video[0])
        sounds = [output.add_stream_from_template(container.streams.audio[0]) for _ in range(2)]
        for sound, language in zip(sounds, ("eng", "deu"), strict=True):
            sound.metadata["language"] = language
        for packet in list(container.demux()):
            if packet.size == 0:
                continue
            if packet.stream.type == "video":
                packet.stream = picture
                output.mux(packet)
                continue
            for sound in sounds:
                copy = av.Packet(bytes(packet))
                copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
                copy.stream = sound
                output.mux(copy)
    with open_video(path) as reader:
        written = write_with(reader.audio(), tmp_path / "out.mp4")
    with av.open(str(written)) as container:
        assert [stream.language for stream in container.streams.audio] == ["eng", "deu"]


def test_bunny_sound_is_aac(tmp_path: Path) -> None:
    with open_video(sample_clip()) as reader:
        audio = reader.audio()
    assert [d for _, d in sound_packets(io.BytesIO(audio or b""))] == [
        d for _, d in sound_packets(str(sample_clip()))
    ]


@pytest.mark.parametrize("codec", ["wavpack", "pcm_u8"])
def test_codec_that_mp4_refuses(tmp_path: Path, codec: str) -> None:
    path = write_clip_with_tone(tmp_path / "tone.mkv", codec, sound_rate=44_100)
    with open_video(path) as reader:
        audio = reader.audio()
    with pytest.raises(InputError, match=f"cannot hold {codec} audio"):
        write_with(audio, tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()
    assert sound_packets(str(write_with(audio, tmp_path / "out.mkv")))


def test_codec_that_matroska_refuses(tmp_path: Path) -> None:
    path = write_clip_with_tone(tmp_path / "tone.wmv", "wmav2", sound_rate=44_100)
    with open_video(path) as reader, pytest.raises(InputError, match=r"audio \(wmav2\) cannot be copied"):
        reader.audio()


def test_sound_that_is_no_matroska(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not readable Matroska"):
        write_with(b"no sound", tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == []


def test_mutated_sound_is_written_or_refused(tmp_path: Path) -> None:
    """The section of a file is untrusted: whatever libav makes of it becomes one line."""
    sound = extract_audio(write_clip_with_tone(tmp_path / "a.mkv", "pcm_s16le"), origin=Fraction(0))
    assert sound is not None
    rgb_NCHW, rng = pictures(2, 32, 32), random.Random(0)
    for number in range(60):
        data = bytearray(sound)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(400)] = rng.choice((0, 1, 0x80, 0xFF, rng.randrange(256)))
        target = str(tmp_path / f"{number}.mkv")
        with (
            suppress(VinrError),
            open_sink(target, *spec_of(rgb_NCHW), codec="ffv1", audio=bytes(data)) as sink,
        ):
            sink.write(rgb_NCHW)


def test_sound_of_an_unknown_codec_names_the_way_out(tmp_path: Path) -> None:
    path = write_clip_with_tone(tmp_path / "a.mkv", "pcm_s16le")
    path.write_bytes(path.read_bytes().replace(b"A_PCM/INT/LIT", b"A_NO_SUCH_ONE"))
    with open_video(path) as reader, pytest.raises(InputError, match=r"compress\.audio=false"):
        reader.audio()
