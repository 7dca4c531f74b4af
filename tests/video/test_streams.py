"""Frames in order: batches of any size, numbers, planes, and a comparison of two streams."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from clips import MemoryClip, moving_shapes
from vinr.errors import InputError, UsageError
from vinr.quality import compare
from vinr.video.source import open_video
from vinr.video.spec import FrameBatch, FrameSource, FrameStream

NUM_FRAMES = 7


@pytest.fixture(scope="module")
def clip() -> MemoryClip:
    return moving_shapes(num_frames=NUM_FRAMES, height=8, width=10)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 9])
def test_a_source_becomes_a_stream_and_batches_of_any_size(clip: MemoryClip, size: int) -> None:
    for stream in (FrameStream.of(clip, batch_size=size), FrameStream.of(clip, batch_size=3).batched(size)):
        batches = list(stream)
        assert all(len(batch) == size for batch in batches[:-1])
        whole = FrameBatch.join(batches)
        assert whole.index_N.tolist() == list(range(NUM_FRAMES))
        assert torch.equal(whole.rgb_NCHW, clip.rgb_NCHW)


def test_tensors_are_counted(clip: MemoryClip) -> None:
    parts = clip.rgb_NCHW.split([1, 4, 2])
    numbers = [batch.index_N.tolist() for batch in FrameStream.numbered(clip.spec, parts)]
    assert numbers == [[0], [1, 2, 3, 4], [5, 6]]


def test_a_stream_is_read_once(clip: MemoryClip) -> None:
    stream = FrameStream.of(clip)
    assert len(list(stream)) == 2
    assert list(stream) == []


def test_planes_go_with_their_frames(clip: MemoryClip) -> None:
    def with_planes() -> Iterator[FrameBatch]:
        for batch in FrameStream.of(clip, batch_size=1):
            plane = np.full((8, 10), int(batch.index_N[0]), dtype=np.uint8)
            yield FrameBatch(batch.index_N, batch.rgb_NCHW, ((plane,),))

    *_, last = FrameStream(clip.spec, with_planes()).batched(4)
    assert last.planes is not None
    assert [int(planes[0][0, 0]) for planes in last.planes] == [4, 5, 6]
    without = FrameBatch(last.index_N, last.rgb_NCHW)
    assert FrameBatch.join([last, without]).planes is None
    with pytest.raises(ValueError, match="one set of planes per frame"):
        FrameBatch(last.index_N, last.rgb_NCHW, last.planes[:1])


def test_two_streams_are_compared_whatever_their_batches(clip: MemoryClip) -> None:
    worse = MemoryClip((clip.rgb_NCHW.int() - 3).clamp(0, 255).to(torch.uint8))
    of_sources = compare(worse, clip)
    seen: list[tuple[int, int]] = []
    of_streams = compare(
        FrameStream.numbered(worse.spec, worse.rgb_NCHW.split(1)),
        FrameStream.of(clip, batch_size=5),
        on_frame=lambda done, total: seen.append((done, total)),
    )
    assert of_streams == of_sources
    assert seen == [(done, NUM_FRAMES) for done in range(1, NUM_FRAMES + 1)]


@pytest.mark.parametrize("count", [0, 3, 4, 6])
def test_a_stream_that_ends_early_is_noticed(clip: MemoryClip, count: int) -> None:
    short = FrameStream.numbered(clip.spec, clip.rgb_NCHW[:count].split(1))
    with pytest.raises(InputError, match=r"a stream ends after . of 7 frames"):
        compare(short, clip)


@pytest.mark.parametrize(
    "numbers", [[6, 5, 4, 3, 2, 1, 0], [0, 1, 2, 3, 0, 1, 2], [1, 2, 3, 4, 5, 6, 7]], ids=str
)
def test_frames_out_of_order_are_refused(clip: MemoryClip, numbers: list[int]) -> None:
    def stream() -> FrameStream:
        rgb_NCHW = clip.rgb_NCHW[torch.tensor(numbers) % NUM_FRAMES]
        return FrameStream(clip.spec, [FrameBatch(torch.tensor(numbers), rgb_NCHW)])

    for pair in ((stream(), clip), (clip, stream()), (stream(), stream())):
        with pytest.raises(InputError, match=r"a stream yields frames .* were due"):
            compare(*pair)


def test_frames_of_another_size_than_announced_are_refused(clip: MemoryClip) -> None:
    def smaller() -> FrameStream:
        return FrameStream.numbered(clip.spec, [clip.rgb_NCHW[..., :-1, :]])

    for pair in ((smaller(), smaller()), (clip, smaller())):
        with pytest.raises(InputError, match="announced were frames of"):
            compare(*pair)


def test_what_is_no_stream_batch_or_size_is_refused(clip: MemoryClip) -> None:
    for size in (0, -1):
        with pytest.raises(UsageError, match="give at least 1"):
            FrameStream.of(clip, batch_size=size)
        with pytest.raises(UsageError, match="give at least 1"):
            compare(clip, clip, batch_size=size)
    with pytest.raises(TypeError, match="a FrameStream or a FrameSource, not str"):
        compare("in.mp4", clip)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="frame numbers must be int64"):
        FrameBatch(torch.zeros(NUM_FRAMES), clip.rgb_NCHW)


def test_a_reader_is_a_source_in_any_order(tiny_video: Path) -> None:
    with open_video(tiny_video) as reader:
        assert isinstance(reader, FrameSource)
        whole = FrameBatch.join(list(FrameStream.of(reader, batch_size=3))).rgb_NCHW
        for numbers in ([5, 6, 7], [7, 0, 3, 3], [0]):
            assert torch.equal(reader.frames(torch.tensor(numbers)), whole[numbers])
        with pytest.raises(IndexError, match="frames 8:9 of 8"):
            reader.frames(torch.tensor([8]))
