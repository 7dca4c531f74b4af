"""Commands and settings that the docs show are those of the software: each is parsed as when it is run."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from vinr.bench.recipe import list_recipes, load_recipe
from vinr.cli.app import app
from vinr.config import list_presets, load_preset
from vinr.models import get_model, list_models

ROOT = Path(__file__).parent.parent
# Results are records: a command stands there as it was called at the commit beside it. test_tutorial.py runs
# all commands of the tutorial, among them some that are refused.
PAGES = [
    page
    for page in sorted((ROOT / "docs").rglob("*.md"))
    if "results" not in page.parts and page.name != "tutorial.md"
]
PLACEHOLDER = "NAME"
# The model of examples/model-template, which test_testing.py installs.
OF_THE_TEMPLATE = "siren"


def shell_lines(page: Path) -> list[list[str]]:
    """Return the words of each line of the shell blocks of a page; a backslash continues a line."""
    blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]


def commands(*start: str) -> list[Any]:
    """Return a parameter for each command of the docs that begins with these words: the words after them."""
    parameters = []
    for page in PAGES:
        for words in shell_lines(page):
            if tuple(words[: len(start)]) == start:
                parameters.append(pytest.param(words[len(start) :], id=f"{page.stem}: {' '.join(words)}"))
    return parameters


def known_settings() -> dict[str, set[str]]:
    """Return the keys of each section of a preset; ``*`` stands for all."""
    known = {"architecture": {"*"}}
    for section in ("fit", "compress"):
        known[section] = set(type(getattr(load_preset("hnerv-tiny"), section)).model_fields)
    for name in list_models():
        known["architecture"] |= set(get_model(name).Config.model_fields)
    return known


KNOWN = known_settings()
VINR, MODULES = commands("vinr"), commands("python", "-m")


def test_the_docs_show_commands() -> None:
    assert len(VINR) >= 15
    assert len(MODULES) >= 5


@pytest.mark.parametrize("words", VINR)
def test_a_vinr_command_is_parsed(words: list[str]) -> None:
    words = words[: words.index(">")] if ">" in words else words
    commands = get_command(app).commands  # type: ignore[attr-defined]
    context = commands[words[0]].make_context(words[0], words[1:])
    given = context.params
    for name in (given.get("preset") or "").split(","):
        assert not name or name == PLACEHOLDER or name in list_presets()
    for name in (given.get("model") or "").split(","):
        assert not name or name in (PLACEHOLDER, OF_THE_TEMPLATE) or name in list_models()
    recipe = given.get("recipe")
    if recipe not in (None, PLACEHOLDER):
        load_recipe(recipe)
    for item in given.get("settings", ()):
        section, _, key = item.partition("=")[0].partition(".")
        # Values may be names that a package of one's own offers, as in trainer.md.
        assert section not in KNOWN or key.partition(".")[0] in KNOWN[section]


@pytest.mark.parametrize("words", MODULES)
def test_a_script_of_the_source_takes_the_options_shown(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    script = importlib.import_module(f"{words[0]}.__main__")
    with pytest.raises(SystemExit) as caught:
        script.main(["--help"])
    assert caught.value.code == 0
    options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    assert {word for word in words if word.startswith("--")} <= options


def test_settings_that_the_docs_name_exist() -> None:
    """`fit.key`, `compress.key` and `architecture.key`, in text and in code."""
    unknown = []
    for page in PAGES:
        for section, key in re.findall(
            r"(?<![\w/.])(fit|compress|architecture)\.([a-z_*]+)\b(?!\()", page.read_text(encoding="utf-8")
        ):
            if key not in KNOWN[section] and key != "py":
                unknown.append(f"{page.relative_to(ROOT)}: {section}.{key}")
    assert unknown == []


def test_recipes_that_the_docs_name_exist() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(
            r"`((?:hnerv|hinerv|tnerv|dnerv|dnerv_diverse|vinr)-(?:table|figure)-[a-z0-9-]+)`", text
        ):
            assert name in list_recipes(), f"{page.name}: {name}"
