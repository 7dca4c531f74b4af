"""Everything vinr raises on purpose.

::

    VinrError                 exit status of the command line
    ├── UsageError            2   a setting, option or argument that is not allowed
    ├── InputError            2   a video, mask or checkpoint that cannot be used
    ├── OutputError           2   a file that cannot or must not be written
    ├── BitstreamError        2   a .vinr file that is damaged, hostile or too new
    │   └── LimitError        2   a .vinr file that asks for more memory or work than a file of its size may
    ├── OutOfMemoryError      1   memory ran out
    ├── RankError             1   a process that fitted the same network is gone
    └── FitError              1   work that was started and failed

Each message is one line: the problem, what is allowed, what to do. Characters of a message that do not print
(control codes, direction marks) are shown as escapes, so that no file can control a terminal.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import ClassVar, Final

# Unicode categories: control characters; characters without a shape, such as direction marks; surrogates,
# which stand for bytes of file names that are not text; ends of lines and paragraphs.
INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
MAX_QUOTED: Final = 60
SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def visible(text: str) -> str:
    """Return ``text`` on one line, with invisible characters escaped as in Python."""
    return "".join(_escaped(c) if unicodedata.category(c) in INVISIBLE else c for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00  # a byte of a file name that is not in the system's encoding (PEP 383)
    if character in SHORT:
        return SHORT[character]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def quoted(value: object) -> str:
    """Return a user's text for a message: in quotes, shortened if it is long."""
    text = str(value)
    return repr(text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}…")


def format_frame(height: int, width: int) -> str:
    """Return the size of a frame in words, as the field writes it: ``640×360 (width × height)``."""
    return f"{width}×{height} (width × height)"


def plural(count: int, noun: str, verb: str = "") -> str:
    """Return 1 as ``1 frame``, 1500 as ``1,500 frames``; with a verb ``1 frame takes``, ``2 frames take``."""
    if count == 1:
        return f"1 {noun} {verb}s" if verb else f"1 {noun}"
    return f"{count:,} {noun}s {verb}".rstrip()


def did_you_mean(name: object, names: Iterable[str]) -> str:
    """Return ``; did you mean 'epochs'?``, the end of a message on an unknown name; empty if none is near."""
    from difflib import get_close_matches  # takes a while to load, and only errors need it

    plain = {_plain(known): known for known in names}
    found = get_close_matches(_plain(str(name))[:MAX_QUOTED], plain, n=1)
    return f"; did you mean {plain[found[0]]!r}?" if found else ""


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_")


def unknown(kind: str, name: object, names: Iterable[str], *, where: str = "there are") -> str:
    """Return a message on an unknown name: ``unknown loss 'l3'; there are l1, l2; did you mean 'l1'?``.

    ``where`` stands before the names that are known.
    """
    known = list(names)
    return f"unknown {kind} {quoted(name)}; {where} {', '.join(known)}{did_you_mean(name, known)}"


_is_command_line = False
# Options of the command line that are not called as the argument of the function.
_OPTIONS: Final = {"files": "vinr", "overrides": "set"}


@contextmanager
def command_line_words(wanted: bool = True) -> Iterator[None]:
    """Let messages name options of the command line while the body runs, not arguments of functions."""
    global _is_command_line
    before, _is_command_line = _is_command_line, wanted
    try:
        yield
    finally:
        _is_command_line = before


def is_command_line() -> bool:
    """Return whether messages name options of the command line."""
    return _is_command_line


def argument(name: str, value: object = None) -> str:
    """Return an argument as who reads the message gives it: ``max_memory='4GB'`` or ``--max-memory 4GB``.

    Without a value the name alone; a value of True is that of a flag.
    """
    if not _is_command_line:
        return name if value is None else f"{name}={value!r}"
    option = f"--{_OPTIONS.get(name, name).replace('_', '-')}"
    return option if value in (None, True) else f"{option} {value}"


def override(text: str) -> str:
    """Return a setting as who reads the message gives it.

    That is ``overrides=['fit.seed=1']`` or ``--set fit.seed=1``.
    """
    return f"--set {text}" if _is_command_line else f"overrides=[{text!r}]"


class VinrError(Exception):
    """Base of all errors that vinr raises on purpose."""

    exit_status: ClassVar[int] = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(visible(message))


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


class LimitError(BitstreamError):
    """A .vinr file asks for more memory or work than its size justifies; ``max_memory`` allows more."""


class OutOfMemoryError(VinrError):
    """The machine or its GPU has not enough memory."""


class RankError(VinrError):
    """Of the processes that fit one network together, another has ended or does not answer."""


class FitError(VinrError):
    """Training was started and could not produce a usable result."""
