"""The page of a speed measurement, from the document that lies beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vinr.bench.pages import records_table

Document = Mapping[str, Any]


def speed_page(document: Document) -> str:
    """Return the measurement as Markdown."""
    machine = document["machine"]
    device = machine.get("gpu", machine["cpu"]) if document["device"] != "cpu" else machine["cpu"]
    made = f"commit {document['commit']}, " if document["commit"] else ""
    head = (
        "# speed\n\nThis page holds how fast one machine fits and decodes.\n\n"
        f"`python -m benchmarks.speed`, {document['date']}, {made}{device} "
        f"({machine['cpu_capability']}), {machine['threads']} threads, torch {machine['torch']}. "
        f"Clip: {document['clip']}.\n\n"
        "Measurements are interleaved; ratios are those of one turn, shown as median (least to greatest). "
        "Shares of the matrix product count multiply-accumulates as a direct computation takes them: "
        "convolutions after a transform need fewer. A step's are three times those of its forward pass."
    )
    return "\n\n".join([head, *(_network(network) for network in document["networks"])])


def _network(network: Document) -> str:
    kind = "CPU time" if network["cpu_time"] else "wall-clock time"
    title = (
        f"## {network['preset']}: {network['num_frames']} frames of "
        f"{network['height']}×{network['width']}, {network['decode_macs'] / 1e9:.3g} GMAC per decoded "
        f"frame\n\n"
        f"Seconds are {kind}."
    )
    parts = [title]
    if network["steps"] is not None:
        parts += [*_limits(network["steps"]), *_steps(network["steps"])]
    if network["quality"] is not None:
        parts += _quality(network["quality"])
    if network["decoding"] is not None:
        parts += _decoding(network)
    return "\n\n".join([*parts, *_memory(network["memory"])])


def _limits(steps: Document) -> list[str]:
    rows = [
        {"limit": name, "rate": value["median"], "least": value["low"], "greatest": value["high"]}
        for name, value in steps["limits"].items()
    ]
    return [
        "### The machine",
        "10⁹ multiply-accumulates per second; copy: 10⁹ bytes read and written per second.",
        records_table(rows),
    ]


def _steps(steps: Document) -> list[str]:
    rows = []
    for recipe in ("paper", "vinr"):
        figures = steps[recipe]
        rows.append(
            {
                "recipe": recipe,
                "ms per step": 1000 * figures["step_seconds"]["median"],
                "least": 1000 * figures["step_seconds"]["low"],
                "greatest": 1000 * figures["step_seconds"]["high"],
                "s per epoch": figures["epoch_seconds"],
                "GMAC per step": figures["step_macs"] / 1e9,
                "of the matrix product": _percent(figures["share_of_matmul"]["median"]),
                "arithmetic": figures["precision"],
            }
        )
    ratio = f"vinr / paper, seconds per epoch: {_spread(steps['vinr_over_paper'])}."
    variants = []
    for name, variant in steps["variants"].items():
        seconds, ratio_to_paper = variant["step_seconds"]["median"], variant["over_paper"]["median"]
        variants.append(
            {"variant": name, "ms per step": 1000 * seconds, "epoch over the paper's": ratio_to_paper}
        )
    tables = [records_table(rows), ratio]
    return ["### A step", *tables, *([records_table(variants)] if variants else [])]


def _quality(quality: Document) -> list[str]:
    fits = [
        {
            "fit": fit["label"],
            "epochs": fit["epochs"][-1],
            "seconds": fit["seconds"],
            "wall-clock s": fit["wall_seconds"],
            "PSNR dB": fit["final_psnr_db"],
        }
        for fit in quality["fits"]
    ]
    levels = [
        {
            "PSNR dB": level["level_db"],
            "paper s": level["paper_seconds"],
            "vinr s": level["vinr_seconds"],
            "times as fast": level["times_as_fast"],
        }
        for level in quality["levels"]
    ]
    text = (
        "PSNR is the mean of the frames as 8-bit numbers, unquantised network. Seconds are epochs × the "
        "seconds per epoch above, since other work may share the machine during a fit. A level is reached "
        "at the end of the first epoch that has it; vinr's time is that of the first of its fits to do so."
    )
    return ["### Time to quality", text, records_table(fits), records_table(levels)]


def _decoding(network: Document) -> list[str]:
    rows = [
        {
            "way": row["way"],
            "frames/s": row["fps"],
            "best": row["best_fps"],
            "times plain": _spread(row["times_plain"]),
            "of the matrix product": _percent(row["share_of_matmul"]["median"]),
            "PSNR change dB": f"{row['psnr_change_db']:+.4f}",
        }
        for row in network["decoding"]
    ]
    figures = {**network["whole_file"], **network["first_frame"]}
    others = [{"what": what, "value": value} for what, value in figures.items()]
    return ["### Decoding", records_table(rows), records_table(others)]


def _memory(memory: Document | None) -> Sequence[str]:
    if not memory:
        return ["### Peak memory", "Not measured; `--parts memory` does."]
    rows = [{"what": what, "MB": num_bytes / 1e6} for what, num_bytes in memory.items()]
    text = "Each in a process of its own; on CPUs less what interpreter and torch take."
    return ["### Peak memory", text, records_table(rows)]


def _spread(spread: Document) -> str:
    return f"{spread['median']:.3g} ({spread['low']:.3g} to {spread['high']:.3g})"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
