"""Audio through whole commands: encode, decode with a choice of frames, inpaint, and what is said of it."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vinr
from video.audio_clips import NUM_FRAMES, Tone, Track, times_of, tracks_of, write_audio_clip
from vinr.bitstream import SectionKind
from vinr.config import default_model
from vinr.fit import Event, Noted
from vinr.video.source import VideoReader, open_video

TINY = f"{default_model()}-tiny"
STEP = 0.00101
START = Fraction(-21, 10)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight frames whose audio begins 2.1 s before the first and another track that begins with it."""
    path = tmp_path_factory.mktemp("clip") / "a.mp4"
    return write_audio_clip(path, Tone("mp2", start=START), Tone("flac"), picture_start=-START)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, clip: Path) -> Path:
    path = tmp_path_factory.mktemp("file") / "a.vinr"
    vinr.encode(clip, path, preset=TINY, epochs=1, device="cpu")
    return path


def in_step(before: Path, after: Path) -> None:
    for one, other in zip(tracks_of(before), tracks_of(after), strict=True):
        assert other.data == one.data
        assert np.abs(np.subtract(other.seconds, one.seconds)).max() <= STEP


def part(track: Track, first: int, stop: int) -> list[bytes]:
    return [data for seconds, data in track.packets if first / 25 <= seconds < stop / 25 - STEP]


@pytest.mark.parametrize("name", ["o.mkv", "o.mp4"])
def test_audio_keeps_its_distance_to_the_picture(file: Path, clip: Path, tmp_path: Path, name: str) -> None:
    report = vinr.decode(file, tmp_path / name, device="cpu")
    assert report.notes == ()
    in_step(clip, tmp_path / name)
    frames = times_of(tmp_path / name, "video")
    assert np.diff(frames) == pytest.approx([1 / 25] * (NUM_FRAMES - 1), abs=STEP)


def test_frames_inserted_between_frames_leave_the_audio_as_it_is(
    file: Path, clip: Path, tmp_path: Path
) -> None:
    assert vinr.interpolate(file, tmp_path / "o.mkv", device="cpu").notes == ()
    in_step(clip, tmp_path / "o.mkv")


@pytest.mark.parametrize("frames", ["2:6", "2,3,4,5"])
@pytest.mark.parametrize("name", ["o.mkv", "o.mp4"])
def test_frames_in_a_row_have_their_audio(
    file: Path, clip: Path, tmp_path: Path, frames: str, name: str
) -> None:
    report = vinr.decode(file, tmp_path / name, frames=frames, device="cpu")
    assert report.notes == ()
    # The other track has ended before them.
    (late,) = tracks_of(tmp_path / name)
    assert late.data == part(tracks_of(clip)[1], 2, 6)
    assert late.seconds[0] <= 4609 / 48_000  # a packet of FLAC


def test_the_first_frames_keep_the_audio_before_them(file: Path, clip: Path, tmp_path: Path) -> None:
    vinr.decode(file, tmp_path / "o.mkv", frames="0:3", device="cpu")
    early, late = tracks_of(tmp_path / "o.mkv")
    assert early.data == tracks_of(clip)[0].data
    assert early.seconds[0] == pytest.approx(tracks_of(clip)[0].seconds[0], abs=STEP)
    assert late.data == part(tracks_of(clip)[1], 0, 3)


@pytest.mark.parametrize("frames", ["0,2:4", "::2", "::-1", "3,3"])
def test_other_choices_of_frames_have_none_and_say_so(file: Path, tmp_path: Path, frames: str) -> None:
    report = vinr.decode(file, tmp_path / "o.mkv", frames=frames, device="cpu")
    assert report.notes == ("the audio is left out: the chosen frames do not follow one another",)
    assert tracks_of(tmp_path / "o.mkv") == []


def test_outputs_without_audio_say_so(file: Path, tmp_path: Path) -> None:
    for name, kind in (("o.y4m", "y4m"), ("frames", "PNG")):
        report = vinr.decode(file, tmp_path / name, frames="2:4", device="cpu")
        assert report.notes == (f"the audio is left out: {kind} has none; write .mkv or .mp4 to keep it",)


def test_inpaint_keeps_audio_the_same_way(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VideoReader, "audio", lambda reader: pytest.fail("the whole audio was asked for"))
    vinr.inpaint(clip, tmp_path / "o.mp4", mask="center", preset=TINY, epochs=1, device="cpu")
    in_step(clip, tmp_path / "o.mp4")


