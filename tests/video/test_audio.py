"""Audio: the same packets in and out, cut to the frames and in step with them."""

from __future__ import annotations

import io
import random
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from video.audio_clips import NUM_FRAMES, Tone, heard_until, samples_of, times_of, tracks_of, write_audio_clip
from video.video_clips import pictures, spec_of, write_clip, write_clip_with_tone
from vinr.errors import InputError, UsageError, VinrError
from vinr.video.audio import cut_audio
from vinr.video.samples import sample_clip
from vinr.video.sink import open_sink
from vinr.video.source import open_video
from vinr.video.spec import Audio

# Both files round: Matroska to milliseconds, mp4 to samples.
STEP = 0.00101
SOURCES = [("aac", "mp4"), ("aac", "mkv"), ("libopus", "mp4"), ("libopus", "mkv"), ("mp2", "mkv")]
OFFSETS = [Fraction(-5), Fraction(-2), Fraction(-7, 100), Fraction(2, 5), Fraction(4001, 1000)]
# What PyAV does not write into Matroska, with a file to read it from.
NUT_TONES = [
    ("mov", Tone("pcm_alaw", 8000, "mono")),
    ("mov", Tone("pcm_mulaw", 44_100)),
    ("avi", Tone("adpcm_ms", 44_100)),
    ("avi", Tone("adpcm_ima_wav", 44_100)),
    ("avi", Tone("g722", 16_000, "mono")),
    ("wmv", Tone("g726", 8000, "mono", bit_rate=32_000)),
    ("wmv", Tone("g726", 8000, "mono", bit_rate=16_000)),
    ("mov", Tone("libopencore_amrnb", 8000, "mono", bit_rate=12_200)),
    ("wmv", Tone("wmav2", 44_100, bit_rate=64_000)),
    ("flv", Tone("adpcm_swf", 22_050, "mono")),
    ("mov", Tone("pcm_f32be")),
    ("mov", Tone("pcm_s8")),
]


def audio_of(path: Path, frames: tuple[int | None, int | None] | None = None) -> Audio:
    with open_video(path, frames=frames) as reader:
        audio = reader.audio()
    assert audio is not None
    return audio


def packets_of(audio: Audio) -> list[tuple[float, bytes]]:
    """Seconds after the first frame, and bytes, of the packets of all tracks."""
    with av.open(io.BytesIO(audio.data)) as container:
        packets = [packet for packet in container.demux() if packet.size]
        return [(float(packet.pts * packet.time_base + audio.start), bytes(packet)) for packet in packets]


def write_with(
    audio: Audio | None, path: Path, num_frames: int = NUM_FRAMES, codec: str = "x264"
) -> tuple[Path, tuple[str, ...]]:
    """Write frames and audio; return the path, and the notes."""
    rgb_NCHW = pictures(num_frames, 32, 32)
    with open_sink(str(path), *spec_of(rgb_NCHW), audio=audio, codec=codec) as sink:
        sink.write(rgb_NCHW)
    return path, sink.notes


# -- in step -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["mp4", "mkv"])
@pytest.mark.parametrize(("codec", "container"), SOURCES)
def test_packets_come_back_unchanged_and_in_time(
    tmp_path: Path, codec: str, container: str, output: str
) -> None:
    path = write_audio_clip(tmp_path / f"tone.{container}", Tone(codec))
    audio = audio_of(path)
    written, notes = write_with(audio, tmp_path / f"out.{output}")
    (before,), (after,) = tracks_of(path), tracks_of(written)
    assert notes == ()
    assert after.data == before.data
    assert np.abs(np.subtract(after.seconds, before.seconds)).max() <= STEP
    # Only what a decoder warms up with lies before the first frame, which is not delayed for it.
    assert times_of(written, "video")[0] == 0
    assert [data for _, data in packets_of(audio_of(written))] == before.data


