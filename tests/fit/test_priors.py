"""Distributions that price symbols: they add up to one, and ask what symbols really cost."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vinr.fit.draws import Draws
from vinr.fit.priors import PriorName, make_prior

MOMENTS: list[PriorName] = ["laplace", "gaussian"]


def bits_of(name: PriorName, code: Tensor, noisy: Tensor) -> Tensor:
    return make_prior(name, [code.numel()], Draws(3))(code, noisy)


@pytest.mark.parametrize("name", MOMENTS)
@pytest.mark.parametrize("spread", [0.02, 0.3, 1.0, 20.0])
@pytest.mark.parametrize("centre", [0.0, 0.4, -3.3])
def test_probabilities_of_all_symbols_add_up_to_one(name: PriorName, spread: float, centre: float) -> None:
    symbols = torch.arange(-400, 401, dtype=torch.float64)
    # Two numbers with the wanted mean and spread set the moments; the symbols are priced with them.
    code = torch.cat([torch.tensor([centre - spread, centre + spread], dtype=torch.float64)])
    bits = [bits_of(name, code, torch.stack([s, s])).min() for s in symbols[380:421]]
    near = sum(2 ** -float(value) for value in bits)
    far = 2 ** -float(bits_of(name, code, torch.full((2,), centre + 21.0, dtype=torch.float64))[0])
    assert near == pytest.approx(1, abs=1e-6 + 60 * far)


@pytest.mark.parametrize("name", MOMENTS)
@pytest.mark.parametrize("spread", [0.4, 2.0, 15.0])
def test_price_is_the_entropy_of_such_symbols(name: PriorName, spread: float) -> None:
    generator = torch.Generator().manual_seed(1)
    if name == "laplace":
        uniform = torch.rand(200_000, generator=generator, dtype=torch.float64) - 0.5
        code = -spread * uniform.sign() * torch.log1p(-2 * uniform.abs())
    else:
        code = spread * torch.randn(200_000, generator=generator, dtype=torch.float64)
    symbols = code.round()
    counts = torch.unique(symbols, return_counts=True)[1].double() / len(symbols)
    entropy = float(-(counts * counts.log2()).sum())
    assert float(bits_of(name, code, symbols).mean()) == pytest.approx(entropy, rel=0.01)


@pytest.mark.parametrize("name", [*MOMENTS, "factorized"])
def test_gradients_are_finite_where_numbers_are_extreme(name: PriorName) -> None:
    code = torch.tensor([0.0, 0.0, 1e-6, -0.5, 0.5, 3e4, -3e4], requires_grad=True)
    bits = bits_of(name, code, code + 0.25)
    assert bool((bits >= 0).all())
    bits.sum().backward()
    assert code.grad is not None
    assert bool(code.grad.isfinite().all())


@pytest.mark.parametrize("name", MOMENTS)
def test_tensors_have_their_own_moments(name: PriorName) -> None:
    narrow, wide = torch.randn(500), 30 * torch.randn(700) + 4
    together = make_prior(name, [500, 700], Draws(3))
    code = torch.cat([narrow, wide])
    expected = torch.cat([bits_of(name, narrow, narrow), bits_of(name, wide, wide)])
    torch.testing.assert_close(together(code, code), expected, atol=2e-3, rtol=1e-4)


def test_a_learned_density_learns_what_no_bell_fits() -> None:
    """Two peaks: the learned density comes close to their entropy, a bell stays far away."""
    generator = torch.Generator().manual_seed(2)
    side = torch.randint(2, (4000,), generator=generator) * 2 - 1
    code = 6.0 * side + 0.4 * torch.randn(4000, generator=generator)
    prior = make_prior("factorized", [4000], Draws(3))
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.03)
    for _ in range(250):
        noisy = code + torch.rand(4000, generator=generator) - 0.5
        bits = prior(code, noisy).mean()
        optimizer.zero_grad()
        bits.backward()
        optimizer.step()
    symbols = code.round()
    learned = float(prior(code, symbols).mean().detach())
    assert learned < float(bits_of("laplace", code, symbols).mean()) - 1
