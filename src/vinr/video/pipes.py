"""Pipes as inputs: what comes out of one is kept on disk, since a video is read more than once.

::

    -, /dev/stdin, a FIFO, <(command) ── copied once ──> a temporary file without a name ──> read as any file
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Lock
from typing import IO, Final

from vinr.errors import InputError, VinrError
from vinr.temporaries import Maker

STDIN: Final = "-"
# Where an open file can be opened once more by its number, even one without a name.
OPEN_FILES: Final = Path("/proc/self/fd")
PREFIX: Final = "vinr-"
COPIED_AT_ONCE: Final = 1 << 20


def is_pipe(source: str) -> bool:
    """Return whether ``source`` can be read once only: ``-`` (standard input), a pipe or a FIFO."""
    if source == STDIN:
        return True
    try:
        mode = os.stat(source).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def pipe_name(source: str) -> str:
    """Return what to name a clip after: a FIFO's own name; nothing for a pipe, which has none."""
    return "" if source == STDIN or source.startswith(("/dev/", "/proc/")) else Path(source).stem


class KeptPipe:
    """What came out of a pipe, in a temporary file that goes when the last user closes it.

    While it is in use, opening the same pipe again gives the same: encodes of a comparison read it anew.
    """

    _in_use: Final[dict[tuple[int, int], KeptPipe]] = {}
    _lock: Final = Lock()

    def __init__(self, source: str, key: tuple[int, int]) -> None:
        self._source, self._key, self._num_users, self._maker = source, key, 0, Maker()
        self._file, self.path = _copy(source)

    @classmethod
    def open(cls, source: str) -> KeptPipe:
        """Return what ``source`` holds.

        Raises
        ------
        InputError
            If nothing comes out of it, it is closed or a terminal, or the disk is full.
        """
        with cls._lock:
            key = _identity(source)
            kept = cls._in_use.get(key)
            if kept is None:
                kept = cls._in_use[key] = cls(source, key)
            kept._num_users += 1
            return kept

    def close(self) -> None:
        """End this use."""
        with self._lock:
            self._num_users -= 1
            if self._num_users == 0:
                del self._in_use[self._key]
                self._maker.close(self._file)

    @contextmanager
    def named(self) -> Iterator[None]:
        """Let errors of the body name the pipe, not the temporary file."""
        try:
            yield
        except VinrError as error:
            if str(self.path) not in str(error):
                raise
            raise type(error)(self.rename(str(error))) from error

    def rename(self, text: str) -> str:
        """Return ``text`` with the pipe's name in place of the temporary file's."""
        return text.replace(str(self.path), self._source)


def is_kept(source: str) -> bool:
    """Return whether what came out of the pipe ``source`` is at hand, since somebody reads it now."""
    try:
        return _identity(source) in KeptPipe._in_use
    except InputError:
        return False


def _identity(source: str) -> tuple[int, int]:
    try:
        if source == STDIN and sys.stdin is None:
            # It was closed when Python began; by now its number may be that of another file.
            raise OSError
        found = os.fstat(0) if source == STDIN else os.stat(source)
    except OSError as error:
        raise InputError(f"{source}: standard input is closed; pipe a video into it") from error
    if source == STDIN and os.isatty(0):
        raise InputError(f"{source}: standard input is a terminal; pipe a video into it, or name a file")
    return found.st_dev, found.st_ino


def _copy(source: str) -> tuple[IO[bytes], Path]:
    """Return an open copy of all that comes out of a pipe, and a path by which to open it again."""
    try:
        pipe = _open_pipe(source)
    except OSError as error:
        raise InputError(f"{source}: cannot be read: {error.strerror}") from error
    with pipe, ExitStack() as stack:
        try:
            file, path = _create()
            stack.callback(file.close)
            shutil.copyfileobj(pipe, file, COPIED_AT_ONCE)
            file.flush()
        except OSError as error:
            folder = tempfile.gettempdir()
            raise InputError(
                f"{source}: cannot be copied to {folder}: {error.strerror}; TMPDIR names another folder"
            ) from error
        if file.tell() == 0:
            raise InputError(f"{source}: nothing came out of the pipe; check the command that writes to it")
        stack.pop_all()
        return file, path


def _open_pipe(source: str) -> IO[bytes]:
    if source == STDIN:
        # By its number: sys.stdin may hold back what it has read. It stays open.
        return open(0, "rb", buffering=0, closefd=False)
    return open(source, "rb", buffering=0)


def _create() -> tuple[IO[bytes], Path]:
    """Return a new temporary file and its path."""
    # On Linux a file without a name can be opened once more, and never stays behind, however this ends.
    file = tempfile.TemporaryFile(prefix=PREFIX)  # noqa: SIM115 - whoever asked closes it
    path = OPEN_FILES / str(file.fileno())
    if path.exists():
        return file, path
    file.close()
    named = tempfile.NamedTemporaryFile(prefix=PREFIX)  # noqa: SIM115
    return named, Path(named.name)
