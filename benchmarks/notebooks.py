"""Executes the notebooks of examples/ and writes them with what they print and draw.

examples/NAME.py is the source, a cell per "# %%"; examples/NAME.ipynb is made of it. Needs the extra docs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parent.parent / "examples"
CELL: Final = "# %%"


def sources() -> list[Path]:
    """Return the sources of all notebooks."""
    return [path for path in sorted(FOLDER.glob("*.py")) if CELL in path.read_text(encoding="utf-8")]


def execute(source: Path) -> None:
    """Run the cells of ``source`` in a kernel of its own and write the notebook beside it."""
    import jupytext
    import nbformat
    from nbclient import NotebookClient

    notebook = jupytext.read(source)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(FOLDER)}}).execute()
    for number, cell in enumerate(notebook.cells):
        # Random names and times would change the file each time.
        cell["id"] = f"cell-{number}"
        cell.metadata.clear()
    language = notebook.metadata.get("language_info", {})
    language.pop("version", None)
    nbformat.write(notebook, source.with_suffix(".ipynb"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Write all notebooks again."""
    argparse.ArgumentParser(description=__doc__).parse_args(arguments)
    for source in sources():
        execute(source)


if __name__ == "__main__":
    main()
