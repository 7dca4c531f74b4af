"""What a symbol costs: distributions that price the values of a network while it is fitted.

Only training sees them. The file's own tables are made afterwards, from the symbols there are.

Axes: E elements of all tensors, one after another; T tensors; W width of a layer.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vinr.fit.draws import Draws

PriorName = Literal["laplace", "gaussian", "factorized"]

LEAST_PROBABILITY = 1e-9
# In steps. A tensor whose symbols are all alike keeps a little width, or its price had no gradient.
LEAST_SPREAD = 0.05
WIDTHS = (1, 3, 3, 3, 1)
INITIAL_SCALE = 10.0


class MomentPrior(nn.Module):
    """A Laplace or normal distribution per tensor, centre and spread those of its values.

    There is nothing to learn: the price depends on the values directly and through their moments
    ("consistent entropy", Zhang et al., Boosting Neural Representations for Videos, CVPR 2024).
    """

    def __init__(self, sizes: list[int], shape: Literal["laplace", "gaussian"]) -> None:
        super().__init__()
        self.sizes, self.shape = sizes, shape

    def forward(self, code_E: Tensor, noisy_E: Tensor) -> Tensor:
        """Return the bits of each element of ``noisy_E``; ``code_E`` (in steps) gives the moments."""
        offset_E = code_E - self._per_element(self._mean(code_E))
        distance_E = offset_E.square() if self.shape == "gaussian" else offset_E.abs()
        spread_T = self._mean(distance_E)
        if self.shape == "gaussian":
            spread_T = spread_T.clamp_min(LEAST_SPREAD**2).sqrt()
        spread_E = self._per_element(spread_T.clamp_min(LEAST_SPREAD))
        far_E = (noisy_E - code_E + offset_E).abs()
        mass = _normal_mass if self.shape == "gaussian" else _laplace_mass
        return -torch.log2(mass(far_E, spread_E).clamp_min(LEAST_PROBABILITY))

    def _mean(self, value_E: Tensor) -> Tensor:
        return torch.stack(list(map(torch.mean, torch.split(value_E, self.sizes))))

    def _per_element(self, value_T: Tensor) -> Tensor:
        # Not by an index: its gradient on a GPU adds element after element, and in no fixed order.
        return torch.cat(list(map(Tensor.expand, value_T.unbind(), self.sizes)))


def _laplace_mass(distance: Tensor, spread: Tensor) -> Tensor:
    """Return the probability of [d − ½, d + ½], d ≥ 0, for mean absolute deviation ``spread``."""
    inside = 1 - 0.5 * (
        torch.exp(-(0.5 + distance) / spread) + torch.exp((distance - 0.5).clamp_max(0) / spread)
    )
    outside = 0.5 * torch.exp(-(distance - 0.5).clamp_min(0) / spread) * -torch.expm1(-1 / spread)
    return torch.where(distance < 0.5, inside, outside)


def _normal_mass(distance: Tensor, spread: Tensor) -> Tensor:
    scale = spread * math.sqrt(2)
    # Both ends on the far side of the mean: differences of small numbers, not of numbers near 1.
    return 0.5 * (torch.erfc((distance - 0.5) / scale) - torch.erfc((distance + 0.5) / scale))


class FactorizedPrior(nn.Module):
    """A learned density per tensor (Ballé et al., "… with a scale hyperprior", ICLR 2018, appendix 6.1).

    F(x) = σ(f₄∘…∘f₁(x)), f(x) = g(softplus(H) x + b), g(y) = y + tanh(a) tanh(y), widths 1-3-3-3-1.
    """

    def __init__(self, sizes: list[int], draws: Draws) -> None:
        super().__init__()
        self.sizes = sizes
        layers = list(pairwise(WIDTHS))
        scale = INITIAL_SCALE ** (1 / len(layers))
        count = len(sizes)
        self.matrices, self.offsets, self.bends = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        for before, after in layers:
            # Its softplus is 1 / (scale · after): the slope of all layers is 1 / INITIAL_SCALE at first.
            start = math.log(math.expm1(1 / scale / after))
            self.matrices.append(torch.full((count, after, before), start))
            self.offsets.append(draws.uniform(count, after, 1) - 0.5)
            if after != WIDTHS[-1]:
                self.bends.append(torch.zeros(count, after, 1))

    def forward(self, code_E: Tensor, noisy_E: Tensor) -> Tensor:
        """Return the bits of each element of ``noisy_E``; ``code_E`` (in steps) is not needed."""
        return torch.cat(list(map(self._bits, range(len(self.sizes)), torch.split(noisy_E, self.sizes))))

    def _bits(self, number: int, part_E: Tensor) -> Tensor:
        upper_E, lower_E = self._logit(number, part_E + 0.5), self._logit(number, part_E - 0.5)
        # On the side of the smaller tail, where differences keep their digits.
        sign_E = -torch.sign(upper_E + lower_E).detach()
        mass_E = (torch.sigmoid(sign_E * upper_E) - torch.sigmoid(sign_E * lower_E)).abs()
        return -torch.log2(mass_E.clamp_min(LEAST_PROBABILITY))

    def _logit(self, number: int, value_E: Tensor) -> Tensor:
        value_WE = value_E[None]
        for layer, (matrix, offset) in enumerate(zip(self.matrices, self.offsets, strict=True)):
            value_WE = F.softplus(matrix[number]) @ value_WE + offset[number]
            if layer < len(self.bends):
                value_WE = value_WE + torch.tanh(self.bends[layer][number]) * torch.tanh(value_WE)
        return value_WE[0]


def make_prior(name: PriorName, sizes: list[int], draws: Draws) -> MomentPrior | FactorizedPrior:
    """Return the prior ``name`` for tensors of ``sizes`` elements; what it begins with is from ``draws``."""
    return FactorizedPrior(sizes, draws) if name == "factorized" else MomentPrior(sizes, name)
