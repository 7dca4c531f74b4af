"""What a release states: one version everywhere, links of the description that lead somewhere."""

from __future__ import annotations

import re
import runpy
import sys
import tomllib
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture
def with_absolute_links(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], str]:
    """The function of hatch_build.py, which runs where packages are built."""
    stand_in = ModuleType("hatchling.metadata.plugin.interface")
    stand_in.MetadataHookInterface = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    for name in ("hatchling", "hatchling.metadata", "hatchling.metadata.plugin"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    function: Callable[[str, str, str], str]
    function = runpy.run_path(str(ROOT / "hatch_build.py"))["with_absolute_links"]
    return function


def test_the_version_is_the_same_everywhere() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "citing.md").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.+)$", citation, re.MULTILINE) == [PROJECT["version"]]
    assert re.findall(r"version = \{(.+)\}", page) == [PROJECT["version"]]


def test_every_extra_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()[1:]
    pinned = [line.partition("==")[0].lower().replace("_", "-") for line in lines]
    assert sorted(pinned) == sorted(set(pinned))
    for requirement in chain(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()):
        name = re.split(r"[\[>=<]", requirement)[0].lower().replace("_", "-")
        assert name == "vinr" or name in pinned


def test_links_of_the_readme_lead_to_the_source(with_absolute_links: Callable[[str, str, str], str]) -> None:
    text = "![a](docs/a.png) [b](docs/b.md#c) [d](https://example.org) [e](#f)"
    assert with_absolute_links(text, "https://example.org/vinr", "v1.0") == (
        "![a](https://example.org/vinr/raw/v1.0/docs/a.png) "
        "[b](https://example.org/vinr/blob/v1.0/docs/b.md#c) [d](https://example.org) [e](#f)"
    )
    assert with_absolute_links(text, "", "v1.0") == " b [d](https://example.org) [e](#f)"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "](docs/" in readme
    assert not re.search(r"\]\((?!https?:|#)", with_absolute_links(readme, "", "v1.0"))
