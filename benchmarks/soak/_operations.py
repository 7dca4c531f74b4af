"""Counts the file operations of this process below a folder, and sends it a signal before one of them.

Opening for writing, writing, renaming, flushing to disk, removing, making and removing folders. Opens,
renames and removals are seen by an audit hook; ``os.fsync``, ``os.write`` and writing to files that Python
opens are replaced. What a codec library writes by itself is not seen: kills at random moments fall into it.
"""

from __future__ import annotations

import builtins
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["count_operations"]

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
EVENTS = {"os.rename": "rename", "os.remove": "remove", "os.mkdir": "mkdir", "os.rmdir": "rmdir"}


class _Counter:
    """Counts operations below ``folder``; before number ``stop``, from 1, it sends the signal ``number``."""

    def __init__(self, folder: Path, stop: int, number: int, on_operation: Callable[[str], None]) -> None:
        self._folder, self._stop, self._signal = str(folder.resolve()) + "/", stop, number
        self._on_operation = on_operation
        self._count, self._busy = 0, False

    def add(self, kind: str, path: object, folder_descriptor: int = -1) -> None:
        """Count an operation on a path, or on an open file."""
        if self._busy:
            return
        self._busy = True
        try:
            place = _place(path, folder_descriptor)
            if not (place + "/").startswith(self._folder):
                return
            self._count += 1
            self._on_operation(f"{kind} {place.removeprefix(self._folder)}")
            if self._count == self._stop:
                os.kill(os.getpid(), self._signal)
        finally:
            self._busy = False

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """See ``sys.addaudithook``."""
        if event == "open" and isinstance(arguments[0], (str, bytes)) and arguments[2] & WRITING:
            self.add("open", arguments[0])
        elif event in ("os.mkdir", "os.rmdir", "os.remove"):
            self.add(EVENTS[event], arguments[0], arguments[-1])
        elif event == "os.rename":
            self.add(EVENTS[event], arguments[0], arguments[2])


def _place(path: object, folder_descriptor: int) -> str:
    if isinstance(path, int):
        return os.readlink(f"/proc/self/fd/{path}")
    text = os.fsdecode(path)  # type: ignore[arg-type]
    base = os.getcwd() if folder_descriptor < 0 else os.readlink(f"/proc/self/fd/{folder_descriptor}")
    return os.path.normpath(os.path.join(base, text))


def count_operations(
    folder: Path, on_operation: Callable[[str], None], *, stop: int = 0, number: int = 0
) -> None:
    """Call ``on_operation`` for each operation below ``folder``, for as long as this process lives.

    Before operation ``stop``, from 1, the process sends itself the signal ``number``; 0: never.
    """
    counter = _Counter(folder, stop, number, on_operation)
    sys.addaudithook(counter.audit)
    real_open, real_fsync, real_write = io.open, os.fsync, os.write

    class CountedFile(io.FileIO):
        def write(self, data: Any, /) -> int | None:
            counter.add("write", self.fileno())
            return super().write(data)

    def counted_open(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **more: Any) -> Any:
        if not set(mode) & set("wax+"):
            return real_open(file, mode, buffering, *args, **more)
        names = ("encoding", "errors", "newline", "closefd", "opener")
        given = dict(zip(names, args, strict=False)) | more
        ways = {key: given.pop(key) for key in ("closefd", "opener") if key in given}
        raw = CountedFile(file, mode.replace("b", "").replace("t", ""), **ways)
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, **given)

    def counted_fsync(file: Any) -> None:
        counter.add("fsync", file if isinstance(file, int) else file.fileno())
        real_fsync(file)

    def counted_write(descriptor: int, data: Any) -> int:
        counter.add("write", descriptor)
        return real_write(descriptor, data)

    builtins.open = counted_open
    io.open = counted_open  # type: ignore[assignment]
    os.fsync, os.write = counted_fsync, counted_write  # type: ignore[assignment]
