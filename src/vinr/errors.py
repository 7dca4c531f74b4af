"""Everything vinr raises on purpose.

::

    VinrError                 exit status of the command line
    ├── UsageError            2   a setting, option or argument that is not allowed
    ├── InputError            2   a video, mask or checkpoint that cannot be used
    ├── OutputError           2   a file that cannot or must not be written
    ├── BitstreamError        2   a .vinr file that is damaged, hostile or too new
    └── FitError              1   work that was started and failed

Each message is one line: what came, what is allowed, what to do.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = ["BitstreamError", "FitError", "InputError", "OutputError", "UsageError", "VinrError"]


class VinrError(Exception):
    """Base of all errors that vinr raises on purpose."""

    exit_status: ClassVar[int] = 1


class UsageError(VinrError):
    """A setting, option or argument has a value that is not allowed."""

    exit_status = 2


class InputError(VinrError):
    """An input (video, image folder, mask, checkpoint) cannot be used."""

    exit_status = 2


class OutputError(VinrError):
    """An output cannot be written: it exists, its folder is missing, the disk is full."""

    exit_status = 2


class BitstreamError(VinrError):
    """A .vinr file is damaged, hostile, or of a newer format version."""

    exit_status = 2


class FitError(VinrError):
    """Fitting was started and could not produce a usable result."""
