"""Tensors and plain values in one safetensors file, written whole or not at all, read without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from vinr.errors import InputError
from vinr.files import atomic_path

__all__ = ["read_tensors", "write_tensors"]

KEY = "vinr"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write ``tensors`` and ``values`` (JSON types); ``path`` always holds a whole file, old or new.

    Raises
    ------
    OutputError
        If the system refuses to write.
    """
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    content = safetensors.torch.save(plain, metadata={KEY: json.dumps(values)})
    with atomic_path(path, force=True) as temporary:
        temporary.write_bytes(content)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what :func:`write_tensors` wrote.

    Raises
    ------
    InputError
        If the file is of another kind or damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            values = json.loads((file.metadata() or {})[KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, safetensors.SafetensorError, KeyError, ValueError) as error:
        raise InputError(
            f"{path}: not a readable state of an encode ({error}); delete it to start anew"
        ) from None
    return tensors, values
