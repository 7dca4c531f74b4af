"""Writing in a thread: the same output, errors that come through, nothing left when something fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from video.video_clips import decoded, pictures, spec_of
from vinr.errors import OutputError
from vinr.video import sink as sink_module
from vinr.video.color import ColorConverter
from vinr.video.sink import QUEUE_LENGTH, Sink, open_sink, written_behind

NUM_FRAMES = 12


class Recorder(Sink):
    """Notes frames and threads; fails at frame ``fails_at``; waits at each frame while ``gate`` is closed."""

    def __init__(self, fails_at: int = -1, *, open_gate: bool = True) -> None:
        super().__init__(*spec_of(pictures(NUM_FRAMES, 8, 8)))
        self.fails_at = fails_at
        self.gate = threading.Event()
        self.taken: list[int] = []
        self.threads: set[int] = set()
        if open_gate:
            self.gate.set()

    def _put(self, rgb_HWC: NDArray[np.uint8], index: int) -> None:
        self.gate.wait(timeout=60)
        self.threads.add(threading.get_ident())
        if index == self.fails_at:
            raise OutputError("the disk is full")
        self.taken.append(index)

    def _finish(self) -> None:
        """Nothing is held back."""


@pytest.fixture(autouse=True)
def _threads_end() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vinr-writer")]


def write_frames(sink: Sink, count: int = NUM_FRAMES, *, then: BaseException | None = None) -> None:
    with written_behind(sink) as write:
        for _ in range(count):
            write(torch.zeros(1, 3, sink.spec.height, sink.spec.width, dtype=torch.uint8))
        if then is not None:
            raise then


@pytest.mark.parametrize(("name", "codec"), [("a.y4m", "x264"), ("a.mkv", "ffv1")])
def test_output_is_that_of_writing_at_once(tmp_path: Path, name: str, codec: str) -> None:
    rgb_NCHW = pictures(NUM_FRAMES, 32, 48)
    once, behind = tmp_path / f"once-{name}", tmp_path / f"behind-{name}"
    with open_sink(str(once), *spec_of(rgb_NCHW), codec=codec) as sink:
        sink.write(rgb_NCHW)
    with (
        open_sink(str(behind), *spec_of(rgb_NCHW), codec=codec) as sink,
        written_behind(sink) as write,
    ):
        for part in rgb_NCHW.split([1, 4, 2, 5]):
            write(part)
    if name.endswith("y4m"):
        assert behind.read_bytes() == once.read_bytes()
    else:  # lossless; Matroska draws a number for each file
        expected_NHWC = rgb_NCHW.permute(0, 2, 3, 1).numpy()
        assert np.array_equal(decoded(once), expected_NHWC)
        assert np.array_equal(decoded(behind), expected_NHWC)


def test_frames_are_written_in_order_by_one_other_thread() -> None:
    sink = Recorder()
    write_frames(sink)
    assert sink.taken == list(range(NUM_FRAMES))
    assert len(sink.threads) == 1
    assert threading.get_ident() not in sink.threads


def test_few_frames_wait() -> None:
    sink = Recorder(open_gate=False)
    offered = []

    def offer() -> None:
        with written_behind(sink) as write:
            for number in range(NUM_FRAMES):
                write(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
                offered.append(number)

    thread = threading.Thread(target=offer)
    thread.start()
    while len(offered) < QUEUE_LENGTH:
        thread.join(timeout=0.01)
    thread.join(timeout=0.1)
    assert len(offered) == QUEUE_LENGTH
    sink.gate.set()
    thread.join(timeout=60)
    assert sink.taken == list(range(NUM_FRAMES))


@pytest.mark.parametrize("fails_at", [0, 5, NUM_FRAMES - 1])
def test_an_error_of_writing_comes_through_and_nothing_follows_it(fails_at: int) -> None:
    sink = Recorder(fails_at)
    with pytest.raises(OutputError, match="the disk is full"):
        write_frames(sink)
    assert sink.taken == list(range(fails_at))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("stop")], ids=str)
def test_an_error_of_the_body_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    spec, timeline = spec_of(pictures(NUM_FRAMES, 32, 48))
    with pytest.raises(type(error)), open_sink(str(tmp_path / "a.y4m"), spec, timeline) as sink:
        write_frames(sink, 3, then=error)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_file_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object, rgb_HWC: object, pixel_format: str) -> None:
        raise OutputError("the disk is full")

    monkeypatch.setattr(ColorConverter, "from_rgb", full)
    spec, timeline = spec_of(pictures(NUM_FRAMES, 32, 48))
    with (
        pytest.raises(OutputError, match="the disk is full"),
        open_sink(str(tmp_path / "a.y4m"), spec, timeline) as sink,
    ):
        write_frames(sink)
    assert list(tmp_path.iterdir()) == []


def test_frames_that_wait_are_dropped_when_the_body_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Recorder(open_gate=False)

    class OpensWhenDropped(ThreadPoolExecutor):
        """Lets the frame that is being written go on once those behind it have been dropped."""

        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            sink.gate.set()
            super().shutdown(wait=wait)

    monkeypatch.setattr(sink_module, "ThreadPoolExecutor", OpensWhenDropped)
    with pytest.raises(ValueError, match="stop"):
        write_frames(sink, QUEUE_LENGTH, then=ValueError("stop"))
    assert len(sink.taken) <= 1
