"""A test of an inpainting in use: a copy of the mask, moved to pixels that are known, is hidden as well.

Nobody knows the masked pixels, but what the network makes of the copy can be compared with the video, and so
can what needs no network.

Axes: N frames that are looked at, T frames of the video, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from vinr.tasks.frames import psnr_of_frames_db
from vinr.tasks.trivial import NearestVisibleFrames, SurroundingsFrames, say_behind
from vinr.video.spec import FrameSource

# The copy costs the fit some of its pixels: at most a tenth of them.
MAX_SHARE: Final = 1 / 10
# Where the copy goes is found on a grid of about so many cells a side, in so many frames.
CELLS, LOOKED_AT = 64, 8
# Between mask and copy, in cells: pixels around the mask are those that the filling needs most.
MARGIN: Final = 2
# A copy nearby is more like what is masked than one far off, and worth some of its pixels.
ENOUGH: Final = 0.9
# Frames of a segment in which the copy is measured.
MEASURED: Final = 16


@dataclass(frozen=True)
class HeldOutPsnr:
    """PSNR in dB where a copy of the mask was hidden from the fit, the mean over frames.

    ``network_psnr_db`` is the network's, ``surroundings_psnr_db`` that of blurred surroundings,
    ``nearest_psnr_db`` that of the same pixels in the nearest frame that shows them (the surroundings, where
    none does). ``share`` is that of the copy, of all pixels.
    """

    network_psnr_db: float
    surroundings_psnr_db: float
    nearest_psnr_db: float
    share: float

    @property
    def behind(self) -> str | None:
        """A line, if the network is behind a trivial way."""
        ways = {"blurred surroundings": self.surroundings_psnr_db, "nearest frame": self.nearest_psnr_db}
        return say_behind(self.network_psnr_db, ways)


def hold_out_copy(mask_T1HW: Tensor) -> Tensor | None:
    """Return a copy of the mask, moved by the same way in all frames to where nothing is masked; bool.

    What leaves the frame or falls on the mask is left out, and as many of the last columns as are needed
    to stay below ``MAX_SHARE`` of the pixels that are not masked. None if nothing is left.
    """
    # A single mask for all frames shares its memory between them, and so does its copy.
    masks_T1HW = mask_T1HW[:1] if _is_shared(mask_T1HW) else mask_T1HW
    rows, cols = _choose_shift(masks_T1HW)
    copy_T1HW = _shift(masks_T1HW, rows, cols) & ~masks_T1HW
    known_T = (~masks_T1HW).sum((1, 2, 3))
    # A frame of which little is known keeps it.
    copy_T1HW[copy_T1HW.sum((1, 2, 3)) > known_T / 2] = False
    num_before_W = copy_T1HW.sum((0, 1, 2)).cumsum(0)
    copy_T1HW[..., num_before_W > MAX_SHARE * float(known_T.sum())] = False
    if not bool(copy_T1HW.any()):
        return None
    return copy_T1HW.expand(mask_T1HW.shape)


def join_masks(first_T1HW: Tensor, second_T1HW: Tensor) -> Tensor:
    """Return what one of two masks masks; if both share their memory between frames, so does the result."""
    if _is_shared(first_T1HW) and _is_shared(second_T1HW):
        return (first_T1HW[:1] | second_T1HW[:1]).expand(first_T1HW.shape)
    return first_T1HW | second_T1HW


def _is_shared(mask_T1HW: Tensor) -> bool:
    return len(mask_T1HW) > 1 and mask_T1HW.stride(0) == 0


def _choose_shift(mask_T1HW: Tensor) -> tuple[int, int]:
    """Return rows and columns by which to move the mask so that most of it is on known pixels."""
    height, width = mask_T1HW.shape[2:]
    num_looked_at = min(len(mask_T1HW), LOOKED_AT)
    looked_at_N = torch.linspace(0, len(mask_T1HW) - 1, num_looked_at).long()
    cell = max(1, max(height, width) // CELLS)
    # A cell is masked if a pixel in it is; the last rows and columns may make up a smaller one.
    masked_N1HW = max_pool2d(mask_T1HW[looked_at_N].float(), cell, ceil_mode=True)
    near_N1HW = max_pool2d(masked_N1HW, 2 * MARGIN + 1, stride=1, padding=MARGIN) > 0
    num_rows, num_cols = masked_N1HW.shape[2:]
    step = max(1, CELLS // 16)
    counts = dict[tuple[int, int], int]()
    for rows in range(-(num_rows // step) * step, num_rows, step):
        for cols in range(-(num_cols // step) * step, num_cols, step):
            moved_N1HW = _shift(masked_N1HW > 0, rows, cols)
            counts[rows, cols] = int((moved_N1HW & ~near_N1HW).sum())
    enough = max(1.0, ENOUGH * max(counts.values()))
    ways = [way for way, count in counts.items() if count >= enough]
    rows, cols = min(ways, key=lambda way: (way[0] ** 2 + way[1] ** 2, way), default=(0, 0))
    return rows * cell, cols * cell


def _shift(mask_T1HW: Tensor, rows: int, cols: int) -> Tensor:
    """Return the mask moved down and to the right; what leaves the frame is gone."""
    height, width = mask_T1HW.shape[2:]
    moved_T1HW = torch.zeros_like(mask_T1HW)
    # rows = 2:  0 1 2 3 4      rows = -2:  0 1 2 3 4
    #        ─>  . . 0 1 2              ─>  2 3 4 . .
    to_rows, to_cols = slice(max(rows, 0), height + min(rows, 0)), slice(max(cols, 0), width + min(cols, 0))
    from_rows = slice(max(-rows, 0), height - max(rows, 0))
    from_cols = slice(max(-cols, 0), width - max(cols, 0))
    moved_T1HW[..., to_rows, to_cols] = mask_T1HW[..., from_rows, from_cols]
    return moved_T1HW


def measure_copy(
    source: FrameSource, network: FrameSource, mask_T1HW: Tensor, copy_T1HW: Tensor
) -> HeldOutPsnr:
    """Compare the network's and the trivial fillings of ``copy_T1HW`` with ``source``.

    Parameters
    ----------
    network
        Frames of a network fitted without mask and copy, as many as ``source`` has.
    copy_T1HW
        As :func:`hold_out_copy` makes it of ``mask_T1HW``; neither is used by any way of filling.
    """
    hidden_T1HW = join_masks(mask_T1HW, copy_T1HW)
    has_N = copy_T1HW.flatten(1).any(1).nonzero().flatten()
    index_N = has_N[torch.linspace(0, len(has_N) - 1, min(len(has_N), MEASURED)).long()]

    def score(frames: FrameSource) -> float:
        return fmean(psnr_of_frames_db(frames, source, index_N, copy_T1HW))

    return HeldOutPsnr(
        network_psnr_db=score(network),
        surroundings_psnr_db=score(SurroundingsFrames(source, hidden_T1HW)),
        nearest_psnr_db=score(NearestVisibleFrames(source, hidden_T1HW)),
        share=float(copy_T1HW.double().mean()),
    )


def mean_held_out(parts: Sequence[HeldOutPsnr]) -> HeldOutPsnr | None:
    """Return the mean over the segments of a video that were measured; None if none was."""
    if not parts:
        return None
    return HeldOutPsnr(
        network_psnr_db=fmean(part.network_psnr_db for part in parts),
        surroundings_psnr_db=fmean(part.surroundings_psnr_db for part in parts),
        nearest_psnr_db=fmean(part.nearest_psnr_db for part in parts),
        share=fmean(part.share for part in parts),
    )
