"""What every benchmark writes beside its figures: commit, machine, versions."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"


def machine() -> dict[str, Any]:
    """Return the processor, its threads and the versions that matter for speed."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].partition(":")[2].strip() if lines else name
    found: dict[str, Any] = {
        "cpu": name,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def commit() -> str:
    """Return the commit, with a plus sign where the tree had changes."""
    run = ["git", "describe", "--always", "--dirty=+", "--abbrev=10"]
    return subprocess.run(run, capture_output=True, text=True, check=True, cwd=RESULTS.parent).stdout.strip()


def write(
    name: str, command: str, settings: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], text: str
) -> None:
    """Write ``name.json`` and ``name.md`` to the results folder."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    record = {
        "name": name,
        "command": command,
        "date": date.today().isoformat(),
        "commit": commit(),
        "machine": machine(),
        "settings": dict(settings),
        "rows": [dict(row) for row in rows],
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
    where = record["machine"]
    head = (
        f"# {name}\n\n`{command}`, {record['date']}, commit {record['commit']}, {where['cpu']} "
        f"({where['cpu_capability']}), {where['threads']} threads, torch {where['torch']}.\n\n"
    )
    (RESULTS / f"{name}.md").write_text(head + text.strip() + "\n")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a Markdown table; all rows have the first one's columns."""
    names = list(rows[0])
    lines = [" | ".join(names), " | ".join("---" for _ in names)]
    lines += [" | ".join(_cell(row[name]) for name in names) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
