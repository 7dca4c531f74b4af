"""What tests of fast layers share: which convolutions are computed after a transform."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vinr import kernels


def count_transforms(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Return a list that collects the shape of each map that is convolved after a transform.

    Kernels from 3×3 on are, also where the direct convolution of small ones is as fast.
    """
    monkeypatch.setitem(kernels.MIN_KERNEL, torch.backends.cpu.get_cpu_capability(), 3)
    shapes: list[tuple[int, ...]] = []
    operator = kernels.NNPACK
    assert operator is not None

    def counted(feature_NCHW: Tensor, *rest: Any) -> Tensor:
        shapes.append(tuple(feature_NCHW.shape))
        return operator(feature_NCHW, *rest)

    monkeypatch.setattr(kernels, "NNPACK", counted)
    return shapes
