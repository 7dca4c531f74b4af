"""The terminal, with nothing on it that a file, a path or an error brought along unseen."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any, Final, cast

from rich.console import Console
from rich.progress import Task, TextColumn
from rich.text import Text

from vinr.errors import visible

# The other end of a pipe, or the terminal, is gone for good.
NOBODY_READS: Final = (errno.EPIPE, errno.EIO)


class SafeConsole(Console):
    """Shows strings as they are, but :func:`visible`: without markup, emoji names or highlighted numbers.

    On standard error, what cannot be written is lost: a terminal that was closed, or a log on a full disk, is
    no reason to end the work that it is told of.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        # soft_wrap: a path that is broken over two lines cannot be copied.
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)

    @property
    def file(self) -> IO[str]:
        """What is written to, at the moment."""
        stream = super().file
        return cast("IO[str]", _Lossy(stream)) if self.stderr else stream

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    def render_str(self, text: str, **options: Any) -> Text:
        """Return what is shown for ``text``: all that is printed and every cell of a table comes here."""
        return super().render_str(visible(text), **options)


class _Lossy:
    """A stream that loses what cannot be written."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write ``text``, if that can be done."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Write what is held back, if that can be done."""
        self._try(self._stream.flush)

    def _try(self, act: Callable[[], object]) -> None:
        try:
            act()
        except OSError as error:
            if error.errno in NOBODY_READS:
                # Python writes what is held back once more when it ends, and makes an error of that.
                with suppress(OSError), open(os.devnull, "wb") as nowhere:
                    os.dup2(nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class SafeColumn(TextColumn):
    """Text beside a bar, which is not printed as strings are."""

    def __init__(self, template: str) -> None:
        super().__init__(template, markup=False)

    def render(self, task: Task) -> Text:
        """Return the text of ``task``."""
        return Text(visible(self.text_format.format(task=task)), style="none", justify=self.justify)


def write_any_character() -> None:
    """Let both streams write what their encoding lacks as an escape rather than stop the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
