"""What a recipe came to: paper | ours | difference, and whether rows are ordered as in the paper.

The JSON document holds all that the page shows, so that a page can be written again from its document.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import StatisticsError, correlation, fmean, stdev
from typing import Any, Final

from vinr.bench.datasets import BUNNY
from vinr.bench.history import curves_of, curves_picture, curves_table
from vinr.bench.pages import markdown_table, show_value, write_page
from vinr.bench.points import bd_of_points, value_at_rate
from vinr.bench.recipe import Metric, Recipe, Row, Scale, paper_mean
from vinr.errors import plural
from vinr.files import atomic_path

Document = Mapping[str, Any]

MINI_NOTE: Final = (
    "Reduced clips, small networks and few epochs: compare differences between rows and their order with "
    "the paper's, not absolute values."
)
BUNNY_NOTE: Final = (
    "Bunny's frames are decoded from an H.264 stream of 0.0523 bpp: every rate above that is larger than its "
    "own source."
)
# What experiments on hidden pixels and frames measure of the network, and beside it of ways without one.
TRIVIAL: Final = {
    "held_out_psnr_db": {"nearest_psnr_db": "nearest frame", "mean_psnr_db": "mean of both neighbours"},
    "masked_psnr_db": {
        "surroundings_masked_psnr_db": "blurred surroundings",
        "nearest_masked_psnr_db": "nearest frame",
    },
}
# Side of MS-SSIM's Gaussian window in all the papers; frames of up to 160 rows or columns need a smaller one.
USUAL_WINDOW: Final = 11
MAX_CLIPS_SHOWN: Final = 4
SIDES: Final = ("paper", "ours", "difference")


@dataclass(frozen=True)
class RowResult:
    """What the jobs of a row measured, by clip and seed; ``missing`` of them have not ended."""

    documents: Mapping[str, Document]
    missing: int = 0


@dataclass(frozen=True)
class Result:
    """The rows of a recipe that were run, by label, and the settings they share."""

    recipe: Recipe
    scale: Scale
    rows: Mapping[str, RowResult]
    settings: Document

    @property
    def num_missing(self) -> int:
        """Jobs that have not ended; other processes may be at them."""
        return sum(row.missing for row in self.rows.values())

    def value(self, label: str, metric_name: str) -> float | None:
        """Return what the row came to in the metric's unit, the mean over clips; None if it is not known."""
        metric, row = self.recipe.metrics[metric_name], self.recipe.row(label)
        if metric.bd is not None:
            return self._bd(metric, label)
        value = self._mean(row, metric_name)
        if value is None or metric.relative_to is None:
            return None if value is None else value * metric.scale
        # Of percentages the metric's scale cancels out; those of 0 do not exist.
        base = self._mean(self.recipe.row(metric.relative_to), metric_name)
        return 100 * value / base if base else None

    def _mean(self, row: Row, metric_name: str) -> float | None:
        name = row.values.get(metric_name) or self.recipe.metrics[metric_name].of or metric_name
        values = list[Any]()
        # A value is measured, or read off the row's curve, clip by clip, at the rate of another row there.
        curves = {document["clip"]: document["values"] for document in self._documents(row.label).values()}
        for document in self._documents(row.at_rate_of or row.label).values():
            if row.at_rate_of is None:
                values.append(document["values"].get(name))
            elif document["clip"] in curves and "bpp" in document["values"]:
                points = curves[document["clip"]].get("points", [])
                values.append(value_at_rate(points, document["values"]["bpp"], name))
        return _mean_if_all_known(values)

    def spread(self, label: str, metric_name: str) -> float | None:
        """Return the standard deviation between seeds of the mean over clips; None without several seeds."""
        metric, row = self.recipe.metrics[metric_name], self.recipe.row(label)
        if metric.bd is not None or metric.relative_to is not None or row.at_rate_of is not None:
            return None
        name = row.values.get(metric_name) or metric.of or metric_name
        by_seed: dict[int, list[Any]] = {}
        for document in self._documents(label).values():
            for seed in document["setup"].get("seeds", ()):
                by_seed.setdefault(seed, []).append(document["values"].get(name))
        means = list(map(_mean_if_all_known, by_seed.values()))
        known = [mean for mean in means if mean is not None]
        return stdev(known) * metric.scale if len(known) == len(means) > 1 else None

    def _bd(self, metric: Metric, label: str) -> float | None:
        assert metric.test is not None
        assert metric.bd is not None
        if label == metric.test:
            return None  # it would save nothing against itself
        tests, deltas = self._documents(metric.test), []
        for clip, anchor in self._documents(label).items():
            if clip in tests:
                points = anchor["values"].get("points", []), tests[clip]["values"].get("points", [])
                deltas.append(bd_of_points(*points, metric.bd))
        return _mean_if_all_known(deltas)

    def _documents(self, label: str) -> Mapping[str, Document]:
        """Return what a row measured, by clip and seed; nothing as long as jobs are missing."""
        row = self.rows.get(label)
        return {} if row is None or row.missing else row.documents

    def document(self) -> dict[str, Any]:
        """Return the result as JSON: what the page needs, and all that the jobs measured."""
        recipe = self.recipe
        return {
            "name": recipe.name,
            "paper": recipe.paper,
            "table": recipe.table,
            "title": recipe.title,
            "source": recipe.source,
            "scale": self.scale,
            "settings": dict(self.settings),
            "metrics": recipe.model_dump(include={"metrics"}, exclude_none=True)["metrics"],
            "baseline": recipe.baseline,
            "curves": recipe.curves,
            "order": recipe.order,
            "notes": [*recipe.notes],
            "num_missing": self.num_missing,
            "rows": list(map(self._row, recipe.rows)),
        }

    def _row(self, row: Row) -> dict[str, Any]:
        paper: dict[str, float | None] = {}
        ours: dict[str, float | None] = {}
        difference: dict[str, float | None] = {}
        for name in self.recipe.metrics:
            paper[name] = paper_mean(row.paper.get(name))
            ours[name] = self.value(row.label, name)
            difference[name] = _minus(ours[name], paper[name])
        documents = self.rows[row.label].documents if row.label in self.rows else {}
        values = {
            "paper": paper,
            "ours": ours,
            "difference": difference,
            "spread": {name: self.spread(row.label, name) for name in self.recipe.metrics},
            "clips": dict(documents),
        }
        return {"label": row.label, "source": row.source or self.recipe.source, **values}


