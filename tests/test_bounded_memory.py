"""Long inputs: what is in memory at a time does not grow with the number of frames."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vinr
from video.video_clips import picture, write_clip
from vinr.config import default_model
from vinr.tasks.masks import open_masks
from vinr.video.source import VideoReader, open_video

SHORT, LONG = 12, 48
HEIGHT, WIDTH = 48, 64
FRAME_BYTES = 3 * HEIGHT * WIDTH


class LiveFrames:
    """The most frames that are alive at a time; a callback of any arguments looks, now and then."""

    def __init__(self) -> None:
        self.most = self.num_calls = 0

    def look(self, *_: object) -> None:
        self.num_calls += 1
        if self.num_calls % 11 != 1:  # looking takes long
            return
        sizes: dict[int, int] = {}
        for tensor in gc.get_objects():
            if type(tensor) is torch.Tensor and tensor.dtype in (torch.uint8, torch.bool):
                storage = tensor.untyped_storage()
                sizes[storage.data_ptr()] = storage.nbytes()
        self.most = max(self.most, sum(sizes.values()) // FRAME_BYTES)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A short and a long clip."""
    folder = tmp_path_factory.mktemp("clips")
    return {count: write_clip(folder / f"{count}.mkv", count) for count in (SHORT, LONG)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, clips: dict[int, Path]) -> dict[int, Path]:
    """Both as .vinr files."""
    folder, found = tmp_path_factory.mktemp("files"), {}
    for count, clip in clips.items():
        found[count] = folder / f"{count}.vinr"
        vinr.encode(clip, found[count], preset=f"{default_model()}-tiny", epochs=1, device="cpu")
    return found


Work = Callable[[Path, Path, Path, LiveFrames], object]
WORKS: dict[str, Work] = {
    "eval": lambda clip, file, out, live: vinr.evaluate(file, clip, device="cpu", on_frame=live.look),
    "decode": lambda clip, file, out, live: vinr.decode(
        file, out / "a.y4m", device="cpu", force=True, on_frame=live.look
    ),
    "decode to images": lambda clip, file, out, live: vinr.decode(
        file, out / f"{file.stem}", device="cpu", on_frame=live.look
    ),
    "interpolate": lambda clip, file, out, live: vinr.interpolate(
        file, out / "b.y4m", device="cpu", force=True, on_frame=live.look
    ),
    "compare": lambda clip, file, out, live: vinr.compare(
        clip, out / f"{file.stem}.html", files=[file], anchors=["x264:30"], on_progress=live.look
    ),
}


@pytest.mark.parametrize("work", WORKS)
def test_commands_hold_few_frames(
    tmp_path: Path, clips: dict[int, Path], files: dict[int, Path], work: str
) -> None:
    most = {}
    for count in (SHORT, LONG):
        live = LiveFrames()
        WORKS[work](clips[count], files[count], tmp_path, live)
        most[count] = live.most
    assert 1 <= most[LONG] <= most[SHORT] + 4


def test_masks_are_read_when_they_are_needed(
    tmp_path: Path, clips: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    live, read = LiveFrames(), VideoReader.read

    def watched(self: VideoReader, first: int = 0, stop: int | None = None) -> object:
        frames = read(self, first, stop)
        live.look()
        return frames

    def most(count: int) -> int:
        live.most, folder = 0, tmp_path / f"{count}"
        folder.mkdir()
        for index in range(count):
            mask_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
            mask_HW[index % HEIGHT] = 255
            Image.fromarray(mask_HW).save(folder / f"{index}.png")
        with open_video(clips[count]) as reader, open_masks(str(folder), reader) as masks:
            assert len(masks.masked_pixels) == reader.spec.num_frames
            assert masks.read(4, 6).shape == (2, 1, HEIGHT, WIDTH)
        return live.most

    monkeypatch.setattr(VideoReader, "read", watched)
    assert 1 <= most(LONG) <= most(SHORT) + 1


def write_y4m(folder: Path, count: int) -> Path:
    return write_clip(folder / f"{count}.y4m", count, codec="wrapped_avframe")


def write_folder(folder: Path, count: int) -> Path:
    (folder / f"{count}").mkdir()
    for index in range(count):
        Image.fromarray(picture(HEIGHT, WIDTH, index)).save(folder / f"{count}" / f"{index}.png")
    return folder / f"{count}"


def write_raw(folder: Path, count: int) -> Path:
    path = folder / f"{count}f_64x48_25fps_rgb24.rgb"
    path.write_bytes(np.stack([picture(HEIGHT, WIDTH, index) for index in range(count)]).tobytes())
    return path


def write_webp(folder: Path, count: int) -> Path:
    images = [Image.fromarray(picture(HEIGHT, WIDTH, index)) for index in range(count)]
    images[0].save(folder / f"{count}.webp", save_all=True, append_images=images[1:], duration=40)
    return folder / f"{count}.webp"


@pytest.mark.parametrize("write", [write_y4m, write_folder, write_raw, write_webp])
def test_reading_holds_few_frames(tmp_path: Path, write: Callable[[Path, int], Path]) -> None:
    def peak(path: Path) -> int:
        tracemalloc.start()
        with open_video(path) as reader:
            for first in range(0, reader.spec.num_frames, 4):
                reader.read(first, first + 4)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    short, long = write(tmp_path, SHORT), write(tmp_path, LONG)
    peak(short)  # what is loaded and cached once does not count
    assert peak(long) < peak(short) + (LONG - SHORT) * FRAME_BYTES // 4
