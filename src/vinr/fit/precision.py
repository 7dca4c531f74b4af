"""Which arithmetic a network is fitted in: float32, or bfloat16 where there are instructions for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from vinr.errors import UsageError, unknown

PrecisionName = Literal["fp32", "bf16"]
NAMES = ("auto", *get_args(PrecisionName))


@dataclass(frozen=True)
class Precision:
    """The arithmetic of one fit, decided once, and why (empty: as it always is)."""

    name: PrecisionName
    reason: str = ""

    @property
    def dtype(self) -> torch.dtype | None:
        """Type for ``torch.autocast``; None: float32 throughout."""
        return torch.bfloat16 if self.name == "bf16" else None

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})" if self.reason else self.name


def resolve_precision(name: str, device: torch.device | str) -> Precision:
    """Return the arithmetic that ``name`` ("auto", "fp32" or "bf16") means on ``device``.

    "auto" is bfloat16 where the device has instructions for it: GPUs, and CPUs with AVX-512 BF16 or AMX. The
    answer depends on the hardware alone, so a command repeated is a fit repeated.

    Raises
    ------
    UsageError
        If the name is unknown, or bf16 is asked of a CUDA device without it.
    """
    device = torch.device(device)
    if name not in NAMES:
        raise UsageError(unknown("precision", name, NAMES))
    if name == "fp32":
        return Precision("fp32")
    if name == "bf16":
        _refuse_gpu_without_bf16(device)
        return Precision("bf16", "as set")
    if device.type == "cuda" and _gpu_has_bf16(device):
        return Precision("bf16", "auto: this GPU has bf16 instructions")
    if device.type == "cpu" and cpu_has_bf16():
        return Precision("bf16", "auto: this CPU has bf16 instructions")
    return Precision("fp32")


def keep_precision(kept: PrecisionName, here: Precision, device: torch.device | str) -> Precision:
    """Return the arithmetic of a fit that was begun in ``kept`` and goes on where ``here`` would be chosen.

    Raises
    ------
    UsageError
        If the device cannot compute in it.
    """
    if kept == here.name:
        return here
    if kept == "bf16":
        _refuse_gpu_without_bf16(torch.device(device))
    return Precision(kept, f"as when the fit began; this machine would choose {here.name}")


def _refuse_gpu_without_bf16(device: torch.device) -> None:
    if device.type == "cuda" and not _gpu_has_bf16(device):
        raise UsageError(
            "precision bf16: this GPU has no bfloat16 arithmetic; use fit.precision=fp32 or the device cpu"
        )


def _gpu_has_bf16(device: torch.device) -> bool:
    with torch.cuda.device(device):  # the question is answered for the current one
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def cpu_has_bf16() -> bool:
    """Return whether PyTorch computes with AVX-512 here, and the CPU has instructions for bfloat16."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    # PyTorch publishes no other name for these questions; a version without one has no answer.
    questions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(vars(torch.cpu)[name]() for name in questions if name in vars(torch.cpu))
