"""Which of several video streams is read: the one that players show, or the one that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from vinr.errors import InputError, UsageError, argument
from vinr.video.libav import explain

# Pictures beside a video: covers, thumbnails, stills, parts of other pictures.
BESIDE: Final = (
    Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image | Disposition.dependent
)


def choose_stream(
    container: InputContainer, path: Path, number: int | None, reopen: Callable[[], InputContainer]
) -> tuple[int, str]:
    """Return the number of a video stream, from 0, and a line for the user if others could be meant.

    Players show the stream that is marked as default, of several such, or none, the one with the most pixels.
    Covers, previews of a single frame, and alpha planes do not count beside a video.

    Parameters
    ----------
    number
        The stream that is asked for; None: the one that players show.
    reopen
        Opens the file anew, for counting frames.

    Raises
    ------
    InputError
        If there is no video stream that can be decoded.
    UsageError
        If there is no stream of that number.
    """
    streams = container.streams.video
    if number is not None:
        if number >= len(streams):
            count = f"{len(streams)} video stream{'' if len(streams) == 1 else 's'}, numbered from 0"
            raise UsageError(f"{path}: there is no video stream {number}; it has {count}")
        return number, ""
    shown = [stream for stream in streams if not stream.disposition & Disposition.attached_pic]
    if not shown:
        raise InputError(f"{path}: has no video stream")
    # A stream whose codec libav does not know has no context.
    known = [stream for stream in shown if stream.codec_context is not None]
    if not known:
        raise InputError(f"{path}: its video has a codec that cannot be decoded")
    rivals = _without_beside(known, path)
    if len(rivals) > 1:
        rivals = _moving(rivals, reopen)
    rivals = [stream for stream in rivals if not _is_alpha_of_another(stream, rivals)]
    chosen = max(rivals, key=lambda stream: (bool(stream.disposition & Disposition.default), _pixels(stream)))
    place = [stream.index for stream in streams].index(chosen.index)
    if len(rivals) == 1:
        return place, ""
    size = f"{chosen.codec_context.height}x{chosen.codec_context.width}"
    return (
        place,
        f"{path}: has {len(rivals)} video streams; number {place} ({size}) is read, "
        f"{argument('stream')} chooses another",
    )


def _without_beside(streams: Sequence[VideoStream], path: Path) -> list[VideoStream]:
    """Return the streams that are videos of their own; all of them if that is none."""
    own = [stream for stream in streams if not stream.disposition & BESIDE]
    if own or len(streams) == 1:
        return own or list(streams)
    if all(stream.disposition & Disposition.dependent for stream in streams):
        problem = f"is an image in {len(streams)} tiles, which are not joined"
        raise InputError(f"{path}: {problem}; convert it to PNG or JPEG")
    return list(streams)


def _moving(streams: Sequence[VideoStream], reopen: Callable[[], InputContainer]) -> list[VideoStream]:
    """Return the streams of more than one frame; all of them if that is none."""
    # Some containers state the number of frames; of the others packets are counted, up to two of each stream.
    counts = {stream.index: stream.frames for stream in streams}
    unknown = {index for index, count in counts.items() if count < 1}
    if unknown:
        with reopen() as container:
            try:
                for packet in container.demux(video=tuple(range(len(container.streams.video)))):
                    index = packet.stream_index
                    if packet.size and index in unknown:
                        counts[index] += 1
                        if counts[index] > 1:
                            unknown.discard(index)
                    if not unknown:
                        break
            except av.FFmpegError as error:
                raise InputError(f"{container.name}: reading it failed: {explain(error)}") from error
    return [stream for stream in streams if counts[stream.index] > 1] or list(streams)


def _is_alpha_of_another(stream: VideoStream, streams: Sequence[VideoStream]) -> bool:
    """Return whether ``stream`` is grey and another one of the same size is not: AVIF stores alpha so."""
    if not _is_grey(stream):
        return False
    size = stream.codec_context.height, stream.codec_context.width
    return any(
        not _is_grey(other) and (other.codec_context.height, other.codec_context.width) == size
        for other in streams
    )


def _is_grey(stream: VideoStream) -> bool:
    return (stream.codec_context.pix_fmt or "").startswith("gray")


def _pixels(stream: VideoStream) -> int:
    return stream.codec_context.height * stream.codec_context.width
