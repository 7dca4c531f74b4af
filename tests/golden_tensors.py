"""Golden tensors of other implementations, and the differences they allow.

Tensors kept as float64 (outputs, losses, gradient norms) must match to 1e-9 in float64; those rounded to
float32 (stages) to that rounding. A float32 run may differ by ten times what the float32 run of the reference
did.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

FOLDER = Path(__file__).parent / "parity"
# A folder with another draw of the same files: other sizes, other weights.
OTHER_DRAW = os.environ.get("VINR_PARITY")

DTYPES = [torch.float64, torch.float32]


def golden_path(name: str) -> Path:
    """Return where the golden file ``name`` lies: in another draw where one is given and has it."""
    file = f"{name}.safetensors"
    return Path(OTHER_DRAW, file) if OTHER_DRAW and Path(OTHER_DRAW, file).exists() else FOLDER / file


class Golden:
    """One file of golden tensors. Whatever a test needs to know of the network, ``config`` says."""

    def __init__(self, name: str) -> None:
        with safe_open(golden_path(name), "pt") as file:
            metadata = file.metadata()
            self.tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        self.config: dict[str, Any] = json.loads(metadata["config"])
        self.spread: dict[str, float] = json.loads(metadata["float32_spread"])

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def below(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors under ``prefix/``, without it."""
        return {
            key.removeprefix(f"{prefix}/"): value
            for key, value in self.tensors.items()
            if key.startswith(f"{prefix}/")
        }

    @property
    def stages(self) -> list[str]:
        """Names of the values at stage boundaries, without ``stage/``."""
        return list(self.below("stage"))

    def kernel(self, name: str) -> int:
        """Return the kernel size of the convolution ``name``."""
        return self.tensors[f"weight/{name}.weight"].shape[-1]

    def check(self, name: str, value: Tensor) -> None:
        """Assert that ``value`` is the golden tensor ``name``, as nearly as its precision allows.

        Of stage maps that keep the first listed frame only, the first frame is compared.
        """
        golden = self.tensors[name]
        value = value.detach()[: golden.shape[0]] if golden.ndim else value.detach()
        largest = max(1.0, golden.abs().max().item())
        if value.dtype == torch.float64:
            limit = (1e-9 if golden.dtype == torch.float64 else 1.2e-7) * largest
        else:
            limit = max(10 * self.spread[name], 2e-6 * largest)
        assert value.shape == golden.shape, name
        difference = (value.double() - golden.double()).abs().max().item()
        assert difference <= limit, f"{name}: off by {difference:.2e}, allowed {limit:.2e}"


def record_outputs(modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    """Return a dictionary that the outputs of ``modules`` appear in, under their names, as they run."""
    seen: dict[str, Tensor] = {}
    for name, module in modules.items():
        module.register_forward_hook(
            lambda _module, _inputs, output, name=name: seen.__setitem__(name, output)
        )
    return seen
