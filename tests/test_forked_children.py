"""A child that is forked inside vinr's work and ends by itself: what its parent has made stays."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import pytest

import vinr
from clips import moving_shapes
from vinr.codecs.anchors import parse_anchor
from vinr.comparison.anchor_runs import measure_anchor
from vinr.comparison.rd import RDPoint
from vinr.config import default_model
from vinr.decoding.settings import DecodeSettings
from vinr.errors import OutputError
from vinr.files import atomic_files, atomic_folder, atomic_path
from vinr.fit import Event, RoundDone
from vinr.fit import keeper as keeper_module
from vinr.state.folder import EncodeJob, StateFolder
from vinr.temporaries import temporary_folder, try_lock

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked on this system")
TINY: Final = f"{default_model()}-tiny"
RAISED, RETURNED, REFUSED, LOCKED, FREE = 41, 42, 43, 44, 45


class UnwoundError(Exception):
    """Leaves every ``with`` of the child."""


def raising() -> None:
    raise UnwoundError


def exiting() -> None:
    sys.exit(RAISED)


def in_a_child(work: Callable[[], object]) -> int:
    """Run ``work`` in a child, to its end; return how that came."""
    process = os.fork()
    if not process:
        os._exit(_outcome(work))
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _outcome(work: Callable[[], object]) -> int:
    try:
        work()
    except OutputError as error:
        return REFUSED if "forked" in str(error) else 1
    except (UnwoundError, SystemExit):
        return RAISED
    except BaseException:
        return 1
    return RETURNED


class Fork:
    """Forks in the middle of a body, once a call; the child does ``end`` there."""

    def __init__(self, end: Callable[[], object] | None = None) -> None:
        self.end, self.status = end, 0
        self.is_child = False

    def __call__(self) -> None:
        process = os.fork()
        if process:
            self.status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            return
        self.is_child = True
        if self.end is not None:
            self.end()


def run(body: Callable[[Fork], object], fork: Fork) -> int:
    """Do ``body``, which forks; return how the child's copy of it ended."""
    try:
        body(fork)
    except BaseException as error:
        if not fork.is_child:
            raise
        refused = isinstance(error, OutputError) and "forked" in str(error)
        os._exit(REFUSED if refused else RAISED if isinstance(error, (UnwoundError, SystemExit)) else 1)
    if fork.is_child:
        os._exit(RETURNED)
    return fork.status


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def is_locked(path: Path) -> bool:
    """Return whether another process finds ``path`` locked."""

    def ask() -> None:
        with try_lock(path) as is_mine:
            os._exit(FREE if is_mine else LOCKED)

    return in_a_child(ask) == LOCKED


ENDS: Final = {"exception": raising, "sys.exit": exiting}


@pytest.fixture(params=ENDS)
def end(request: pytest.FixtureRequest) -> Callable[[], None]:
    return ENDS[request.param]


# -- what is open when the child ends ------------------------------------------------------------------------


@contextmanager
def _file(folder: Path) -> Iterator[None]:
    with atomic_path(folder / "a.bin") as temporary:
        temporary.write_bytes(b"whole")
        yield


@contextmanager
def _folder(folder: Path) -> Iterator[None]:
    with atomic_folder(folder / "frames", replaceable="*.png") as temporary:
        (temporary / "0.png").write_bytes(b"whole")
        yield


@contextmanager
def _set(folder: Path) -> Iterator[None]:
    with atomic_files(folder / "f_%02d.png", range(1)) as temporary:
        (temporary / "f_00.png").write_bytes(b"whole")
        yield


@contextmanager
def _state(folder: Path) -> Iterator[None]:
    with StateFolder(folder / "o.vinr", EncodeJob.of(["a.mkv"]), on_note=print) as state:
        state.prepare()
        yield
        state.finish()


def _claim(folder: Path) -> AbstractContextManager[object]:
    return try_lock(folder / "work.lock")


def _temporary(folder: Path, patch: pytest.MonkeyPatch) -> AbstractContextManager[object]:
    patch.setattr("tempfile.tempdir", str(folder))
    return temporary_folder("vinr-")


