"""How much sooner the vinr recipe is where the paper's ends, and how far it gets in the same time.

The paper's recipe (fit.recipe=paper) runs its epochs; the vinr recipe runs other numbers of them, each a
fit of its own, since its schedule knows its end. No phase for coding in either. Both on Bunny,
centre-crop 640×1280, area-averaged; PSNR is that of the float model, mean over frames. Seconds are
processor time of one thread, which other work on the machine changes little; frames are scored outside
them. Figures are medians over the seeds of fits, of which the last table has a row each.
HNeRV's 42 epochs are from before Muon's three rounds (docs/fitting.md).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

import _record
from _stages import claim
from vinr.bench.stages import float_psnr_db
from vinr.encoding.plan import choose_preset
from vinr.fit import fit
from vinr.video.samples import sample_clip
from vinr.video.source import FrameTensor, open_video

NAME = "time-to-quality"
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A network of ``numbers`` for the first ``frames`` frames of ``size``, and the epochs of each recipe.

    ``overrides`` hold for both recipes.
    """

    numbers: int
    size: tuple[int, int]
    frames: int
    paper: int
    vinr: tuple[int, ...]
    overrides: tuple[str, ...] = ()


# HiNeRV's recipe for 720p cuts frames into 9×16 patches, which frames this small do not have.
WHOLE_FRAMES = ("fit.patches=[1, 1]",)
# The last number of HNeRV's is about the paper recipe's time.
CASES = {
    "hnerv": Case(192_743, (160, 320), 132, 30, (3, 42)),
    "nerv": Case(60_000, (80, 160), 132, 30, (10, 15)),
    "hinerv": Case(60_000, (80, 160), 132, 30, (8, 10, 11), WHOLE_FRAMES),
    "tnerv": Case(60_000, (80, 160), 132, 30, (4, 6)),
}


def read(size: tuple[int, int], frames: int) -> FrameTensor:
    """Return the first frames of Bunny at ``size`` (rows, columns)."""
    with open_video(sample_clip("bigbuckbunny.mp4"), crop=(640, 1280), resize=size) as reader:
        return reader.read(0, frames)


def run(model: str, case: Case, recipe: str, epochs: int, seed: int) -> Row:
    """Return what one fit took and came to."""
    frames = read(case.size, case.frames)
    given = [f"fit.recipe={recipe}", f"fit.epochs={epochs}", f"fit.seed={seed}", "fit.phases=[]"]
    preset = choose_preset(
        frames.spec,
        model=model,
        preset=None,
        num_parameters=case.numbers,
        overrides=[*given, *case.overrides],
    )
    started = time.process_time()
    result = fit(frames, preset)
    seconds = time.process_time() - started
    return {
        "model": model,
        "recipe": recipe,
        "epochs": epochs,
        "seed": seed,
        "numbers": result.model.num_stored(),
        "size": "×".join(map(str, case.size)),
        "frames": case.frames,
        "PSNR dB": float_psnr_db(result.model, frames),
        "CPU s": seconds,
        "commit": _record.commit(),
    }


def run_all(cases: Mapping[str, Case], models: Sequence[str], seeds: Sequence[int], rows: Path) -> None:
    """Run what is not there yet: recipes of a model in turn, each seed by itself."""
    torch.set_num_threads(1)
    rows.mkdir(exist_ok=True)
    for seed in seeds:
        for model in models:
            case = cases[model]
            for recipe, epochs in (("paper", case.paper), *(("vinr", count) for count in case.vinr)):
                path = rows / f"{model}-{recipe}-{epochs:03d}-{seed}.json"
                if claim(path):
                    row = run(model, case, recipe, epochs, seed)
                    path.write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")
                    print(json.dumps(row), flush=True)


def summary(rows: Sequence[Row]) -> str:
    """Return, for each model, how much sooner the paper's PSNR is reached, and what equal time brings."""
    shown = []
    for model in CASES:
        paper, *others = of_model(rows, model)
        if not paper:
            continue
        last_db = middle(paper, "PSNR dB")
        first = next((own for own in others if own and middle(own, "PSNR dB") >= last_db), None)
        line = {"model": model, "paper's recipe": said(paper), "vinr's gets there": "no", "times as fast": ""}
        if first is not None:
            faster = median(a["CPU s"] / b["CPU s"] for a, b in zip(paper, first, strict=False))
            line |= {"vinr's gets there": said(first), "times as fast": f"{faster:.1f}"}
        longest = others[-1]
        is_longer = bool(longest) and longest is not first
        line["vinr's longest"] = said(longest) if is_longer else ""
        line["dB above"] = f"{middle(longest, 'PSNR dB') - last_db:+.2f}" if is_longer else ""
        shown.append(line)
    return _record.table(shown)


def of_model(rows: Sequence[Row], model: str) -> list[list[Row]]:
    """Return the rows of the paper's recipe, then those of each number of epochs of vinr's, by seed."""
    wanted = [("paper", CASES[model].paper), *(("vinr", epochs) for epochs in CASES[model].vinr)]
    return [
        [row for row in rows if (row["model"], row["recipe"], row["epochs"]) == (model, *each)]
        for each in wanted
    ]


def middle(rows: Sequence[Row], key: str) -> float:
    """Return the median of a column."""
    return median(row[key] for row in rows)


def said(rows: Sequence[Row]) -> str:
    """Return what fits of one kind came to, in words."""
    seconds, psnr_db = middle(rows, "CPU s"), middle(rows, "PSNR dB")
    seeds = "" if len(rows) == 1 else f" ({len(rows)} seeds)"
    return f"{psnr_db:.2f} dB, {rows[0]['epochs']} epochs, {seconds:.0f} s{seeds}"


def main() -> None:
    """Run what is not there yet, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=[*CASES])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    _record.row_options(parser, NAME)
    given = parser.parse_args()
    if not given.report:
        run_all(CASES, given.models, given.seeds, given.rows)
        return
    rows = _record.rows_in(given.rows)
    text = f"{__doc__}\n{summary(rows)}\n\n{_record.table(rows)}"
    cases = {model: asdict(case) for model, case in CASES.items()}
    _record.write(NAME, f"python benchmarks/{Path(__file__).name}", cases, rows, text)


if __name__ == "__main__":
    main()
