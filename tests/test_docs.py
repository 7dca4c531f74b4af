"""The Python code in the pages of docs/ runs, on small files of the names that the pages use."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from clips import moving_shapes, write_clip
from random_files import random_file, random_set
from vinr.video.spec import VideoSpec

DOCS = Path(__file__).parent.parent / "docs"
PAGES = ["file.md", "streams.md"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the pages open."""
    folder = tmp_path_factory.mktemp("docs")
    random_set(folder / "set.vinr", {"a": 3, "b": 2})
    random_file(folder / "clip.vinr", VideoSpec(5, 36, 50))
    write_clip(folder / "clip.mkv", moving_shapes(num_frames=5, height=36, width=50))
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_python_of_a_page_runs(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    monkeypatch.chdir(folder)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for block in blocks:
        exec(compile(block, page, "exec"), {})
