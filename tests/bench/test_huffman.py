"""Bits in one Huffman code: HNeRV's own count, and what any such code must satisfy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.tensors import SMALL, network
from golden_tensors import Golden
from vinr.bench.huffman import code_lengths, huffman_size, joint_code_bits
from vinr.compress.pipeline import quantized_symbols
from vinr.config import CompressSettings

GOLDEN = Golden("compression")


def test_bits_of_the_reference() -> None:
    symbols = GOLDEN["hnerv_huffman.symbols"].numpy()
    count = np.append(np.bincount(symbols), 1)
    with_end = GOLDEN["hnerv_huffman.total_code_bits_with_end_symbol"].item()
    assert count @ code_lengths(count) == with_end
    # How long the end symbol itself is, its neighbours being as rare, is left to chance.
    bits = joint_code_bits({"all": symbols})["all"]
    assert abs(bits - GOLDEN["hnerv_huffman.total_code_bits"].item()) <= 2
    assert bits < with_end


def test_tensors_of_the_reference_share_the_bits() -> None:
    embedding_bits, bits = sorted(GOLDEN.config["hnerv_bits"])
    parts = GOLDEN.below(f"hnerv_quantiser.{bits}bit.codes")
    parts["embedding"] = GOLDEN[f"hnerv_quantiser.{embedding_bits}bit.codes/embedding"]
    symbols = {name: part.numpy().astype(np.int32) for name, part in parts.items()}
    by_tensor = joint_code_bits(symbols)
    assert by_tensor.keys() == parts.keys()
    assert abs(sum(by_tensor.values()) - GOLDEN["hnerv_huffman.total_code_bits"].item()) <= 2


def test_a_code_done_by_hand() -> None:
    assert code_lengths(np.array([4, 0, 2, 1, 1])).tolist() == [1, 0, 2, 3, 3]
    # The alphabet −1, 0, 5 and the end symbol: 1 + 1, + 2, + 4.
    assert joint_code_bits({"a": np.array([[5, 0, 0], [0, 0, -1]]), "b": np.array([-1])}) == {
        "a": 4 + 3 + 2,
        "b": 2,
    }


@pytest.mark.parametrize("count", [[], [7], [0, 3, 0]])
def test_one_symbol_needs_no_code(count: list[int]) -> None:
    assert code_lengths(np.array(count, dtype=np.int64)).tolist() == [0] * len(count)


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=200).filter(lambda c: sum(map(bool, c)) > 1))
def test_no_prefix_code_is_much_longer_than_the_entropy(counts: list[int]) -> None:
    count = np.array(counts)
    length = code_lengths(count)
    assert sum(2.0 ** -float(bits) for bits in length[count > 0]) == 1
    used = count[count > 0]
    entropy = float(-(used * np.log2(used / used.sum())).sum())
    assert entropy - 1e-6 <= float(count @ length) < entropy + used.sum()
    # A rarer symbol never has the shorter code.
    by_count = np.lexsort((-length, count))[(count == 0).sum() :]
    assert (np.diff(length[by_count]) <= 0).all()


def test_bits_of_a_network() -> None:
    stored = network(SMALL, num_frames=6)
    own = CompressSettings(weight_bits=6, weight_scales="channel")
    coded = quantized_symbols(stored, own)
    size = huffman_size(coded)
    # Steps: one a channel of the weights, one for each bias and for the latents.
    assert size.scalar_bits == 16 * (24 + 40 + 3 + 3 + 1)
    assert size.num_bits == size.code_bits + size.scalar_bits
    assert size.code_bits_by_tensor.keys() == stored.keys()
    assert size.code_bits == sum(size.code_bits_by_tensor.values())
    together = np.concatenate([item.symbols.ravel() for item in coded.values()])
    assert size.code_bits == joint_code_bits({"all": together})["all"]


def test_no_symbols_take_no_bits() -> None:
    assert joint_code_bits({"a": np.zeros((0, 3), dtype=np.int32)}) == {"a": 0}
    assert huffman_size({}).num_bits == 0
