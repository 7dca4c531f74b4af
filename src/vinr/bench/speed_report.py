"""The page of a speed measurement, from the document that lies beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vinr.bench.speed_turns import markdown_table

Document = Mapping[str, Any]


def speed_page(document: Document) -> str:
    """Return the measurement as Markdown."""
    machine = document["machine"]
    device = machine.get("gpu", machine["cpu"]) if document["device"] != "cpu" else machine["cpu"]
    made = f"commit {document['commit']}, " if document["commit"] else ""
    head = (
        f"# speed\n\n`vinr bench speed`, {document['date']}, {made}{device} ({machine['cpu_capability']}), "
        f"{machine['threads']} threads, torch {machine['torch']}. Clip: {document['clip']}.\n\n"
        "What is compared runs in turns; ratios are those of one turn, shown as median (least to greatest). "
        "Shares of the matrix product count multiply-accumulates as a direct computation takes them: "
        "convolutions after a transform need fewer. A step's are three times those of its forward pass."
    )
    return "\n\n".join([head, *(_network(network) for network in document["networks"])])


def _network(network: Document) -> str:
    kind = "processor time" if network["processor_time"] else "time that passes"
    title = (
        f"## {network['preset']}: {network['num_frames']} frames of "
        f"{network['height']}×{network['width']}, {network['decode_macs'] / 1e9:.3g} GMAC a decoded frame\n\n"
        f"Seconds are {kind}."
    )
    parts = [title, *_limits(network["steps"]), *_steps(network["steps"]), *_quality(network["quality"])]
    return "\n\n".join([*parts, *_decoding(network), *_memory(network["memory"])])


def _limits(steps: Document) -> list[str]:
    rows = [
        {"limit": name, "rate": value["median"], "least": value["low"], "greatest": value["high"]}
        for name, value in steps["limits"].items()
    ]
    return [
        "### The machine",
        "10⁹ multiply-accumulates a second; copy: 10⁹ bytes read and written a second.",
        markdown_table(rows),
    ]


def _steps(steps: Document) -> list[str]:
    rows = []
    for recipe in ("paper", "vinr"):
        own = steps[recipe]
        rows.append(
            {
                "recipe": recipe,
                "ms a step": 1000 * own["step_seconds"]["median"],
                "least": 1000 * own["step_seconds"]["low"],
                "greatest": 1000 * own["step_seconds"]["high"],
                "s an epoch": own["epoch_seconds"],
                "GMAC a step": own["step_macs"] / 1e9,
                "of the matrix product": _percent(own["share_of_matmul"]["median"]),
                "arithmetic": own["precision"],
            }
        )
    ratio = f"vinr / paper, seconds of an epoch: {_spread(steps['vinr_over_paper'])}."
    return ["### A step", markdown_table(rows), ratio]


def _quality(quality: Document) -> list[str]:
    fits = [
        {
            "fit": fit["label"],
            "epochs": fit["epochs"][-1],
            "seconds": fit["seconds"],
            "time that passed": fit["wall_seconds"],
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
    said = (
        "PSNR is the mean of the frames as 8-bit numbers, unquantised network. Seconds are epochs × the "
        "seconds of an epoch above, since other work may share the machine during a fit. A level is reached "
        "at the end of the first epoch that has it; vinr's time is that of the first of its fits to do so."
    )
    return ["### Time to quality", said, markdown_table(fits), markdown_table(levels)]


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
    return ["### Decoding", markdown_table(rows), markdown_table(others)]


def _memory(memory: Document) -> Sequence[str]:
    if not memory:
        return ["### Peak memory", "Not measured; `--set speed.memory=true` does."]
    rows = [{"what": what, "MB": num_bytes / 1e6} for what, num_bytes in memory.items()]
    said = "Each in a process of its own; on processors less what interpreter and torch take."
    return ["### Peak memory", said, markdown_table(rows)]


def _spread(spread: Document) -> str:
    return f"{spread['median']:.3g} ({spread['low']:.3g} to {spread['high']:.3g})"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
