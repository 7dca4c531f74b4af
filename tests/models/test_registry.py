"""Every model passes the checks of ``vinr.testing``; new models are found by file name."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from torch import nn

from vinr import models
from vinr.config import list_presets, load_preset, presets_of
from vinr.models import FrozenLatents, Latents, StoringModule, list_models
from vinr.testing import CHECKS, Check, Subject
from vinr.testing.checks import RECIPES, ClipSize, check_stated_size

EVERY_MODEL = pytest.mark.parametrize("name", list_models())
# Tests of presets are below: some models have thirty.
ELSEWHERE = {"presets"}
# tests/fit/test_phases.py fits every model a little.
SLOW = {"learning"}
# On one clip by default, on all with -m slow.
SLOW_AFTER_THE_FIRST = {"sizes"}


def trials() -> list[object]:
    """A parameter for each check and clip."""
    parameters = []
    for check in CHECKS:
        if check.name in ELSEWHERE:
            continue
        for number, size in enumerate(check.sizes):
            is_slow = check.name in SLOW or (check.name in SLOW_AFTER_THE_FIRST and number > 0)
            marks = [pytest.mark.slow] if is_slow else []
            parameters.append(pytest.param(check, size, id=f"{check.name}-{size}", marks=marks))
    return parameters


@EVERY_MODEL
@pytest.mark.parametrize(("check", "size"), trials())
def test_a_model_passes(name: str, check: Check, size: ClipSize) -> None:
    check.run(Subject(name), size)


def test_registered_parameters_are_stored_in_their_roles() -> None:
    module = StoringModule()
    module.register_stored("table", nn.Parameter(torch.zeros(6, 2)), role="grid", rows_per_step=2)
    module.weight = nn.Parameter(torch.zeros(3, 3))
    table, weight = (module.stored_as(name, value) for name, value in module.named_parameters())
    assert (table.role, table.rows_per_step, table.per_frame) == ("grid", 2, False)
    assert (weight.role, weight.rows_per_step) == ("weight", 0)
    latents = FrozenLatents(Latents({"embedding": torch.zeros(4, 2)}))
    stored = latents.stored_as("embedding", latents.per_frame["embedding"])
    assert (stored.role, stored.per_frame) == ("latent", True)


def helpers_of(name: str) -> set[str]:
    """Return what the file of a model imports of models and sizes, but for the protocol itself."""
    source = Path(models.__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            ("vinr.models", "vinr.sizing")
        ):
            imported.add(node.module or "")
    return imported - {"vinr.models.base"}


@EVERY_MODEL
def test_a_model_file_needs_no_other_model(name: str) -> None:
    assert not {f"vinr.models.{other}" for other in list_models()} & helpers_of(name)


def test_the_file_of_nerv_reads_alone() -> None:
    assert len(helpers_of("nerv")) <= 2


@EVERY_MODEL
def test_tiny_presets_and_recipes_load(name: str) -> None:
    assert f"{name}-tiny" in list_presets()
    for recipe in RECIPES:
        assert load_preset(f"{name}-tiny", [f"fit.recipe={recipe}"]).fit.recipe == recipe


@EVERY_MODEL
def test_first_and_last_preset_have_the_size_their_source_states(name: str) -> None:
    for preset in (presets_of(name)[0], presets_of(name)[-1]):
        check_stated_size(preset)


@pytest.mark.slow  # 171 networks are built without values
@EVERY_MODEL
def test_presets_have_the_size_their_source_states(name: str) -> None:
    for preset in presets_of(name):
        check_stated_size(preset)
