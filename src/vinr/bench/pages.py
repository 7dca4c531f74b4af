"""Pages of results: Markdown tables, and the JSON document that lies beside a page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from vinr.files import atomic_path

NONE: Final = "—"


def markdown_table(head: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table: the first column is the label, the others are aligned to the right."""
    lines = [" | ".join(head), " | ".join(["---"] + ["---:"] * (len(head) - 1))]
    lines += map(" | ".join, rows)
    return "\n".join(f"| {line} |" for line in lines)


def records_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Return records as a Markdown table; all have the keys of the first one, in any order."""
    names = list(records[0])
    lines = [map(show_value, map(record.__getitem__, names)) for record in records]
    return markdown_table(names, lines)


def show_value(value: Any, digits: int | None = None, *, sign: bool = False) -> str:
    """Return a value as tables show it: None as a dash, texts as they are.

    ``digits`` are the decimals of a number, with commas between thousands; without them a float has two, or
    four significant digits where it is below 10.
    """
    if value is None:
        return NONE
    if digits is not None and not isinstance(value, str):
        return f"{value:{'+' if sign else ''},.{digits}f}"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4g}" if abs(value) < 10 else f"{value:.2f}"


def write_json(path: Path, document: Mapping[str, Any], *, force: bool = True) -> None:
    """Write a document as JSON, whole or not at all.

    Raises
    ------
    OutputError
        If the file exists (without ``force``) or cannot be written.
    """
    with atomic_path(path, force=force) as temporary:
        temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def write_page(
    path: Path, document: Mapping[str, Any], text: str, *, page: str = "", force: bool = True
) -> Path:
    """Write a document as ``path`` with suffix .json, and its page beside it; return the page's path.

    The page has the same name with suffix .md, or the name ``page``.

    Raises
    ------
    OutputError
        As :func:`write_json`.
    """
    # Not with_suffix, which takes the end of a name with a dot in it for its suffix.
    page_path = path.with_name(page or f"{path.name}.md")
    write_json(path.with_name(f"{path.name}.json"), document, force=force)
    with atomic_path(page_path, force=force) as temporary:
        # Settings from the command line may hold bytes that are no text.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return page_path