def _mean_if_all_known(values: Sequence[Any]) -> float | None:
    """Return the mean; None where there are no values, or one is missing or no number."""
    # A mean over some of the clips would stand beside the paper's mean over all of them.
    all_known = bool(values) and all(isinstance(value, (int, float)) for value in values)
    return fmean(values) if all_known else None


def write_result(result: Result, folder: Path) -> None:
    """Write ``NAME-SCALE.json`` and the page ``NAME-SCALE.md``, with a picture where it shows curves."""
    document, path = result.document(), folder / picture_name(result.recipe.name, result.scale)
    panels = curves_of(document) if document["curves"] else {}
    if panels:
        with atomic_path(path, force=True) as temporary:
            temporary.write_bytes(curves_picture(panels))
    write_page(folder / f"{result.recipe.name}-{result.scale}", document, page(document))


def picture_name(name: str, scale: str) -> str:
    """Return the name of the picture of a page."""
    return f"{name}-{scale}.png"


def page(document: Document) -> str:
    """Return the Markdown page of a result's JSON document."""
    command = f"`vinr bench {document['name']} --scale {document['scale']}`"
    source = f"{'Paper' if shown_sides(document) == SIDES else 'Source'}: {document['source']}"
    parts = [
        f"# {document['paper']}, {document['table']}: {document['title']}",
        f"This page holds what {command}{given_options(document['settings'])} measured. {source}.",
        markdown_table(*result_table(document)),
    ]
    if document["baseline"] is not None and len(document["rows"]) > 1:
        gains = markdown_table(*result_table(document, document["baseline"]))
        parts.append(f"Against “{document['baseline']}”:\n\n{gains}")
    parts += by_clip(document)
    parts += ordering(document)
    parts += behind_trivial(document)
    if document.get("curves") and (panels := curves_of(document)):
        parts.append(f"![PSNR over epochs]({picture_name(document['name'], document['scale'])})")
        parts += [f"{clip}:\n\n{curves_table(rows)}" for clip, rows in panels.items()]
    if document["num_missing"]:
        count = document["num_missing"]
        parts.append(f"{plural(count, 'job')} {'has' if count == 1 else 'have'} not ended.")
    parts += [f"- {note}" for note in _notes(document)]
    return "\n\n".join([*parts, conditions(_jobs(document))]) + "\n"


