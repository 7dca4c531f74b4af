"""The quantiser: steps that can be stored, zero that stays zero, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress import reference_decoder as reference
from vinr.compress.quantize import quantize, quantize_to_steps, step_code
from vinr.compress.unpack import MAX_STEP_CODE, QuantizedTensor, dequantize, step_of
from vinr.errors import FitError

values = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60)


def test_steps_are_exact_in_float32_and_rise_with_their_code() -> None:
    steps = np.array([step_of(code) for code in range(MAX_STEP_CODE + 1)])
    assert np.array_equal(steps, steps.astype(np.float32).astype(np.float64))
    assert (np.diff(steps) > 0).all()
    assert steps[0] == 2.0**-93
    assert [reference.step(code) for code in (0, 5000, MAX_STEP_CODE)] == steps[[0, 5000, -1]].tolist()


@given(st.floats(2.0**-93, 2.0**34), st.sampled_from([1, 16]))
def test_step_code_rounds_up_to_the_next(step: float, unit: int) -> None:
    code = step_code(step, unit)
    assert code % unit == 0
    assert step_of(code) >= step
    assert code < unit or step_of(code - unit) < step


@given(values, st.integers(2, 16))
def test_error_and_alphabet_are_bounded(numbers: list[float], bits: int) -> None:
    value = torch.tensor(numbers)
    coded = quantize(value, bits, name="weight")
    step = step_of(coded.step_codes[0])
    restored = dequantize(coded)
    # Half a step, and the rounding of the product to float32.
    allowed = 0.5 * step + value.abs().max().item() * 2**-24
    assert (restored.double() - value.double()).abs().max() <= allowed
    assert np.ptp(coded.symbols) <= 2**bits
    assert np.abs(coded.symbols).max() <= 2**20
    assert (restored[value == 0] == 0).all()


def test_values_are_those_of_one_float32_multiplication() -> None:
    coded = quantize(torch.linspace(-1, 2, 1000), 8, name="weight")
    step = np.float32(step_of(coded.step_codes[0]))
    assert np.array_equal(dequantize(coded).numpy(), coded.symbols.astype(np.float32) * step)
    assert dequantize(coded).dtype == torch.float32


def test_step_follows_from_the_range() -> None:
    coded = quantize(torch.tensor([-1.0, 0.0, 3.0]), 8, name="weight")
    assert step_of(coded.step_codes[0]) == pytest.approx(4 / 255, rel=2**-7)
    assert coded.symbols.tolist() == [-64, 0, 191]
    # Rounded up once: quantising what was dequantised changes nothing.
    assert np.array_equal(quantize(dequantize(coded), 8, name="weight").symbols, coded.symbols)


def test_channels_have_their_own_steps() -> None:
    value = torch.stack([torch.linspace(-1, 1, 50), torch.linspace(-0.01, 0.01, 50), torch.zeros(50)])
    coded = quantize(value, 6, name="weight", by_channel=True)
    assert coded.is_channelwise
    assert all(code % 16 == 0 for code in coded.step_codes)
    assert coded.step_codes[0] > coded.step_codes[1] == coded.step_codes[2]
    assert (dequantize(coded)[1] - value[1]).abs().max() < 0.01 * (
        dequantize(coded)[0] - value[0]
    ).abs().max() * 2
    assert np.abs(coded.symbols[1]).max() > 24
    assert dequantize(coded)[2].abs().max() == 0


def test_channels_far_from_zero_share_one_alphabet() -> None:
    value = torch.stack([1 + 1e-6 * torch.randn(50), torch.randn(50)])
    coded = quantize(value, 16, name="weight", by_channel=True)
    assert np.ptp(coded.symbols) < 2**17


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0), (0, 3), (2, 3, 4)])
@pytest.mark.parametrize("fill", [0.0, 1.0, -0.3, 1e-45])
def test_constants_and_empty_tensors(shape: tuple[int, ...], fill: float) -> None:
    value = torch.full(shape, fill)
    coded = quantize(value, 8, name="weight")
    assert coded.symbols.shape == shape
    assert coded.symbols.size == 0 or np.ptp(coded.symbols) == 0
    torch.testing.assert_close(dequantize(coded), value, rtol=2**-20, atol=1e-40)


def test_offset_vectors_keep_their_precision() -> None:
    scale = 1 + 0.01 * torch.linspace(-1, 1, 64)
    restored = dequantize(quantize(scale, 12, name="norm.weight"))
    assert (restored - scale).abs().max() <= 0.02 / (2**12 - 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_float_types(dtype: torch.dtype) -> None:
    value = torch.linspace(-1, 1, 33, dtype=torch.float32).to(dtype).requires_grad_()
    restored = dequantize(quantize(value, 12, name="weight"))
    assert restored.dtype == torch.float32
    assert (restored - value.float()).abs().max() < 2**-11


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_not_finite(bad: float) -> None:
    with pytest.raises(FitError, match=r"head\.weight: not all values are finite"):
        quantize(torch.tensor([1.0, bad]), 8, name="head.weight")


def test_too_large() -> None:
    with pytest.raises(FitError, match=r"head\.weight: values up to 3e\+38 are too large"):
        quantize(torch.tensor([1.0, 3e38]), 8, name="head.weight")


def test_channels_of_zeros_and_constants() -> None:
    value = torch.stack([torch.zeros(40), torch.full((40,), 0.7), torch.linspace(-1, 1, 40)])
    coded = quantize(value, 5, name="weight", by_channel=True)
    assert coded.step_codes[0] == min(coded.step_codes)
    torch.testing.assert_close(dequantize(coded)[:2], value[:2], rtol=2**-14, atol=0)
    empty = torch.zeros(3, 0)
    assert quantize(empty, 5, name="weight", by_channel=True).symbols.shape == empty.shape


def test_quantized_tensor_says_whether_it_is_channelwise() -> None:
    assert not QuantizedTensor(np.zeros(3, dtype=np.int32), (5,)).is_channelwise


@pytest.mark.parametrize(("number", "fits"), [(2.0**20, True), (2.0**20 + 1, False), (float("nan"), False)])
def test_values_too_large_for_given_steps(number: float, fits: bool) -> None:
    value, steps = torch.tensor([1.0, number], dtype=torch.float64), torch.tensor([1.0])
    if fits:
        assert quantize_to_steps(value, steps, name="grid").symbols.tolist() == [1, 2**20]
    else:
        with pytest.raises(FitError, match="grid: values are not finite or too large for their steps"):
            quantize_to_steps(value, steps, name="grid")


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan"), float("inf")])
def test_steps_that_are_none_are_refused(step: float) -> None:
    with pytest.raises(FitError, match="cannot be stored"):
        step_code(step)
