"""Sizes that follow from the video's, and the note where a resize changes the shape of the picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vinr
from command_line import TINY, Run, refused
from video.video_clips import picture
from vinr.errors import UsageError
from vinr.state.folder import EncodeJob
from vinr.units import SizeLike
from vinr.video.asked_edit import AskedEdit
from vinr.video.source import open_video

HEIGHT, WIDTH = 90, 160
FIT = {"preset": TINY, "epochs": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images, wider than high."""
    folder = tmp_path_factory.mktemp("sizes") / "wide"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(picture(HEIGHT, WIDTH, number)).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    ("crop", "resize", "expected"),
    [
        (None, "80:-2", (46, 80)),
        (None, "-2:60", (60, 106)),
        (None, "30p", (30, 54)),
        (None, "50%", (45, 80)),
        ("80:90", None, (90, 80)),
        ("50%", None, (45, 80)),
        ("80:80", "50%", (40, 40)),
        ("80x160", "40:-2", (20, 40)),
        ((80, 160), (40, 80), (40, 80)),
    ],
)
def test_sizes_follow_from_the_video(
    wide: Path, crop: SizeLike | None, resize: SizeLike | None, expected: tuple[int, int]
) -> None:
    with open_video(wide, crop=crop, resize=resize) as reader:
        assert (reader.spec.height, reader.spec.width) == expected
        assert reader.read(0, 1).rgb_NCHW.shape[2:] == expected
        assert all(isinstance(size, tuple) for size in (reader.edit.crop, reader.edit.resize) if size)


def test_a_size_in_words_reads_the_same_frames(wide: Path) -> None:
    with open_video(wide, resize="80:45") as texts, open_video(wide, resize=(45, 80)) as numbers:
        assert np.array_equal(texts.read().rgb_NCHW.numpy(), numbers.read().rgb_NCHW.numpy())
        assert texts.edit == numbers.edit


@pytest.mark.parametrize(
    ("resize", "start"),
    [
        ("160x90", "160x90 is height x width: 90 wide and 160 high."),
        ("90:160", "90:160 is width:height: 90 wide and 160 high."),
        ((160, 90), "(160, 90) is (rows, columns): 90 wide and 160 high."),
    ],
)
def test_a_change_of_shape_is_said_with_both_readings(wide: Path, resize: SizeLike, start: str) -> None:
    with open_video(wide, resize=resize) as reader:
        notes = [note for note in reader.notes if "high" in note]
    assert notes == [
        f"{wide}: {start} The frame was 160 wide and 90 high: players stretch the pixels back to that shape; "
        "for 160 wide and 90 high write resize='160:90'; resize='90:-2' keeps the shape"
    ]


@pytest.mark.parametrize(
    ("resize", "is_said"),
    [
        ("45x80", False),
        ("45x81", False),  # 1.25 % wider
        ("45x82", True),
        ("45x78", True),
        ("-2:60", False),
        ("10p", False),
        ("50%", False),
        ("64:64", True),
    ],
)
def test_small_changes_are_rounding(wide: Path, resize: str, is_said: bool) -> None:
    with open_video(wide, resize=resize) as reader:
        assert any("high" in note for note in reader.notes) is is_said


def test_a_change_by_rounding_has_no_other_reading() -> None:
    _, (note,) = AskedEdit(resize="80:-2").for_video(90, 160)  # 45 rows are no even number
    assert note == (
        "80:-2 is width:height: 80 wide and 46 high. The frame was 160 wide and 90 high: "
        "players stretch the pixels back to that shape"
    )


def test_a_square_has_one_reading() -> None:
    _, (note,) = AskedEdit(resize="64x64").for_video(90, 160)
    assert "for 64 wide" not in note
    assert note.endswith("resize='64:-2' keeps the shape")


def test_a_crop_changes_no_shape_and_its_resize_starts_from_it() -> None:
    assert AskedEdit(crop="90:90").for_video(90, 160)[1] == ()
    assert AskedEdit(crop="90:90", resize="32:32").for_video(90, 160)[1] == ()
    assert len(AskedEdit(crop="90:90", resize="64:36").for_video(90, 160)[1]) == 1


def test_a_crop_that_is_too_large_says_which_side_is_which(wide: Path) -> None:
    with pytest.raises(UsageError) as caught:
        open_video(wide, crop="128x72")
    assert str(caught.value) == (
        "crop to 128x72 is larger than the frame, 90x160 (height x width); "
        "for 128 wide and 72 high write crop='128:72'"
    )
    with pytest.raises(UsageError, match=r"\(height x width\)$"):
        open_video(wide, crop="999:999")


@pytest.mark.parametrize("name", ["crop", "resize", "raw_size"])
def test_functions_refuse_texts_before_anything_is_written(name: str, wide: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="size '1 by 2': give "):
        vinr.encode(wide, tmp_path / "a.vinr", **{name: "1 by 2"}, **FIT)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_jobs_are_the_same_however_a_size_is_written() -> None:
    documents = [EncodeJob.of(["a"], resize=size).document() for size in ("45x80", "80:45", (45, 80))]
    assert documents[0] == documents[1] == documents[2]
    assert documents[0]["resize"] == [45, 80]
    assert EncodeJob.of(["a"], crop="50%").document()["crop"] == "50%"


def test_whole_commands_take_every_form(run: Run, wide: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.vinr"
    fit = ("--preset", TINY, "--epochs", 1, "--device", "cpu")
    status, _, err = run(
        "encode", wide, file, *fit, "--crop", "160:80", "--resize", "-2:32", "--frames", ":2"
    )
    assert status == 0, err
    assert "keeps the shape" not in err
    (clip,) = json.loads(run("info", file, "--json")[1])["clips"]
    assert (clip["height"], clip["width"]) == (32, 64)
    # How the frames were made is read from the file.
    assert json.loads(run("eval", file, wide, "--json")[1])["num_frames"] == 2
    status, _, err = run("encode", wide, file, *fit, "-y", "--resize", "64x36", "--frames", ":2")
    assert status == 0, err
    assert err.count("for 64 wide and 36 high write --resize 64:36; --resize 36:-2 keeps the shape") == 1
    refused(run("encode", wide, file, *fit, "-y", "--resize", "640"), "size '640'", "640:360", "50%")
    refused(run("compare", wide, tmp_path / "a.html", "--vinr", file, "--crop", "50%"), "leave them out")
