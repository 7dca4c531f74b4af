"""The compression stage, experiment by experiment, on Bunny reduced to 160×320 (132 frames).

quantization  HiNeRV's Table 5: no fine-tuning, QAT, Quant-Noise with and without straight-through gradients,
              trained at 6 bits, written at 8, 7, 6 and 5; `float` is fine-tuned as long, without rounding.
pruning       HiNeRV's Table 4: three rules, 15 % of what is left a round, an epoch each, not quantised.
sparsity      HNeRV's Table 16: pruned once, fine-tuned, 8 bits, coded.
entropy       learned steps against a rate, by rate weight; `float` is fine-tuned as long, without a rate.
rd            four sizes of a model: plain with 8 bits, and with learned steps, in as many epochs.

The first four go on from one plain fit of 0.2 M numbers. Every figure of a file comes from a file that was
written and decoded. Rows are files, so that processes share the work; `--report` writes tables and plots.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bjontegaard
import torch

import _record
from _stages import Base, Measured, bunny, claim, fit_base, go_on, measure
from vinr.bench.stages import at_bits, drop_pruned, float_psnr_db
from vinr.encoding.plan import choose_preset
from vinr.fit import fit
from vinr.video.source import FrameTensor

NAME = "compression-stage"
SIZE = 200_000
EPOCHS = 16
QUANTIZATION_BITS = (8, 7, 6, 5)
TRAINED_BITS = 6
ROUND_SHARE = 0.15
ROUNDS = 4
SPARSITIES = (0.0, 0.10, 0.15, 0.20, 0.25)
RATE_WEIGHTS = (0.01, 0.03, 0.1, 0.2, 0.5, 1.0)
RD_SIZES = {"hnerv": (80_000, 130_000, 210_000, 340_000), "hinerv": (50_000, 80_000, 130_000, 210_000)}
# Epochs of fine-tuning, and of the rate-distortion runs: equal times, as CPU seconds in the table show.
TUNING = {"hnerv": 2, "hinerv": 1}
RD_EPOCHS = {"hnerv": {"plain": 8, "learned": 9}, "hinerv": {"plain": 5, "learned": 5}}
# Restarts: a published fine-tuning has a schedule of its own.
RESTART = {"schedule": {"warmup": 0.05}}
PLAIN = "fit.phases=[]"

NOTES = """## Read with care

- Networks had 16 epochs, and 1 (HiNeRV) or 2 (HNeRV) of fine-tuning; the papers have 300 and 30 to 60.
  Only differences within a table are worth comparing with theirs.
- Quantisation: at 6 bits all three ways of training gain about 0.4 dB over none, and lie 0.25 to 0.32 dB
  below the float model. Quant-Noise without straight-through gradients, best in the paper, is last of the
  three here: a tenth of its numbers learn in a step, and one epoch is short. All were trained at 6 bits,
  so that 5 bits show what a network loses that was trained for another step; 8 bits need no training.
- Five epochs of Quant-Noise instead of one: at 6 bits 30.94 dB with straight-through gradients and 30.80
  without, at 5 bits 28.85 and 28.20. The paper's order (without is best) is not reproduced.
- Pruning: adaptive is ahead at every sparsity, by 2 dB at 48 %; sparing the head is 0.2 dB ahead of the
  original rule there, and within 0.02 dB of it below. The original does not collapse as in the paper.
- Sparsity: as in Table 16 the size falls by about half of the sparsity, and quality ever faster.
- A rate that is weighed from the start of the last 35 % of a fit (`rd`) does better than fine-tuning
  after a complete fit (`entropy`), whose restart at half the rate costs what it must first win back.
- HiNeRV, fitted for 5 epochs only, gains little from the same phase: it loses 0.5 to 0.9 dB. Much of it is
  the short fit, and that the rate pulled at the numbers then (`rate_moves`, docs/compression.md);
  [longer fits](rate-longer-fits.md) of the recipe as it is now gain 27 %. The pair at 210,000 numbers was
  not run.
