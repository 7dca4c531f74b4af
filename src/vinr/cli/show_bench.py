"""What `vinr bench` shows of recipes and their results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from vinr.cli.console import print_json, print_table, say

if TYPE_CHECKING:
    from vinr.bench.recipe import Recipe
    from vinr.bench.report import Result

FULL = "full"
SCALED = (
    "scale {scale}: other frames, sizes and epochs than the paper's, so no difference is shown: read "
    "the order of the rows"
)


def show_recipes(recipes: Sequence[Recipe], *, as_json: bool) -> None:
    """Print a line for each recipe."""
    if as_json:
        print_json([recipe.model_dump(include={"name", "paper", "table", "title"}) for recipe in recipes])
        return
    table = Table("name", "paper", "table", "what it shows", box=None)
    for recipe in recipes:
        table.add_row(recipe.name, recipe.paper, recipe.table, recipe.title)
    print_table(table)


def show_bench(result: Result, folder: str, *, as_json: bool) -> None:
    """Print paper, ours and the difference by row, and how the rows are ordered."""
    from vinr.bench.report import ordering, result_table

    document = result.document()
    if as_json:
        print_json(document)
        return
    head, rows = result_table(document)
    if document["scale"] != FULL:
        # Of other frames, sizes and epochs the difference says nothing, and is read all the same.
        shown = [number for number, title in enumerate(head) if title != "difference"]
        head, rows = [head[number] for number in shown], [[row[number] for number in shown] for row in rows]
    table = Table(head[0], box=None)
    # Labels stand on the left; numbers on the right, so that their digits line up.
    for title in head[1:]:
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(*row)
    print_table(table)
    if document["scale"] != FULL:
        say(SCALED.format(scale=document["scale"]))
    for line in ordering(document):
        say(line.replace("**", ""))  # the page is Markdown, the terminal is not
    say(f"page: {Path(folder) / document['name']}-{document['scale']}.md")
