"""What every benchmark writes beside its figures: commit, machine, versions."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from vinr.bench.pages import records_table as table
from vinr.bench.pages import write_page
from vinr.bench.record import commit
from vinr.comparison.machine import machine

__all__ = ["RESULTS", "commit", "machine", "table", "write"]

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"


def write(
    name: str, command: str, settings: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], text: str
) -> None:
    """Write ``name.json`` and ``name.md`` to the results folder."""
    (RESULTS / name).parent.mkdir(parents=True, exist_ok=True)
    where = machine()
    record = {
        "name": name,
        "command": command,
        "date": date.today().isoformat(),
        "commit": commit(),
        "machine": where,
        "settings": dict(settings),
        "rows": [dict(row) for row in rows],
    }
    # What the page is about stands first, then how it was measured.
    question, _, rest = text.strip().partition("\n\n")
    measured = (
        f"`{command}`, {record['date']}, commit {record['commit']}, {where['cpu']} "
        f"({where['cpu_capability']}), {where['threads']} threads, torch {where['torch']}."
    )
    write_page(RESULTS / name, record, "\n\n".join([f"# {name}", question, measured, rest]).strip() + "\n")


def row_options(parser: argparse.ArgumentParser, name: str) -> None:
    """Add the options of a benchmark whose rows are files, so that processes share the work."""
    parser.add_argument("--rows", type=Path, default=Path(f"{name}.rows"))
    parser.add_argument("--report", action="store_true", help="write the results from the rows there are")


def rows_in(folder: Path) -> list[Any]:
    """Return what the finished rows of a folder hold, sorted by name; others hold who is at them."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.json"))]
    return [json.loads(text) for text in texts if text.startswith(("{", "["))]
