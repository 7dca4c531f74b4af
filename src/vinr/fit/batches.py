"""What each step of an epoch trains on: whole frames, or patches from many frames.

An epoch visits every sample once: every frame that is trained on, or every patch of them. A batch of patches
holds as many as ``batch_size`` frames have, from anywhere in the video (HiNeRV, section 3). Models that
decode several frames together get them together: a batch then holds ``batch_size`` such groups of frames.

Where several processes fit (:mod:`vinr.fit.ranks`), each works on its slice of every batch::

    batch of 5   ├─ 0 ── 1 ── 2 ─┼─ 3 ── 4 ─┤
                 rank 0: 3/5     rank 1: 2/5        a share of the loss each
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vinr.config import FitSettings
from vinr.errors import UsageError, override
from vinr.fit.ranks import ALONE, Ranks
from vinr.video.patches import cut_at
from vinr.video.spec import PatchGrid, Query, computable, to_unit


class BatchPart(NamedTuple):
    """Samples that are computed at once; ``share`` is how much of the whole batch, of all ranks, they are."""

    sample_N: Tensor
    share: float


class Batches:
    """The order of samples, and what belongs to them.

    Parameters
    ----------
    frame_N
        The frames that are trained on, int64.
    group_N
        A number for each of them; frames that share one stay together.
    settings
        Batch size, patches and seed.
    coded_size
        Rows and columns that the model produces and patches are cut from.
    ranks
        The processes that share every batch.

    Raises
    ------
    UsageError
        If a batch is smaller than the number of ranks.
    """

    def __init__(
        self,
        frame_N: Tensor,
        group_N: Tensor,
        settings: FitSettings,
        coded_size: tuple[int, int],
        ranks: Ranks = ALONE,
    ) -> None:
        self._grid = PatchGrid(*settings.patches)
        self._coded_size = coded_size
        self._seed = settings.seed
        cells = self._grid.rows * self._grid.cols
        self._batch_size, self._ranks = settings.batch_size * cells, ranks
        if self._batch_size < ranks.count:
            enough = override(f"fit.batch_size={math.ceil(ranks.count / cells)}")
            raise UsageError(
                f"fit.batch_size {settings.batch_size} is the batch of all {ranks.count} processes together, "
                f"too small for a part each; give {enough} or more, or start fewer processes"
            )
        self._micro_batch = settings.micro_batch
        sizes = torch.unique(group_N, return_counts=True)[1].tolist()
        members = torch.split(frame_N[torch.argsort(group_N, stable=True)], sizes)
        # One item for each place of each group: its frames, or the same patch of each of them. A sample is
        # numbered  frame · cells + cell,  cells row by row.
        self._items: list[Tensor] = []
        for frame_G in members:
            self._items += (frame_G * cells + torch.arange(cells)[:, None]).unbind()
        whole, rest = divmod(len(members), settings.batch_size)
        self.steps_per_epoch = max(whole + (rest > 0 and not settings.drop_last), 1)

    def of_epoch(self, epoch: int) -> list[tuple[BatchPart, ...]]:
        """Return this rank's slices of the batches of an epoch, each in the parts that are computed at once.

        Seed and epoch alone decide, so any step can be redone.
        """
        # Seeds of epochs lie 2^24 apart for neighbouring seeds, and a generator takes 63 bits.
        generator = torch.Generator().manual_seed((self._seed << 24) + epoch & 0x7FFF_FFFF_FFFF_FFFF)
        order = torch.randperm(len(self._items), generator=generator)
        return list(map(self._parts, torch.split(order, self._batch_size)[: self.steps_per_epoch]))

    def from_step(self, start: int) -> list[tuple[BatchPart, ...]]:
        """Return the batches of an epoch that are left at step ``start`` of the fit."""
        epoch, first = divmod(start, self.steps_per_epoch)
        return self.of_epoch(epoch)[first:]

    def _parts(self, batch: Tensor) -> tuple[BatchPart, ...]:
        count = len(self._samples(batch))
        slices = torch.tensor_split(batch, self._ranks.count)  # the first are the largest
        at_once = self._micro_batch or len(slices[0])
        parts = []
        for items in torch.split(slices[self._ranks.number], at_once):
            if len(items):
                sample_N = self._samples(items)
                parts.append(BatchPart(sample_N, len(sample_N) / count))
        # All ranks compute as many parts, since in each they draw noise and exchange frames: one that has
        # fewer computes the first sample, for nothing.
        idle = math.ceil(len(slices[0]) / at_once) - len(parts)
        return (*parts, *[BatchPart(self._samples(batch[:1]), 0.0)] * idle)

    def _samples(self, part: Tensor) -> Tensor:
        return torch.cat([self._items[number] for number in part.tolist()])

    def query(self, sample_N: Tensor) -> Query:
        """Return what a batch asks the model for."""
        # sample 17 of a grid of 2 × 3:   17 = 2 · 6 + 5  ─>  frame 2, cell 5  ─>  row 1, column 2
        cols = self._grid.cols
        cell_N = sample_N % (self._grid.rows * cols)
        time_N = (sample_N // (self._grid.rows * cols)).to(torch.float64)
        return Query(time_N, cell_N // cols, cell_N % cols, self._grid)

    def target(self, frames_NCHW: Tensor, query: Query) -> Tensor:
        """Return the pixels of ``query`` in [0, 1], out of all ``frames_NCHW``; patches repeat its edges."""
        if query.grid.is_whole_frame:
            return to_unit(computable(frames_NCHW)[query.time_N.long()].view(frames_NCHW.dtype))
        return to_unit(cut_at(frames_NCHW, query, coded_size=self._coded_size))

    def weight(self, weight_N1HW: Tensor | None, query: Query) -> Tensor | None:
        """Return the weights of the pixels of ``query``, given those of the whole frames it lies in."""
        if weight_N1HW is None or query.grid.is_whole_frame:
            return weight_N1HW
        # weight_N1HW holds the frames of this batch alone: each query asks for the one at its own place.
        place_N = torch.arange(len(query), device=query.time_N.device).to(torch.float64)
        placed = Query(place_N, query.row_N, query.col_N, query.grid)
        return cut_at(weight_N1HW, placed, coded_size=self._coded_size)
