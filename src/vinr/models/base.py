"""What a model is and what it stores: the protocol every video representation implements.

::

    fitting    Query ──┐                          decoding   Query ──┐
                       ├─> forward ─> rgb in [0,1]                   ├─> forward ─> rgb in [0,1]
    frames ─> encode ──┘                          latents (file) ────┘

An :class:`IndexModel` maps a query to pixels. A :class:`HybridModel` also has an encoder that turns each
frame into latents; the encoder is used while fitting only, the latents are stored.

Axes: N frames (or patches) of a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vinr.errors import UsageError
from vinr.settings import Settings
from vinr.video.spec import FrameSource, PatchGrid, Query, VideoSpec, to_unit

if TYPE_CHECKING:
    from vinr.models.layers.keyframes import Keyframes

Role = Literal["weight", "bias", "grid", "latent", "keyframe"]

LATENT_PREFIX, ENCODER_PREFIX = "latents.", "encoder."
FRAMES_ENCODED_AT_ONCE = 4


# -- what is stored ------------------------------------------------------------------------------------------


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


class StoringModule(nn.Module):
    """A module with parameters that are neither weights nor biases: it registers them with their roles."""

    def __init__(self) -> None:
        super().__init__()
        self._roles: dict[str, tuple[Role, int]] = {}

    @final
    def register_stored(
        self, name: str, parameter: nn.Parameter, *, role: Role, rows_per_step: int = 0
    ) -> None:
        """Add ``parameter`` under ``name``; its role and steps are those of :class:`StoredTensor`."""
        self.register_parameter(name, parameter)
        self._roles[name] = role, rows_per_step

    @final
    def stored_as(self, name: str, value: Tensor) -> StoredTensor:
        """Return the module's own parameter ``name`` as it is stored."""
        if name not in self._roles:
            return plain_stored(value)
        role, rows_per_step = self._roles[name]
        return StoredTensor(value, role, per_frame=role == "latent", rows_per_step=rows_per_step)


def plain_stored(value: Tensor) -> StoredTensor:
    """Return a weight, or a bias where ``value`` has one axis at most."""
    return StoredTensor(value, "bias" if value.ndim <= 1 else "weight")


@dataclass(frozen=True)
class Latents:
    """Output of an encoder for N frames.

    ``per_frame``: name → tensor whose first axis is N. What belongs to the whole video is a parameter.
    """

    per_frame: dict[str, Tensor] = field(default_factory=dict)


class LatentStore(Protocol):
    """Where a fitted model finds the latents of its frames: in memory, or in a file."""

    def read(self, index_N: Tensor) -> Latents:
        """Return the latents of frames ``index_N`` (int64, each in 0 … num_frames − 1)."""
        ...


class FrozenLatents(StoringModule):
    """Latents of all frames held in memory as parameters, so that they can still be polished."""

    def __init__(self, latents: Latents) -> None:
        super().__init__()
        for name, value in latents.per_frame.items():
            # One memory layout, wherever the latents come from: convolutions round differently for others.
            self.register_stored(name, nn.Parameter(value.contiguous()), role="latent")

    @property
    def per_frame(self) -> dict[str, nn.Parameter]:
        """Name → parameter whose first axis runs over all frames."""
        return dict(self.named_parameters())

    def read(self, index_N: Tensor) -> Latents:
        """Return the latents of frames ``index_N``."""
        return Latents({name: value[index_N] for name, value in self.per_frame.items()})


# -- settings ------------------------------------------------------------------------------------------------


class ModelConfig(Settings):
    """Base of the architecture settings of one model; written into the file, so all of it is bounded.

    ``size_fields`` names the settings, each a whole number or a list of them, that may be changed by small
    steps to come closer to a size.
    """

    size_fields: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True)
class Scaling:
    """How strides and widths of a model follow from the frame and from one dial, C0.

    Parameters
    ----------
    grid
        Rows and columns of the first feature map to aim at.
    reduction
        Each stage but the first has the channels of the one before, divided by this.
    expansion
        Channels after the first stage, as a multiple of C0; None: one over ``reduction``.
    lower
        Lowest width of a stage: this, or ``lower_share`` · C0 (at least 4) in networks too small for it.
    lowest_stem
        Lowest C0.
    grid_cost
        What a grid of twice or half the cells costs beside padding, see ``choose_strides``.
    shrinks
        Setting → (the C0 below which it shrinks from its default, its lowest value).
    """

    grid: tuple[int, int] = (2, 4)
    reduction: float = 2.0
    expansion: float | None = None
    lower: int = 12
    lower_share: float = 1.0
    lowest_stem: int = 4
    grid_cost: float = 0.004
    shrinks: Mapping[str, tuple[float, int]] = field(default_factory=dict)


