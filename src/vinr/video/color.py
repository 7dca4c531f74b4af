"""The only colour arithmetic: Y'CbCr to RGB and back; of 8 bits by libav's swscale, else ``deep_color``.

::

    decoded frame ── matrix, range of the stream ──> rgb_HWC ── the same, back ──> frame to encode
    (any format)                                       uint8 or uint16                (yuv420p, …)

A stream without a matrix tag is read as BT.601, one without a range tag as limited range: swscale's defaults,
with which the papers' PNG frames were made.

Axes: H rows, W columns, C colour channels (red, green, blue).
"""

from __future__ import annotations

from typing import Final, Literal

import av
import numpy as np
from av.codec.context import CodecContext
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from vinr.errors import InputError
from vinr.sharing import Shared
from vinr.temporaries import hold
from vinr.video.deep_color import depth_of_format, fill_planes, is_deep, read_rgb, write_rgb
from vinr.video.spec import ColorMatrix, ColorSpec, Levels, Planes

# Y = Kr·R + Kg·G + Kb·B:  BT.601 0.299 0.587 0.114 · BT.709 0.2126 0.7152 0.0722
# Tags are the numbers of ISO/IEC 23091-2 (H.273), MatrixCoefficients, as libav's AVColorSpace has them: 2 is
# "unspecified", 3 reserved, 5 and 6 both BT.601 (625 and 525 lines).
MATRIX_OF_TAG: Final[dict[int, ColorMatrix]] = {1: "bt709", 2: "bt601", 3: "bt601", 5: "bt601", 6: "bt601"}
NAME_OF_REFUSED_TAG: Final = {
    4: "FCC",
    7: "SMPTE 240M",
    8: "YCgCo",
    9: "BT.2020",
    10: "BT.2020 constant luminance",
}
TAG_OF_MATRIX: Final[dict[ColorMatrix, int]] = {"bt601": 6, "bt709": 1}
SWSCALE_MATRIX: Final = {"bt601": Colorspace.ITU601, "bt709": Colorspace.ITU709}
# 8 bits: limited has Y in 16 … 235 and Cb, Cr in 16 … 240; full has all in 0 … 255.
SWSCALE_RANGE: Final = {"limited": ColorRange.MPEG, "full": ColorRange.JPEG}
# How chroma is brought to full size when the arithmetic is exact; see ColorConverter.to_rgb.
Upsampling = Literal["nearest", "bicubic"]
SWSCALE_UPSAMPLING: Final = {"nearest": Interpolation.POINT, "bicubic": Interpolation.BICUBIC}


def color_of(frame: VideoFrame) -> ColorSpec:
    """Return how to read ``frame``: its tags, or BT.601 and limited range where it has none.

    RGB frames have no matrix; they get BT.601 and limited range, for output.

    Raises
    ------
    InputError
        If the matrix is neither BT.601 nor BT.709.
    """
    bit_depth: Literal[8, 10] = 10 if depth_of_format(frame) > 8 else 8
    if _is_rgb(frame):
        return ColorSpec(bit_depth=bit_depth)
    matrix = MATRIX_OF_TAG.get(frame.colorspace)
    if matrix is None:
        name = NAME_OF_REFUSED_TAG.get(frame.colorspace, f"number {frame.colorspace}")
        raise InputError(f"colour matrix {name} is not supported; convert the video to BT.709 or BT.601")
    # yuvj… are libav's old pixel formats of full range; their frames may lack the tag.
    is_full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    return ColorSpec(matrix, "full" if is_full else "limited", bit_depth)


def tag_color(context: CodecContext, color: ColorSpec, pixel_format: str) -> None:
    """Tell an encoder the matrix and range of ``color``; RGB formats are full range, without a matrix."""
    assert isinstance(context, VideoCodecContext)
    if av.VideoFormat(pixel_format).is_rgb:
        context.color_range = ColorRange.JPEG
        return
    context.colorspace = TAG_OF_MATRIX[color.matrix]
    context.color_range = SWSCALE_RANGE[color.range]


