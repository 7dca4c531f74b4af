"""What would scales per row and column of a weight matrix save, when its symbols are coded?

A published coder of such networks (NVRC, Kwan et al., NeurIPS 2024) models weights with a spread per row and
per column, and saves 13 % of the bits by it. HiNeRV, Bunny at 80×160, fitted by vinr's recipe with steps
learned against a rate; the same with Adam in place of Muon. Symbols are those of the file. "bell": one normal
distribution per tensor. "empirical": the entropy of its histogram, which no table without context beats.
"row × column": a normal distribution whose spread is the product of one factor per row and one per column,
both in quarters of an octave, whose own entropy is counted. "best": of bell and row × column the smaller,
tensor by tensor. All in bytes of all weights and grids; biases are left out.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import _record
from vinr.compress.pipeline import quantized_symbols
from vinr.encoding.plan import choose_preset
from vinr.fit import fit
from vinr.video.samples import sample_clip
from vinr.video.source import open_video

Floats = NDArray[np.float64]
UNIT = 0.25
LEAST_SPREAD = 0.15
ROUNDS = 20
# Variance of what rounding leaves, in steps.
ROUNDING = 1 / 12
RECIPES = {
    "Muon": (),
    "Adam": ("fit.optimizer=adam", "fit.learning_rate=2e-3", "fit.vector_learning_rate=2e-3"),
}


def bits_of(symbol_RC: Floats, spread_RC: Floats) -> float:
    """Return the ideal bits of symbols under normal distributions around 0."""
    scale = torch.from_numpy(np.maximum(spread_RC, LEAST_SPREAD)) * math.sqrt(2)
    far = torch.from_numpy(np.abs(symbol_RC))
    mass = 0.5 * (torch.erfc((far - 0.5) / scale) - torch.erfc((far + 0.5) / scale))
    return float(-mass.clamp_min(1e-9).log2().sum())


def entropy_bits(values: NDArray[Any]) -> float:
    """Return the empirical entropy of all values together."""
    counts = np.unique(values, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum())


def bell_bits(symbol_RC: Floats) -> float:
    """Return the bits under the best of a few normal distributions."""
    spread = math.sqrt(float((symbol_RC**2).mean()))
    return min(bits_of(symbol_RC, np.full_like(symbol_RC, share * spread)) for share in (0.85, 0.95, 1, 1.1))


def row_column_bits(symbol_RC: Floats) -> float:
    """Return the bits with a spread per row and column, those of the spreads included."""
    energy_RC = symbol_RC**2 + ROUNDING
    row_R1, column_1C = np.zeros((len(symbol_RC), 1)), np.zeros((1, symbol_RC.shape[1]))
    for _ in range(ROUNDS):
        # Each the maximum of likelihood with the other held, as logarithms to base 2.
        row_R1 += 0.5 * np.log2((energy_RC / 4 ** (row_R1 + column_1C)).mean(1, keepdims=True))
        column_1C += 0.5 * np.log2((energy_RC / 4 ** (row_R1 + column_1C)).mean(0, keepdims=True))
    units = [np.rint(log / UNIT) for log in (row_R1, column_1C)]
    return bits_of(symbol_RC, 2 ** (UNIT * (units[0] + units[1]))) + sum(map(entropy_bits, units))


def measure(recipe: str, epochs: int, params: int) -> dict[str, Any]:
    """Fit a network and price its symbols in each way."""
    overrides = [f"fit.epochs={epochs}", *RECIPES[recipe]]
    with open_video(sample_clip(), crop=(640, 1280), resize=(80, 160)) as reader:
        frames = reader.read()
    preset = choose_preset(
        frames.spec, model="hinerv", preset=None, num_parameters=params, overrides=overrides
    )
    result = fit(frames, preset)
    stored = result.model.stored()
    totals = dict.fromkeys(("bell", "empirical", "row × column", "best"), 0.0)
    count = 0
    for name, coded in quantized_symbols(stored, preset.compress, steps=result.steps).items():
        if stored[name].role == "bias":
            continue
        symbol_RC = coded.symbols.reshape(len(coded.symbols), -1).astype(np.float64)
        bell, both = bell_bits(symbol_RC), row_column_bits(symbol_RC)
        each = (bell, entropy_bits(symbol_RC), both, min(bell, both))
        totals = {key: totals[key] + bits / 8 for key, bits in zip(totals, each, strict=True)}
        count += symbol_RC.size
    bytes_of = {key: round(value) for key, value in totals.items()}
    saved = round(100 * (totals["best"] / totals["bell"] - 1), 2)
    return {"optimizer": recipe, "parameters": count, "epochs": epochs, **bytes_of, "best to bell %": saved}


def main() -> None:
    """Measure both recipes and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--params", type=int, default=60_000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(recipe, given.epochs, given.params) for recipe in RECIPES]
    settings = {"epochs": given.epochs, "params": given.params}
    text = f"{__doc__}\n\n{_record.table(rows)}"
    _record.write("row-column", "python -m benchmarks.row_column", settings, rows, text)


if __name__ == "__main__":
    main()