# -- models --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FirstFrame:
    """What a model computes for the first frame that is asked of it.

    ``query`` is run ``repeats`` times (tiles; neighbours that a frame needs besides), one after another;
    ``kept_bytes`` are held for the frames that follow.
    """

    query: Query
    repeats: int = 1
    kept_bytes: int = 0


class VideoModel(nn.Module, ABC):
    """A network that represents one video (or several, numbered through).

    ``config`` is the architecture, an instance of ``cls.Config``; ``video`` gives number and size of frames
    (a model pads to its own :meth:`coded_size` and crops what it returns). ``with_encoder`` = False leaves
    out what only fitting needs (a hybrid model's encoder): a decoder never pays for it.

    ``scaling`` says how :meth:`configure` chooses sizes. ``joins_clips`` says that a network of this kind is
    meant for several clips; ``ahead_in_long_fits`` which model reaches more in the time of so many steps of
    this one, with so many frames. ``keyframes`` are frames that it is given as coded images or streams.
    """

    Config: ClassVar[type[ModelConfig]]
    scaling: ClassVar[Scaling] = Scaling()
    joins_clips: ClassVar[bool] = False
    ahead_in_long_fits: ClassVar[tuple[str, int, int] | None] = None

    def __init__(self, config: ModelConfig, video: VideoSpec, *, with_encoder: bool = True) -> None:
        super().__init__()
        self.video = video
        self.keyframes: Keyframes | None = None

    @classmethod
    def configure(cls, video: VideoSpec, *, width: float, settings: Mapping[str, Any]) -> Any:
        """Return a configuration (of ``cls.Config``) for any ``video``.

        ``width`` > 0 is a continuous dial, C0 before rounding: the stored total rises with it. ``settings``
        are the architecture settings already decided (a preset's, the user's ``--set``); strides, widths and
        what shrinks with them are chosen as ``cls.scaling`` says.
        """
        return cls.Config(**cls.scale(video, width, settings))

    @final
    @classmethod
    def scale(cls, video: VideoSpec, width: float, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``settings`` and, for C0 = ``width``, what ``cls.scaling`` chooses where they are silent."""
        from vinr.sizing.strides import scale_settings  # decoding chooses no sizes

        return scale_settings(cls.scaling, cls.Config, video, width, settings)

    @abstractmethod
    def coded_size(self) -> tuple[int, int]:
        """Return rows and columns the network produces: the frame's, rounded up to what the strides allow."""

    @abstractmethod
    def forward(self, query: Query, source: FrameSource | None = None) -> Tensor:
        """Return float rgb_NCHW in [0, 1], cropped to the frame (whole-frame queries).

        ``source`` gives the frames to encode while fitting; afterwards (:meth:`freeze`, :meth:`restore`) none
        is needed.
        """

    def training_outputs(self, query: Query, source: FrameSource | None) -> tuple[tuple[float, Tensor], ...]:
        """Return (weight, float rgb_NCHW) pairs that a fit compares with the frames; the first is the frame.

        ``source`` is None once the model is frozen. Models with auxiliary outputs (independent and aggregated
        frames, say) give those too.
        """
        return ((1.0, self(query, source)),)

    def group_of(self, index_N: Tensor) -> Tensor:
        """Return a number for each frame of ``index_N``: frames that share one are decoded together."""
        return index_N

    def first_frame(self) -> FirstFrame:
        """Return what the first frame takes; run without values to learn its cost before memory is taken."""
        return FirstFrame(Query.of_frames(torch.zeros(1)))

    def frames_using_latents(self, first: int, stop: int) -> range:
        """Return the frames that need latents of ``first`` … ``stop`` − 1; all, unless a model knows."""
        return range(self.video.num_frames)

    def frames_using_keyframe(self, number: int) -> range:
        """Return the frames that need keyframe ``number``; all, where a model says nothing."""
        return range(self.video.num_frames)

    def check_patches(self, grid: PatchGrid) -> None:
        """Raise UsageError unless :meth:`forward` can be asked for such patches; most models cannot."""
        if not grid.is_whole_frame:
            raise UsageError(f"{type(self).__name__} knows whole frames only: leave fit.patches at [1, 1]")

    @abstractmethod
    def freeze(self, source: FrameSource) -> None:
        """Encode all of ``source`` once, so that no source is needed afterwards; nothing for index models."""

    def per_frame_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return name → shape of one frame's slice, for every per-frame tensor of :meth:`stored`."""
        return {}

    @abstractmethod
    def attach_latents(self, store: LatentStore) -> None:
        """Take per-frame tensors from ``store`` from now on."""

    @final
    def stored(self) -> dict[str, StoredTensor]:
        """Return every tensor a decoder needs, by name, in a fixed order. The encoder is not among them."""
        stored: dict[str, StoredTensor] = {}
        for path, module in self.named_modules():
            if f"{path}.".startswith(ENCODER_PREFIX):
                continue
            for name, value in module.named_parameters(recurse=False):
                full_name = f"{path}.{name}" if path else name
                is_special = isinstance(module, StoringModule)
                stored[full_name] = module.stored_as(name, value) if is_special else plain_stored(value)
        return stored

    @final
    def restore(self, stored: Mapping[str, StoredTensor]) -> None:
        """Load the values of :meth:`stored`, in place; names and shapes must be exactly the model's.

        Per-frame tensors may be left out when they come from a store (:meth:`attach_latents`).

        Raises
        ------
        ValueError
            If a tensor is missing, unknown, or of another shape.
        """
        latent_shapes = {}
        for name, shape in self.per_frame_shapes().items():
            latent_shapes[LATENT_PREFIX + name] = (self.video.num_frames, *shape)
        targets = {name: item.value for name, item in self.stored().items() if not item.per_frame}
        fixed = {name: item.value for name, item in stored.items() if name not in latent_shapes}
        if targets.keys() != fixed.keys():
            odd = sorted(targets.keys() ^ fixed.keys())[:3]
            raise ValueError(f"stored tensors do not fit the model: {', '.join(odd)}")
        with torch.no_grad():
            for name, target in targets.items():
                _check_shape(name, fixed[name], tuple(target.shape))
                target.copy_(fixed[name])
        if latent_shapes and latent_shapes.keys() <= stored.keys():
            latents = Latents()
            for name, shape in latent_shapes.items():
                _check_shape(name, stored[name].value, shape)
                latents.per_frame[name.removeprefix(LATENT_PREFIX)] = stored[name].value.detach().clone()
            self.attach_latents(FrozenLatents(latents))

    @final
    def crop(self, rgb_NCHW: Tensor, query: Query) -> Tensor:
        """Cut the padding off whole frames; patches keep it (it is cut when they are joined)."""
        if not query.grid.is_whole_frame:
            return rgb_NCHW
        return rgb_NCHW[..., : self.video.height, : self.video.width]

    @final
    @classmethod
    def on_meta(cls, config: ModelConfig, video: VideoSpec, *, with_encoder: bool = False) -> Self:
        """Build the model without memory for its values: to count, to check shapes, to solve for a size."""
        with torch.device("meta"), _Skip(_FILLING):
            return cls(config, video, with_encoder=with_encoder)

    @final
    @classmethod
    def to_restore(cls, config: ModelConfig, video: VideoSpec) -> Self:
        """Build the model without encoder for :meth:`restore`: no initial values are drawn."""
        with _Skip(_DRAWING):
            return cls(config, video, with_encoder=False)

    @final
    def num_stored(self) -> int:
        """Return how many parameters a file must hold: decoder, head, grids, and every frame's latents."""
        total = 0
        for item in self.stored().values():
            total += 0 if item.per_frame else item.value.numel()
        for shape in self.per_frame_shapes().values():
            total += self.video.num_frames * torch.Size(shape).numel()
        return total


def _check_shape(name: str, value: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(value.shape) != expected:
        raise ValueError(f"{name}: shape {tuple(value.shape)}, not {expected}")


class IndexModel(VideoModel):
    """A model whose only input is where and when: the author writes :meth:`decode`."""

    @abstractmethod
    def decode(self, query: Query) -> Tensor:
        """Return float rgb_NCHW in [0, 1] of :meth:`coded_size` (or a patch of it)."""

    @final  # type: ignore[misc]  # torch declares forward as an attribute
    def forward(self, query: Query, source: FrameSource | None = None) -> Tensor:
        """See :meth:`VideoModel.forward`; ``source`` is not used."""
        return self.crop(self.decode(query), query)

    @final
    def freeze(self, source: FrameSource) -> None:
        """Nothing to encode."""

    @final
    def attach_latents(self, store: LatentStore) -> None:
        """Index models have no latents."""
        raise ValueError("this model has no per-frame tensors")


class HybridModel(VideoModel):
    """A model with an encoder: the author writes :meth:`encode`, :meth:`decode`, :meth:`per_frame_shapes`.

    Everything that only the encoder needs lives in ``self.encoder`` and is never stored; the constructor sets
    it to None where ``with_encoder`` is False.
    """

    encoder: nn.Module | None

    def __init__(self, config: ModelConfig, video: VideoSpec, *, with_encoder: bool = True) -> None:
        super().__init__(config, video, with_encoder=with_encoder)
        self.latents: FrozenLatents | None = None
        self._store: LatentStore | None = None

    @abstractmethod
    def encode(self, source: FrameSource, index_N: Tensor) -> Latents:
        """Return the latents of frames ``index_N`` of ``source`` (use :meth:`read_frames`)."""

    @abstractmethod
    def decode(self, query: Query, latents: Latents) -> Tensor:
        """Return float rgb_NCHW in [0, 1] of :meth:`coded_size` (or a patch of it)."""

    @abstractmethod
    def per_frame_shapes(self) -> dict[str, tuple[int, ...]]:
        """See :meth:`VideoModel.per_frame_shapes`."""

    @final  # type: ignore[misc]  # torch declares forward as an attribute
    def forward(self, query: Query, source: FrameSource | None = None) -> Tensor:
        """See :meth:`VideoModel.forward`. Frozen models interpolate latents for times between frames."""
        if source is not None:
            latents = self.encode(source, query.time_N.round().long())
        else:
            latents = self.latents_at(query.time_N)
        return self.crop(self.decode(query, latents), query)

    @final
    def latents_at(self, time_N: Tensor) -> Latents:
        """Return stored latents at ``time_N`` (frames); between frames, a linear mix of both neighbours'."""
        store = self._store if self.latents is None else self.latents
        if store is None:
            raise ValueError("the model has no latents yet: freeze it, restore it, or give a source")
        last = self.video.num_frames - 1
        before_N = time_N.floor().long().clamp(0, last)
        part_N = time_N - before_N
        before = store.read(before_N)
        if not bool((part_N > 0).any()):
            return before
        after = store.read((before_N + 1).clamp(max=last))
        mixed = Latents()
        for name, value in before.per_frame.items():
            # One share per frame: (N,) becomes (N, 1, 1, …), as many axes as the latent has.
            share = part_N.to(value.dtype).view(-1, *[1] * (value.ndim - 1))
            mixed.per_frame[name] = torch.lerp(value, after.per_frame[name], share)
        return mixed

    @final
    def freeze(self, source: FrameSource) -> None:
        """Encode every frame, keep the latents as parameters, and drop the encoder."""
        self.eval()
        parts: dict[str, list[Tensor]] = {}
        with torch.no_grad():
            for first in range(0, self.video.num_frames, FRAMES_ENCODED_AT_ONCE):
                stop = min(first + FRAMES_ENCODED_AT_ONCE, self.video.num_frames)
                index_N = torch.arange(first, stop)
                for name, value in self.encode(source, index_N).per_frame.items():
                    parts.setdefault(name, []).append(value)
        self.attach_latents(FrozenLatents(Latents({name: torch.cat(part) for name, part in parts.items()})))
        self.drop_encoder()

    @final
    def drop_encoder(self) -> None:
        """Forget the encoder: what is fitted or decoded from now on needs none."""
        self.encoder = None

    @final
    def attach_latents(self, store: LatentStore) -> None:
        """See :meth:`VideoModel.attach_latents`."""
        # Latents in memory are a submodule under one name only, or their parameters would be listed twice.
        self.latents = store if isinstance(store, FrozenLatents) else None
        self._store = None if isinstance(store, FrozenLatents) else store

    @final
    def read_frames(self, source: FrameSource, index_N: Tensor) -> Tensor:
        """Return frames as float rgb_NCHW in [0, 1], edges repeated up to :meth:`coded_size`."""
        parameter = next(self.parameters())
        rgb_NCHW = to_unit(source.frames(index_N).to(parameter.device), parameter.dtype)
        height, width = self.coded_size()
        missing = (0, width - rgb_NCHW.shape[3], 0, height - rgb_NCHW.shape[2])  # left, right, top, bottom
        return F.pad(rgb_NCHW, missing, mode="replicate") if any(missing) else rgb_NCHW


# -- without values ------------------------------------------------------------------------------------------


# What only writes values into a tensor and returns it; other functions of nn.init call these.
_DRAWING: frozenset[Any] = frozenset(
    {nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_, Tensor.uniform_, Tensor.normal_}
)
_FILLING = _DRAWING | {nn.init.constant_, Tensor.fill_, Tensor.zero_}


class _Skip(TorchFunctionMode):
    """Leaves tensors as they are where one of ``functions`` would fill them, as initialisation does."""

    def __init__(self, functions: frozenset[Any]) -> None:
        super().__init__()
        self._functions = functions

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Return the tensor given, or what ``func`` returns."""
        if func in self._functions:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
