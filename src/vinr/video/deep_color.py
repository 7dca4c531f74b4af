"""Colour arithmetic of 10-bit frames, by the formulas of the matrices; swscale only brings chroma to size.

swscale maps white of limited range to level 1020 of 1023, and is up to four levels of 10 bits off, in both
directions. The formulas round to the nearest level.

::

    Y'CbCr, any layout ── swscale ──> 4:4:4, 16 bits ── formula ──> rgb_HWC uint16, 0 … 1023
    rgb_HWC ── formula ──> 4:4:4 ── means of neighbours ──> 4:2:0, 10 bits

Axes: H rows, W columns, C colour channels (red, green, blue).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from vinr.video.spec import BitDepth, ColorMatrix, ColorSpec, Levels, Planes

BITS: Final = 10
WHITE: Final = 2**BITS - 1
WIDE_WHITE: Final = 2**16 - 1
# Kr and Kb of Y = Kr·R + Kg·G + Kb·B, whose sum is 1 (ISO/IEC 23091-2).
RED_BLUE: Final[dict[ColorMatrix, tuple[float, float]]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
    "fcc": (0.3, 0.11),
    "smpte240m": (0.212, 0.087),
}
EXACT: Final = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)
OLD_FULL_RANGE: Final = "yuvj"

Samples = NDArray[np.float32]


def read_rgb(reformatter: VideoReformatter, frame: VideoFrame, color: ColorSpec) -> NDArray[np.uint16]:
    """Return a frame of any format as uint16 rgb_HWC, 0 … 1023; Y'CbCr has matrix and range of ``color``."""
    num_bits = depth_of_format(frame)
    if has_rgb(frame):
        pixel_format = "rgb48le" if num_bits > 8 else "rgb24"
        return _from_full_range(reformatter.reformat(frame, format=pixel_format).to_ndarray(), num_bits)
    if len(frame.format.components) < 3:
        # Grey is of full range in swscale, whatever its tag says.
        pixel_format = "gray16le" if num_bits > 8 else "gray"
        grey_HW = reformatter.reformat(frame, format=pixel_format).to_ndarray()
        return np.repeat(_from_full_range(grey_HW, num_bits)[..., np.newaxis], 3, axis=2)
    luma_HW, blue_HW, red_HW = _wide_samples(reformatter, frame)
    black, scale, chroma_scale = _range_of(color, num_bits)
    # In 16 bits samples are shifted up: 2^(16 − bits) times as large.
    unit = np.float32(2.0 ** (num_bits - 16))
    luma_HW = (luma_HW * unit - black) * np.float32(WHITE / scale)
    chroma_unit, middle = np.float32(WHITE / chroma_scale), np.float32(2 ** (num_bits - 1))
    blue_HW, red_HW = (blue_HW * unit - middle) * chroma_unit, (red_HW * unit - middle) * chroma_unit
    kr, kb = RED_BLUE[color.matrix]
    kg = 1 - kr - kb
    rgb_HWC = np.empty((*luma_HW.shape, 3), dtype=np.float32)
    rgb_HWC[..., 0] = luma_HW + np.float32(2 * (1 - kr)) * red_HW
    rgb_HWC[..., 2] = luma_HW + np.float32(2 * (1 - kb)) * blue_HW
    green_of_red, green_of_blue = 2 * (1 - kr) * kr / kg, 2 * (1 - kb) * kb / kg
    rgb_HWC[..., 1] = luma_HW - np.float32(green_of_red) * red_HW - np.float32(green_of_blue) * blue_HW
    return _to_levels(rgb_HWC)


def write_rgb(rgb_HWC: NDArray[np.uint16], pixel_format: str, color: ColorSpec) -> VideoFrame:
    """Return 10-bit ``rgb_HWC`` as a frame of gbrp10le, rgb48be, yuv444p10le or yuv420p10le."""
    if pixel_format == "rgb48be":
        wide_HWC = np.rint(rgb_HWC * (WIDE_WHITE / WHITE)).astype(np.uint16)
        return VideoFrame.from_ndarray(wide_HWC, format=pixel_format)
    if pixel_format == "gbrp10le":
        return VideoFrame.from_ndarray(np.ascontiguousarray(rgb_HWC), format=pixel_format)
    frame = VideoFrame(rgb_HWC.shape[1], rgb_HWC.shape[0], pixel_format)
    fill_planes(frame, planes_of_rgb(rgb_HWC, color, halved=pixel_format == "yuv420p10le"))
    return frame


def planes_of_rgb(rgb_HWC: NDArray[np.uint16], color: ColorSpec, *, halved: bool) -> Planes:
    """Return Y, Cb and Cr of a 10-bit frame, uint16; ``halved``: chroma of 4:2:0, sited left as in H.265."""
    kr, kb = RED_BLUE[color.matrix]
    black, scale, chroma_scale = _range_of(color, BITS)
    red_HW, green_HW, blue_HW = (rgb_HWC[..., channel].astype(np.float32) for channel in range(3))
    luma_HW = np.float32(kr) * red_HW + np.float32(1 - kr - kb) * green_HW + np.float32(kb) * blue_HW
    planes = [_to_levels(luma_HW * np.float32(scale / WHITE) + black)]
    for color_HW, weight in ((blue_HW, kb), (red_HW, kr)):
        chroma_HW = (color_HW - luma_HW) * np.float32(chroma_scale / WHITE / (2 * (1 - weight)))
        if halved:
            chroma_HW = _halve(chroma_HW)
        planes.append(_to_levels(chroma_HW + np.float32(2 ** (BITS - 1))))
    return tuple(planes)


