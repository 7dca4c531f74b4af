"""The folder of an unfinished encode: who may use it, what becomes of what lies there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import vinr
from vinr.config import default_model
from vinr.errors import OutputError
from vinr.fit import StageBegun
from vinr.state import folder as statefolder
from vinr.state.folder import EncodeJob, StateFolder

TINY = f"{default_model()}-tiny"
JOB = EncodeJob.of(["a.mkv"])
OTHER = EncodeJob.of(["b.mkv"], crop=(16, 16))
Make = Callable[..., StateFolder]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "o.vinr"


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def make(output: Path, notes: list[str]) -> Make:
    def call(job: EncodeJob = JOB, **options: bool | None) -> StateFolder:
        return StateFolder(output, job, on_note=notes.append, **options)

    return call


def interrupt(state: StateFolder, name: str = "fit-00000.safetensors") -> Path:
    """Leave a folder behind as an interrupted encode does; return it."""
    with state:
        folder = state.prepare()
        (folder / name).write_bytes(b"precious")
    return folder


def refuse(state: StateFolder, match: str) -> None:
    with pytest.raises(OutputError, match=match) as caught, state:
        pass
    assert "\n" not in str(caught.value)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_nothing_is_left_of_an_encode_that_ends_well(make: Make, output: Path) -> None:
    with make() as state:
        folder = state.prepare()
        (folder / "segment-00000.safetensors").write_bytes(b"1")
        if os.name != "nt":
            assert folder.stat().st_mode & 0o777 == 0o700
        state.expect(b"whole")
        output.write_bytes(b"whole")
        state.finish()
    assert names(output.parent) == ["o.vinr"]


def test_the_output_does_not_depend_on_the_folder(make: Make, output: Path, notes: list[str]) -> None:
    """Someone removes it while the fit is at work, or puts a file in its place."""
    with make() as state:
        state.prepare()
        shutil.rmtree(state.folder)
        state.expect(b"whole")
        state.folder.write_text("mine")
        state.expect(b"whole")
        state.finish()
    assert names(output.parent) == ["o.vinr.partial"]
    assert notes == []


def test_folder_that_cannot_be_removed_is_said(
    make: Make, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with make() as state:
        folder = state.prepare()

        def refuse(path: Path) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "unlink", refuse)
        state.finish()
        monkeypatch.undo()
    assert notes == [f"{folder}: cannot be removed (Permission denied); remove it yourself"]


def test_nothing_is_left_when_inputs_turn_out_bad(make: Make, output: Path) -> None:
    with pytest.raises(RuntimeError), make():
        raise RuntimeError
    assert names(output.parent) == []

    def fail_while_planning() -> None:
        with make() as state:
            state.prepare()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_while_planning()
    assert names(output.parent) == []


def test_state_of_the_same_job_is_gone_on_with_where_that_is_asked_for(
    make: Make, output: Path, notes: list[str]
) -> None:
    folder = interrupt(make(resume=None), "point-" + 32 * "0" + ".safetensors")
    with make(resume=None) as state:
        assert names(state.prepare()) == ["job.json", "point-" + 32 * "0" + ".safetensors"]
    with make(OTHER, resume=None) as state:
        assert names(state.prepare()) == ["job.json"]
    assert names(output.parent) == [folder.name + "-1"]
    assert len(notes) == 1


# -- locks ---------------------------------------------------------------------------------------------------


def test_second_encode_of_an_output_is_refused_and_touches_nothing(make: Make, output: Path) -> None:
    with make() as state:
        folder = state.prepare()
        (folder / "fit-00000.safetensors").write_bytes(b"precious")
        for options in ({}, {"force": True}, {"resume": True}, {"resume": True, "force": True}):
            refuse(make(**options), r"o\.vinr: another encode is writing it; wait for that")
            refuse(make(OTHER, **options), "another encode is writing it")
        assert (folder / "fit-00000.safetensors").read_bytes() == b"precious"
    assert names(output.parent) == ["o.vinr.partial"]


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_lock_of_another_kind_is_said(make: Make, output: Path, kind: str) -> None:
    lock = output.with_name(".o.vinr.partial.lock")
    victim = output.with_name("victim")
    victim.write_bytes(b"precious")
    if kind == "folder":
        lock.mkdir()
    elif kind == "link":
        lock.symlink_to(victim)
    elif hasattr(os, "mkfifo"):
        os.mkfifo(lock)
    else:
        pytest.skip("the system has no named pipes")
    for options in ({}, {"force": True}, {"resume": True}):
        refuse(make(**options), r"\.o\.vinr\.partial\.lock: is not a regular file, .*o\.vinr; remove it")
    assert names(output.parent) == [lock.name, "victim"]
    assert victim.read_bytes() == b"precious"


@pytest.mark.parametrize("last_look", [1, 2, 3])
def test_lock_that_vanishes_while_it_is_looked_at_is_taken(
    make: Make, output: Path, monkeypatch: pytest.MonkeyPatch, last_look: int
) -> None:
    lock = output.with_name(".o.vinr.partial.lock")
    lock.touch()
    looks, look = [], os.stat

    def look_and_lose(path: Any, **options: Any) -> os.stat_result:
        found = look(path, **options)
        if path == lock:
            looks.append(path)
            if len(looks) == last_look:
                lock.unlink()  # as the process that held it does when it ends
        return found

    monkeypatch.setattr(os, "stat", look_and_lose)
    with make() as state:
        state.prepare()


def test_lock_that_was_left_is_taken(make: Make, output: Path) -> None:
    output.with_name(".o.vinr.partial.lock").touch()
    with make() as state:
        state.prepare()
    assert names(output.parent) == []


def test_lock_holds_between_processes_and_ends_with_them(make: Make, output: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from vinr.state.folder import *\n"
        f"with StateFolder(Path({str(output)!r}), EncodeJob.of(['a.mkv']), on_note=print) as state:\n"
        "    (state.prepare() / 'fit-00000.safetensors').touch()\n"
        "    print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == b"ready"
        refuse(make(force=True), "another encode is writing it")
        other.kill()
    with make(resume=True) as state:
        assert "fit-00000.safetensors" in names(state.prepare())


def test_one_of_many_threads_gets_the_lock(make: Make, output: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(40):
            try:
                with make() as state:
                    inside.append(1)
                    state.prepare()
                    most.append(len(inside))
                    state.finish()
                    inside.pop()
            except OutputError as error:
                assert "another encode" in str(error)  # noqa: PT017 - most are refused

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}
    assert names(output.parent) == []


# -- whose state it is ---------------------------------------------------------------------------------------


def test_state_of_the_same_encode_is_neither_lost_nor_taken_unasked(make: Make) -> None:
    folder = interrupt(make())
    refuse(make(), "continue it with resume=True, or start again with force=True")
    assert names(folder) == ["fit-00000.safetensors", "job.json"]
    with make(resume=True) as state:
        assert names(state.prepare()) == ["fit-00000.safetensors", "job.json"]
    with make(force=True) as state:
        assert names(state.prepare()) == ["job.json"]
    assert not folder.exists()


@pytest.mark.parametrize("force", [False, True])
def test_state_of_another_encode_is_set_aside(
    make: Make, output: Path, notes: list[str], force: bool
) -> None:
    folder = interrupt(make(OTHER))
    (output.parent / "o.vinr.partial-1").mkdir()
    with make(force=force) as state:
        assert names(state.prepare()) == ["job.json"]
    assert not folder.exists()
    assert names(output.parent / "o.vinr.partial-2") == ["fit-00000.safetensors", "job.json"]
    assert len(notes) == 1
    assert "of b.mkv" in notes[0]
    assert "kept as o.vinr.partial-2" in notes[0]


def test_state_of_another_encode_is_not_resumed(make: Make) -> None:
    folder = interrupt(make(OTHER))
    refuse(make(resume=True), r"interrupted encode of b\.mkv, crop \[16, 16\]; leave resume out")
    assert names(folder) == ["fit-00000.safetensors", "job.json"]


def test_nothing_is_set_aside_before_the_inputs_are_known_to_be_good(make: Make) -> None:
    folder = interrupt(make(OTHER))
    with make():
        pass
    assert names(folder) == ["fit-00000.safetensors", "job.json"]


def test_folder_without_state_stops_nobody(make: Make, output: Path) -> None:
    """A process that was killed before it kept anything leaves such a folder."""
    folder = output.with_name("o.vinr.partial")
    folder.mkdir()
    (folder / ".fit-00000.safetensors.0123456789ab.part").write_bytes(b"half")
    (folder / "job.json").write_text(json.dumps(OTHER.document()))
    with make() as state:
        state.prepare()
        assert names(folder) == ["job.json"]
        state.finish()
    assert names(output.parent) == []


@pytest.mark.parametrize("text", ["", "[1]", "{", "{}", "[" * 3000, '{"inputs": 3, "frames": {}}'])
def test_job_that_cannot_be_read(make: Make, text: str) -> None:
    folder = interrupt(make())
    (folder / "job.json").write_text(text)
    refuse(make(), "interrupted encode")
    with make(resume=True) as state:
        assert "fit-00000.safetensors" in names(state.prepare())


def test_names_of_inputs_that_are_no_text(make: Make) -> None:
    job = EncodeJob.of([os.fsdecode(b"caf\xe9.mkv")])
    interrupt(make(job))
    with make(job, resume=True) as state:
        state.prepare()
    refuse(make(resume=True), "interrupted encode of caf")


def test_moved_folders_go_on(tmp_path: Path) -> None:
    assert EncodeJob.of([tmp_path / "a" / "clip.mkv"]) == EncodeJob.of(["elsewhere/clip.mkv"])
    assert EncodeJob.of(["clip.mkv"]) != EncodeJob.of(["clip.mkv"], frames=(0, 5))


# -- finished already ----------------------------------------------------------------------------------------


def test_output_that_is_whole_is_called_finished_and_the_rest_is_cleaned(make: Make, output: Path) -> None:
    with make() as state:
        (state.prepare() / "segment-00000.safetensors").write_bytes(b"1")
        state.expect(b"whole")
        output.write_bytes(b"whole")  # and killed here
    refuse(make(), "exists already")
    refuse(make(resume=True), r"o\.vinr: is already complete")
    assert names(output.parent) == ["o.vinr"]
    refuse(make(resume=True), "no interrupted encode of it can be resumed")


def test_older_output_is_not_taken_for_the_finished_one(make: Make, output: Path) -> None:
    output.write_bytes(b"old")
    with make(force=True) as state:
        folder = state.prepare()
        (folder / "segment-00000.safetensors").write_bytes(b"1")
        state.expect(b"new")
    refuse(make(resume=True), "exists already")
    assert "segment-00000.safetensors" in names(folder)
    assert output.read_bytes() == b"old"


# -- what is not vinr's --------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"resume": True}, {"force": True}])
def test_files_of_others_stay(make: Make, notes: list[str], output: Path, options: dict[str, bool]) -> None:
    folder = interrupt(make())
    mine = ["fit-1.safetensors", "notes.txt", "segment-00000.safetensors.bak"]
    for name in mine:
        (folder / name).write_text("mine")
    (folder / "folder").mkdir()
    with make(**options) as state:
        state.prepare()
        output.write_bytes(b"whole")
        state.finish()
    assert names(folder) == sorted([*mine, "folder"])
    assert len(notes) == 1
    assert "which vinr did not write; the folder stays" in notes[0]


def test_link_in_place_of_the_folder_is_refused(make: Make, output: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "fit-00000.safetensors").write_bytes(b"mine")
    output.with_name("o.vinr.partial").symlink_to(victim)
    for options in ({}, {"force": True}, {"resume": True}):
        refuse(make(**options), r"o\.vinr\.partial: is a symbolic link")
    assert names(victim) == ["fit-00000.safetensors"]
    assert names(tmp_path) == ["o.vinr.partial", "victim"]


def test_link_in_place_of_a_state_is_refused(make: Make, tmp_path: Path) -> None:
    folder = interrupt(make())
    (tmp_path / "mine").write_bytes(b"mine")
    (folder / "segment-00000.safetensors").symlink_to(tmp_path / "mine")
    refuse(make(resume=True), r"segment-00000\.safetensors: is not a regular file")
    assert (tmp_path / "mine").read_bytes() == b"mine"


def test_file_in_place_of_the_folder_is_refused(make: Make, output: Path) -> None:
    output.with_name("o.vinr.partial").write_bytes(b"mine")
    refuse(make(force=True), "is not a folder")


@pytest.mark.skipif(os.name == "nt", reason="owners are POSIX's")
def test_folder_of_another_user_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = interrupt(make())
    # Only root gives files away, so it is this user who becomes another.
    other = folder.stat().st_uid + 1
    monkeypatch.setattr(statefolder.os, "geteuid", lambda: other)
    monkeypatch.setattr(statefolder, "owner_of_new_files", lambda folder: other)
    for options in ({"resume": True}, {"force": True}):
        refuse(make(**options), "belongs to another user")


@pytest.mark.skipif(os.name == "nt", reason="owners are POSIX's")
def test_file_system_that_gives_files_to_someone_else(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = interrupt(make())
    monkeypatch.setattr(statefolder.os, "geteuid", lambda: folder.stat().st_uid + 1)
    with make(resume=True) as state:
        state.prepare()


def test_output_that_is_a_link(make: Make, output: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    real = tmp_path / "real" / "r.vinr"
    real.write_bytes(b"old")
    output.symlink_to(real)
    refuse(make(), r"o\.vinr: exists already")
    with make(force=True) as state:
        assert state.prepare() == real.with_name("r.vinr.partial")
        state.finish()
    real.unlink()
    refuse(make(force=True), "symbolic link to .* which does not exist")


# -- a whole encode ------------------------------------------------------------------------------------------


def test_encode_takes_the_lock_and_leaves_only_its_output(
    make: Make, output: Path, tiny_video: Path, notes: list[str]
) -> None:
    interrupt(make(OTHER))
    seen: list[str] = []

    def on_event(event: object) -> None:
        seen.append(str(event))
        if len(seen) == 2:  # after the plan, in the middle of the fit
            refuse(make(force=True), "another encode is writing it")

    vinr.encode(tiny_video, output, preset=TINY, epochs=1, device="cpu", on_event=on_event)
    assert len(seen) > 2
    assert any("kept as o.vinr.partial-1" in text for text in seen)
    assert names(output.parent) == ["o.vinr", "o.vinr.partial-1"]
    with pytest.raises(OutputError, match="no interrupted encode"):
        vinr.encode(tiny_video, output, preset=TINY, epochs=1, device="cpu", resume=True)


def test_what_was_fitted_is_kept_where_the_output_cannot_be_written(output: Path, tiny_video: Path) -> None:
    """Someone else writes a file of that name meanwhile; advice to start anew alone would cost the fit."""

    def on_event(event: object) -> None:
        output.write_bytes(b"theirs")

    settings: dict[str, Any] = {"preset": TINY, "epochs": 1, "device": "cpu"}
    with pytest.raises(OutputError, match=r"exists already; .*; what was fitted is kept: resume=True"):
        vinr.encode(tiny_video, output, on_event=on_event, **settings)
    assert output.read_bytes() == b"theirs"
    events: list[object] = []
    vinr.encode(tiny_video, output, resume=True, force=True, on_event=events.append, **settings)
    told = [type(event).__name__ for event in events if not isinstance(event, StageBegun)]
    assert set(told) == {"Noted", "Written"}  # nothing is fitted
    assert names(output.parent) == ["o.vinr"]


@pytest.mark.parametrize("segment", [0, -1, float("nan"), float("inf"), "x"])
def test_segments_of_no_length_are_refused(output: Path, tiny_video: Path, segment: float | str) -> None:
    with pytest.raises(vinr.UsageError, match=r"^segment .*: give a time such as 5s or 1m"):
        vinr.encode(tiny_video, output, preset=TINY, epochs=1, device="cpu", segment=segment)
    assert names(output.parent) == []


def test_no_input_is_refused_in_a_line(output: Path) -> None:
    with pytest.raises(vinr.UsageError, match=r"^no input is given; "):
        vinr.encode([], output)
    assert names(output.parent) == []
