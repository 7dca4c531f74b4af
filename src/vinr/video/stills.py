"""Single frames as coded images: the keyframes that some models take beside their parameters.

AVIF (AV1 intra frames) through Pillow. The boxes around the pixels, 0.27 kB, are nearly the same in all
images: they are stored as a raw DEFLATE stream (RFC 1951) with such boxes as dictionary, in 0.03 kB.

Axes: H rows, W columns, C colour channels.
"""

from __future__ import annotations

import struct
import zlib
from base64 import b64decode
from contextlib import suppress
from io import BytesIO
from typing import Final, Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from vinr.errors import BitstreamError

Chroma = Literal["4:2:0", "4:4:4"]

FORMAT: Final = "AVIF"
# Of 0 … 10. Slower settings save about 1 % of the bytes and take several times as long.
SPEED: Final = 4
# The boxes that libavif writes before the pixels of a picture of 96×160. Any image can be stored with them as
# dictionary; one with other boxes takes more bytes. They are part of the file format and never change.
BOXES: Final = b64decode(
    "AAAAIGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZk1BMUEAAADrbWV0YQAAAAAAAAAhaGRscgAAAAAAAAAAcGljdAAAAAAAAAAAAAAA"
    "AAAAAAAOcGl0bQAAAAAAAQAAAB5pbG9jAAAAAEQAAAEAAQAAAAEAAAETAAAfzwAAAChpaW5mAAAAAAABAAAAGmluZmUCAAAAAAEA"
    "AGF2MDFDb2xvcgAAAABqaXBycAAAAEtpcGNvAAAAFGlzcGUAAAAAAAAAoAAAAGAAAAAQcGl4aQAAAAADCAgIAAAADGF2MUOBIAAA"
    "AAAAE2NvbHJuY2x4AAEADQAGgAAAABdpcG1hAAAAAAAAAAEAAQQBAoMEAAAf121kYXQ="
)
PIXELS_BOX: Final = b"mdat"
# Where every file of the family says what it is; no valid DEFLATE stream of an image has these bytes there.
FILE_TYPE: Final = slice(4, 8), b"ftyp"
MAX_STORED_BLOCK: Final = 0xFFFF
# Most bytes that a coded image has beside those of its pixels, of which it has at most as many as raw ones.
MAX_BOX_BYTES: Final = 1 << 16


def encode_still(rgb_CHW: Tensor, *, quality: int, chroma: Chroma = "4:2:0") -> bytes:
    """Return uint8 ``rgb_CHW`` as a coded image: an AVIF file, its boxes shortened.

    ``quality`` is the encoder's own scale, 0 (smallest) to 100; ``chroma`` the chroma subsampling.
    """
    # One thread, so that the same picture gives the same bytes.
    image = Image.fromarray(np.ascontiguousarray(rgb_CHW.permute(1, 2, 0).cpu().numpy()))
    out = BytesIO()
    image.save(out, FORMAT, quality=quality, subsampling=chroma, speed=SPEED, max_threads=1)
    return _shortened(out.getvalue())


def _shortened(image: bytes) -> bytes:
    """Return an AVIF file as a DEFLATE stream: boxes by the dictionary, pixels as they are."""
    start = image.find(PIXELS_BOX) + len(PIXELS_BOX)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_DEFAULT_STRATEGY, BOXES)
    # A flush ends at a byte; what follows are stored blocks, since pixels do not get any smaller.
    parts = [deflate.compress(image[:start]), deflate.flush(zlib.Z_SYNC_FLUSH)]
    for first in range(start, len(image), MAX_STORED_BLOCK):
        block = image[first : first + MAX_STORED_BLOCK]
        is_last = first + MAX_STORED_BLOCK >= len(image)
        lengths = struct.pack("<HH", len(block), ~len(block) & 0xFFFF)
        parts += [bytes([is_last]), lengths, block]
    return b"".join(parts)


def image_file(coded: bytes, *, height: int, width: int) -> bytes:
    """Return a coded image as the AVIF file it is.

    Raises
    ------
    BitstreamError
        If it is neither such a file nor a stream of one, or larger than an image of that size can be.
    """
    place, name = FILE_TYPE
    if coded[place] == name:
        return coded
    most = 3 * height * width + MAX_BOX_BYTES
    inflate = zlib.decompressobj(-zlib.MAX_WBITS, BOXES)
    # Damage is named by what it does to the image, not by zlib's numbers.
    with suppress(zlib.error):
        image = inflate.decompress(coded, most + 1)
        if len(image) <= most and inflate.eof and not inflate.unused_data:
            return image
    raise BitstreamError(f"a keyframe is not a readable {FORMAT} image")


def decode_still(coded: bytes, *, height: int, width: int) -> Tensor:
    """Return a coded image as uint8 rgb_CHW.

    Raises
    ------
    BitstreamError
        If it is damaged, or of another size than ``height`` × ``width``.
    """
    content = image_file(coded, height=height, width=width)
    try:
        with Image.open(BytesIO(content), formats=(FORMAT,)) as image:
            cols, rows = image.size
            if (rows, cols) != (height, width):  # checked before anything of that size is decoded
                raise BitstreamError(f"a keyframe has {rows}×{cols} pixels, the clip {height}×{width}")
            rgb_HWC = np.array(image.convert("RGB"))
    except UnidentifiedImageError:
        raise BitstreamError(f"a keyframe is not a readable {FORMAT} image") from None
    except (
        OSError,
        RuntimeError,
        SyntaxError,
        ValueError,
        MemoryError,
        Image.DecompressionBombError,
    ) as error:
        raise BitstreamError(f"a keyframe is not a readable {FORMAT} image: {error}") from None
    return torch.from_numpy(rgb_HWC).permute(2, 0, 1)