def planes_of(frame: VideoFrame) -> Planes:
    """Return copies of the planes of a planar frame, each [rows, columns] of its own size.

    They are uint8; uint16 where samples have more than 8 bits.
    """
    dtype = np.dtype(np.uint16 if is_deep(frame.format.name) else np.uint8)
    planes = []
    for plane in frame.planes:
        # A line of a plane is width samples and then padding up to line_size, in bytes.
        padded = np.frombuffer(memoryview(plane), dtype=dtype).reshape(plane.height, -1)
        planes.append(padded[:, : plane.width].copy())
    return tuple(planes)


class ColorConverter(Shared):
    """Converts the frames of one video, all of one size and colour."""

    def __init__(self, color: ColorSpec) -> None:
        self.color = color
        self._reformatter = VideoReformatter()
        super().__init__()

    def _forked(self, *, interrupted: bool) -> None:
        """Keep the copy forever: its end would wait forever for swscale's threads, which a child lacks."""
        hold(self._reformatter)
        self._reformatter = VideoReformatter()

    def to_deep_rgb(self, frame: VideoFrame) -> NDArray[np.uint16]:
        """Return ``frame`` as uint16 rgb_HWC of 10 bits, 0 … 1023; see :mod:`vinr.video.deep_color`."""
        return read_rgb(self._reformatter, frame, self.color)

    def to_rgb(self, frame: VideoFrame, *, upsampling: Upsampling | None = None) -> NDArray[np.uint8]:
        """Return ``frame`` as uint8 rgb_HWC; deeper samples are rounded to 8 bits.

        Without ``upsampling`` swscale's fast default is used, with which the papers' PNG frames were made. It
        rounds down: 4:2:0 comes out darker by one level of 255, so that :meth:`from_rgb` and back gives at
        most 46 dB. With it the arithmetic is exact, and several times slower; chroma is taken to be sited
        where :meth:`from_rgb` puts it, whatever the decoder says.
        """
        is_rgb = _is_rgb(frame)
        if upsampling is not None and not is_rgb:
            frame = _without_siting(frame)
        exact = Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
        converted = self._reformatter.reformat(
            frame,
            format="rgb24",
            src_colorspace=None if is_rgb else SWSCALE_MATRIX[self.color.matrix],
            src_color_range=ColorRange.JPEG if is_rgb else SWSCALE_RANGE[self.color.range],
            dst_color_range=ColorRange.JPEG,
            interpolation=None if upsampling is None else exact | SWSCALE_UPSAMPLING[upsampling],
        )
        return converted.to_ndarray().astype(np.uint8, copy=False)

    def from_rgb(self, rgb_HWC: Levels, pixel_format: str) -> VideoFrame:
        """Return ``rgb_HWC`` as a frame: of yuv420p, yuv444p or bgr0 if uint8; else as ``write_rgb`` does."""
        if rgb_HWC.dtype == np.uint16:
            return write_rgb(rgb_HWC.astype(np.uint16, copy=False), pixel_format, self.color)
        bytes_HWC = np.ascontiguousarray(rgb_HWC, dtype=np.uint8)
        frame = VideoFrame.from_ndarray(bytes_HWC, format="rgb24")
        if av.VideoFormat(pixel_format).is_rgb:
            return self._reformatter.reformat(frame, format=pixel_format)
        return self._reformatter.reformat(
            frame,
            format=pixel_format,
            src_color_range=ColorRange.JPEG,
            dst_colorspace=SWSCALE_MATRIX[self.color.matrix],
            dst_color_range=SWSCALE_RANGE[self.color.range],
            interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND,
        )


def _without_siting(frame: VideoFrame) -> VideoFrame:
    """Return a copy of a planar frame without the tag that says where chroma is sited.

    Decoders of H.264 and H.265 set "left" even for streams that do not say so; swscale then shifts chroma
    that was made without a shift, and the nearest sample is the wrong one.
    """
    # PyAV cannot change the tag of a frame, but a new frame has none.
    copy = VideoFrame(frame.width, frame.height, frame.format.name)
    fill_planes(copy, planes_of(frame))
    return copy


def _is_rgb(frame: VideoFrame) -> bool:
    return frame.format.is_rgb or frame.format.has_palette
