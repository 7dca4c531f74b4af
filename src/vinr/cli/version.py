"""The option ``--version``."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Annotated

import typer

import vinr

# What the result of a command depends on most; a report of a fault needs them.
LIBRARIES = ("torch", "av")


def describe_version() -> str:
    """Return the versions of vinr, Python and the main libraries, without loading the libraries."""
    others = [f"Python {platform.python_version()}"]
    others += [f"{library} {version(library)}" for library in LIBRARIES]
    return f"vinr {vinr.__version__} ({', '.join(others)})"


def print_version(is_asked: bool) -> None:
    """Print the versions and end, if that ``is_asked``."""
    if is_asked:
        typer.echo(describe_version())
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option("--version", "-V", is_eager=True, callback=print_version, help="show the version and exit"),
]
