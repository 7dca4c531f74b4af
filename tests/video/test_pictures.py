"""Animated WebP, pages of TIFF, and single photographs."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, ImageSequence

from video.video_clips import picture, pictures, write_clip
from vinr.errors import InputError, UsageError
from vinr.tasks.masks import open_mask
from vinr.video.picture import TRANSPARENT
from vinr.video.reading import ReadOptions
from vinr.video.source import open_video

DURATIONS = [100, 200, 300, 100, 100, 700]


def images(num_frames: int = 6, height: int = 24, width: int = 32) -> list[Image.Image]:
    return [Image.fromarray(picture(height, width, index)) for index in range(num_frames)]


def write_webp(path: Path, frames: Sequence[Image.Image], durations: int | list[int]) -> Path:
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, lossless=True)
    return path


def test_animated_webp_keeps_pictures_and_times(tmp_path: Path) -> None:
    path = write_webp(tmp_path / "a.webp", images(), DURATIONS)
    with open_video(path) as reader:
        assert torch.equal(reader.read().rgb_NCHW, pictures(6, 24, 32))
        assert torch.equal(reader.read(4, 5).rgb_NCHW, pictures(6, 24, 32)[4:5])
        assert torch.equal(reader.read(1, 3).rgb_NCHW, pictures(6, 24, 32)[1:3])
        milliseconds = [reader.timeline.seconds(index) * 1000 for index in range(6)]
        assert milliseconds == [0, 100, 300, 600, 700, 800]
        assert reader.timeline.duration == Fraction(3, 2)
        assert (reader.name, reader.notes, reader.audio()) == ("a", (), None)
    with open_video(path, frames=(1, 3)) as reader:
        assert [reader.timeline.seconds(index) for index in range(2)] == [0, Fraction(1, 5)]
        assert reader.timeline.duration == Fraction(1, 2)


def test_even_times_are_a_rate(tmp_path: Path) -> None:
    with open_video(write_webp(tmp_path / "a.webp", images(), 40)) as reader:
        assert (reader.timeline.pts, reader.spec.frame_rate) == (None, 25)
        assert reader.timeline.duration == Fraction(6, 25)


def test_transparency_is_dropped_with_a_note(tmp_path: Path) -> None:
    frames = []
    for index in range(3):
        rgba_HWC = np.dstack([picture(24, 32, index), np.full((24, 32), 60 * index, np.uint8)])
        frames.append(Image.fromarray(rgba_HWC))
    path = write_webp(tmp_path / "a.webp", frames, 100)
    with Image.open(path) as image:
        expected = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
    with open_video(path) as reader:
        assert np.array_equal(reader.read().rgb_NCHW.permute(0, 2, 3, 1).numpy(), np.stack(expected))
        assert reader.notes == (f"{path}: {TRANSPARENT}",)


def test_frames_without_a_time_are_shown_as_browsers_do(tmp_path: Path) -> None:
    with open_video(write_webp(tmp_path / "a.webp", images(3), [0, 100, 300])) as reader:
        assert [reader.timeline.seconds(index) * 1000 for index in range(3)] == [0, 100, 200]
        (note,) = reader.notes
    assert note.endswith("a.webp: states no times for 1 of 3 frames; they are shown for 100 ms")


def test_rate_of_a_file_with_times_is_its_own(tmp_path: Path) -> None:
    path = write_webp(tmp_path / "a.webp", images(3), 100)
    with pytest.raises(UsageError, match="states its times itself; leave rate out"):
        open_video(path, options=ReadOptions(rate=Fraction(25)))
    with pytest.raises(UsageError, match="leave stream out"):
        open_video(path, options=ReadOptions(stream=0))


def test_pages_of_tiff_are_frames(tmp_path: Path) -> None:
    frames = images(3)
    path = tmp_path / "a.tif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with open_video(path) as reader:
        assert reader.spec.frame_rate == 30
        assert torch.equal(reader.read().rgb_NCHW, pictures(3, 24, 32))
    with open_video(path, options=ReadOptions(rate=Fraction(5))) as reader:
        assert reader.spec.frame_rate == 5


def test_pages_of_different_sizes_or_depths_are_refused(tmp_path: Path) -> None:
    small, large = images(1)[0], images(1, 25, 32)[0]
    small.save(tmp_path / "a.tif", save_all=True, append_images=[large])
    with pytest.raises(InputError, match=r"a\.tif: picture 1 is 25x32, the first is 24x32"):
        open_video(tmp_path / "a.tif")
    deep = Image.fromarray(np.full((24, 32), 40_000, np.uint16))
    deep.save(tmp_path / "b.tif", save_all=True, append_images=[deep])
    with pytest.raises(InputError, match="more than 8 bits"):
        open_video(tmp_path / "b.tif")


def test_damaged_animation_is_one_line(tmp_path: Path) -> None:
    path = write_webp(tmp_path / "a.webp", images(), DURATIONS)
    whole = path.read_bytes()
    for length in (len(whole) // 2, len(whole) - 30, 40):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError) as caught, open_video(path) as reader:
            reader.read()
        assert "\n" not in str(caught.value)


def deep_pages(path: Path, num_pages: int) -> Path:
    """A TIFF of pages of 2 × 2 pixels, RGB with 16 bits, which Pillow does not write."""
    samples = struct.pack("<12H", *range(5000, 65000, 5000))
    data = b"II*\0" + struct.pack("<I", 38) + samples + struct.pack("<3H", 16, 16, 16)
    tags = ((256, 3, 1, 2), (257, 3, 1, 2), (258, 3, 3, 32), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 8))
    tags += ((277, 3, 1, 3), (278, 3, 1, 2), (279, 4, 1, len(samples)), (284, 3, 1, 1))
    for page in range(num_pages):
        data += struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
        data += struct.pack("<I", len(data) + 4 if page + 1 < num_pages else 0)
    path.write_bytes(data)
    return path


def test_cut_bits_of_pages_are_said(tmp_path: Path) -> None:
    path = deep_pages(tmp_path / "a.tif", 3)
    with open_video(path) as reader:
        assert reader.notes == (
            f"{path}: 3 of 3 pictures have more than 8 bits per sample, which are cut to 8",
        )
        assert reader.read().rgb_NCHW[2, :, 0, 0].tolist() == [5000 // 256, 10_000 // 256, 15_000 // 256]


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "gif", "jp2", "tga", "ppm", "jpg", "avif"])
def test_single_image_is_a_frame(tmp_path: Path, suffix: str) -> None:
    images(1)[0].save(tmp_path / f"a.{suffix}")
    with open_video(tmp_path / f"a.{suffix}") as reader:
        assert (reader.spec.num_frames, reader.original, reader.notes) == (1, (24, 32), ())
        difference = reader.read().rgb_NCHW.int() - pictures(1, 24, 32).int()
        assert difference.abs().float().mean() < 8


def test_photographs_of_phones_are_upright_frames(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    images(1)[0].save(tmp_path / "a.jpg", exif=exif, quality=95)
    film = write_clip(tmp_path / "film.mp4", 3).read_bytes()
    (tmp_path / "moving.jpg").write_bytes((tmp_path / "a.jpg").read_bytes() + film)
    views = [images(1)[0], images(1, 12, 16)[0]]
    views[0].save(tmp_path / "views.jpg", format="MPO", save_all=True, append_images=views[1:], exif=exif)
    for name in ("moving.jpg", "views.jpg"):
        with Image.open(tmp_path / name) as image:
            expected_HWC = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        with open_video(tmp_path / name) as reader:
            assert reader.original == (32, 24)
            assert np.array_equal(reader.read().rgb_NCHW[0].permute(1, 2, 0).numpy(), expected_HWC)
            (note,) = reader.notes
        assert note.endswith(f"{name}: the photograph is read, not what follows it in the file")


def test_animation_in_a_folder_is_said(tmp_path: Path) -> None:
    images(1)[0].save(tmp_path / "1.webp", lossless=True)
    write_webp(tmp_path / "2.webp", images(), DURATIONS)
    with open_video(tmp_path) as reader:
        assert reader.spec.num_frames == 2
        (note,) = reader.notes
    assert note == f"{tmp_path}: several pictures in 1 of 2 files; the first of each is read"


def test_mask_of_several_pictures_is_a_video(tmp_path: Path) -> None:
    masks = []
    for index in range(6):
        mask_HW = np.zeros((24, 32), np.uint8)
        mask_HW[:, index] = 255
        masks.append(Image.fromarray(mask_HW))
    masks[0].save(tmp_path / "m.tif", save_all=True, append_images=masks[1:])
    write_webp(tmp_path / "a.webp", images(), 100)
    with open_video(tmp_path / "a.webp") as reader:
        mask_T1HW = open_mask(str(tmp_path / "m.tif"), reader)
    assert [int(mask_HW[0].int().argmax()) for mask_HW in mask_T1HW[:, 0]] == list(range(6))