- `rd`: HNeRV's phase needs no encoder, which is why 9 epochs with it take about as long as 8 without.
- CPU seconds were measured while other work shared the two cores.
"""

Row = dict[str, Any]


def figures(measured: Measured) -> Row:
    """Return what a table shows of a file."""
    return {
        "num_bytes": measured.num_bytes,
        "bits_a_number": measured.bits_a_number,
        "psnr_db": measured.quality.psnr_db,
        "ms_ssim": measured.quality.ms_ssim,
        "over_ideal": measured.coded_bytes / measured.ideal_bytes - 1,
        "side_share": measured.side_share,
    }


# -- experiments ---------------------------------------------------------------------------------------------


def quantization(frames: FrameTensor, base: Base, model: str, variant: str) -> list[Row]:
    """Return the quality at each bit depth after fine-tuning as ``variant`` says, with Adam at 3e-4."""
    base = base.with_settings(at_bits(base.preset.compress, TRAINED_BITS))
    kind = "none" if variant == "float" else variant
    given = {"quantization": kind, "optimizer": "adam", "learning_rate": 0.03, **RESTART}
    result = go_on(frames, base, [] if variant == "none" else [(TUNING[model], given)])
    float_db = float_psnr_db(result.model, frames)
    return [
        {
            "bits": bits,
            "float_db": float_db,
            **figures(measure(frames, base.preset, result, at_bits(base.preset.compress, bits))),
        }
        for bits in QUANTIZATION_BITS
    ]


def pruning(frames: FrameTensor, base: Base, model: str, variant: str) -> list[Row]:
    """Return the quality after each of several rounds of pruning and one epoch each, not quantised."""
    rows: list[Row] = []
    sparsities = [1 - (1 - ROUND_SHARE) ** number for number in range(1, ROUNDS + 1)]

    def note(number: int, run: Any) -> None:
        model = drop_pruned(run)
        rows.append({"sparsity": sparsities[number], "float_db": float_psnr_db(model, frames)})
        model.train()

    phases = [
        (1, {"sparsity": share, "pruning": variant, "learning_rate": 0.3, **RESTART}) for share in sparsities
    ]
    go_on(frames, base, phases, at_end=note)
    return rows


def sparsity(frames: FrameTensor, base: Base, model: str, variant: str) -> list[Row]:
    """Return size and quality of an 8-bit file after pruning once to sparsity ``variant``."""
    given = {"sparsity": float(variant), "pruning": "global", "learning_rate": 0.3, **RESTART}
    result = go_on(frames, base, [(TUNING[model], given)])
    return [{"sparsity": float(variant), **figures(measure(frames, base.preset, result))}]


def entropy(frames: FrameTensor, base: Base, model: str, variant: str) -> list[Row]:
    """Return size and quality with learned steps at rate weight ``variant``."""
    given: Row = {"learning_rate": 0.5, **RESTART}
    if variant != "float":
        given |= {"quantization": "entropy", "rate_weight": float(variant)}
    result = go_on(frames, base, [(2 * TUNING[model], given)])
    float_db = float_psnr_db(result.model, frames)
    return [{"float_db": float_db, **figures(measure(frames, base.preset, result))}]


def rd(frames: FrameTensor, model: str, variant: str) -> list[Row]:
    """Return size and quality of one size of ``model``: variant ``kind/size``, plain or learned."""
    kind, _, size = variant.partition("/")
    overrides = [f"fit.epochs={RD_EPOCHS[model][kind]}", *([PLAIN] if kind == "plain" else [])]
    preset = choose_preset(
        frames.spec, model=model, preset=None, num_parameters=int(size), overrides=overrides
    )
    started = time.process_time()
    result = fit(frames, preset)
    seconds = time.process_time() - started
    return [{"cpu_seconds": seconds, **figures(measure(frames, preset, result))}]


FROM_BASE: dict[str, tuple[Callable[[FrameTensor, Base, str, str], list[Row]], tuple[str, ...]]] = {
    "quantization": (quantization, ("none", "noise", "noise_ste", "qat", "float")),
    "pruning": (pruning, ("adaptive", "global", "head_excluded")),
    "sparsity": (sparsity, tuple(f"{share:g}" for share in SPARSITIES)),
    "entropy": (entropy, ("float", *(f"{weight:g}" for weight in RATE_WEIGHTS))),
}


def variants_of(experiment: str, model: str) -> tuple[str, ...]:
    """Return the names of an experiment's runs."""
    if experiment == "rd":
        return tuple(f"{kind}/{size}" for size in RD_SIZES[model] for kind in ("plain", "learned"))
    return FROM_BASE[experiment][1]


