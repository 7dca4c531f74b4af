"""What every result is kept with: date, commit, machine, versions."""

from __future__ import annotations

import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import vinr


def machine() -> dict[str, Any]:
    """Return the CPU, its threads and the versions that matter for speed and results."""
    # On Linux `platform` knows no more than x86_64; the model, on which speed depends, stands in cpuinfo.
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        match = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(encoding="utf-8"), re.MULTILINE)
        cpu = match[1].strip() if match else cpu
    record: dict[str, Any] = {
        "cpu": cpu,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "vinr": version("vinr"),
    }
    if torch.cuda.is_available():
        record["gpu"] = torch.cuda.get_device_name()
    return record


def commit() -> str | None:
    """Return the commit of the installed source, with a plus sign where it had changes; None outside git."""
    folder = Path(vinr.__file__).parent
    describe = ["git", "describe", "--always", "--dirty=+", "--abbrev=10"]
    is_tracked = ["git", "ls-files", "--error-unmatch", "__init__.py"]
    try:
        # An installed package may lie inside some other project's checkout: its commit says nothing.
        subprocess.run(is_tracked, capture_output=True, check=True, cwd=folder)
        return subprocess.run(describe, capture_output=True, text=True, check=True, cwd=folder).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
