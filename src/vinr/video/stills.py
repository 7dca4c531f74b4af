"""Single frames as coded images: the keyframes that some models take beside their parameters.

AVIF (AV1 intra frames) through Pillow. A coded image has an overhead of about 0.3 kB.

Axes: H rows, W columns, C colour channels.
"""

from __future__ import annotations

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


def encode_still(rgb_CHW: Tensor, *, quality: int, chroma: Chroma = "4:2:0") -> bytes:
    """Return uint8 ``rgb_CHW`` as an AVIF image.

    ``quality`` is the encoder's own scale, 0 (smallest) to 100; ``chroma`` the chroma subsampling.
    """
    # One thread, so that the same picture gives the same bytes.
    image = Image.fromarray(np.ascontiguousarray(rgb_CHW.permute(1, 2, 0).cpu().numpy()))
    out = BytesIO()
    image.save(out, FORMAT, quality=quality, subsampling=chroma, speed=SPEED, max_threads=1)
    return out.getvalue()


def decode_still(coded: bytes, *, height: int, width: int) -> Tensor:
    """Return the image as uint8 rgb_CHW.

    Raises
    ------
    BitstreamError
        If it is damaged, or of another size than ``height`` × ``width``.
    """
    try:
        with Image.open(BytesIO(coded), formats=(FORMAT,)) as image:
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
