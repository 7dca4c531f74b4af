"""Integer tables: their sum, their shape, their exact values, and the second implementation in the tests."""

from __future__ import annotations

import hashlib
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress import reference_decoder as reference
from vinr.compress.entropy import (
    MAX_TABLE,
    Bell,
    Counts,
    bell_table,
    level_table,
    normalise,
    power_of_two,
    uniform_table,
)

TOTAL = 2**24
bells = st.builds(Bell, st.integers(0, 299), st.integers(0, 127), st.integers(0, 2), st.integers(0, 3))


def test_powers_are_the_largest_integers_below() -> None:
    powers = power_of_two(np.arange(256)).tolist()
    for part, value in enumerate(powers):
        assert value**256 <= 2 ** (6144 - part) < (value + 1) ** 256
    assert power_of_two(np.array([256 * 24, 256 * 25, 2**48])).tolist() == [1, 0, 0]


@given(st.lists(st.integers(0, 2**33), min_size=2, max_size=400).filter(any))
def test_normalised_tables_add_up_and_keep_proportions(weights: list[int]) -> None:
    table = normalise(np.array(weights, dtype=np.int64)).tolist()
    assert sum(table) == TOTAL
    assert min(table) >= 1
    assert table == reference.normalise(weights)
    largest = weights.index(max(weights))
    for number, weight in enumerate(weights):
        exact = 1 + Fraction(weight * (TOTAL - len(weights)), sum(weights))
        assert exact - 1 < table[number] <= exact + (len(weights) if number == largest else 0)


@settings(max_examples=30)
@given(bells)
def test_bells_equal_the_second_implementation(bell: Bell) -> None:
    table = bell_table(300, bell).tolist()
    assert table == reference.bell(300, bell.centre, bell.scale, bell.shape, bell.tail)
    assert sum(table) == TOTAL
    # What division leaves over goes to the first of the greatest entries; without it, the sides fall evenly.
    assert max(table) - table[bell.centre] < 300
    table[table.index(max(table))] = table[bell.centre]
    assert table[: bell.centre] == sorted(table[: bell.centre])
    assert table[bell.centre + 1 :] == sorted(table[bell.centre + 1 :], reverse=True)


def test_scale_is_where_probability_halves() -> None:
    for shape in (0, 2):
        table = bell_table(2001, Bell(1000, 64, shape, 0))
        assert table[1000 + 16] / table[1000] == pytest.approx(0.5, rel=0.01)


def test_largest_tables() -> None:
    for scale, shape, tail in ((0, 2, 0), (127, 0, 3), (127, 1, 0), (0, 1, 3)):
        table = bell_table(MAX_TABLE, Bell(0, scale, shape, tail))
        assert table.sum() == TOTAL
        assert table.min() >= 1


@given(st.lists(st.integers(0, 95), min_size=2, max_size=300))
def test_levels_are_quarter_octaves(levels: list[int]) -> None:
    table = level_table(np.array(levels)).tolist()
    assert table == reference.normalise([reference.power(64 * (95 - level)) for level in levels])
    pair = level_table(np.array([95, 91]))
    assert pair[0] / pair[1] == pytest.approx(2, rel=1e-5)


def test_uniform() -> None:
    for num_bits in (1, 5):
        assert uniform_table(num_bits).tolist() == [TOTAL >> num_bits] * 2**num_bits


def test_counts_grow_their_blocks_and_forget() -> None:
    counts = Counts(bell_table(4, Bell(0, 40, 0, 2)), 4)
    lengths = []
    for _ in range(120):
        length, table = counts.block()
        lengths.append(length)
        counts.update(np.full(length, 3, dtype=np.int32))
    assert lengths[:9] == [64] * 9
    assert lengths[9] == 72
    assert lengths[-1] == 4096
    assert table[3] > 0.999 * TOTAL
    # Half of what came first is forgotten again and again: the new symbol takes over within 2¹⁷ of its own.
    for _ in range(32):
        length, table = counts.block()
        counts.update(np.full(length, 1, dtype=np.int32))
    assert counts.block()[1][1] > counts.block()[1][3]


def test_tables_are_pinned() -> None:
    digest = hashlib.sha256()
    for scale in range(0, 128, 9):
        for shape in range(3):
            for tail in range(4):
                digest.update(bell_table(200, Bell(77, scale, shape, tail)).astype("<i8").tobytes())
    digest.update(level_table(np.arange(96)).astype("<i8").tobytes())
    assert digest.hexdigest() == "c18b4194f22d7d2af7ad3151ecc6590c48c8c170aa24ba91a5b69835ec45065c"
