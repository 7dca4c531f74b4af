"""A folder of images as a video: one frame per file, in the order of the numbers in their names.

Axes: H rows, W columns, C colour channels.
"""

from __future__ import annotations

import logging
import stat
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from vinr.errors import InputError
from vinr.files import exists_as_other
from vinr.video.deep_images import is_deep_image, read_deep_image
from vinr.video.depth import with_depth
from vinr.video.numbering import describe_numbering, number_order
from vinr.video.picture import OPAQUE, TRANSPARENT
from vinr.video.spec import BitDepth, ColorSpec, Levels, Timeline

SUFFIXES: Final = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
# Pillow's modes of at most 8 bits; it would clip the others (I;16, I, F) to 8 bits, not scale them.
MODES: Final = frozenset({"1", "CMYK", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr"})
FRAME_RATE: Final = Fraction(30)
EXIF_ORIENTATION: Final = 0x0112
# Pillow logs some errors besides raising them; without a handler they would go to standard error.
logging.getLogger("PIL").addHandler(logging.NullHandler())
# Its readers mean to raise OSError and SyntaxError; on damaged files they are known to let these through too.
PILLOW_ERRORS: Final = (
    OSError,
    SyntaxError,
    ValueError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    struct.error,
    zlib.error,
)


class FolderInput:
    """A folder of images of one size, played at ``rate`` frames per second; transparency is dropped.

    Raises
    ------
    InputError
        If the folder has no images, one cannot be read, or two differ in size.
    """

    def __init__(self, path: Path, *, rate: Fraction = FRAME_RATE, bit_depth: BitDepth | None = None) -> None:
        self.path, self._rate = path, rate
        # Names with a dot in front are hidden: thumbnails, files half copied.
        images = [file for file in path.iterdir() if is_image(file) and file.name[0] != "."]
        self._files = sorted(images, key=number_order)
        if not self._files:
            raise InputError(f"{path}: the folder holds no images ({', '.join(sorted(SUFFIXES))})")
        self.num_frames = len(self._files)
        self.pixel_aspect = Fraction(1)
        first = _shown(self._files[0])
        self.height, self.width = first.height, first.width
        self._num_animated = 0
        self._deep: set[Path] = set()
        for file in self._files:
            shown = _shown(file)
            self._num_animated += shown.num_pictures > 1
            if shown.is_deep:
                self._deep.add(file)
            if (shown.height, shown.width) != (self.height, self.width):
                size = f"is {shown.height}x{shown.width}, {self._files[0].name} is {self.height}x{self.width}"
                raise InputError(f"{file}: {size}; all images must have one size")
        with open_image(self._files[0], label=str(self._files[0])) as image:
            self._is_transparent = is_transparent(image)
        self._is_rounded = bool(self._deep) and bit_depth is None
        self.color = ColorSpec(bit_depth=10 if self._deep else 8)
        self.bit_depth: BitDepth = bit_depth or self.color.bit_depth

    def timeline(self, first: int, stop: int) -> Timeline:
        """Return the constant-rate timeline of ``stop`` − ``first`` frames."""
        return Timeline(stop - first, self._rate)

    def inspect(self, first: int, stop: int) -> tuple[str, ...]:
        """Return lines for the user: odd numbers of those images, animations, what is left out of them."""
        odd = describe_numbering(self._files[first:stop])
        notes = [f"{self.path}: {odd}"] if odd else []
        if self._num_animated:
            several = f"several pictures in {self._num_animated} of {self.num_frames} files"
            notes.append(f"{self.path}: {several}; the first of each is read")
        if self._is_transparent:
            notes.append(f"{self.path}: {TRANSPARENT}")
        if self._is_rounded:
            count = f"{len(self._deep)} of {self.num_frames} images have"
            notes.append(f"{self.path}: {count} more than 8 bits per sample; all are read at 10")
        return tuple(notes)

    def decode(self, first: int) -> Iterator[Levels]:
        """Yield images ``first``, ``first`` + 1, … as rgb_HWC of ``bit_depth``."""
        for file in self._files[first:]:
            rgb_HWC = read_deep_image(file) if file in self._deep else read_image(file, label=str(file))
            yield with_depth(torch.tensor(rgb_HWC), self.bit_depth).numpy()

    def write_audio(
        self, first: int, stop: int, target: BinaryIO, on_note: Callable[[str], None]
    ) -> Fraction | None:
        """Return None: images have no audio."""
        return None


def is_image(file: Path) -> bool:
    """Return whether the name of ``file`` says that it is an image."""
    return file.suffix.lower() in SUFFIXES


def is_transparent(image: Image.Image) -> bool:
    """Return whether an image has pixels through which something else is to be seen."""
    if not image.has_transparency_data:
        return False
    return bool((np.asarray(image.convert("RGBA"))[..., 3] < OPAQUE).any())


def read_image(file: Path, *, label: str) -> NDArray[np.uint8]:
    """Return an image, upright, as uint8 rgb_HWC; ``label`` names it in errors (see :func:`open_image`)."""
    with open_image(file, label=label) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


@contextmanager
def open_image(source: Path | BinaryIO, *, label: str = "image") -> Iterator[Image.Image]:
    """Open an image; whatever Pillow raises, now or while it is used, becomes an error of one line.

    Raises
    ------
    InputError
        If it is damaged, not an image, or has more pixels than Pillow accepts (179 million).
    """
    try:
        # Pillow's warnings of large sizes and odd tags are not for the user: what matters is an error.
        with warnings.catch_warnings(action="ignore"), Image.open(source) as image:
            yield image
    except UnidentifiedImageError:
        raise InputError(f"{label}: not a readable image: its format is unknown") from None
    except (*PILLOW_ERRORS, Image.DecompressionBombError) as error:
        raise InputError(f"{label}: not a readable image: {error}") from error


class _Shown(NamedTuple):
    """An image as its header describes it, upright; ``is_deep``: with more than 8 bits per sample."""

    height: int
    width: int
    num_pictures: int
    is_deep: bool


def _shown(file: Path) -> _Shown:
    if exists_as_other(file, stat.S_ISREG):
        raise InputError(f"{file}: not a regular file; a folder of images holds nothing else of such names")
    with open_image(file, label=str(file)) as image:
        mode, (width, height) = image.mode, image.size
        is_deep = is_deep_image(image)
        # Photographs may have a preview or another view behind them.
        num_pictures = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        # Orientations 5 to 8 swap rows and columns.
        is_turned = image.getexif().get(EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    if mode not in MODES and not is_deep:
        problem = f"its samples have more than 16 bits, or are no whole numbers (Pillow mode {mode})"
        raise InputError(f"{file}: {problem}; convert it to 8 or 16 bits")
    rows, columns = (width, height) if is_turned else (height, width)
    return _Shown(rows, columns, num_pictures, is_deep)
