"""The scripts in benchmarks/soak run: a handful of executions of each, in one process for all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow  # about ten seconds: a process forks for each kill
ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "benchmarks" / "soak"
# One process: each would load PyTorch anew. Results stay in the test's folder.
PROGRAM = """
import sys
from pathlib import Path

folder = sys.argv[1]
sys.path.insert(0, sys.argv[2])
import fuzz_atheris, fuzz_structure, kills
import _record

_record.RESULTS = Path(folder) / "results"

def run(script, *arguments):
    sys.argv = [script.__name__, "--work", folder + "/work", *arguments]
    script.main()

kill = ("--command", "decode to y4m", "--rows", folder + "/kills.jsonl")
run(kills, *kill, "--every", "4", "--moments", "0")
run(kills, *kill, "--report")
fuzz = ("--models", "hinerv", "--no-bombs", "--rows", folder + "/structure")
run(fuzz_structure, *fuzz, "--count", "20")
run(fuzz_structure, *fuzz, "--report")
run(fuzz_atheris, "--target", "times", "--plain", "--count", "20", "--rows", folder + "/atheris")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run a little of all scripts; return the folder with their rows and results."""
    if not sys.platform.startswith("linux"):
        pytest.skip("forks, signals and /proc are Linux's")
    folder = tmp_path_factory.mktemp("soak")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), str(SCRIPTS)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=environment,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    return folder


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_kills_are_made_and_judged(folder: Path) -> None:
    rows = rows_of(folder / "kills.jsonl")
    at_operations = [row for row in rows if row["how"] == "operation"]
    assert {row["start"] for row in at_operations} == {"no output", "old output"}
    assert all(row["killed"] for row in at_operations if row["signal"] == "SIGKILL")
    assert {row["after"] for row in rows} <= {"absent", "old", "whole"}
    assert all(row["same"] for row in rows)


def test_changed_files_are_executed_and_counted(folder: Path) -> None:
    (row,) = rows_of(folder / "structure" / "blocks.jsonl")
    counts = [counted for kind in row["counts"].values() for counted in kind.items()]
    assert sum(count for _, count in counts) == 20
    assert sum(count for outcome, count in counts if outcome == "refused at opening") > 0
    assert not (folder / "structure" / "findings.jsonl").exists()


def test_results_are_written(folder: Path) -> None:
    for name in ("kills", "fuzz-structure"):
        results = folder / "results" / "soak"
        assert (results / f"{name}.md").read_text(encoding="utf-8").startswith(f"# soak/{name}")
        assert json.loads((results / f"{name}.json").read_text(encoding="utf-8"))["rows"]
