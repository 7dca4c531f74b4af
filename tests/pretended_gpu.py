"""A GPU that is not there: tensors are labelled as on "cuda", and what CUDA refuses is refused.

All numbers stay in the memory of the CPU. A storage carries the label, so that views, parameters and
gradients have it too. Within ``with pretended_gpu() as gpu:`` two modes keep the labels up::

    _Calls        what Python asks for: x.device, x.to("cuda"), torch.zeros(…, device="cuda"), x.numpy()
    _Operations   what PyTorch computes, gradients too: labels results, refuses operands on different devices

``gpu.waits`` counts, by line of vinr, where the CPU waits for the GPU: copies either way, numbers that are
read, indices on the CPU. Not seen are speed, rounding, what CUDA has no kernel for, other threads, and what
``torch.compile`` or ``torch.export`` trace.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["GPU", "MixedDevicesError", "place", "pretended_gpu"]

GPU: Final = torch.device("cuda", 0)
SOURCE: Final = str(Path("src", "vinr"))
aten: Any = torch.ops.aten
INDEXING: Final = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}
# Operations whose result has a size, or is a number, that only the GPU knows.
WAITING: Final = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
}
# Beside pointwise operations these take a single number from the CPU.
NUMBER_FROM_CPU: Final = {aten.fill_.Tensor, aten.masked_fill.Tensor, aten.masked_fill_.Tensor, *INDEXING}
MOVES: Final = {Tensor.to, Tensor.cpu, Tensor.cuda}
MAKERS_FROM_NUMBERS: Final = (torch.tensor, torch.as_tensor, Tensor.new_tensor)
ATTRIBUTES: Final[dict[Any, Any]] = {
    Tensor.device.__get__: GPU,
    Tensor.is_cuda.__get__: True,  # type: ignore[attr-defined]
    Tensor.is_cpu.__get__: False,  # type: ignore[attr-defined]
}


class MixedDevicesError(AssertionError):
    """CUDA would have raised. Code under test never expects this class."""


def place(value: Tensor) -> str:
    """Return "cuda", "cpu", "meta", or "either": made inside an operation, it follows its first companion."""
    return "meta" if value.is_meta else _place(value)


def _place(value: Tensor) -> str:
    return getattr(value.untyped_storage(), "place", "cpu")


def _label(values: Iterable[Tensor], where: str) -> None:
    for value in values:
        value.untyped_storage().place = where  # type: ignore[attr-defined]


def _tensors(value: Any) -> list[Tensor]:
    """Return the tensors with memory among arguments or results, however deep."""
    if isinstance(value, Tensor):
        return [] if value.is_meta else [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return []
    return [tensor for item in value for tensor in _tensors(item)]


def _line() -> str:
    """Return the file and line of vinr that is running."""
    frame = sys._getframe(1)
    while frame.f_back and SOURCE not in frame.f_code.co_filename:
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, calls: _Calls) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls, self.waits = calls, calls.waits

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and the guard against it takes as long as all else

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():
            return self._run(func, args, kwargs or {})

    def _run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        given = [*_tensors(args), *_tensors(kwargs)]
        places = [_place(value) for value in given]
        if "cuda" in places:
            self._check(func, args, given, places)
        result = func(*args, **kwargs)
        known = {value.untyped_storage()._cdata for value in given}
        fresh = [value for value in _tensors(result) if value.untyped_storage()._cdata not in known]
        if "cuda" in places:
            followers = [value for value, where in zip(given, places, strict=True) if where == "either"]
            _label([*fresh, *followers], "cuda")
        elif self.calls.with_gpu_tensors and (not given or "either" in places):
            _label(fresh, "either")
        return result

    def _check(self, func: Any, args: Any, given: list[Tensor], places: list[str]) -> None:
        if func in INDEXING:
            given, places = self._check_indices(func, args)
        if func in WAITING:
            self.waits[f"{func} {_line()}"] += 1
        if "cpu" not in places:
            return
        if func is aten.copy_.default:
            self.waits[f"copy {_line()}"] += 1
            return
        pointwise = torch.Tag.pointwise in func.tags or "foreach" in str(func)
        number_allowed = pointwise or func in NUMBER_FROM_CPU
        on_cpu = [value for value, where in zip(given, places, strict=True) if where == "cpu"]
        if not number_allowed or any(value.ndim for value in on_cpu):
            operands = [(*value.shape, where) for value, where in zip(given, places, strict=True)]
            raise MixedDevicesError(f"{func} of {operands}, {_line()}")

    def _check_indices(self, func: Any, args: Any) -> tuple[list[Tensor], list[str]]:
        """Check the indices; return the other operands and where they are."""
        indices = [index for index in args[1] if index is not None]
        if place(args[0]) == "cpu" and any(place(index) == "cuda" for index in indices):
            raise MixedDevicesError(f"{func}: indices on the GPU of a tensor on the CPU, {_line()}")
        masks = (torch.bool, torch.uint8)
        if any(place(index) == "cpu" or index.dtype in masks for index in indices):
            self.waits[f"index {_line()}"] += 1
        others = [args[0], *_tensors(args[2:])]
        return others, [place(value) for value in others]


class _Calls(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.waits, self.with_gpu_tensors = Counter[str](), False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {key: value for key, value in (kwargs or {}).items() if key != "pin_memory"}
        on_gpu = bool(args) and isinstance(args[0], Tensor) and place(args[0]) == "cuda"
        if func in ATTRIBUTES:
            return ATTRIBUTES[func] if on_gpu else func(*args)
        if func in MOVES:
            return self._move(func, *args, **kwargs)
        if on_gpu and func in (Tensor.numpy, Tensor.__array__):
            raise MixedDevicesError(f"numpy array of a tensor on the GPU, {_line()}")
        if on_gpu and func is Tensor.tolist:
            self.waits[f"tolist {_line()}"] += 1
        wanted = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type
        if func is Tensor.new_tensor and wanted is None and on_gpu:
            wanted = "cuda"
        self._check_generator(func, kwargs.get("generator"), wanted or ("cuda" if on_gpu else "cpu"))
        if wanted == "cuda":
            kwargs["device"] = "cpu"
            if func in MAKERS_FROM_NUMBERS:
                self.waits[f"tensor {_line()}"] += 1
        result = self._call(func, args, kwargs)
        if wanted in ("cpu", "cuda"):
            _label(_tensors(result), wanted)
        return result

    def _check_generator(self, func: Any, generator: torch.Generator | None, where: str) -> None:
        if generator is not None and getattr(generator, "place", "cpu") != where:
            raise MixedDevicesError(f"{func} on {where}: the generator is not, {_line()}")

    def _call(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        before = self.with_gpu_tensors
        if not before:
            given = [*_tensors(args), *_tensors(kwargs)]
            self.with_gpu_tensors = any(_place(value) == "cuda" for value in given)
        try:
            return func(*args, **kwargs)
        finally:
            self.with_gpu_tensors = before

    def _move(self, func: Any, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        wanted = {Tensor.cpu: "cpu", Tensor.cuda: "cuda"}.get(func)
        targets = [*args, *(kwargs.pop(key) for key in ("device", "other") if kwargs.get(key) is not None)]
        plain: list[Any] = []
        for target in targets:
            if isinstance(target, (str, torch.device)):
                wanted = torch.device(target).type
                plain.append("cpu" if wanted == "cuda" else target)
            else:
                wanted = place(target) if isinstance(target, Tensor) else wanted
                plain.append(target)
        if wanted not in ("cpu", "cuda") or value.is_meta or wanted == place(value):
            return Tensor.to(value, *plain, **kwargs) if func is Tensor.to else value
        self.waits[f"to {wanted} {_line()}"] += 1
        result = Tensor.to(value, *(plain or ["cpu"]), **{**kwargs, "copy": True})
        _label(_tensors(result), wanted)
        return result


class _Autocast(torch.autocast):
    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if device_type == "cuda" else device_type, *args, **kwargs)


def _no_inference_mode(mode: bool = True) -> AbstractContextManager[None]:
    # In inference mode operations come here whole, too late for autocast to reach their parts.
    return torch.no_grad() if mode else nullcontext()


class _Generator(torch.Generator):
    place: str

    def __new__(cls, device: torch.device | str = "cpu") -> _Generator:
        generator = super().__new__(cls)
        generator.place = torch.device(device).type
        return generator


class _Event:
    def record(self, stream: object) -> None:
        pass

    def synchronize(self) -> None:
        pass


@contextmanager
def pretended_gpu(*, bf16: bool = False) -> Iterator[_Operations]:
    """Let ``device="cuda"`` work in this thread; ``bf16``: whether the GPU says that it has bfloat16."""
    calls = _Calls()
    functions: dict[str, Any] = {
        "is_available": lambda: True,
        "device": nullcontext,
        "device_count": lambda: 1,
        "is_bf16_supported": lambda including_emulation=True: bf16,
        "get_device_name": lambda device=None: "pretended",
        "mem_get_info": lambda device=None: (2**33, 2**34),
        "memory_allocated": lambda device=None: 0,
        "max_memory_allocated": lambda device=None: 2**20,
        "reset_peak_memory_stats": lambda device=None: None,
        "current_stream": lambda device=None: None,
        "synchronize": lambda device=None: None,
        "Event": _Event,
    }
    with ExitStack() as stack:
        for name, function in functions.items():
            stack.enter_context(patch.object(torch.cuda, name, function))
        stack.enter_context(patch.object(torch, "autocast", _Autocast))
        stack.enter_context(patch.object(torch, "inference_mode", _no_inference_mode))
        stack.enter_context(patch.object(torch, "Generator", _Generator))
        operations = stack.enter_context(_Operations(calls))
        stack.enter_context(calls)
        yield operations
