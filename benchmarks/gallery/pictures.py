"""Pictures of the gallery: a row for each frame that a job kept, panels with captions side by side.

Axes: N frames shown, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from torch import Tensor

from benchmarks.gallery.settings import DIFFERENCE, Section
from benchmarks.gallery.shown import ShownFrames
from vinr.comparison.report import Panel, draw_sheet, signed_difference
from vinr.files import atomic_path
from vinr.quality.clip import psnr_per_frame_db

SUFFIX: Final = ".webp"
# Of lossy WebP. Differences are noise, which costs most of the bytes; below this, captions are smeared.
QUALITY: Final = 85
# Smaller panels are enlarged by a whole number to at least so many columns: captions need the room.
LEAST_COLUMNS: Final = 320


@dataclass(frozen=True)
class Shown:
    """A picture that was written: its file name, the frames it shows, PSNR in dB of the scored panels."""

    picture: str
    frames: tuple[int, ...]
    psnr_db: Mapping[str, tuple[float, ...]]


def write_picture(section: Section, name: str, kept: ShownFrames, folder: Path) -> Shown:
    """Write the picture of frames that a job kept to ``folder``, its name being ``name`` and a suffix.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    original_NCHW = kept.rgb_NCHW["original"]
    target_NCHW = original_NCHW.double() / 255
    psnr_db = {
        panel: tuple(psnr_per_frame_db(kept.rgb_NCHW[panel].double() / 255, target_NCHW).tolist())
        for panel in section.scored
    }
    rows, numbers = [], kept.index_N.tolist()
    for row, number in enumerate(numbers):
        captions = [
            f"{caption}, {psnr_db[panel][row]:.1f} dB" if panel in psnr_db else caption
            for panel, caption in section.panels.items()
        ]
        captions[0] = f"frame {number}: {captions[0]}"
        pictures = [_picture(section, panel, kept.rgb_NCHW, row) for panel in section.panels]
        rows.append([Panel(*panel) for panel in zip(captions, pictures, strict=True)])
    sheet = draw_sheet(rows, enlarge=-(-LEAST_COLUMNS // original_NCHW.shape[3]))
    with atomic_path(folder / (name + SUFFIX), force=True) as temporary:
        sheet.save(temporary, format="WEBP", quality=QUALITY)
    return Shown(name + SUFFIX, tuple(numbers), psnr_db)


def _picture(section: Section, panel: str, rgb_NCHW: Mapping[str, Tensor], row: int) -> Tensor:
    if panel == DIFFERENCE:
        return signed_difference(rgb_NCHW[section.compared][row], rgb_NCHW["original"][row])
    return rgb_NCHW[panel][row]
