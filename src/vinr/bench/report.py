"""What a recipe came to: paper | ours | difference, and whether rows are ordered as in the paper.

The JSON document holds all that the page shows, so that pages are written anew from documents alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import StatisticsError, correlation, fmean
from typing import Any, Final

from vinr.bench.datasets import BUNNY
from vinr.bench.points import bd_of_points, value_at_rate
from vinr.bench.recipe import Metric, Recipe, Row, Scale, paper_mean
from vinr.files import atomic_path

NONE: Final = "—"
MINI_NOTE: Final = (
    "Reduced clips, small networks and few epochs: compare differences between rows and their order with "
    "the paper's, not the numbers themselves."
)
BUNNY_NOTE: Final = (
    "Bunny's frames are decoded from an H.264 stream of 0.0523 bpp: every rate above that is larger than its "
    "own source."
)


@dataclass(frozen=True)
class RowResult:
    """What the jobs of a row measured, by clip; ``missing`` of them have not ended."""

    label: str
    documents: Mapping[str, Mapping[str, Any]]
    missing: int = 0


@dataclass(frozen=True)
class Result:
    """The rows of a recipe that were run, and the settings they share."""

    recipe: Recipe
    scale: Scale
    rows: tuple[RowResult, ...]
    settings: Mapping[str, Any]

    @property
    def num_missing(self) -> int:
        """Jobs that have not ended; other processes may be at them."""
        return sum(row.missing for row in self.rows)

    def value(self, label: str, metric_name: str) -> float | None:
        """Return what the row came to in the metric's unit, the mean over clips; None if it is not known."""
        metric, row = self.recipe.metrics[metric_name], self.recipe.row(label)
        if metric.bd is not None:
            return self._bd(metric, label)
        found = self._mean(row, metric_name)
        if metric.relative_to is not None:
            base = self._mean(self.recipe.row(metric.relative_to), metric_name)
            return None if found is None or not base else 100 * found / base
        return None if found is None else found * metric.scale

    def _mean(self, row: Row, metric_name: str) -> float | None:
        name = row.values.get(metric_name) or self.recipe.metrics[metric_name].of or metric_name
        own = self._documents(row.label)
        if row.at_rate_of is None:
            found = [document["values"].get(name) for document in own.values()]
        else:
            others = self._documents(row.at_rate_of)
            found = [
                value_at_rate(own[clip]["values"].get("points", []), others[clip]["values"]["bpp"], name)
                for clip in own.keys() & others.keys()
                if "bpp" in others[clip]["values"]
            ]
        known = [value for value in found if isinstance(value, (int, float))]
        return fmean(known) if known and len(known) == len(found) else None

    def _bd(self, metric: Metric, label: str) -> float | None:
        assert metric.test is not None
        assert metric.bd is not None
        if label == metric.test:
            return None
        own, tests = self._documents(label), self._documents(metric.test)
        found = [
            bd_of_points(
                own[clip]["values"].get("points", []), tests[clip]["values"].get("points", []), metric.bd
            )
            for clip in own.keys() & tests.keys()
        ]
        known = [value for value in found if value is not None]
        return fmean(known) if known and len(known) == len(found) else None

    def _documents(self, label: str) -> Mapping[str, Mapping[str, Any]]:
        return next((row.documents for row in self.rows if row.label == label and not row.missing), {})

    def document(self) -> dict[str, Any]:
        """Return the result as JSON: what the page needs, and all that the jobs measured."""
        recipe = self.recipe
        metrics = {name: metric.model_dump(exclude_none=True) for name, metric in recipe.metrics.items()}
        return {
            "name": recipe.name,
            "paper": recipe.paper,
            "table": recipe.table,
            "title": recipe.title,
            "source": recipe.source,
            "scale": self.scale,
            "settings": dict(self.settings),
            "metrics": metrics,
            "baseline": recipe.baseline,
            "order": recipe.order,
            "notes": [*recipe.notes],
            "num_missing": self.num_missing,
            "rows": [self._row(row) for row in recipe.rows],
        }

    def _row(self, row: Row) -> dict[str, Any]:
        paper = {name: paper_mean(row.paper.get(name)) for name in self.recipe.metrics}
        ours = {name: self.value(row.label, name) for name in self.recipe.metrics}
        documents = next((found.documents for found in self.rows if found.label == row.label), {})
        return {
            "label": row.label,
            "source": row.source or self.recipe.source,
            "paper": paper,
            "ours": ours,
            "difference": {name: _minus(ours[name], paper[name]) for name in paper},
            "clips": {clip: dict(found) for clip, found in documents.items()},
        }


def write_result(result: Result, folder: Path) -> None:
    """Write ``NAME-SCALE.json`` and the page ``NAME-SCALE.md``."""
    document = result.document()
    name = f"{result.recipe.name}-{result.scale}"
    for suffix, text in ((".json", json.dumps(document, indent=2) + "\n"), (".md", page(document))):
        with atomic_path(folder / (name + suffix), force=True) as temporary:
            temporary.write_text(text, encoding="utf-8")


def page(document: Mapping[str, Any]) -> str:
    """Return the Markdown page of a result's JSON document."""
    parts = [
        f"# {document['paper']}, {document['table']}: {document['title']}",
        f"`vinr bench {document['name']} --scale {document['scale']}`{given_options(document['settings'])}. "
        f"Paper: {document['source']}.",
        _table(document),
    ]
    if document["baseline"] is not None and len(document["rows"]) > 1:
        parts.append(f"Against “{document['baseline']}”:\n\n{_against_baseline(document)}")
    parts += ordering(document)
    if document["num_missing"]:
        parts.append(f"{document['num_missing']} jobs have not ended.")
    parts += [f"- {note}" for note in _notes(document)]
    return "\n\n".join([*parts, conditions(_jobs(document))]) + "\n"


