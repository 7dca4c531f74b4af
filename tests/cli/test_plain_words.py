"""Help and refusals speak of what people give, not of types of Python or words of a library."""

from __future__ import annotations

import re

import pytest
from typer.main import get_command

from command_line import Run, refused
from vinr.cli.app import app
from vinr.cli.options import GROUPS

COMMANDS = sorted(get_command(app).commands)  # type: ignore[attr-defined]
# How typer, in its versions, names types and bounds: <str>, <int range>, TEXT, INTEGER RANGE, x>=1.
TYPES = re.compile(
    r"<[a-z_\[\] ]+>|\b(?:TEXT|INTEGER|FLOAT|BOOLEAN|UUID)\b|\bx[<>]=?|[<>]=?x\b|\bRANGE\b|\{[A-Z]"
)


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS)], ids=str)
def test_no_help_names_types_of_python(run: Run, words: list[str]) -> None:
    status, out, _ = run(*words, "--help")
    assert status == 0
    assert TYPES.search(out) is None, TYPES.search(out)
    assert "..." not in out.replace("INPUT...", "").replace("[ARGS]...", "")  # nothing is cut


def test_every_option_with_a_value_says_what_it_takes() -> None:
    for name in COMMANDS:
        for item in get_command(app).commands[name].params:  # type: ignore[attr-defined]
            if not getattr(item, "is_flag", False):
                assert item.metavar, (name, item.name)


def test_types_would_be_found() -> None:
    """The search above finds what typer shows where nothing else is said."""
    for shown in ("--epochs <int range>", "INPUT <str>", "--epochs INTEGER RANGE", "--a TEXT", "[x>=1]"):
        assert TYPES.search(shown)
    assert TYPES.search("--epochs N   8|10, FILE.vinr, 640:360 (width:height)") is None


def test_groups_name_options_that_there_are() -> None:
    names = {item.name for name in COMMANDS for item in get_command(app).commands[name].params}  # type: ignore[attr-defined]
    assert {name for group in GROUPS.values() for name in group} <= names


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("encode a.mp4 b.vinr --epochs x", "--epochs 'x': give a whole number, at least 1"),
        ("encode a.mp4 b.vinr --epochs 0", "--epochs '0': give a whole number, at least 1"),
        ("encode a.mp4 b.vinr --epochs 2.5", "--epochs '2.5': give a whole number, at least 1"),
        ("encode a.mp4 b.vinr --seed -1", "--seed '-1': give a whole number, at least 0"),
        ("encode a.mp4 b.vinr --bpp much", "--bpp 'much': give a number"),
        ("encode a.mp4 b.vinr --psnr nan", "--psnr 'nan': give a number"),
        ("encode a.mp4 b.vinr --gpus-per-worker -1", "--gpus-per-worker '-1': give a number, at least 0"),
        ("encode a.mp4 b.vinr --jion", "no such option: --jion"),
        ("encode a.mp4 b.vinr --join=3", "option '--join' does not take a value; `vinr encode -h` lists all"),
        ("encode a.mp4 b.vinr --time", "option '--time' requires an argument; `vinr encode -h` lists all"),
        ("decode a.vinr b.mp4 --fps-scale 99", "--fps-scale '99': give a whole number from 1 to 16"),
        ("decode a.vinr b.mp4 --crf x", "--crf 'x': give a whole number from 0 to 63"),
        ("decode", "missing argument 'FILE.vinr'; `vinr decode -h` lists all"),
        ("inpaint a.mp4 b.mp4", "missing option '--mask'; `vinr inpaint -h` lists all"),
        ("plan a.mp4 --workers none", "--workers 'none': give a whole number, at least 1"),
        ("bench x --epochs", "option '--epochs' requires an argument"),
        ("encdoe a.mp4 b.vinr", "unknown command 'encdoe'; there are encode, "),
        ("--colour", "no such option: --colour"),
    ],
)
def test_mistakes_are_one_line_in_plain_words(run: Run, words: str, said: str) -> None:
    refused(run(*words.split()), said)


def test_a_mistyped_command_is_answered_with_the_nearest(run: Run) -> None:
    refused(run("interpolat"), "did you mean 'interpolate'?")
    refused(run("models", "--jsno"), "--json")
