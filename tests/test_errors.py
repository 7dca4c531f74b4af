"""Messages: they name what who reads them can give, and say numbers of things as people do."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import vinr
from command_line import TINY, Run, refused
from vinr.errors import OutputError, UsageError, argument, command_line_words, override, plural
from vinr.units import format_bytes

SOURCE = Path(vinr.__file__).parent


def test_arguments_are_called_as_they_are_given() -> None:
    def words() -> list[str]:
        given = [argument("max_memory", "4GB"), argument("force", True), argument("fps_scale")]
        return [*given, argument("files"), override("fit.seed=1")]

    in_python = ["max_memory='4GB'", "force=True", "fps_scale", "files", "overrides=['fit.seed=1']"]
    assert words() == in_python
    with command_line_words():
        on_command_line = ["--max-memory 4GB", "--force", "--fps-scale", "--vinr", "--set fit.seed=1"]
        assert words() == on_command_line
        with command_line_words():
            pass
        assert words() == on_command_line
    assert words() == in_python


def test_a_function_and_its_command_name_the_same_remedy(
    tiny_file: Path, tiny_video: Path, tmp_path: Path, run: Run
) -> None:
    output = tmp_path / "o.y4m"
    output.touch()
    refused(run("decode", tiny_file, output), f"{output}: exists already", "overwrite it with --force")
    with pytest.raises(OutputError, match=r"o\.y4m: exists already; .* overwrite it with force=True$"):
        vinr.decode(tiny_file, output)
    both = ("--keep-going", "--fps-scale", 2)
    refused(run("decode", tiny_file, tmp_path / "p.y4m", *both), "give --keep-going without --fps-scale")
    with pytest.raises(UsageError, match="give keep_going without fps_scale"):
        vinr.decode(tiny_file, tmp_path / "p.y4m", keep_going=True, fps_scale=2)
    sized = ("--preset", TINY, "--params", "20k")
    refused(run("encode", tiny_video, tmp_path / "o.vinr", *sized), "give --params with --model")
    with pytest.raises(UsageError, match="give params with model"):
        vinr.encode(tiny_video, tmp_path / "o.vinr", preset=TINY, params="20k")


@pytest.mark.parametrize(
    "call",
    [
        lambda output: vinr.info(""),
        lambda output: vinr.decode("", output),
        lambda output: vinr.encode("", output.with_suffix(".vinr")),
        lambda output: vinr.convert("", output.with_suffix(".vinr")),
    ],
)
def test_an_empty_path_is_named(call: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(vinr.InputError, match=r"^('')|(\.): ") as caught:
        call(tmp_path / "o.y4m")
    assert not str(caught.value).startswith(":")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_file_of_ours_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.vinr"
    path.write_bytes(b"something else, long enough to hold a prologue")
    with pytest.raises(vinr.BitstreamError, match=re.escape(f"{path}: not a .vinr file: ")):
        vinr.open(path)


def test_one_of_a_thing_is_said_so() -> None:
    assert [plural(count, "frame") for count in (0, 1, 2, 1500)] == [
        "0 frames",
        "1 frame",
        "2 frames",
        "1,500 frames",
    ]
    assert format_bytes(1) == "1 byte"


def test_a_file_that_lacks_a_byte_says_so(tiny_file: Path) -> None:
    with pytest.raises(vinr.BitstreamError, match="ends 1 byte past the end of the file"):
        vinr.open(tiny_file.read_bytes()[:-1])


@pytest.mark.parametrize(
    "path",
    sorted(path for path in SOURCE.rglob("*.py") if path.parent.name != "cli"),
    ids=lambda path: str(path.relative_to(SOURCE)),
)
def test_no_message_speaks_the_command_line_s_words(path: Path) -> None:
    """Options are named by argument() and override(), so that they are right in Python too."""
    option = re.compile(r"(^|[\s(`'\"])--[a-z]")
    spoken = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).rpartition(".")[2]
        if name.endswith("Error") or name in ("Noted", "note", "_note", "on_note"):
            texts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
            spoken += [text for text in texts if isinstance(text, str) and option.search(text)]
    assert spoken == []
