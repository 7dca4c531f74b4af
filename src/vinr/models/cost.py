"""What networks cost: parameters, operations and memory, learned without values on the meta device.

There torch finds many shapes in Python code, which takes longer than all else, and loads its compiler first.
:class:`MacCounter` passes that over, to the same shapes and the same sums.

Axes: N frames of a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from vinr.models.base import ENCODER_PREFIX, HybridModel, Latents, ModelConfig, VideoModel
from vinr.video.spec import Query, VideoSpec

# No model decodes more frames together.
MAX_GROUP = 32

_aten = torch.ops.aten
# Results have the type of their arguments, and the shape that these broadcast to.
_ELEMENTWISE: frozenset[Any] = frozenset(
    {
        _aten.add.Tensor,
        _aten.sub.Tensor,
        _aten.mul.Tensor,
        _aten.mul.Scalar,
        _aten.div.Tensor,
        _aten.rsub.Scalar,
        _aten._softmax.default,
        _aten._safe_softmax.default,
        _aten.addcmul.default,
        _aten.lerp.Tensor,
        _aten.clamp.default,
        _aten.gelu.default,
        _aten.relu.default,
        _aten.silu.default,
        _aten.sin.default,
        _aten.tanh.default,
        _aten.sigmoid.default,
        _aten.floor.default,
    }
)
# These keep whole numbers whole; tests of values give bool.
_OF_ANY_TYPE: frozenset[Any] = frozenset(
    {_aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor, _aten.clamp.default, _aten.bitwise_and.Tensor}
)
_TESTS: frozenset[Any] = frozenset({_aten.ge.Scalar, _aten.lt.Scalar})


def _addmm(bias: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return left.new_empty(left.shape[0], right.shape[1])


def _layer_norm(x: Tensor, normalized_shape: Sequence[int], *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    kept = x.ndim - len(normalized_shape)
    statistics = x.new_empty(*x.shape[:kept], *[1] * len(normalized_shape))
    return x.new_empty(x.shape), statistics, statistics


def _batch_norm(x: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    statistics = x.new_empty(x.shape[1])
    return x.new_empty(x.shape), statistics, statistics


def _resize(feature_NCHW: Tensor, size: Sequence[int], *_: Any) -> Tensor:
    return feature_NCHW.new_empty(*feature_NCHW.shape[:2], *size)


def _sample(feature_NCHW: Tensor, place_NHW2: Tensor, *_: Any) -> Tensor:
    return feature_NCHW.new_empty(*feature_NCHW.shape[:2], *place_NHW2.shape[1:3])


def _convolve(feature_NCHW: Tensor, weight: Tensor, _: Any, *geometry: Any) -> Tensor | None:
    stride, padding, dilation, transposed = geometry[:4]
    if transposed:
        return None
    sides = []
    for axis, kernel in enumerate(weight.shape[2:]):
        # A dilated kernel spans d · (k − 1) + 1 pixels; it moves while it lies within the padded side.
        room = feature_NCHW.shape[axis + 2] + 2 * padding[axis] - dilation[axis] * (kernel - 1) - 1
        sides.append(room // stride[axis] + 1)
    return feature_NCHW.new_empty(feature_NCHW.shape[0], weight.shape[0], *sides)


def _shuffle(feature_NCHW: Tensor, scale: int) -> Tensor:
    # (C·s², H, W) becomes (C, H·s, W·s).
    count, channels, height, width = feature_NCHW.shape
    return feature_NCHW.new_empty(count, channels // scale**2, height * scale, width * scale)


def _look_up(table: Tensor, index: Tensor, *_: Any) -> Tensor:
    return table.new_empty(*index.shape, table.shape[1])


def _pick(value: Tensor, indices: Sequence[Tensor | None]) -> Tensor | None:
    index = indices[0]
    if len(indices) != 1 or index is None or index.is_floating_point() or index.dtype == torch.bool:
        return None
    return value.new_empty(*index.shape, *value.shape[1:])


def _choose(condition: Tensor, value: Tensor, other: Tensor) -> Tensor | None:
    if value.dtype != other.dtype:
        return None
    return value.new_empty(_broadcast([condition.shape, value.shape, other.shape]))


def _join(parts: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    first = parts[0]
    axis = dim % first.ndim
    total = 0
    for part in parts:
        if part.shape[:axis] != first.shape[:axis] or part.shape[axis + 1 :] != first.shape[axis + 1 :]:
            return None  # torch says what does not fit
        total += part.shape[axis]
    return first.new_empty(*first.shape[:axis], total, *first.shape[axis + 1 :])


def _stack(parts: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    first = parts[0]
    if len({part.shape for part in parts}) > 1:
        return None  # torch says what does not fit
    axis = dim % (first.ndim + 1)
    return first.new_empty(*first.shape[:axis], len(parts), *first.shape[axis:])


def _multiply(left: Tensor, right: Tensor) -> Tensor | None:
    if left.shape[:-2] != right.shape[:-2] or left.shape[-1] != right.shape[-2]:
        return None
    return left.new_empty(*left.shape[:-1], right.shape[-1])


def _sum(value: Tensor, dims: Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
    summed = {dim % value.ndim for dim in dims or range(value.ndim)}
    sides = []
    for axis, side in enumerate(value.shape):
        if axis not in summed:
            sides.append(side)
        elif keepdim:
            sides.append(1)
    return value.new_empty(sides)


def _same(value: Tensor, *_: Any) -> Tensor:
    return value


_RULES: dict[Any, Callable[..., Any]] = {
    _aten.addmm.default: _addmm,
    _aten.convolution.default: _convolve,
    _aten.pixel_shuffle.default: _shuffle,
    _aten.cat.default: _join,
    _aten.stack.default: _stack,
    _aten.mm.default: _multiply,
    _aten.bmm.default: _multiply,
    _aten.sum.dim_IntList: _sum,
    # In place.
    _aten.clamp_.default: _same,
    _aten.round_.default: _same,
    _aten.native_layer_norm.default: _layer_norm,
    _aten.native_batch_norm.default: _batch_norm,
    _aten.upsample_bilinear2d.default: _resize,
    _aten.upsample_nearest2d.default: _resize,
    _aten.grid_sampler_2d.default: _sample,
}
# Of tensors of several types.
_MIXED_RULES: dict[Any, Callable[..., Any]] = {
    _aten.embedding.default: _look_up,
    _aten.index.Tensor: _pick,
    _aten.where.self: _choose,
}


class MacCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its modes untyped
    """Adds up the multiply-accumulates of all that runs under it, on tensors without values.

    Counted are convolutions and matrix products, by the formulas of torch's FlopCounterMode (2 per
    multiply-accumulate). Use it under ``no_grad``, where torch takes compound operations apart.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Nothing is compiled here, and keeping the compiler out would load it first: seconds.
        return False

    @property
    def macs(self) -> int:
        """Multiply-accumulates so far."""
        return self._flops // 2

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Return tensors of the shapes that ``func`` would return, and count it."""
        kwargs = kwargs or {}
        result = _shortcut(func, args) if not kwargs else _create(func, args, kwargs)
        if result is None:
            result = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self._flops += _flops(formula, args, kwargs, result)
        return result


def _flops(formula: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> int:
    # Formulas of shapes come wrapped in a function that looks for tensors at any depth, which takes time.
    plain = getattr(formula, "__wrapped__", None)
    if plain is None or kwargs or not isinstance(result, Tensor):
        return int(formula(*args, **kwargs, out_val=result))
    shapes = [value.shape if isinstance(value, Tensor) else value for value in args]
    return int(plain(*shapes, out_shape=result.shape))


def _shortcut(func: Any, args: Sequence[Any]) -> Any:
    """Return what ``func`` returns for tensors without values, or None where that takes torch's own rules."""
    tensors = _tensors(args)
    for argument in args:
        if isinstance(argument, (tuple, list)):
            tensors += _tensors(argument)
    if func in _MIXED_RULES and tensors[0].device.type == "meta":
        return _MIXED_RULES[func](*args)  # places in a tensor without values may have some
    if not tensors or any(value.device.type != "meta" for value in tensors):
        return None
    first = tensors[0]
    if func in _TESTS:
        return first.new_empty(first.shape, dtype=torch.bool)
    if func in _OF_ANY_TYPE and len(tensors) <= 2:
        dtype = torch.result_type(first, tensors[-1])
        shape = _broadcast([value.shape for value in tensors])
        # Whole numbers become fractions where an argument is one.
        is_kept = dtype.is_floating_point or float not in map(type, args)
        return first.new_empty(shape, dtype=dtype) if is_kept else None
    if not first.is_floating_point() or any(value.dtype != first.dtype for value in tensors):
        return None
    if func in _ELEMENTWISE:
        return first.new_empty(_broadcast([value.shape for value in tensors]))
    rule = _RULES.get(func)
    return None if rule is None else rule(*args)


