"""Files and folders that appear whole or not at all.

::

    write ─> temporary file beside the output ─> flush to disk ─> rename ─> flush the folder
                                              ─> remove what killed processes left behind
"""

from __future__ import annotations

import ctypes
import os
import re
import stat
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Final

from vinr.errors import OutputError, UsageError, argument, plural
from vinr.temporaries import Maker, Temporary, abandoned, remove, temporary_beside

# Constants of Linux' renameat2(2): paths are relative to the current folder; the two change places.
AT_FDCWD: Final = -100
RENAME_EXCHANGE: Final = 2


@contextmanager
def atomic_path(target: str | Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; rename it to ``target`` when the body ends without an error.

    The body creates and closes the temporary file; it should do nothing else that can raise ``OSError``. The
    file is flushed to disk before it is renamed. When the body raises, or is interrupted, the temporary file
    is removed and ``target`` stays as it was. What a killed process left is removed by the next write to the
    same target. If ``target`` is a symbolic link, the file that it points to is replaced, not the link.

    Raises
    ------
    OutputError
        If ``target`` exists and ``force`` is false, is not a regular file or is a dangling link, its folder
        is missing, or the system refuses to write (disk full, no permission).
    """
    target = Path(target)
    check_parent(target)
    place = followed(target)
    with _whole(
        target,
        place,
        check=lambda: check_target(target, force=force),
        put=lambda names: _put_file(names, place),
    ) as part:
        yield part


@contextmanager
def atomic_folder(target: str | Path, *, replaceable: str, force: bool = False) -> Iterator[Path]:
    """Yield a new temporary folder beside ``target``; rename it when the body ends without an error.

    An existing folder is replaced if it is empty, or if ``force`` is true and it holds nothing but files that
    match the glob pattern ``replaceable``: a folder of other things is never removed. On Linux the old and
    the new folder change places in one step; elsewhere the old one has a hidden name for a moment, and if the
    process is killed then, the next write to ``target`` restores it first.

    Raises
    ------
    OutputError
        As :func:`atomic_path`, and if the existing folder may not be replaced.
    """
    target = Path(target)
    check_parent(target)
    place = followed(target)
    with _whole(
        target,
        place,
        repair=lambda: _bring_back(place),
        check=lambda: _check_folder(target, replaceable, force=force),
        put=lambda names: _put_folder(names, place),
    ) as part:
        part.mkdir()
        yield part


@contextmanager
def atomic_files(pattern: Path, numbers: Collection[int], *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary folder for the files ``pattern.name % number``, which the body writes.

    When the body ends without an error, all of them are flushed to disk and then renamed, one after another,
    to names beside ``pattern``. No system renames a set at once: a process killed between renames leaves the
    other files, complete, in a hidden folder, and the next write to the same pattern finishes that first. If
    it is killed earlier, no file changes.

    Raises
    ------
    OutputError
        As :func:`atomic_path`; also if files of another set would remain among the new ones, even with
        ``force``.
    """
    check_parent(pattern)
    with _whole(
        pattern,
        pattern,
        repair=lambda: _finish_sets(pattern),
        check=lambda: _check_files(pattern, numbers, force=force),
        put=lambda names: _put_set(names, force=force),
    ) as part:
        part.mkdir()
        yield part


@contextmanager
def _whole(
    target: Path,
    place: Path,
    *,
    check: Callable[[], None],
    put: Callable[[Temporary], None],
    repair: Callable[[], None] = lambda: None,
) -> Iterator[Path]:
    """Yield a temporary path beside ``place``, and ``put`` what the body wrote there in its place.

    ``repair`` completes what a killed process was about to do; ``check`` refuses what must not be replaced,
    before the work and, since another process may have written meanwhile, after it. Errors of the system name
    ``target``.
    """
    with as_output_error(target):
        repair()
        check()
        with temporary_beside(place) as names:
            maker = Maker()
            yield names.part
            _check_maker(target, maker)
            _flush_all(names.part)
            check()
            put(names)
            flush(place.parent)
            clear_abandoned(place)


def _check_maker(target: Path, maker: Maker) -> None:
    """Raise :class:`OutputError` in a child that was forked in the body and reached its end."""
    if not maker.is_here:
        owner = "the process that this one was forked from"
        raise OutputError(f"{target}: is written by {owner}; end the child with os._exit")


def check_parent(target: Path) -> None:
    """Raise :class:`OutputError` if the folder of ``target`` is missing, or a link leads nowhere."""
    if not target.parent.is_dir():
        raise OutputError(f"{target}: the folder {target.parent} does not exist; create it first")
    if target.is_symlink() and not target.exists():
        raise OutputError(
            f"{target}: is a symbolic link to {target.readlink()}, which does not exist; "
            "remove the link or choose another name"
        )


def check_suffix(target: Path, suffix: str, what: str) -> None:
    """Raise :class:`UsageError` if ``target`` is not a name and ``suffix``; ``what`` names it in messages."""
    if target.name.lower() == suffix:
        raise UsageError(f"{what} {target}: a name is missing before {suffix}; give one such as out{suffix}")
    if target.suffix.lower() != suffix:
        raise UsageError(f"{what} {target}: the name must end in {suffix}")


def choose_or_force() -> str:
    """Return what to do where an output exists."""
    return f"choose another name or overwrite it with {argument('force', True)}"


def exists_as_other(path: Path, is_wanted: Callable[[int], bool], *, follow_symlinks: bool = True) -> bool:
    """Return whether ``path`` exists and its mode is not as wanted, such as by ``stat.S_ISREG``.

    One look decides: of two, the second may find that another process has removed the file.
    """
    try:
        mode = path.stat(follow_symlinks=follow_symlinks).st_mode
    except (OSError, ValueError):  # whoever opens it says why it cannot
        return False
    return not is_wanted(mode)


def check_target(target: Path, *, force: bool) -> None:
    """Raise :class:`OutputError` if :func:`atomic_path` would: before the work rather than after it."""
    check_parent(target)
    if exists_as_other(target, stat.S_ISREG):
        raise OutputError(f"{target}: exists and is not a regular file; choose another name")
    if target.exists() and not force:
        raise OutputError(f"{target}: exists already; {choose_or_force()}")


def followed(target: Path) -> Path:
    """Return the path that is really written for ``target``: without links, and ending in a name."""
    if target.is_symlink() or target.name in ("", ".."):
        return Path(os.path.realpath(target))  # of links in a circle, the first one
    return target


@contextmanager
def as_output_error(target: Path | str) -> Iterator[None]:
    """Turn an ``OSError`` of the body into an :class:`OutputError` about ``target``."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror or error}") from error


def flush(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":
        return
    # Some network file systems cannot flush a folder, and some folders may not be listed. The file itself is
    # safe by then, so that only its name could be lost.
    with suppress(OSError) if is_folder else nullcontext():
        descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def clear_abandoned(place: Path) -> None:
    """Remove what killed processes left beside ``place``, once that is complete."""
    # The output is written; that leftovers cannot be removed now is no failure of it.
    with suppress(OSError):
        for names in abandoned(place):
            remove(names.part)
            remove(names.path("old"))


def _flush_all(path: Path) -> None:
    """Flush a file, or a folder with its files, to the disk."""
    for file in path.iterdir() if path.is_dir() else ():
        flush(file)
    flush(path)


def _put_file(names: Temporary, place: Path) -> None:
    names.part.replace(place)


# -- folders -------------------------------------------------------------------------------------------------


def _check_folder(target: Path, replaceable: str, *, force: bool) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise OutputError(f"{target}: exists and is not a folder; choose another name")
    if os.path.ismount(target):
        raise OutputError(f"{target}: is a mount point and cannot be replaced; name a folder in it")
    for path in target.iterdir():
        if not force:
            raise OutputError(f"{target}: exists already; {choose_or_force()}")
        if not path.match(replaceable) or not path.is_file():
            raise OutputError(f"{target}: holds files other than {replaceable} and is not replaced")


def _put_folder(names: Temporary, place: Path) -> None:
    """Rename the new folder to ``place``; the old one, if any, gets the temporary name, or is removed."""
    if not place.exists():
        names.part.rename(place)
        return
    if exchange(names.part, place):
        return
    aside = names.path("old")
    place.rename(aside)
    try:
        names.part.rename(place)
    except BaseException:
        aside.rename(place)
        raise
    flush(place.parent)
    remove(aside)


def exchange(first: Path, second: Path) -> bool:
    """Let two names change places in one step; return whether system and file system can do that."""
    if sys.platform != "linux":
        return False
    # Python has no binding; the C library has had one since 2018 (glibc 2.28). 0: done.
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    return rename(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE) == 0  # type: ignore[no-any-return]


def _bring_back(place: Path) -> None:
    """Restore a folder whose replacement was killed while neither the old nor the new one had the name."""
    for names in abandoned(place):
        aside = names.path("old")
        if aside.is_dir() and not place.exists():
            aside.rename(place)


# -- sets of files -------------------------------------------------------------------------------------------


def _check_files(pattern: Path, numbers: Collection[int], *, force: bool) -> None:
    existing = sorted(_numbers(pattern))
    if existing and not force:
        name = pattern.with_name(pattern.name % existing[0])
        raise OutputError(f"{name}: exists already; {choose_or_force()}")
    # A range, however long, is searched without listing it.
    new = numbers if isinstance(numbers, range) else frozenset(numbers)
    others = [number for number in existing if number not in new]
    if others:
        first = pattern.with_name(pattern.name % others[0])
        files = plural(len(others), "file")
        raise OutputError(
            f"{first}: {files} of another set would remain among the {len(numbers)} new ones; "
            "remove them or choose another name"
        )
    for number in existing:
        path = pattern.with_name(pattern.name % number)
        if exists_as_other(path, stat.S_ISREG, follow_symlinks=False):
            raise OutputError(f"{path}: exists and is not a regular file; choose another name")


def _numbers(pattern: Path) -> Iterator[int]:
    """Yield the numbers for which something with a name of the pattern exists."""
    #   f_%04d.png  ->  before "f_", after ".png"; a match must also be written with the pattern's zeros
    before, _, after = pattern.name.partition("%")
    after = after[after.index("d") + 1 :]
    name = re.compile(rf"{re.escape(before)}(\d+){re.escape(after)}", re.ASCII | re.DOTALL)
    with os.scandir(pattern.parent) as entries:
        for entry in entries:
            match = name.fullmatch(entry.name)
            if match and pattern.name % int(match[1]) == entry.name:
                yield int(match[1])


def _finish_sets(pattern: Path) -> None:
    """Finish a write that was killed when all its files were complete but not all renamed."""
    for names in abandoned(pattern):
        for suffix, force in (("ready", False), ("replacing", True)):
            ready = names.path(suffix)
            if ready.is_dir():
                _put_files(ready, force=force)


def _put_set(names: Temporary, *, force: bool) -> None:
    """Rename the files of the part to their names."""
    # From this rename on the set is complete: its hidden name tells the next process to finish it.
    ready = names.path("replacing" if force else "ready")
    names.part.rename(ready)
    flush(ready.parent)
    _put_files(ready, force=force)


def _put_files(ready: Path, *, force: bool) -> None:
    for path in sorted(ready.iterdir()):
        place = ready.parent / path.name
        if place.exists() and not force:
            raise OutputError(
                f"{place}: exists, and {ready} holds a file of that name from an interrupted run; remove one"
            )
        path.replace(place)
    flush(ready.parent)
    ready.rmdir()
