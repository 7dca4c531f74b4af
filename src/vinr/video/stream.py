"""The video stream of a file that libav can open: counted first, then decoded from any frame on.

::

    open ── demux every packet (no decoding) ──> count, timestamps, keyframes
         └─ decode one frame ──────────────────> size as shown, colour, rotation
    decode(first) ── seek to the keyframe before (else from the start) ──> frames first, first + 1, …

Axes: H rows, W columns, C colour channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import chain, islice
from typing import BinaryIO

import av
from av.container import InputContainer
from av.video.frame import VideoFrame

from vinr.errors import InputError
from vinr.temporaries import Maker
from vinr.video.audio import extract_audio
from vinr.video.choice import choose_stream
from vinr.video.color import ColorConverter, tags_of
from vinr.video.deep_color import depth_notes
from vinr.video.deinterlace import FRAMES_BEFORE, deinterlaced, interlaced, unmarked
from vinr.video.head import find_empty, inspect_head
from vinr.video.libav import VideoFile, explain
from vinr.video.numbered import NumberedFrames, in_order
from vinr.video.order import Order
from vinr.video.packets import read_packets
from vinr.video.picture import Picture
from vinr.video.spec import BitDepth, Levels, Timeline
from vinr.video.stated import stated_times
from vinr.video.tail import inspect_tail
from vinr.video.times import frame_seconds, make_timeline


class StreamInput:
    """A video file (see the module).

    ``stream`` is the number of the video stream, from 0; None: the one that players show. Frames are read at
    ``bit_depth``; if None at 10 bits where samples have more than 8. With ``deinterlace`` full frames are
    made of fields.
    """

    def __init__(
        self,
        file: VideoFile,
        *,
        stream: int | None = None,
        bit_depth: BitDepth | None = None,
        deinterlace: bool = False,
    ) -> None:
        self._deinterlace = deinterlace
        self.path = path = file.path
        with Maker().closing(file.open()) as container:
            number, note = choose_stream(container, path, stream, file.open)
        self._file = file = replace(file, number=number)
        packets = read_packets(file)
        order = Order.of(packets, find_empty(file, packets))
        if not order.num_frames:
            raise InputError(f"{path}: the video stream has no frames")
        # Of a file that is cut short this says more than its first frame, which may be missing too.
        with Maker().closing(file.open()) as container:
            tail = inspect_tail(container, file, packets)
        head = inspect_head(file, packets, order)
        self._order = order = order.without(head.dropped)
        self._can_seek = order.has_unique_times and not packets.clock.is_joined
        self._can_seek &= order.is_timed or not head.reorders
        self._clock = packets.clock
        self.num_frames = order.num_frames
        with Maker().closing(file.open()) as container:
            self._stated = stated_times(container, file, packets, order, is_whole=tail.is_whole)
            video, frame = file.video(container), head.frame
            self._picture = Picture.of(path, video, frame, tags_of(video.codec_context))
        self._incomplete = order.ranks.get(len(packets.video) - 1) if tail.is_incomplete else None
        self._tail_notes = tail.notes
        self._head_notes = (
            *([note] if note else ()),
            *depth_notes(path, frame, bit_depth),
            *head.notes(path),
        )
        self.color, self.pixel_aspect = self._picture.color, self._picture.pixel_aspect
        self.bit_depth: BitDepth = bit_depth or self.color.bit_depth
        self._converter = ColorConverter(self.color)
        self._coded_size = (frame.height, frame.width)
        is_turned = self._picture.orientation.swap_axes
        self.height, self.width = (frame.width, frame.height) if is_turned else (frame.height, frame.width)

    def timeline(self, first: int, stop: int) -> Timeline:
        """Return when frames ``first`` ≤ i < ``stop`` are shown, the first of them at 0."""
        return make_timeline(self._order.time_F, first, stop, self._stated)

    def inspect(self, first: int, stop: int) -> tuple[str, ...]:
        """Return lines for the user about frames ``first`` ≤ i < ``stop``: what is missing around them.

        Raises
        ------
        InputError
            If one of them is known to be incomplete.
        """
        incomplete = self._incomplete
        if incomplete is not None and first <= incomplete < stop:
            problem = f"the file is cut short: frame {incomplete} of {self.num_frames} is incomplete"
            raise InputError(f"{self.path}: {problem}; get a complete copy, or choose frames before it")
        notes = (*self._picture.notes, *self._head_notes)
        if (self._picture.fields is None) == self._deinterlace:
            notes = (*notes, f"{self.path}: {unmarked() if self._deinterlace else interlaced()}")
        return (*notes, *self._tail_notes) if stop == self.num_frames else notes

    def decode(self, first: int) -> Iterator[Levels]:
        """Yield frames ``first``, ``first`` + 1, … as rgb_HWC of ``bit_depth``, upright.

        Raises
        ------
        InputError
            If a frame is damaged, missing, or of another size.
        """
        start = max(first - FRAMES_BEFORE, 0) if self._deinterlace else first
        frames = self._decoded(start)
        if self._deinterlace:
            full = deinterlaced(frames, self._picture.fields, label=str(self.path))
            frames = islice(full, first - start, None)
        for frame in frames:
            yield self._picture.orientation.apply(self._read(frame))

    def _decoded(self, first: int) -> Iterator[VideoFrame]:
        # From the start only if seeking gives not even the first frame; an error after that is an error.
        for decoded_from in (self._after_seek, self._from_start):
            with Maker().closing(self._file.open()) as container:
                frames = decoded_from(container, first)
                head = next(frames, None)
                if head is None:
                    continue
                yield from chain([head], frames)
                return

    def write_audio(
        self, first: int, stop: int, target: BinaryIO, on_note: Callable[[str], None]
    ) -> Fraction | None:
        """Write the audio of frames ``first`` ≤ i < ``stop``; see :func:`vinr.video.audio.extract_audio`."""
        if self._file.format_name is not None:
            return None  # raw video is samples of pictures alone
        origin = self._seconds(0)
        start = self._seconds(first) if first > 0 else None
        end = self._seconds(stop) if stop < self.num_frames else None
        return extract_audio(
            self._file.open,
            self.path,
            target,
            origin=origin,
            start=start,
            stop=end,
            clock=self._clock,
            on_note=on_note,
        )

    def _seconds(self, index: int) -> Fraction:
        """Return the time of a frame on the file's clock, as ``clock`` continues it; audio shares it."""
        return frame_seconds(self._order.time_F, index, self._stated)

    def _from_start(self, container: InputContainer, first: int) -> Iterator[VideoFrame]:
        frames = NumberedFrames(container, self._file)
        yield from self._reached(frames, 0, first, is_sought=False)

    def _after_seek(self, container: InputContainer, first: int) -> Iterator[VideoFrame]:
        """Yield from frame ``first`` on; nothing if no seek leads there, or it would save nothing."""
        key = self._order.keyframe_before(first)
        if not self._can_seek or self._order.time_F is None or not key:
            return
        try:
            container.seek(int(self._order.time_F[key]), stream=self._file.video(container))
        except av.FFmpegError:
            return  # some containers cannot seek
        frames = NumberedFrames(container, self._file, number_of=self._order.number_at)
        yield from self._reached(frames, key, first, is_sought=True)

    def _reached(
        self, frames: NumberedFrames, start: int, first: int, *, is_sought: bool
    ) -> Iterator[VideoFrame]:
        """Yield frame ``first`` and those after it, decoded from frame ``start`` on.

        If ``is_sought`` and the first one does not come whole, nothing is yielded: decoding cannot start at
        every keyframe.
        """
        problem: str | None = None
        index, has_begun = start - 1, False
        for shown in in_order(frames, self._order, start):
            index, frame = shown.index, shown.frame
            if frame.key_frame and index <= first and not frame.is_corrupt:
                problem = None  # what comes after a keyframe does not refer to what comes before
            elif shown.lost is not None:
                problem = self._cannot_decode(shown.lost, frames.failure)
            elif frame.is_corrupt:
                problem = self._other_frames(index, "is damaged")
            if index < first:
                continue
            if problem is not None:
                break
            self._check_size(index, frame)
            yield frame
            has_begun = True
        if problem is None and index + 1 < self.num_frames:
            problem = self._cannot_decode(index + 1, frames.failure)
        if problem is not None and (has_begun or not is_sought):
            raise InputError(problem)

    def _read(self, frame: VideoFrame) -> Levels:
        try:
            return (
                self._converter.to_rgb(frame) if self.bit_depth == 8 else self._converter.to_deep_rgb(frame)
            )
        except av.FFmpegError as error:
            problem = f"frames of pixel format {frame.format.name} cannot be converted: {explain(error)}"
            raise InputError(f"{self.path}: {problem}") from error

    def _check_size(self, index: int, frame: VideoFrame) -> None:
        if index >= self.num_frames:
            raise InputError(f"{self.path}: has more frames than packets ({self.num_frames})")
        if (frame.height, frame.width) != self._coded_size:
            height, width = self._coded_size
            where = f"{self.path}: frame {index} of {self.num_frames}"
            problem = f"is {frame.height}x{frame.width}, the first is {height}x{width}"
            raise InputError(f"{where} {problem}; choose frames of one size, such as :{index}")

    def _cannot_decode(self, index: int, failure: str) -> str:
        return self._other_frames(index, f"cannot be decoded{': ' if failure else ''}{failure}")

    def _other_frames(self, index: int, problem: str) -> str:
        """Return a message on a frame that ends in what to do."""
        after = self._order.keyframe_after(index)
        ranges = [f":{index}"] * bool(index) + [f"{after}:"] * (after is not None)
        others = f"choose other frames, such as {' or '.join(ranges)}" if ranges else "the file is damaged"
        return f"{self.path}: frame {index} of {self.num_frames} {problem}; {others}"
