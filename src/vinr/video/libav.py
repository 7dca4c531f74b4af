"""Opening files with libav (PyAV): without its messages, local files only, errors in one line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, Final

import av
import av.logging
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from vinr.errors import InputError

# Errors are raised as exceptions; libav's and SVT-AV1's own messages would only disturb the terminal.
av.logging.set_level(None)
os.environ.setdefault("SVT_LOG", "0")

# Times are moved in this unit: the tick of a container may be as long as a packet.
NANOSECOND: Final = Fraction(1, 10**9)

# Demuxers that open other files, as a file or its name tells them: playlists, lists, descriptions of streams,
# scripts, sets of images, subtitles beside an index. Only the file of the user is read.
PLAYLISTS: Final = frozenset({"concat", "dash", "hls", "imf", "webm_dash_manifest"})
STREAMS: Final = frozenset({"rtp", "rtsp", "sap", "sdp"})
SCRIPTS: Final = frozenset({"avisynth", "lavfi", "vapoursynth"})
SETS: Final = frozenset({"dvdvideo", "image2", "vobsub"})


class UnreadableError(InputError):
    """libav cannot open a file."""


class UnknownFormatError(UnreadableError):
    """libav does not know what a file is."""


@cache
def _readable_formats() -> str:
    """Return libav's demuxers that read only one file, as its option ``format_whitelist`` takes them."""
    # Several names of one demuxer are one text: "mov,mp4,m4a".
    names = set(",".join(av.formats_available).split(","))
    return ",".join(sorted(names - PLAYLISTS - STREAMS - SCRIPTS - SETS))


def explain(error: Exception) -> str:
    """Return the cause of a libav error in a few words."""
    # strerror is the cause alone; the text of the exception repeats the number and the file.
    return str(getattr(error, "strerror", None) or error)


def open_input(
    path: Path,
    *,
    format_name: str | None = None,
    options: Mapping[str, str] | None = None,
    codec_tag: str | None = None,
) -> InputContainer:
    """Open a local media file.

    ``format_name``, ``options`` and the ``codec_tag`` of the video are libav's, for files that do not state
    their format (raw YUV).

    Raises
    ------
    InputError
        If the file is missing, empty, or of a format that libav does not know.
    """
    if not path.is_file():
        problem = "not a regular file" if path.exists() else "no such file"
        raise InputError(f"{path}: {problem}; give a video file or a folder of images")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")
    try:
        # "file:" keeps a colon in the name from being read as a protocol.
        container = av.open(
            f"file:{path}",
            mode="r",
            format=format_name,
            options={
                **(options or {}),
                "protocol_whitelist": "file",
                "format_whitelist": _readable_formats(),
            },
            metadata_errors="replace",
        )
    except av.error.ArgumentError as error:
        # What libav raises for a demuxer that the whitelist lacks.
        problem = "not a readable video; playlists and other files that name files are not followed"
        raise UnknownFormatError(f"{path}: {problem}; give the video itself") from error
    except (av.FFmpegError, ValueError) as error:
        raise UnreadableError(f"{path}: not a readable video, or cut short: {explain(error)}") from error
    # The demuxer of ANSI art, to which libav gives any text file.
    if container.format.name == "tty":
        container.close()
        raise InputError(f"{path}: is a text file, not a video")
    if codec_tag is not None:
        container.streams.video[0].codec_context.codec_tag = codec_tag
    return container


@dataclass(frozen=True)
class VideoFile:
    """A file, how libav is to open it, and the number of the video stream that is read of it.

    ``format_name``, ``options`` and ``codec_tag`` are as for :func:`open_input`.
    """

    path: Path
    number: int = 0
    format_name: str | None = None
    options: Mapping[str, str] | None = None
    codec_tag: str | None = None

    def open(self) -> InputContainer:
        """Open it; see :func:`open_input`."""
        return open_input(
            self.path, format_name=self.format_name, options=self.options, codec_tag=self.codec_tag
        )

    def video(self, container: InputContainer) -> VideoStream:
        """Return the video stream of a container that :meth:`open` returned."""
        return container.streams.video[self.number]


def move_packet(packet: Packet[Any], seconds: Fraction) -> None:
    """Add ``seconds`` to the times of a packet; presentation and decoding time are rounded alike.

    Raises
    ------
    OverflowError
        If a time is more than 292 years from 0.
    """
    base = Fraction(packet.time_base.numerator, packet.time_base.denominator)
    ticks = base / NANOSECOND
    offset = seconds / NANOSECOND
    packet.pts = None if packet.pts is None else round(packet.pts * ticks + offset)
    packet.dts = None if packet.dts is None else round(packet.dts * ticks + offset)
    packet.duration = None if packet.duration is None else round(packet.duration * ticks)
    packet.time_base = NANOSECOND
