"""What watches the frames of a stream while they pass: a clock, and a memory for a few crops."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from vinr.video.depth import with_depth
from vinr.video.spec import BitDepth, FrameBatch, FrameStream


@final
class StreamClock:
    """Adds up the ``seconds`` that watched streams take for their frames: the one clock of decoding speed."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def watch(self, stream: FrameStream) -> FrameStream:
        """Return the same stream; the clock runs while it makes a batch, not while that is used."""
        return FrameStream(stream.spec, self._timed(iter(stream)))

    def _timed(self, batches: Iterator[FrameBatch]) -> Iterator[FrameBatch]:
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            if batch is not None and batch.rgb_NCHW.is_cuda:
                torch.cuda.synchronize(batch.rgb_NCHW.device)  # what is only queued is not decoded yet
            self.seconds += time.perf_counter() - started
            if batch is None:
                return
            yield batch


def at_depth(stream: FrameStream, bit_depth: BitDepth) -> FrameStream:
    """Return the same stream with colours rounded to ``bit_depth``; planes are left out."""
    if stream.spec.bit_depth == bit_depth:
        return stream
    rounded = (FrameBatch(batch.index_N, with_depth(batch.rgb_NCHW, bit_depth)) for batch in stream)
    return FrameStream(replace(stream.spec, bit_depth=bit_depth), rounded)


@dataclass(frozen=True)
class CropWindow:
    """A rectangle of a frame: first row and column, rows and columns."""

    top: int
    left: int
    height: int
    width: int


@final
class CropKeeper:
    """Keeps ``window`` of the frames ``numbers`` as ``crops``, rgb_CHW by frame number."""

    def __init__(self, numbers: Sequence[int], window: CropWindow) -> None:
        self._numbers, self._window = frozenset(numbers), window
        self.crops: dict[int, Tensor] = {}

    def watch(self, stream: FrameStream) -> FrameStream:
        """Return the same stream; crops are taken while its frames pass."""
        return FrameStream(stream.spec, self._watched(stream))

    def _watched(self, stream: FrameStream) -> Iterator[FrameBatch]:
        rows = slice(self._window.top, self._window.top + self._window.height)
        columns = slice(self._window.left, self._window.left + self._window.width)
        for batch in stream:
            for place, number in enumerate(batch.index_N.tolist()):
                if number in self._numbers:
                    # A copy: a view would keep the whole frame in memory.
                    self.crops[number] = batch.rgb_NCHW[place, :, rows, columns].cpu().clone()
            yield batch
