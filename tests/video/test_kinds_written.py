"""What a decode can write beside mp4 and Matroska: mov, WebM, GIF; how coarse codecs are; what is said."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch
from PIL import Image

from clips import moving_shapes
from command_line import Run, refused
from video.audio_clips import Tone, write_audio_clip
from vinr.errors import UsageError
from vinr.quality.clip import compare
from vinr.video.mux import CODECS
from vinr.video.sink import open_sink, size_of_output
from vinr.video.source import open_video
from vinr.video.spec import Ticks, Timeline

CLIP = moving_shapes(num_frames=6, height=48, width=64)


def write(path: Path, timeline: Timeline | None = None, **options: object) -> tuple[str, tuple[str, ...]]:
    """Write the clip; return what was written, and the notes."""
    timeline = timeline or Timeline(6, Fraction(25))
    with open_sink(str(path), CLIP.spec, timeline, force=True, **options) as sink:  # type: ignore[arg-type]
        sink.write(CLIP.frames(torch.arange(6)))
    return sink.written, sink.notes


@pytest.mark.parametrize(
    ("name", "codec", "written", "format_name", "stored"),
    [
        ("a.mov", None, "x264 at CRF 18", "mov", "h264"),
        ("a.mov", "x265", "x265 at CRF 18", "mov", "hevc"),
        ("a.webm", None, "vp9 at CRF 24", "webm", "vp9"),
        ("a.webm", "av1", "av1 at CRF 24", "webm", "av1"),
        ("a.mp4", "vp9", "vp9 at CRF 24", "mp4", "vp9"),
        ("a.mkv", "ffv1", "ffv1", "matroska", "ffv1"),
    ],
)
def test_names_say_the_kind(
    name: str, codec: str | None, written: str, format_name: str, stored: str, tmp_path: Path
) -> None:
    said, notes = write(tmp_path / name, codec=codec)
    assert (said, notes) == (written, ())
    with av.open(str(tmp_path / name)) as container:
        assert format_name in container.format.name
        assert "av1" in container.streams.video[0].codec.name or stored in (
            container.streams.video[0].codec.canonical_name
        )
    with open_video(tmp_path / name) as reader:
        assert (reader.spec.num_frames, reader.spec.fps) == (6, 25)
        assert compare(reader.read(), CLIP).psnr_db > 30


@pytest.mark.parametrize("name", ["a.mov", "a.webm"])
def test_uneven_times_are_kept(name: str, tmp_path: Path) -> None:
    pts = Ticks([0, 40, 120, 160, 300, 340])
    timeline = Timeline(6, Fraction(25), pts=pts, time_base=Fraction(1, 1000))
    write(tmp_path / name, timeline)
    with open_video(tmp_path / name) as reader:
        found = [reader.timeline.seconds(index) for index in range(6)]
    assert [float(time) for time in found] == pytest.approx([0, 0.04, 0.12, 0.16, 0.3, 0.34], abs=1e-3)


@pytest.mark.parametrize("codec", ["x264", "x265", "av1", "vp9"])
def test_a_crf_is_how_coarse_a_codec_is(codec: str, tmp_path: Path) -> None:
    fine, coarse = tmp_path / "fine.mkv", tmp_path / "coarse.mkv"
    write(fine, codec=codec, crf=5)
    write(coarse, codec=codec, crf=45)
    assert fine.stat().st_size > 1.2 * coarse.stat().st_size
    most = CODECS[codec].crf
    assert most is not None
    with pytest.raises(
        UsageError, match=rf"crf=64: {codec} takes 0 \(best\) to {most[1]}, usually {most[0]}"
    ):
        write(tmp_path / "a.mkv", codec=codec, crf=64)


def test_a_crf_without_effect_is_said_or_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="crf=20 has no effect: ffv1 loses nothing"):
        write(tmp_path / "a.mkv", codec="ffv1", crf=20)
    notes = write(tmp_path / "a.y4m", crf=20)[1]
    assert notes == ("crf 20 has no effect: y4m has none; write .mkv or .mp4 for it",)


def test_webm_holds_no_other_audio_than_its_own(tmp_path: Path) -> None:
    source = write_audio_clip(tmp_path / "a.mkv", Tone("aac", 48_000, "mono"))
    with open_video(source) as reader:
        audio = reader.audio()
    assert write(tmp_path / "a.webm", audio=audio)[1] == (
        "the audio is left out: .webm holds Opus and Vorbis alone; .mkv keeps it",
    )
    assert write(tmp_path / "a.mov", audio=audio)[1] == ()
    with av.open(str(tmp_path / "a.mov")) as container:
        assert container.streams.audio


def test_a_gif_moves_in_time(tmp_path: Path) -> None:
    """Frames of 1/24 s are 4.17 hundredths: rounding must not add up."""
    said, notes = write(tmp_path / "a.gif", Timeline(6, Fraction(24)))
    assert said == "GIF"
    assert notes[0].endswith("a GIF has 256 colours per frame, and no audio; .mp4 has all")
    with Image.open(tmp_path / "a.gif") as image:
        assert (image.n_frames, image.size) == (6, (64, 48))  # type: ignore[attr-defined]
        shown = []
        for number in range(6):
            image.seek(number)
            shown.append(image.info["duration"])
    assert sum(shown) == 250
    assert {*shown} == {40, 50}
    with open_video(tmp_path / "a.gif") as reader:
        assert compare(reader.read(), CLIP).psnr_db > 25


def test_a_gif_that_is_too_fast_says_so(tmp_path: Path) -> None:
    notes = write(tmp_path / "a.gif", Timeline(6, Fraction(100)))[1]
    assert "at most 50 frames per second" in notes[1]


def test_sizes_of_outputs(tmp_path: Path) -> None:
    write(tmp_path / "frames")
    images = list((tmp_path / "frames").iterdir())
    assert size_of_output(str(tmp_path / "frames")) == sum(image.stat().st_size for image in images) > 0
    assert size_of_output("-") is None
    assert size_of_output(str(tmp_path / "f_%04d.png")) is None


def test_the_command_says_what_it_wrote(run: Run, tiny_file: Path, tmp_path: Path) -> None:
    status, out, err = run("decode", tiny_file, tmp_path / "a.mp4", "--crf", 23, "--device", "cpu")
    assert (status, out) == (0, "")
    size = (tmp_path / "a.mp4").stat().st_size
    assert err.strip().splitlines()[-1] == (
        f"wrote {tmp_path / 'a.mp4'}: 8 frames, x264 at CRF 23, {size:,} bytes"
    )
    refused(run("decode", tiny_file, tmp_path / "b.mp4", "--crf", 60), "--crf 60: x264 takes 0 (best) to 51")
    refused(run("decode", tiny_file, tmp_path / "b.avi"), ".mp4, .mov, .mkv, .webm, .gif, .y4m")
