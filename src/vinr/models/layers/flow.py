"""Frames improved by warping their neighbours.

From FFNeRV (Lee et al., ACM MM 2023, https://arxiv.org/abs/2212.12294). A network predicts each frame by
itself (the independent frame) together with a flow to each neighbour; the independent frames of the
neighbours are warped and mixed, and the mix is blended with the frame's own::

    time ──> network ──> independent frame I ─────────────────────────┐
                    ├──> 2 blend logits ──────────────────────────────┤
                    └──> flows, logits (coarse) ──> warp, softmax ──> G ──> v0·I + v1·G
    time + offset ──> network ──> its independent frame ──────┘

Axes: N frames of a batch, A neighbours, C channels, H rows, W columns, T frames of the video.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from vinr.models.base import FirstFrame, ModelConfig
from vinr.models.layers.blocks import Strides, Widths, check_stages, squash
from vinr.models.layers.grids import GridFrames
from vinr.models.layers.warp import warp
from vinr.sharing import LruCache
from vinr.video.spec import BitDepth, Query, max_level

MissingNeighbour = Literal["zero", "clamp"]
SquashName = Literal["tanh", "sigmoid"]
Offsets = Annotated[tuple[Annotated[int, Field(ge=-8, le=8)], ...], Field(max_length=8)]

# Flows are predicted at a quarter of the output, and count that many pixels (FFNeRV, section 3.2).
COARSEST_FLOW = 4
FLOAT_BYTES = 4
# Weight of the independent and of the aggregated frame in the loss (FFNeRV's published commands).
AUXILIARY_WEIGHT = 0.1


# -- one frame -----------------------------------------------------------------------------------------------


def flow_stage(strides: Sequence[int]) -> tuple[int, int]:
    """Return after how many stages flows are predicted, and how many times larger the output is there.

    That is the first stage whose output is at most four times smaller than the frame.
    """
    num_stages, scale = 1, math.prod(strides[1:])
    while scale > COARSEST_FLOW:
        scale //= strides[num_stages]
        num_stages += 1
    return num_stages, scale


@dataclass(frozen=True)
class Evaluation:
    """What the network says about N frames.

    ``rgb_NCHW``: independent frames in [0, 1]. ``blend_NCHW``: two logits per pixel, for the independent and
    the aggregated frame. ``flow_NCHW``, at lower resolution: (dx, dy) for each neighbour, then a logit each.
    Both are empty for networks without neighbours.
    """

    rgb_NCHW: Tensor
    blend_NCHW: Tensor
    flow_NCHW: Tensor

    def __len__(self) -> int:
        return len(self.rgb_NCHW)


class FlowHeads(nn.Module):
    """Two 1×1 convolutions: coarse features to flows and logits, fine ones to colours and blend logits."""

    def __init__(
        self, coarse_channels: int, fine_channels: int, *, num_neighbours: int, output: SquashName
    ) -> None:
        super().__init__()
        self.output: SquashName = output
        self.frame = nn.Conv2d(fine_channels, 5 if num_neighbours else 3, 1)
        self.flow = nn.Conv2d(coarse_channels, 3 * num_neighbours, 1) if num_neighbours else None

    def forward(self, coarse_NCHW: Tensor, fine_NCHW: Tensor) -> Evaluation:
        """Return float32 or float64 maps: displacements of pixels need more than 8 bits."""
        frame_NCHW = _at_least_float32(self.frame(fine_NCHW))
        flow_NCHW = frame_NCHW[:, :0] if self.flow is None else _at_least_float32(self.flow(coarse_NCHW))
        return Evaluation(squash(frame_NCHW[:, :3], self.output), frame_NCHW[:, 3:], flow_NCHW)


def _at_least_float32(value: Tensor) -> Tensor:
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


# -- neighbours while fitting --------------------------------------------------------------------------------


class FrameBuffer(nn.Module):
    """Independent frames of the whole video as the fit last saw them, in the levels of the video.

    The network changes slowly, so a neighbour may be some steps old; that saves evaluating each neighbour at
    every step. 8 bits take half the memory of FFNeRV's half floats; levels are as exact as the video. The
    buffer is empty until the first step; afterwards it is part of the state, so that a resumed fit goes on
    exactly.

    ``gather`` is set where several processes fit: given tensors with rows of this one, it returns them with
    the rows of all, so that every buffer holds the same frames.
    """

    gather: Callable[[Tensor, Tensor], tuple[Tensor, ...]] | None = None

    frames_TCHW: Tensor | None

    def __init__(self, bit_depth: BitDepth) -> None:
        super().__init__()
        self._max_level = max_level(bit_depth)
        # torch cannot put rows into tensors of uint16; 10 bits fit into int16.
        self._dtype = torch.uint8 if bit_depth == 8 else torch.int16
        self.register_buffer("frames_TCHW", None)

    def fill(self, num_frames: int, evaluate: Callable[[float], Evaluation]) -> None:
        """Allocate the buffer and evaluate every frame once, one at a time."""
        first = evaluate(0.0).rgb_NCHW
        shape = (num_frames, *first.shape[1:])
        self.frames_TCHW = torch.empty(shape, dtype=self._dtype, device=first.device)
        for index in range(num_frames):
            rgb_NCHW = evaluate(float(index)).rgb_NCHW if index else first
            self.write(torch.tensor([index]), rgb_NCHW)

    def write(self, index_N: Tensor, rgb_NCHW: Tensor) -> None:
        """Replace frames ``index_N``, in the buffer of this process."""
        self._frames(rgb_NCHW.device)[index_N] = self._levels(rgb_NCHW)

    def write_all(self, index_N: Tensor, rgb_NCHW: Tensor) -> None:
        """Replace frames ``index_N``, and those that the other processes write at the same step."""
        levels_NCHW = self._levels(rgb_NCHW)
        if self.gather is not None:
            index_N, levels_NCHW = self.gather(index_N, levels_NCHW)
        self._frames(rgb_NCHW.device)[index_N] = levels_NCHW

    def _levels(self, rgb_NCHW: Tensor) -> Tensor:
        return (rgb_NCHW.detach() * self._max_level).round().to(self._dtype)

    def read(self, times: Sequence[float | None], device: torch.device) -> Tensor:
        """Return frames (N, 3, H, W) in [0, 1]; None is a black frame."""
        frames_TCHW = self._frames(device)
        # −1 stands for a frame that is not there: what is read for it is multiplied by 0.
        index_N = torch.tensor([-1 if time is None else int(time) for time in times], device=device)
        return frames_TCHW[index_N].float() / self._max_level * (index_N >= 0).view(-1, 1, 1, 1)

    def _frames(self, device: torch.device) -> Tensor:
        assert self.frames_TCHW is not None
        # A state read from a file may have put it elsewhere.
        self.frames_TCHW = self.frames_TCHW.to(device)
        return self.frames_TCHW

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # Empty in one and filled in the other: take over what the state has.
        saved = state_dict.get(f"{prefix}frames_TCHW")
        self.frames_TCHW = None if saved is None else torch.empty_like(saved)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


# -- neighbours while decoding -------------------------------------------------------------------------------


class _Values:
    """The parameters of a module as they are now: equal while they are the same objects, unchanged."""

    def __init__(self, parameters: Sequence[nn.Parameter], cast: torch.dtype | None) -> None:
        self._parameters, self._cast = parameters, cast
        # torch counts changes in place; converting a module swaps values without counting.
        self._states = [(item._version, item.dtype, item.device) for item in parameters]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Values):
            return False
        if self._cast != other._cast or self._states != other._states:
            return False
        return all(map(operator.is_, self._parameters, other._parameters))

    __hash__ = None  # type: ignore[assignment]  # compared only


def values_state(module: nn.Module) -> object:
    """Return what differs as soon as a parameter of ``module`` changes or moves, to compare for equality."""
    parameters = list(module.parameters())
    if any(map(Tensor.is_inference, parameters)):
        return object()  # changes of these are not counted: never equal
    device = parameters[0].device.type
    casts = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return _Values(parameters, torch.get_autocast_dtype(device) if casts else None)


@dataclass(frozen=True)
class FlowGuide:
    """Finds a frame's neighbours and improves the frame with them.

    Parameters
    ----------
    num_frames
        Frames of the video.
    offsets
        Neighbours, in frames relative to the frame, 0 excluded; empty: independent frames are the result.
    scale
        How many times larger frames are than flow maps.
    align_corners
        See :func:`warp`.
    missing
        A neighbour before the first or after the last frame is black, or that frame.

    Decoding keeps at most 2 · max |offset| + 2 frames: enough to evaluate each frame once when frames are
    decoded in order. Frames are evaluated one at a time, so that their order does not change them.
    """

    num_frames: int
    offsets: tuple[int, ...]
    scale: int
    align_corners: bool
    missing: MissingNeighbour
    ring: LruCache[float, Evaluation] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Frames in order: the neighbours on both sides, the frame itself, and the next one.
        object.__setattr__(self, "ring", LruCache(2 * self.reach + 2))

    @property
    def reach(self) -> int:
        """How far away the farthest neighbour is, in frames."""
        return max(map(abs, self.offsets), default=0)

    def neighbour_times(self, time: float) -> list[float | None]:
        """Return the time of each neighbour of the frame at ``time``; None where there is none."""
        last = float(self.num_frames - 1)
        near_times: list[float | None] = []
        for offset in self.offsets:
            inside = min(max(time + offset, 0.0), last)
            is_there = inside == time + offset or self.missing == "clamp"
            near_times.append(inside if is_there else None)
        return near_times

    def first_frame(self, coded_size: tuple[int, int]) -> FirstFrame:
        """See :meth:`VideoModel.first_frame`: neighbours are evaluated too, and all are kept."""
        channels = 3 + (2 + 3 * len(self.offsets) / self.scale**2 if self.offsets else 0)
        kept_bytes = int(FLOAT_BYTES * math.prod(coded_size) * channels) * self.ring.max_entries
        return FirstFrame(Query.of_frames(torch.zeros(1)), 1 + len(self.offsets), kept_bytes)

    def frames_near(self, first: int, stop: int) -> range:
        """Return the frames that need one of ``first`` … ``stop`` − 1, as themselves or as neighbours."""
        return range(max(first - self.reach, 0), min(stop + self.reach, self.num_frames))

    def combine(self, evaluation: Evaluation, neighbour_NACHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return final and aggregated frames (N, 3, H, W); the final ones in [0, 1]."""
        num_neighbours, size = len(self.offsets), evaluation.rgb_NCHW.shape[-2:]
        flow_NCHW = evaluation.flow_NCHW[:, : 2 * num_neighbours]
        logit_NAHW = evaluation.flow_NCHW[:, 2 * num_neighbours :]
        if self.scale > 1:
            # Displacements count pixels of their own map: larger maps, larger displacements.
            flow_NCHW = F.interpolate(flow_NCHW, size, mode="bilinear", align_corners=False) * self.scale
            logit_NAHW = F.interpolate(logit_NAHW, size, mode="nearest")
        warped_NACHW = warp(
            neighbour_NACHW.flatten(0, 1),
            flow_NCHW.reshape(-1, 2, *size),  # (N, 2·A, H, W) becomes (N·A, 2, H, W)
            align_corners=self.align_corners,
        ).view(len(evaluation), num_neighbours, 3, *size)
        aggregated_NCHW = (logit_NAHW.softmax(1).unsqueeze(2) * warped_NACHW).sum(1)
        share_N2HW = evaluation.blend_NCHW.softmax(1)
        final_NCHW = share_N2HW[:, :1] * evaluation.rgb_NCHW + share_N2HW[:, 1:] * aggregated_NCHW
        return final_NCHW.clamp(0, 1), aggregated_NCHW  # roundings may leave the range

    def decode(
        self,
        time_N: Tensor,
        evaluate_all: Callable[[], Evaluation],
        evaluate_one: Callable[[float], Evaluation],
        state: object,
    ) -> Tensor:
        """Return frames (N, 3, H, W) at ``time_N``.

        ``evaluate_all`` evaluates all of them, ``evaluate_one`` the frame at a time. Without gradients frames
        come one by one from the ring while ``state`` stays the same; None keeps nothing. With gradients the
        frames are one batch, into whose neighbours no gradient flows.
        """
        times = time_N.double().tolist()
        if torch.is_grad_enabled():
            evaluation = evaluate_all()
            if not self.offsets:
                return evaluation.rgb_NCHW
            return self.combine(evaluation, self.evaluate_neighbours(times, evaluation, evaluate_one))[0]
        ring = LruCache[float, Evaluation](self.ring.max_entries) if state is None else self.ring
        return torch.cat([self._decode_one(time, ring, state, evaluate_one) for time in times])

    def training_outputs(
        self,
        time_N: Tensor,
        evaluation: Evaluation,
        buffer: FrameBuffer,
        evaluate_one: Callable[[float], Evaluation],
    ) -> tuple[tuple[float, Tensor], ...]:
        """Return weights of the loss with final, independent and aggregated frames; update the buffer.

        ``time_N`` are whole frames. Neighbours come from the buffer, which is filled if it is empty.
        """
        if not self.offsets:
            return ((1.0, evaluation.rgb_NCHW),)
        if buffer.frames_TCHW is None:
            with torch.no_grad():
                buffer.fill(self.num_frames, evaluate_one)
        times = time_N.double().round().tolist()
        device, shape = evaluation.rgb_NCHW.device, evaluation.rgb_NCHW.shape
        buffer.write_all(torch.tensor(times, device=device).long(), evaluation.rgb_NCHW)
        near_times = list(itertools.chain(*map(self.neighbour_times, times)))
        near_NACHW = buffer.read(near_times, device).view(len(evaluation), len(self.offsets), *shape[1:])
        final_NCHW, aggregated_NCHW = self.combine(evaluation, near_NACHW)
        return (
            (1.0, final_NCHW),
            (AUXILIARY_WEIGHT, evaluation.rgb_NCHW),
            (AUXILIARY_WEIGHT, aggregated_NCHW),
        )

    def _decode_one(
        self,
        time: float,
        ring: LruCache[float, Evaluation],
        state: object,
        evaluate: Callable[[float], Evaluation],
    ) -> Tensor:
        evaluation = ring.get(time, lambda: evaluate(time), state)
        if not self.offsets:
            return evaluation.rgb_NCHW
        # Without values there is nothing to decode: count what a frame costs where all come in order.
        near_times = [] if evaluation.rgb_NCHW.is_meta else self.neighbour_times(time)
        near = {}
        for near_time in near_times:
            if near_time is not None:
                near[near_time] = ring.get(near_time, partial(evaluate, near_time), state).rgb_NCHW
        return self.combine(evaluation, self._stack([time], evaluation, near))[0]

    def evaluate_neighbours(
        self, times: Sequence[float], evaluation: Evaluation, evaluate: Callable[[float], Evaluation]
    ) -> Tensor:
        """Return the neighbours (N, A, 3, H, W) of frames at ``times``, without gradients.

        Those that are frames of ``evaluation`` themselves are taken from there.
        """
        # Each frame as a batch of one: (N, C, H, W) becomes N times (1, C, H, W).
        near = dict(zip(times, evaluation.rgb_NCHW.detach().unsqueeze(1), strict=True))
        with torch.no_grad():
            for near_time in itertools.chain(*map(self.neighbour_times, times)):
                if near_time is not None and near_time not in near:
                    near[near_time] = evaluate(near_time).rgb_NCHW
        return self._stack(times, evaluation, near)

    def _stack(self, times: Sequence[float], evaluation: Evaluation, near: Mapping[float, Tensor]) -> Tensor:
        """Return the neighbours (N, A, 3, H, W) of frames at ``times``, black where there is none."""
        black_NCHW = torch.zeros_like(evaluation.rgb_NCHW[:1])
        rows = []
        for time in times:
            near_times = self.neighbour_times(time)
            rows.append(torch.cat([black_NCHW if t is None else near.get(t, black_NCHW) for t in near_times]))
        return torch.stack(rows)


