"""Kills a process before each of its file operations, one after another, and looks at what is left.

``main`` is called in a fresh process, so that every kill is a fork of one that has loaded everything and has
one thread. Its arguments are names of scenarios; it prints, as JSON, how many points each has and what was
wrong.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

KILLED: Final = 77
AUDITED: Final = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"}
MAX_POINTS: Final = 200


@dataclass(frozen=True)
class Scenario:
    """Something that writes. ``state`` says what a folder holds: old, new, none, or what is wrong."""

    write: Callable[[Path], None]
    state: Callable[[Path], str]
    before: Callable[[Path], None] = lambda folder: None
    allowed: tuple[str, ...] = ("none", "new")


def kill_before(number: int, folder: Path) -> None:
    """Let this process end without a word before its file operation ``number`` below ``folder``."""
    left = number

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os._exit(KILLED)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        path = arguments[0] if event in AUDITED else None
        if isinstance(path, (str, bytes, os.PathLike)) and os.fsdecode(path).startswith(str(folder)):
            count()

    os.fsync = lambda descriptor: count()
    sys.addaudithook(watch)


def in_child(work: Callable[[], None]) -> int:
    """Run ``work`` in a fork; return its exit status."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def try_all(scenario: Scenario) -> dict[str, Any]:
    """Kill ``scenario`` at each point, then let it run through; return how many points, and complaints."""
    wrong: list[str] = []
    for point in range(1, MAX_POINTS):
        folder = Path(tempfile.mkdtemp(prefix="kills-"))
        scenario.before(folder)

        def killed(point: int = point, folder: Path = folder) -> None:
            kill_before(point, folder)
            scenario.write(folder)

        status = in_child(killed)
        state = scenario.state(folder)
        if state not in scenario.allowed or status not in (0, KILLED):
            wrong.append(f"point {point}: exit status {status}, {state}")
        if in_child(lambda folder=folder: scenario.write(folder)) != 0:  # type: ignore[misc]
            wrong.append(f"point {point}: the next run failed")
        names = sorted(path.name for path in folder.iterdir())
        left = [name for name in names if name.startswith(".") or "partial" in name]
        if left or scenario.state(folder) != "new":
            wrong.append(f"point {point}: after the next run {scenario.state(folder)}, left are {left}")
        shutil.rmtree(folder)
        if status == 0:
            return {"points": point - 1, "wrong": wrong}
    return {"points": MAX_POINTS, "wrong": [*wrong, "does not end"]}


def _one_file(name: str) -> Callable[[Path], str]:
    def state(folder: Path) -> str:
        path = folder / name
        if not path.exists():
            return "none"
        return {b"old": "old", b"new": "new"}.get(path.read_bytes(), "broken")

    return state


def _write_file(folder: Path) -> None:
    from vinr.files import atomic_path

    with atomic_path(folder / "out.bin", force=True) as temporary:
        temporary.write_bytes(b"new")


def _put_old(folder: Path) -> None:
    (folder / "out.bin").write_bytes(b"old")


def _clip(num_frames: int, shade: int) -> Any:
    import torch

    return torch.full((num_frames, 3, 16, 16), shade, dtype=torch.uint8)


def _write_video(name: str, shade: int = 200) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        from vinr.video.sink import open_sink
        from vinr.video.spec import Timeline, VideoSpec

        spec, timeline = VideoSpec(2, 16, 16, Fraction(25)), Timeline(2, Fraction(25))
        codec = "ffv1" if name.endswith(".mkv") else "x264"
        with open_sink(str(folder / name), spec, timeline, codec=codec, force=True) as sink:
            sink.write(_clip(2, shade))

    return write


def _video_state(name: str) -> Callable[[Path], str]:
    def state(folder: Path) -> str:
        from vinr.errors import InputError
        from vinr.video.source import open_video

        if any(path.suffix in (".ready", ".replacing") for path in folder.iterdir()):
            return "on its way"  # the files of a set get their names; those that wait are kept
        place = folder if "%" in name else folder / name
        if not place.exists() or not [path for path in folder.iterdir() if not path.name.startswith(".")]:
            return "none"
        try:
            with open_video(place) as reader:
                shades = {int(frame.float().mean().round()) for frame in reader.read().rgb_NCHW}
        except InputError as error:
            return str(error)
        names = {(2, frozenset({200})): "new", (2, frozenset({50})): "old"}
        return names.get((reader.spec.num_frames, frozenset(shades)), f"{reader.spec.num_frames} of {shades}")

    return state


def _encode(folder: Path) -> None:
    """Do what an encode does with files: a checkpoint, a segment, the output."""
    from vinr.errors import OutputError
    from vinr.files import atomic_path
    from vinr.state.folder import EncodeJob, StateFolder

    def keep(path: Path) -> None:
        with atomic_path(path, force=True) as temporary:
            temporary.write_bytes(b"state")

    output = folder / "out.bin"
    state = StateFolder(output, EncodeJob.of(["a.mkv"]), resume=True, on_note=print)
    try:
        with state:
            place = state.prepare()
            assert all(path.read_bytes() == b"state" for path in place.glob("[fs]*.safetensors"))
            keep(place / "fit-00000.safetensors")
            keep(place / "segment-00000.safetensors")
            (place / "fit-00000.safetensors").unlink(missing_ok=True)
            state.expect(b"new")
            with atomic_path(output) as temporary:
                temporary.write_bytes(b"new")
            state.finish()
    except OutputError as error:
        if "already complete" not in str(error) and "no interrupted encode" not in str(error):
            raise


WITHOUT_TORCH: Final = {
    "file": Scenario(_write_file, _one_file("out.bin")),
    "file over another": Scenario(_write_file, _one_file("out.bin"), _put_old, ("old", "new")),
    "encode": Scenario(_encode, _one_file("out.bin")),
}
VIDEOS: Final = {
    "mkv": Scenario(_write_video("out.mkv"), _video_state("out.mkv")),
    "folder": Scenario(_write_video("frames"), _video_state("frames")),
    "folder over another": Scenario(
        _write_video("frames"), _video_state("frames"), _write_video("frames", 50), ("old", "new")
    ),
    "pattern": Scenario(
        _write_video("f_%03d.png"), _video_state("f_%03d.png"), allowed=("none", "on its way", "new")
    ),
    "pattern over another": Scenario(
        _write_video("f_%03d.png"),
        _video_state("f_%03d.png"),
        _write_video("f_%03d.png", 50),
        ("old", "on its way", "new"),
    ),
}


def main() -> None:
    """Run the scenarios named."""
    scenarios = WITHOUT_TORCH | VIDEOS
    if set(sys.argv[1:]) & VIDEOS.keys():
        import torch

        torch.set_num_threads(1)
        import vinr.video.sink
        import vinr.video.source
    import importlib.metadata

    import vinr.state.folder  # noqa: F401

    importlib.metadata.version("vinr")
    os.fsync = lambda descriptor: None  # a process that ends loses nothing that it wrote; disks are slow
    print(json.dumps({name: try_all(scenarios[name]) for name in sys.argv[1:]}, indent=2))
