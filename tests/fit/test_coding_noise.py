"""What training sees of coding: what the file will hold, with the gradients that each method states."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vinr.compress import pack_tensors, quantized, unpack_fixed
from vinr.compress.quantize import step_code
from vinr.compress.unpack import CHANNEL_CODE_UNIT, MAX_STEP_CODE, step_of
from vinr.config import CompressSettings, Phase
from vinr.fit.coding_noise import CodingNoise, snap_steps
from vinr.fit.draws import Draws
from vinr.models import StoredTensor


def network(seed: int = 0) -> dict[str, StoredTensor]:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).requires_grad_()

    return {
        "stem.weight": StoredTensor(noise(16, 20), "weight"),
        "stem.bias": StoredTensor(noise(16), "bias"),
        "conv.weight": StoredTensor((0.01 * noise(8, 16, 3, 3)).detach().requires_grad_(), "weight"),
        "grid": StoredTensor(noise(3, 5, 6), "grid"),
        "latents.frame": StoredTensor(noise(4, 2, 3), "latent", True),
    }


def coding(
    stored: dict[str, StoredTensor], settings: CompressSettings | None = None, **phase: Any
) -> CodingNoise:
    return CodingNoise(stored, Phase(share=0.5, **phase), settings or CompressSettings(), Draws(3))


def values_of(stored: dict[str, StoredTensor]) -> dict[str, Tensor]:
    return {name: item.value for name, item in stored.items()}


@pytest.mark.parametrize("scales", ["tensor", "channel"])
@pytest.mark.parametrize("bits", [4, 6, 8])
def test_rounding_is_that_of_the_file(bits: int, scales: str) -> None:
    settings = CompressSettings(weight_bits=bits, grid_bits=bits, latent_bits=bits, weight_scales=scales)
    stored = network()
    seen, num_bits = coding(stored, settings, quantization="qat")(values_of(stored))
    assert num_bits is None
    for name, item in quantized(stored, settings).items():
        expected = item.value if item.role != "bias" else stored[name].value
        torch.testing.assert_close(seen[name], expected, atol=1e-6, rtol=0)


def test_qat_passes_gradients_straight_through() -> None:
    stored = network()
    values = values_of(stored)
    seen, _ = coding(stored, CompressSettings(weight_bits=5), quantization="qat")(values)
    seen["stem.weight"].sum().backward()
    gradient = values["stem.weight"].grad
    inside = (values["stem.weight"] < values["stem.weight"].max()) & (
        values["stem.weight"] > values["stem.weight"].min()
    )
    assert torch.allclose(gradient[inside], torch.ones(()))


def test_quant_noise_without_straight_through_learns_from_clean_weights_alone() -> None:
    stored = network()
    values = values_of(stored)
    seen, _ = coding(stored, CompressSettings(weight_bits=4), quantization="noise")(values)
    weight = values["stem.weight"]
    clean = seen["stem.weight"] == weight
    assert 0.03 < float(clean.float().mean()) < 0.2
    (gradient,) = torch.autograd.grad(seen["stem.weight"].sum(), weight)
    extreme = (weight == weight.max()) | (weight == weight.min())
    assert torch.equal(gradient[~extreme], clean.float()[~extreme])


def test_quant_noise_with_straight_through_learns_from_all() -> None:
    stored = network()
    values = values_of(stored)
    seen, _ = coding(stored, CompressSettings(weight_bits=4), quantization="noise_ste")(values)
    weight = values["stem.weight"]
    assert 0.03 < float((seen["stem.weight"] == weight).float().mean()) < 0.2
    (gradient,) = torch.autograd.grad(seen["stem.weight"].sum(), weight)
    extreme = (weight == weight.max()) | (weight == weight.min())
    assert torch.allclose(gradient[~extreme], torch.ones(()))


@pytest.mark.parametrize("scales", ["tensor", "channel"])
def test_learned_steps_are_those_of_the_file(scales: str) -> None:
    settings = CompressSettings(weight_scales=scales)
    stored = network()
    noise = coding(stored, settings, quantization="entropy", initial_bits=4)
    seen, num_bits = noise(values_of(stored))
    assert num_bits is not None
    steps = noise.steps()
    assert set(steps) == {"stem.weight", "conv.weight", "grid", "latents.frame"}
    packed = pack_tensors(stored, settings, steps=steps)
    fixed, _ = unpack_fixed(packed.fixed, stored, packed.frames_per_chunk)
    for name, item in fixed.items():
        if item.role != "bias":
            assert torch.equal(item.value, seen[name].detach())


def test_the_rate_is_about_what_the_file_takes() -> None:
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(60, 400, generator=generator).requires_grad_()
    stored = {"body.weight": StoredTensor(weight, "weight")}
    noise = coding(stored, quantization="entropy", prior="gaussian", initial_bits=4)
    _, num_bits = noise(values_of(stored))
    packed = pack_tensors(stored, CompressSettings(), steps=noise.steps())
    assert num_bits is not None
    rate = float(num_bits.detach())
    assert rate / 24_000 == pytest.approx(4, abs=0.1)
    assert 8 * len(packed.fixed) == pytest.approx(rate, rel=0.02)


def test_steps_learn_to_save_bits() -> None:
    stored = network()
    noise = coding(stored, quantization="entropy")
    assert noise.log_step is not None
    _, before = noise(values_of(stored))
    assert before is not None
    before.backward()
    assert noise.log_step.grad is not None
    assert bool((noise.log_step.grad < 0).all())  # larger steps, fewer bits


@pytest.mark.parametrize("moved", ["all", "steps"])
@pytest.mark.parametrize("prior", ["laplace", "gaussian", "factorized"])
def test_the_rate_pulls_at_what_it_shall(moved: str, prior: str) -> None:
    stored = network()
    noise = coding(stored, quantization="entropy", prior=prior, rate_moves=moved)
    assert noise.log_step is not None
    seen, num_bits = noise(values_of(stored))
    assert num_bits is not None
    num_bits.backward(retain_graph=True)
    assert noise.log_step.grad is not None
    assert bool((noise.log_step.grad != 0).all())
    weight = stored["conv.weight"].value
    assert (weight.grad is not None) == (moved == "all")
    seen["conv.weight"].sum().backward()  # distortion reaches them either way
    assert weight.grad is not None


def test_pruned_weights_are_zero_for_the_network_and_in_the_end() -> None:
    stored = network()
    noise = coding(stored, sparsity=0.3, quantization="entropy")
    total = sum(item.value.numel() for item in stored.values())
    seen, _ = noise(values_of(stored))
    assert sum(int((value == 0).sum()) for value in seen.values()) >= int(0.3 * total)
    pruned = noise.pruned(stored)
    assert sum(int((item.value == 0).sum()) for item in pruned.values()) >= int(0.3 * total)


def test_nothing_is_done_where_nothing_is_asked() -> None:
    stored = network()
    values = values_of(stored)
    seen, num_bits = CodingNoise({}, None, CompressSettings(), Draws(3))(values)
    assert num_bits is None
    assert all(seen[name] is value for name, value in values.items())


@settings(max_examples=300)
@given(st.floats(2**-40, 2**30), st.booleans())
def test_snapped_steps_are_steps_of_the_format(step: float, by_channel: bool) -> None:
    unit = 16 if by_channel else 1
    value = torch.tensor([step], dtype=torch.float64)
    for up in (False, True):
        snapped = float(snap_steps(value, by_channel=by_channel, up=up)[0])
        assert step_of(step_code(snapped, unit)) == snapped
        assert snapped == pytest.approx(step, rel=1 / 8 if by_channel else 1 / 128)
        assert not up or snapped >= step


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize("up", [False, True])
def test_steps_of_the_format_stay_as_they_are(
    monkeypatch: pytest.MonkeyPatch, by_channel: bool, up: bool, dtype: torch.dtype
) -> None:
    """All codes, where powers of two come out one digit too large, as they may on a GPU."""
    for name in ("ldexp", "pow", "exp2"):
        exact = getattr(torch, name)
        monkeypatch.setattr(
            torch, name, lambda *values, exact=exact: exact(*values).nextafter(torch.tensor(torch.inf))
        )
    unit = CHANNEL_CODE_UNIT if by_channel else 1
    codes = range(0, MAX_STEP_CODE + 1, unit)
    step_S = torch.tensor([step_of(code) for code in codes], dtype=dtype)
    snapped_S = snap_steps(step_S, by_channel=by_channel, up=up)
    assert torch.equal(snapped_S, step_S)
    assert [step_code(step, unit) for step in snapped_S.tolist()] == list(codes)


def test_steps_beyond_the_format_become_its_outermost() -> None:
    step_S = torch.tensor([0.0, 1e-38, 1e38])
    expected_S = torch.tensor([step_of(0), step_of(0), step_of(MAX_STEP_CODE)])
    assert torch.equal(snap_steps(step_S), expected_S)
    assert torch.equal(snap_steps(step_S, up=True), expected_S)


@pytest.mark.parametrize("prior", ["laplace", "gaussian", "factorized"])
def test_prices_are_exact_under_mixed_precision(prior: str) -> None:
    stored = network()
    found = []
    for enabled in (False, True):
        noise = coding(stored, quantization="entropy", prior=prior, initial_bits=7)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            seen, num_bits = noise(values_of(stored))
        assert num_bits is not None
        assert noise.log_step is not None
        slopes = torch.autograd.grad(num_bits, [noise.log_step, stored["conv.weight"].value])
        found.append([num_bits.detach(), *slopes, *seen.values()])
    for exact, mixed in zip(*found, strict=True):
        assert torch.equal(exact, mixed)


@pytest.mark.parametrize("scales", ["tensor", "channel"])
def test_every_number_is_divided_by_its_own_step(scales: str) -> None:
    stored = network()
    noise = coding(stored, CompressSettings(weight_scales=scales), quantization="entropy")
    seen, _ = noise(values_of(stored))
    for name, step_R in noise.steps().items():
        value = stored[name].value.detach()
        step = step_R.view(-1, *[1] * (value.ndim - 1))
        assert torch.equal(seen[name].detach(), (value / step).round() * step)
        assert (len(step_R) > 1) == (scales == "channel" and name.endswith("weight"))


@pytest.mark.parametrize("prior", ["laplace", "gaussian"])
def test_gradients_of_steps_keep_their_digits(monkeypatch: pytest.MonkeyPatch, prior: str) -> None:
    """A step gathers the gradients of all its numbers; added one after another they would lose digits."""
    weight, noise_E = torch.randn(64, 5000), torch.rand(320_000)
    monkeypatch.setattr(Draws, "uniform_like", lambda self, value: noise_E.to(value))
    found = []
    for dtype in (torch.float32, torch.float64):
        stored = {"body.weight": StoredTensor(weight.to(dtype), "weight")}
        noise = coding(stored, quantization="entropy", prior=prior).to(dtype)
        _, num_bits = noise(values_of(stored))
        assert noise.log_step is not None
        assert num_bits is not None
        found += torch.autograd.grad(num_bits, noise.log_step)
    torch.testing.assert_close(found[0].double(), found[1], rtol=2e-6, atol=0)
