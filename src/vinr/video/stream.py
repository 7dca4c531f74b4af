"""The video stream of a file that libav can open: counted first, then decoded from any frame on.

::

    open ── demux every packet (no decoding) ──> count, timestamps, keyframes
         └─ decode one frame ──────────────────> size as shown, colour, rotation
    decode(first) ── seek to the keyframe before (else from the start) ──> frames first, first + 1, …

Axes: H rows, W columns, C colour channels.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Final, cast

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vinr.errors import InputError
from vinr.temporaries import Maker
from vinr.video.audio import extract_audio
from vinr.video.choice import choose_stream
from vinr.video.color import ColorConverter, color_of
from vinr.video.images import exif_orientation
from vinr.video.libav import explain, open_input
from vinr.video.spec import Audio, Timeline
from vinr.video.tail import inspect_tail, read_packets

FALLBACK_RATE: Final = Fraction(25)
# EXIF's orientations 1 to 8 as (swap rows and columns, then flip rows, then flip columns), see _orientation.
EXIF_ORIENTATIONS: Final = (
    (False, False, False),
    (False, False, True),
    (False, True, True),
    (False, True, False),
    (True, False, False),
    (True, False, True),
    (True, True, True),
    (True, True, False),
)
# The orientations of 0, 1, 2 and 3 quarter turns counterclockwise.
EXIF_BY_TURNS: Final = (1, 8, 3, 6)
ODD_ANGLE: Final = "is rotated by an angle that is not a multiple of 90 degrees; rotate it back first"


@dataclass(frozen=True)
class _Index:
    """What the packets of a stream say: when its frames are shown and where decoding can start.

    ``pts``: presentation times in order, in units of ``time_base``; ``None`` if the file has none.
    ``incomplete``: number of the frame whose data is cut off, if known; ``notes``: see :class:`Tail`.
    """

    num_frames: int
    time_base: Fraction
    rates: tuple[Fraction, ...]
    pts: tuple[int, ...] | None
    keyframe_pts: tuple[int, ...]
    incomplete: int | None
    notes: tuple[str, ...]


class StreamInput:
    """A video file (see the module).

    ``stream`` is the number of the video stream, from 0; None: the one that players show.
    ``options``, ``format_name`` and ``codec_tag`` are passed to libav, for files that do not state their
    format.
    """

    def __init__(
        self,
        path: Path,
        *,
        stream: int | None = None,
        format_name: str | None = None,
        options: Mapping[str, str] | None = None,
        codec_tag: str | None = None,
    ) -> None:
        self.path = path
        self._format_name, self._options, self._codec_tag = format_name, options, codec_tag
        with Maker().closing(self._open()) as container:
            self._number, self._note_of_choice = choose_stream(container, path, stream, self._open)
            self._index = _read_index(container, path, self._number, self._open)
        self.num_frames = self._index.num_frames
        with Maker().closing(self._open()) as container:
            frame = self._first_shown(container)
        try:
            self.color = color_of(frame)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        self._converter = ColorConverter(self.color)
        self._coded_size = (frame.height, frame.width)
        self._orientation = self._turned(frame)
        rotated = self._orientation[0]
        self.height, self.width = (frame.width, frame.height) if rotated else (frame.height, frame.width)

    def timeline(self, first: int, stop: int) -> Timeline:
        """Return when frames ``first`` ≤ i < ``stop`` are shown, the first of them at 0."""
        return _timeline(self._index, first, stop)

    def inspect(self, first: int, stop: int) -> tuple[str, ...]:
        """Return lines for the user about frames ``first`` ≤ i < ``stop``: whether more should follow them.

        Raises
        ------
        InputError
            If one of them is known to be incomplete.
        """
        incomplete = self._index.incomplete
        if incomplete is not None and first <= incomplete < stop:
            problem = f"the file is cut short: frame {incomplete} of {self.num_frames} is incomplete"
            raise InputError(f"{self.path}: {problem}; get a complete copy, or choose frames before it")
        notes = (self._note_of_choice,) if self._note_of_choice else ()
        return (*notes, *self._index.notes) if stop == self.num_frames else notes

    def decode(self, first: int) -> Iterator[NDArray[np.uint8]]:
        """Yield frames ``first``, ``first`` + 1, … as uint8 rgb_HWC, upright.

        Raises
        ------
        InputError
            If a frame is damaged, missing, or of another size.
        """
        # From the start only if seeking gives not even the first frame; an error after that is an error.
        for decoded_from in (self._after_seek, self._from_start):
            with Maker().closing(self._open()) as container:
                frames = decoded_from(container, first)
                head = next(frames, None)
                if head is None:
                    continue
                for frame in self._checked(chain([head], frames), first):
                    yield self._upright(self._converter.to_rgb(frame))
                return
        problem = f"frame {first} of {self.num_frames} cannot be decoded"
        raise InputError(f"{self.path}: {problem}; the file is damaged")

    def audio(self, first: int, stop: int) -> Audio | None:
        """Return the audio of frames ``first`` ≤ i < ``stop``; see :func:`vinr.video.audio.extract_audio`."""
        if self._format_name is not None:
            return None  # raw video is samples of pictures alone
        origin = self._seconds(0)
        start = self._seconds(first) if first > 0 else None
        end = self._seconds(stop) if stop < self.num_frames else None
        return extract_audio(self.path, origin=origin, start=start, stop=end)

    def _seconds(self, index: int) -> Fraction:
        """Return the time of a frame on the file's own clock, which the audio shares."""
        if self._index.pts is None:
            return index / self._index.rates[0]
        return self._index.pts[index] * self._index.time_base

    def _open(self) -> InputContainer:
        return open_input(
            self.path, format_name=self._format_name, options=self._options, codec_tag=self._codec_tag
        )

    def _video(self, container: InputContainer) -> VideoStream:
        return container.streams.video[self._number]

    def _frames(self, container: InputContainer) -> Iterator[VideoFrame]:
        stream = self._video(container)
        stream.thread_type = "AUTO"
        try:
            yield from container.decode(stream)
        except av.FFmpegError as error:
            raise InputError(f"{self.path}: a frame cannot be decoded: {explain(error)}") from error

    def _first_shown(self, container: InputContainer) -> VideoFrame:
        frame = next(self._frames(container), None)
        if frame is None:
            raise InputError(f"{self.path}: no frame can be decoded; the file is damaged")
        return frame

    def _turned(self, frame: VideoFrame) -> tuple[bool, bool, bool]:
        try:
            return _orientation(frame, self.path)
        except ValueError:
            # PyAV does not know some kinds of side data (EXIF, stereo views), and then lists none at all:
            # look for EXIF in the coded picture, else take libav's own reading of the display matrix.
            with Maker().closing(self._open()) as container:
                packets = container.demux(self._video(container))
                coded = next(bytes(packet) for packet in packets if packet.size)
            exif = exif_orientation(coded)
            if exif is None and frame.rotation % 90 == 0:
                exif = EXIF_BY_TURNS[frame.rotation // 90 % 4]
            if exif is None:
                raise InputError(f"{self.path}: {ODD_ANGLE}") from None
            return EXIF_ORIENTATIONS[exif - 1]

    def _from_start(self, container: InputContainer, first: int) -> Iterator[VideoFrame]:
        return islice(self._checked(self._frames(container), 0), first, None)

    def _after_seek(self, container: InputContainer, first: int) -> Iterator[VideoFrame]:
        """Yield from frame ``first`` on; nothing if no seek leads there, or it would save nothing."""
        pts = self._index.pts
        if pts is None:
            return
        before = bisect_right(self._index.keyframe_pts, pts[first]) - 1
        if before < 0 or self._index.keyframe_pts[before] <= pts[0]:
            return
        keyframe_pts = self._index.keyframe_pts[before]
        frames = self._frames(container)
        try:
            container.seek(keyframe_pts, stream=self._video(container))
            for frame in frames:
                if _ends_search(frame, keyframe_pts, pts[first]):
                    break
            else:
                return
        except (av.FFmpegError, InputError):
            # Some containers cannot seek, and decoding cannot start at every keyframe; the caller then
            # decodes from the start, where an error is an error.
            return
        if frame.pts == pts[first]:
            yield from chain([frame], frames)

    def _checked(self, frames: Iterator[VideoFrame], first: int) -> Iterator[VideoFrame]:
        """Yield ``frames``, of which the first has number ``first``; check each against the packets."""
        index = first
        for frame in frames:
            where = f"{self.path}: frame {index} of {self.num_frames}"
            if index == self.num_frames:
                raise InputError(f"{self.path}: has more frames than packets ({self.num_frames})")
            if frame.is_corrupt:
                raise InputError(f"{where} is damaged; choose other frames or repair the file")
            if self._index.pts is not None and frame.pts != self._index.pts[index]:
                raise InputError(f"{where} is missing after decoding; choose other frames or repair the file")
            if (frame.height, frame.width) != self._coded_size:
                height, width = self._coded_size
                raise InputError(f"{where} is {frame.height}x{frame.width}, the first is {height}x{width}")
            yield frame
            index += 1
        if index < self.num_frames:
            counts = f"only {index} of {self.num_frames} frames can be decoded"
            raise InputError(f"{self.path}: {counts}; the file is damaged")

    def _upright(self, rgb_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        swap_axes, flip_rows, flip_cols = self._orientation
        if swap_axes:
            rgb_HWC = rgb_HWC.swapaxes(0, 1)
        return rgb_HWC[:: -1 if flip_rows else 1, :: -1 if flip_cols else 1]


def _read_index(
    container: InputContainer, path: Path, number: int, reopen: Callable[[], InputContainer]
) -> _Index:
    stream = container.streams.video[number]
    try:
        packets = read_packets(container, stream)
    except av.FFmpegError as error:
        raise InputError(f"{path}: reading it failed: {explain(error)}") from error
    if not packets.video:
        raise InputError(f"{path}: the video stream has no frames")
    tail = inspect_tail(container, path, packets, number=number, reopen=reopen)
    num_frames = 0
    pts: list[int] = []
    keyframe_pts: list[int] = []
    for packet in packets.video:
        # Discarded packets are decoded for the sake of others, but not shown (edit lists of mp4).
        num_frames += not packet.is_discard
        if not packet.is_discard and packet.pts is not None:
            pts.append(packet.pts)
            if packet.is_keyframe:
                keyframe_pts.append(packet.pts)
    pts.sort()
    # Without usable times (missing, or duplicate) frames follow one another at the stated rate.
    has_pts = len(set(pts)) == num_frames
    stated = (stream.average_rate, stream.guessed_rate, stream.base_rate)
    rates = tuple(rate for rate in stated if rate is not None and rate > 0)
    return _Index(
        num_frames=num_frames,
        time_base=stream.time_base or 1 / FALLBACK_RATE,
        rates=rates or (FALLBACK_RATE,),
        pts=tuple(pts) if has_pts else None,
        keyframe_pts=tuple(sorted(keyframe_pts)) if has_pts else (),
        incomplete=pts.index(tail.incomplete_pts) if tail.incomplete_pts in pts else None,
        notes=tail.notes,
    )


def _timeline(index: _Index, first: int, stop: int) -> Timeline:
    """Return a constant-rate timeline if rounding explains all deviations, else the times themselves."""
    count = stop - first
    if index.pts is None or count == 1:
        return Timeline(count, index.rates[0])
    pts = tuple(value - index.pts[first] for value in index.pts[first:stop])
    exact = Fraction(count - 1) / (pts[-1] * index.time_base)
    for rate in (*index.rates, exact):
        ticks_per_frame = 1 / (rate * index.time_base)
        # Both ends of an interval may be rounded to ticks, unless a tick is about as coarse as a frame.
        slack = 1 if ticks_per_frame >= 4 else 0
        if all(abs(value - number * ticks_per_frame) <= slack for number, value in enumerate(pts)):
            return Timeline(count, rate)
    return Timeline(count, exact.limit_denominator(1001), index.time_base, pts)


def _ends_search(frame: VideoFrame, keyframe_pts: int, target_pts: int) -> bool:
    """Return whether ``frame``, decoded after a seek, is the target, or tells that it comes damaged."""
    if frame.pts is None or frame.pts >= target_pts:
        return True
    # Frames before the keyframe may lack their references; no frame after the keyframe refers to them.
    return frame.is_corrupt and frame.pts >= keyframe_pts


def _orientation(frame: VideoFrame, path: Path) -> tuple[bool, bool, bool]:
    """Return (swap rows and columns, then flip rows, then flip columns) that turn ``frame`` upright.

    A display matrix ``a b · / c d · / · · ·`` shows pixel (x, y) at (a·x + c·y, b·x + d·y).
    """
    #   a d: 1 0 / 0 1 upright · -1 0 / 0 -1 half a turn     b c: 0 1 / -1 0 and 0 -1 / 1 0 quarter turns
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    # Nine integers in fixed point; only signs and zeros matter.
    a, b, _, c, d = np.frombuffer(bytes(cast(SideData, matrix)), dtype=np.int32)[:5].tolist()
    if b == c == 0 and a and d:
        return False, d < 0, a < 0
    if a == d == 0 and b and c:
        return True, b < 0, c < 0
    raise InputError(f"{path}: {ODD_ANGLE}")
