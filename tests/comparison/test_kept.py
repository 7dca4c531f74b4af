"""What a comparison keeps of its work: found by everything that it depends on, and by nothing less."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from clips import moving_shapes, write_clip
from vinr.codecs.anchors import parse_anchor
from vinr.comparison import kept
from vinr.comparison.kept import (
    KeptNetwork,
    KeptWork,
    describe_video,
    hash_file,
    kept_in_words,
    work_of_codec,
)
from vinr.comparison.rd import RDPoint
from vinr.errors import OutputError
from vinr.video.source import open_video

VIDEO = {"frames": "abc", "size": [8, 36, 50]}
WORK = {"codec": "x264 medium", "quality": 30}
POINT = RDPoint(
    "CRF 30", 0.25, num_bytes=1234, psnr_db=31.5, per_frame_psnr_db=(31.0, 32.0), options={"crf": "30"}
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "page.html.partial"
    path.mkdir()
    return path


@pytest.fixture
def notes() -> list[str]:
    return []


def work_in(folder: Path, notes: list[str], video: Mapping[str, Any] = VIDEO) -> KeptWork:
    return KeptWork(folder, lambda: video, notes.append)


def test_a_point_comes_back_with_its_crops(folder: Path, notes: list[str]) -> None:
    crop_CHW = torch.randint(256, (3, 5, 7), dtype=torch.uint8)
    work_in(folder, notes).keep_point(WORK, POINT, {3: crop_CHW, 12: 255 - crop_CHW})
    found = work_in(folder, notes).find_point(WORK)
    assert found is not None
    point, crops = found
    assert point == replace(POINT, setting="")
    assert crops.keys() == {3, 12}
    assert torch.equal(crops[3], crop_CHW)
    assert torch.equal(crops[12], 255 - crop_CHW)
    assert notes == []


def test_a_setting_may_be_a_name_that_is_no_text(folder: Path, notes: list[str]) -> None:
    named = RDPoint("caf\udce9.vinr", 0.25)
    work_in(folder, notes).keep_point(WORK, named, {})
    found = work_in(folder, notes).find_point(WORK)
    assert found is not None
    assert found[0].setting == ""


@pytest.mark.parametrize(
    ("video", "work"),
    [
        ({**VIDEO, "frames": "abd"}, WORK),
        ({**VIDEO, "times": None}, WORK),
        (VIDEO, {**WORK, "quality": 31}),
        (VIDEO, {**WORK, "threads": 1}),
        (VIDEO, {"quality": 30}),
    ],
)
def test_whatever_differs_another_point_is_meant(
    folder: Path, notes: list[str], video: dict[str, Any], work: dict[str, Any]
) -> None:
    work_in(folder, notes).keep_point(WORK, POINT, {})
    assert work_in(folder, notes, video).find_point(work) is None
    assert work_in(folder, notes).find_point(dict(reversed(WORK.items()))) is not None  # in any order
    assert notes == []


def test_a_name_that_two_works_share_is_not_enough(
    folder: Path, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of a file has a part of the fingerprint; the file has all of it."""
    monkeypatch.setattr(kept, "KEY_LENGTH", 0)
    work_in(folder, notes).keep_point(WORK, POINT, {})
    other = work_in(folder, notes)
    assert other.find_point({**WORK, "quality": 31}) is None
    assert other.find_point(WORK) is not None


def test_frames_are_hashed_only_where_something_may_be_found(folder: Path, notes: list[str]) -> None:
    calls = []

    def video() -> dict[str, Any]:
        calls.append(1)
        return VIDEO

    work = KeptWork(folder, video, notes.append)
    assert work.find_point(WORK) is None
    assert work.find_network(WORK) is None
    assert calls == []
    work.keep_point(WORK, POINT, {})
    work.keep_network(WORK, replaces=None)
    assert work.find_point(WORK) is not None
    assert calls == [1]


