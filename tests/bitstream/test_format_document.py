"""The abuse list of docs/format.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).parent
DOCUMENT = FOLDER.parent.parent / "docs" / "format.md"


def test_each_idea_has_its_test() -> None:
    text = DOCUMENT.read_text(encoding="utf-8").split("## 9.")[1].split("## 10.")[0]
    rows = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert len(rows) > 20
    for row in rows:
        file = ""
        named = re.findall(r"`([^`]*)::(\w+)`", row)
        assert named, row
        for path, test in named:
            file = path or file
            assert f"def {test}(" in (FOLDER / file).read_text(encoding="utf-8"), row
