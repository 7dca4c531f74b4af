"""The shape of the code base: import order, public surface, what decoding loads, no model by name."""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vinr
from fresh import run_fresh
from vinr.models import list_models

SOURCE = Path(vinr.__file__).parent
# Each may use only what stands before it. Reasons: docs/data-flow.md.
ORDER = [
    ["errors"],
    ["settings", "sharing", "temporaries", "units"],
    ["files"],
    ["state"],
    ["scale"],
    ["kernels", "video"],
    ["sizing"],
    ["models"],
    ["config", "device"],
    ["bitstream"],
    ["compress"],
    ["codecs", "quality"],
    ["fit"],
    ["decoding"],
    ["encoding"],
    ["comparison", "folders", "tasks", "testing"],
    ["bench"],
    ["cli"],
    ["__main__"],
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}


def modules() -> list[str]:
    return sorted(info.name for info in pkgutil.walk_packages([str(SOURCE)], "vinr."))


def imports_of(path: Path) -> set[str]:
    """Return the vinr modules that a file imports when it runs (not those for type checkers alone)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vinr"):
            names = [node.module] if node.module != "vinr" else [f"vinr.{alias.name}" for alias in node.names]
            found.update(name for name in names if name)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name.startswith("vinr."))
    return found


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_follow_the_order(path: Path) -> None:
    part = path.relative_to(SOURCE).with_suffix("").parts[0]
    if part == "__init__":
        return  # the package itself loads names lazily
    for name in imports_of(path):
        other = name.split(".")[1]
        assert other == part or RANK[other] < RANK[part], f"{part} must not import {name}"


def test_bitstream_needs_no_torch() -> None:
    heavy = ("torch", "numpy", "constriction")
    code = f"import sys, vinr.bitstream; print([m for m in {heavy} if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


@pytest.mark.parametrize("name", modules())
def test_public_names_belong_to_packages_and_are_sorted_and_there(name: str) -> None:
    if name == "vinr.__main__":
        return  # importing it runs the command line
    module = importlib.import_module(name)
    public = getattr(module, "__all__", [])
    assert not public or hasattr(module, "__path__")
    assert list(public) == sorted(public, key=str) or list(public) == sorted(public, key=_ruff_key)
    assert all(getattr(module, item) is not None for item in public)


def _ruff_key(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest, as ruff sorts ``__all__``."""
    return (0 if name.isupper() else 1 if name[:1].isupper() else 2), name


def test_decoding_loads_few_modules_and_none_of_fitting(tiny_file: Path) -> None:
    code = (
        "import sys, json, vinr\n"
        f"with vinr.open({str(tiny_file)!r}, device='cpu') as video: video[0]\n"
        "print(json.dumps([m for m in sys.modules if m.split('.')[0] == 'vinr']))"
    )
    loaded = json.loads(run_fresh(code).stdout)
    assert len(loaded) <= 25, loaded
    forbidden = {"bench", "cli", "comparison", "encoding", "fit", "quality", "tasks"}
    assert not [name for name in loaded if len(name.split(".")) > 1 and name.split(".")[1] in forbidden]
    assert "vinr.kernels.training" not in loaded


def test_no_model_is_named_outside_models_and_presets() -> None:
    # vinr's own network has the name of the package, which stands everywhere.
    names = [name for name in list_models() if name != vinr.__name__]
    words = re.compile(rf"['\"]({'|'.join(names)})['\"]")
    outside = [
        p for p in SOURCE.rglob("*.py") if not {"models", "presets"} & set(p.relative_to(SOURCE).parts)
    ]
    named = [
        f"{p.relative_to(SOURCE)}: {m[0]}"
        for p in outside
        for m in words.finditer(p.read_text(encoding="utf-8"))
    ]
    assert named == []


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_stay_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500
