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
from vinr.config import CompressSettings, Phase, Preset
from vinr.decoding.file import open_clip
from vinr.device import exact_float32
from vinr.encoding.segment import FittedSegment, SpanQuality
from vinr.errors import UsageError
from vinr.fit import Event, FitResult, ignore
from vinr.fit.checkpoint import FitState, read_fit_state, write_fit_state
from vinr.fit.fingerprint import fingerprint_of
from vinr.fit.keeper import CHECKPOINT_SECONDS
from vinr.fit.precision import keep_precision, resolve_precision
from vinr.fit.run import Run
from vinr.fit.tasks import Reconstruct
from vinr.models import VideoModel
from vinr.quality.clip import ClipQuality, compare, psnr_per_frame_db
from vinr.video.spec import FrameSource, Query

# More than rounding can take from a share, so that a phase begins at the first step after the plain fit.
SHARE_SLACK = 1e-9
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
    spans: tuple[SpanQuality, ...] = ()
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
    fingerprint = fingerprint_of(frames, preset, Reconstruct(), None)
    partial, saved_at = path.with_suffix(".checkpoint"), time.monotonic()
    state = read_fit_state(partial, fingerprint) if partial.exists() else None
    run = _run(frames, preset, preset.fit.epochs, [], device, state)
    if state is not None:
        run.load(state)
    for event in run.rounds():
        on_event(event)
        if time.monotonic() - saved_at > CHECKPOINT_SECONDS:
            write_fit_state(partial, run.state(), fingerprint)
            saved_at = time.monotonic()
    write_fit_state(path, run.state(), fingerprint)
    partial.unlink(missing_ok=True)


def go_on(
    frames: FrameSource,
    base: Base,
    phases: Sequence[tuple[int, Mapping[str, Any]]],
    *,
    at_end: Callable[[int, Run], None] | None = None,
    on_event: Callable[[Event], None] = ignore,
) -> FitResult:
    """Go on from ``base`` with ``phases``: (epochs, settings) each; ``at_end`` sees the end of each."""
    total = base.epochs + sum(epochs for epochs, _ in phases)
    settings = [
        Phase.model_validate({**given, "share": epochs / total + SHARE_SLACK}) for epochs, given in phases
    ]
    run = _run(frames, base.preset, total, settings, base.device, base.state)
    run.load(base.state)
    ends, passed = [base.epochs], 0
    for epochs, _ in phases:
        ends.append(ends[-1] + epochs)
    for event in run.rounds():
        on_event(event)
        while passed < len(phases) and run.steps_done >= ends[passed + 1] * run.steps_per_epoch:
            if at_end is not None:
                at_end(passed, run)
            passed += 1
    return run.finish()


@torch.no_grad()
def drop_pruned(run: Run) -> VideoModel:
    """Set the numbers of a run's model to 0 that its phase prunes; return the model, in evaluation mode."""
    model = run.learner.model
    for name, item in run.learner.coding.pruned(model.stored()).items():
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


def _run(
    frames: FrameSource,
    preset: Preset,
    epochs: int,
    phases: Sequence[Phase],
    device: str,
    state: FitState | None,
) -> Run:
    """Return a fit that has not begun, in the arithmetic of ``state``, from which it will go on."""
    fit = preset.fit.model_copy(update={"epochs": epochs, "phases": tuple(phases)})
    preset = preset.model_copy(update={"fit": fit})
    precision = resolve_precision(fit.precision, device)
    if state is not None:
        precision = keep_precision(state.precision, precision, device)
    return Run(frames, preset, Reconstruct(), torch.device(device), None, 0.0, precision)
