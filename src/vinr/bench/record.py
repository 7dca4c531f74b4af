"""What every result is kept with, beside the machine: the commit."""

from __future__ import annotations

import subprocess
from pathlib import Path

import vinr


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
