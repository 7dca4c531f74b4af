"""A process killed at any file operation leaves its output absent, old or whole; the next one cleans."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import kill_points
from fresh import run_fresh

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs fork")


def kill(*names: str) -> None:
    run = run_fresh("import kill_points; kill_points.main()", *names)
    assert run.returncode == 0, run.stderr.decode()
    results = json.loads(run.stdout)
    assert results.keys() == set(names)
    for name, result in results.items():
        assert result["wrong"] == [], f"{name}: {result}\n{run.stderr.decode()}"
        assert result["points"] > 10


def test_files_and_states_of_encodes() -> None:
    kill("file over another", "encode")


def test_folders_of_images() -> None:
    kill("folder over another")


@pytest.mark.slow
def test_other_outputs() -> None:
    kill("file", "mkv", "folder", "pattern", "pattern over another")


def test_every_scenario_is_run() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert all(f'"{name}"' in source for name in kill_points.WITHOUT_TORCH | kill_points.VIDEOS)
