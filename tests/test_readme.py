"""The code in README and the commands it shows are what the software does."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.main import get_command

from vinr.cli.app import app
from vinr.config import default_model, load_preset

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_python_example_runs(tiny_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = blocks("python")
    # The example encodes for ten minutes; a preset for tests and one pass do here. It assumes a longer clip
    # than the test clip, so the frames asked for are moved into that.
    example = example.replace('time="10m"', f'preset="{default_model()}-tiny", epochs=1, device="cpu"')
    example = example.replace("video[17]", "video[7]").replace("10:20:2", "1:8:2").replace("1.25", "0.25")
    example = example.replace("[0.5,", "[0.1,")
    shutil.copy(tiny_video, tmp_path / "in.mp4")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert (tmp_path / "out.vinr").stat().st_size > 0


def test_commands_shown_exist() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    shown = [shlex.split(line, comments=True) for line in "\n".join(blocks("sh")).splitlines()]
    calls = [words[1:] for words in shown if words[:1] == ["vinr"]]
    assert len(calls) >= 8
    for name, *words in calls:
        options = {option for item in commands[name].params for option in item.opts}
        assert {word for word in words if word.startswith("--")} <= options
        if "--preset" in words:
            load_preset(words[words.index("--preset") + 1], words[words.index("--set") + 1 :])
    for script in ("scripts/demo", "scripts/test"):
        assert (ROOT / script).stat().st_mode & 0o111


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"
