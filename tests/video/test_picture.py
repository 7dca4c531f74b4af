"""What players show besides the samples: tags, pixel aspect, HDR metadata, fields; from file to file."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from video.video_clips import copy_frames, pictures, spec_of, tags_in, write_clip
from vinr.video.aspect import round_aspect
from vinr.video.color import MATRIX_OF_TAG
from vinr.video.sink import open_sink
from vinr.video.source import open_video
from vinr.video.spec import ColorSpec, ColorTags, VideoSpec
from vinr.video.tag_names import PRIMARIES, TRANSFERS, describe_tags

OUTPUTS = [(f"a{suffix}", codec) for suffix in (".mkv", ".mp4") for codec in ("x264", "x265", "av1")]
UNTAGGED = ColorTags()
TAGS = {
    "untagged": UNTAGGED,
    "range alone": ColorTags(range=2),
    "all different": ColorTags(primaries=5, transfer=1, matrix=6, range=1),
    "bt709": ColorTags(1, 1, 1, 1),
    "hlg": ColorTags(9, 18, 9, 1),
    "p3, full": ColorTags(12, 13, 5, 2),
    "film": ColorTags(8, 4, 7, 1),
    "fcc": ColorTags(4, 4, 4, 2),
}


@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
@pytest.mark.parametrize(("name", "codec"), OUTPUTS)
def test_tags_are_those_of_the_input(tmp_path: Path, name: str, codec: str, tags: ColorTags) -> None:
    source = write_clip(tmp_path / "in.mkv", 2, pixel_format="yuv420p", tags=tags)
    assert tags_in(source) == tags
    copy_frames(source, tmp_path / name, codec)
    # H.265 and AV1 always state a range, and untagged is limited.
    expected = tags if codec == "x264" else replace(tags, range=tags.range or 1)
    assert tags_in(tmp_path / name) == expected


@pytest.mark.parametrize(("name", "codec"), OUTPUTS)
def test_tags_without_meaning_are_not_written(tmp_path: Path, name: str, codec: str) -> None:
    """Such as a file may hold that was made to do harm."""
    spec, timeline = spec_of(pictures(1), color=ColorSpec(tags=ColorTags(255, 255, 255, 2)))
    with open_sink(str(tmp_path / name), spec, timeline, codec=codec) as sink:
        sink.write(pictures(1))
    assert tags_in(tmp_path / name) == ColorTags(range=2)


def test_every_tag_can_be_written_or_is_named(tmp_path: Path) -> None:
    """Of those that are read; x265 does not know EBU 3213."""
    combined = [ColorTags(primaries=number, range=2) for number in PRIMARIES]
    combined += [ColorTags(transfer=number, range=2) for number in TRANSFERS]
    combined += [ColorTags(matrix=number, range=2) for number in MATRIX_OF_TAG]
    for codec in ("x264", "x265", "av1"):
        for tags in combined:
            spec, timeline = spec_of(pictures(1, 32, 32), color=ColorSpec("bt601", "full", tags=tags))
            with open_sink(str(tmp_path / "a.mkv"), spec, timeline, codec=codec, force=True) as sink:
                sink.write(pictures(1, 32, 32))
            if codec == "x265" and tags.primaries == 22:
                assert sink.notes == ("x265 cannot state primaries EBU 3213: they are left out",)
                assert tags_in(tmp_path / "a.mkv") == ColorTags(range=2)
            else:
                assert (sink.notes, tags_in(tmp_path / "a.mkv")) == ((), tags)


def test_rgb_outputs_have_no_matrix(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mkv", 2, tags=ColorTags(9, 1, 9, 1))
    copy_frames(source, tmp_path / "a.mkv", "ffv1")
    assert tags_in(tmp_path / "a.mkv") == ColorTags(9, 1, 2, 2)


@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
def test_samples_come_back_whatever_the_tags(tmp_path: Path, tags: ColorTags) -> None:
    """They are converted back with the matrix and range that they were read with."""
    source = write_clip(tmp_path / "in.mkv", 2, options={"crf": "4"}, tags=tags)
    copy_frames(source, tmp_path / "a.mkv")
    before, after = samples(source), samples(tmp_path / "a.mkv")
    assert np.abs(after - before).mean() < 1.2


def samples(path: Path) -> NDArray[np.float64]:
    """Y'CbCr of all frames."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray() for frame in container.decode(video=0)]).astype(np.float64)


# -- pixel aspect --------------------------------------------------------------------------------------------


ASPECT = Fraction(16, 11)


def aspect_in(path: Path) -> Fraction:
    """Return the pixel aspect of a file before anything is decoded; 1 where it states none."""
    with av.open(str(path)) as container:
        return container.streams.video[0].sample_aspect_ratio or Fraction(1)


@pytest.mark.parametrize(
    ("name", "codec"),
    [*OUTPUTS, ("a.mkv", "ffv1"), ("a.y4m", "")],
)
def test_pixel_aspect_is_kept(tmp_path: Path, name: str, codec: str) -> None:
    source = write_clip(tmp_path / "in.mp4", 2, pixel_aspect=ASPECT)
    assert copy_frames(source, tmp_path / name, codec) == ()
    assert aspect_in(tmp_path / name) == ASPECT
    with open_video(tmp_path / name) as reader:
        assert reader.spec.pixel_aspect == ASPECT


