"""Where networks run, and what computing there sets for the whole process, each for a reason.

::

    memory_kept           malloc keeps freed memory                while frames are played, networks fitted
    exact_float32         cuDNN keeps all digits in convolutions   while a GPU computes in float32
    compute_when_forked   forks free MKL's buffers, use a thread   from the first network on, for good
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import get_ident
from typing import Any, Final

import torch

from vinr.errors import UsageError
from vinr.sharing import Shared

# Parameters of mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
# No block is mapped by itself (MMAP_MAX), and none goes back to the system (TRIM_THRESHOLD).
KEEPING_MALLOC: Final = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1}
# As the library's own adaptation leaves them in programs with large blocks.
DEFAULT_MALLOC: Final = {M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: 32 * 2**20, M_TRIM_THRESHOLD: 64 * 2**20}
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
    check_device_name(name)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = str(name).partition(":")
    if kind == "cuda":
        count = torch.cuda.device_count()
        if int(number or 0) >= count:
            raise UsageError(f"device {name!r} is not there: this machine has {count} CUDA devices; give cpu")
    return torch.device(name)


def check_device_name(name: str) -> None:
    """Refuse a name that stands for a device on no machine.

    Raises
    ------
    UsageError
        If it is not ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    """
    kind, _, number = str(name).partition(":")
    if name != "auto" and (kind not in ("cpu", "cuda") or (number and not number.isdigit())):
        raise UsageError(f"unknown device {name!r}; give auto, cpu, cuda or cuda:N")


@contextmanager
def gradients_on() -> Iterator[None]:
    """Compute gradients in the body, also where the caller has turned them off; as a decorator too."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


# -- settings of the whole process ---------------------------------------------------------------------------


class _ProcessSetting(Shared):
    """A setting that the first of its users changes, and the last puts back.

    ``change`` returns what puts it back.
    """

    def __init__(self, change: Callable[[], Callable[[], None]]) -> None:
        self._change, self._put_back = change, _nothing
        # Each user with its thread: a forked child has one thread, whose users alone go on.
        self._users: dict[object, int] = {}
        super().__init__()

    @contextmanager
    def used(self) -> Iterator[None]:
        """Have the setting changed in the body."""
        user = object()
        try:
            with self._lock:
                if not self._users:
                    self._put_back = self._change()
                self._users[user] = get_ident()
            yield
        finally:
            with self._lock:
                # A signal may come before the user is known.
                if self._users.pop(user, None) is not None and not self._users:
                    self._put_back()

    def _forked(self, *, interrupted: bool) -> None:
        users = {user: thread for user, thread in self._users.items() if thread == get_ident()}
        if self._users and not users:
            self._put_back()
        self._users = users


def _nothing() -> None:
    """Put nothing back."""


def _keep_memory() -> Callable[[], None]:
    _set_malloc(KEEPING_MALLOC)
    return _return_memory


def _return_memory() -> None:
    _set_malloc(DEFAULT_MALLOC)
    ctypes.CDLL(None).malloc_trim(0)


def _set_malloc(values: Mapping[int, int]) -> None:
    for parameter, value in values.items():
        ctypes.CDLL(None).mallopt(parameter, value)


def _keep_digits() -> Callable[[], None]:
    before = CUDNN_CONVOLUTION.fp32_precision
    CUDNN_CONVOLUTION.fp32_precision = "ieee"
    return lambda: setattr(CUDNN_CONVOLUTION, "fp32_precision", before)


_KEPT_MEMORY: Final = _ProcessSetting(_keep_memory)
_EXACT_CONVOLUTIONS: Final = _ProcessSetting(_keep_digits)


@contextmanager
def memory_kept(device: torch.device) -> Iterator[None]:
    """Keep freed memory for the next allocation (Linux with the GNU C library; nothing elsewhere).

    Maps of some MB are otherwise returned to the system each time and come back as new pages that it has to
    fill with zeros: a third of the time of a frame of 640×1280.
    """
    if sys.platform != "linux" or device.type != "cpu" or not hasattr(ctypes.CDLL(None), "mallopt"):
        yield
        return
    with _KEPT_MEMORY.used():
        yield


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Let float32 convolutions on a GPU keep all digits; cuDNN otherwise rounds what they read to ten (TF32).

    Matrix products keep them as it is, and on CPUs nothing changes.
    """
    if device.type != "cuda":
        yield
        return
    with _EXACT_CONVOLUTIONS.used():
        yield


@contextmanager
def thread_count_restored(count: int | None = None) -> Iterator[None]:
    """Compute on ``count`` CPU threads in the body, as before if None; afterwards as before in any case."""
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)


def may_choose_threads(device: torch.device) -> bool:
    """Return whether the number of threads is open: on a CPU, unless the environment states it."""
    return device.type == "cpu" and torch.get_num_threads() > 1 and "OMP_NUM_THREADS" not in os.environ


@cache
def compute_when_forked() -> None:
    """Let processes that are forked from now on compute, and on one thread.

    The threads of OpenMP are not copied into a forked process, which would wait for them without end. Workers
    of a DataLoader compute on one thread for the same reason. And MKL keeps buffers by thread: where many
    threads have computed before the fork, a child looks for its own without end, unless they were freed.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_mkl_free_buffers(), after_in_child=lambda: torch.set_num_threads(1))


def _mkl_free_buffers() -> Callable[[], object]:
    """Return what frees the buffers of MKL, which lies in PyTorch's library; nothing where it does not."""
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        free: Callable[[], object] = library.mkl_serv_free_buffers
    except (OSError, AttributeError):
        return _nothing
    return free
