"""What players show besides the samples: tags, pixel aspect, HDR metadata, fields; from file to file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from video.video_clips import tags_in, write_clip
from vinr.video.sink import open_sink
from vinr.video.source import open_video
from vinr.video.spec import ColorTags

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


def copy(source: Path, target: Path, codec: str = "x264") -> tuple[str, ...]:
    """Read a video and write its frames, as a decoder writes those of a file; return the notes."""
    with (
        open_video(source) as reader,
        open_sink(str(target), reader.spec, reader.timeline, codec=codec) as sink,
    ):
        sink.write(reader.read().rgb_NCHW)
        return reader.notes


@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
@pytest.mark.parametrize(("name", "codec"), OUTPUTS)
def test_tags_are_those_of_the_input(tmp_path: Path, name: str, codec: str, tags: ColorTags) -> None:
    source = write_clip(tmp_path / "in.mkv", 2, pixel_format="yuv420p", tags=tags)
    assert tags_in(source) == tags
    copy(source, tmp_path / name, codec)
    # H.265 and AV1 always state a range, and untagged is limited.
    expected = tags if codec == "x264" else replace(tags, range=tags.range or 1)
    assert tags_in(tmp_path / name) == expected


def test_rgb_outputs_have_no_matrix(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mkv", 2, tags=ColorTags(9, 1, 9, 1))
    copy(source, tmp_path / "a.mkv", "ffv1")
    assert tags_in(tmp_path / "a.mkv") == ColorTags(9, 1, 2, 2)


@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
def test_samples_come_back_whatever_the_tags(tmp_path: Path, tags: ColorTags) -> None:
    """They are converted back with the matrix and range that they were read with."""
    source = write_clip(tmp_path / "in.mkv", 2, options={"crf": "4"}, tags=tags)
    copy(source, tmp_path / "a.mkv")
    before, after = samples(source), samples(tmp_path / "a.mkv")
    assert np.abs(after - before).mean() < 1.2


def samples(path: Path) -> NDArray[np.float64]:
    """Y'CbCr of all frames."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray() for frame in container.decode(video=0)]).astype(np.float64)
