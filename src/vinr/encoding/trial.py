"""What an encode costs on this machine, found with its network before it is fitted.

::

    one frame ─> the whole network: build ─> steps ─> encode ─> code ─> decode and score
                                      │        │        │        │           │
                                    build    step     freeze    code       frame       seconds of each

A single frame stands for all of them: how long computing takes does not depend on what is in a picture.

Axes: N frames, C colour channels (red, green, blue), H rows, W columns.
"""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Final

import torch
from torch import Tensor

from vinr.compress import pack_tensors
from vinr.config import Preset
from vinr.encoding.plan import EncodePlan
from vinr.encoding.segment import FittedSegment
from vinr.fit import Trainer
from vinr.fit.draws import Draws
from vinr.fit.precision import Precision
from vinr.fit.ranks import current
from vinr.models import HybridModel, Latents, VideoModel, get_model, validate_architecture
from vinr.models.base import FrozenLatents
from vinr.models.cost import count_macs
from vinr.quality.clip import ClipQualityMeter
from vinr.video.spec import VideoSpec

# The first step fills caches and loads libraries; quick ones are repeated so long, so often at most.
MOST_STEPS: Final = 4
STEP_SECONDS: Final = 1.0
TRIED_FRAMES: Final = 2
# A convolution by which the speed of a machine is guessed: 64 channels to 64, so many rows and columns.
PROBE_CHANNELS, PROBE_SIDE = 64, 64
# A step passes forward once and backward twice, for each frame of a batch.
PASSES_PER_STEP: Final = 3
# More threads must gain so much of a step to be taken.
THREAD_GAIN: Final = 1.05
# Below, a second thread gains nothing (docs/results/threads.md).
SMALL_STEP_MACS: Final = 2.5e9


@dataclass(frozen=True)
class Costs:
    """Seconds that parts of an encode of one network take.

    Parameters
    ----------
    build
        Making the network and what trains it.
    step
        A step of the fit, on one batch.
    freeze
        What a frame takes where the fit ends and its latents are made, 0 without latents.
    code
        Coding the network, opening the result, the first frame.
    frame
        Decoding and scoring one more frame.
    steps_per_epoch
        How many steps pass over all frames.
    """

    build: float
    step: float
    freeze: float
    code: float
    frame: float
    steps_per_epoch: int

    def after(self, num_frames: int, *, codings: int = 1, decodings: int = 1) -> float:
        """Return the seconds that follow a fit: latents, coding, decoding and scoring."""
        coded = codings * self.code + decodings * self.frame * num_frames
        return self.freeze * num_frames + coded


def largest(costs: Sequence[Costs]) -> Costs:
    """Return the most that each part takes."""
    return Costs(*(max(parts) for parts in zip(*map(astuple, costs), strict=True)))


@dataclass(frozen=True)
class _Still:
    """One frame in the place of every frame of a video; takes no memory for them."""

    rgb_1CHW: Tensor
    spec: VideoSpec

    def frames(self, index_N: Tensor) -> Tensor:
        """Return rgb_NCHW."""
        return self.rgb_1CHW.expand(len(index_N), -1, -1, -1)


def try_costs(
    preset: Preset,
    spec: VideoSpec,
    frame_1CHW: Tensor,
    device: torch.device,
    precision: Precision,
    *,
    choose_threads: bool = False,
) -> Costs:
    """Return what an encode of a video of ``spec`` costs, one frame of which is given.

    With ``choose_threads`` steps are tried on one thread, too, and the process computes on one from then on
    if that is as fast: on a busy machine threads wait for each other.
    """
    import torch._dynamo

    source = _Still(frame_1CHW, spec)
    began = clock.monotonic()
    trainer = Trainer(source, preset, device=device, precision=precision)
    build = clock.monotonic() - began
    step = try_steps(trainer)
    if choose_threads:
        step = _choose_threads(trainer, step)
    with torch.no_grad(), trainer.computing():
        model = trainer.model.eval()
        freeze = _try_freezing(model, source, preset)
        code, frame = _try_decoding(model, source, preset, device)
    return Costs(build, step, freeze, code, frame, trainer.steps_per_epoch)


