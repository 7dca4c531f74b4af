"""How long a recipe takes to a quality.

Axes: N frames of a batch, C colour channels, H rows, W columns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch

from vinr.config import Preset
from vinr.fit import Event, FitResult, Noted, RoundDone, Trainer
from vinr.fit.budget import Budget
from vinr.models import VideoModel
from vinr.quality.clip import psnr_per_frame_db
from vinr.video.source import FrameTensor
from vinr.video.spec import FrameSource, Query, to_levels

# Above and below the quality that the paper's recipe ends with, in dB.
LEVELS_DB: Final = (-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Curve:
    """A fit: PSNR (mean of the frames, as 8-bit) at the end of each round, and what it took.

    ``epochs`` and ``psnr_db`` belong together; ``wall_seconds`` are those that passed while fitting, without
    the measuring; ``result`` is the fitted network.
    """

    label: str
    recipe: str
    epochs: tuple[float, ...]
    psnr_db: tuple[float, ...]
    wall_seconds: float
    result: FitResult = field(repr=False)

    def epochs_to(self, level_db: float) -> float | None:
        """Return after how many epochs a round first ended with ``level_db``, None if none did."""
        for epochs, psnr_db in zip(self.epochs, self.psnr_db, strict=True):
            if psnr_db >= level_db:
                return epochs
        return None


def fit_curve(
    frames: FrameTensor,
    preset: Preset,
    device: torch.device,
    *,
    label: str,
    num_steps: int,
    on_event: Callable[[Event], None],
) -> Curve:
    """Fit ``num_steps`` steps, and measure all frames after each round."""
    on_event(Noted(f"{preset.name}: {label}, {num_steps} steps"))
    trainer = Trainer(frames, preset, device=device)
    trainer.budget = Budget(num_steps)
    epochs, psnr_db, wall = [], [], 0.0
    with trainer.computing():
        started = time.perf_counter()
        for event in trainer.rounds():
            wall += time.perf_counter() - started
            on_event(event)
            if isinstance(event, RoundDone):
                epochs.append(event.epochs_done)
                psnr_db.append(mean_psnr_db(trainer.model, frames, trainer.frames, device))
            started = time.perf_counter()
    result = trainer.finish()
    wall += time.perf_counter() - started
    # Averaged weights are in place now, the encoder gone.
    psnr_db[-1] = mean_psnr_db(result.model, frames, None, device)
    return Curve(label, preset.fit.recipe, tuple(epochs), tuple(psnr_db), wall, result)


def mean_psnr_db(
    model: VideoModel, frames: FrameTensor, source: FrameSource | None, device: torch.device
) -> float:
    """Return the mean PSNR of all frames as 8-bit numbers; ``source`` is what an encoder needs."""
    group_N = model.group_of(torch.arange(frames.spec.num_frames))
    psnr_db = []
    model.eval()
    with torch.inference_mode():
        # Frames of a group are computed together, as they are trained.
        for group in group_N.unique():
            index_N = (group_N == group).nonzero()[:, 0]
            rgb_NCHW = to_levels(model(Query.of_frames(index_N.to(device)), source), 8).cpu()
            psnr_db.append(psnr_per_frame_db(rgb_NCHW.double() / 255, frames.frames(index_N).double() / 255))
    return float(torch.cat(psnr_db).mean())


@dataclass(frozen=True)
class LevelRow:
    """How long two recipes take to a PSNR; None where a recipe did not reach it."""

    level_db: float
    paper_seconds: float | None
    vinr_seconds: float | None

    @property
    def times_as_fast(self) -> float | None:
        """The paper's time over vinr's."""
        if self.paper_seconds is None or self.vinr_seconds is None:
            return None
        return self.paper_seconds / self.vinr_seconds


def level_rows(
    paper: Curve, others: Sequence[Curve], *, paper_epoch_seconds: float, vinr_epoch_seconds: float
) -> list[LevelRow]:
    """Return times to levels around the paper's last; vinr's is that of its fit that gets there first."""
    rows = []
    for level_db in (paper.psnr_db[-1] + offset for offset in LEVELS_DB):
        paper_epochs = paper.epochs_to(level_db)
        all_epochs = [curve.epochs_to(level_db) for curve in others]
        reached = [epochs for epochs in all_epochs if epochs is not None]
        rows.append(
            LevelRow(
                level_db=level_db,
                paper_seconds=None if paper_epochs is None else paper_epochs * paper_epoch_seconds,
                vinr_seconds=min(reached) * vinr_epoch_seconds if reached else None,
            )
        )
    return rows
