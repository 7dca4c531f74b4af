"""Tensors shaped and spread like those of a small fitted network, and what a file makes of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from vinr.compress import ChunkDecoder, PackedTensors, unpack_fixed
from vinr.models import StoredTensor

SMALL = {"stem": (24, 12), "block": (40, 6, 3, 3), "head": (3, 10, 3, 3)}
# An HNeRV decoder of 0.19 M parameters with the latents of 132 frames.
HNERV_SHAPES = {
    "stem": (32, 16, 1, 1),
    "block0": (675, 32, 1, 1),
    "block1": (352, 27, 3, 3),
    "block2": (72, 22, 5, 5),
    "block3": (60, 18, 5, 5),
    "head": (3, 15, 3, 3),
}


def network(
    shapes: dict[str, tuple[int, ...]],
    *,
    num_frames: int = 0,
    slice_shape: tuple[int, ...] = (4, 2, 2),
    seed: int = 0,
) -> dict[str, StoredTensor]:
    """Return weights (Gaussian and Laplace mixed, channels of different spread), biases and latents."""
    rng = np.random.default_rng(0)
    stored = {}
    for name, shape in shapes.items():
        fan_in = int(np.prod(shape[1:]))
        spread = np.exp(rng.normal(0, 0.35, (shape[0],) + (1,) * (len(shape) - 1))) * fan_in**-0.5
        mixed = np.where(rng.random(shape) < 0.6, rng.normal(0, 0.5, shape), rng.laplace(0, 0.6, shape))
        stored[f"{name}.weight"] = StoredTensor(torch.tensor(mixed * spread, dtype=torch.float32), "weight")
        bias = rng.normal(0, 0.5 * fan_in**-0.5, shape[0])
        stored[f"{name}.bias"] = StoredTensor(torch.tensor(bias, dtype=torch.float32), "bias")
    if num_frames:
        latent = rng.laplace(0, 0.5, (num_frames, *slice_shape))
        latent += rng.normal(0, 0.3, (1, *slice_shape))
        stored["latents.frame"] = StoredTensor(torch.tensor(latent, dtype=torch.float32), "latent", True)
    return stored


def random_walk(num_steps: int, *shape: int, pace: float = 0.05, seed: int = 0) -> torch.Tensor:
    """Return numbers that change little from one step of time to the next."""
    rng = np.random.default_rng(seed)
    start, moves = rng.normal(0, 1, (1, *shape)), rng.normal(0, pace, (num_steps - 1, *shape))
    return torch.tensor(np.concatenate([start, moves]).cumsum(0), dtype=torch.float32)


def as_expected(stored: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return what a reader knows before it reads: shapes, no values, one slice of per-frame tensors."""
    expected = {}
    for name, item in stored.items():
        shape = (1, *item.value.shape[1:]) if item.per_frame else item.value.shape
        expected[name] = replace(item, value=torch.empty(shape, device="meta"))
    return expected


def unpack(packed: PackedTensors, stored: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Decode everything."""
    tensors, chunks = unpack_fixed(packed.fixed, as_expected(stored), packed.frames_per_chunk)
    for name, item in stored.items():
        if item.per_frame:
            tensors[name] = replace(item, value=decode_all(chunks, packed, item.value.shape[0])[name])
    return tensors


def decode_all(chunks: ChunkDecoder, packed: PackedTensors, num_frames: int) -> dict[str, torch.Tensor]:
    size = packed.frames_per_chunk
    parts = [
        chunks.decode(payload, min(size, num_frames - number * size))
        for number, payload in enumerate(packed.chunks)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def assert_same(decoded: dict[str, StoredTensor], expected: dict[str, StoredTensor]) -> None:
    assert decoded.keys() == expected.keys()
    for name, item in expected.items():
        assert decoded[name].role == item.role
        assert decoded[name].value.dtype == torch.float32
        assert torch.equal(decoded[name].value, item.value), name
