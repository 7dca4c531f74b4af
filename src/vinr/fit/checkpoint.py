"""Atomic checkpoints of a fit: tensors and JSON in one safetensors file, no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vinr.errors import InputError
from vinr.files import atomic_path

__all__ = ["FitState", "load_state", "save_state"]


@dataclass(frozen=True)
class FitState:
    """Everything that decides how a fit goes on.

    ``tensors`` holds network, optimiser, averaged weights and random state under prefixed names; ``values`` the
    scalars (JSON types only).
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


def save_state(state: FitState, path: Path) -> None:
    """Write ``state`` so that ``path`` always holds a whole checkpoint, the old or the new one."""
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.tensors.items()}
    with atomic_path(path, force=True) as temporary:
        save_file(tensors, temporary, metadata={"vinr": json.dumps(state.values)})


def load_state(path: Path) -> FitState:
    """Read a checkpoint.

    Raises
    ------
    InputError
        If the file is no checkpoint of vinr or is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            values = json.loads(metadata["vinr"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not a readable checkpoint ({error}); delete it to start anew") from None
    return FitState(tensors, values)


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