def _create(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """Return what ``torch.arange`` in steps of 1 or ``torch.zeros_like`` returns without values, or None."""
    if func is _aten.zeros_like.default and args[0].device.type == "meta" and not any(kwargs.values()):
        return args[0].new_empty(args[0].shape)  # type: ignore[no-any-return]
    device = kwargs.get("device")
    if func not in (_aten.arange.default, _aten.arange.start) or device is None or device.type != "meta":
        return None
    if not all(isinstance(value, int) for value in args):
        return None
    length = args[-1] - (args[0] if len(args) > 1 else 0)
    return torch.empty(length, dtype=kwargs.get("dtype") or torch.int64, device=device)


def _broadcast(shapes: Sequence[torch.Size]) -> Sequence[int]:
    """Return the shape that ``shapes`` broadcast to; torch's own function loads a library first."""
    if all(shape == shapes[0] for shape in shapes):
        return shapes[0]
    # Shapes are aligned at their last axes; sides of 1 stretch, and a side of 0 leaves nothing.
    sides: list[int] = []
    for lengths in itertools.zip_longest(*map(reversed, shapes), fillvalue=1):
        sides.insert(0, max(lengths) if min(lengths) else 0)
    return sides


# -- what a network costs ------------------------------------------------------------------------------------

# Writing a number takes as long as so many multiply-accumulates (docs/format.md, section 8).
OPERATIONS_PER_NUMBER: Final = 16
# Bytes per pixel and operations per pixel that decoding an image takes besides the colours that are kept.
KEYFRAME_BYTES: Final = 12
KEYFRAME_OPERATIONS: Final = 1000
# The same of each keyframe of a group: its Y'CbCr, and its colours while those of two other groups are kept.
GROUPED_KEYFRAME_BYTES: Final = 6
GROUPED_KEYFRAME_OPERATIONS: Final = 250
# Convolutions after a transform and copies in an order of their own take up to 1.9 times what is counted.
SPARE: Final = 1.75


@dataclass(frozen=True)
class FrameCost:
    """What the first frame of a network takes besides its weights: bytes at the peak, and operations.

    An operation is a multiply-accumulate of a convolution or matrix product; a number written counts as 16.
    """

    num_bytes: int
    operations: int


class EmptyLatents:
    """Latents without values, of the shapes that ``model`` takes."""

    def __init__(self, model: VideoModel) -> None:
        self._shapes = model.per_frame_shapes()

    def read(self, index_N: Tensor) -> Latents:
        """Return tensors on the meta device for as many frames."""
        latents = Latents()
        for name, shape in self._shapes.items():
            latents.per_frame[name] = torch.empty(len(index_N), *shape, device="meta")
        return latents


class CostCounter(MacCounter):  # type: ignore[no-untyped-call]
    """Counts besides how many numbers are written, and how many bytes there are at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak_bytes = 0
        self.numbers_written = 0
        self._live_bytes = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Return tensors of the shapes that ``func`` would return, and count it."""
        result = super().__torch_dispatch__(func, types, args, kwargs)
        extra = 0
        for value in _tensors(result):
            self._add(value)
            if not func.is_view:
                self.numbers_written += value.numel()
                extra += value.nbytes
        if func.overloadpacket is _aten.convolution:
            # Libraries bring map and result into an order of their own: both are there twice.
            extra += args[0].nbytes
            self.peak_bytes = max(self.peak_bytes, self._live_bytes + extra)
        return result

    def _add(self, value: Tensor) -> None:
        storage = value.untyped_storage()
        if storage in self._known:
            return
        self._known.add(storage)
        num_bytes = storage.nbytes()
        self._live_bytes += num_bytes
        self.peak_bytes = max(self.peak_bytes, self._live_bytes)
        weakref.finalize(storage, self._free, num_bytes)

    def _free(self, num_bytes: int) -> None:
        self._live_bytes -= num_bytes


def _tensors(values: Any) -> list[Tensor]:
    """Return ``values`` if it is a tensor, or the tensors directly in it if it is a list or tuple."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, (tuple, list)):
        return [value for value in values if isinstance(value, Tensor)]
    return []


def measure_first_frame(model: VideoModel, finish: Callable[[Tensor], Tensor]) -> FrameCost:
    """Return what the first frame of ``model`` takes that has no values; ``finish`` makes 8 bits of colours.

    The latents of ``model`` are replaced by ones without values.
    """
    if isinstance(model, HybridModel) and model.per_frame_shapes():
        model.attach_latents(EmptyLatents(model))
    first = model.first_frame()
    counter = CostCounter()
    with torch.no_grad(), counter:
        finish(model(first.query))
    operations = counter.macs + OPERATIONS_PER_NUMBER * counter.numbers_written
    num_bytes = int(SPARE * counter.peak_bytes) + first.kept_bytes
    operations *= first.repeats
    if model.keyframes is not None:
        num_pixels = model.video.height * model.video.width
        bytes_per_pixel, operations_per_pixel = KEYFRAME_BYTES, KEYFRAME_OPERATIONS
        if model.keyframes.group > 1:
            together = model.keyframes.decoded_together
            bytes_per_pixel += GROUPED_KEYFRAME_BYTES * together
            operations_per_pixel += GROUPED_KEYFRAME_OPERATIONS * together
        num_bytes += num_pixels * (3 * model.keyframes.max_kept + bytes_per_pixel)
        operations += num_pixels * operations_per_pixel
    return FrameCost(num_bytes, operations)


def count_macs(model_class: type[VideoModel], config: ModelConfig, video: VideoSpec) -> int:
    """Return the multiply-accumulates of decoding one frame, padding included; nothing is computed."""
    return _count_macs(model_class.on_meta(config, video))


def _count_macs(model: VideoModel) -> int:
    if isinstance(model, HybridModel):
        model.attach_latents(EmptyLatents(model))
    # Frames that are decoded together share the cost: it is that of a frame when all come in order.
    group_N = model.group_of(torch.arange(min(model.video.num_frames, MAX_GROUP)))
    together_N = (group_N == group_N[0]).nonzero()[:, 0]
    counter = MacCounter()
    with torch.no_grad(), counter:
        model(Query.of_frames(together_N))
    return counter.macs // len(together_N)


@dataclass(frozen=True)
class ModelSize:
    """Size and cost of a model, in parameters and multiply-accumulates.

    ``stored``: all that a file holds, ``latents`` of them per-frame; ``encoder``: used while fitting only;
    ``macs``: for one decoded frame, ``macs_per_pixel``: the same divided by the frame's pixels.
    """

    stored: int
    latents: int
    encoder: int
    macs: int
    macs_per_pixel: float


def describe_size(model_class: type[VideoModel], config: ModelConfig, video: VideoSpec) -> ModelSize:
    """Return size and cost of a model for ``video``, found without memory for its values."""
    model = model_class.on_meta(config, video, with_encoder=True)
    latents = encoder = 0
    for shape in model.per_frame_shapes().values():
        latents += math.prod(shape) * video.num_frames
    for name, value in model.named_parameters():
        encoder += value.numel() if name.startswith(ENCODER_PREFIX) else 0
    stored, macs = model.num_stored(), _count_macs(model)
    return ModelSize(stored, latents, encoder, macs, macs / (video.height * video.width))
