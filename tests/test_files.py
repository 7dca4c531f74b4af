"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import vinr
from vinr import files, temporaries
from vinr.errors import OutputError
from vinr.files import atomic_files, atomic_folder, atomic_path, followed


def write_and_raise(target: Path, error: BaseException) -> None:
    """Fail half-way."""
    with atomic_path(target, force=True) as temporary:
        temporary.write_bytes(b"half")
        raise error


def test_links_in_a_circle_are_refused_in_a_line(tmp_path: Path) -> None:
    """As outputs and as inputs."""
    first, second = tmp_path / "a.vinr", tmp_path / "b.vinr"
    first.symlink_to(second)
    second.symlink_to(first)
    with pytest.raises(OutputError, match="is a symbolic link to"), atomic_path(followed(first)):
        pass
    with pytest.raises(OutputError, match="is a symbolic link to"):
        vinr.encode(tmp_path / "c.mp4", first)
    with pytest.raises(vinr.InputError, match=r"a\.vinr"):
        vinr.encode(first, tmp_path / "o.vinr")


def test_file_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.parent == tmp_path
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [target]


def test_error_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_and_raise(target, KeyboardInterrupt())
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_existing_file_needs_force(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    with pytest.raises(OutputError, match="exists already"), atomic_path(target):
        pass
    with atomic_path(target, force=True) as temporary:
        temporary.write_bytes(b"new")
    assert target.read_bytes() == b"new"


def test_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"

    def write_both() -> None:
        with atomic_path(target) as temporary:
            temporary.write_bytes(b"mine")
            target.write_bytes(b"theirs")

    with pytest.raises(OutputError, match="exists already"):
        write_both()
    assert target.read_bytes() == b"theirs"


def test_what_is_no_file_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "folder", Path(os.devnull)):
        with pytest.raises(OutputError, match="not a regular file"), atomic_path(target, force=True):
            pass
    with pytest.raises(OutputError, match="does not exist"), atomic_path(tmp_path / "none" / "a"):
        pass


def test_system_errors_are_output_errors(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No space left on device"):
        write_and_raise(tmp_path / "a", OSError(28, "No space left on device"))
    assert list(tmp_path.iterdir()) == []


def test_folder_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "frames"
    with atomic_folder(target, replaceable="*.png") as temporary:
        (temporary / "a.png").write_bytes(b"1")
        assert not target.exists()
    with atomic_folder(target, replaceable="*.png", force=True) as temporary:
        (temporary / "b.png").write_bytes(b"2")
    assert [path.name for path in target.iterdir()] == ["b.png"]
    assert list(tmp_path.iterdir()) == [target]


def test_folder_of_other_things_is_never_replaced(tmp_path: Path) -> None:
    target = tmp_path / "photos"
    target.mkdir()
    (target / "a.png").write_bytes(b"1")
    with pytest.raises(OutputError, match="exists already"), atomic_folder(target, replaceable="*.png"):
        pass
    (target / "letter.txt").write_text("dear", encoding="utf-8")
    with (
        pytest.raises(OutputError, match="other than"),
        atomic_folder(target, replaceable="*.png", force=True),
    ):
        pass
    assert sorted(path.name for path in target.iterdir()) == ["a.png", "letter.txt"]
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="not a folder"), atomic_folder(tmp_path / "file", replaceable="*"):
        pass


# -- links, pipes, refusals ----------------------------------------------------------------------------------


