"""Files with several video streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

DEFAULT, NONE = Disposition.default, Disposition(0)


@dataclass(frozen=True)
class Part:
    """A stream of frames of one grey level."""

    level: int
    height: int = 32
    width: int = 48
    disposition: Disposition = NONE
    num_frames: int = 6
    pixel_format: str = "yuv420p"


def write_streams(path: Path, parts: Sequence[Part]) -> Path:
    """All parts, interleaved."""
    with av.open(str(path), "w") as output:
        streams = []
        for part in parts:
            stream = output.add_stream("ffv1" if path.suffix == ".mkv" else "mpeg4", rate=25)
            stream.height, stream.width, stream.pix_fmt = part.height, part.width, part.pixel_format
            stream.disposition = part.disposition
            streams.append(stream)
        for index in range(max(part.num_frames for part in parts)):
            for part, stream in zip(parts, streams, strict=True):
                if index < part.num_frames:
                    rgb_HWC = np.full((part.height, part.width, 3), part.level, np.uint8)
                    frame = av.VideoFrame.from_ndarray(rgb_HWC, format="rgb24")
                    frame = frame.reformat(format=part.pixel_format)
                    frame.pts, frame.time_base = index, Fraction(1, 25)
                    output.mux(stream.encode(frame))
        for stream in streams:
            output.mux(stream.encode(None))
    return path
