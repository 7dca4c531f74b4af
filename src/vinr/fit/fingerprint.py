"""What a kept state belongs to: these frames, these settings, this vinr.

Axes: N frames of a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from typing import Any, Final, Literal

import torch
from pydantic import Field
from torch import Tensor

from vinr.config import Preset
from vinr.errors import UsageError, format_frame
from vinr.fit.task import Task
from vinr.settings import StoredValues
from vinr.video.spec import FrameSource

DIGEST_BYTES: Final = 32
MAX_SHOWN: Final = 40
# Frames that are hashed at a time: a source may make them when they are read.
FRAMES_AT_A_TIME: Final = 16


class Fingerprint(StoredValues):
    """Everything that a fit depends on. States of another fingerprint are not gone on from."""

    program: str = Field(description="version that wrote it")
    model: str = Field(description="name of the model")
    architecture: dict[str, Any] = Field(description="settings of the architecture, defaults left out")
    fit: dict[str, Any] = Field(description="settings of the fit, all of them")
    compress: dict[str, Any] = Field(description="settings of the coding, all of them")
    task: str = Field(description="what the fit is for, the content of a mask included")
    seconds: float | None = Field(description="seconds to spend; none: epochs are counted")
    height: int = Field(ge=1, description="rows of the frames")
    width: int = Field(ge=1, description="columns of the frames")
    bit_depth: Literal[8, 10] = Field(8, description="bits per sample of the frames")
    frame_rate: str = Field(description="frames per second, a fraction")
    span_lengths: tuple[int, ...] = Field(description="frames of each clip")
    frames: str = Field(description="hash of all frames as they are fitted, in order")
    start: str | None = Field(None, description="hash of the weights it began with; none: drawn by the seed")
    own_loss: str | None = Field(None, description="name of the program's own loss; none: that of fit")
    own_schedule: str | None = Field(
        None, description="name of the program's own schedule; none: those of fit"
    )

    def check(self, kept: Fingerprint) -> None:
        """Refuse a state with the fingerprint ``kept`` unless it is this one.

        Raises
        ------
        UsageError
            Naming a part that differs.
        """
        if kept != self:
            raise UsageError(
                f"the kept state belongs to another video or other settings ({_difference(self, kept)}); "
                "continue with those it was made with, or start anew without it"
            )


def fingerprint_of(
    source: FrameSource,
    preset: Preset,
    task: Task,
    seconds: float | None,
    initial: Mapping[str, Tensor] | None = None,
) -> Fingerprint:
    """Return the fingerprint of a fit; arguments as for :func:`fingerprint_of_target`."""
    return fingerprint_of_target(task.target(source), preset, task, seconds, initial=initial)


def fingerprint_of_target(
    target: FrameSource,
    preset: Preset,
    task: Task,
    seconds: float | None,
    *,
    loss: Callable[..., object] | None = None,
    schedule: Callable[..., object] | None = None,
    initial: Mapping[str, Tensor] | None = None,
) -> Fingerprint:
    """Return the fingerprint of a fit.

    Parameters
    ----------
    target
        The frames that the loss compares with, as ``task`` makes them.
    seconds
        The time to spend, the same each time the fit is resumed; None where epochs count.
    loss, schedule
        Functions of the program in place of those of the preset. Their names alone are compared.
    initial
        Weights that the fit begins with, by stored name.
    """
    spec = target.spec
    settings = preset.model_dump(mode="json")
    return Fingerprint(
        program=f"vinr {version('vinr')}",
        model=preset.model,
        architecture=settings["architecture"],
        fit=settings["fit"],
        compress=settings["compress"],
        task=task.describe(),
        seconds=seconds,
        height=spec.height,
        width=spec.width,
        bit_depth=spec.bit_depth,
        frame_rate=str(spec.frame_rate),
        span_lengths=spec.span_lengths,
        frames=hash_frames(target),
        start=None if initial is None else _hash_weights(initial),
        own_loss=_name_of(loss),
        own_schedule=_name_of(schedule),
    )


def _name_of(function: Callable[..., object] | None) -> str | None:
    return None if function is None else str(getattr(function, "__qualname__", type(function).__qualname__))


def _hash_weights(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for name in sorted(weights):
        digest.update(f"{name} {tuple(weights[name].shape)}\n".encode())
        digest.update(weights[name].detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def hash_frames(source: FrameSource) -> str:
    """Return a hash of all frames of ``source``, asked for in order."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    count = source.spec.num_frames
    for first in range(0, count, FRAMES_AT_A_TIME):
        rgb_NCHW = source.frames(torch.arange(first, min(first + FRAMES_AT_A_TIME, count)))
        digest.update(rgb_NCHW.cpu().numpy().tobytes())
    return digest.hexdigest()


def _difference(now: Fingerprint, kept: Fingerprint) -> str:
    """Return in words the first part in which two fingerprints differ."""
    current = dict(_leaves(now.model_dump(mode="json")))
    before = dict(_leaves(kept.model_dump(mode="json")))
    if now.program != kept.program:
        return f"{kept.program} wrote it, this is {now.program}"
    if (now.height, now.width) != (kept.height, kept.width):
        return f"frames of {format_frame(now.height, now.width)} were {kept.width}×{kept.height}"
    if sum(now.span_lengths) != sum(kept.span_lengths):
        return f"number of frames {sum(now.span_lengths)} was {sum(kept.span_lengths)}"
    for key in dict.fromkeys([*current, *before]):
        value, old = current.get(key), before.get(key)
        if key != "frames" and value != old:
            return f"{key} {_shown(value)} was {_shown(old)}"
    return "the frames differ"


def _leaves(tree: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Give path and value of everything in a tree of JSON values that holds nothing itself."""
    if isinstance(tree, (list, tuple)):
        tree = dict(enumerate(tree))
    if not isinstance(tree, dict):
        yield path, tree
        return
    for key, value in tree.items():
        yield from _leaves(value, f"{path}.{key}" if path else str(key))


def _shown(value: object) -> str:
    text = "not there" if value is None else json.dumps(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"
