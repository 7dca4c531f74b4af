"""Tensors and plain values in one safetensors file, written whole or not at all, read without pickle.

A checksum of everything is part of the metadata: what is read is what was written, or it is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from vinr.errors import InputError
from vinr.files import atomic_path
from vinr.settings import first_problem

# Of what such files hold; any other is refused.
VERSION: Final = 2

VALUES, VERSION_KEY, CHECKSUM = "vinr", "version", "checksum"
DIGEST_BYTES: Final = 32

Schema = TypeVar("Schema", bound=BaseModel)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write ``tensors`` and ``values`` (JSON types); ``path`` always holds a whole file, old or new.

    Raises
    ------
    OutputError
        If the system refuses to write.
    """
    plain = {}
    for name, value in tensors.items():
        # A copy of its own for each: safetensors refuses tensors that share memory.
        plain[name] = value.detach().cpu().contiguous().clone()
    text = json.dumps(values)
    metadata = {VALUES: text, VERSION_KEY: str(VERSION), CHECKSUM: _checksum(plain, text)}
    content = safetensors.torch.save(plain, metadata=metadata)
    with atomic_path(path, force=True) as temporary:
        temporary.write_bytes(content)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what :func:`write_tensors` wrote.

    Raises
    ------
    InputError
        If the file is of another kind or version, or damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text, checksum = _metadata(path, file.metadata())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        # The values are text until the checksum has been compared: nothing damaged is interpreted.
        intact = checksum == _checksum(tensors, text)
        values = json.loads(text) if intact else {}
    except (OSError, safetensors.SafetensorError, ValueError, RecursionError) as error:
        raise refuse_state(path, str(error)) from None
    if not intact:
        raise refuse_state(path, "damaged: wrong checksum")
    if not isinstance(values, dict):
        raise refuse_state(path, "it is another kind of file")
    return tensors, values


def read_state(path: Path, schema: type[Schema]) -> tuple[dict[str, Tensor], Schema]:
    """Return what :func:`write_tensors` wrote, the values as a ``schema``.

    Raises
    ------
    InputError
        As :func:`read_tensors`, and if the values do not fit ``schema``.
    """
    tensors, values = read_tensors(path)
    return tensors, _validated(path, json.dumps(values), schema)


def read_state_values(path: Path, schema: type[Schema]) -> Schema:
    """Return the values alone, without reading the tensors.

    Raises
    ------
    InputError
        As :func:`read_state`, except that damage goes unnoticed.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text, _ = _metadata(path, file.metadata())
    except (OSError, safetensors.SafetensorError) as error:
        raise refuse_state(path, str(error)) from None
    return _validated(path, text, schema)


def read_some_tensors(path: Path, names: Sequence[str]) -> list[Tensor]:
    """Return the tensors ``names`` alone; damage goes unnoticed, unless the caller has checksums of its own.

    Raises
    ------
    InputError
        If the file is of another kind, or lacks one of them.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return [file.get_tensor(name) for name in names]
    except (OSError, safetensors.SafetensorError) as error:
        raise refuse_state(path, str(error)) from None


def refuse_state(path: Path, reason: str) -> InputError:
    """Return the error for a file that no encode can continue from."""
    return InputError(f"{path}: not a readable state of an encode ({reason}); delete it to start anew")


def _metadata(path: Path, metadata: Mapping[str, str] | None) -> tuple[str, str]:
    """Return the values as text and the checksum that a file states."""
    stated = metadata or {}
    if VALUES not in stated:
        raise refuse_state(path, "it is another kind of file")
    version = stated.get(VERSION_KEY, "1")
    if version != str(VERSION):
        raise refuse_state(path, f"version {version[:20]!r}; this vinr reads {VERSION}")
    return stated[VALUES], stated.get(CHECKSUM, "")


def _validated(path: Path, text: str, schema: type[Schema]) -> Schema:
    try:
        return schema.model_validate_json(text)
    except ValidationError as error:
        raise refuse_state(path, first_problem(error)) from None


def _checksum(tensors: Mapping[str, Tensor], values: str) -> str:
    """Return a checksum of values, and of name, type, shape and content of each tensor."""
    digest = hashlib.blake2b(values.encode(), digest_size=DIGEST_BYTES)
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        # As bytes, whatever the type: NumPy has no bfloat16.
        digest.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
        if value.numel():
            digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
