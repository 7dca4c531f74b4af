"""Interlaced video: read as it is with a note, or as full frames, one for each, at the same times."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import av
import av.filter
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from video.video_clips import ONE_THREAD, write_clip
from vinr.errors import InputError, UsageError
from vinr.video.deinterlace import deinterlaced, interlaced, unmarked
from vinr.video.encoders import safe_options
from vinr.video.reading import ReadOptions
from vinr.video.source import open_video

HEIGHT, WIDTH, FRAMES = 48, 64, 8
DEINTERLACE = ReadOptions(deinterlace=True)
FIELDS = {"flags": "+ildct+ilme", "g": "4"}


def field(time: float) -> NDArray[np.uint8]:
    """A picture with a bar that moves by six columns in a frame's time."""
    gray_HW = np.full((HEIGHT, WIDTH), 60, dtype=np.uint8)
    left = round(6 * time)
    gray_HW[:, left : left + 14] = 200
    return gray_HW


def combed(index: int, *, bottom_first: bool = False) -> NDArray[np.uint8]:
    """A frame of two fields, the second half a frame later."""
    gray_HW = field(index + 0.5)
    first = int(bottom_first)
    gray_HW[first::2] = field(index)[first::2]
    return gray_HW


def marked(frame: av.VideoFrame, *, bottom_first: bool) -> av.VideoFrame:
    """Return a frame that says which field is the first: encoders ask it, and PyAV cannot set it."""
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25)
    )
    order = graph.add("setfield", "bff" if bottom_first else "tff")
    graph.link_nodes(source, order, graph.add("buffersink")).configure()
    graph.push(frame)
    return graph.vpull()


def write_fields(
    path: Path,
    num_frames: int = FRAMES,
    *,
    codec: str = "libx264",
    options: Mapping[str, str] = FIELDS,
    bottom_first: bool = False,
) -> Path:
    with av.open(str(path), "w") as output:
        chosen = safe_options(codec, {**ONE_THREAD, **options}, width=WIDTH)
        stream = output.add_stream(codec, rate=Fraction(25), options=chosen)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(num_frames):
            gray_HW = combed(index, bottom_first=bottom_first)
            frame = av.VideoFrame.from_ndarray(np.stack([gray_HW] * 3, axis=-1), format="rgb24")
            frame = frame.reformat(format="yuv420p")
            if options:
                frame = marked(frame, bottom_first=bottom_first)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def distance(rgb_CHW: Tensor, gray_HW: NDArray[np.uint8]) -> float:
    return float((rgb_CHW.double() - torch.from_numpy(gray_HW)).abs().mean())


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_fields_are_read_as_they_are_with_a_note(tmp_path: Path, codec: str) -> None:
    path = write_fields(tmp_path / "a.mkv", codec=codec)
    with open_video(path) as reader:
        assert reader.notes == (f"{path}: {interlaced()}",)
        assert distance(reader.read(2, 3).rgb_NCHW[0], combed(2)) < 6


def test_progressive_video_has_no_note(tmp_path: Path) -> None:
    with open_video(write_clip(tmp_path / "a.mp4", 3)) as reader:
        assert reader.notes == ()


def test_progressive_video_that_is_deinterlaced_has_one(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 3)
    with open_video(path, options=DEINTERLACE) as reader:
        assert reader.notes == (f"{path}: {unmarked()}",)


@pytest.mark.parametrize("bottom_first", [False, True])
@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_each_frame_becomes_a_full_one_at_its_time(tmp_path: Path, suffix: str, bottom_first: bool) -> None:
    path = write_fields(tmp_path / f"a{suffix}", bottom_first=bottom_first)
    with open_video(path) as plain, open_video(path, options=DEINTERLACE) as reader:
        assert (reader.spec, reader.timeline, reader.notes) == (plain.spec, plain.timeline, ())
        full_NCHW, combed_NCHW = reader.read().rgb_NCHW, plain.read().rgb_NCHW
    for index in range(1, FRAMES - 1):
        # What it shows is the first field, without the second in every other row.
        assert distance(full_NCHW[index], field(index)) < 4
        assert distance(combed_NCHW[index], field(index)) > 4


def test_frames_are_the_same_from_wherever_reading_begins(tmp_path: Path) -> None:
    path = write_fields(tmp_path / "a.mkv")
    with open_video(path, options=DEINTERLACE) as reader:
        all_NCHW = reader.read().rgb_NCHW
        for first in (0, 1, 3, 4, 5, FRAMES - 1):
            assert torch.equal(reader.read(first, first + 1).rgb_NCHW[0], all_NCHW[first])
    with open_video(path, frames=(3, 6), options=DEINTERLACE) as reader:
        assert torch.equal(reader.read().rgb_NCHW, all_NCHW[3:6])


@pytest.mark.parametrize("num_frames", [1, 2, 3])
def test_few_frames(tmp_path: Path, num_frames: int) -> None:
    path = write_fields(tmp_path / "a.mkv", num_frames)
    with open_video(path, options=DEINTERLACE) as reader:
        full_NCHW = reader.read().rgb_NCHW
    assert len(full_NCHW) == num_frames
    # A combed edge differs from the row above in most columns that move.
    rows_NCHW = full_NCHW.double()
    assert float((rows_NCHW[:, :, 1:] - rows_NCHW[:, :, :-1]).abs().mean()) < 3


def test_what_is_not_marked_is_deinterlaced_on_demand(tmp_path: Path) -> None:
    """Lossless codecs often carry fields without a word."""
    path = write_fields(tmp_path / "a.mkv", codec="ffv1", options={})
    with open_video(path) as reader:
        assert reader.notes == ()
    with open_video(path, options=DEINTERLACE) as reader:
        assert distance(reader.read(3, 4).rgb_NCHW[0], field(3)) < 4


def test_the_format_may_change_on_the_way() -> None:
    frames = []
    for index, name in enumerate(["yuv420p", "yuv420p", "yuv422p", "yuv422p", "gray"]):
        frame = av.VideoFrame.from_ndarray(np.stack([combed(index)] * 3, axis=-1), format="rgb24")
        frames.append(frame.reformat(format=name))
    full = list(deinterlaced(frames, None))
    assert [frame.format.name for frame in full] == [frame.format.name for frame in frames]


def test_deeper_and_turned_video(tmp_path: Path) -> None:
    one = 65536
    path = write_clip(
        tmp_path / "a.mp4",
        4,
        pixel_format="yuv420p10le",
        options={"x264-params": "tff=1"},
        display_matrix=(0, one, 0, -one, 0, 0, 0, 0, 1 << 30),
    )
    with open_video(path, options=DEINTERLACE) as reader:
        frames = reader.read()
        assert (frames.spec.height, frames.spec.width, frames.spec.bit_depth) == (64, 48, 10)
        assert frames.rgb_NCHW.dtype == torch.uint16


@pytest.mark.parametrize("size", [(2, 64), (48, 2)])
def test_frames_that_are_too_small_are_refused_in_a_line(tmp_path: Path, size: tuple[int, int]) -> None:
    path = write_clip(tmp_path / "a.mkv", 2, height=size[0], width=size[1], codec="ffv1", pixel_format="gray")
    with (
        open_video(path, options=DEINTERLACE) as reader,
        pytest.raises(InputError, match=rf"a\.mkv: frames of {size[0]}x{size[1]} .*cannot be deinterlaced: "),
    ):
        reader.read()


def test_folders_cannot_be_deinterlaced(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"")
    with pytest.raises(UsageError, match="deinterlace"):
        open_video(tmp_path, options=DEINTERLACE)
