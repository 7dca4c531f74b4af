"""Magnitude pruning: HiNeRV's masks, the rules, and going on where an earlier call stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_tensors import Golden
from vinr.fit.prune import prunable, prune_masks
from vinr.models import StoredTensor

MASKS = Golden("hinerv_compression")
WEIGHTS = Golden(Path(MASKS.config["model_file"]).stem).below("weight")
# Sets of masks by what their names start with: pruning_mask.ratioR.lambdaL.
MASK_SETS = sorted({key.partition("/")[0] for key in MASKS.tensors if key.startswith("pruning_mask.")})


def hinerv() -> dict[str, StoredTensor]:
    """The golden network; local encodings, with their linear layers, count as grids."""
    stored = {}
    for name, value in WEIGHTS.items():
        is_grid = "grid" in name or "local_encoding" in name
        role = "bias" if value.ndim < 2 else "grid" if is_grid else "weight"
        stored[name] = StoredTensor(value, role)
    return stored


def test_the_rules_are_those_of_the_reference() -> None:
    """Scores are divided by a power of the tensor's size: the adaptive rule's is ½, that of the other 0."""
    exponents = {float(name.partition(".lambda")[2]) for name in MASK_SETS}
    assert exponents == {0.0, 0.5}


@pytest.mark.parametrize("name", MASK_SETS)
def test_masks_of_the_reference(name: str) -> None:
    ratio, _, exponent = name.removeprefix("pruning_mask.ratio").partition(".lambda")
    golden = MASKS.below(name)
    masks = prune_masks(hinerv(), float(ratio), "adaptive" if float(exponent) else "global")
    assert masks.keys() == golden.keys()
    for name, mask in masks.items():
        assert torch.equal(mask, golden[name].bool()), name


def network(**shapes: tuple[int, ...]) -> dict[str, StoredTensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        name.replace("_", "."): StoredTensor(
            torch.randn(shape, generator=generator), "bias" if len(shape) == 1 else "weight"
        )
        for name, shape in shapes.items()
    }


def num_zeros(masks: dict[str, torch.Tensor]) -> int:
    return sum(int((~mask).sum()) for mask in masks.values())


@settings(max_examples=30)
@given(st.floats(0, 0.7), st.sampled_from(["global", "adaptive", "head_excluded"]))
def test_as_many_as_asked_for(sparsity: float, rule: str) -> None:
    stored = network(stem_weight=(20, 30), body_weight=(40, 20, 3, 3), body_bias=(40,), head_weight=(3, 40))
    total = sum(item.value.numel() for item in stored.values())
    masks = prune_masks(stored, sparsity, rule)
    assert num_zeros(masks) == int(sparsity * total)


def test_the_smallest_go_first() -> None:
    stored = network(one_weight=(30, 30), two_weight=(20, 10))
    masks = prune_masks(stored, 0.4, "global")
    kept = torch.cat([stored[name].value[mask].abs() for name, mask in masks.items()])
    gone = torch.cat([stored[name].value[~mask].abs() for name, mask in masks.items()])
    assert gone.max() <= kept.min()


def test_small_tensors_are_protected_under_the_adaptive_rule() -> None:
    stored = network(wide_weight=(100, 100), head_weight=(3, 10))
    shares = {
        rule: float((~prune_masks(stored, 0.5, rule)["head.weight"]).float().mean())
        for rule in ("global", "adaptive")
    }
    assert shares["adaptive"] < shares["global"] / 3


def test_heads_stay_whole_where_they_are_excluded() -> None:
    stored = network(stem_weight=(20, 30), head_weight=(3, 20), block_rgb_weight=(4, 4))
    assert prunable(stored, "head_excluded") == ["stem.weight", "block.rgb.weight"]
    assert "head.weight" in prune_masks(stored, 0.3, "adaptive")


def test_pruned_weights_stay_pruned() -> None:
    stored = network(one_weight=(30, 30), two_weight=(20, 10))
    first = prune_masks(stored, 0.2, "adaptive")
    for name, mask in first.items():
        stored[name].value.mul_(mask)
    second = prune_masks(stored, 0.5, "adaptive")
    assert num_zeros(second) == 550
    for name, mask in first.items():
        assert not (second[name] & ~mask).any()


def test_no_more_than_there_are() -> None:
    stored = network(one_weight=(10, 10), one_bias=(100,))
    assert num_zeros(prune_masks(stored, 0.9, "global")) == 100
    assert prune_masks(stored, 0.0, "global") == {}
