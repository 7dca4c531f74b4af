"""Frames between frames as an experiment in which they are known; those of a file: :mod:`vinr.tasks.between`.

The experiment fits every k-th frame and predicts the others. A hybrid model can do so in two ways, which are
never put under one name::

    embeddings   latents of the trained frames around it, mixed by time ──> decoder      interpolation
    encoder      the held-out frame itself ──> encoder ──> decoder                        none: it was seen
    time         (models without latents) its time ──> network                           interpolation

Axes: N frames of a batch, T frames of the video.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import torch
from torch import Tensor, nn

from vinr.config import Preset
from vinr.device import exact_float32
from vinr.errors import UsageError
from vinr.fit import Event, FitResult, Task, fit, ignore
from vinr.models import HybridModel, VideoModel
from vinr.tasks.frames import FittedFrames, plain_fit, psnr_of_frames_db
from vinr.tasks.neighbours import MixedFrames, Neighbours, find_neighbours, mix_latents
from vinr.tasks.trivial import say_behind
from vinr.video.spec import FrameSource, VideoSpec

Way = Literal["time", "embeddings", "encoder"]


@dataclass(frozen=True)
class Interpolate(Task):
    """Fit every ``every``-th frame of each clip, the first among them; hold the others out.

    Encoders find in the place of a held-out frame the mix of the trained frames around it, weighted by time,
    and after the fit its latents are that mix of theirs (Boosting-NeRV: the mean of both neighbours'). Frames
    behind the last trained one get what that has.

    Raises
    ------
    UsageError
        If ``every`` is below 2.
    """

    every: int = 2

    def __post_init__(self) -> None:
        if self.every < 2:
            raise UsageError(f"every {self.every}: fit every 2nd frame or fewer, so that some are held out")

    def describe(self) -> str:
        """See :meth:`Task.describe`."""
        return f"interpolate {self.every}"

    def training_frames(self, spec: VideoSpec) -> Tensor:
        """Every ``every``-th frame of each clip."""
        return self._is_trained(spec).nonzero().flatten()

    def held_out_frames(self, spec: VideoSpec) -> Tensor:
        """Return the frames (int64, rising) that are not trained on.

        Raises
        ------
        UsageError
            If there are none: every clip has one frame.
        """
        held_out_N = (~self._is_trained(spec)).nonzero().flatten()
        if not len(held_out_N):
            raise UsageError("clips of one frame have none to hold out; give clips of two frames or more")
        return held_out_N

    def neighbours(self, spec: VideoSpec) -> Neighbours:
        """Return the trained frames around each frame."""
        return find_neighbours(spec.span_lengths, self.training_frames(spec))

    def target(self, source: FrameSource) -> FrameSource:
        """The frames as they are; held-out ones are in no batch."""
        return source

    def visible(self, source: FrameSource) -> FrameSource:
        """Trained frames, and mixes of them."""
        return MixedFrames(source, self.neighbours(source.spec))

    def weight(self, index_N: Tensor) -> Tensor | None:
        """Every pixel of a trained frame counts fully."""
        return None

    def complete(self, model: VideoModel) -> None:
        """Mix the latents of the trained frames."""
        mix_latents(model, self.neighbours(model.video))

    def _is_trained(self, spec: VideoSpec) -> Tensor:
        # clips of 5 and 3 frames, every = 2
        # place    0 1 2 3 4 | 0 1 2
        # fitted   x   x   x | x   x
        place_T = torch.cat([torch.arange(length) for length in spec.span_lengths])
        return place_T % self.every == 0


@dataclass(frozen=True)
class HeldOutScore:
    """PSNR of the held-out frames, predicted in one way: the mean over frames, and each frame's."""

    way: Way
    psnr_db: float
    per_frame_psnr_db: tuple[float, ...]


@dataclass(frozen=True)
class InterpolationScore:
    """What a network makes of frames it was not fitted to, beside what needs no network.

    ``held_out``: by time, or by embeddings and by the encoder. ``nearest_psnr_db``: the nearest trained frame
    repeated, the earlier of two. ``mean_psnr_db``: the mix of both trained neighbours, the mean where every
    second frame is held out. PSNR is the mean over frames of 8-bit colours.
    """

    every: int
    seen_psnr_db: float
    held_out_frames: tuple[int, ...]
    held_out: tuple[HeldOutScore, ...]
    nearest_psnr_db: float
    mean_psnr_db: float
    num_epochs: float
    seconds: float

    @property
    def behind(self) -> str | None:
        """A line, if the network interpolates worse than a way that needs none (by the encoder is none)."""
        ways = {"nearest frame": self.nearest_psnr_db, "mean of both neighbours": self.mean_psnr_db}
        return say_behind(self.held_out[0].psnr_db, ways)

    def by(self, way: Way) -> HeldOutScore:
        """Return the score of one way.

        Raises
        ------
        KeyError
            If the model has no such way.
        """
        for score in self.held_out:
            if score.way == way:
                return score
        raise KeyError(way)


@dataclass(frozen=True, eq=False)
class HeldOutFit:
    """A network fitted to every k-th frame of ``source``, beside what needs no network.

    ``predicted``, ``nearest`` and ``mean`` are sources of as many frames as ``source`` has; what they give in
    the place of held-out frames was made without these.
    """

    source: FrameSource
    task: Interpolate
    result: FitResult

    @property
    def held_out_N(self) -> Tensor:
        """Numbers of the frames that were not fitted, int64, rising."""
        return self.task.held_out_frames(self.source.spec)

    @property
    def way(self) -> Way:
        """How ``predicted`` comes to held-out frames: by embeddings, or by time where a model has none."""
        return "embeddings" if self.result.model.per_frame_shapes() else "time"

    @property
    def predicted(self) -> FrameSource:
        """The network's frames."""
        return FittedFrames(self.result.model, self.source.spec)

    @property
    def nearest(self) -> FrameSource:
        """The nearest trained frame in the place of each, the earlier of two."""
        return _Renumbered(self.source, self.task.neighbours(self.source.spec).nearest_T)

    @property
    def mean(self) -> FrameSource:
        """The mix of both trained neighbours in the place of each held-out frame."""
        return self.task.visible(self.source)

    def score(self) -> InterpolationScore:
        """Measure held-out frames in every way that the model has, and what needs no network."""
        source, held_out_N = self.source, self.held_out_N
        # What was fitted is scored beside: a way may be good at frames that it saw, and at no others.
        trained_N = self.task.training_frames(source.spec)
        return InterpolationScore(
            every=self.task.every,
            seen_psnr_db=fmean(psnr_of_frames_db(self.predicted, source, trained_N)),
            held_out_frames=tuple(held_out_N.tolist()),
            held_out=tuple(self._score_ways(held_out_N)),
            nearest_psnr_db=fmean(psnr_of_frames_db(self.nearest, source, held_out_N)),
            mean_psnr_db=fmean(psnr_of_frames_db(self.mean, source, held_out_N)),
            num_epochs=self.result.num_epochs,
            seconds=self.result.seconds,
        )

    def _score_ways(self, held_out_N: Tensor) -> Iterator[HeldOutScore]:
        def score(way: Way) -> HeldOutScore:
            # Frames are computed when they are read: under ``encoded_frames`` from the encoder's latents.
            per_frame = psnr_of_frames_db(self.predicted, self.source, held_out_N)
            return HeldOutScore(way, fmean(per_frame), per_frame)

        yield score(self.way)
        if self.way == "embeddings" and self.result.encoder is not None:
            with encoded_frames(self.result.model, self.result.encoder, self.source, held_out_N):
                yield score("encoder")


def fit_held_out(
    source: FrameSource,
    preset: Preset,
    *,
    every: int = 2,
    device: str = "cpu",
    on_event: Callable[[Event], None] = ignore,
) -> HeldOutFit:
    """Fit every ``every``-th frame of ``source``, as HNeRV does (``every`` = 2).

    Parameters
    ----------
    preset
        A preset with a complete architecture (:func:`vinr.encoding.plan.choose_preset`).

    Raises
    ------
    UsageError
        If no frame is held out.
    """
    task = Interpolate(every)
    task.held_out_frames(source.spec)  # says before the fit that there are none
    result = fit(source, plain_fit(preset), task, device=device, on_event=on_event, keep_encoder=True)
    return HeldOutFit(source, task, result)


def measure_interpolation(
    source: FrameSource,
    preset: Preset,
    *,
    every: int = 2,
    device: str = "cpu",
    on_event: Callable[[Event], None] = ignore,
) -> InterpolationScore:
    """Fit every ``every``-th frame of ``source`` and measure the others; see :func:`fit_held_out`."""
    return fit_held_out(source, preset, every=every, device=device, on_event=on_event).score()


@contextmanager
def encoded_frames(
    model: VideoModel, encoder: nn.Module, source: FrameSource, index_N: Tensor
) -> Iterator[None]:
    """Give frames ``index_N`` the latents that the encoder makes of them, for as long as the body runs."""
    assert isinstance(model, HybridModel)
    assert model.latents is not None
    model.encoder = encoder.eval()
    with torch.no_grad(), exact_float32(next(encoder.parameters()).device):
        # One frame at a time: batches may round differently.
        encoded = [model.encode(source, index_1).per_frame for index_1 in torch.split(index_N, 1)]
    model.drop_encoder()
    # ``value`` is the model's own memory: the latents are replaced in it, and put back after the body.
    kept = {name: value.detach().clone() for name, value in model.latents.per_frame.items()}
    with torch.no_grad():
        for name, value in model.latents.per_frame.items():
            value[index_N] = torch.cat([latents[name] for latents in encoded])
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in model.latents.per_frame.items():
                value.copy_(kept[name])


class _Renumbered:
    """Other frames of ``source`` in the place of each frame."""

    def __init__(self, source: FrameSource, number_T: Tensor) -> None:
        self._source, self._number_T = source, number_T
        self.spec = source.spec

    def frames(self, index_N: Tensor) -> Tensor:
        """Return levels rgb_NCHW."""
        return self._source.frames(self._number_T[index_N])
