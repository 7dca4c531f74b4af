"""What `vinr bench` runs, and what it shows of recipes and their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table

from vinr.cli.console import fit_progress, print_json, print_table, say
from vinr.errors import UsageError

if TYPE_CHECKING:
    from vinr.bench.gallery import GalleryReport
    from vinr.bench.listing import RecipeEntry
    from vinr.bench.report import Result
    from vinr.bench.speed import SpeedReport
    from vinr.fit import Event

SPEED: Final = "speed"
GALLERY: Final = "gallery"


@dataclass(frozen=True)
class BenchOptions:
    """What `vinr bench` was given beside a name; see its help."""

    scale: str
    data: str | None
    out: str
    presets: Sequence[str]
    epochs: int | None
    device: str
    overrides: Sequence[str]
    force: bool


def run_and_show(name: str, options: BenchOptions, *, as_json: bool) -> None:
    """Run the recipe of that name, or what else is run under a name, and print what came of it.

    Raises
    ------
    UsageError
        If there are ``presets`` for what names its networks itself; otherwise as the functions that are run.
    """
    if options.presets and name != SPEED:
        raise UsageError(f"--preset belongs to speed, {name} names its networks; leave it out")
    left = f"finished rows are saved in {options.out}"
    with fit_progress(lambda: left) as on_event:
        if name == SPEED:
            show = _run_speed(options, on_event)
        elif name == GALLERY:
            show = _run_gallery(options, on_event)
        else:
            show = _run_recipe(name, options, on_event)
    show(as_json=as_json)


def _run_speed(options: BenchOptions, on_event: Callable[[Event], None]) -> partial[None]:
    from vinr.bench.speed import run_speed

    report = run_speed(
        presets=options.presets,
        epochs=options.epochs,
        device=options.device,
        out=options.out,
        force=options.force,
        quick=options.scale == "tiny",
        overrides=options.overrides,
        on_event=on_event,
    )
    return partial(show_speed, report)


def _run_gallery(options: BenchOptions, on_event: Callable[[Event], None]) -> partial[None]:
    from vinr.bench.gallery import run_gallery

    report = run_gallery(
        scale=options.scale,
        data=options.data,
        out=options.out,
        epochs=options.epochs,
        device=options.device,
        overrides=options.overrides,
        force=options.force,
        on_event=on_event,
    )
    return partial(show_gallery, report)


def _run_recipe(name: str, options: BenchOptions, on_event: Callable[[Event], None]) -> partial[None]:
    from vinr.bench.run import run_recipe

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
    return partial(show_bench, result, options.out)


def show_recipes(entries: Sequence[RecipeEntry], *, as_json: bool) -> None:
    """Print a line for each recipe."""
    if as_json:
        print_json([asdict(entry) for entry in entries])
        return
    table = Table("name", "paper", "table", "what it shows", box=None)
    for entry in entries:
        table.add_row(entry.name, entry.paper, entry.table, entry.title)
    print_table(table)


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
            table.add_column(side, justify="right")
    for row in document["rows"]:
        table.add_row(row["label"], *_figures(row, document["metrics"]))
    print_table(table)
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
    for line in report.page_path.read_text(encoding="utf-8").splitlines():
        say(line)
    say(f"page: {report.page_path}")


def show_gallery(report: GalleryReport, *, as_json: bool) -> None:
    """Print the figures of each section, and where the page is."""
    from vinr.bench.report import figure_cell

    if as_json:
        print_json(report.document)
        return
    for section in report.document["sections"]:
        say(section["title"] if section["left_out"] is None else f"{section['title']}: {section['left_out']}")
        if not section["networks"]:
            continue
        figures = section["figures"]
        table = Table("network", box=None)
        for figure in figures.values():
            table.add_column(figure["title"])
        for network in section["networks"]:
            cells = [figure_cell(network["values"][name], figure) for name, figure in figures.items()]
            table.add_row(network["label"], *cells)
        print_table(table)
    say(f"page: {report.page_path}")
