"""Files and folders that appear whole or not at all.

::

    write ─> temporary beside the output ─> flush to disk ─> rename ─> flush the folder ─> clear what killed
                                                                                           processes left
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Final

from vinr.errors import OutputError, UsageError
from vinr.temporaries import Maker, Temporary, abandoned, remove, temporary_beside

# Of renameat2(2).
AT_FDCWD: Final = -100
RENAME_EXCHANGE: Final = 2


@contextmanager
def atomic_path(target: str | Path, *, force: bool = False) -> Iterator[Path]:
    """Give a temporary path beside ``target``; rename it to ``target`` when the body ends well.

    The body creates and closes the temporary file; it should do nothing else that can raise ``OSError``. The
    file is flushed to disk before it is renamed. When the body raises, or is interrupted, the temporary file
    is removed and ``target`` stays as it was. What a killed process left is removed by the next write of the
    same target. Of a symbolic link, what it points to is replaced, not the link.

    Raises
    ------
    OutputError
        If ``target`` exists and ``force`` is false, is no regular file or a link to nothing, its folder is
        missing, or the system refuses to write (disk full, no permission).
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
    """Give a new temporary folder beside ``target``; rename it to ``target`` when the body ends well.

    An existing folder is replaced if it is empty, or if ``force`` is true and it holds nothing but files that
    match the glob pattern ``replaceable``: a folder of other things is never removed. Old and new folder
    change places at once where the system can do that (Linux); elsewhere the old one has a hidden name for a
    moment, and if the process is killed then, the next write to ``target`` brings it back first.

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
    """Give a temporary folder for the files ``pattern.name % number``, which the body writes.

    When the body ends well, all of them are flushed to disk and then renamed, one after another, to names
    beside ``pattern``. No system renames a set at once: a process killed among the renames leaves the rest,
    whole, in a hidden folder, and the next write to the same pattern finishes that first. Killed before, it
    leaves no name touched.

    Raises
    ------
    OutputError
        As :func:`atomic_path`; also if files of another set would stay among the new ones, even with
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
    """Give a temporary path beside ``place``, and ``put`` what the body wrote there where it belongs.

    ``repair`` completes what a killed process was about to do; ``check`` refuses what must not be replaced,
    before the work and after it. Errors of the system are said of ``target``.
    """
    with said_of(target):
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
    """Raise :class:`OutputError` in a child that was forked in the body, and went on with it to its end."""
    if not maker.is_here:
        raise OutputError(
            f"{target}: is written by the process that this one was forked from; end the child with os._exit"
        )


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
    """Raise :class:`UsageError` if ``target``, which is called ``what``, is not a name and ``suffix``."""
    if target.name.lower() == suffix:
        raise UsageError(f"{what} {target}: a name is missing before {suffix}; give one such as out{suffix}")
    if target.suffix.lower() != suffix:
        raise UsageError(f"{what} {target}: the name must end in {suffix}")


def check_target(target: Path, *, force: bool) -> None:
    """Raise :class:`OutputError` where :func:`atomic_path` would: before the work rather than after it."""
    check_parent(target)
    if target.exists() and not target.is_file():
        raise OutputError(f"{target}: exists and is not a regular file; choose another name")
    if target.exists() and not force:
        raise OutputError(f"{target}: exists already; choose another name or overwrite it with --force")


def followed(target: Path) -> Path:
    """Return the place that is written for ``target``: where a link leads, with a name of its own."""
    if target.is_symlink() or target.name in ("", ".."):
        return Path(os.path.realpath(target))  # of links in a circle, the first one
    return target


@contextmanager
def said_of(target: Path) -> Iterator[None]:
    """Turn what the system refuses in the body into an :class:`OutputError` about ``target``."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror or error}") from error


def flush(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":
        return
    # Some network file systems cannot flush a folder, and some folders may not be listed; the file itself is
    # safe by then.
    with suppress(OSError) if is_folder else nullcontext():
        descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def clear_abandoned(place: Path) -> None:
    """Remove what killed processes left beside ``place``, once that is whole."""
    # What cannot be removed now is no reason to call a whole output unwritten.
    with suppress(OSError):
        for names in abandoned(place):
            remove(names.part)
            remove(names.path("old"))


def _flush_all(path: Path) -> None:
    """Force a file, or a folder with its files, to the disk."""
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
    held = list(target.iterdir())
    if held and not force:
        raise OutputError(f"{target}: exists already; choose another name or overwrite it with --force")
    if any(not path.match(replaceable) or not path.is_file() for path in held):
        raise OutputError(f"{target}: holds files other than {replaceable} and is not replaced")


def _put_folder(names: Temporary, place: Path) -> None:
    """Give the new folder its name; the old one, if any, gets that of the part, or is removed."""
    if not place.exists():
        names.part.rename(place)
        return
    if _exchange(names.part, place):
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


def _exchange(first: Path, second: Path) -> bool:
    """Let two names change places in one step; return whether system and file system can do that."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    paths = os.fsencode(first), os.fsencode(second)
    return int(rename(AT_FDCWD, paths[0], AT_FDCWD, paths[1], RENAME_EXCHANGE)) == 0


def _bring_back(place: Path) -> None:
    """Undo the replacing of a folder that was killed while neither had its name."""
    for names in abandoned(place):
        aside = names.path("old")
        if aside.is_dir() and not place.exists():
            aside.rename(place)


# -- sets of files -------------------------------------------------------------------------------------------


def _check_files(pattern: Path, numbers: Collection[int], *, force: bool) -> None:
    existing = sorted(_numbers(pattern))
    if existing and not force:
        name = pattern.with_name(pattern.name % existing[0])
        raise OutputError(f"{name}: exists already; choose another name or overwrite it with --force")
    wanted = numbers if isinstance(numbers, range) else frozenset(numbers)
    others = [number for number in existing if number not in wanted]
    if others:
        first = pattern.with_name(pattern.name % others[0])
        files = f"{len(others)} file{'s' * (len(others) > 1)}"
        raise OutputError(
            f"{first}: {files} of another set would stay among the {len(numbers)} new ones; "
            "remove them or choose another name"
        )
    for number in existing:
        path = pattern.with_name(pattern.name % number)
        if path.is_symlink() or not path.is_file():
            raise OutputError(f"{path}: exists and is not a regular file; choose another name")


def _numbers(pattern: Path) -> Iterator[int]:
    """Yield the numbers of which there are files, or whatever else, of that pattern."""
    before, _, after = pattern.name.partition("%")
    after = after[after.index("d") + 1 :]
    name = re.compile(rf"{re.escape(before)}(\d+){re.escape(after)}", re.ASCII | re.DOTALL)
    with os.scandir(pattern.parent) as entries:
        for entry in entries:
            match = name.fullmatch(entry.name)
            if match and pattern.name % int(match[1]) == entry.name:
                yield int(match[1])


def _finish_sets(pattern: Path) -> None:
    """Complete what was killed when all its files were whole and not all had their names."""
    for names in abandoned(pattern):
        for suffix, force in (("ready", False), ("replacing", True)):
            ready = names.path(suffix)
            if ready.is_dir():
                _put_files(ready, force=force)


def _put_set(names: Temporary, *, force: bool) -> None:
    """Give the files of the part their names: from the first rename on, the next write would finish it."""
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
