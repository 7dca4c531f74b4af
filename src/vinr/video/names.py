"""Names of clips from names of files, which may contain anything but a slash and a zero byte."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Final

# Characters, as the header of a .vinr file allows.
MAX_NAME: Final = 255
FALLBACK: Final = "video"
# Unicode categories. Cf: joiners, direction marks, soft hyphens; a name reads the same without them.
SPACES: Final = frozenset({"Zs", "Zl", "Zp"})
INVISIBLE: Final = frozenset({"Cf"})
# Variation selectors choose between forms of the character before them, such as a coloured heart.
FIRST_SELECTOR, LAST_SELECTOR = "\ufe00", "\ufe0f"


def clip_name(stem: str) -> str:
    """Return a clip's name for a file called ``stem`` (and a suffix), in printable characters.

    1 to :data:`MAX_NAME` characters. Spaces of all kinds become plain ones, invisible characters are left
    out, and slashes, control characters and bytes that are not text become ``_``.
    """
    text = "".join(_printable(letter) for letter in stem)
    return text.strip()[:MAX_NAME].strip() or FALLBACK


def _printable(letter: str) -> str:
    category = unicodedata.category(letter)
    if category in SPACES or letter in "\t\n\r\v\f\x85":
        return " "
    if category in INVISIBLE or FIRST_SELECTOR <= letter <= LAST_SELECTOR:
        return ""
    return letter if letter.isprintable() and letter not in "/\\" else "_"


def unique_names(names: Sequence[str]) -> list[str]:
    """Return a name for each clip: the same, or with a number added where an earlier clip has it."""
    taken = set(names)
    unique: list[str] = []
    for number, name in enumerate(names):
        free, count = name, names[:number].count(name) + 1
        while free in taken and count > 1:
            suffix = f"-{count}"
            free, count = name[: MAX_NAME - len(suffix)] + suffix, count + 1
        taken.add(free)
        unique.append(free)
    return unique
