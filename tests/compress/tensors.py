"""Tensors shaped and spread like those of a small fitted network."""

from __future__ import annotations

import numpy as np
import torch

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
