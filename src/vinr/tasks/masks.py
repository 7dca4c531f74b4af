"""Masks for inpainting: boxes as in the papers, or images and videos that mark what is to be filled.

::

    ┌───────────────┐   boxes: centres at half and at     ┌───────────────┐   center: a quarter of the rows
    │  □         □  │   a quarter and three quarters      │     ┌───┐     │   and of the columns
    │       □       │   of rows and columns               │     └───┘     │
    │  □         □  │                                     │               │
    └───────────────┘                                     └───────────────┘

Axes: T frames of the video, H rows, W columns, C colour channels.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vinr.errors import InputError, format_frame, plural
from vinr.video.edit import Edit
from vinr.video.images import is_image, read_image
from vinr.video.pictures import has_several_pictures
from vinr.video.reading import ReadOptions
from vinr.video.source import VideoReader, open_video
from vinr.video.spec import VideoSpec

# Side of HNeRV's five boxes, in pixels.
BOX_SIDE: Final = 50
BOX_CENTRES: Final = ((2, 2), (1, 1), (1, 3), (3, 1), (3, 3))  # in quarters of rows and columns
NAMES: Final = re.compile(r"(?P<center>cent(?:er|re))|boxes(?::(?P<side>\d{1,5}))?")
# Of a resized pixel; less than that is rounding.
LEAST_SHARE: Final = 1e-6


def box_mask(height: int, width: int, *, side: int = BOX_SIDE) -> Tensor:
    """Return mask_HW, bool, of five boxes of 2 · (``side`` // 2) pixels a side (HNeRV's code).

    Their centres lie at (½, ½), (¼, ¼), (¼, ¾), (¾, ¼), (¾, ¾) of rows and columns, rounded down; the frame's
    edge cuts them.
    """
    mask_HW = torch.zeros((height, width), dtype=torch.bool)
    for rows, cols in BOX_CENTRES:
        _fill(mask_HW, height * rows // 4, width * cols // 4, side // 2, side // 2)
    return mask_HW


def center_mask(height: int, width: int) -> Tensor:
    """Return mask_HW, bool, of a box of 2 · (height // 8) rows and 2 · (width // 8) columns, centred."""
    mask_HW = torch.zeros((height, width), dtype=torch.bool)
    _fill(mask_HW, height // 2, width // 2, height // 8, width // 8)
    return mask_HW


def _fill(mask_HW: Tensor, row: int, col: int, half_height: int, half_width: int) -> None:
    # row - half_height … row + half_height - 1: even sides; a negative start would count from the end.
    rows = slice(max(row - half_height, 0), row + half_height)
    mask_HW[rows, max(col - half_width, 0) : col + half_width] = True


def grow_mask(mask_T1HW: Tensor, pixels: int) -> Tensor:
    """Return the mask with all pixels masked that are at most ``pixels`` rows and columns from a masked one.

    Masks of objects end at the object's edge; what that is blurred into would be fitted as background.
    """
    if not pixels:
        return mask_T1HW
    # The largest of a window is 1 if any pixel in it is masked. pixels = 1, a window of side 3:
    #
    #   0 0 0 1 0 0 0   ─>   0 0 1 1 1 0 0
    side = 2 * pixels + 1
    return torch.nn.functional.max_pool2d(mask_T1HW.float(), side, stride=1, padding=pixels) > 0


class MaskReader:
    """The masks of a video's frames, of which only those asked for are in memory; a context manager.

    ``masked_pixels`` counts them in each frame.
    """

    def __init__(self, spec: VideoSpec, masks: VideoReader | Tensor, first: int, video: VideoReader) -> None:
        self._spec, self._masks, self._first, self._video = spec, masks, first, video
        if isinstance(masks, Tensor):
            counts = [int(masks.sum())] * spec.num_frames
        else:
            counts = [int(self.read(index, index + 1).sum()) for index in range(spec.num_frames)]
        self.masked_pixels = tuple(counts)

    def read(self, first: int = 0, stop: int | None = None) -> Tensor:
        """Return mask_T1HW, bool, of frames ``first`` ≤ i < ``stop`` (to the end if None)."""
        stop = self._spec.num_frames if stop is None else stop
        if isinstance(self._masks, Tensor):
            # A single mask is not copied for each frame: all frames share its memory.
            return self._masks.expand(stop - first, 1, -1, -1)
        masks = []
        for index in range(self._first + first, self._first + stop):
            rgb_HWC = self._masks.read(index, index + 1).rgb_NCHW[0].permute(1, 2, 0).numpy()
            masks.append(_edited(rgb_HWC, self._video))
        return torch.from_numpy(np.stack(masks)).unsqueeze(1)

    @property
    def share(self) -> float:
        """How much of all frames is masked, 0 to 1."""
        return sum(self.masked_pixels) / self._spec.num_pixels

    def covers(self, first: int, stop: int) -> bool:
        """Return whether every pixel of frames ``first`` ≤ i < ``stop`` is masked."""
        return all(count == self._spec.height * self._spec.width for count in self.masked_pixels[first:stop])

    def close(self) -> None:
        """Close the masks' file."""
        if isinstance(self._masks, VideoReader):
            self._masks.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def open_mask(
    mask: str, video: VideoReader, *, frames: tuple[int | None, int | None] | None = None
) -> Tensor:
    """Return mask_T1HW, bool, of all frames of ``video`` as they are read; see :func:`open_masks`."""
    with open_masks(mask, video, frames=frames) as masks:
        return masks.read()


def open_masks(
    mask: str,
    video: VideoReader,
    *,
    frames: tuple[int | None, int | None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> MaskReader:
    """Open the masks of the frames of ``video`` as they are read.

    Parameters
    ----------
    mask
        ``boxes`` (five of 50 pixels a side), ``boxes:30``, ``center``; or a path: a folder of images or a
        video, a frame for each frame of the video, or a single image for all of them. Whatever is not black
        is masked. Masks have the video's own size; its crop, resize and range of frames are done to them.
    video
        What is masked.
    frames
        The range of frames that was asked of ``video``, None for all.
    on_note
        Called with each line on the mask's file or folder, such as that images are missing in between.

    Raises
    ------
    InputError, UsageError
        If the mask is unreadable, of another size or number of frames, or masks nothing or everything.
    """
    spec = video.spec
    if not mask:  # pathlib takes it for the current folder
        raise InputError("mask '': the name is empty; give an image, a folder, a video, or boxes")
    named = NAMES.fullmatch(mask)
    if named is None:
        masks = _open_masks(Path(mask), video, frames, on_note)
    elif named["center"]:
        masks = MaskReader(spec, center_mask(spec.height, spec.width), 0, video)
    else:
        side = int(named["side"] or BOX_SIDE)
        masks = MaskReader(spec, box_mask(spec.height, spec.width, side=side), 0, video)
    size = f"frames of {format_frame(spec.height, spec.width)}"
    with ExitStack() as stack:
        stack.callback(masks.close)
        if not any(masks.masked_pixels):
            raise InputError(f"mask {mask} masks no pixel of {size}; mark what is to be filled")
        if masks.covers(0, spec.num_frames):
            raise InputError(f"mask {mask} covers {size} altogether; leave some of them to be fitted")
        stack.pop_all()
    return masks


def _open_masks(
    path: Path,
    video: VideoReader,
    frames: tuple[int | None, int | None] | None,
    on_note: Callable[[str], None] | None,
) -> MaskReader:
    """Return the masks of each frame, or of all of them."""
    if not path.exists():
        raise InputError(
            f"mask {path}: no such file; give an image, a folder of images, a video, or the name boxes, "
            f"boxes:WIDTH or center"
        )
    if is_image(path) and path.is_file() and not has_several_pictures(path):
        rgb_HWC = read_image(path, label=f"mask {path}")
        _check_size(path, rgb_HWC.shape[:2], video)
        return MaskReader(video.spec, torch.from_numpy(_edited(rgb_HWC, video)), 0, video)
    with ExitStack() as stack:
        reader = stack.enter_context(open_video(path, options=ReadOptions(bit_depth=8)))
        if on_note is not None:
            for note in reader.notes:
                on_note(f"mask {note}")
        _check_size(path, reader.original, video)
        first, _ = _choose_masks(path, reader.spec.num_frames, video, frames)
        masks = MaskReader(video.spec, reader, first, video)
        stack.pop_all()
    return masks


def _edited(rgb_HWC: NDArray[np.uint8], video: VideoReader) -> NDArray[np.bool_]:
    """Return mask_HW after crop and resize: a pixel that a masked one takes part in is masked."""
    masked_HW1 = (rgb_HWC != 0).any(2, keepdims=True).astype(np.uint8)
    masked_HW: NDArray[np.bool_] = Edit(video.edit.crop).apply(masked_HW1)[..., 0] > 0
    if video.edit.resize is None:
        return masked_HW
    (rows, cols), (height, width) = masked_HW.shape, video.edit.resize
    # The filters that frames are resized with, in floating point, where no share is rounded away.
    averages = rows % height == 0 and cols % width == 0
    kernel = Image.Resampling.BOX if averages else Image.Resampling.BICUBIC
    share = Image.fromarray(masked_HW.astype(np.float32)).resize((width, height), kernel)
    resized_HW: NDArray[np.bool_] = np.abs(np.asarray(share)) > LEAST_SHARE
    return resized_HW


def _choose_masks(
    path: Path, num_masks: int, video: VideoReader, frames: tuple[int | None, int | None] | None
) -> tuple[int, int]:
    """Return the range of the masks that belong to the frames of ``video``."""
    # whole video    0 … first_frame … first_frame + num_frames …
    # masks          0 … num_frames                  one for each frame that is read; or
    #                0 … first … stop …              one for each frame of the whole video
    num_frames = video.spec.num_frames
    if num_masks == num_frames:
        return 0, num_frames
    first, stop = video.edit.first_frame, video.edit.first_frame + num_frames
    if frames is not None and num_masks >= stop:
        return first, stop
    raise InputError(
        f"mask {path} has {plural(num_masks, 'frame')} for {num_frames} of the video; "
        f"give one for each, or a single "
        f"image for all"
    )


def _check_size(path: Path, size: tuple[int, ...], video: VideoReader) -> None:
    if size != video.original:
        raise InputError(
            f"mask {path} is of {format_frame(*size[:2])}, the video of "
            f"{video.original[1]}×{video.original[0]} before crop and resize; give a mask of that size"
        )
