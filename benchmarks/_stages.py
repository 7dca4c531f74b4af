"""Fits of the reduced Bunny that share their plain part: phases tried one by one on the same fitted network.

The state at the end of the plain fit is kept in a file, so that every variant goes on from the same numbers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vinr.compress import pack_tensors
from vinr.config import CompressSettings, Phase, Preset
from vinr.evaluate.metrics import ClipQuality, compare_sources
from vinr.fit import FitResult, RoundDone
from vinr.fit.checkpoint import FitState
from vinr.fit.loop import _Run
from vinr.fit.tasks import Reconstruct
from vinr.pack import FittedSegment
from vinr.plan import choose_preset
from vinr.tensorfile import read_tensors, write_tensors
from vinr.video.samples import sample_clip
from vinr.video.source import FrameTensor, open_video

__all__ = ["Base", "Measured", "bunny", "claim", "fit_base", "go_on", "measure"]

# More than rounding can take from a share, so that a phase begins at the first step after the plain fit.
SHARE_SLACK = 1e-9


def bunny() -> FrameTensor:
    """Return Bunny, centre-crop 640×1280, area-averaged to 160×320, all 132 frames."""
    with open_video(sample_clip("bigbuckbunny.mp4"), crop=(640, 1280), resize=(160, 320)) as reader:
        return reader.read()


def claim(path: Path) -> bool:
    """Return whether the row of ``path`` is this process's to make: others may share the work."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


@dataclass(frozen=True)
class Base:
    """A plain fit of ``epochs`` epochs: what was fitted, how, and the state at its end."""

    preset: Preset
    epochs: int
    state: FitState

    def with_settings(self, compress: CompressSettings) -> Base:
        """Return the same fit, to be prepared for other bit depths."""
        return replace(self, preset=self.preset.model_copy(update={"compress": compress}))


@dataclass(frozen=True)
class Measured:
    """A written file: its bytes (all of them), and the quality of its frames.

    ``coded_bytes`` are those of symbols, ``ideal_bytes`` what their models assign to them; ``side_share`` is
    the part of the file that is header, index, models and steps.
    """

    num_bytes: int
    bits_a_number: float
    coded_bytes: float
    ideal_bytes: float
    side_share: float
    quality: ClipQuality


def fit_base(
    frames: FrameTensor, model: str, size: int, epochs: int, folder: Path, overrides: Sequence[str] = ()
) -> Base:
    """Fit ``model`` for ``epochs`` epochs, or read the fit that ``folder`` holds."""
    preset = choose_preset(
        frames.spec, model=model, preset=None, num_parameters=size, overrides=[*overrides]
    ).model_copy(deep=True)
    path = folder / f"base-{model}-{size}-{epochs}.tensors"
    if not path.exists():
        run = _run(frames, preset, epochs, [])
        for event in run.rounds():
            _say(event)
        write_tensors(path, run.good.tensors, run.good.values)
    return Base(preset, epochs, FitState(*read_tensors(path)))


def go_on(
    frames: FrameTensor,
    base: Base,
    phases: Sequence[tuple[int, Mapping[str, Any]]],
    *,
    at_end: Callable[[int, _Run], None] | None = None,
) -> FitResult:
    """Go on from ``base`` with ``phases``: (epochs, settings) each; ``at_end`` sees the end of each."""
    total = base.epochs + sum(epochs for epochs, _ in phases)
    settings = [Phase(share=epochs / total + SHARE_SLACK, **given) for epochs, given in phases]
    run = _run(frames, base.preset, total, settings)
    run.load(replace(base.state, values=base.state.values | {"fingerprint": run._fingerprint()}))
    ends, passed = [base.epochs], 0
    for epochs, _ in phases:
        ends.append(ends[-1] + epochs)
    for event in run.rounds():
        _say(event)
        while passed < len(phases) and run.steps_done >= ends[passed + 1] * run.steps_per_epoch:
            if at_end is not None:
                at_end(passed, run)
            passed += 1
    return run.finish()


def measure(
    frames: FrameTensor, preset: Preset, result: FitResult, settings: CompressSettings | None = None
) -> Measured:
    """Write the fitted network, decode it, and score it."""
    packed = pack_tensors(result.model.stored(), settings or preset.compress, steps=result.steps)
    segment = FittedSegment.of(preset, result, packed, frames.spec)
    with segment.open(frames.spec, "cpu") as decoder:
        quality = compare_sources(decoder, frames)
        num_bytes = decoder.num_bytes
        front = sum(decoder.front_bytes)
    side = front + sum(component.side_bytes for component in packed.components)
    return Measured(
        num_bytes=num_bytes,
        bits_a_number=8 * num_bytes / segment.num_parameters,
        coded_bytes=num_bytes - side,
        ideal_bytes=packed.ideal_bits / 8,
        side_share=side / num_bytes,
        quality=quality,
    )


def _run(frames: FrameTensor, preset: Preset, epochs: int, phases: Sequence[Phase]) -> _Run:
    fit = preset.fit.model_copy(update={"epochs": epochs, "phases": tuple(phases)})
    preset = preset.model_copy(update={"fit": fit})
    return _Run(frames, preset, Reconstruct(), torch.device("cpu"), None, 0.0)


def _say(event: object) -> None:
    if isinstance(event, RoundDone):
        print(f"  {event.epochs_done:5.1f} epochs  {event.psnr_db:6.2f} dB", flush=True)
    else:
        print(f"  {type(event).__name__}", flush=True)
