"""docs/models.md is what its command writes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vinr.config import list_presets

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
import models_table  # noqa: E402  # a script beside the package

PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
# The first stated size of each model: all of them take half a minute.
FIRST = {name.split("-")[0]: name for name in reversed(list_presets()) if name in models_table.STATED}


def test_every_stated_size_is_a_preset_and_stands_on_the_page() -> None:
    assert set(models_table.STATED) <= set(list_presets())
    for name in models_table.STATED:
        assert f"| `{name}` |" in PAGE


@pytest.mark.parametrize("name", FIRST.values())
def test_rows_are_current(name: str) -> None:
    assert str(models_table.row_of(name)) in PAGE


def test_a_difference_needs_an_explanation(monkeypatch: pytest.MonkeyPatch) -> None:
    name = FIRST["nerv"]
    monkeypatch.setitem(models_table.STATED, name, ("1.23M", ""))
    monkeypatch.setattr(models_table, "REMARKS", {})
    with pytest.raises(ValueError, match=f"{name}: .* differ from"):
        models_table.row_of(name)


@pytest.mark.parametrize(
    ("value", "stated", "same"), [(3.249, "3.25M", True), (3.26, "3.25M", False), (95.6, "96", True)]
)
def test_rounding(value: float, stated: str, same: bool) -> None:
    assert models_table.rounds_to(value, stated) is same
