"""The order of files that people number: frame1, frame2, …, frame10, and what is odd about their numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from operator import sub
from pathlib import Path
from typing import Final

NUMBER: Final = re.compile(r"(\d+)")
# Patterns that a note names before it says how many there are.
NAMED_PATTERNS: Final = 2


def number_order(file: Path) -> tuple[list[str | int], str]:
    """Return a sort key: numbers in the name count by their value, so that frame2 precedes frame10."""
    # Every second part is a number, so that texts are only compared with texts.
    parts: list[str | int] = list(NUMBER.split(file.name))
    parts[1::2] = map(int, NUMBER.findall(file.name))
    return parts, file.name


def describe_numbering(files: Sequence[Path]) -> str:
    """Return what is odd about the names of sorted ``files``, in a line without their folder; usually empty.

    Gaps matter only where the files are numbered evenly: times as names, for example, are not.
    """
    stems = [NUMBER.split(file.stem) for file in files]
    patterns = Counter("#".join(parts[::2]) for parts in stems)
    if len(patterns) > 1:
        most = [f"{pattern} ({count})" for pattern, count in patterns.most_common(NAMED_PATTERNS)]
        more = f" and {len(patterns) - NAMED_PATTERNS} more" if len(patterns) > NAMED_PATTERNS else ""
        return f"names of different patterns, read in the order of their names: {', '.join(most)}{more}"
    numbers = [list(map(int, parts[1::2])) for parts in stems]
    varying = [place for place, values in enumerate(zip(*numbers, strict=True)) if len(set(values)) > 1]
    if len(varying) != 1:
        return ""
    return _describe_gaps(files, [values[varying[0]] for values in numbers])


def _describe_gaps(files: Sequence[Path], numbers: Sequence[int]) -> str:
    steps = list(map(sub, numbers[1:], numbers))
    # Of steps that are equally common the smallest: 1, 3, 4 lacks 2.
    usual, count = max(Counter(steps).items(), key=lambda item: (item[1], -item[0]))
    odd = [place for place, step in enumerate(steps) if step != usual]
    if not odd or 2 * count < len(steps):
        return ""
    first = f"{files[odd[0]].name} is followed by {files[odd[0] + 1].name}"
    more = f", and {len(odd) - 1} more" if len(odd) > 1 else ""
    return f"the numbering has gaps ({first}{more}); the images are shown one after another"