def by_clip(document: Document) -> list[str]:
    """Return a table for each metric of what rows came to on each clip; none where there is one clip."""
    clips = list(dict.fromkeys(job["clip"] for job in _jobs(document)))
    if len(clips) < 2 or len(clips) > MAX_CLIPS_SHOWN:
        return []
    tables = []
    for name, metric in document["metrics"].items():
        rows = []
        for row in document["rows"]:
            values: dict[str, list[Any]] = {}
            for job in row["clips"].values():
                values.setdefault(job["clip"], []).append(job["values"].get(metric.get("of") or name))
            means = [_mean_if_all_known(values.get(clip, ())) for clip in clips]
            rows.append([row["label"], *(show_value(mean, metric["digits"]) for mean in means)])
        tables.append(f"{metric['title']}, by clip:\n\n{markdown_table(['row', *clips], rows)}")
    return tables


def behind_trivial(document: Document) -> list[str]:
    """Return a line on the rows whose network is behind a way without one; none where no network is."""
    behind = []
    for row in document["rows"]:
        values = [job["values"] for job in row["clips"].values()]
        for name, ways in TRIVIAL.items():
            network_db = _mean_if_all_known([value.get(name) for value in values])
            # Rows share fits: a row that shows another value of the fit says nothing about the network.
            if network_db is None or network_db not in row["ours"].values():
                continue
            ahead = dict[str, float]()
            for key, way in ways.items():
                trivial_db = _mean_if_all_known([value.get(key) for value in values])
                if trivial_db is not None and trivial_db > network_db:
                    ahead[way] = trivial_db
            if ahead:
                best = max(ahead, key=ahead.__getitem__)
                behind.append(f"“{row['label']}” ({network_db:.2f} dB; {best} {ahead[best]:.2f} dB)")
    return [f"**Behind a way that needs no network**: {', '.join(behind)}."] if behind else []


def ordering(document: Document) -> list[str]:
    """Return a line for each metric: rank correlation with the paper, and which of its neighbours differ."""
    lines: list[str] = []
    if not document["order"]:
        return lines
    for name, metric in document["metrics"].items():
        rows = []
        for row in document["rows"]:
            printed, measured = row["paper"].get(name), row["ours"].get(name)
            if printed is not None and measured is not None:
                rows.append((row["label"], printed, measured))
        if len(rows) > 1 and metric["better"] != "none":
            lines.append(f"Order by {metric['title']}: {_order(rows, lower=metric['better'] == 'lower')}")
    return lines


def _order(rows: Sequence[tuple[str, float, float]], *, lower: bool) -> str:
    """Compare the order of ``rows``: (label, the paper's number, ours)."""
    best_first = sorted(rows, key=lambda row: row[1], reverse=not lower)
    swapped = []
    for first, second in pairwise(best_first):
        # Equal numbers have no order that the other side could keep or break.
        if (first[1] - second[1]) * (first[2] - second[2]) < 0:
            swapped.append(f"“{first[0]}” before “{second[0]}”")
    _, printed, measured = zip(*rows, strict=True)
    try:
        text = f"rank correlation {correlation(_ranks(printed), _ranks(measured)):+.2f}"
    except StatisticsError:
        text = "no rank correlation, since one side has the same number everywhere"
    if swapped:
        return f"{text}; **differs from the paper's**, which has {', '.join(swapped)}."
    return f"{text}; neighbours are ordered as in the paper."


