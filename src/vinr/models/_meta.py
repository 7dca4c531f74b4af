"""Networks without values, run on the meta device to learn what they cost.

There torch finds many shapes in Python code, which takes longer than all else. That is passed over here, to
the same shapes and the same sums.

Axes: N frames of a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

__all__ = ["MacCounter"]

_aten = torch.ops.aten
# Results have the type of their arguments, and the shape that these broadcast to.
_ELEMENTWISE: frozenset[Any] = frozenset(
    {
        _aten.add.Tensor,
        _aten.sub.Tensor,
        _aten.mul.Tensor,
        _aten.div.Tensor,
        _aten.rsub.Scalar,
        _aten.addcmul.default,
        _aten.lerp.Tensor,
        _aten.clamp.default,
        _aten.gelu.default,
        _aten.relu.default,
        _aten.silu.default,
        _aten.sin.default,
        _aten.tanh.default,
        _aten.sigmoid.default,
    }
)


def _addmm(bias: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return left.new_empty(left.shape[0], right.shape[1])


def _layer_norm(x: Tensor, normalized_shape: Sequence[int], *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    kept = x.ndim - len(normalized_shape)
    statistics = x.new_empty(*x.shape[:kept], *[1] * len(normalized_shape))
    return torch.empty_like(x), statistics, statistics


def _batch_norm(x: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    statistics = x.new_empty(x.shape[1])
    return torch.empty_like(x), statistics, statistics


def _resize(feature_NCHW: Tensor, size: Sequence[int], *_: Any) -> Tensor:
    return feature_NCHW.new_empty(*feature_NCHW.shape[:2], *size)


def _sample(feature_NCHW: Tensor, place_NHW2: Tensor, *_: Any) -> Tensor:
    return feature_NCHW.new_empty(*feature_NCHW.shape[:2], *place_NHW2.shape[1:3])


_RULES: dict[Any, Callable[..., Any]] = {
    _aten.addmm.default: _addmm,
    _aten.native_layer_norm.default: _layer_norm,
    _aten.native_batch_norm.default: _batch_norm,
    _aten.upsample_bilinear2d.default: _resize,
    _aten.grid_sampler_2d.default: _sample,
}


class MacCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its modes untyped
    """Adds up the multiply-accumulates of all that runs under it, on tensors without values.

    Counted are convolutions and matrix products, by the formulas of torch's FlopCounterMode (2 a
    multiply-accumulate). Use it under ``no_grad``, where torch takes compound operations apart.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._flops = 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates so far."""
        return self._flops // 2

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Return tensors of the shapes that ``func`` would return, and count it."""
        kwargs = kwargs or {}
        result = _shortcut(func, args) if not kwargs else None
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
    shapes = (value.shape if isinstance(value, Tensor) else value for value in args)
    return int(plain(*shapes, out_shape=result.shape))


def _shortcut(func: Any, args: Sequence[Any]) -> Any:
    """Return what ``func`` returns for tensors without values, or None where that takes torch's own rules."""
    tensors = [value for value in args if isinstance(value, Tensor)]
    first = tensors[0] if tensors else None
    if first is None or not first.is_floating_point():
        return None
    if any(value.device.type != "meta" or value.dtype != first.dtype for value in tensors):
        return None
    if func in _ELEMENTWISE:
        shapes = {value.shape for value in tensors}
        if len(shapes) == 1:
            return first.new_empty(first.shape)
        return first.new_empty(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]
    rule = _RULES.get(func)
    return None if rule is None else rule(*args)