@pytest.mark.parametrize("output", ["mp4", "mkv"])
@pytest.mark.parametrize("container", ["mp4", "mkv"])
@pytest.mark.parametrize("offset", OFFSETS, ids=str)
def test_audio_that_begins_long_before_or_after_the_picture(
    tmp_path: Path, offset: Fraction, container: str, output: str
) -> None:
    start = max(Fraction(0), -offset) + Fraction(1, 10)
    clip = write_audio_clip(tmp_path / f"a.{container}", Tone("flac", start=offset), picture_start=start)
    audio = audio_of(clip)
    assert abs(audio.start - offset) <= Fraction(1, 1000)
    (before,), (after,) = tracks_of(clip), tracks_of(write_with(audio, tmp_path / f"b.{output}")[0])
    assert after.data == before.data
    assert np.abs(np.subtract(after.seconds, before.seconds)).max() <= STEP
    begins = [times_of(tmp_path / f"b.{output}", kind)[0] for kind in ("video", "audio")]
    assert min(begins) == pytest.approx(0, abs=STEP)
    assert begins[1] - begins[0] == pytest.approx(float(offset), abs=STEP)


def test_two_tracks_keep_their_distance(tmp_path: Path) -> None:
    tones = (
        Tone("libopus", start=Fraction(-1)),
        Tone("mp2", start=Fraction(-3)),
        Tone("aac", start=Fraction(1)),
    )
    clip = write_audio_clip(tmp_path / "a.mkv", *tones, picture_start=Fraction(3))
    written = write_with(audio_of(clip), tmp_path / "b.mp4")[0]
    for before, after in zip(tracks_of(clip), tracks_of(written), strict=True):
        assert after.data == before.data
        assert np.abs(np.subtract(after.seconds, before.seconds)).max() <= STEP


def test_joined_transport_streams_go_on(tmp_path: Path) -> None:
    # The audio of each part is a little longer than its picture, and overlaps that of the next.
    parts = [
        write_audio_clip(tmp_path / f"{n}.ts", Tone("mp2"), num_frames=12).read_bytes() for n in range(2)
    ]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(parts))
    (one,) = tracks_of(tmp_path / "0.ts")
    audio = audio_of(path)
    for name in ("b.mkv", "b.mp4"):
        (track,) = tracks_of(write_with(audio, tmp_path / name, 24)[0])
        assert track.data == 2 * one.data
        assert (np.diff(track.seconds) > 0).all()
        assert np.diff(track.seconds).max() < 0.05
        assert track.seconds[0] == pytest.approx(one.seconds[0], abs=STEP)


def test_packets_shorter_than_a_millisecond(tmp_path: Path) -> None:
    """Matroska gives several of them one time, which mp4 does not take."""
    whole, path = write_audio_clip(tmp_path / "a.mov", Tone("pcm_s16le")), tmp_path / "b.mkv"
    with av.open(str(whole)) as source, av.open(str(path), "w") as output:
        copies = [output.add_stream_from_template(stream) for stream in source.streams]
        for packet in source.demux():
            pieces = [bytes(packet)[first : first + 80] for first in range(0, packet.size, 80)]
            for number, piece in enumerate(pieces if packet.stream.type == "audio" else [bytes(packet)]):
                if piece:
                    part = av.Packet(piece)
                    part.pts, part.dts, part.time_base = packet.pts, packet.dts, packet.time_base
                    part.pts += 20 * number
                    part.dts += 20 * number
                    part.stream = copies[packet.stream_index]
                    part.is_keyframe = packet.is_keyframe
                    output.mux(part)
    written = write_with(audio_of(path), tmp_path / "c.mp4")[0]
    assert b"".join(tracks_of(written)[0].data) == b"".join(tracks_of(whole)[0].data)
    assert heard_until(written) == pytest.approx(heard_until(whole), abs=2 * STEP)


def test_audio_of_format_1_with_times_below_0(tmp_path: Path) -> None:
    """What files of format 1 hold: Matroska whose 0 is the first frame, decoded as it always was."""
    clip = write_audio_clip(tmp_path / "a.mp4", Tone("aac"))
    options = {"avoid_negative_ts": "disabled", "fflags": "+bitexact"}
    target = io.BytesIO()
    with av.open(str(clip)) as source, av.open(target, "w", format="matroska", options=options) as output:
        copy = output.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.size:
                packet.stream = copy
                output.mux(packet)
    for name in ("b.mp4", "b.mkv"):
        (before,), (after,) = (
            tracks_of(clip),
            tracks_of(write_with(Audio(target.getvalue()), tmp_path / name)[0]),
        )
        assert after.data == before.data
        assert np.abs(np.subtract(after.seconds, before.seconds)).max() <= STEP


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, codec in (("a.mp4", "aac"), ("a.mov", "pcm_alaw")):
        path = write_audio_clip(tmp_path / name, Tone(codec))
        assert audio_of(path) == audio_of(path)


