"""What a fit tells, kept for later: a CSV file, or event files of TensorBoard.

Both are callables that take the events of :func:`vinr.encode` or :func:`vinr.fit.fit`, and context managers::

    with vinr.fit.CsvLog("run.csv") as log:
        vinr.encode("in.mp4", "out.vinr", on_event=log)
"""

from __future__ import annotations

import csv
from abc import ABC, abstractmethod
from dataclasses import fields
from os import PathLike, fspath
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

from vinr.errors import OutputError, UsageError
from vinr.files import as_output_error, check_parent
from vinr.fit.events import Event, OfJob, RoundDone, StageBegun

# In the order of the columns; the first counts the networks of a file, from 0.
COLUMNS: Final = ("network", *(field.name for field in fields(RoundDone)))


class EventLog(Protocol):
    """Takes events, and keeps those of rounds."""

    def __call__(self, event: Event) -> None:
        """Take an event."""
        ...

    def close(self) -> None:
        """Write what is still held."""
        ...


class _Rounds(ABC):
    """Counts the networks whose rounds it is told."""

    def __init__(self) -> None:
        self._network = -1

    def __call__(self, event: Event) -> None:
        """Take an event; those of rounds are written at once."""
        if isinstance(event, OfJob):
            if isinstance(event.event, RoundDone):
                self._write(event.number, event.event)
        elif isinstance(event, StageBegun) and event.name == "fitting":
            self._network += 1
        elif isinstance(event, RoundDone):
            self._write(max(self._network, 0), event)

    @abstractmethod
    def _write(self, network: int, event: RoundDone) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Write what is still held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class CsvLog(_Rounds):
    """One line per round, each written at once: a resumed fit adds to the lines that are there.

    The columns are ``network`` (0 unless a file has several) and the fields of :class:`RoundDone`; a value
    that is not known is empty.

    Raises
    ------
    OutputError
        If the system refuses to write, or ``path`` is another kind of file.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        super().__init__()
        self._path = Path(fspath(path))
        check_parent(self._path)
        with as_output_error(self._path):
            self._file = self._path.open("a+", newline="", encoding="utf-8")
            self._file.seek(0)
            first = self._file.readline()
        header = ",".join(COLUMNS)
        if first and first.strip() != header:
            self._file.close()
            raise OutputError(
                f"{self._path}: is no log of vinr: its first line is another; choose another name"
            )
        self._writer = csv.writer(self._file, lineterminator="\n")
        if not first:
            self._put(COLUMNS)

    def _write(self, network: int, event: RoundDone) -> None:
        self._put((network, *(getattr(event, name) for name in COLUMNS[1:])))

    def _put(self, row: tuple[Any, ...]) -> None:
        with as_output_error(self._path):
            self._writer.writerow("" if value is None else value for value in row)
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoardLog(_Rounds):
    """Event files in ``folder``, for ``tensorboard --logdir``; needs the package tensorboardX.

    A scalar for each number of :class:`RoundDone`, by the step it was reached at; ``network1/psnr_db`` where
    a file has several networks.

    Raises
    ------
    UsageError
        If tensorboardX is not installed.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        super().__init__()
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise UsageError(
                "TensorBoard's files need the package tensorboardX: pip install 'vinr[log]'; a log that ends "
                "in .csv needs nothing"
            ) from None
        check_parent(Path(fspath(folder)))
        with as_output_error(Path(fspath(folder))):
            self._writer = SummaryWriter(fspath(folder))

    def _write(self, network: int, event: RoundDone) -> None:
        prefix = f"network{network}/" if network else ""
        for name in COLUMNS[1:]:
            value = getattr(event, name)
            if name != "steps_done" and value is not None:
                self._writer.add_scalar(prefix + name, value, event.steps_done)

    def close(self) -> None:
        """Write what is still held, and close the files."""
        self._writer.close()


def open_log(path: str) -> CsvLog | TensorBoardLog:
    """Return the log that a name stands for: ``run.csv``, or a folder for TensorBoard (no suffix).

    Raises
    ------
    UsageError
        If the name has another suffix.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".csv":
        return CsvLog(path)
    if suffix and not path.endswith("/"):
        raise UsageError(
            f"log {path}: give a name that ends in .csv, or a folder for TensorBoard, such as runs/a"
        )
    return TensorBoardLog(path)
