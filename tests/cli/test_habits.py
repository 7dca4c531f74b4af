"""What people try first with any program: its version, short help, completion, short options."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest
from typer.main import get_command

import vinr
from command_line import Run
from fresh import run_fresh
from vinr.cli.app import app

COMMANDS = sorted(get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version_is_one_line(run: Run, option: str) -> None:
    status, out, err = run(option)
    assert (status, err, out.count("\n")) == (0, "", 1)
    assert out.startswith(f"vinr {version('vinr')} (Python 3.")
    assert f"torch {version('torch')}, av {version('av')})" in out


def test_the_package_has_a_version() -> None:
    assert vinr.__version__ == version("vinr")
    with pytest.raises(AttributeError, match="no attribute '__versoin__'"):
        vinr.__versoin__  # noqa: B018


def test_versions_cost_no_time() -> None:
    # What an installation loads by itself does not count.
    code = "import sys; old = {*sys.modules}; import vinr; print({*sys.modules} - old)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "importlib.metadata" not in run.stdout
    shown = run_fresh(
        "import sys; sys.argv = ['vinr', '-V']\n"
        "from vinr.cli.app import main\n"
        "try: main()\n"
        "finally: print([m for m in ('vinr.models', 'av') if m in sys.modules])"
    )
    assert shown.stdout.endswith(b"\n[]\n")


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS)], ids=str)
def test_short_help_is_the_long_one(run: Run, words: list[str]) -> None:
    status, short, err = run(*words, "-h")
    assert (status, err) == (0, "")
    assert short == run(*words, "--help")[1]
    assert "-h, --help" in short


def test_y_is_force_in_every_command() -> None:
    found = set()
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        for item in command.params:
            if "--force" in item.opts:
                assert item.opts == ["--force", "-y"]
                found.add(name)
    assert found >= {"encode", "decode", "inpaint", "interpolate", "convert", "export", "compare", "bench"}


def test_completion_knows_commands_and_options(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"--install-completion", "--show-completion"} <= set(run("-h")[1].split())
    monkeypatch.setenv("_VINR_COMPLETE", "complete_bash")
    for words, count, expected in (("vinr enc", 1, ["encode"]), ("vinr encode --resu", 2, ["--resume"])):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(count))
        assert run()[1].split() == expected


def test_python_m_is_completed_by_the_name_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_VINR_COMPLETE", "source_bash")
    command = [sys.executable, "-m", "vinr"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown.rstrip().endswith("-F _vinr_completion vinr")
