"""Which weights are set to zero, and kept there: magnitude pruning of a whole network.

Zeros need no mask in the file: they are the symbol 0, which the coder makes cheap.

Sources: global magnitude, Chen et al. (NeRV, 2021); adaptive, Kwan et al. (HiNeRV, 2023), supplement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from vinr.models import StoredTensor

PruningRule = Literal["global", "adaptive", "head_excluded"]

# HiNeRV: a weight counts |w| / (P ** 0.5 + 1e-6), P the number of weights left in its tensor.
ADAPTIVE_EXPONENT = 0.5
ADAPTIVE_EPSILON = 1e-6
HEADS = {"head", "heads", "rgb_head"}


def prunable(stored: Mapping[str, StoredTensor], rule: PruningRule) -> list[str]:
    """Return the names of the tensors that pruning may thin out: weights of convolutions and linear layers.

    Biases, norms, grids and latents stay whole; so does the head under ``head_excluded``.
    """
    names = []
    for name, item in stored.items():
        is_spared = rule == "head_excluded" and not HEADS.isdisjoint(name.split("."))
        if item.role == "weight" and not is_spared:
            names.append(name)
    return names


def prune_masks(stored: Mapping[str, StoredTensor], sparsity: float, rule: PruningRule) -> dict[str, Tensor]:
    """Return masks (bool, True: kept) of the prunable tensors.

    ``sparsity`` (0 ≤ · < 1) is the part of *all* parameters that is zero afterwards; weights that are zero
    already are among them, so that a second call with a greater sparsity goes on where the first stopped.
    At most all prunable weights are taken.
    """
    names = prunable(stored, rule) if sparsity else []
    if not names:
        return {}
    weights = [stored[name].value for name in names]
    scores = torch.cat([_score(weight, rule).flatten() for weight in weights])
    total = sum(item.value.numel() for item in stored.values())
    count = min(int(sparsity * total), scores.numel())
    keep = torch.ones_like(scores, dtype=torch.bool)
    # Stable, so that among equal scores (all those that are zero already) the first are taken again.
    keep[torch.argsort(scores, stable=True)[:count]] = False
    masks, first = {}, 0
    for name, weight in zip(names, weights, strict=True):
        # keep   name 0 ····│ name 1 ······│ name 2 …       as the scores lie
        masks[name] = keep[first : first + weight.numel()].view(weight.shape)
        first += weight.numel()
    return masks


def _score(weight: Tensor, rule: PruningRule) -> Tensor:
    magnitude = weight.detach().abs()
    if rule != "adaptive":
        return magnitude
    num_left = int((magnitude > 0).sum())
    return magnitude / (math.pow(num_left, ADAPTIVE_EXPONENT) + ADAPTIVE_EPSILON)