def try_steps(trainer: Trainer) -> float:
    """Return how long a step of ``trainer`` takes, in seconds."""
    # Where several processes fit, each does its share of a step.
    count = current().count
    batch = [
        part._replace(sample_N=part.sample_N[: -(-len(part.sample_N) // count)])
        for part in trainer.batches.of_epoch(0)[0]
    ]
    seconds: list[float] = []
    with trainer.computing():
        while not seconds or (sum(seconds) < STEP_SECONDS and len(seconds) < MOST_STEPS):
            began = clock.monotonic()
            float(trainer.train_on(batch))  # waits for the device
            seconds.append(clock.monotonic() - began)
    usual = seconds[1:] or seconds
    return sum(usual) / len(usual)


def _choose_threads(trainer: Trainer, step: float) -> float:
    """Go on with as many threads as :func:`fewest_threads` says; return the seconds of a step on them."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = try_steps(trainer)
    chosen = fewest_threads(count, step, alone)
    torch.set_num_threads(chosen)
    return alone if chosen == 1 else step


def fewest_threads(count: int, step: float, alone: float) -> int:
    """Return on how many of ``count`` threads to compute: one, unless all gain more than a little.

    A step takes ``step`` seconds on all of them and ``alone`` on one.
    """
    return 1 if alone <= THREAD_GAIN * step else count


def has_small_steps(plan: EncodePlan, specs: Sequence[VideoSpec]) -> bool:
    """Return whether the steps of the first network are so small that a second thread gains nothing."""
    preset, spec = plan.presets[0], plan.jobs[0].spec(specs)
    cls = get_model(preset.model)
    macs = count_macs(cls, validate_architecture(cls, preset.architecture), spec)
    return PASSES_PER_STEP * preset.fit.batch_size * macs < SMALL_STEP_MACS


def _try_freezing(model: VideoModel, source: _Still, preset: Preset) -> float:
    """Give ``model`` latents as after a fit; return the seconds per frame that the real ones will take."""
    if not isinstance(model, HybridModel):
        return 0.0
    count = min(TRIED_FRAMES, source.spec.num_frames)
    began = clock.monotonic()
    model.encode(source, torch.arange(count))
    seconds = (clock.monotonic() - began) / count
    # The encoder has learned nothing: latents are drawn, which takes no pass over the video.
    latents, draws = {}, Draws(preset.fit.seed)
    for name, shape in model.per_frame_shapes().items():
        latents[name] = draws.uniform(source.spec.num_frames, *shape)
    model.attach_latents(FrozenLatents(Latents(latents)))
    model.drop_encoder()
    return seconds


def _try_decoding(
    model: VideoModel, source: _Still, preset: Preset, device: torch.device
) -> tuple[float, float]:
    """Return the seconds for coding, opening and the first frame, and those for each further frame."""
    began = clock.monotonic()
    packed = pack_tensors(model.stored(), preset.compress)
    segment = FittedSegment.coded(preset, model, packed, source.spec)
    meter, index_N = ClipQualityMeter(), torch.arange(min(TRIED_FRAMES, source.spec.num_frames))
    with segment.open(source.spec, str(device)) as decoder:
        decoder.frames(index_N[:1])
        code = clock.monotonic() - began
        meter.add(decoder.frames(index_N).cpu(), source.frames(index_N))
    return code, (clock.monotonic() - began - code) / len(index_N)


# -- before anything of the network is computed --------------------------------------------------------------


def guess_costs(
    preset: Preset, spec: VideoSpec, *, multiply_rate: Callable[[], float] | None = None
) -> Costs:
    """Return from multiply-accumulates alone what a CPU needs at least; ``multiply_rate``: of them a second.

    Convolutions as large and regular as the one that is timed run at this rate; networks run below it.
    """
    cls = get_model(preset.model)
    macs = count_macs(cls, validate_architecture(cls, preset.architecture), spec)
    frame = macs / (multiply_rate or time_convolution)()
    size = preset.fit.batch_size
    return Costs(0.0, PASSES_PER_STEP * size * frame, 0.0, 0.0, frame, -(-spec.num_frames // size))


def time_convolution() -> float:
    """Return the multiply-accumulates a second of a convolution with three rows and columns."""
    feature_NCHW = torch.zeros(1, PROBE_CHANNELS, PROBE_SIDE, PROBE_SIDE)
    weight_OIHW = torch.zeros(PROBE_CHANNELS, PROBE_CHANNELS, 3, 3)
    seconds = []
    with torch.no_grad():
        for _ in range(4):
            began = clock.monotonic()
            torch.nn.functional.conv2d(feature_NCHW, weight_OIHW, padding=1)
            seconds.append(clock.monotonic() - began)
    return 9 * PROBE_CHANNELS**2 * PROBE_SIDE**2 / min(seconds)
