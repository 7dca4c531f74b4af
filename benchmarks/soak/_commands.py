"""The commands that are killed: their inputs, what their folder holds before, and when an output is whole."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import av
import torch
from _soak import Ended, forked, wait_for
from PIL import Image

from clips import MemoryClip, moving_shapes, write_clip
from random_files import random_file
from vinr.video.spec import VideoSpec

__all__ = [
    "COMMANDS",
    "Command",
    "Inputs",
    "Run",
    "arguments_of",
    "content",
    "left_over",
    "prepare",
    "put_old",
    "run",
    "state_of",
]

# Of two segments, with a phase for coding; rounds are epochs, and state is kept after each.
NUM_FRAMES, HEIGHT, WIDTH = 8, 16, 32
ENCODE = ("encode", "{clip}", "{out}", "--epochs", "6", "--segment", "0.16", "--params", "10k")
JOINED = ("encode", "{clip}", "{other}", "{out}", "--epochs", "4", "--preset", "nerv-tiny")
INPAINT = ("inpaint", "{clip}", "{out}", "--mask", "center", "--epochs", "3", "--params", "10k")
OLD = b"an older output"
LIMIT_SECONDS = 240.0


@dataclass(frozen=True)
class Command:
    """A command line; ``output`` is the name in the folder that it writes to, ``again`` what a repeat adds.

    ``others`` are other command lines of the same output, which must not go on from this one's state.
    """

    name: str
    arguments: tuple[str, ...]
    output: str
    again: tuple[str, ...] = ("--force",)
    others: tuple[tuple[str, ...], ...] = ()

    @property
    def keeps_state(self) -> bool:
        """Whether it goes on where it was stopped."""
        return "--resume" in self.again


def _encode(name: str, arguments: tuple[str, ...]) -> Command:
    return Command(name, arguments, "o.vinr", ("--resume",))


# What is changed on the command line of a resumed encode.
CHANGES: tuple[tuple[str, str], ...] = (
    ("6", "7"),
    ("10k", "9k"),
    ("{clip}", "{mirrored}"),
    ("{clip}", "{other}"),
)

COMMANDS = (
    replace(
        _encode("encode", ENCODE),
        others=(
            *(tuple(new if part == old else part for part in ENCODE) for old, new in CHANGES),
            (*ENCODE, "--seed", "5"),
        ),
    ),
    _encode("encode to a size", ("encode", "{clip}", "{out}", "--epochs", "4", "--size", "6kB")),
    _encode(
        "encode two clips", ("encode", "{clip}", "{other}", "{out}", "--epochs", "4", "--preset", "nerv-tiny")
    ),
    Command("decode to mp4", ("decode", "{file}", "{out}"), "o.mp4"),
    Command("decode to mkv", ("decode", "{file}", "{out}", "--codec", "ffv1"), "o.mkv"),
    Command("decode to y4m", ("decode", "{file}", "{out}"), "o.y4m"),
    Command("decode to a folder", ("decode", "{file}", "{out}"), "frames"),
    Command("decode to a pattern", ("decode", "{file}", "{out}"), "f_%03d.png"),
    Command("interpolate", ("interpolate", "{file}", "{out}", "--codec", "ffv1"), "o.mkv"),
    Command("inpaint", (*INPAINT, "--codec", "ffv1"), "o.mkv"),
)


@dataclass(frozen=True)
class Inputs:
    """Files that commands read; ``folder`` holds them."""

    folder: Path

    def fill(self, part: str, out: Path) -> str:
        """Return an argument with its path in it."""
        names = {"clip": "a.mkv", "mirrored": "mirrored/a.mkv", "other": "b.mkv", "file": "f.vinr"}
        paths = {key: str(self.folder / name) for key, name in names.items()}
        return part.format(out=out, **paths) if part.startswith("{") else part


def prepare(folder: Path, commands: Sequence[Command]) -> Inputs:
    """Write the inputs of ``commands`` where they are not there yet, and load what they need; return them."""
    inputs = Inputs(folder)
    (folder / "mirrored").mkdir(parents=True, exist_ok=True)
    clip = moving_shapes(num_frames=NUM_FRAMES, height=HEIGHT, width=WIDTH)
    generator = torch.Generator().manual_seed(1)
    noise_NCHW = torch.randint(256, clip.rgb_NCHW.shape, dtype=torch.uint8, generator=generator)
    made = {
        "a.mkv": clip,
        "mirrored/a.mkv": MemoryClip(clip.rgb_NCHW.flip(3)),
        "b.mkv": MemoryClip(clip.rgb_NCHW // 2 + noise_NCHW // 2),
    }
    for name, video in made.items():
        if not (folder / name).exists():
            write_clip(folder / name, video)
    if not (folder / "f.vinr").exists():
        video = VideoSpec(NUM_FRAMES, HEIGHT, WIDTH)
        random_file(folder / "f.vinr", video, name="hinerv", lengths=(NUM_FRAMES // 2, NUM_FRAMES // 2))
    # In this process, so that what is loaded at first use is there in all forks; measured once a process.
    for command in commands:
        warm = folder / "warm" / command.output
        warm.parent.mkdir(exist_ok=True)
        _in_this_process([*(inputs.fill(part, warm) for part in command.arguments), "--force"])
    _forget_measurements()
    return inputs


def _in_this_process(arguments: Sequence[str]) -> None:
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as said:
            _vinr(arguments, None)
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"{arguments} ends with {end.code}: {said.getvalue()}") from None


def _forget_measurements() -> None:
    """Empty the caches of vinr.fit: what is measured once a process is measured in each fork."""
    for name, module in list(sys.modules.items()):
        if name.startswith("vinr.fit"):
            for value in vars(module).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


@dataclass(frozen=True)
class Run:
    """How a command ended, and what it said."""

    ended: Ended
    said: str

    @property
    def has_traceback(self) -> bool:
        """Whether an exception came through."""
        return "Traceback (most recent call last)" in self.said


def arguments_of(command: Command, inputs: Inputs, out: Path, *, old: bool) -> list[str]:
    """Return the command line; ``--force`` where there is an old output to replace."""
    filled = [inputs.fill(part, out) for part in command.arguments]
    return [*filled, "--force"] if old else filled


def run(
    arguments: Sequence[str],
    log: Path,
    *,
    kill: tuple[float, int] | None = None,
    before: Callable[[], None] | None = None,
    real: bool = False,
) -> Run:
    """Run ``vinr`` with ``arguments`` in a fork, or as ``python -m vinr``.

    ``kill``: a signal and the seconds after which it is sent. ``before`` is called in the child.
    """
    log.unlink(missing_ok=True)
    child = forked(lambda: _real(arguments) if real else _vinr(arguments, before), log)
    ended = wait_for(child, LIMIT_SECONDS, kill)
    return Run(ended, log.read_text(encoding="utf-8", errors="replace") if log.exists() else "")


def _real(arguments: Sequence[str]) -> int:
    os.execv(sys.executable, [sys.executable, "-m", "vinr", *arguments])


def _vinr(arguments: Sequence[str], before: Callable[[], None] | None) -> int:
    from vinr.cli.app import main

    sys.argv = ["vinr", *arguments]
    if before is not None:
        before()
    main()
    return 0


# -- what lies in a folder -----------------------------------------------------------------------------------


def put_old(command: Command, folder: Path) -> None:
    """Put an older output in ``folder``, which the command is to replace."""
    if command.output == "frames":
        (folder / "frames").mkdir()
        (folder / "frames" / "frame_00000.png").write_bytes(OLD)
    elif "%" in command.output:
        for number in range(NUM_FRAMES):
            (folder / (command.output % number)).write_bytes(OLD)
    else:
        (folder / command.output).write_bytes(OLD)


def content(command: Command, folder: Path) -> dict[str, bytes]:
    """Return the files of the output that are there, by name."""
    names = [command.output]
    if "%" in command.output:
        names = [command.output % number for number in range(NUM_FRAMES)]
    elif (folder / command.output).is_dir():
        names = [f"frames/{path.name}" for path in (folder / command.output).iterdir()]
    return {name: (folder / name).read_bytes() for name in sorted(names) if (folder / name).is_file()}


def left_over(command: Command, folder: Path) -> list[str]:
    """Return names in ``folder`` that are no output."""
    mine = {name.partition("/")[0] for name in content(command, folder)} | {"frames"}
    return sorted(path.name for path in folder.iterdir() if path.name not in mine)


def state_of(command: Command, folder: Path, reference: dict[str, bytes]) -> str:
    """Return absent, old, whole (as the reference), whole but other bytes, or broken."""
    found = content(command, folder)
    if not found:
        return "absent"
    if found == reference:
        return "whole"
    if all(data == OLD for data in found.values()):
        complete = len(found) == (1 if "%" not in command.output else NUM_FRAMES)
        return "old" if complete else "broken"
    if found.keys() == reference.keys() and all(_opens(folder / name) for name in found):
        return "whole, other bytes"
    return "broken"


def _opens(path: Path) -> bool:
    """Return whether a file is whole: .vinr files are verified, videos have all frames, images load."""
    from vinr.decoding.playback import verify
    from vinr.errors import VinrError

    try:
        if path.suffix == ".vinr":
            return verify(path).is_whole
        if path.suffix == ".png":
            Image.open(path).load()
        elif path.suffix == ".y4m":
            return False  # no codec: whole is what has the bytes
        else:
            with av.open(str(path)) as container:
                return sum(1 for _ in container.decode(video=0)) >= NUM_FRAMES
    except (VinrError, OSError, av.error.FFmpegError):
        return False
    return True
