"""Fits of the reduced Bunny that share their plain part: vinr.bench.stages with rounds printed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from vinr.bench import stages
from vinr.bench.claims import claim
from vinr.bench.stages import Base, Measured, measure
from vinr.encoding.plan import choose_preset
from vinr.fit import FitResult, RoundDone
from vinr.video.samples import sample_clip
from vinr.video.source import FrameTensor, open_video

__all__ = ["Base", "Measured", "bunny", "claim", "fit_base", "go_on", "measure"]


def bunny() -> FrameTensor:
    """Return Bunny, centre-crop 640×1280, area-averaged to 160×320, all 132 frames."""
    with open_video(sample_clip("bigbuckbunny.mp4"), crop=(640, 1280), resize=(160, 320)) as reader:
        return reader.read()


def fit_base(
    frames: FrameTensor, model: str, size: int, epochs: int, folder: Path, overrides: Sequence[str] = ()
) -> Base:
    """Fit ``model`` for ``epochs`` epochs, or read the fit that ``folder`` holds."""
    preset = choose_preset(
        frames.spec,
        model=model,
        preset=None,
        num_parameters=size,
        overrides=[*overrides, f"fit.epochs={epochs}"],
    )
    return stages.fit_base(frames, preset, folder / f"base-{model}-{size}-{epochs}.tensors", on_event=_say)


def _say(event: object) -> None:
    if isinstance(event, RoundDone):
        print(f"  {event.epochs_done:5.1f} epochs  {event.psnr_db:6.2f} dB", flush=True)
    else:
        print(f"  {type(event).__name__}", flush=True)


go_on: Callable[..., FitResult] = partial(stages.go_on, on_event=_say)