def run(frames: FrameTensor, experiment: str, model: str, variant: str, folder: Path) -> list[Row]:
    """Return the rows of one variant."""
    if experiment == "rd":
        found = rd(frames, model, variant)
    else:
        base = fit_base(frames, model, SIZE, EPOCHS, folder, [PLAIN])
        found = FROM_BASE[experiment][0](frames, base, model, variant)
    key = {"experiment": experiment, "model": model, "variant": variant, "commit": _record.commit()}
    return [{**key, **row} for row in found]


# -- report --------------------------------------------------------------------------------------------------


def show_quantization(rows: list[Row]) -> str:
    """Return PSNR by variant and bits, and how far below the fitted float model."""
    reference = next(row["float_db"] for row in rows if row["variant"] == "none")
    shown = []
    for variant in dict.fromkeys(row["variant"] for row in rows):
        own = {row["bits"]: row["psnr_db"] for row in rows if row["variant"] == variant}
        cells = {
            f"{bits} bit": f"{own[bits]:.2f} (−{reference - own[bits]:.2f})" for bits in QUANTIZATION_BITS
        }
        shown.append({"fine-tuning": variant, **cells})
    tuned = next(row["float_db"] for row in rows if row["variant"] == "float")
    text = f"Float model: {reference:.2f} dB; fine-tuned as long without rounding: {tuned:.2f} dB."
    return f"{text}\n\n{_record.table(shown)}"


def show_pruning(rows: list[Row]) -> str:
    """Return PSNR by rule and sparsity."""
    shown = []
    for variant in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == variant]
        shown.append({"rule": variant, **{f"{row['sparsity']:.4f}": f"{row['float_db']:.2f}" for row in own}})
    return _record.table(shown)


def show_sparsity(rows: list[Row]) -> str:
    """Return size and quality by sparsity."""
    whole = next(row["num_bytes"] for row in rows if row["sparsity"] == 0)
    return _record.table(
        [
            {
                "sparsity": f"{row['sparsity']:.2f}",
                "PSNR dB": f"{row['psnr_db']:.2f}",
                "bytes": f"{row['num_bytes']:,}",
                "ratio %": f"{100 * row['num_bytes'] / whole:.1f}",
            }
            for row in sorted(rows, key=lambda row: row["sparsity"])
        ]
    )


def show_entropy(rows: list[Row]) -> str:
    """Return size and quality by rate weight, and the distance to the float model tuned as long."""
    reference = next(row["float_db"] for row in rows if row["variant"] == "float")
    shown = [
        {
            "rate weight": "8 bits" if row["variant"] == "float" else row["variant"],
            "bits a number": f"{row['bits_a_number']:.2f}",
            "bytes": f"{row['num_bytes']:,}",
            "PSNR dB": f"{row['psnr_db']:.2f}",
            "below float dB": f"{reference - row['psnr_db']:.2f}",
            "over ideal %": f"{100 * row['over_ideal']:.2f}",
            "side information %": f"{100 * row['side_share']:.2f}",
        }
        for row in sorted(rows, key=lambda row: -row["num_bytes"])
    ]
    return f"Float model, fine-tuned as long without a rate: {reference:.2f} dB.\n\n{_record.table(shown)}"


