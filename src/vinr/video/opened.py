"""One video stream of one file, to be opened as often as it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from av.container import InputContainer
from av.video.stream import VideoStream


@dataclass(frozen=True)
class VideoFile:
    """How a video stream is opened: ``number`` is its place among the video streams of the file."""

    path: Path
    open: Callable[[], InputContainer]
    number: int

    def stream(self, container: InputContainer) -> VideoStream:
        """Return the stream in a ``container`` that :attr:`open` has opened."""
        return container.streams.video[self.number]
