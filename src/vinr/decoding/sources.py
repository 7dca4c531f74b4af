"""Frame sources around others: a clock, a decoder at full speed, a reader, a memory for a few crops.

Axes: N frames of a batch, C colour channels, H rows, W columns.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from vinr.decoding.decoder import VideoDecoder
from vinr.video.source import VideoReader
from vinr.video.spec import FrameSource


@final
class TimedSource:
    """A source whose time to give frames is added up: the one clock for all decoding speeds."""

    def __init__(self, source: FrameSource) -> None:
        self._source = source
        self.spec = source.spec
        self.seconds = 0.0

    def frames(self, index_N: Tensor) -> Tensor:
        """Return uint8 rgb_NCHW of the source."""
        started = time.perf_counter()
        rgb_NCHW = self._source.frames(index_N)
        if rgb_NCHW.is_cuda:
            torch.cuda.synchronize(rgb_NCHW.device)  # what was only queued has not been decoded
        self.seconds += time.perf_counter() - started
        return rgb_NCHW


@final
class PlayedSource:
    """A decoder as a frame source, for all its frames in order: decoded as for writing a video."""

    def __init__(self, decoder: VideoDecoder) -> None:
        self.spec = decoder.spec
        self._batches = decoder.play()
        self._rest_NCHW = torch.empty((0, 3, decoder.spec.height, decoder.spec.width), dtype=torch.uint8)

    def frames(self, index_N: Tensor) -> Tensor:
        """Return the next frames, as many as ``index_N`` has numbers: uint8 rgb_NCHW on the CPU."""
        while len(self._rest_NCHW) < len(index_N):
            self._rest_NCHW = torch.cat([self._rest_NCHW, next(self._batches)])
        rgb_NCHW, self._rest_NCHW = self._rest_NCHW[: len(index_N)], self._rest_NCHW[len(index_N) :]
        return rgb_NCHW


@final
class StreamedSource:
    """A reader as a frame source, for frames asked for in order: nothing but those is held."""

    def __init__(self, reader: VideoReader) -> None:
        self._reader = reader
        self.spec = reader.spec

    def frames(self, index_N: Tensor) -> Tensor:
        """Return uint8 rgb_NCHW; ``index_N`` must be consecutive."""
        return self._reader.read(int(index_N[0]), int(index_N[-1]) + 1).rgb_NCHW


@dataclass(frozen=True)
class CropWindow:
    """A rectangle of a frame: first row and column, rows and columns."""

    top: int
    left: int
    height: int
    width: int


@final
class CropKeeper:
    """A source that keeps ``window`` of the frames ``wanted`` while they pass: ``crops`` by frame number."""

    def __init__(self, source: FrameSource, wanted: Sequence[int], window: CropWindow) -> None:
        self._source = source
        self._wanted = frozenset(wanted)
        self._window = window
        self.spec = source.spec
        self.crops: dict[int, Tensor] = {}

    def frames(self, index_N: Tensor) -> Tensor:
        """Return uint8 rgb_NCHW of the source."""
        rgb_NCHW = self._source.frames(index_N)
        rows = slice(self._window.top, self._window.top + self._window.height)
        columns = slice(self._window.left, self._window.left + self._window.width)
        for place, index in enumerate(index_N.tolist()):
            if index in self._wanted:
                self.crops[index] = rgb_NCHW[place, :, rows, columns].cpu().clone()
        return rgb_NCHW
