"""The commands of docs/tutorial.md run one after another, and print what the page shows, numbers aside."""

from __future__ import annotations

import runpy
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from benchmarks import tutorial

from command_line import Run

PAGE = tutorial.PAGE.read_text(encoding="utf-8")


def test_the_page_has_twenty_commands_and_its_numbers_are_masked() -> None:
    steps = tutorial.read_steps(PAGE)
    assert len([step for step in steps if step.words[0] == "vinr"]) >= 20
    assert len(steps) == PAGE.count("```sh")
    assert (
        tutorial.mask("PSNR   29.79 dB, bf16 (auto: it has), 1 CPU thread") == "PSNR # dB, fp#, # CPU threads"
    )


def test_the_page_prints_what_it_shows(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", tutorial.COLUMNS)
    shutil.copytree(tutorial.ROOT / "examples", "examples")

    def in_this_process(words: Sequence[str]) -> str:
        if words[0] == "python":
            monkeypatch.setattr(sys, "argv", list(words[1:]))
            runpy.run_path(words[1], run_name="__main__")
            return ""
        status, out, err = run(*words[1:])
        assert status == (2 if err.startswith("vinr: ") else 0), err
        return err + out

    written = tutorial.fill(PAGE, in_this_process)
    assert tutorial.mask(written) == tutorial.mask(PAGE), (
        "python -m benchmarks.tutorial writes the page again"
    )
    for name in ("clip.vinr", "bytes.png", "decoded.mp4", "page.html", "smooth.mp4", "filled.mp4"):
        assert Path(name).stat().st_size > 0
