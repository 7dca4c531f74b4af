"""Temporary names beside an output: whose they are, and whether a process that lives holds them.

::

    .NAME.TOKEN.part       an output that is being written
    .NAME.TOKEN.old        the folder that it replaces, for a moment
    .NAME.TOKEN.ready      a set of files, all whole, on their way to names that were free
    .NAME.TOKEN.replacing  the same, where existing files are overwritten
    .NAME.TOKEN.lock       held by the process that writes; the system lets go of it however that ends

A process that is killed leaves such names behind. Whoever writes the same output next sees by the lock that
nobody holds them any more. A child that is forked from the process that writes has a copy of all this, and
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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

from filelock import FileLock, Timeout

TOKEN_BYTES: Final = 6
SUFFIXES: Final = ("part", "old", "ready", "replacing", "lock")
# What Linux, macOS and Windows allow; some encrypted file systems allow less and say so.
USUAL_NAME_BYTES: Final = 255
# Two dots, a token, a dot, the longest suffix; and some to spare.
LONGEST_END: Final = 28
MAX_TRIES: Final = 10


class Closable(Protocol):
    """What is closed: a file, a container of libav."""

    def close(self) -> object:
        """Write what is held back, and end."""
        ...


AnyClosable = TypeVar("AnyClosable", bound=Closable)


class Maker:
    """The process that made something and is to remove or close it.

    A child that is forked meanwhile has a copy of whatever looks after the thing, and may run its end: by an
    exception, by ``sys.exit``. The thing is still in use then.
    """

    def __init__(self) -> None:
        self._process = os.getpid()

    @property
    def is_here(self) -> bool:
        """Whether this is that process."""
        return os.getpid() == self._process

    def close(self, opened: Closable) -> None:
        """Close ``opened``; a child holds its copy for good.

        Closing it there, or forgetting it, would write what is held back into the file of its parent, and
        wait without end for the threads of a codec, which a child lacks.
        """
        if self.is_here:
            opened.close()
        else:
            hold(opened)

    @contextmanager
    def closing(self, opened: AnyClosable) -> Iterator[AnyClosable]:
        """Give ``opened`` to the body, and :meth:`close` it in the end."""
        try:
            yield opened
        finally:
            self.close(opened)


def hold(value: object) -> None:
    """Keep ``value`` for good, also when the interpreter ends: what is done at its end is never done."""
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
    """Return ``.NAME.end`` for a target ``NAME``, in short where the file system allows no name so long."""
    # The same for every end, so that all names of a target begin alike.
    if len(os.fsencode(target.name)) + LONGEST_END <= _longest_name(target.parent):
        return f".{target.name}.{end}"
    return f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:32]}.{end}"


def _longest_name(folder: Path) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):
        return USUAL_NAME_BYTES


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Lock the file ``path`` while the body runs; tell the body whether that worked, without waiting.

    The file is made and, at the end, removed while it is still locked. Who had opened it before then locks a
    file without a name, which the library notices, so two processes never hold the lock of one path. In a
    forked child the library lets go of its copy, and the lock stays that of this process.
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
            # Windows removes no open file; there the library does so when it lets go.
            with suppress(OSError):
                path.unlink()
            lock.release()


@contextmanager
def temporary_beside(target: Path) -> Iterator[Temporary]:
    """Give temporary names in the folder of ``target``, so that a rename stays on one file system.

    What lies under the name of the part is removed in the end; after a successful rename nothing does.
    """
    maker = Maker()
    for _ in range(MAX_TRIES):
        names = Temporary(target, secrets.token_hex(TOKEN_BYTES))
        with try_lock(names.path("lock")) as is_mine:
            if not is_mine:
                continue  # who cleans up has taken the new lock for one that was left behind
            try:
                yield names
            finally:
                # What stopped the body is what the user must hear of, not that the disk also refuses this.
                with suppress(OSError):
                    if maker.is_here:
                        remove(names.part)
            return
    raise OSError(errno.EACCES, "no file can be made and locked in its folder")


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Give a new folder where the system keeps temporary files; it is removed in the end."""
    maker = Maker()
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield folder
    finally:
        if maker.is_here:
            remove(folder)


def abandoned(target: Path) -> Iterator[Temporary]:
    """Yield the temporary names of ``target`` that killed processes left, each locked until the next.

    What belongs to another user and cannot be locked is passed over.
    """
    for token in _tokens(target):
        names = Temporary(target, token)
        with suppress(OSError), try_lock(names.path("lock")) as is_mine:
            if is_mine:
                yield names


def _tokens(target: Path) -> list[str]:
    start = re.escape(hidden_name(target, ""))
    pattern = re.compile(rf"{start}([0-9a-f]{{{2 * TOKEN_BYTES}}})\.(?:{'|'.join(SUFFIXES)})")
    try:
        with os.scandir(target.parent) as entries:
            found = [pattern.fullmatch(entry.name) for entry in entries]
    except PermissionError:
        return []  # a folder that may be written but not listed
    return sorted({match[1] for match in found if match})


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, if there is one of that name; links are not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
