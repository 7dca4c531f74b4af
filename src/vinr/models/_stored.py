"""What a model hands to the coder, and where it finds its latents again.

Axes: N frames of a batch.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, Literal, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor, nn

from vinr.video.spec import Query

Role = Literal["weight", "bias", "grid", "latent", "keyframe"]
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


_REPLACEMENT: Final[ContextVar[Callable[..., Any] | None]] = ContextVar("replacement", default=None)


def no_graph(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Mark a method that computes exactly, or remembers: compilers call it as it is, and do not trace it.

    As ``torch.compiler.disable``, which loads the whole compiler where the method is defined: two seconds of
    every program that decodes, though few compile. Other tracers put something in its place
    (:func:`no_graph_replaced`).
    """
    untraced: list[Callable[Arguments, Result]] = []

    def replaceable(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        replacement = _REPLACEMENT.get()
        if replacement is None:
            return function(*args, **kwargs)
        result: Result = replacement(function, *args, **kwargs)
        return result

    @functools.wraps(function)
    def called(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if "torch._dynamo" not in sys.modules:
            return replaceable(*args, **kwargs)  # nothing can be compiling
        if not untraced:
            untraced.append(torch.compiler.disable(replaceable))  # type: ignore[no-untyped-call]
        return untraced[0](*args, **kwargs)

    return called


@contextmanager
def no_graph_replaced(replacement: Callable[..., Any] | None) -> Iterator[None]:
    """Call ``replacement(function, *arguments)`` in the place of each :func:`no_graph`, in this thread alone.

    None: call the functions themselves.
    """
    token = _REPLACEMENT.set(replacement)
    try:
        yield
    finally:
        _REPLACEMENT.reset(token)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that a decoder needs.

    ``role`` selects how it is quantised and under which component it is reported. A ``per_frame`` tensor has
    one slice along its first axis for each frame of the video, coded so that a few frames' slices can be read
    alone. Where the first axis of any other tensor runs over time, ``rows_per_step`` of its rows make a step.
    """

    value: Tensor
    role: Role
    per_frame: bool = False
    rows_per_step: int = 0

    def __post_init__(self) -> None:
        """Check that the rows make whole steps."""
        if self.rows_per_step and (self.per_frame or self.value.shape[0] % self.rows_per_step):
            shape = tuple(self.value.shape)
            raise ValueError(f"a tensor of shape {shape} has no steps of {self.rows_per_step} rows")


@dataclass(frozen=True)
class Latents:
    """Output of an encoder for N frames.

    ``per_frame``: name → tensor whose first axis is N. What belongs to the whole video is a parameter.
    """

    per_frame: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class FirstFrame:
    """What a model computes for the first frame that is asked of it.

    ``query`` is run ``repeats`` times (tiles; neighbours that a frame needs besides), one after another;
    ``kept_bytes`` are held for the frames that follow.
    """

    query: Query
    repeats: int = 1
    kept_bytes: int = 0


class LatentStore(Protocol):
    """Where a fitted model finds the latents of its frames: in memory, or in a file."""

    def read(self, index_N: Tensor) -> Latents:
        """Return the latents of frames ``index_N`` (int64, each in 0 … num_frames − 1)."""
        ...


class FrozenLatents(nn.Module):
    """Latents of all frames held in memory as parameters, so that they can still be polished."""

    def __init__(self, latents: Latents) -> None:
        super().__init__()
        # One memory layout, wherever the latents come from: convolutions round differently for others.
        per_frame = {name: nn.Parameter(t.contiguous()) for name, t in latents.per_frame.items()}
        self.per_frame = nn.ParameterDict(per_frame)

    def read(self, index_N: Tensor) -> Latents:
        """Return the latents of frames ``index_N``."""
        return Latents({name: value[index_N] for name, value in self.per_frame.items()})