def test_audio_can_be_left_out_of_an_inpainting(tmp_path: Path) -> None:
    clip = write_audio_clip(tmp_path / "a.mov", Tone("adpcm_ima_qt", 44_100, "mono"))
    options = {"mask": "center", "preset": TINY, "epochs": 1, "device": "cpu"}
    with pytest.raises(vinr.InputError, match=r"overrides=\['compress\.audio=false'\]$"):
        vinr.inpaint(clip, tmp_path / "o.mkv", **options)
    vinr.inpaint(clip, tmp_path / "o.mkv", **options, overrides=["compress.audio=false"])
    assert tracks_of(tmp_path / "o.mkv") == []


class Recorder(io.FileIO):
    """A file that remembers how much was read and written at a time."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self.read_sizes: list[int] = []
        self.written: list[int] = []

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(-1 if size is None else size) or b""
        self.read_sizes.append(len(piece))
        return piece

    def write(self, data: Any, /) -> int:
        self.written.append(len(data))
        return super().write(data) or 0


class Recorded(io.BytesIO):
    """Bytes in memory that remember how many were read at a time."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.read_sizes: list[int] = []

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(size)
        self.read_sizes.append(len(piece))
        return piece


def test_the_audio_of_an_encode_is_never_whole_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes through a file: from the input packet by packet, to the output piece by piece."""
    clip = write_audio_clip(tmp_path / "a.mkv", Tone("pcm_s16le"))
    with open_video(clip) as reader:
        audio = reader.audio()
    assert audio is not None
    assert len(audio.data) > 90_000
    (tmp_path / "out").mkdir()
    made: list[Recorder] = []

    def make(dir: Path) -> Recorder:
        assert dir == tmp_path / "out"
        made.append(Recorder(tmp_path / "sound"))
        return made[-1]

    monkeypatch.setattr("vinr.encoding.sound.tempfile.TemporaryFile", make)
    monkeypatch.setattr("vinr.bitstream.container.PIECE_BYTES", 8192)
    monkeypatch.setattr(VideoReader, "audio", lambda reader: pytest.fail("the whole audio was asked for"))
    vinr.encode(clip, tmp_path / "out" / "a.vinr", preset=TINY, epochs=1, device="cpu")
    (file,) = made
    assert file.closed
    assert max(file.read_sizes) == 8192
    assert max(file.written) < 40_000  # what libav collects
    with vinr.open(tmp_path / "out" / "a.vinr", device="cpu") as video:
        assert video.audio() == audio


@pytest.mark.parametrize("name", ["o.mkv", "o.mp4", "o.webm", "o.y4m"])
def test_the_audio_of_a_decode_is_never_whole_in_memory(
    name: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vinr.decode(file, tmp_path / name, device="cpu")
    monkeypatch.setattr(
        vinr.VideoDecoder, "audio", lambda video: pytest.fail("the whole audio was asked for")
    )
    monkeypatch.setattr("vinr.bitstream.container.PIECE_BYTES", 8192)
    with vinr.VinrFile.open(file, device="cpu") as opened:
        (section,) = [section for section in opened.sections if section.kind is SectionKind.AUDIO]
    recorded = Recorded(file.read_bytes())
    (tmp_path / "again").mkdir()
    vinr.decode(recorded, tmp_path / "again" / name, device="cpu")
    assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()
    assert section.num_bytes not in recorded.read_sizes
    assert sum(recorded.read_sizes) > section.num_bytes


def test_a_damaged_section_of_audio_is_refused_before_anything_is_written(file: Path, tmp_path: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # the audio stands last
    (tmp_path / "damaged.vinr").write_bytes(content)
    for name in ("o.mkv", "o.y4m"):
        with pytest.raises(vinr.BitstreamError, match="AUDIO 0 is damaged"):
            vinr.decode(tmp_path / "damaged.vinr", tmp_path / name, device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.vinr"]


def test_a_track_that_is_left_out_is_told_before_the_fit(tmp_path: Path) -> None:
    clip = write_audio_clip(tmp_path / "a.mp4", Tone("aac"))
    content = clip.read_bytes()
    place = content.rindex(b"stsd", 0, content.rindex(b"mp4a"))
    clip.write_bytes(content[:place] + b"free" + content[place + 4 :])
    options = {"preset": TINY, "epochs": 1, "device": "cpu"}
    events: list[Event] = []
    vinr.encode(clip, tmp_path / "a.vinr", **options, on_event=events.append)
    vinr.inpaint(clip, tmp_path / "a.mkv", mask="center", **options, on_event=events.append)
    notes = [event.text for event in events if isinstance(event, Noted)]
    assert notes.count(f"{clip}: audio track 1 is left out: its codec is unknown") == 2
    assert "audio track 1" in notes[0]
