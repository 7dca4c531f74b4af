"""The notebooks of examples/ run, are made from the sources beside them, and were executed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks import notebooks

SOURCES = notebooks.sources()
EVERY_NOTEBOOK = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def cells_of(source: Path) -> list[tuple[str, str]]:
    """Kind and text of the cells of a source."""
    cells = []
    for block in source.read_text(encoding="utf-8").split(f"\n{notebooks.CELL}")[1:]:
        head, _, body = block.partition("\n")
        if head.strip() == "[markdown]":
            lines = [line.removeprefix("#").removeprefix(" ") for line in body.strip().splitlines()]
            cells.append(("markdown", "\n".join(lines)))
        else:
            cells.append(("code", body.strip()))
    return cells


@EVERY_NOTEBOOK
def test_the_code_runs(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.syspath_prepend(source.parent)
    code = "\n".join(text for kind, text in cells_of(source) if kind == "code")
    short = code.replace("epochs=20", "epochs=1")
    assert short != code
    exec(compile(short, source.name, "exec"), {})


@EVERY_NOTEBOOK
def test_the_notebook_is_that_of_its_source_and_was_executed(source: Path) -> None:
    notebook = json.loads(source.with_suffix(".ipynb").read_text(encoding="utf-8"))
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
    assert cells == cells_of(source), "python -m benchmarks.notebooks writes it again"
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert len([output for output in outputs if "image/png" in output.get("data", {})]) >= 2


def test_there_are_two_notebooks() -> None:
    assert len(SOURCES) >= 2