def _ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value; equal ones share the mean of theirs (Spearman)."""
    ordered = sorted(values)
    #  a b b b c: the first b stands at 1, three are equal, so that all have rank 1 + (3 - 1) / 2
    return [ordered.index(value) + (ordered.count(value) - 1) / 2 for value in values]


def shown_sides(document: Document) -> tuple[str, ...]:
    """Return what a table shows of each metric: ours alone where no row has a printed number."""
    for row in document["rows"]:
        if set(row["paper"].values()) - {None}:
            return SIDES
    return ("ours",)


def result_table(document: Document, baseline: str | None = None) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of a document's table, or of the differences from row ``baseline``."""
    sides, head, rows = shown_sides(document), ["row"], []
    base = next((row for row in document["rows"] if row["label"] == baseline), None)
    if base is not None and sides == SIDES:
        sides = SIDES[:2]  # cells are differences themselves
    for metric in document["metrics"].values():
        head += [f"{metric['title']}: {sides[0]}" if len(sides) > 1 else metric["title"], *sides[1:]]
    for row in document["rows"]:
        cells = [row["label"]]
        for name, metric in document["metrics"].items():
            for side in sides:
                value = row[side][name] if base is None else _minus(row[side][name], base[side][name])
                is_difference = side == "difference" or base is not None
                spread = row.get("spread", {}).get(name) if side == "ours" and base is None else None
                more = "" if spread is None else f" ± {show_value(spread, metric['digits'])}"
                cells += [show_value(value, metric["digits"], sign=is_difference) + more]
        if row is not base:
            rows.append(cells)
    return head, rows


def _minus(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second


def given_options(settings: Document) -> str:
    """Return the caller's epochs and settings, as the command took them; empty where there were none."""
    words = [] if settings.get("epochs") is None else [f"--epochs {settings['epochs']}"]
    words += map("--set {}".format, settings.get("overrides", ()))
    return f" with `{' '.join(words)}`" if words else ""


def _notes(document: Document) -> list[str]:
    notes, windows, shows_bunny = [*document["notes"]], set(), False
    for job in _jobs(document):
        windows.add(job["values"].get("ms_ssim_window"))
        # Averaging over an area hides the artefacts of the stream that Bunny comes from.
        shows_bunny |= job["clip"] == BUNNY and "resize" not in job["setup"]
    if document["scale"] != "full":
        notes.append(MINI_NOTE)
    # Metrics may rename what they show: ms_ssim_6bit is a column of MS-SSIM, too.
    if "ms_ssim" in " ".join(document["metrics"]):
        notes += window_notes(windows)
    if shows_bunny:
        notes.append(BUNNY_NOTE)
    return notes


def window_notes(windows: Iterable[int | None]) -> list[str]:
    """Return what is to be said of MS-SSIM by the sides of its windows: nothing of the usual 11."""
    small = set(windows) - {None, USUAL_WINDOW}
    if not small:
        return []
    side = max(filter(None, small))
    return [f"MS-SSIM with a window of {side}×{side}, as frames this small need."]


def _jobs(document: Document) -> list[Document]:
    jobs: list[Document] = []
    for row in document["rows"]:
        jobs += row["clips"].values()
    return jobs


def conditions(jobs: Sequence[Document]) -> str:
    """Return when, from which source and on which machine ``jobs``, as they are kept, were run."""
    if not jobs:
        return "Nothing has been measured."
    seconds, commits, machines = {}, set(), dict[str, None]()
    for job in jobs:
        # Rows share jobs, whose time counts once.
        seconds[json.dumps([job["kind"], job["clip"], job["setup"]])] = job["seconds"]
        commits.add(job["commit"] or "unknown")
        machines[_machine(job)] = None
    dates = sorted({job["date"] for job in jobs})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return (
        f"{when}, commit {', '.join(sorted(commits))}, {'; '.join(machines)}; "
        f"{sum(seconds.values()):,.0f} s in all."
    )


def _machine(job: Document) -> str:
    """Return what a job ran on: processor or GPU, threads, version of PyTorch."""
    machine = job["machine"]
    where = machine.get("gpu") if job["device"] != "cpu" else None
    return f"{where or machine['cpu']}, {plural(machine['threads'], 'thread')}, torch {machine['torch']}"
