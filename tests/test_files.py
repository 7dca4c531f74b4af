"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vinr.errors import OutputError
from vinr.files import atomic_folder, atomic_path


def write_and_raise(target: Path, error: BaseException) -> None:
    """Fail half-way."""
    with atomic_path(target, force=True) as temporary:
        temporary.write_bytes(b"half")
        raise error


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
        with pytest.raises(OutputError, match="no regular file"), atomic_path(target, force=True):
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
    with pytest.raises(OutputError, match="no folder"), atomic_folder(tmp_path / "file", replaceable="*"):
        pass