# -- cut to the frames ---------------------------------------------------------------------------------------


def test_part_of_the_frames_has_its_part_of_the_audio(tmp_path: Path) -> None:
    path = write_audio_clip(tmp_path / "tone.mkv", Tone("libopus"))
    whole = tracks_of(path)[0].packets
    part = packets_of(audio_of(path, (2, 6)))
    start, stop = 2 / 25, 6 / 25
    assert [data for _, data in part] == [data for seconds, data in whole if start <= seconds < stop]
    kept = [seconds - start for seconds, _ in whole if start <= seconds < stop]
    assert np.abs(np.subtract([seconds for seconds, _ in part], kept)).max() <= STEP


@pytest.mark.parametrize("offset", [Fraction(0), Fraction(-1, 20), Fraction(1, 20)], ids=str)
def test_a_cut_of_the_section_is_what_a_cut_of_the_file_gives(tmp_path: Path, offset: Fraction) -> None:
    path = write_audio_clip(tmp_path / "a.mkv", Tone("mp2", start=offset), picture_start=Fraction(1))
    audio = audio_of(path)
    for first, stop in ((2, 6), (0, 3), (5, NUM_FRAMES)):
        start = Fraction(first, 25) if first else None
        end = Fraction(stop, 25) if stop < NUM_FRAMES else None
        cut = cut_audio(audio, start=start, stop=end)
        assert cut is not None
        found, expected = packets_of(cut), packets_of(audio_of(path, (first, stop)))
        assert [data for _, data in found] == [data for _, data in expected]
        assert np.abs(np.subtract([a for a, _ in found], [a for a, _ in expected])).max() <= STEP
    assert cut_audio(audio, start=Fraction(5), stop=None) is None


def test_a_cut_that_begins_with_the_first_frame_keeps_the_warm_up(tmp_path: Path) -> None:
    audio = audio_of(write_audio_clip(tmp_path / "a.mp4", Tone("aac")))
    cut = cut_audio(audio, start=None, stop=Fraction(1, 5))
    assert cut is not None
    whole = [(seconds, data) for seconds, data in packets_of(audio) if seconds < 0.2]
    assert (cut.start, packets_of(cut)) == (audio.start, whole)
    assert whole[0][0] < 0


def test_audio_that_ends_before_the_frames_is_none(tmp_path: Path) -> None:
    path = write_audio_clip(tmp_path / "a.mkv", Tone("mp2", start=Fraction(-1)), picture_start=Fraction(1))
    with open_video(path, frames=(3, None)) as reader:
        assert reader.audio() is None
        assert not reader.has_audio
    with open_video(path) as reader:
        assert reader.has_audio


def test_without_audio(tmp_path: Path) -> None:
    with open_video(write_clip(tmp_path / "clip.mp4", 3)) as reader:
        assert (reader.has_audio, reader.audio(), reader.audio_notes) == (False, None, ())


