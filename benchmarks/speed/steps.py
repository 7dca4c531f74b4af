"""Steps of a fit: their seconds, and their multiply-accumulates.

Axes: N frames of a batch, C colour channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Final, final

import torch
from torch import Tensor

from benchmarks.speed.turns import Clock
from vinr.config import Preset
from vinr.fit import Trainer
from vinr.fit.batches import Batches, BatchPart
from vinr.models import get_model, validate_architecture
from vinr.models.cost import MacCounter
from vinr.video.source import FrameTensor

# Gradients of a layer's input and of its weights take as many products as the layer itself.
STEP_OVER_FORWARD: Final = 3


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

    def _endless(self) -> Iterator[Sequence[BatchPart]]:
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
        for sample_N, _ in batches.of_epoch(0)[0]:
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