def fill_planes(frame: VideoFrame, planes: Sequence[Levels]) -> None:
    """Write the samples of ``frame``, whose lines may be longer than its width."""
    for plane, samples in zip(frame.planes, planes, strict=True):
        padded = np.zeros((plane.height, plane.line_size // samples.itemsize), dtype=samples.dtype)
        padded[:, : plane.width] = samples
        plane.update(padded.tobytes())


def _from_full_range(samples: NDArray[Any], num_bits: int) -> NDArray[np.uint16]:
    """Return RGB or grey samples of 8 bits, or of ``num_bits`` in the upper bits of 16, as levels."""
    if samples.dtype == np.uint8:
        return _to_levels(samples.astype(np.float32) * np.float32(WHITE / 255))
    # The bits below are zeros or repeat the upper ones, as swscale's way to 16 bits happens to be.
    num_bits = min(num_bits, 16)
    exact = (samples >> (16 - num_bits)).astype(np.float32)
    return _to_levels(exact * np.float32(WHITE / (2**num_bits - 1)))


def _wide_samples(reformatter: VideoReformatter, frame: VideoFrame) -> tuple[Samples, Samples, Samples]:
    """Return Y, Cb and Cr at full size, as samples of 16 bits whose range is the frame's."""
    name = frame.format.name
    if name.startswith(OLD_FULL_RANGE):
        # These formats mean full range, which swscale would convert; the same samples under a plain name.
        full = ColorRange.JPEG
        plain = name.replace(OLD_FULL_RANGE, "yuv")
        frame = reformatter.reformat(frame, format=plain, src_color_range=full, dst_color_range=full)
    # The same matrix and range on both sides: samples keep their meaning and are only shifted. "Limited",
    # because samples of full range would get their highest bits as their lowest ones too.
    converted = reformatter.reformat(
        frame,
        format="yuv444p16le",
        src_colorspace=Colorspace.ITU709,
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.MPEG,
        dst_color_range=ColorRange.MPEG,
        interpolation=EXACT,
    )
    wide = []
    for plane in converted.planes:
        padded = np.frombuffer(memoryview(plane), dtype="<u2").reshape(plane.height, plane.line_size // 2)
        wide.append(padded[:, : plane.width].astype(np.float32))
    luma_HW, blue_HW, red_HW = wide
    return luma_HW, blue_HW, red_HW


def _range_of(color: ColorSpec, num_bits: int) -> tuple[np.float32, float, float]:
    """Return black, and the spans of luma and of chroma, in samples of ``num_bits``."""
    # 8 bits: limited has Y in 16 … 235 and Cb, Cr in 16 … 240; full has all in 0 … 255.
    if color.range == "full":
        white = float(2**num_bits - 1)
        return np.float32(0), white, white
    unit = 2.0 ** (num_bits - 8)
    return np.float32(16 * unit), 219 * unit, 224 * unit


def _halve(chroma_HW: Samples) -> Samples:
    """Return every other column of every other row, as means of what lies around it."""
    # columns   0 1 2 3 4    ─>  0: (3·0 + 1) / 4 · 2: (1 + 2·2 + 3) / 4 …    sited at the left of each pair
    # rows      0 1 | 2 3    ─>  means of pairs; the last row is repeated where their number is odd
    height, width = chroma_HW.shape
    rows_HW = np.pad(chroma_HW, ((0, height % 2), (1, 1 + width % 2)), mode="edge")
    mean_HW: Samples = (rows_HW[0::2] + rows_HW[1::2]) * np.float32(0.5)
    sum_HW: Samples = mean_HW[:, 0:-2:2] + 2 * mean_HW[:, 1:-1:2] + mean_HW[:, 2::2]
    return sum_HW * np.float32(0.25)


def _to_levels(values: Samples) -> NDArray[np.uint16]:
    return np.clip(np.rint(values), 0, WHITE).astype(np.uint16)


def has_rgb(frame: VideoFrame) -> bool:
    """Return whether swscale reads the format of ``frame`` as RGB, without a matrix; it does so with XYZ."""
    return frame.format.is_rgb or frame.format.has_palette or frame.format.name.startswith("xyz")


def depth_notes(path: Path, frame: VideoFrame, bit_depth: BitDepth | None) -> tuple[str, ...]:
    """Return a line for the user where more than 10 bits are rounded although nobody asked for it."""
    num_bits = depth_of_format(frame)
    if bit_depth is not None or num_bits <= BITS:
        return ()
    return (f"{path}: has {num_bits} bits per sample ({frame.format.name}), which are rounded to {BITS}",)


def depth_of_format(frame: VideoFrame) -> int:
    """Return the bits of the deepest samples of ``frame``."""
    return max(part.bits for part in frame.format.components)


def is_deep(pixel_format: str) -> bool:
    """Return whether samples of a pixel format have more than 8 bits."""
    return max(part.bits for part in av.VideoFormat(pixel_format).components) > 8