# -- settings ------------------------------------------------------------------------------------------------


class TemporalGridConfig(ModelConfig):
    """Settings of FFNeRV and T-NeRV: stages, grids over time, and neighbours to warp."""

    size_fields: ClassVar[tuple[str, ...]] = ("widths", "grid_frames")

    strides: Strides = Field(description="upsampling of each stage, 1 to 16")
    widths: Widths = Field(description="channels before the first stage and after each, 1 to 4096")
    grid_frames: GridFrames = Field(description="maps in time of each grid, at most eight; empty: no grids")
    neighbours: Offsets = Field(
        (-2, -1, 1, 2), description="frames to warp, relative to the frame; may be none"
    )
    warp_align_corners: bool = Field(
        True, description="zero flow is the identity; false: off by up to half a pixel as in FFNeRV's code"
    )
    oob: MissingNeighbour = Field("zero", description="neighbours outside the video: black, or the end frame")
    output: SquashName = Field("tanh", description="last step of independent frames: ½ tanh + ½, or sigmoid")

    @model_validator(mode="after")
    def _check_neighbours(self) -> Self:
        check_stages(self.strides, self.widths)
        if 0 in self.neighbours:
            raise ValueError(f"neighbours {self.neighbours} must not hold 0, the frame itself")
        return self

    def make_heads(self) -> FlowHeads:
        """Return what turns features into independent frames and flows."""
        num_coarse, _ = flow_stage(self.strides)
        return FlowHeads(
            self.widths[num_coarse], self.widths[-1], num_neighbours=len(self.neighbours), output=self.output
        )

    def make_guide(self, num_frames: int) -> FlowGuide:
        """Return what improves frames of a video of ``num_frames`` by their neighbours."""
        _, scale = flow_stage(self.strides)
        return FlowGuide(num_frames, self.neighbours, scale, self.warp_align_corners, self.oob)
