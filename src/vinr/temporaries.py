"""Temporary names beside an output: whose they are, and whether a running process holds them.

::

    .NAME.TOKEN.part       an output that is being written
    .NAME.TOKEN.old        the folder that it replaces, for a moment
    .NAME.TOKEN.ready      a set of files, all whole, on their way to names that were free
    .NAME.TOKEN.replacing  the same, where existing files are overwritten
    .NAME.TOKEN.lock       held by the process that writes; the system releases it however the process ends

A killed process leaves such names behind. The next process that writes the same output sees by the lock that
no process holds them any more. A child that is forked from the writing process has a copy of all this, and
leaves it alone.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

from filelock import FileLock, Timeout

TOKEN_BYTES: Final = 6
SUFFIXES: Final = ("part", "old", "ready", "replacing", "lock")
# What Linux, macOS and Windows allow; some encrypted file systems allow less and say so.
DEFAULT_NAME_BYTES: Final = 255
# Around NAME: two dots, a token of 12 characters, a dot, the longest suffix (9); and 4 to spare.
MAX_AROUND_NAME: Final = 28
MAX_TRIES: Final = 10
# How often a lock is tried that another process holds.
LOCK_SECONDS: Final = 0.5


class Closable(Protocol):
    """Anything that is closed: a file, a container of libav."""

    def close(self) -> object:
        """Write what is buffered, and end."""
        ...


AnyClosable = TypeVar("AnyClosable", bound=Closable)


class Maker:
    """The process that created something and must remove or close it.

    A child that is forked meanwhile has a copy of the code that does so, and may run it, by an exception or
    ``sys.exit``, while the thing is still in use.
    """

    def __init__(self) -> None:
        self._process = os.getpid()

    @property
    def is_here(self) -> bool:
        """Whether this is that process."""
        return os.getpid() == self._process

    def close(self, opened: Closable) -> None:
        """Close ``opened``; a child keeps its copy forever.

        Closing it there, or dropping it, would write what is buffered into the file of the parent, and wait
        forever for the threads of a codec, which a child lacks.
        """
        if self.is_here:
            opened.close()
        else:
            hold(opened)

    @contextmanager
    def closing(self, opened: AnyClosable) -> Iterator[AnyClosable]:
        """Yield ``opened``, and :meth:`close` it in the end."""
        try:
            yield opened
        finally:
            self.close(opened)


def hold(value: object) -> None:
    """Keep ``value`` forever, even when the interpreter ends, so that it is never finalised."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))


@dataclass(frozen=True)
class Temporary:
    """The temporary names of one write of ``target``."""

    target: Path
    token: str

    @property
    def part(self) -> Path:
        """What is being written."""
        return self.path("part")

    def path(self, suffix: str) -> Path:
        """Return one of the names; ``suffix`` without its dot."""
        return self.target.with_name(hidden_name(self.target, f"{self.token}.{suffix}"))


def hidden_name(target: Path, end: str) -> str:
    """Return ``.NAME.end`` for a target ``NAME``; a name that is too long is replaced by its hash."""
    try:
        max_bytes = os.pathconf(target.parent, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):
        max_bytes = DEFAULT_NAME_BYTES
    # Independent of the end, so that all temporary names of a target begin alike.
    name = os.fsencode(target.name)
    is_short = len(name) + MAX_AROUND_NAME <= max_bytes
    return f".{target.name if is_short else hashlib.sha256(name).hexdigest()[:32]}.{end}"


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Try to lock the file ``path`` while the body runs, without waiting; yield whether that worked.

    The file is created and, at the end, removed while it is still locked. A process that had opened it before
    then locks a file without a name, which the library notices: two processes never hold the lock of one
    path. In a forked child the library releases its copy, and the lock stays with this process.
    """
    maker = Maker()
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        is_mine = False
    else:
        is_mine = True
    try:
        yield is_mine
    finally:
        if is_mine and maker.is_here:
            # Windows cannot remove an open file; there the library does so when it releases the lock.
            with suppress(OSError):
                path.unlink()
            lock.release()


@contextmanager
def waited_lock(path: Path) -> Iterator[None]:
    """Lock the file ``path`` while the body runs, as soon as no other process does; see :func:`try_lock`."""
    while True:
        with try_lock(path) as is_mine:
            if is_mine:
                yield
                return
        time.sleep(LOCK_SECONDS)


@contextmanager
def temporary_beside(target: Path) -> Iterator[Temporary]:
    """Yield temporary names in the folder of ``target``, so that a rename stays on one file system.

    Whatever has the name of the part at the end is removed; after a successful rename nothing has.
    """
    maker = Maker()
    for _ in range(MAX_TRIES):
        names = Temporary(target, secrets.token_hex(TOKEN_BYTES))
        with try_lock(names.path("lock")) as is_mine:
            if not is_mine:
                continue  # another process, cleaning up, took the new lock for one that was left behind
            try:
                yield names
            finally:
                # The exception of the body is what the user must see, not that this fails on the same disk.
                with suppress(OSError):
                    if maker.is_here:
                        remove(names.part)
            return
    raise OSError(errno.EACCES, "no file can be created and locked in its folder")


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Yield a new folder where the system keeps temporary files; it is removed in the end."""
    maker = Maker()
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield folder
    finally:
        if maker.is_here:
            remove(folder)


def abandoned(target: Path) -> Iterator[Temporary]:
    """Yield the temporary names of ``target`` that killed processes left, each locked until the next.

    Files of another user that cannot be locked are skipped.
    """
    for token in _tokens(target):
        names = Temporary(target, token)
        with suppress(OSError), try_lock(names.path("lock")) as is_mine:
            if is_mine:
                yield names


def _tokens(target: Path) -> list[str]:
    start = re.escape(hidden_name(target, ""))
    pattern = re.compile(rf"{start}([0-9a-f]{{{2 * TOKEN_BYTES}}})\.(?:{'|'.join(SUFFIXES)})")
    tokens: set[str] = set()
    # A folder that may be written but not listed raises PermissionError.
    with suppress(PermissionError), os.scandir(target.parent) as entries:
        for entry in entries:
            if match := pattern.fullmatch(entry.name):
                tokens.add(match[1])
    return sorted(tokens)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, if there is one of that name; links are not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
