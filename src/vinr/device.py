"""Where networks run, and the layers that are fastest there.

Most of the time of a decoder on a processor goes to convolutions of 3×3 and 5×5 pixels. NNPACK, a part of
PyTorch, computes them after a transform (Winograd, Fourier), where they take a fraction of the products::

    tiles of the map ──> transform ──> products of channels ──> back      5×5: 3.6 products a pixel, not 25

Measured on one core with AVX2, 33 to 112 channels of 320×640, 5×5: 157 ms, against 609 ms of oneDNN (458 ms
with channels last). The result differs from the direct one by its last bits (at most 1e-5 of the largest).

Axes: N frames of a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import get_ident
from typing import Any, Final

import torch
from torch import Tensor, nn

from vinr.errors import UsageError
from vinr.sharing import Shared, SharedLock

# Below so many pixels transforming the weights costs more than it saves. Measured: equal at 800 pixels.
MIN_PIXELS: Final = 2048
MAX_KERNEL: Final = 11
# NNPACK knows AVX2; the direct convolution of wider vectors catches up with Winograd's of 3×3.
MIN_KERNEL: Final = {"AVX2": 3, "AVX512": 5}
# Parameters of mallopt(3); as what keeps all memory, and as the library's own adaptation leaves them in
# programs with large blocks.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
KEEP: Final = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1}
USUAL: Final = {M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: 32 * 2**20, M_TRIM_THRESHOLD: 64 * 2**20}
# Its ``fp32_precision`` is "tf32" unless something sets it. PyTorch's types do not name it.
CUDNN_CONVOLUTION: Final[Any] = torch.backends.cudnn.conv  # type: ignore[attr-defined]


def resolve_device(name: str) -> torch.device:
    """Return the device that ``name`` stands for.

    Parameters
    ----------
    name
        ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises
    ------
    UsageError
        If the name is unknown or there is no such device, or the program has given PyTorch another default
        type than float32: networks would be built of it, and their frames would be others.
    """
    if torch.get_default_dtype() != torch.float32:
        raise UsageError(
            f"PyTorch's default type is {torch.get_default_dtype()}; networks run in float32: call "
            "torch.set_default_dtype(torch.float32) first"
        )
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = str(name).partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise UsageError(f"unknown device {name!r}; give auto, cpu, cuda or cuda:N")
    if kind == "cuda":
        count = torch.cuda.device_count()
        if int(number or 0) >= count:
            raise UsageError(f"device {name!r} is not there: this machine has {count} CUDA devices; give cpu")
    return torch.device(name)


@contextmanager
def gradients_on() -> Iterator[None]:
    """Compute gradients in the body, also where the caller has turned them off; as a decorator too."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def is_transformed(feature_NCHW: Tensor) -> bool:
    """Return whether convolving this map after a transform pays, and is as exact as asked for."""
    exact = feature_NCHW.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return exact and feature_NCHW.shape[2] * feature_NCHW.shape[3] >= MIN_PIXELS


