"""Folders of images: in the order of their numbers, at any rate; what is odd about them is said."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vinr.errors import InputError
from vinr.tasks.masks import open_masks
from vinr.video.images import FolderInput
from vinr.video.numbering import number_order
from vinr.video.picture import TRANSPARENT
from vinr.video.source import open_video


def write_images(folder: Path, names: Sequence[str]) -> Path:
    """Images of one value each, 10 times their place in ``names``."""
    folder.mkdir()
    for place, name in enumerate(names):
        Image.fromarray(np.full((8, 12, 3), 10 * place, np.uint8)).save(folder / name)
    return folder


def order_of(folder: Path) -> list[int]:
    """The places of the images in the order in which they are read."""
    with open_video(folder) as reader:
        return [int(rgb_CHW[0, 0, 0]) // 10 for rgb_CHW in reader.read().rgb_NCHW]


def notes_of(folder: Path, **options: object) -> tuple[str, ...]:
    with open_video(folder, **options) as reader:  # type: ignore[arg-type]
        return reader.notes


@pytest.mark.parametrize(
    "names",
    [
        [f"frame{number}.png" for number in range(1, 13)],
        [f"{number}.png" for number in (8, 9, 10, 11, 99, 100)],
        [f"frame{number:03d}.png" for number in range(98, 103)],
        [f"shot{shot}_{number}.png" for shot in (2, 10) for number in (9, 10)],
        ["a9b1.png", "a9b2.png", "a10b1.png"],
        ["f1.png", "f2.bmp", "f10.png"],
        ["img ٩.png", "img ١٠.png"],  # 9 and 10 in Arabic digits
    ],
)
def test_numbers_count_by_their_value(tmp_path: Path, names: Sequence[str]) -> None:
    assert order_of(write_images(tmp_path / "frames", names)) == list(range(len(names)))


@pytest.mark.parametrize(
    "names",
    [
        ["1.png", "a.png", "a1.png", "1a.png", "a1b.png", "b.png", "01.png", "001.png"],
        ["7" * 240 + ".png", "1.png", "x.png"],
    ],
)
def test_any_names_have_one_order(names: Sequence[str]) -> None:
    files, others = list(map(Path, names)), list(map(Path, names[::-1]))
    assert sorted(files, key=number_order) == sorted(others, key=number_order)


@pytest.mark.parametrize(
    "names",
    [
        ["f1.png", "f2.png", "f3.png"],
        ["f0000.png", "f0010.png", "f0020.png"],
        ["0.png"],
        ["a.png"],
        ["1305031102.175304.png", "1305031102.211214.png", "1305031102.243211.png", "1305031103.275326.png"],
        ["12030.png", "12071.png", "12101.png", "12145.png", "12170.png"],
        ["shot1_8.png", "shot1_9.png", "shot2_1.png"],
    ],
)
def test_nothing_is_said_of_usual_names(tmp_path: Path, names: Sequence[str]) -> None:
    assert notes_of(write_images(tmp_path / "frames", names)) == ()


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["f1.png", "f2.png", "f4.png"], "has gaps (f2.png is followed by f4.png)"),
        (["f1.png", "f3.png", "f4.png"], "has gaps (f1.png is followed by f3.png)"),
        (
            ["f1.png", "f2.png", "f4.png", "f5.png", "f6.png", "f9.png"],
            "has gaps (f2.png is followed by f4.png, and 1 more)",
        ),
        (["f1.png", "f2.png", "f02.png", "f3.png"], "has gaps (f02.png is followed by f2.png)"),
        (["f1.png", "f2.png", "mask1.png"], "different patterns, read in the order of their names: f# (2), "),
        (["a.png", "b.png", "c.png"], "a (1), b (1) and 1 more"),
    ],
)
def test_gaps_and_mixed_patterns_are_named_once(tmp_path: Path, names: Sequence[str], said: str) -> None:
    folder = write_images(tmp_path / "frames", names)
    (note,) = notes_of(folder)
    assert note.startswith(f"{folder}: ")
    assert said in note


def test_only_the_chosen_frames_are_judged(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "frames", ["f1.png", "f2.png", "f3.png", "f9.png"])
    assert len(notes_of(folder)) == 1
    assert notes_of(folder, frames=(0, 3)) == ()


@pytest.mark.parametrize(("alpha", "is_said"), [(255, False), (254, True)])
def test_transparency_is_said(tmp_path: Path, alpha: int, is_said: bool) -> None:
    folder = tmp_path / "renders"
    folder.mkdir()
    image = np.full((8, 12, 4), 255, np.uint8)
    image[2, 3, 3] = alpha
    Image.fromarray(image).save(folder / "1.png")
    assert notes_of(folder) == ((f"{folder}: {TRANSPARENT}",) if is_said else ())


def test_pipe_among_the_images_is_refused(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "frames", ["f1.png"])
    os.mkfifo(folder / "f2.png")  # opening it would wait for a writer for good
    with pytest.raises(InputError, match=r"f2\.png: not a regular file"):
        open_video(folder)


def test_masks_in_a_folder_have_the_same_order(tmp_path: Path) -> None:
    frames = write_images(tmp_path / "frames", [f"f{number}.png" for number in range(1, 13)])
    masks = tmp_path / "masks"
    masks.mkdir()
    for number in range(1, 13):
        mask_HW = np.zeros((8, 12), np.uint8)
        mask_HW[0, number - 1] = 255
        Image.fromarray(mask_HW).save(masks / f"m{number}.png")
    notes: list[str] = []
    with open_video(frames) as reader:
        with open_masks(str(masks), reader, on_note=notes.append) as opened:
            mask_T1HW = opened.read()
        assert [int(mask_HW[0].int().argmax()) for mask_HW in mask_T1HW[:, 0]] == list(range(12))
        assert notes == []
        (masks / "m5.png").rename(masks / "m13.png")
        open_masks(str(masks), reader, on_note=notes.append).close()
    assert len(notes) == 1
    assert notes[0].startswith(f"mask {masks}: the numbering has gaps (m4.png is followed by m6.png")


def test_rate_of_a_folder(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "frames", ["1.png", "2.png"])
    assert FolderInput(folder).timeline(0, 2).frame_rate == 30
    assert FolderInput(folder, rate=Fraction(24_000, 1001)).timeline(0, 2).frame_rate == Fraction(
        24_000, 1001
    )


@pytest.mark.parametrize(("alpha", "num_notes"), [(255, 0), (254, 1)])
def test_transparency_is_said_to_be_left_out(tmp_path: Path, alpha: int, num_notes: int) -> None:
    image = Image.new("RGBA", (12, 8), (200, 100, 50, alpha))
    (tmp_path / "frames").mkdir()
    image.save(tmp_path / "frames" / "1.png")
    image.save(tmp_path / "a.webp", save_all=True, append_images=[image.rotate(180), image], duration=100)
    image.save(tmp_path / "a.avif", save_all=True, append_images=[image, image], duration=100)
    image.save(tmp_path / "b.avif")
    for path in (tmp_path / "frames", tmp_path / "a.webp", tmp_path / "a.avif", tmp_path / "b.avif"):
        notes = notes_of(path)
        assert len(notes) == num_notes
        assert all(note.startswith(f"{path}: its transparency is left out") for note in notes)
