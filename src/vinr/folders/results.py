"""What became of each file of a folder: rows of JSON, written as files are finished."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import vinr
from vinr.files import as_output_error

Status = Literal["done", "skipped", "failed"]


@dataclass(frozen=True)
class FileResult:
    """What became of one file.

    ``output`` is relative to the folder of outputs. ``key`` is a hash of the content of the input, the
    settings and the version of vinr: what is done is not done again while it stays the same. ``sha256`` is
    that of the output. ``values`` are what the command reports of it.
    """

    input: str
    output: str | None
    status: Status
    key: str | None = None
    sha256: str | None = None
    reason: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FolderReport:
    """What became of all files, in the order they were given."""

    results: tuple[FileResult, ...]

    def of(self, status: Status) -> list[FileResult]:
        """Return the files of a status."""
        return [result for result in self.results if result.status == status]

    @property
    def is_whole(self) -> bool:
        """Whether no file failed."""
        return not self.of("failed")


class ResultsFile:
    """The file of results: a row for each file that ended, of all runs; the last row of an output counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._done: dict[str, FileResult] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                self._remember(line)

    def _remember(self, line: str) -> None:
        # A process that was killed may have left part of a line.
        try:
            row = json.loads(line)
            result = FileResult(**row)
        except (ValueError, TypeError, RecursionError):
            return
        if result.output is not None and result.status == "done":
            self._done[result.output] = result

    def find_done(self, output: str) -> FileResult | None:
        """Return what was last written of an output, None if nothing was."""
        return self._done.get(output)

    def add(self, result: FileResult) -> None:
        """Append a row.

        Raises
        ------
        OutputError
            If the system refuses to write.
        """
        line = json.dumps(asdict(result), ensure_ascii=False)
        with as_output_error(self.path), open(self.path, "ab") as file:
            file.write((line + "\n").encode(errors="surrogateescape"))
        self._remember(line)


def hash_input(path: Path) -> str:
    """Return the SHA-256 of a file, or of names and contents of the files of a folder."""
    if path.is_file():
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for member in sorted(path.iterdir()):
        if member.is_file():
            digest.update(f"{member.name} {hash_input(member)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def key_of(command: str, content: str, settings: Mapping[str, Any]) -> str:
    """Return a hash of the content of an input (:func:`hash_input`), the settings and the version of vinr.

    Settings that are left out, empty or the command's defaults count alike, and so do devices and threads.
    """
    stated, parameters = dict(settings), signature(getattr(vinr, command)).parameters
    for name, value in settings.items():
        is_default = name in parameters and value == parameters[name].default
        if name in ("device", "threads") or is_default or value is None or value in ("", [], ()):
            del stated[name]
    document = [command, version("vinr"), content, sorted(stated.items())]
    return hashlib.sha256(json.dumps(document, default=str).encode(errors="surrogateescape")).hexdigest()