def test_raw_video_has_no_audio(tmp_path: Path) -> None:
    path = tmp_path / "clip_32x16_25fps.yuv"
    path.write_bytes(bytes(2 * 32 * 16 * 3 // 2))
    with open_video(path) as reader:
        assert reader.audio() is None


# -- tracks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["mp4", "mkv"])
@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_languages_titles_and_the_default_track(tmp_path: Path, container: str, output: str) -> None:
    tones = (
        Tone("libopus", language="eng", title="Main", is_default=False),
        Tone("libopus", language="deu", title="Kommentar"),
    )
    path = write_audio_clip(tmp_path / f"a.{container}", *tones)
    written = write_with(audio_of(path), tmp_path / f"b.{output}")[0]
    found = [(track.language, track.title, track.is_default) for track in tracks_of(written)]
    assert found == [("eng", "Main", False), ("deu", "Kommentar", True)]


@pytest.mark.parametrize("layout", ["mono", "stereo", "quad", "5.1"])
def test_pcm_keeps_its_channels_in_mp4(tmp_path: Path, layout: str) -> None:
    path = write_audio_clip(tmp_path / "a.mov", Tone("pcm_s16le", layout=layout))
    audio = audio_of(path)
    for name in ("b.mp4", "b.mkv"):
        (before,), (after,) = tracks_of(path), tracks_of(write_with(audio, tmp_path / name)[0])
        assert b"".join(after.data) == b"".join(before.data)
    # libav reads one channel without a name.
    assert tracks_of(tmp_path / "b.mp4")[0].layout in (layout, "1 channels")


def test_last_packet_without_a_duration_is_heard_in_mp4(tmp_path: Path) -> None:
    source, output = write_clip_with_tone(tmp_path / "a.mov", "alac"), tmp_path / "out.mp4"
    with open_video(source) as reader:
        audio = reader.audio()
        with open_sink(str(output), reader.spec, reader.timeline, audio=audio) as sink:
            sink.write(reader.read().rgb_NCHW)
    counts = []
    for path in (source, output):
        with av.open(str(path)) as container:
            counts.append(sum(frame.samples for frame in container.decode(audio=0)))
    assert counts[0] == counts[1]


def test_bunny_audio_is_aac() -> None:
    (track,) = tracks_of(sample_clip())
    assert [data for _, data in packets_of(audio_of(sample_clip()))] == track.data


def test_a_track_of_an_unknown_codec_is_left_out(tmp_path: Path) -> None:
    path = write_audio_clip(tmp_path / "a.mp4", Tone("libopus"), Tone("aac"))
    known = tracks_of(path)[0]
    content = path.read_bytes()
    # The second track's description of samples.
    place = content.rindex(b"stsd", 0, content.rindex(b"mp4a"))
    path.write_bytes(content[:place] + b"free" + content[place + 4 :])
    with open_video(path) as reader:
        audio = reader.audio()
        assert audio is not None
        assert reader.audio_notes == (f"{path}: audio track 2 is left out: its codec is unknown",)
    assert [data for _, data in packets_of(audio)] == known.data


def test_only_a_track_of_an_unknown_codec(tmp_path: Path) -> None:
    path = write_audio_clip(tmp_path / "a.mp4", Tone("aac"))
    content = path.read_bytes()
    place = content.rindex(b"stsd", 0, content.rindex(b"mp4a"))
    path.write_bytes(content[:place] + b"free" + content[place + 4 :])
    with open_video(path) as reader:
        assert reader.audio() is None
        assert len(reader.audio_notes) == 1


# -- codecs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("container", "tone"), NUT_TONES, ids=lambda value: getattr(value, "codec", value))
def test_what_matroska_refuses_is_stored_and_comes_back_as_pcm(
    tmp_path: Path, container: str, tone: Tone
) -> None:
    path = write_audio_clip(tmp_path / f"a.{container}", tone)
    (before,), audio = tracks_of(path), audio_of(path)
    assert audio.data.startswith(b"nut/")
    assert [data for _, data in packets_of(audio)] == before.data
    expected = samples_of(path)
    for name in ("b.mkv", "b.mp4"):
        written, notes = write_with(audio, tmp_path / name)
        if name == "b.mp4" and before.codec == "pcm_f32be":
            assert (notes, b"".join(tracks_of(written)[0].data)) == ((), b"".join(before.data))
            continue
        assert len(notes) == 1
        assert f"cannot hold {before.codec} audio: it is decoded and written as pcm_" in notes[0]
        samples = samples_of(written)
        # Files say how many samples of the first packet are not heard, and NUT does not.
        assert 0 <= samples.shape[1] - expected.shape[1] < 100
        assert np.array_equal(samples[:, -expected.shape[1] :], expected)
        if before.codec == "g722":
            continue  # libav reads other times from AVI than it has written
        assert heard_until(written) == pytest.approx(heard_until(path), abs=2 * STEP)


@pytest.mark.parametrize("codec", ["wavpack", "tta", "pcm_u8"])
def test_lossless_audio_that_mp4_refuses_is_written_as_pcm(tmp_path: Path, codec: str) -> None:
    path = write_audio_clip(tmp_path / "a.mkv", Tone(codec, 44_100))
    audio = audio_of(path)
    written, notes = write_with(audio, tmp_path / "b.mp4")
    assert notes[0].startswith(f"mp4 cannot hold {codec} audio: it is decoded and written as pcm_")
    assert np.array_equal(samples_of(written), samples_of(path))
    written, notes = write_with(audio, tmp_path / "b.mkv")
    assert (notes, tracks_of(written)[0].data) == ((), tracks_of(path)[0].data)


def test_lossy_audio_that_only_matroska_holds_is_refused_in_mp4(tmp_path: Path) -> None:
    audio = audio_of(write_audio_clip(tmp_path / "a.mkv", Tone("real_144", 8000, "mono")))
    with pytest.raises(InputError, match=r"mp4 cannot hold real_144 audio; write \.mkv, or leave it out$"):
        write_with(audio, tmp_path / "b.mp4")
    assert not (tmp_path / "b.mp4").exists()


def test_a_codec_that_nothing_holds_names_the_way_out(tmp_path: Path) -> None:
    path = write_audio_clip(tmp_path / "a.mov", Tone("adpcm_ima_qt", 44_100, "mono"))
    message = r"\(adpcm_ima_qt\) cannot be copied: neither Matroska nor NUT.*\['compress\.audio=false'\]$"
    with open_video(path) as reader, pytest.raises(InputError, match=message):
        reader.audio()


def test_channels_that_mp4_cannot_name(tmp_path: Path) -> None:
    audio = audio_of(write_audio_clip(tmp_path / "a.mkv", Tone("pcm_s16le", layout="9 channels")))
    with pytest.raises(
        InputError, match=r"b\.mp4: cannot hold pcm_s16le audio: .*; write \.mkv, or leave it"
    ):
        write_with(audio, tmp_path / "b.mp4")
    assert write_with(audio, tmp_path / "b.mkv")[1] == ()


@pytest.mark.parametrize(("name", "kind"), [("b.y4m", "y4m"), ("folder/", "PNG")])
def test_outputs_without_audio_say_so(tmp_path: Path, name: str, kind: str) -> None:
    audio = audio_of(write_audio_clip(tmp_path / "a.mkv", Tone("mp2")))
    rgb_NCHW = pictures(2, 32, 32)
    with open_sink(f"{tmp_path}/{name}", *spec_of(rgb_NCHW), audio=audio) as sink:
        sink.write(rgb_NCHW)
    assert sink.notes == (f"the audio is left out: {kind} has none; write .mkv or .mp4 to keep it",)


# -- not trusted ---------------------------------------------------------------------------------------------


def test_audio_that_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not readable Matroska or NUT"):
        write_with(Audio(b"no audio"), tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mkv", "pcm_s16le"), ("a.mov", "pcm_alaw"), ("a.wmv", "wmav2")]
)
def test_mutated_audio_is_written_or_refused(tmp_path: Path, name: str, codec: str) -> None:
    """The section of a file is untrusted: whatever libav makes of it becomes one line."""
    audio = audio_of(write_audio_clip(tmp_path / name, Tone(codec, 44_100, bit_rate=64_000)))
    rng = random.Random(0)
    for number in range(40):
        data = bytearray(audio.data)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(400)] = rng.choice((0, 1, 0x80, 0xFF, rng.randrange(256)))
        with suppress(VinrError):
            write_with(replace(audio, data=bytes(data)), tmp_path / f"{number}.mkv", 2, "ffv1")


def test_audio_at_absurd_times(tmp_path: Path) -> None:
    audio = audio_of(write_audio_clip(tmp_path / "a.mkv", Tone("mp2")))
    for number, start in enumerate((Fraction(-(2**53)), Fraction(2**53), Fraction(-1, 2**31 - 1))):
        for suffix in ("mkv", "mp4"):
            with suppress(VinrError):
                write_with(replace(audio, start=start), tmp_path / f"{number}.{suffix}", 2)


# -- rates ---------------------------------------------------------------------------------------------------


def test_a_rate_that_av1_refuses(tmp_path: Path) -> None:
    rgb_NCHW = pictures(2, 32, 32)
    message = r"^av1 takes at most 240 frames per second, not 1000; write \.y4m"
    spec, timeline = spec_of(rgb_NCHW, Fraction(1000))
    with (
        pytest.raises(UsageError, match=message),
        open_sink(str(tmp_path / "a.mkv"), spec, timeline, codec="av1"),
    ):
        pass
    with open_sink(str(tmp_path / "b.mkv"), *spec_of(rgb_NCHW, Fraction(240)), codec="av1") as sink:
        sink.write(rgb_NCHW)
