"""Who does what: processes that share a folder of results claim each piece of work before they begin it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vinr.temporaries import Maker


def claim(path: Path) -> bool:
    """Create ``path``; return whether this process did, so that what it stands for is its to do."""
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(f"{socket.gethostname()} {os.getpid()}")
    except FileExistsError:
        return False
    return True


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Claim ``path`` for as long as the body runs; tell the body whether that worked.

    A claim left by a process of this machine that has ended is taken over.
    """
    if _is_left_behind(path):
        path.unlink(missing_ok=True)
    mine, maker = claim(path), Maker()
    try:
        yield mine
    finally:
        if mine and maker.is_here:
            path.unlink(missing_ok=True)


def _is_left_behind(path: Path) -> bool:
    try:
        host, _, process = path.read_text(encoding="utf-8").partition(" ")
    except FileNotFoundError:
        return False
    if host != socket.gethostname() or not process.isdigit():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