OPEN: Final = {"file": _file, "folder": _folder, "set": _set, "state": _state, "claim": _claim}
LEFT: Final = {"file": ["a.bin"], "folder": ["frames", "frames/0.png"], "set": ["f_00.png"]}


@pytest.mark.parametrize("kind", [*OPEN, "temporary"])
def test_a_child_leaves_alone_what_its_parent_has_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, end: Callable[[], None]
) -> None:
    opened = OPEN.get(kind, partial(_temporary, patch=monkeypatch))

    def body(fork: Fork) -> None:
        with opened(tmp_path):
            before = tree(tmp_path)
            assert before
            fork()
            assert tree(tmp_path) == before
            assert all(is_locked(path) for path in tmp_path.rglob("*.lock"))

    assert run(body, Fork(end)) == RAISED
    assert list(tree(tmp_path)) == LEFT.get(kind, [])


@pytest.mark.parametrize("kind", ["file", "folder", "set", "state"])
def test_a_child_that_goes_on_is_refused(tmp_path: Path, kind: str) -> None:
    def body(fork: Fork) -> None:
        with OPEN[kind](tmp_path):
            before = tree(tmp_path)
            fork()
            assert tree(tmp_path) == before

    assert run(body, Fork()) == REFUSED
    assert list(tree(tmp_path)) == LEFT.get(kind, [])


def test_a_lock_is_that_of_the_parent_alone(tmp_path: Path) -> None:
    """While a child lives, the parent can let go; when it ends, the parent has the lock still."""
    path = tmp_path / "a.lock"
    read, write = os.pipe()
    with try_lock(path) as is_mine:
        assert is_mine
        child = os.fork()
        if not child:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
        assert is_locked(path)
    assert not is_locked(path)
    os.close(read)
    os.close(write)
    os.waitpid(child, 0)


# -- encodes -------------------------------------------------------------------------------------------------


def encode(video: Path, output: Path, on_round: Callable[[], object] | None = None, number: int = 3) -> bytes:
    """Encode; call ``on_round`` after round ``number``, counted from 1."""
    rounds = 0

    def note(event: Event) -> None:
        nonlocal rounds
        rounds += isinstance(event, RoundDone)
        if on_round is not None and isinstance(event, RoundDone) and rounds == number:
            on_round()

    vinr.encode(video, output, preset=TINY, epochs=4, device="cpu", frames=(0, 4), on_event=note)
    return output.read_bytes()


@pytest.mark.parametrize(("end", "number"), [(raising, 1), (exiting, 3)])
def test_an_encode_outlives_a_child_of_its_callback(
    tiny_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: Callable[[], None], number: int
) -> None:
    right = encode(tiny_video, tmp_path / "right.vinr")
    folder = tmp_path / "encode"
    folder.mkdir()
    output, lock = folder / "o.vinr", folder / ".o.vinr.partial.lock"
    if number == 3:
        monkeypatch.setattr(keeper_module, "CHECKPOINT_SECONDS", 0.0)  # there is a state by then

    def body(fork: Fork) -> None:
        def on_round() -> None:
            before = tree(folder)
            assert before
            fork()
            assert tree(folder) == before
            assert is_locked(lock)

        assert encode(tiny_video, output, on_round, number) == right

    assert run(body, Fork(end)) == RAISED
    assert list(tree(folder)) == [output.name]


def test_a_child_that_goes_on_encoding_is_refused(tiny_video: Path, tmp_path: Path) -> None:
    output = tmp_path / "o.vinr"

    def body(fork: Fork) -> None:
        encode(tiny_video, output, fork)

    assert run(body, Fork()) == REFUSED
    assert list(tree(tmp_path)) == [output.name]


def test_what_a_child_opens_itself_is_its_own(tiny_video: Path, tmp_path: Path) -> None:
    """In the child of one encode another one ends well."""
    right = encode(tiny_video, tmp_path / "right.vinr")
    statuses = []

    def fork() -> None:
        statuses.append(in_a_child(lambda: encode(tiny_video, tmp_path / "child.vinr")))

    assert encode(tiny_video, tmp_path / "parent.vinr", fork) == right
    assert statuses == [RETURNED]
    assert (tmp_path / "child.vinr").read_bytes() == right
    assert sorted(tree(tmp_path)) == ["child.vinr", "parent.vinr", "right.vinr"]


