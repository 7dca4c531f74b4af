"""The protocol every video representation implements.

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
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vinr.errors import UsageError
from vinr.models._stored import FirstFrame, FrozenLatents, Latents, LatentStore, Role, StoredTensor
from vinr.settings import Settings
from vinr.video.spec import FrameSource, PatchGrid, Query, VideoSpec

if TYPE_CHECKING:
    from vinr.models.layers.keyframes import Keyframes

LATENT_PREFIX = "latents."
# A module names its parameters of these roles in `grid_names` and `keyframe_names`. Where their first axis
# runs over time, its `rows_per_step` says how many rows make a step.
SPECIAL_ROLES: tuple[Role, ...] = ("grid", "keyframe")


# What only writes values into a tensor and returns it. Functions of nn.init that are not named here are made
# of these, or run as they are.
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


class ModelConfig(Settings):
    """Base of the architecture settings of one model; written into the file, so all of it is bounded.

    ``size_fields`` names the settings, each a whole number or a list of them, that may be changed by small
    steps to hit a wanted size exactly.
    """

    size_fields: ClassVar[tuple[str, ...]] = ()


class VideoModel(nn.Module, ABC):
    """A network that represents one video (or several, numbered through).

    ``config`` is the architecture, an instance of ``cls.Config``; ``video`` gives number and size of frames
    (a model pads to its own :meth:`coded_size` and crops what it returns). ``with_encoder`` = False leaves
    out what only fitting needs (a hybrid model's encoder): a decoder never pays for it.

    ``joins_clips`` says that a network of this kind is meant for several clips at once. ``keyframes`` are the
    frames that it is given as coded images, or None.
    """

    Config: ClassVar[type[ModelConfig]]
    joins_clips: ClassVar[bool] = False

    def __init__(self, config: ModelConfig, video: VideoSpec, *, with_encoder: bool = True) -> None:
        super().__init__()
        self.video = video
        self.keyframes: Keyframes | None = None

    @classmethod
    @abstractmethod
    def configure(cls, video: VideoSpec, *, width: float, settings: Mapping[str, Any]) -> ModelConfig:
        """Return a configuration for any ``video``.

        ``width`` > 0 is a continuous dial: the stored total rises with it. ``settings`` are the architecture
        settings already decided (a preset's, the user's ``--set``); strides and widths missing there are
        chosen.
        """

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

        ``source`` is None once the model is frozen.

        Models with auxiliary outputs (independent and aggregated frames, say) give those too.
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
        special: dict[str, tuple[Role, int]] = {
            f"{module_name}.{name}" if module_name else name: (role, getattr(module, "rows_per_step", 0))
            for module_name, module in self.named_modules()
            for role in SPECIAL_ROLES
            for name in getattr(module, f"{role}_names", ())
        }
        found: dict[str, StoredTensor] = {}
        for name, value in self.named_parameters():
            if name.startswith("encoder."):
                continue
            if name.startswith(LATENT_PREFIX):
                found[LATENT_PREFIX + name.rsplit(".", 1)[1]] = StoredTensor(value, "latent", per_frame=True)
                continue
            plain: Role = "bias" if value.ndim <= 1 else "weight"
            role, rows_per_step = special.get(name, (plain, 0))
            found[name] = StoredTensor(value, role, rows_per_step=rows_per_step)
        return found

    @final
    def restore(self, stored: Mapping[str, StoredTensor]) -> None:
        """Load the values of :meth:`stored`, in place; names and shapes must be exactly the model's.

        Per-frame tensors may be left out when they come from a store (:meth:`attach_latents`).

        Raises
        ------
        ValueError
            If a tensor is missing, unknown, or of another shape.
        """
        per_frame = {LATENT_PREFIX + name: shape for name, shape in self.per_frame_shapes().items()}
        own = {name: item for name, item in self.stored().items() if not item.per_frame}
        given = {name: item for name, item in stored.items() if name not in per_frame}
        if own.keys() != given.keys():
            odd = sorted(own.keys() ^ given.keys())[:3]
            raise ValueError(f"stored tensors do not fit the model: {', '.join(odd)}")
        with torch.no_grad():
            for name, item in own.items():
                value = given[name].value
                if value.shape != item.value.shape:
                    raise ValueError(f"{name}: shape {tuple(value.shape)}, not {tuple(item.value.shape)}")
                item.value.copy_(value)
        latents = {name: stored[name].value for name in per_frame if name in stored}
        if latents.keys() == per_frame.keys() and latents:
            for name, value in latents.items():
                expected = (self.video.num_frames, *per_frame[name])
                if tuple(value.shape) != expected:
                    raise ValueError(f"{name}: shape {tuple(value.shape)}, not {expected}")
            plain = {
                name.removeprefix(LATENT_PREFIX): value.detach().clone() for name, value in latents.items()
            }
            self.attach_latents(FrozenLatents(Latents(per_frame=plain)))

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
        """Return how many numbers a file must hold: decoder, head, grids, and every frame's latents."""
        per_frame = sum(torch.Size(shape).numel() for shape in self.per_frame_shapes().values())
        fixed = sum(item.value.numel() for item in self.stored().values() if not item.per_frame)
        return fixed + self.video.num_frames * per_frame


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
        before_N = time_N.floor().long().clamp(0, self.video.num_frames - 1)
        part_N = time_N - before_N
        before = store.read(before_N)
        if not bool((part_N > 0).any()):
            return before
        after = store.read((before_N + 1).clamp(max=self.video.num_frames - 1))
        mixed = {}
        for name, value in before.per_frame.items():
            share = part_N.to(value.dtype).view(-1, *[1] * (value.ndim - 1))
            mixed[name] = torch.lerp(value, after.per_frame[name], share)
        return Latents(mixed)

    @final
    def freeze(self, source: FrameSource) -> None:
        """Encode every frame, keep the latents as parameters, and drop the encoder."""
        self.eval()
        parts: dict[str, list[Tensor]] = {}
        with torch.no_grad():
            for first in range(0, self.video.num_frames, 4):
                index_N = torch.arange(first, min(first + 4, self.video.num_frames))
                latents = self.encode(source, index_N)
                for name, value in latents.per_frame.items():
                    parts.setdefault(name, []).append(value)
        per_frame = {name: torch.cat(values) for name, values in parts.items()}
        self.attach_latents(FrozenLatents(Latents(per_frame)))
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
        rgb_NCHW = source.frames(index_N).to(parameter.device, parameter.dtype) / 255
        height, width = self.coded_size()
        missing = (0, width - rgb_NCHW.shape[3], 0, height - rgb_NCHW.shape[2])
        return F.pad(rgb_NCHW, missing, mode="replicate") if any(missing) else rgb_NCHW
