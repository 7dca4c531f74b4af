"""Full frames of interlaced ones, whose even and odd rows are two fields, taken one after the other.

::

    rows 0 2 4 …  first field ─── kept ──────────────────────────────────────┐
    rows 1 3 5 …  second field ── replaced, from the rows and frames around ─┴─> frame, at the same time

libav's filter bwdif does it; it looks at one frame before and one after.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from itertools import groupby
from typing import Final, Self

import av
from av.filter import Graph
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from vinr.errors import InputError, argument
from vinr.video.libav import explain

# A frame depends on so many before it.
FRAMES_BEFORE: Final = 1
INTERLACED: Final = "interlaced: each frame is two pictures, which show as combs where something moves; "


def interlaced() -> str:
    """Return the note on interlaced video that is read as it is."""
    return f"{INTERLACED}{argument('deinterlace', True)} makes full frames of them"


def unmarked() -> str:
    """Return the note on video that is deinterlaced although nothing says that it is interlaced."""
    flag = argument("deinterlace", True)
    return f"nothing says that it is interlaced; if it is not, {flag} takes detail from it: leave it out"


class FieldOrder(IntEnum):
    """libav's numbers: which field is stored first, and which is shown first."""

    TOP = 2
    BOTTOM = 3
    TOP_SHOWN_LAST = 4
    BOTTOM_SHOWN_LAST = 5


@dataclass(frozen=True)
class Fields:
    """How a video is interlaced: whether its frames say so themselves, and else in which order of fields."""

    is_marked: bool
    is_bottom_first: bool = False

    @classmethod
    def of(cls, frame: VideoFrame, codec: VideoCodecContext) -> Self | None:
        """Return the fields of a video that begins with ``frame``; ``None`` if it is not interlaced."""
        if frame.interlaced_frame:
            return cls(is_marked=True)
        if codec.field_order in list(FieldOrder):
            shown_first = (FieldOrder.BOTTOM, FieldOrder.TOP_SHOWN_LAST)
            return cls(is_marked=False, is_bottom_first=codec.field_order in shown_first)
        return None


def deinterlaced(
    frames: Iterable[VideoFrame], fields: Fields | None, *, label: str = "video"
) -> Iterator[VideoFrame]:
    """Yield a full frame for each of ``frames``; the first ``FRAMES_BEFORE`` lack what was before them.

    ``label`` names the video in errors. If frames are marked, those that are not are left as they are. Frames
    of a video without fields are taken to have the upper one first.

    Raises
    ------
    InputError
        If frames are too small, or of a format that the filter cannot take.
    """
    for _, group in groupby(frames, key=lambda frame: frame.format.name):
        yield from _of_one_format(group, fields or Fields(is_marked=False), label)


def _of_one_format(frames: Iterator[VideoFrame], fields: Fields, label: str) -> Iterator[VideoFrame]:
    first = next(frames)
    graph = Graph()
    graph.threads = 1  # a process that is forked meanwhile has no threads to wait for
    source = graph.add_buffer(
        width=first.width, height=first.height, format=first.format, time_base=first.time_base or Fraction(1)
    )
    which = "interlaced" if fields.is_marked else "all"
    parity = "auto" if fields.is_marked else "bff" if fields.is_bottom_first else "tff"
    filter_ = graph.add("bwdif", f"mode=send_frame:parity={parity}:deint={which}")
    graph.link_nodes(source, filter_, graph.add("buffersink"))
    try:
        graph.configure()
    except av.FFmpegError as error:
        kind = f"frames of {first.height}x{first.width} ({first.format.name})"
        raise InputError(f"{label}: {kind} cannot be deinterlaced: {explain(error)}") from error
    graph.push(first)
    is_alone = True
    for frame in frames:
        is_alone = False
        graph.push(frame)
        yield from _ready(graph)
    # Without another frame the filter passes a frame as it is.
    graph.push(first if is_alone else None)
    yield from _ready(graph)


def _ready(graph: Graph) -> Iterator[VideoFrame]:
    while True:
        try:
            yield graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
