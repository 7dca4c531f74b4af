"""Settings given as text: whatever they hold, they are applied or refused in one line."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vinr.config import load_preset
from vinr.errors import UsageError
from vinr.models import list_models
from vinr.settings import apply_overrides


@pytest.mark.parametrize("value", ["[" * 3000, "{a=" * 3000, "[" * 3000 + "]" * 3000])
def test_deep_nesting_is_refused(value: str) -> None:
    with pytest.raises(UsageError, match="nested too deeply") as caught:
        load_preset("hnerv-tiny", [f"fit.epochs={value}"])
    assert len(str(caught.value)) < 200


def test_deep_keys_are_refused() -> None:
    with pytest.raises(UsageError, match=r"section\.key=value"):
        load_preset("hnerv-tiny", ["architecture" + ".a" * 3000 + "=1"])


def test_a_value_is_one_value() -> None:
    assert apply_overrides({}, ["fit.epochs=3"]) == {"fit": {"epochs": 3}}
    assert apply_overrides({}, ["fit.epochs=3\nfit = 4"]) == {"fit": {"epochs": "3\nfit = 4"}}
    assert apply_overrides({}, ["fit.seed=" + "9" * 5000]) == {"fit": {"seed": "9" * 5000}}


@given(st.text(max_size=40))
def test_any_override_is_applied_or_refused(text: str) -> None:
    with suppress(UsageError):
        apply_overrides({}, [f"fit.key={text}", text])


@pytest.mark.parametrize(
    "line",
    [
        "architecture = 3",
        "architecture = []",
        "fit = 7",
        "fit = 'adam'",
        "compress = []",
        "recipes = 3",
        "recipes = { vinr = 3 }",
        "recipes = { vinr = ['paper'] }",
        "source = []",
        "paper = 3",
        "width = {a=" + "{a=" * 2000,
        "width = " + "9" * 5000,
    ],
    ids=lambda line: line[:24],
)
def test_preset_files_of_the_wrong_kind_are_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(f'model = "{list_models()[0]}"\n{line}\n', encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load_preset(path)
    assert "\n" not in str(caught.value)


def test_preset_file_that_names_no_model(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text("model = 3\n", encoding="utf-8")
    with pytest.raises(UsageError, match="unknown model '3'"):
        load_preset(path)