def test_square_pixels_are_not_mentioned(tmp_path: Path) -> None:
    with open_video(write_clip(tmp_path / "in.mp4", 2)) as reader:
        assert reader.spec.pixel_aspect == 1
    copy_frames(tmp_path / "in.mp4", tmp_path / "a.mkv")
    with av.open(str(tmp_path / "a.mkv")) as container:
        assert container.streams.video[0].codec_context.sample_aspect_ratio in (None, 0, 1)


def test_pixel_aspect_of_a_turned_video_is_turned(tmp_path: Path) -> None:
    one = 65536
    matrix = (0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
    source = write_clip(tmp_path / "in.mp4", 2, pixel_aspect=ASPECT, display_matrix=matrix)
    with open_video(source) as reader:
        assert (reader.spec.height, reader.spec.width) == (64, 48)
        assert reader.spec.pixel_aspect == 1 / ASPECT


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        ({"crop": (32, 40)}, ASPECT),
        ({"resize": (24, 32)}, ASPECT),
        ({"resize": (48, 32)}, 2 * ASPECT),
        ({"resize": (24, 64)}, ASPECT / 2),
        # 40 columns become 30 and 32 rows 30: 4/3 over 16/15
        ({"crop": (32, 40), "resize": (30, 30)}, ASPECT * Fraction(5, 4)),
    ],
)
def test_what_is_shown_keeps_its_shape(
    tmp_path: Path, edit: dict[str, tuple[int, int]], expected: Fraction
) -> None:
    source = write_clip(tmp_path / "in.mp4", 2, pixel_aspect=ASPECT)
    with open_video(source, **edit) as reader:  # type: ignore[arg-type]
        assert reader.spec.pixel_aspect == expected


def test_absurd_pixel_aspects_are_not_believed(tmp_path: Path) -> None:
    source = tmp_path / "in.y4m"
    source.write_bytes(b"YUV4MPEG2 W2 H2 F25:1 Ip A1:100 C444\n" + 2 * (b"FRAME\n" + bytes(12)))
    with open_video(source) as reader:
        assert reader.spec.pixel_aspect == 1
        assert reader.notes == (f"{source}: pixels 1/100 times as wide as high are taken as square",)


def test_images_have_square_pixels_and_that_is_said(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", 2, pixel_aspect=ASPECT)
    with (
        open_video(source) as reader,
        open_sink(str(tmp_path / "images"), reader.spec, reader.timeline) as sink,
    ):
        (note,) = sink.notes
        assert note.startswith("pixels are 16/11 times as wide as high, but viewers of PNG")
        sink.write(reader.read().rgb_NCHW)


def test_alpha_that_is_stored_beside_the_frames_is_left_out(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.webm", 2, codec="libvpx-vp9", pixel_format="yuva420p")
    with open_video(path) as reader:
        (note,) = reader.notes
    assert note.startswith(f"{path}: its transparency is left out")


@given(st.fractions(Fraction(1, 64), 64))
def test_stored_aspects_fit_in_16_bits(aspect: Fraction) -> None:
    rounded = round_aspect(aspect)
    assert max(rounded.numerator, rounded.denominator) < 2**16
    assert abs(rounded / aspect - 1) < Fraction(1, 500)
    assert VideoSpec(1, 1, 1, pixel_aspect=rounded).pixel_aspect == rounded


# -- what cannot be kept is said -----------------------------------------------------------------------------


def test_y4m_has_no_tags_and_that_is_said_where_it_shows(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "hlg.mkv", 1, tags=TAGS["hlg"])
    (note,) = copy_frames(source, tmp_path / "a.y4m")
    assert (
        note == "y4m cannot state BT.2020, HLG colours, and players show wrong ones; .mkv and .mp4 keep them"
    )
    plain = write_clip(tmp_path / "plain.mkv", 1, tags=TAGS["bt709"])
    assert copy_frames(plain, tmp_path / "b.y4m") == ()


def test_y4m_has_no_times_and_that_is_said(tmp_path: Path) -> None:
    uneven = write_clip(tmp_path / "a.mkv", 3, pts=[0, 1, 5])
    (note,) = copy_frames(uneven, tmp_path / "a.y4m")
    assert (
        note
        == "y4m has no times: all frames are shown at 10 frames per second; .mkv and .mp4 keep their times"
    )


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le"])
def test_images_state_unusual_colours(tmp_path: Path, pixel_format: str) -> None:
    for name, stated in (("hlg", (9, 18)), ("bt709", (2, 2)), ("untagged", (2, 2))):
        source = write_clip(tmp_path / f"{name}.mkv", 1, pixel_format=pixel_format, tags=TAGS[name])
        assert copy_frames(source, tmp_path / name) == ()
        with av.open(str(tmp_path / name / "frame_00000.png")) as container:
            frame = next(container.decode(video=0))
        assert (frame.color_primaries, frame.color_trc) == stated


def test_tags_have_names() -> None:
    assert describe_tags(ColorTags()) == ""
    stated = "primaries BT.2020, transfer PQ, matrix BT.2020, range limited"
    assert describe_tags(ColorTags(9, 16, 9, 1)) == stated
    assert describe_tags(ColorTags(99, 99, 99, 2)) == "range full"
