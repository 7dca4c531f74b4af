"""The state of a fit as named tensors and plain values, as a checkpoint holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["FitState", "pack_optimizer", "random_state", "restore_random_state", "unpack_optimizer"]


@dataclass(frozen=True)
class FitState:
    """Everything that decides how a fit goes on.

    ``tensors`` holds network, optimiser, averaged weights and random state under prefixed names; ``values``
    the scalars (JSON types only).
    """

    tensors: dict[str, Tensor] = field(repr=False)
    values: dict[str, Any]


def pack_optimizer(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split ``optimizer.state_dict()`` into named tensors and JSON values."""
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, dict[str, Any]] = {}
    for index, slots in state["state"].items():
        for name, value in slots.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                scalars.setdefault(str(index), {})[name] = value
    return tensors, {"scalars": scalars, "groups": state["param_groups"]}


def unpack_optimizer(tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> dict[str, Any]:
    """Reverse :func:`pack_optimizer`."""
    slots: dict[int, dict[str, Any]] = {int(index): dict(item) for index, item in values["scalars"].items()}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        slots.setdefault(int(index), {})[name] = value
    return {"state": slots, "param_groups": values["groups"]}


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the random state of the processor and of ``device``."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Reverse :func:`random_state`."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
