"""``vinr settings`` lists every setting there is, and docs/settings.md is what its script writes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from command_line import Run, refused
from vinr.cli.settings_list import SettingEntry, default_text, lines_of, list_settings
from vinr.config import CompressSettings, FitSettings, Phase, Schedule, default_model, load_preset
from vinr.decoding.settings import DecodeSettings
from vinr.models import get_model, list_models
from vinr.settings import apply_overrides

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
import settings_table  # noqa: E402  # a script beside the package


def by_key(section: str | None = None, model: str | None = None) -> dict[str, SettingEntry]:
    return {entry.key: entry for entry in list_settings(section, model)}


def test_the_page_is_current() -> None:
    assert settings_table.PATH.read_text(encoding="utf-8") == settings_table.render()


@pytest.mark.parametrize(
    ("prefix", "cls"),
    [
        ("fit", FitSettings),
        ("fit.schedule", Schedule),
        ("fit.phases[]", Phase),
        ("compress", CompressSettings),
        ("decode", DecodeSettings),
    ],
)
def test_every_field_is_listed(prefix: str, cls: type[BaseModel]) -> None:
    entries = by_key()
    for name, field in cls.model_fields.items():
        entry = entries[f"{prefix}.{name}"]
        assert entry.meaning == field.description
        assert entry.required == field.is_required()


@pytest.mark.parametrize("model", list_models())
def test_every_field_of_every_model_is_listed(model: str) -> None:
    entries = by_key("architecture", model)
    assert list(entries) == [f"architecture.{name}" for name in get_model(model).Config.model_fields]
    for entry in entries.values():
        assert entry.meaning
        assert entry.type
        assert "None" not in default_text(entry)


@pytest.mark.parametrize(
    ("key", "words", "allowed", "default"),
    [
        ("fit.epochs", "whole number", "1 to 1,000,000", "300"),
        ("fit.learning_rate", "number", "above 0, at most 1", "0.001"),
        ("fit.drop_last", "true or false", "", "true"),
        ("fit.patches", "list of 2 whole numbers", "each 1 to 256", "[1, 1]"),
        ("fit.betas", "list of 2 numbers or list of 3 numbers", "", "[0.9, 0.999]"),
        ("fit.precision", "text", "auto, fp32, bf16", "fp32"),
        ("fit.vector_learning_rate", "number", "above 0, at most 1", "none"),
        ("fit.phases", "list of tables", "at most 16 items", "[]"),
        ("fit.phases[].share", "number", "above 0, at most 1", "required"),
        ("fit.phases[].schedule", "table as fit.schedule", "", "none"),
        ("fit.schedule", "table", "", "by its keys"),
        (
            "fit.loss",
            "table of numbers",
            "names: frequency, l1, l2, ms_ssim, ms_ssim5, psnr, rmse, ssim",
            "{l2 = 1.0}",
        ),
        ("fit.optimizer", "text", "adam, adamw, adan, muon", "adam"),
        ("compress.weight_bits", "whole number", "2 to 16", "8"),
    ],
)
def test_types_bounds_and_defaults(key: str, words: str, allowed: str, default: str) -> None:
    entry = by_key()[key]
    assert (entry.type, entry.allowed, default_text(entry)) == (words, allowed, default)


def test_defaults_are_taken_as_they_are_shown() -> None:
    """What the list shows can be given with --set."""
    shown = []
    for section in ("fit", "compress"):
        for entry in list_settings(section):
            text = default_text(entry)
            if "[]" not in entry.key and text not in ("none", "required", "by its keys"):
                shown.append(f"{entry.key}={text}")
    tree = apply_overrides({}, shown)
    assert FitSettings.model_validate(tree["fit"]) == FitSettings()
    assert CompressSettings.model_validate(tree["compress"]) == CompressSettings()
    assert len(shown) > 20


def test_what_the_preset_file_of_a_model_sets_is_shown() -> None:
    model = default_model()
    preset = load_preset(model)
    entry = by_key("fit.epochs")["fit.epochs"]
    assert (entry.default, entry.by_model) == (300, preset.fit.epochs if preset.fit.epochs != 300 else None)
    batch = SettingEntry("fit.batch_size", "whole number", "1 to 9", 2, False, "frames", by_model=4)
    assert lines_of(batch, model) == (
        f"fit.batch_size = 2 ({model}: 4)  [whole number; 1 to 9]",
        "    frames",
    )


@pytest.mark.parametrize(
    ("section", "first", "count"),
    [("fit.schedule", "fit.schedule", 7), ("fit.seed", "fit.seed", 1), ("decode", "decode.precision", None)],
)
def test_a_section_or_a_key(run: Run, section: str, first: str, count: int | None) -> None:
    status, out, _ = run("settings", section, "--json")
    document: list[dict[str, Any]] = json.loads(out)
    assert status == 0
    assert document[0]["key"] == first
    assert len(document) == (count or len(DecodeSettings.model_fields))
    assert document[0].keys() == {"key", "type", "allowed", "default", "required", "meaning", "by_model"}


def test_the_list_for_people(run: Run) -> None:
    status, out, err = run("settings")
    assert status == 0
    assert len(out.splitlines()) == 2 * len(list_settings())
    assert "fit.epochs = 300" in out
    assert err.startswith("--set KEY=VALUE changes a setting.")
    assert run("settings", "architecture", "--model", default_model())[0] == 0


def test_unknown_sections_and_models(run: Run) -> None:
    refused(
        run("settings", "fits"),
        "unknown section 'fits'; there are architecture, fit, compress, decode; did you mean 'fit'?",
    )
    refused(run("settings", "fit.epoch"), "did you mean 'fit.epochs'?")
    refused(run("settings", "fit", "--model", "none-such"), "unknown model 'none-such'; there are ")
