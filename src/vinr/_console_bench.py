"""What the command line shows of recipes and their results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from vinr._console import _print_table, print_json, say

if TYPE_CHECKING:
    from vinr.bench.listing import RecipeEntry
    from vinr.bench.report import Result
    from vinr.bench.speed import SpeedReport

__all__ = ["show_bench", "show_recipes", "show_speed"]


def show_recipes(entries: Sequence[RecipeEntry], *, as_json: bool) -> None:
    """Print a line for each recipe."""
    if as_json:
        print_json([asdict(entry) for entry in entries])
        return
    table = Table("name", "paper", "table", "what it shows", box=None)
    for entry in entries:
        table.add_row(*(escape(text) for text in (entry.name, entry.paper, entry.table, entry.title)))
    _print_table(table)


def show_bench(result: Result, folder: str, *, as_json: bool) -> None:
    """Print paper, ours and the difference by row, and how the rows are ordered."""
    from vinr.bench.report import ordering

    document = result.document()
    if as_json:
        print_json(document)
        return
    table = Table("row", box=None)
    for metric in document["metrics"].values():
        for side in (f"{metric['title']}: paper", "ours", "difference"):
            table.add_column(escape(side), justify="right")
    for row in document["rows"]:
        table.add_row(escape(row["label"]), *_figures(row, document["metrics"]))
    _print_table(table)
    for line in ordering(document):
        say(line.replace("**", ""))
    say(f"page: {Path(folder) / document['name']}-{document['scale']}.md")


def _figures(row: dict[str, Any], metrics: dict[str, Any]) -> list[str]:
    cells = []
    for name, metric in metrics.items():
        for side, sign in (("paper", ""), ("ours", ""), ("difference", "+")):
            value = row[side][name]
            cells.append("" if value is None else f"{value:{sign}.{metric['digits']}f}")
    return cells


def show_speed(report: SpeedReport, *, as_json: bool) -> None:
    """Print the page of a measurement of speed."""
    if as_json:
        print_json(report.document)
        return
    say(report.page_path.read_text(encoding="utf-8"))
    say(f"page: {report.page_path}")