def test_of_a_link_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    real, link = tmp_path / "real" / "a.bin", tmp_path / "link.bin"
    real.write_bytes(b"old")
    link.symlink_to(real)
    with pytest.raises(OutputError, match="exists already"), atomic_path(link):
        pass
    with atomic_path(link, force=True) as temporary:
        assert temporary.parent == real.parent
        temporary.write_bytes(b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert list(real.parent.iterdir()) == [real]


@pytest.mark.parametrize("force", [False, True])
def test_link_to_nothing_is_refused(tmp_path: Path, force: bool) -> None:
    link = tmp_path / "link.bin"
    link.symlink_to(tmp_path / "none" / "a.bin")
    with (
        pytest.raises(OutputError, match=r"symbolic link to .* does not exist"),
        atomic_path(link, force=force),
    ):
        pass
    with (
        pytest.raises(OutputError, match=r"symbolic link to .* does not exist"),
        atomic_folder(link, replaceable="*", force=force),
    ):
        pass
    assert link.is_symlink()
    assert list(tmp_path.iterdir()) == [link]


def test_of_a_link_to_a_folder_the_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    with atomic_folder(link, replaceable="*.png", force=True) as temporary:
        (temporary / "b.png").write_bytes(b"new")
    assert link.is_symlink()
    assert [path.name for path in link.iterdir()] == ["b.png"]


def test_what_stops_the_removal_of_a_temporary_does_not_hide_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(30, "Read-only file system")

    def write() -> None:
        with atomic_path(tmp_path / "a"):
            monkeypatch.setattr(Path, "unlink", refuse)
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"a: cannot be written: No space left on device"):
        write()


def test_folder_that_cannot_be_written_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> int:
        raise PermissionError(13, "Permission denied")

    # A read-only folder stops nobody who is root, as tests in containers are.
    monkeypatch.setattr(os, "open", refuse)
    with (
        pytest.raises(OutputError, match=r"a: cannot be written: Permission denied"),
        atomic_path(tmp_path / "a"),
    ):
        pass


def test_folder_in_which_nothing_can_be_locked_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def refuse(path: Path) -> Iterator[bool]:
        yield False

    # As in /proc, where no file can be made.
    monkeypatch.setattr(temporaries, "try_lock", refuse)
    with pytest.raises(OutputError, match="no file can be created and locked"), atomic_path(tmp_path / "a"):
        pass


# -- what killed processes leave -----------------------------------------------------------------------------


def leftover(target: Path, token: str = "0123456789ab", suffix: str = "part") -> Path:
    path = target.with_name(f".{target.name}.{token}.{suffix}")
    path.write_bytes(b"half")
    return path


def test_temporaries_of_killed_processes_are_removed_by_the_next_write(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    for suffix in ("part", "lock"):
        leftover(target, suffix=suffix)
    leftover(target, "ffffffffffff")
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"new")
    assert list(tmp_path.iterdir()) == [target]


def test_temporaries_of_others_are_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    others = {
        leftover(tmp_path / "b.bin"),
        leftover(target, "0123456789"),
        leftover(target, suffix="txt"),
        tmp_path / ".vinr-0123456789ab.part",
    }
    (tmp_path / ".vinr-0123456789ab.part").write_bytes(b"of an older version")
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"new")
    assert set(tmp_path.iterdir()) == {target, *others}


def test_temporaries_that_are_in_use_are_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    with atomic_path(target, force=True) as first:
        first.write_bytes(b"first")
        with atomic_path(target, force=True) as second:
            second.write_bytes(b"second")
        assert target.read_bytes() == b"second"
        assert first.read_bytes() == b"first"
    assert target.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("length", [200, 240, 255])
def test_long_names(tmp_path: Path, length: int) -> None:
    target = tmp_path / ("é" * (length // 2) + "x" * (length % 2))
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"old")
        left = temporary.with_name(temporary.name.replace(temporary.name.split(".")[-2], "0123456789ab"))
    left.write_bytes(b"half")
    with atomic_path(target, force=True) as temporary:
        temporary.write_bytes(b"new")
    assert list(tmp_path.iterdir()) == [target]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    target = tmp_path / os.fsdecode(b"caf\xe9\n.bin")
    leftover(target)
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"new")
    assert list(tmp_path.iterdir()) == [target]


# -- folders -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exchanges", [True, False])
def test_folders_change_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool) -> None:
    if not exchanges:
        monkeypatch.setattr(files, "exchange", lambda first, second: False)
    target = tmp_path / "frames"
    target.mkdir()
    (target / "a.png").write_bytes(b"old")
    with atomic_folder(target, replaceable="*.png", force=True) as temporary:
        (temporary / "b.png").write_bytes(b"new")
    assert [path.name for path in target.iterdir()] == ["b.png"]
    assert list(tmp_path.iterdir()) == [target]


