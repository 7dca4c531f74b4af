"""Fits that share their plain part: phases tried one by one on the same fitted network.

The state at the end of the plain fit is kept in a file, so that every variant goes on from the same numbers.

Axes: N frames of a batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vinr.bench.claims import claimed
from vinr.bitstream import ContainerWriter
from vinr.compress import ComponentSize, pack_tensors
from vinr.config import CompressSettings, Preset
from vinr.decoding.file import open_clip
from vinr.device import exact_float32
from vinr.encoding.segment import FittedSegment
from vinr.errors import OutputError, UsageError
from vinr.fit import Event, FitResult, Trainer, fit, ignore
from vinr.fit.checkpoint import FitState, read_fit_state
from vinr.fit.precision import keep_precision, resolve_precision
from vinr.models import VideoModel
from vinr.quality.clip import ClipQuality, compare, psnr_per_frame_db
from vinr.quality.record import Quality
from vinr.tasks.frames import plain_fit
from vinr.video.spec import FrameSource, Query

WAIT_SECONDS = 2.0
SILENT_SECONDS = 1800.0


@dataclass(frozen=True)
class Base:
    """A plain fit of ``epochs`` epochs: what was fitted, how, where, and the state at its end."""

    preset: Preset
    epochs: int
    state: FitState
    device: str = "cpu"

    def with_settings(self, compress: CompressSettings) -> Base:
        """Return the same fit, to be prepared for other bit depths."""
        return replace(self, preset=self.preset.model_copy(update={"compress": compress}))


@dataclass(frozen=True)
class Measured:
    """A written file: its bytes (all of them), and the quality of its frames.

    ``coded_bytes`` are those of symbols, ``ideal_bytes`` what their models assign to them; ``side_share`` is
    the part of the file that is header, index, models and steps. ``spans``: the quality of each clip of the
    network. ``components``: bytes of each tensor; ``keyframe_bytes`` those of images.
    """

    num_bytes: int
    num_parameters: int
    bits_a_number: float
    coded_bytes: float
    ideal_bytes: float
    side_share: float
    quality: ClipQuality
    spans: tuple[Quality, ...] = ()
    components: tuple[ComponentSize, ...] = ()
    keyframe_bytes: int = 0


def at_bits(settings: CompressSettings, bits: int) -> CompressSettings:
    """Return ``settings`` with ``bits`` for everything but vectors, as HiNeRV quantises."""
    return settings.model_copy(update={"weight_bits": bits, "grid_bits": bits, "latent_bits": bits})


def float_psnr_db(model: VideoModel, frames: FrameSource) -> float:
    """Return the mean of frame PSNRs of the unquantised model, float output, as the papers report it."""
    device = next(model.parameters()).device
    values = []
    with torch.inference_mode(), exact_float32(device):
        for index in range(frames.spec.num_frames):
            index_N = torch.tensor([index])
            target_NCHW = frames.frames(index_N).to(device) / 255
            values.append(psnr_per_frame_db(model(Query.of_frames(index_N.to(device))), target_NCHW))
    return float(torch.cat(values).mean())


def fit_base(
    frames: FrameSource,
    preset: Preset,
    path: Path,
    *,
    device: str = "cpu",
    on_event: Callable[[Event], None] = ignore,
) -> Base:
    """Fit ``preset`` without its phases, or read the fit that ``path`` holds, which must be one of the same.

    An interrupted fit goes on; another process's is waited for as long as it shows signs of life.

    Raises
    ------
    UsageError
        If the other process has kept nothing for half an hour.
    """
    while not path.exists():
        with claimed(path.with_suffix(".lock")) as mine:
            if mine and not path.exists():
                _fit_plain(frames, preset, path, device, on_event)
        if not mine:
            _wait(path)
    return Base(preset, preset.fit.epochs, read_fit_state(path), device)


def _wait(path: Path) -> None:
    """Wait a little for the process that fits ``path``: it keeps a checkpoint every now and then."""
    lock = path.with_suffix(".lock")
    signs = [file.stat().st_mtime for file in (lock, path.with_suffix(".checkpoint")) if file.exists()]
    idle = time.time() - max(signs, default=time.time())
    if idle > SILENT_SECONDS:
        raise UsageError(
            f"another process claimed {lock} and has kept nothing for {idle / 60:.0f} minutes; "
            f"if it has ended, remove that file and run the same command again"
        )
    time.sleep(WAIT_SECONDS)


def _fit_plain(
    frames: FrameSource, preset: Preset, path: Path, device: str, on_event: Callable[[Event], None]
) -> None:
    # The state that a fit leaves at its end is what the variants go on from.
    partial = path.with_suffix(".checkpoint")
    fit(frames, plain_fit(preset), device=device, on_event=on_event, checkpoint=partial, resume=True)
    if not partial.exists():
        raise OutputError(f"{partial}: the state of the fit could not be written; see the warning above")
    partial.replace(path)


def go_on(
    frames: FrameSource,
    base: Base,
    phases: Sequence[tuple[int, Mapping[str, Any]]],
    *,
    at_end: Callable[[int, Trainer], None] | None = None,
    on_event: Callable[[Event], None] = ignore,
) -> FitResult:
    """Go on from ``base`` with ``phases``: (epochs, settings) each; ``at_end`` sees the end of each."""
    plain = plain_fit(base.preset)
    precision = resolve_precision(plain.fit.precision, base.device)
    precision = keep_precision(base.state.precision, precision, base.device)
    trainer = Trainer(frames, plain, device=base.device, precision=precision)
    trainer.load(base.state)
    trainer.continue_with(phases)
    ends, passed = [base.epochs], 0
    for epochs, _ in phases:
        ends.append(ends[-1] + epochs)
    for event in trainer.rounds():
        on_event(event)
        while passed < len(phases) and trainer.steps_done >= ends[passed + 1] * trainer.steps_per_epoch:
            if at_end is not None:
                at_end(passed, trainer)
            passed += 1
    return trainer.finish()


@torch.no_grad()
def drop_pruned(trainer: Trainer) -> VideoModel:
    """Set what the phase prunes of a model in training to 0; return the model, in evaluation mode."""
    model = trainer.model
    for name, item in trainer.learner.coding.pruned(model.stored()).items():
        model.stored()[name].value.copy_(item.value)
    return model.eval()


def measure(
    frames: FrameSource,
    preset: Preset,
    result: FitResult,
    settings: CompressSettings | None = None,
    *,
    path: Path | None = None,
    device: str = "cpu",
) -> Measured:
    """Write the fitted network (to ``path``, else in memory), decode it, and score it."""
    packed = pack_tensors(result.model.stored(), settings or preset.compress, steps=result.steps)
    segment = FittedSegment.of(preset, result, packed, frames.spec)
    with open_clip(_written(segment.alone("segment", frames.spec), path), device=device) as decoder:
        quality = compare(decoder, frames)
        num_bytes = decoder.file.num_bytes if path is None else path.stat().st_size
        front = decoder.file.container.header_bytes + decoder.file.container.index_bytes
    side = front + sum(component.side_bytes for component in packed.components)
    return Measured(
        num_bytes=num_bytes,
        num_parameters=segment.num_parameters,
        bits_a_number=8 * num_bytes / segment.num_parameters,
        coded_bytes=num_bytes - side,
        ideal_bytes=packed.ideal_bits / 8,
        side_share=side / num_bytes,
        quality=quality,
        spans=segment.measured(quality).qualities,
        components=packed.components,
        keyframe_bytes=sum(len(image) for image in segment.keyframes),
    )


def _written(writer: ContainerWriter, path: Path | None) -> bytes | Path:
    if path is None:
        return writer.to_bytes()
    writer.write(path, force=True)
    return path