def show_rd(rows: list[Row]) -> str:
    """Return both curves and the difference of their rates."""
    curves = {kind: _curve(rows, kind) for kind in ("plain", "learned")}
    shown = [
        {
            "kind": kind,
            "numbers": row["variant"].partition("/")[2],
            "bytes": f"{row['num_bytes']:,}",
            "PSNR dB": f"{row['psnr_db']:.2f}",
            "MS-SSIM": f"{row['ms_ssim']:.4f}",
            "CPU s": f"{row['cpu_seconds']:.0f}",
        }
        for kind, curve in curves.items()
        for row in curve
    ]
    rates = [[row["num_bytes"] for row in curves[kind]] for kind in ("plain", "learned")]
    qualities = [[row["psnr_db"] for row in curves[kind]] for kind in ("plain", "learned")]
    if len(rates[0]) != len(rates[1]):
        return _record.table(shown)
    saved = bjontegaard.bd_rate(rates[0], qualities[0], rates[1], qualities[1], method="akima", min_overlap=0)
    return f"BD-rate of learned against plain: **{saved:+.1f} %**.\n\n{_record.table(shown)}"


def _curve(rows: list[Row], kind: str) -> list[Row]:
    own = [row for row in rows if row["variant"].startswith(f"{kind}/")]
    return sorted(own, key=lambda row: row["num_bytes"])


SHOWN = {
    "quantization": ("HiNeRV's Table 5: quantisation", show_quantization),
    "pruning": ("HiNeRV's Table 4: pruning", show_pruning),
    "sparsity": ("HNeRV's Table 16: prune, 8 bits, code", show_sparsity),
    "entropy": ("Learned steps against a rate", show_entropy),
    "rd": ("Rate and distortion at equal epochs", show_rd),
}


def draw(rows: list[Row]) -> None:
    """Draw the curves of the last experiment, a panel for each model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    models = sorted({row["model"] for row in rows})
    figure, panels = pyplot.subplots(
        1, len(models), figsize=(5.5 * len(models), 4.2), layout="constrained", squeeze=False
    )
    for axes, model in zip(panels[0], models, strict=True):
        for kind, color in (("plain", "#b5651d"), ("learned", "#1b6ca8")):
            curve = _curve([row for row in rows if row["model"] == model], kind)
            kilobytes = [row["num_bytes"] / 1000 for row in curve]
            axes.plot(kilobytes, [row["psnr_db"] for row in curve], "o-", color=color, label=LABELS[kind])
        axes.set(
            title=model,
            xlabel="file, kB",
            ylabel="PSNR of the decoded file, dB",
        )
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(_record.RESULTS / f"{NAME}.png", dpi=120)


LABELS = {"plain": "8 bits, after the fit", "learned": "learned steps against a rate"}


def report(rows: list[Row]) -> None:
    """Write tables and plot."""
    parts = [__doc__ or ""]
    for experiment, (title, show) in SHOWN.items():
        for model in sorted({row["model"] for row in rows if row["experiment"] == experiment}):
            own = [row for row in rows if (row["experiment"], row["model"]) == (experiment, model)]
            parts.append(f"## {title}: {model}\n\n{show(own)}")
    curves = [row for row in rows if row["experiment"] == "rd"]
    if curves:
        draw(curves)
        parts.append(f"![Rate and distortion]({NAME}.png)")
    parts.append(NOTES)
    settings = {"numbers": SIZE, "epochs": EPOCHS, "tuning_epochs": TUNING, "rd_epochs": RD_EPOCHS}
    _record.write(NAME, "python benchmarks/compression_stage.py", settings, rows, "\n\n".join(parts))


def main() -> None:
    """Run what is asked for and not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiments", nargs="*", default=[*FROM_BASE, "rd"])
    parser.add_argument("--models", nargs="*", default=list(TUNING))
    parser.add_argument("--variants", nargs="*", help="only these")
    _record.row_options(parser, NAME)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.rows.mkdir(exist_ok=True)
    if given.report:
        report([row for rows in _record.rows_in(given.rows) for row in rows])
        return
    frames = bunny()
    for experiment in given.experiments:
        for model in given.models:
            for variant in given.variants or variants_of(experiment, model):
                path = given.rows / f"{experiment}-{model}-{variant.replace('/', '-')}.json"
                if not claim(path):
                    continue
                rows = run(frames, experiment, model, variant, given.rows)
                path.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
                print(experiment, model, variant, json.dumps(rows[-1]), flush=True)


if __name__ == "__main__":
    main()