def test_the_interpreter_of_a_child_may_end(tmp_path: Path) -> None:
    """By ``sys.exit``, through everything that is done at the end of a process."""
    check_interpreter(
        tmp_path,
        "from pathlib import Path\n"
        "from vinr.files import atomic_path\n"
        "from vinr.state.folder import EncodeJob, StateFolder\n"
        "output = Path('o.vinr')\n"
        "with StateFolder(output, EncodeJob.of(['a.mkv']), on_note=print) as state:\n"
        "    (state.prepare() / 'fit-00000.safetensors').touch()\n"
        "    with atomic_path(output) as temporary:\n"
        "        temporary.write_bytes(b'whole')\n"
        "        fork()\n"
        "        assert len(list(state.prepare().iterdir())) == 1\n"
        "    state.finish()\n",
    )


@pytest.mark.slow  # loads PyTorch and its compiler, from text where Python keeps no compiled modules
def test_the_interpreter_of_a_child_of_an_encode_may_end(tiny_video: Path, tmp_path: Path) -> None:
    check_interpreter(
        tmp_path,
        "import vinr\n"
        "def on_event(event):\n"
        "    if type(event).__name__ == 'RoundDone': fork()\n"
        f"vinr.encode({str(tiny_video)!r}, 'o.vinr', preset={TINY!r}, epochs=1, device='cpu',\n"
        "            frames=(0, 4), on_event=on_event)\n",
    )


def check_interpreter(folder: Path, work: str) -> None:
    """Assert that a program does ``work``, whose call of ``fork()`` makes a child that ends."""
    script = (
        "import os, sys\n"
        "statuses = []\n"
        "def fork():\n"
        "    if statuses: return\n"
        "    child = os.fork()\n"
        f"    if not child: sys.exit({RAISED})\n"
        "    statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        f"{work}"
        "print(*statuses)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout) == (0, f"{RAISED}\n"), run.stderr
    assert list(tree(folder)) == ["o.vinr"]


# -- videos --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.y4m", "frames/", "f_%03d.png"])
def test_decoding_outlives_a_child_of_its_callback(
    tiny_file: Path, tmp_path: Path, end: Callable[[], None], name: str
) -> None:
    def decode(folder: Path, at_frame: Callable[[], object] | None = None) -> dict[str, bytes | None]:
        folder.mkdir()

        def on_frame(done: int, total: int) -> None:
            if done == total - 2 and at_frame is not None:
                at_frame()

        output = f"{folder}/{name}"
        settings = DecodeSettings(batch=1)
        vinr.decode(tiny_file, output, device="cpu", settings=settings, on_frame=on_frame)
        return tree(folder)

    right = decode(tmp_path / "right")
    assert run(lambda fork: check_equal(decode(tmp_path / "forked", fork), right), Fork(end)) == RAISED
    assert tree(tmp_path / "forked") == right
    assert run(lambda fork: decode(tmp_path / "on", fork), Fork()) == REFUSED
    assert tree(tmp_path / "on") == right


def check_equal(found: object, expected: object) -> None:
    assert found == expected


def test_an_anchor_outlives_a_child_of_its_callback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: Callable[[], None]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    clip = moving_shapes(num_frames=6, height=36, width=64)

    def measure(at_frame: Callable[[], object] | None = None) -> RDPoint:
        calls = 0

        def on_frame(done: int, total: int) -> None:
            nonlocal calls
            calls += 1
            if calls in (3, total + 3) and at_frame is not None:  # encoding, measuring
                at_frame()

        return measure_anchor(anchor, 30, clip, upsampling="nearest", on_frame=on_frame)

    anchor, _ = parse_anchor("x264")
    right = measure()

    def body(fork: Fork) -> None:
        point = measure(fork)
        assert (point.num_bytes, point.psnr_db) == (right.num_bytes, right.psnr_db)

    assert run(body, Fork(end)) == RAISED
    assert tree(tmp_path) == {}
