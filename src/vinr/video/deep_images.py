"""Images of more than 8 bits per sample: Pillow drops their lower bits or does not read them, libav does.

Axes: H rows, W columns, C colour channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import av
import numpy as np
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from PIL import Image

from vinr.errors import InputError
from vinr.video.deep_color import read_rgb
from vinr.video.libav import explain
from vinr.video.picture import orientation_of
from vinr.video.spec import ColorSpec, max_level

# What Pillow calls the samples in a file, such as RGB;16B, and its decoder whose second argument is white.
DEEP_MARK: Final = ";16"
NETPBM: Final = "ppm"
# libav's decoders by the first bytes of a file; any other is one of the Netpbm formats.
DECODERS: Final = {b"\x89PNG": "png", b"II": "tiff", b"MM": "tiff"}
STRICT: Final = {"err_detect": "crccheck+bitstream+buffer+explode"}


def is_deep_image(image: Image.Image) -> bool:
    """Return whether the samples of an image that Pillow has opened, but not yet read, have over 8 bits."""
    for codec_name, _, _, arguments in getattr(image, "tile", ()):
        first, *others = arguments if isinstance(arguments, tuple) else (arguments,)
        if DEEP_MARK in str(first):
            return True
        if codec_name == NETPBM and others and isinstance(others[0], int) and others[0] > max_level(8):
            return True
    return False


def read_deep_image(path: Path) -> NDArray[np.uint16]:
    """Return an image, upright, as uint16 rgb_HWC, 0 … 1023; transparency is dropped.

    Raises
    ------
    InputError
        If it cannot be decoded.
    """
    try:
        content = path.read_bytes()
        # Not through a container: what libav takes a short file for depends on its name.
        decoder = VideoCodecContext.create(_decoder_name(content), "r")
        assert isinstance(decoder, VideoCodecContext)
        decoder.options = STRICT
        frames = [*decoder.decode(Packet(content)), *decoder.decode(None)]
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"{path}: not a readable image: {explain(error)}") from error
    if len(frames) != 1 or frames[0].is_corrupt:
        raise InputError(f"{path}: not a readable image: it is damaged")
    upright = orientation_of(frames[0]).apply(read_rgb(VideoReformatter(), frames[0], ColorSpec()))
    return np.ascontiguousarray(upright, dtype=np.uint16)


def _decoder_name(content: bytes) -> str:
    for start, name in DECODERS.items():
        if content.startswith(start):
            return name
    return NETPBM
