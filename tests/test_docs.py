"""Every Python block in the pages of docs/ runs, the blocks of a page one after another."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from random_files import random_set

DOCS = Path(__file__).parent.parent / "docs"
INPUTS = {"in.mp4", "in.vinr", "set.vinr"}


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


PAGES = [page for page in sorted(DOCS.rglob("*.md")) if blocks(page)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_python_blocks_run(
    page: Path, tiny_video: Path, tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(tiny_video, tmp_path / "in.mp4")
    shutil.copy(tiny_file, tmp_path / "in.vinr")
    random_set(tmp_path / "set.vinr", {"a": 3, "b": 2})
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for block in blocks(page):
        exec(compile(block, page.name, "exec"), namespace)
    named = set(re.findall(r'"([\w-]+\.(?:vinr|html|mp4|png|onnx))"', "".join(blocks(page))))
    for name in named - INPUTS:
        assert (tmp_path / name).stat().st_size > 0, f"{page.name} writes no {name}"


def test_the_page_of_the_trainer_shows_thirty_lines() -> None:
    (block,) = blocks(DOCS / "trainer.md")
    assert len([line for line in block.splitlines() if line.strip()]) <= 32
