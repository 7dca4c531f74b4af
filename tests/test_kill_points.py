"""A process killed at any file operation leaves its output absent, old or whole; the next one cleans."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import kill_points

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs fork")


def kill(*names: str) -> None:
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", kill_points.__file__, *names]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    results = json.loads(run.stdout)
    assert results.keys() == set(names)
    for name, result in results.items():
        assert result["wrong"] == [], f"{name}: {result}\n{run.stderr}"
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
