"""Which files a command works on: all of a folder, or those that a list names.

A list is CSV with a head line, or JSON lines: each row has ``input``, perhaps ``output``, and settings of its
own. Paths of inputs count from the folder of the list, those of outputs from the folder of outputs.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Final

from vinr.errors import InputError, UsageError, quoted, unknown

LIST_SUFFIXES: Final = (".csv", ".jsonl")
RESULTS_NAME: Final = "results.jsonl"
# Of a folder files with other suffixes are left out; a list may name any file.
VIDEO_SUFFIXES: Final = frozenset(
    {
        *(".3gp", ".asf", ".avi", ".flv", ".gif", ".ivf", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg"),
        *(".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m", ".yuv"),
    }
)
FILE_SUFFIXES: Final = frozenset({".vinr"})
MAX_ROW_BYTES: Final = 1 << 16
PATHS: Final = ("input", "output")


@dataclass(frozen=True)
class FileEntry:
    """One file to work on; ``output`` is relative to the folder of outputs, None: named after the input.

    ``name`` is how results call it: the input as the folder or the list has it. ``settings`` are its own.
    """

    name: str
    path: Path
    output: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def is_list(path: Path) -> bool:
    """Return whether ``path`` is the name of a list of files."""
    return path.suffix.lower() in LIST_SUFFIXES and not path.is_dir()


def list_entries(
    source: Path, suffixes: Collection[str], allowed: Collection[str]
) -> tuple[list[FileEntry], list[str]]:
    """Return the files of a folder with one of ``suffixes``, or those of a list, and lines for the user.

    ``allowed`` are the settings that rows of a list may have.

    Raises
    ------
    InputError
        If there is no such folder or list, or nothing in it.
    UsageError
        If a row of a list is not what it must be.
    """
    if source.is_dir():
        return _of_folder(source, suffixes)
    entries = _of_csv(source, allowed) if source.suffix.lower() == ".csv" else _of_lines(source, allowed)
    if not entries:
        raise InputError(f"{source}: names no file; give rows with the column input")
    return entries, []


def _of_folder(folder: Path, suffixes: Collection[str]) -> tuple[list[FileEntry], list[str]]:
    entries, others = [], []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if not path.is_file() or any(part.startswith(".") for part in name.parts):
            continue
        if path.suffix.lower() in suffixes:
            entries.append(FileEntry(name.as_posix(), path))
        elif path.name != RESULTS_NAME:
            others.append(name.as_posix())
    if not entries:
        found = f"{len(others)} files such as {others[0]}" if others else "nothing"
        raise InputError(f"{folder}: holds {found}, and no file that ends in {', '.join(sorted(suffixes))}")
    notes = []
    if others:
        notes.append(f"{folder}: {len(others)} files of other kinds are left out, such as {others[0]}")
    return entries, notes


def _of_csv(path: Path, allowed: Collection[str]) -> list[FileEntry]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read as CSV: {reason}") from None
    entries = []
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise UsageError(f"{path}: line {number} has not as many columns as the first one")
        # An empty cell is as none: the setting of the command holds.
        entries.append(_entry(path, number, {key: cell for key, cell in row.items() if cell != ""}, allowed))
    return entries


def _of_lines(path: Path, allowed: Collection[str]) -> list[FileEntry]:
    entries = []
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    row = json.loads(line[: MAX_ROW_BYTES + 1])
                    entries.append(_entry(path, number, row, allowed))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON lines: {error}") from None
    return entries


def _entry(path: Path, number: int, row: Any, allowed: Collection[str]) -> FileEntry:
    where = f"{path}: line {number}"
    if not isinstance(row, dict) or not isinstance(row.get("input"), str) or not row["input"]:
        raise UsageError(f"{where} names no input; give the column input, the path of a file")
    for key, value in row.items():
        if key not in PATHS and key not in allowed:
            raise UsageError(f"{where}: {unknown('column', key, [*PATHS, *sorted(allowed)])}")
        if not isinstance(value, (str, int, float)) or isinstance(value, bool):
            raise UsageError(f"{where}: {key} is {quoted(value)}; give a text or a number")
    output = row.get("output")
    if output is not None:
        pure = PurePath(str(output))
        if pure.is_absolute() or ".." in pure.parts:
            raise UsageError(f"{where}: output {quoted(output)} is outside the folder of outputs")
    settings = {key: value for key, value in row.items() if key not in PATHS}
    return FileEntry(row["input"], path.parent / row["input"], output, settings)
