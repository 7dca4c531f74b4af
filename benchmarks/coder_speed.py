"""How long the coder takes for the symbols of a 3 M network, with each kind of model.

3,000,000 symbols of a Gaussian of deviation 32, 256 of them, rounded and clipped to 8 bits. Coding and
decoding are one thread's work; the figures are its processor seconds, medians of three runs, so that other
work on the machine counts little. Must: at most 2 s for coding, and for decoding, with each kind.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any, TypeVar

import numpy as np
import torch

import _record
from vinr.compress.entropy import MAX_LEVEL, Kind, StreamReader, StreamWriter, SymbolModel, Symbols
from vinr.compress.quantize import quantize
from vinr.compress.search import choose_model

NUM_SYMBOLS, BITS, DEVIATION, NUM_RUNS = 3_000_000, 8, 32.0, 3
MOST_SECONDS = 2.0
# 2^9 symbols' worth of the bell is where adaptive models start from here; the encoder tries others.
ADAPTIVE_WEIGHT = 9

Result = TypeVar("Result")


def timed(run: Callable[[], Result]) -> tuple[Result, float]:
    """Return what ``run`` returns, and the median of its processor seconds."""
    seconds = []
    for _ in range(NUM_RUNS):
        start = time.process_time()
        result = run()
        seconds.append(time.process_time() - start)
    return result, median(seconds)


def models(symbol_S: Symbols) -> list[SymbolModel]:
    """Return a model of each kind, made to measure."""
    bell = replace(choose_model(symbol_S, static=True), kind=Kind.BELL)
    count_H = np.bincount((symbol_S - bell.low) >> bell.shift, minlength=bell.num_entries)
    level_H = MAX_LEVEL + np.rint(4 * np.log2(np.maximum(count_H, 1) / count_H.max())).astype(int)
    histogram = replace(bell, kind=Kind.HISTOGRAM, levels=tuple(level_H.clip(0).tolist()))
    return [replace(bell, kind=Kind.ADAPTIVE, weight=ADAPTIVE_WEIGHT), bell, histogram]


def measure(model: SymbolModel, symbol_S: Symbols) -> dict[str, Any]:
    """Code and decode ``symbol_S`` with ``model``."""

    def code() -> bytes:
        writer = StreamWriter()
        writer.write_levels(model)
        writer.write(model, symbol_S)
        return writer.finish()

    def decode() -> Symbols:
        reader = StreamReader(stream, "the benchmark")
        return reader.read(reader.read_levels(replace(model, levels=())), symbol_S.shape[0])

    stream, coding_seconds = timed(code)
    decoded_S, decoding_seconds = timed(decode)
    if not np.array_equal(decoded_S, symbol_S):
        raise RuntimeError(f"a model of kind {model.kind.name} does not decode to what was coded")
    return {
        "model": model.kind.name.lower(),
        "coding s": coding_seconds,
        "decoding s": decoding_seconds,
        "bits a symbol": 8 * len(stream) / symbol_S.shape[0],
    }


def entropy_bits(symbol_S: Symbols) -> float:
    """Return the empirical entropy, bits a symbol."""
    share_A = np.unique(symbol_S, return_counts=True)[1] / symbol_S.shape[0]
    return float(-(share_A * np.log2(share_A)).sum())


def main() -> None:
    """Measure each kind of model and what the encoder does before it codes, and write both tables."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    value_S = np.random.default_rng(0).normal(0, DEVIATION, NUM_SYMBOLS)
    limit = 2 ** (BITS - 1)
    symbol_S = np.rint(value_S).clip(-limit, limit - 1).astype(np.int32)
    rows = [measure(model, symbol_S) for model in models(symbol_S)]
    number_S = torch.from_numpy(value_S)
    before = {
        "choose the model": lambda: choose_model(symbol_S),
        "steps of the range": lambda: quantize(number_S, BITS, name="numbers"),
    }
    choices = [{"encoder": what, "s": timed(run)[1]} for what, run in before.items()]
    slowest = max(max(row["coding s"], row["decoding s"]) for row in rows)
    verdict = "met" if slowest <= MOST_SECONDS else "NOT met"
    text = (
        f"{__doc__}\n{_record.table(rows)}\n\n"
        f"Slowest: {slowest:.2f} s, at most {MOST_SECONDS:.0f} s: {verdict}. "
        f"Entropy: {entropy_bits(symbol_S):.3f} bits a symbol.\n\n"
        f"What the encoder does before, for as many numbers:\n\n{_record.table(choices)}"
    )
    print(text)
    settings = {"symbols": NUM_SYMBOLS, "deviation": DEVIATION, "bits": BITS, "runs": NUM_RUNS}
    _record.write("coder-speed", "python benchmarks/coder_speed.py", settings, [*rows, *choices], text)


if __name__ == "__main__":
    main()