def test_folder_set_aside_by_a_killed_process_comes_back(tmp_path: Path) -> None:
    target = tmp_path / "frames"
    aside = tmp_path / ".frames.0123456789ab.old"
    aside.mkdir()
    (aside / "a.png").write_bytes(b"old")
    with pytest.raises(OutputError, match="exists already"), atomic_folder(target, replaceable="*.png"):
        pass
    assert [path.name for path in target.iterdir()] == ["a.png"]
    assert list(tmp_path.iterdir()) == [target]


def test_mount_point_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: True)
    with (
        pytest.raises(OutputError, match="mount point"),
        atomic_folder(tmp_path / "out", replaceable="*.png", force=True),
    ):
        pass


# -- sets of files -------------------------------------------------------------------------------------------


def write_set(pattern: Path, which: int | tuple[int, ...], content: bytes, *, force: bool = False) -> None:
    numbers = range(which) if isinstance(which, int) else which
    with atomic_files(pattern, numbers, force=force) as folder:
        for number in numbers:
            (folder / (pattern.name % number)).write_bytes(content)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_set_appears_at_the_end(tmp_path: Path) -> None:
    pattern = tmp_path / "f_%02d.png"
    write_set(pattern, 2, b"old")
    with pytest.raises(OutputError, match=r"f_00\.png: exists already"):
        write_set(pattern, 2, b"new")
    assert contents(tmp_path) == {"f_00.png": b"old", "f_01.png": b"old"}
    write_set(pattern, 3, b"new", force=True)
    assert contents(tmp_path) == {"f_00.png": b"new", "f_01.png": b"new", "f_02.png": b"new"}


def test_shorter_set_does_not_mix_with_a_longer_one(tmp_path: Path) -> None:
    pattern = tmp_path / "f_%02d.png"
    write_set(pattern, 4, b"old")
    (tmp_path / "f_1.png").write_bytes(b"of another pattern")
    with pytest.raises(OutputError, match=r"f_02\.png: 2 files of another set"):
        write_set(pattern, 2, b"new", force=True)
    assert set(contents(tmp_path).values()) == {b"old", b"of another pattern"}


def test_set_with_gaps_replaces_itself_and_mixes_with_no_other(tmp_path: Path) -> None:
    """Frames of a damaged file keep their numbers: 4 files, of which none is number 2, and one number 4."""
    pattern = tmp_path / "f_%d.png"
    for content in (b"old", b"new"):
        write_set(pattern, (0, 1, 3, 4), content, force=True)
        assert contents(tmp_path) == dict.fromkeys(("f_0.png", "f_1.png", "f_3.png", "f_4.png"), content)
    (tmp_path / "f_2.png").write_bytes(b"of another set")
    with pytest.raises(OutputError, match=r"f_2\.png: 1 file of another set"):
        write_set(pattern, (0, 1, 3, 4), b"newer", force=True)
    assert b"newer" not in contents(tmp_path).values()


def test_set_that_was_killed_among_its_renames_is_finished_first(tmp_path: Path) -> None:
    pattern = tmp_path / "f_%02d.png"
    write_set(pattern, 1, b"first")
    ready = tmp_path / ".f_%02d.png.0123456789ab.ready"
    ready.mkdir()
    (ready / "f_01.png").write_bytes(b"first")
    with pytest.raises(OutputError, match="exists already"):
        write_set(pattern, 2, b"second")
    assert contents(tmp_path) == {"f_00.png": b"first", "f_01.png": b"first"}


def test_finishing_a_set_overwrites_nothing_that_came_since(tmp_path: Path) -> None:
    pattern = tmp_path / "f_%02d.png"
    ready = tmp_path / ".f_%02d.png.0123456789ab.ready"
    ready.mkdir()
    (ready / "f_01.png").write_bytes(b"vinr's")
    (tmp_path / "f_01.png").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"f_01\.png: exists, and .*ready holds a file of that name"):
        write_set(pattern, 2, b"new", force=True)
    assert (tmp_path / "f_01.png").read_bytes() == b"mine"
    assert (ready / "f_01.png").read_bytes() == b"vinr's"


def test_links_in_a_set_are_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"mine")
    (tmp_path / "f_00.png").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="not a regular file"):
        write_set(tmp_path / "f_%02d.png", 1, b"new", force=True)
    assert (tmp_path / "elsewhere").read_bytes() == b"mine"
