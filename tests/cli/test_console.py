"""What reaches the terminal: nothing that a file, a path or an error brings along can act on it."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.progress import Progress
from rich.table import Table

from bitstream.crafting import assemble
from vinr.bitstream import Container
from vinr.bitstream.header import pack_header
from vinr.cli import console as cli_console
from vinr.cli.app import main
from vinr.cli.screen import SafeColumn
from vinr.errors import visible

EVIL = "\x1b]0;owned\x07\x1b[2J\x1b[31m\x9b1m\nclip faked: 5 frames\r\u202egnp\u200b\ufeff\u2028\u2066[b]:x:"
SEEN = r"\x1b]0;owned\x07\x1b[2J\x1b[31m\x9b1m\nclip faked: 5 frames\r\u202egnp\u200b\ufeff\u2028\u2066[b]:x:"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, 1×2 – 中文 é [bold]x[/] :boom:", "plain, 1×2 – 中文 é [bold]x[/] :boom:"),
        (EVIL, SEEN),
        ("a\tb\r\n", r"a\tb\r\n"),
        ("\x00\x7f\x85", r"\x00\x7f\x85"),
        (os.fsdecode(b"caf\xe9"), r"caf\xe9"),
        ("\ud83d", r"\ud83d"),
        ("\U000e0041", r"\U000e0041"),
        ("9.41\u202fAM", "9.41\u202fAM"),
    ],
)
def test_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_everything_that_is_printed_is_made_visible(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(EVIL, "b", box=None)
    table.add_row(EVIL, "[red]x[/]")
    cli_console.say(EVIL)
    cli_console.print_table(table)
    cli_console.note(EVIL)
    cli_console.complain(EVIL)
    out, err = capsys.readouterr()
    assert [line.strip().split("  ")[0] for line in out.splitlines()] == [SEEN] * 3
    assert "[red]x[/]" in out
    assert err.splitlines() == [SEEN, f"vinr: {SEEN}"]


def test_descriptions_of_progress_are_made_visible() -> None:
    screen = io.StringIO()
    console = cli_console.SafeConsole()
    console.file = screen
    console._force_terminal = True
    console.width = 300
    with Progress(SafeColumn("{task.description}"), console=console) as bar:
        bar.add_task(EVIL)
    assert SEEN in screen.getvalue()


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["vinr", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.fixture
def rewritten(tiny_file: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return the tiny file with other fields in its header, its checksums right."""

    def call(**fields: object) -> Path:
        with Container.open(tiny_file) as container:
            header = container.header.model_copy(update=fields)
        good = tiny_file.read_bytes()
        _, version, flags, header_bytes, index_bytes = struct.unpack_from("<4sBBHI", good)
        index = struct.calcsize("<4sBBHIII") + header_bytes
        sections = index + index_bytes
        stored = pack_header(header)
        path = tmp_path / "evil.vinr"
        path.write_bytes(assemble(stored, good[index:sections], good[sections:], version, flags))
        return path

    return call


def test_info_of_a_file_that_forges_lines(
    rewritten: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    by = "x\x1b[2J\nclip faked: 5 frames\u202e"
    path = rewritten(created_by=by)
    assert run(monkeypatch, "info", str(path)) == 0
    out = capsys.readouterr().out
    assert r"x\x1b[2J\nclip faked: 5 frames\u202e" in out
    assert len([line for line in out.splitlines() if line.startswith("clip ")]) == 1
    assert "\x1b" not in out
    assert run(monkeypatch, "info", str(path), "--json") == 0
    out = capsys.readouterr().out
    assert json.loads(out)["created_by"] == by
    assert "\x1b" not in out


def test_keys_in_error_messages(
    rewritten: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Container.open(rewritten()) as container:
        network = container.header.networks[0]
    evil = network.model_copy(update={"architecture": {**network.architecture, "k\x1b[31m\u202e": 1}})
    assert run(monkeypatch, "verify", str(rewritten(networks=(evil,)))) == 2
    out, err = capsys.readouterr()
    assert err == ""
    assert r"architecture.k\x1b[31m\u202e" in out
    assert "\x1b" not in out


@pytest.mark.parametrize("name", [b"a\nb.vinr", b"a\x1b[31m.vinr", b"caf\xe9.vinr", "a\u202e.vinr".encode()])
def test_names_in_error_messages(
    name: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "info", os.fsdecode(name)) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"vinr: {visible(os.fsdecode(name))}: ")
    assert len(err.splitlines()) == 1


def test_streams_that_lack_characters() -> None:
    code = (
        "from vinr.cli import console as c, screen; screen.write_any_character()\n"
        r"c.say('36\xd750 \u202e'); c.note('\xe9'); c.complain('\u4e2d')"
    )
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=True)
    assert shown.stdout.splitlines() == [rb"36\xd750 \u202e"]
    assert shown.stderr.splitlines() == [rb"\xe9", rb"vinr: \u4e2d"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
def test_messages_that_nobody_can_read_end_nothing() -> None:
    """A log on a full disk, a closed pipe, no standard error at all: the work is done, its result is told."""
    code = "from vinr.cli import console as c\nfor _ in range(3): c.note('a'); c.complain('b')\nc.say('done')"
    reader, writer = os.pipe()
    os.close(reader)
    with open("/dev/full", "wb") as full, open(writer, "wb") as broken:
        for stream in (full, broken):
            shown = subprocess.run(
                [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=stream, check=False
            )
            assert shown.stdout == b"done\n"
            if stream is broken:
                assert shown.returncode == 0
    without = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.stderr = None\n{code}"], stdout=subprocess.PIPE, check=True
    )
    assert without.stdout == b"done\n"


@pytest.mark.parametrize("arguments", [["info", "{file}", "--json"], ["decode", "{file}", "-"]])
def test_results_that_have_nowhere_to_go(
    tiny_file: Path,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Standard output is closed: Python has none then."""
    monkeypatch.setattr(sys, "argv", ["vinr", *(text.format(file=tiny_file) for text in arguments)])
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit, match="2"):
        main()
    assert capsys.readouterr().err.startswith("vinr: standard output is closed; ")