class _TransformConv2d(nn.Conv2d):
    """A convolution that is computed after a transform where the map is large enough, else directly."""

    def forward(self, feature_NCHW: Tensor) -> Tensor:
        """Return what the direct convolution does, to its last bits."""
        if not is_transformed(feature_NCHW):
            return super().forward(feature_NCHW)
        bias_C = self.weight.new_zeros(self.out_channels) if self.bias is None else self.bias
        padding = [side // 2 for side in self.kernel_size]
        return torch._nnpack_spatial_convolution(feature_NCHW, self.weight, bias_C, padding)


class _CopiedShuffle(nn.PixelShuffle):
    """Depth to space as one strided copy: a third of the time of PyTorch's own, value for value the same."""

    def forward(self, feature_NCHW: Tensor) -> Tensor:
        """Return features with ``upscale_factor`` times the rows and columns."""
        if _is_channels_last(feature_NCHW):
            return super().forward(feature_NCHW)  # as fast there, and keeps the layout
        scale = self.upscale_factor
        count, _, height, width = feature_NCHW.shape
        apart = feature_NCHW.view(count, -1, scale, scale, height, width)  # N, C, y, x, H, W
        return apart.permute(0, 1, 4, 2, 5, 3).reshape(count, -1, height * scale, width * scale)


def _is_channels_last(feature_NCHW: Tensor) -> bool:
    """Return whether values lie pixel by pixel, and not channel by channel as well (maps of 1×1)."""
    last = feature_NCHW.is_contiguous(memory_format=torch.channels_last)
    return last and not feature_NCHW.is_contiguous()


def arrange_layers(model: nn.Module, *, transforms: bool = True, channels_last: bool | None = None) -> None:
    """Let ``model`` decode as is fastest on this CPU; the one rule for single frames and for many in order.

    Parameters
    ----------
    model
        A network that is ready to decode.
    transforms
        Whether convolutions may be computed after a transform (float32 on CPUs).
    channels_last
        Whether values are stored pixel by pixel; None: where no layer computes after a transform.
    """
    is_any_transformed = transforms and use_transforms(model)
    if channels_last is None:
        channels_last = not is_any_transformed
    if channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def use_transforms(model: nn.Module, kind: type[nn.Conv2d] = _TransformConv2d) -> bool:
    """Let convolutions of ``model`` compute after a transform where that is faster; return whether any does.

    Depth to space becomes one copy on any CPU. Names, shapes and memory of what the model stores stay. No
    convolution changes where PyTorch has no NNPACK. ``kind`` is what they become; a fit has one of its own.
    """
    for module in model.modules():
        if type(module) is nn.PixelShuffle:
            module.__class__ = _CopiedShuffle
    smallest = MIN_KERNEL.get(torch.backends.cpu.get_cpu_capability())
    if smallest is None or not torch.backends.nnpack.is_available():  # type: ignore[no-untyped-call]
        return False
    found = [module for module in model.modules() if _fits(module, smallest)]
    for module in found:
        module.__class__ = kind
    return bool(found)


def _fits(module: nn.Module, smallest: int) -> bool:
    """Return whether ``module`` is a square convolution that keeps the size, of a kernel that pays."""
    if type(module) is not nn.Conv2d or isinstance(module.padding, str):
        return False
    kernel = module.kernel_size[0]
    plain = module.stride == module.dilation == (1, 1) and module.groups == 1
    same_size = module.kernel_size == (kernel, kernel) and module.padding == (kernel // 2, kernel // 2)
    square = same_size and kernel % 2 == 1 and module.padding_mode == "zeros"
    return plain and square and smallest <= kernel <= MAX_KERNEL


@contextmanager
def memory_kept(device: torch.device) -> Iterator[None]:
    """Keep freed memory for the next allocation (Linux with the GNU C library; nothing elsewhere).

    Maps of some MB are otherwise returned to the system each time and come back as new pages that it has to
    fill with zeros: a third of the time of a frame of 640×1280. The setting is that of the whole process; the
    last of those that use it at once puts it back, and returns the memory.
    """
    if sys.platform != "linux" or device.type != "cpu" or not hasattr(ctypes.CDLL(None), "mallopt"):
        yield
        return
    user = object()
    try:
        _MEMORY.begin(user)
        yield
    finally:
        _MEMORY.end(user)


class _KeptMemory(Shared):
    """Who wants freed memory to be kept, and the thread where each began."""

    def __init__(self) -> None:
        self._users: dict[object, int] = {}
        super().__init__()

    def begin(self, user: object) -> None:
        """Keep memory from now on."""
        with self._lock:
            if not self._users:
                self._set(KEEP)
            self._users[user] = get_ident()

    def end(self, user: object) -> None:
        """Return memory to the system, unless others still want it."""
        with self._lock:
            if self._users.pop(user, None) is not None and not self._users:
                self._return()

    def _forked(self, *, interrupted: bool) -> None:
        """Forget the users of threads that this process does not have."""
        users = {user: thread for user, thread in self._users.items() if thread == get_ident()}
        if self._users and not users:
            self._return()
        self._users = users

    def _return(self) -> None:
        self._set(USUAL)
        ctypes.CDLL(None).malloc_trim(0)

    @staticmethod
    def _set(values: Mapping[int, int]) -> None:
        for parameter, value in values.items():
            ctypes.CDLL(None).mallopt(parameter, value)


_MEMORY: Final = _KeptMemory()


class _ExactConvolutions:
    """cuDNN's setting for float32 convolutions, "ieee" from the first that asks for it to the last."""

    def __init__(self) -> None:
        self._lock, self._users, self._before = SharedLock(), 0, ""

    def ask(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._before = CUDNN_CONVOLUTION.fp32_precision
                CUDNN_CONVOLUTION.fp32_precision = "ieee"

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                CUDNN_CONVOLUTION.fp32_precision = self._before


_exact_convolutions: Final = _ExactConvolutions()


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Let float32 convolutions on a GPU keep all digits; cuDNN otherwise rounds what they read to ten (TF32).

    Matrix products keep them as it is, and on processors nothing changes. The setting is that of the whole
    process; it is put back when the last of several threads is done.
    """
    if device.type != "cuda":
        yield
        return
    _exact_convolutions.ask()
    try:
        yield
    finally:
        _exact_convolutions.leave()
