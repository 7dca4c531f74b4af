"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vinr.errors import OutputError

__all__ = ["atomic_folder", "atomic_path", "check_parent", "check_target"]


@contextmanager
def atomic_path(target: str | Path, *, force: bool = False) -> Iterator[Path]:
    """Give a temporary path beside ``target``; rename it to ``target`` when the body ends well.

    The body creates and closes the temporary file; it should do nothing else that can raise ``OSError``. The
    file is flushed to disk before it is renamed. When the body raises, or is interrupted, the temporary file
    is removed and ``target`` stays as it was.

    Raises
    ------
    OutputError
        If ``target`` exists and ``force`` is false, is no regular file, its folder is missing, or the system
        refuses to write (disk full, no permission).
    """
    target = Path(target)
    check_target(target, force=force)
    temporary = _beside(target)
    try:
        yield temporary
        _flush(temporary)
        check_target(target, force=force)
        temporary.replace(target)
        _flush(target.parent)
    except OSError as error:
        raise _cannot_write(target, error) from error
    finally:
        # After a successful rename there is nothing left of this name.
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: str | Path, *, replaceable: str, force: bool = False) -> Iterator[Path]:
    """Give a new temporary folder beside ``target``; rename it to ``target`` when the body ends well.

    An existing folder is replaced if it is empty, or if ``force`` is true and it holds nothing but files that
    match the glob pattern ``replaceable``: a folder of other things is never removed.

    Raises
    ------
    OutputError
        As :func:`atomic_path`, and if the existing folder may not be replaced.
    """
    target = Path(target)
    _check_folder(target, replaceable, force=force)
    temporary = _beside(target)
    try:
        temporary.mkdir()
        yield temporary
        for path in temporary.iterdir():
            _flush(path)
        _check_folder(target, replaceable, force=force)
        if target.exists():
            shutil.rmtree(target)
        temporary.replace(target)
        _flush(target.parent)
    except OSError as error:
        raise _cannot_write(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_parent(target: Path) -> None:
    """Raise :class:`OutputError` unless the folder that shall hold ``target`` exists."""
    if not target.parent.is_dir():
        raise OutputError(f"{target}: the folder {target.parent} does not exist; create it first")


def check_target(target: Path, *, force: bool) -> None:
    """Raise :class:`OutputError` where :func:`atomic_path` would: before the work rather than after it."""
    check_parent(target)
    if target.exists() and not target.is_file():
        raise OutputError(f"{target}: exists and is no regular file; choose another name")
    if target.exists() and not force:
        raise OutputError(f"{target}: exists already; choose another name or overwrite it with --force")


def _check_folder(target: Path, replaceable: str, *, force: bool) -> None:
    check_parent(target)
    if not target.exists():
        return
    if not target.is_dir():
        raise OutputError(f"{target}: exists and is no folder; choose another name")
    held = list(target.iterdir())
    if held and not force:
        raise OutputError(f"{target}: exists already; choose another name or overwrite it with --force")
    if any(not path.match(replaceable) or not path.is_file() for path in held):
        raise OutputError(f"{target}: holds files other than {replaceable} and is not replaced")


def _beside(target: Path) -> Path:
    # In the same folder, so that the rename stays on one file system.
    return target.parent / f".vinr-{secrets.token_hex(6)}.part"


def _cannot_write(target: Path, error: OSError) -> OutputError:
    return OutputError(f"{target}: cannot be written: {error.strerror or error}")


def _flush(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        if is_folder:
            # Some network file systems cannot flush a folder; the file itself is safe by then.
            with suppress(OSError):
                os.fsync(descriptor)
        else:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
