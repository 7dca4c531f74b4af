"""How fast networks are fitted: seconds a step of two recipes, and how long each takes to a quality.

Axes: N frames of a batch, C colour channels, H rows, W columns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from statistics import fmean
from typing import Final, final

import torch
from torch import Tensor

from vinr.bench.speed_turns import Clock
from vinr.config import Preset
from vinr.decoding.networks import to_uint8
from vinr.fit import Event, FitResult, Noted, RoundDone, Trainer
from vinr.fit.batches import Batches
from vinr.fit.budget import Budget
from vinr.models import VideoModel, get_model, validate_architecture
from vinr.models.cost import MacCounter
from vinr.quality.measures import psnr_from_mse_db
from vinr.video.source import FrameTensor
from vinr.video.spec import FrameSource, Query

# Gradients of a layer's input and of its weights take as many products as the layer itself.
STEP_OVER_FORWARD: Final = 3
# Above and below the quality that the paper's recipe ends with, in dB.
LEVELS_DB: Final = (-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0)


@final
class Stepper:
    """Steps of a fit, one after another for as long as asked."""

    def __init__(self, frames: FrameTensor, preset: Preset, device: torch.device) -> None:
        self._trainer = Trainer(frames, preset, device=device)
        self._trainer.model.train()
        self.steps_per_epoch = self._trainer.steps_per_epoch
        self._batches = self._endless()

    def steps(self, number: int) -> None:
        """Do ``number`` steps, optimiser included."""
        for _ in range(number):
            self._trainer.train_on(next(self._batches))
            self._trainer.steps_done += 1

    def work(self, number: int, clock: Clock) -> Callable[[], float]:
        """Return what does ``number`` steps and returns the seconds of one, after one that is not counted."""

        def timed() -> float:
            with self._trainer.computing():
                self.steps(1)  # finds the memory
                return clock.of(lambda: self.steps(number)) / number

        return timed

    def _endless(self) -> Iterator[Sequence[Tensor]]:
        for epoch in count():
            yield from self._trainer.batches.of_epoch(epoch)


def step_macs(preset: Preset, frames: FrameTensor) -> int:
    """Return the multiply-accumulates of a step, encoder and both gradients included; nothing is computed.

    Counted as a direct computation takes them: three times the forward pass.
    """
    cls = get_model(preset.model)
    spec = frames.spec
    model = cls.on_meta(validate_architecture(cls, preset.architecture), spec, with_encoder=True)
    batches = Batches(
        torch.arange(spec.num_frames),
        model.group_of(torch.arange(spec.num_frames)),
        preset.fit,
        model.coded_size(),
    )
    counter = MacCounter()
    with torch.no_grad(), counter:
        for sample_N in batches.of_epoch(0)[0]:
            model.training_outputs(batches.query(sample_N), _MetaFrames(frames))
    return STEP_OVER_FORWARD * counter.macs


@final
class _MetaFrames:
    """Frames without values; a :class:`FrameSource`."""

    def __init__(self, frames: FrameTensor) -> None:
        self.spec = frames.spec

    def frames(self, index_N: Tensor) -> Tensor:
        """Return empty uint8 rgb_NCHW."""
        shape = (len(index_N), 3, self.spec.height, self.spec.width)
        return torch.empty(shape, dtype=torch.uint8, device="meta")


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
        reached = (e for e, psnr in zip(self.epochs, self.psnr_db, strict=True) if psnr >= level_db)
        return next(reached, None)


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
    found = []
    model.eval()
    with torch.inference_mode():
        for group in sorted(set(group_N.tolist())):
            index_N = (group_N == group).nonzero()[:, 0]
            rgb_NCHW = to_uint8(model(Query.of_frames(index_N.to(device)), source)).cpu()
            error_NCHW = (rgb_NCHW.double() - frames.frames(index_N).double()) / 255
            found += psnr_from_mse_db(error_NCHW.square().flatten(1).mean(1)).tolist()
    return fmean(found)


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
        own = paper.epochs_to(level_db)
        reached = [found for curve in others if (found := curve.epochs_to(level_db)) is not None]
        rows.append(
            LevelRow(
                level_db=level_db,
                paper_seconds=None if own is None else own * paper_epoch_seconds,
                vinr_seconds=min(reached) * vinr_epoch_seconds if reached else None,
            )
        )
    return rows
