"""Writes frames as an animated GIF: 256 colours per frame, times in hundredths of a second.

Axes: H rows, W columns, C colour channels.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from vinr.errors import UsageError
from vinr.files import as_output_error
from vinr.video.spec import Levels, Timeline, VideoSpec

SUFFIX: Final = ".gif"
# Players show shorter frames ten times as long.
LEAST_TICKS: Final = 2
MILLISECONDS_PER_TICK: Final = 10
MOST_SIDE: Final = 65_535


class GifWriter:
    """Holds the frames, one byte per pixel, until :meth:`finish` writes them to ``path``.

    Raises
    ------
    UsageError
        If the frames are larger than a GIF may be.
    """

    def __init__(self, path: Path, spec: VideoSpec, timeline: Timeline, target: Path) -> None:
        if max(spec.height, spec.width) > MOST_SIDE:
            raise UsageError(f"{target}: a GIF has at most {MOST_SIDE} rows and columns; write .mp4")
        self._path, self._target, self._timeline = path, target, timeline
        self._images: list[Image.Image] = []
        self.notes: tuple[str, ...] = (
            f"{target}: a GIF has 256 colours per frame, and no audio; .mp4 has all",
        )
        if self._is_too_fast():
            self.notes += (f"{target}: a GIF shows at most 50 frames per second; it plays more slowly",)

    def put(self, rgb_HWC: Levels) -> None:
        """Take the next frame; of 10 bits the upper 8 are kept."""
        levels = rgb_HWC if rgb_HWC.dtype == np.uint8 else (rgb_HWC >> 2).astype(np.uint8)
        self._images.append(Image.fromarray(levels).quantize(dither=Image.Dither.FLOYDSTEINBERG))

    def finish(self) -> None:
        """Write the file; it repeats without end."""
        first, *others = self._images
        with as_output_error(self._target):
            first.save(
                self._path,
                format="GIF",
                save_all=True,
                append_images=others,
                duration=[MILLISECONDS_PER_TICK * ticks for ticks in self._ticks()],
                loop=0,
                disposal=1,
            )

    def _ticks(self) -> list[int]:
        """Return how long each frame is shown; rounding does not add up."""
        ticks, shown, line = [], 0, self._timeline
        for index in range(line.num_frames):
            last = index + 1 == line.num_frames
            end = line.duration if last else line.seconds(index + 1)
            ticks.append(max(round(Fraction(end) * 100) - shown, LEAST_TICKS))
            shown += ticks[-1]
        return ticks

    def _is_too_fast(self) -> bool:
        return sum(self._ticks()) > self._timeline.duration * 100 + LEAST_TICKS
