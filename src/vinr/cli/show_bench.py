"""What `vinr bench` runs, and what it shows of recipes and their results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from vinr.cli.console import fit_progress, print_json, print_table, say

if TYPE_CHECKING:
    from vinr.bench.recipe import Recipe
    from vinr.bench.report import Result


@dataclass(frozen=True)
class BenchOptions:
    """What `vinr bench` was given beside a name; see its help."""

    scale: str
    data: str | None
    out: str
    epochs: int | None
    device: str
    overrides: Sequence[str]
    force: bool


def run_and_show(name: str, options: BenchOptions, *, as_json: bool) -> None:
    """Run the recipe of that name, and print what came of it; errors as :func:`vinr.bench.run.run_recipe`."""
    from vinr.bench.run import run_recipe

    with fit_progress(lambda: f"finished rows are saved in {options.out}") as on_event:
        result = run_recipe(
            name,
            scale=options.scale,
            data=options.data,
            out=options.out,
            epochs=options.epochs,
            device=options.device,
            overrides=options.overrides,
            force=options.force,
            on_event=on_event,
        )
    show_bench(result, options.out, as_json=as_json)


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
    table = Table(head[0], box=None)
    for title in head[1:]:
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(*row)
    print_table(table)
    for line in ordering(document):
        say(line.replace("**", ""))
    say(f"page: {Path(folder) / document['name']}-{document['scale']}.md")
