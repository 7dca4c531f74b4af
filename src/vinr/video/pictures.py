"""Pictures that Pillow reads and libav does not: animated WebP, pages of TIFF, photographs of phones.

Axes: H rows, W columns, C colour channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vinr.errors import InputError, UsageError, argument
from vinr.video.deep_images import is_deep_image
from vinr.video.depth import with_depth
from vinr.video.images import FRAME_RATE, MODES, is_transparent, open_image
from vinr.video.picture import TRANSPARENT
from vinr.video.spec import BitDepth, ColorSpec, Levels, Timeline

# First bytes of the files of which libav reads at most the first picture.
SIGNATURES: Final = (b"RIFF", b"II*\0", b"II+\0", b"MM\0*", b"MM\0+")
# Photographs with something behind them: another view, a preview, a short film. These are no frames.
PHOTOGRAPHS: Final = frozenset({"JPEG", "MPO"})
MILLISECOND: Final = Fraction(1, 1000)
# What browsers take for a picture that states no time.
UNSTATED_MS: Final = 100
MAX_RATE_PART: Final = 10**6


class PicturesInput:
    """The pictures of a file, shown for as long as it says, else ``rate`` a second; transparency is dropped.

    Raises
    ------
    InputError
        If one cannot be read, or two differ in size.
    UsageError
        If there is a ``rate`` and the file has times.
    """

    def __init__(
        self, path: Path, *, rate: Fraction | None = None, bit_depth: BitDepth | None = None
    ) -> None:
        self.path = path
        self.color, self.pixel_aspect = ColorSpec(), Fraction(1)
        self.bit_depth: BitDepth = bit_depth or 8
        sizes: list[tuple[int, int]] = []
        durations: list[int | None] = []
        with open_image(path, label=str(path)) as image:
            is_photograph = image.format in PHOTOGRAPHS
            self.num_frames = 1 if is_photograph else getattr(image, "n_frames", 1)
            is_clear = is_transparent(image)
            num_deep = 0
            for rgb_HWC, milliseconds, is_deep in _decode(image, self.num_frames, path):
                sizes.append((rgb_HWC.shape[0], rgb_HWC.shape[1]))
                durations.append(milliseconds)
                num_deep += is_deep
        self.height, self.width = sizes[0]
        for number, (height, width) in enumerate(sizes):
            if (height, width) != sizes[0]:
                expected = f"the first is {self.height}x{self.width}"
                raise InputError(f"{path}: picture {number} is {height}x{width}, {expected}")
        has_times = any(durations)
        if has_times and rate is not None:
            raise UsageError(f"{path}: states its times itself; leave {argument('rate')} out")
        self._rate = rate or FRAME_RATE
        self._durations = [value or UNSTATED_MS for value in durations] if has_times else None
        self._notes: tuple[str, ...] = ()
        if is_photograph:
            self._notes = (f"{path}: the photograph is read, not what follows it in the file",)
        elif has_times and not all(durations):
            count = sum(not value for value in durations)
            unstated = f"no times for {count} of {self.num_frames} frames"
            self._notes = (f"{path}: states {unstated}; they are shown for {UNSTATED_MS} ms",)
        if num_deep:
            those = f"{num_deep} of {self.num_frames} pictures have"
            self._notes += (f"{path}: {those} more than 8 bits per sample, which are cut to 8",)
        if is_clear:
            self._notes += (f"{path}: {TRANSPARENT}",)

    def timeline(self, first: int, stop: int) -> Timeline:
        """Return when pictures ``first`` ≤ i < ``stop`` are shown, the first of them at 0."""
        count = stop - first
        if self._durations is None:
            return Timeline(count, self._rate)
        durations = self._durations[first:stop]
        # A rate of whole parts small enough for a file's header.
        rate = Fraction(1000 * count, sum(durations)).limit_denominator(MAX_RATE_PART)
        if len(set(durations)) == 1:
            return Timeline(count, rate)
        starts = tuple(accumulate(durations[:-1], initial=0))
        return Timeline(count, rate, MILLISECOND, starts, last_seconds=durations[-1] * MILLISECOND)

    def inspect(self, first: int, stop: int) -> tuple[str, ...]:
        """Return lines for the user about times that are not stated, and pictures that are not read."""
        return self._notes

    def decode(self, first: int) -> Iterator[Levels]:
        """Yield pictures ``first``, ``first`` + 1, … as rgb_HWC of ``bit_depth``."""
        with open_image(self.path, label=str(self.path)) as image:
            for rgb_HWC, _, _ in _decode(image, self.num_frames, self.path, first):
                yield with_depth(torch.from_numpy(rgb_HWC.copy()), self.bit_depth).numpy()

    def write_audio(
        self, first: int, stop: int, target: BinaryIO, on_note: Callable[[str], None]
    ) -> Fraction | None:
        """Return None: pictures have no audio."""
        return None


def _decode(
    image: Image.Image, num_frames: int, path: Path, first: int = 0
) -> Iterator[tuple[NDArray[np.uint8], int | None, bool]]:
    """Yield pictures from ``first`` on, upright, as uint8 rgb_HWC, their milliseconds if stated, and whether
    they had more than 8 bits.
    """
    for number in range(first, num_frames):
        if num_frames > 1:
            image.seek(number)
        if image.mode not in MODES:
            problem = f"picture {number} has more than 8 bits (Pillow mode {image.mode})"
            raise InputError(f"{path}: {problem}; convert it to 8 bits")
        is_deep = is_deep_image(image)
        image.load()  # which sets the duration, too
        milliseconds = image.info.get("duration")
        rgb_HWC = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        yield rgb_HWC, None if milliseconds is None else round(milliseconds), is_deep


def has_several_pictures(path: Path) -> bool:
    """Return whether ``path`` is a file of several pictures that libav reads the first of at most."""
    try:
        with path.open("rb") as file:
            if not file.read(4).startswith(SIGNATURES):
                return False
        with open_image(path) as image:
            return getattr(image, "n_frames", 1) > 1
    except (OSError, InputError):
        return False


def is_photograph(path: Path) -> bool:
    """Return whether Pillow reads ``path``, its pixels included."""
    try:
        with open_image(path) as image:
            image.load()
            return True
    except InputError:
        return False