@pytest.mark.parametrize("place", [0, 40, -1])
def test_what_is_damaged_is_made_anew_with_a_word(folder: Path, notes: list[str], place: int) -> None:
    work_in(folder, notes).keep_point(WORK, POINT, {0: torch.zeros(3, 4, 4, dtype=torch.uint8)})
    (path,) = folder.iterdir()
    content = bytearray(path.read_bytes())
    content[place] ^= 16
    path.write_bytes(content)
    assert work_in(folder, notes).find_point(WORK) is None
    assert len(notes) == 1
    assert notes[0].endswith("; it is made anew")


def test_a_network_is_kept_as_it_goes_on(folder: Path, notes: list[str]) -> None:
    work = work_in(folder, notes)
    begun = work.keep_network(WORK, replaces=None)
    assert (begun.seconds, begun.file, begun.num_parameters) == (None, None, 0)
    work.keep_network(WORK, replaces=None, seconds=12.5, file="f" * 64, num_parameters=9_000, num_epochs=2.0)
    found = work_in(folder, notes).find_network(WORK)
    assert found is not None
    assert (found.seconds, found.file, found.num_parameters, found.num_epochs) == (12.5, "f" * 64, 9_000, 2.0)
    assert len(list(folder.iterdir())) == 1
    assert work.find_point(WORK) is None  # a point of that work is something else


def test_a_file_may_be_written_that_was_there_or_is_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.vinr"
    path.write_bytes(b"old")
    old = hash_file(path)
    assert KeptNetwork(fingerprint="x", replaces=old).allows(path)
    assert not KeptNetwork(fingerprint="x", replaces=None).allows(path)
    path.write_bytes(b"new")
    assert not KeptNetwork(fingerprint="x", replaces=old).allows(path)
    assert KeptNetwork(fingerprint="x", replaces=old, file=hash_file(path)).allows(path)
    path.unlink()
    assert KeptNetwork(fingerprint="x", replaces=None).allows(path)


def test_a_full_disk_costs_a_word(folder: Path, notes: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*arguments: Any) -> None:
        raise OutputError("point: cannot be written: No space left on device")

    monkeypatch.setattr(kept, "write_tensors", write)
    work = work_in(folder, notes)
    work.keep_point(WORK, POINT, {})
    assert work.find_point(WORK) is None
    (note,) = notes
    assert note.startswith("the state could not be saved: ")
    assert note.endswith("No space left on device; the comparison continues")


def test_what_is_kept_in_words(folder: Path, notes: list[str]) -> None:
    assert kept_in_words(folder) == ""
    work = work_in(folder, notes)
    work.keep_point(WORK, POINT, {})
    assert kept_in_words(folder) == "1 point"
    work.keep_point({**WORK, "quality": 31}, POINT, {})
    work.keep_network(WORK, replaces=None)
    assert kept_in_words(folder) == "2 points and 1 network"


def test_a_video_is_described_by_its_frames_times_and_colours(tmp_path: Path) -> None:
    clip = moving_shapes(num_frames=3, height=16, width=24)
    same, other = (
        moving_shapes(num_frames=3, height=16, width=24),
        moving_shapes(num_frames=3, height=16, width=24),
    )
    other.rgb_NCHW[2, 0, 15, 23] ^= 1
    found = []
    for number, frames in enumerate((clip, same, other)):
        with open_video(write_clip(tmp_path / f"{number}.mkv", frames)) as reader:
            found.append(describe_video(reader))
    assert found[0] == found[1]
    assert found[0]["frames"] != found[2]["frames"]
    assert found[0]["size"] == [3, 16, 24]
    with open_video(tmp_path / "0.mkv", frames=(0, 2)) as reader:
        assert describe_video(reader)["frames"] != found[0]["frames"]


def test_the_work_of_a_codec_has_its_options_and_versions() -> None:
    anchor, _ = parse_anchor("x264")
    odd, even = (work_of_codec(anchor, 30, width=width, upsampling="nearest") for width in (49, 50))
    assert odd == even  # frames of odd width are encoded with a column more
    assert odd["encoder"] == "libx264"
    assert odd["options"]["crf"] == "30"
    assert "x264" in odd["versions"].lower()
    assert work_of_codec(anchor, 31, width=50, upsampling="nearest") != even
    assert work_of_codec(anchor, 30, width=50, upsampling="bilinear") != even
