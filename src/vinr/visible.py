"""Text that nobody vouches for, made fit to be shown."""

from __future__ import annotations

import unicodedata
from typing import Final

__all__ = ["visible"]

# Control characters; what has no shape, such as marks that turn text around; halves of characters, which
# stand for bytes of names that are no text; ends of lines and paragraphs.
INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def visible(text: str) -> str:
    """Return ``text`` on one line, with what cannot be seen or does something written as in Python."""
    return "".join(_escaped(c) if unicodedata.category(c) in INVISIBLE else c for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00  # a byte of a name that is not in the system's encoding
    if character in SHORT:
        return SHORT[character]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
