"""Learned steps against a rate in longer fits than compression_stage.py can afford: HiNeRV at 80×160.

Bunny, centre-crop 640×1280, area-averaged to 80×160, all 132 frames. A plain network is written with 8
bits; a learned one spends the last 20 % of as many epochs on steps learned against a rate (fit.phases of
its preset). Files are written and decoded; PSNR is the mean over their frames as 8-bit numbers, float
that of the network before it is written. Seconds are processor time of one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import bjontegaard
import torch

import _record
from _stages import claim, measure
from time_to_quality import Row, read
from vinr.bench.stages import float_psnr_db
from vinr.encoding.plan import choose_preset
from vinr.fit import fit

NAME = "rate-longer-fits"
MODEL = "hinerv"
SIZE = (80, 160)
NUM_FRAMES = 132
# Epochs: numbers of the plain and of the learned networks.
RUNS = {
    16: {"plain": (20_000, 30_000, 50_000, 80_000), "learned": (30_000, 50_000, 80_000, 120_000)},
}
PLAIN = ["fit.phases=[]"]


def run(epochs: int, kind: str, numbers: int) -> Row:
    """Return size and quality of one network."""
    frames = read(SIZE, NUM_FRAMES)
    overrides = [f"fit.epochs={epochs}", *(PLAIN if kind == "plain" else [])]
    preset = choose_preset(frames.spec, model=MODEL, preset=None, num_parameters=numbers, overrides=overrides)
    started = time.process_time()
    result = fit(frames, preset)
    seconds = time.process_time() - started
    measured = measure(frames, preset, result)
    return {
        "epochs": epochs,
        "kind": kind,
        "numbers": measured.num_parameters,
        "bytes": measured.num_bytes,
        "bits a number": measured.bits_a_number,
        "PSNR dB": measured.quality.psnr_db,
        "float dB": float_psnr_db(result.model, frames),
        "CPU s": seconds,
        "commit": _record.commit(),
    }


def summary(rows: list[Row]) -> str:
    """Return the difference of the rates, where there are curves to compare."""
    lines = []
    for epochs, kinds in RUNS.items():
        curves = [
            sorted(
                (row for row in rows if (row["epochs"], row["kind"]) == (epochs, kind)),
                key=lambda row: row["bytes"],
            )
            for kind in kinds
        ]
        if min(len(curve) for curve in curves) < 4:
            continue
        rates = [[row["bytes"] for row in curve] for curve in curves]
        qualities = [[row["PSNR dB"] for row in curve] for curve in curves]
        saved = bjontegaard.bd_rate(
            rates[0], qualities[0], rates[1], qualities[1], method="akima", min_overlap=0
        )
        lines.append(f"{epochs} epochs: BD-rate of learned against plain **{saved:+.1f} %**.")
    return "\n\n".join(lines)


def main() -> None:
    """Run what is not there yet, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", nargs="*", type=int, default=[*RUNS])
    _record.row_options(parser, NAME)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.rows.mkdir(exist_ok=True)
    if given.report:
        rows = _record.rows_in(given.rows)
        text = f"{__doc__}\n{summary(rows)}\n\n{_record.table(rows)}"
        _record.write(NAME, f"python benchmarks/{Path(__file__).name}", {"runs": RUNS}, rows, text)
        return
    for epochs in given.epochs:
        for kind, sizes in RUNS[epochs].items():
            for numbers in sizes:
                path = given.rows / f"{epochs:03d}-{kind}-{numbers:06d}.json"
                if claim(path):
                    row = run(epochs, kind, numbers)
                    path.write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")
                    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
