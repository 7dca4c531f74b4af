"""What users call: every name is there, every command has a function with its defaults, and types hold."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
import torch
from typer.main import get_command

import user_program
import vinr
from random_files import random_set
from vinr.bench.run import run_recipe
from vinr.cli.app import app
from vinr.cli.catalogue import list_model_entries, list_preset_entries
from vinr.cli.settings_list import list_settings

ROOT = Path(__file__).parent.parent
# The functions behind the commands: those of ``vinr`` but for lists of what is installed, and experiments.
TWINS: dict[str, Callable[..., Any]] = {
    **{name: getattr(vinr, name) for name in ("compare", "convert", "decode", "encode", "export", "info")},
    **{name: getattr(vinr, name) for name in ("inpaint", "interpolate", "plan", "verify")},
    "bench": run_recipe,
    "eval": vinr.evaluate,
    "models": list_model_entries,
    "presets": list_preset_entries,
    "settings": list_settings,
}
# Options that say how a report or progress is printed, and those that are for many files alone.
PRINTING = {"as_json", "per_frame", "log", "verbose", "quiet"}
FOR_FOLDERS = {
    "decode": {"suffix"},
    "eval": {"workers", "ray", "gpus_per_worker", "threads_per_worker"},
}
# The command measures x264 unless it is told not to, the function if it is told to.
TURNED_AROUND = {"no_reference": "reference"}
# Those that several commands turn into one argument.
RENAMED = {
    "bench": {"settings": "overrides"},
    "compare": {"model": "models", "preset": "presets", "settings": "overrides"},
    "convert": {"settings": "overrides"},
    "decode": {"backend": "settings"},
    "encode": {"paths": "inputs", "settings": "overrides"},
    "eval": {"backend": "settings"},
    "inpaint": {"settings": "overrides"},
    "plan": {"settings": "overrides"},
}


@pytest.mark.parametrize("command", sorted(TWINS))
def test_each_command_has_a_function_with_the_same_defaults(command: str) -> None:
    callback = get_command(app).commands[command].callback  # type: ignore[attr-defined]
    options = inspect.signature(callback).parameters
    arguments = inspect.signature(TWINS[command]).parameters
    for name, option in options.items():
        if name in PRINTING or name in FOR_FOLDERS.get(command, ()):
            continue
        if name in TURNED_AROUND:
            assert option.default is arguments[TURNED_AROUND[name]].default is False
            continue
        argument = arguments[RENAMED.get(command, {}).get(name, name)]
        assert is_same(option.default, argument.default), f"{command} {name}"


def is_same(option: object, argument: object) -> bool:
    """Return whether two defaults mean the same: nothing may be written as None, an empty list or tuple."""
    required = inspect.Parameter.empty
    if option is required or argument is required:
        return True
    return (option or None) == (argument or None) or str(option) == str(argument)


def test_no_command_is_left_out() -> None:
    assert set(get_command(app).commands) == set(TWINS)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", vinr.__all__)
def test_every_public_name_is_documented_and_no_module_hides_it(name: str) -> None:
    value = getattr(vinr, name)
    assert inspect.isclass(value) or inspect.isfunction(value)
    assert inspect.getdoc(value)
    assert not (Path(vinr.__file__).parent / name).exists()
    assert not (Path(vinr.__file__).parent / f"{name}.py").exists()
    if inspect.isfunction(value):
        # Each argument is named in the section Parameters, alone or with others.
        text = inspect.getdoc(value) or ""
        named = set(re.findall(r"\w+", " ".join(re.findall(r"^(?=\w)[\w, ]+$", text, re.MULTILINE))))
        assert set(inspect.signature(value).parameters) <= named


def documented_members(cls: type) -> Iterator[tuple[str, object]]:
    """Yield the public methods and properties that a class defines."""
    for name, member in vars(cls).items():
        if not name.startswith("_") and isinstance(
            member, (property, classmethod, staticmethod, FunctionType)
        ):
            yield name, member


@pytest.mark.parametrize("name", vinr.__all__)
def test_every_public_name_says_what_it_returns_and_raises(name: str) -> None:
    """A function names its errors, and returns nothing, a report of vinr, or what its text says."""
    value = getattr(vinr, name)
    text = inspect.getdoc(value) or ""
    if inspect.isfunction(value):
        assert re.search(r"^Raises\n-+\n(?:\w+Error)", text, re.MULTILINE)
        returned = set(re.findall(r"\w+", str(inspect.signature(value).return_annotation)))
        assert returned & {*vinr.__all__, "None"} or re.search(r"\b[Rr]eturns?\b", text)
        return
    for member_name, member in documented_members(value):
        assert inspect.getdoc(member), f"{name}.{member_name}"
        if isinstance(member, property):
            continue
        function = getattr(member, "__func__", member)
        returned = set(re.findall(r"\w+", str(inspect.signature(function).return_annotation)))
        says = re.search(r"\b([Rr]eturns?|[Yy]ields?|[Cc]ontext)\b", inspect.getdoc(member) or "")
        assert returned & {*vinr.__all__, "None", "Self"} or says, f"{name}.{member_name}"
    if is_dataclass(value):
        # Fields of a base are explained there.
        texts = " ".join(inspect.getdoc(base) or "" for base in value.__mro__ if base is not object)
        public = {field.name for field in fields(value) if not field.name.startswith("_")}
        assert {field for field in public if not re.search(rf"\b{field}\b", texts)} == set()


def test_the_page_of_the_api_has_every_public_name() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^::: vinr\.(\w+)$", page, re.MULTILINE)) == sorted(vinr.__all__)


def test_all_public_names_are_used_in_the_program() -> None:
    program = (ROOT / "tests" / "user_program.py").read_text(encoding="utf-8")
    assert {name for name in vinr.__all__ if f"vinr.{name}" not in program} == set()


def test_a_program_of_a_user_passes_mypy_strict() -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "tests/user_program.py"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_program_runs(tmp_path: Path) -> None:
    path = random_set(tmp_path / "set.vinr", {"a": 4, "b": 2})
    assert user_program.play(path.read_bytes()).shape == (10, 3, 16, 24)
    assert [line for line in user_program.describe(str(path)) if line.startswith("b: 2 frames")]
    with vinr.open(path, clip="a", device="cpu") as video:
        assert user_program.train(video) > 0
    frames = user_program.dataset(path)
    assert torch.equal(frames[3], vinr.FrameDataset(path, clip="a")[3])
