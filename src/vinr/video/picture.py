"""How the frames of a stream are shown: which way up, how wide, in which colours.

All of it is read from the stream and its first frame.

Axes: H rows, W columns, C colour channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Final, Self, cast

import av
import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import SideData, Type
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vinr.errors import InputError
from vinr.video.aspect import is_plausible, round_aspect
from vinr.video.color import MISTAGGED, color_of, is_mistagged
from vinr.video.deinterlace import Fields
from vinr.video.hdr import dynamic_kinds, hdr_of
from vinr.video.libav import explain
from vinr.video.spec import ColorSpec, ColorTags, Levels

ODD_ANGLE: Final = "is rotated by an angle that is not a multiple of 90 degrees; rotate it back first"
OPAQUE: Final = 255
# Entries of a display matrix that are so many times smaller than others are zeros: half a degree.
NEGLIGIBLE: Final = 100
TRANSPARENT: Final = "its transparency is left out: pixels that are transparent show the colours they hide"
# The first kind of side data that PyAV has no name for, and a number above all kinds that libav has.
UNNAMED: Final = range(max(cast(int, kind.value) for kind in Type) + 1, 64)


@dataclass(frozen=True)
class Orientation:
    """What turns frames upright: first rows and columns are swapped, then flipped."""

    swap_axes: bool = False
    flip_rows: bool = False
    flip_cols: bool = False

    def apply(self, rgb_HWC: Levels) -> Levels:
        """Return a frame upright."""
        if self.swap_axes:
            rgb_HWC = rgb_HWC.swapaxes(0, 1)
        return rgb_HWC[:: -1 if self.flip_rows else 1, :: -1 if self.flip_cols else 1]


@dataclass(frozen=True)
class Picture:
    """How a stream is shown.

    ``pixel_aspect`` is the width of a pixel over its height, upright; ``fields`` are None where frames are
    whole; ``notes`` are lines for the user.
    """

    color: ColorSpec
    pixel_aspect: Fraction
    orientation: Orientation
    fields: Fields | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, path: Path, stream: VideoStream, frame: VideoFrame, stated: ColorTags) -> Self:
        """Return how ``stream`` is shown, of which ``frame`` is the first.

        ``stated`` are the stream's tags before anything was decoded: decoders of H.265 drop what the file
        says where the coded video says nothing.

        Raises
        ------
        InputError
            If its colours or its orientation are not supported.
        """
        try:
            side_data = side_data_of(frame)
            color = replace(color_of(frame, stated), hdr=hdr_of(side_data))
            orientation = _orientation(side_data)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        notes = [MISTAGGED] if is_mistagged(frame) else []
        if dynamic := dynamic_kinds(side_data):
            names = " and ".join(dynamic)
            notes.append(f"its {names} metadata is left out: players that use it will show other colours")
        # Of VP8 and VP9 the alpha lies beside each frame, which libav's own decoders do not read.
        if _is_transparent(frame) or stream.metadata.get("alpha_mode") == "1":
            notes.append(TRANSPARENT)
        aspect = _aspect_of(stream)
        if not is_plausible(aspect):
            notes.append(f"pixels {aspect} times as wide as high are taken as square")
            aspect = Fraction(1)
        aspect = round_aspect(1 / aspect if orientation.swap_axes else aspect)
        fields = Fields.of(frame, stream.codec_context)
        return cls(color, aspect, orientation, fields, tuple(f"{path}: {note}" for note in notes))


def _aspect_of(stream: VideoStream) -> Fraction:
    """Return the pixel aspect that a stream states: its container, else its decoder; 1 if neither does."""
    return stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or Fraction(1)


def _is_transparent(frame: VideoFrame) -> bool:
    """Return whether a frame has pixels through which something else is to be seen."""
    if not any(part.is_alpha for part in frame.format.components):
        return False
    return bool((frame.reformat(format="rgba").to_ndarray()[..., 3] < OPAQUE).any())


def side_data_of(frame: VideoFrame) -> Mapping[str, bytes]:
    """Return the side data of a frame by libav's names of their kinds.

    Raises
    ------
    InputError
        If libav cannot give it.
    """
    try:
        return _listed(frame)
    except ValueError:
        pass
    # PyAV does not name some kinds (EXIF, stereo views), and then lists none at all.
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1)
    )
    filters = [graph.add("sidedata", f"mode=delete:type={number}") for number in UNNAMED]
    graph.link_nodes(source, *filters, graph.add("buffersink"))
    try:
        graph.configure()
        graph.push(frame)
        return _listed(graph.vpull())
    except (av.FFmpegError, ValueError) as error:
        raise InputError(f"what its frames say of themselves cannot be read: {explain(error)}") from error


def orientation_of(frame: VideoFrame) -> Orientation:
    """Return what turns ``frame`` upright.

    Raises
    ------
    InputError
        If that is no multiple of a quarter turn.
    """
    return _orientation(side_data_of(frame))


def _listed(frame: VideoFrame) -> dict[str, bytes]:
    # PyAV's container is a mapping whose iterator yields values.
    return {data.type.name: bytes(data) for data in cast(Iterable[SideData], frame.side_data)}


def _orientation(side_data: Mapping[str, bytes]) -> Orientation:
    """Return what turns a frame upright; libav makes a display matrix of EXIF's orientation, too.

    A display matrix ``a b · / c d · / · · ·`` shows pixel (x, y) at (a·x + c·y, b·x + d·y).
    """
    #   a d: 1 0 / 0 1 upright · -1 0 / 0 -1 half a turn     b c: 0 1 / -1 0 and 0 -1 / 1 0 quarter turns
    matrix = side_data.get(Type.DISPLAYMATRIX.name)
    if matrix is None:
        return Orientation()
    # Nine integers in fixed point; only signs and zeros matter. Cosines of right angles may be rounded.
    entries = np.frombuffer(matrix, dtype=np.int32)[:5].astype(np.int64)
    entries[np.abs(entries) * NEGLIGIBLE < np.abs(entries).max()] = 0
    a, b, _, c, d = entries.tolist()
    if not (a or b or c or d):
        return Orientation()  # a matrix of zeros, which players ignore
    if b == c == 0 and a and d:
        return Orientation(False, d < 0, a < 0)
    if a == d == 0 and b and c:
        return Orientation(True, b < 0, c < 0)
    raise InputError(ODD_ANGLE)
