"""Frames in and out: what a video is, reading, colour, writing.

``vinr.video.spec`` says what is asked for and in which units; its names are re-exported here. ``source``
reads files, image folders and raw YUV, ``edit`` crops and resizes, ``color`` has the only colour arithmetic,
``sink`` writes files and PNGs, ``audio`` carries the sound along, ``samples`` finds the demo clips. With the
package only ``spec`` is imported, so that decoding a ``.vinr`` file needs neither PyAV nor Pillow.
"""

from __future__ import annotations

from vinr.video.spec import (
    ColorSpec,
    FrameBatch,
    FrameSource,
    PatchGrid,
    Query,
    Timeline,
    VideoSpec,
)

__all__ = [
    "ColorSpec",
    "FrameBatch",
    "FrameSource",
    "PatchGrid",
    "Query",
    "Timeline",
    "VideoSpec",
]
