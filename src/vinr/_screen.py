"""The terminal, with nothing on it that a file, a path or an error brought along unseen."""

from __future__ import annotations

import io
import sys
from typing import Any

from rich.console import Console
from rich.progress import Task, TextColumn
from rich.text import Text

from vinr.errors import visible

__all__ = ["SafeColumn", "SafeConsole", "write_any_character"]


class SafeConsole(Console):
    """Shows strings as they are, but :func:`visible`: without markup, emoji names or colours of numbers."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return what is shown for ``text``: all that is printed and every cell of a table comes here."""
        return super().render_str(visible(text), **options)


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
