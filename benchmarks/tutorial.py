"""Runs the commands of docs/tutorial.md and writes what they print into the page.

A block ``sh`` is run; the block ``text`` that follows it takes what was printed. Of long output the page
shows the first N lines: where its block ends in "…N" and, once written, in a line "… and M more lines".
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "tutorial.md"
# Tables are as wide as the page.
COLUMNS: Final = "110"
STEP: Final = re.compile(r"```sh\n(?P<command>[^`]*?)\n```\n(?:\n```text\n(?P<output>.*?)```\n)?", re.DOTALL)
# A line a minute, where something takes that long.
PROGRESS: Final = re.compile(
    r"^(?:[a-z]+: +\d+%.*|[\d,]+ epochs? takes? about .* on this machine)\n", re.MULTILINE
)
SHORTENED: Final = re.compile(r"^… and \d+ more lines$|^…(\d+)$", re.MULTILINE)

Run = Callable[[Sequence[str]], str]
"""Runs the words of a command in the current folder; returns what it printed, first stderr, then stdout."""


@dataclass(frozen=True)
class Step:
    """A command of the page and what the page says that it prints; None where it shows nothing."""

    words: tuple[str, ...]
    output: str | None

    @property
    def num_lines(self) -> int | None:
        """How many lines the page shows of the output; None: all."""
        end = SHORTENED.search(self.output or "")
        if end is None:
            return None
        return int(end[1]) if end[1] else len((self.output or "").splitlines()) - 1

    def shown(self, printed: str) -> str:
        """Return what the page shows of what was printed."""
        lines = [line.rstrip() for line in PROGRESS.sub("", printed).strip("\n").splitlines()]
        if self.num_lines is not None and len(lines) > self.num_lines:
            lines[self.num_lines :] = [f"… and {len(lines) - self.num_lines} more lines"]
        return "".join(f"{line}\n" for line in lines)


def read_steps(page: str) -> list[Step]:
    """Return the commands of a page, in order."""
    return [Step(tuple(shlex.split(step["command"])), step["output"]) for step in STEP.finditer(page)]


def mask(text: str) -> str:
    """Return ``text`` without what differs between machines: numbers, their columns, arithmetic, threads."""
    text = re.sub(r"[-+−]?\d[\d,.]*", "#", text)
    text = re.sub(r"\b(?:bf|fp)#(?: \(auto: [^)]*\))?", "fp#", text)
    text = re.sub(r"# CPU threads?", "# CPU threads", text)
    return "\n".join(" ".join(line.split()) for line in text.strip().splitlines())


def fill(page: str, run: Run) -> str:
    """Return ``page`` with the output of each command, run one after another."""

    def with_output(found: re.Match[str]) -> str:
        step = Step(tuple(shlex.split(found["command"])), found["output"])
        printed = run(step.words)
        block = f"```sh\n{found['command']}\n```\n"
        return block if step.output is None else f"{block}\n```text\n{step.shown(printed)}```\n"

    return STEP.sub(with_output, page)


def run_program(words: Sequence[str], folder: Path) -> str:
    """Run a command of the page in a process of its own in ``folder``."""
    command = [sys.executable, "-m", *words] if words[0] == "vinr" else [sys.executable, *words[1:]]
    environment = {**os.environ, "COLUMNS": COLUMNS}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 2):
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr}")
    return done.stderr + done.stdout


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page again."""
    argparse.ArgumentParser(description=__doc__).parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "examples").symlink_to(ROOT / "examples")
        page = fill(PAGE.read_text(encoding="utf-8"), lambda words: run_program(words, folder))
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
