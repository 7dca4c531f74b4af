from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from golden_tensors import Golden
from vinr.models.layers.encodings import (
    EncodingPrecision,
    TimeEncoding,
    TimeNorm,
    encode_position,
    float32_bases,
    normalise_time,
)

PUBLISHED = [
    ("interleaved.40levels.nerv_time", "i/T", "float32"),
    ("interleaved.80levels.nerv_time", "i/T", "float32"),
    ("interleaved.40levels.enerv_time", "i/(T-1)", "float32"),
    ("interleaved.80levels.enerv_time", "i/(T-1)", "float32"),
    ("interleaved.240levels.dnerv_diverse_time", "i/(T-1)", "float32"),
    ("blocks.80levels.nerv_baseline_time", "i/T", "float32_bases"),
    ("blocks.80levels.hnerv_boost_time", "(i+1)/T", "float32_bases"),
    ("blocks.80levels.enerv_boost_time", "(i+1)/T", "float32"),
]


@pytest.mark.parametrize(("name", "time_norm", "precision"), PUBLISHED)
def test_repeats_the_roundings_of_published_models(
    name: str, time_norm: TimeNorm, precision: EncodingPrecision
) -> None:
    golden = Golden("position_encoding")
    order, levels, _ = name.split(".")
    num_frames, base = golden.config["num_frames"], golden.config["base"]
    num_levels = int(levels.removesuffix("levels"))
    encoding = TimeEncoding(num_frames, base, num_levels, order, time_norm, precision)
    ours = encoding(golden["input/frame_index"])
    assert (ours - golden[f"encoding/{name}"]).abs().max() <= 1e-6


def test_bases_are_those_of_the_reference_bit_by_bit() -> None:
    golden = Golden("position_encoding")
    bases = torch.tensor(float32_bases(golden.config["base"], 80), dtype=torch.float64)
    assert torch.equal(bases.float(), golden["bases/blocks.80levels"])
    assert torch.equal(bases, bases.float().double())


def test_known_values_of_the_baseline() -> None:
    # Stated to six digits for frame 1 of 132, base 1.25, 80 levels, sines first.
    row = TimeEncoding(132, 1.25, 80, "blocks", "i/T", "float32_bases")(torch.tensor([1]))[0]
    known = {0: 0.023798, 1: 0.029746, 10: 0.219844, 39: -0.955854, 79: 0.535492}
    known |= {80: 0.999717, 81: 0.999557, 119: 0.293840, 159: 0.844540}
    for place, value in known.items():
        assert row[place].item() == pytest.approx(value, abs=6e-7)


@given(st.fractions(0, 1, max_denominator=5000), st.sampled_from([1.25, 1.05, 2.0, 1.5]))
def test_exact_values_are_sines_of_the_angle(position: Fraction, base: float) -> None:
    levels = 12
    sines, cosines = (
        encode_position(position, base=base, levels=levels)[part] for part in (slice(12), slice(12, None))
    )
    for level in range(levels):
        turns = Fraction(str(base)) ** level * position % 2
        # float64 rounds an angle of up to 2 π by 4e-16, and π and the product once each.
        assert sines[level] == pytest.approx(math.sin(math.pi * turns), abs=4e-15)
        assert cosines[level] == pytest.approx(math.cos(math.pi * turns), abs=4e-15)


def test_exact_values_at_the_top_levels_do_not_drift() -> None:
    # 1.25^79 · t reduced by hand in integers: half-turns, where float64 would be off by 1e-8.
    position = Fraction(4**79, 5**79) / 2
    row = encode_position(position, base=1.25, levels=80)
    assert row[79] == 1.0
    assert row[159] == 0.0


def test_interleaved_holds_the_same_numbers_in_another_order() -> None:
    blocks = encode_position(Fraction(1, 7), base=1.25, levels=5)
    interleaved = encode_position(Fraction(1, 7), base=1.25, levels=5, order="interleaved")
    assert interleaved[::2] + interleaved[1::2] == blocks


def test_times_between_frames_are_exact() -> None:
    encoding = TimeEncoding(10, 1.25, 8)
    between = encoding(torch.tensor([3.5], dtype=torch.float64))
    assert between[0].tolist() == list(encode_position(Fraction(7, 20), base=1.25, levels=8))
    assert between.dtype == torch.float64


@pytest.mark.parametrize(
    ("rule", "first", "last"),
    [
        ("i/T", Fraction(0), Fraction(3, 4)),
        ("i/(T-1)", Fraction(0), Fraction(1)),
        ("(i+1)/T", Fraction(1, 4), Fraction(1)),
    ],
)
def test_time_rules(rule: TimeNorm, first: Fraction, last: Fraction) -> None:
    assert normalise_time(0, 4, rule) == first
    assert normalise_time(3, 4, rule) == last
    assert normalise_time(0, 1, "i/(T-1)") == 0