def ordering(document: Mapping[str, Any]) -> list[str]:
    """Return a line for each metric: rank correlation with the paper, and which of its neighbours differ."""
    if not document["order"]:
        return []
    lines = []
    for name, metric in document["metrics"].items():
        rows = [
            (row["label"], row["paper"][name], row["ours"][name])
            for row in document["rows"]
            if row["paper"].get(name) is not None and row["ours"].get(name) is not None
        ]
        if len(rows) > 1 and metric["better"] != "none":
            lines.append(f"Order by {metric['title']}: {_order(rows, lower=metric['better'] == 'lower')}")
    return lines


def _order(rows: Sequence[tuple[str, float, float]], *, lower: bool) -> str:
    best_first = sorted(rows, key=lambda row: row[1], reverse=not lower)
    # Equal numbers have no order that the other side could keep or break.
    swapped = [
        f"“{first[0]}” before “{second[0]}”"
        for first, second in pairwise(best_first)
        if (first[1] - second[1]) * (first[2] - second[2]) < 0
    ]
    try:
        ranked = correlation(_ranks([row[1] for row in rows]), _ranks([row[2] for row in rows]))
        said = f"rank correlation {ranked:+.2f}"
    except StatisticsError:
        said = "no rank correlation, since one side has the same number everywhere"
    if swapped:
        return f"{said}; **differs from the paper's**, which has {', '.join(swapped)}."
    return f"{said}; neighbours are ordered as in the paper."


def _ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value; equal ones share the mean of theirs (Spearman)."""
    return [
        fmean([sum(other < value for other in values), sum(other <= value for other in values) - 1])
        for value in values
    ]


def _table(document: Mapping[str, Any]) -> str:
    metrics = document["metrics"]
    head = ["row", *(f"{m['title']}: paper | ours | difference" for m in metrics.values())]
    lines = [" | ".join(head), " | ".join(["---"] + ["---:"] * (3 * len(metrics)))]
    for row in document["rows"]:
        cells = [row["label"]]
        for name, metric in metrics.items():
            cells += [figure_cell(row["paper"][name], metric), figure_cell(row["ours"][name], metric)]
            cells.append(figure_cell(row["difference"][name], metric, sign=True))
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def _against_baseline(document: Mapping[str, Any]) -> str:
    metrics = document["metrics"]
    base = next(row for row in document["rows"] if row["label"] == document["baseline"])
    head = ["row", *(f"{m['title']}: paper | ours" for m in metrics.values())]
    lines = [" | ".join(head), " | ".join(["---"] + ["---:"] * (2 * len(metrics)))]
    for row in document["rows"]:
        if row is base:
            continue
        cells = [row["label"]]
        for name, metric in metrics.items():
            gains = [_minus(row[side][name], base[side][name]) for side in ("paper", "ours")]
            cells += [figure_cell(gain, metric, sign=True) for gain in gains]
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def figure_cell(value: float | str | None, metric: Mapping[str, Any], *, sign: bool = False) -> str:
    """Return a measured value with the metric's decimals; words as they are."""
    if value is None:
        return NONE
    if isinstance(value, str):
        return value
    return f"{value:+,.{metric['digits']}f}" if sign else f"{value:,.{metric['digits']}f}"


def _minus(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second


def given_options(settings: Mapping[str, Any]) -> str:
    """Return the caller's epochs and settings, as the command took them; empty where there were none."""
    epochs = [] if settings.get("epochs") is None else [f"--epochs {settings['epochs']}"]
    words = [*epochs, *(f"--set {item}" for item in settings.get("overrides", ()))]
    return f" with `{' '.join(words)}`" if words else ""


def _notes(document: Mapping[str, Any]) -> list[str]:
    jobs = _jobs(document)
    notes = [*document["notes"]]
    if document["scale"] != "full":
        notes.append(MINI_NOTE)
    if any("ms_ssim" in name for name in document["metrics"]):
        notes += window_notes(job["values"].get("ms_ssim_window") for job in jobs)
    if any(job["clip"] == BUNNY and "resize" not in job["setup"] for job in jobs):
        notes.append(BUNNY_NOTE)
    return notes


def window_notes(windows: Iterable[int | None]) -> list[str]:
    """Return what is to be said of MS-SSIM by the sides of its windows: nothing of the usual 11."""
    small = {window for window in windows if window is not None and window != 11}
    return (
        [f"MS-SSIM with a window of {max(small)}×{max(small)}, as frames this small need."] if small else []
    )


def _jobs(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [job for row in document["rows"] for job in row["clips"].values()]


def conditions(jobs: Sequence[Mapping[str, Any]]) -> str:
    """Return when, from which source and on which machine ``jobs``, as they are kept, were run."""
    if not jobs:
        return "Nothing has been measured."
    distinct = {json.dumps([job["kind"], job["clip"], job["setup"]]): job["seconds"] for job in jobs}
    commits = sorted({job["commit"] or "unknown" for job in jobs})
    machine = jobs[-1]["machine"]
    where = machine.get("gpu") if jobs[-1]["device"] != "cpu" else None
    return (
        f"{jobs[-1]['date']}, commit {', '.join(commits)}, {where or machine['cpu']}, "
        f"{machine['threads']} threads, torch {machine['torch']}; {sum(distinct.values()):,.0f} s in all."
    )
