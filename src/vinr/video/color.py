"""The only colour arithmetic: Y'CbCr to RGB and back; of 8 bits by libav's swscale, else ``deep_color``.

::

    decoded frame ── matrix, range of the stream ──> rgb_HWC ── the same, back ──> frame to encode
    (any format)                                       uint8 or uint16                (yuv420p, …)

A stream without a matrix tag is read as BT.601, one without a range tag as limited range: swscale's defaults,
with which the papers' PNG frames were made.

Axes: H rows, W columns, C colour channels (red, green, blue).
"""

from __future__ import annotations

from dataclasses import replace
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
from vinr.video.deep_color import depth_of_format, fill_planes, has_rgb, is_deep, read_rgb, write_rgb
from vinr.video.spec import ColorMatrix, ColorSpec, ColorTags, Levels, Planes
from vinr.video.tag_names import MATRICES, PRIMARIES, TRANSFERS

# Y = Kr·R + Kg·G + Kb·B, with Kr and Kb of BT.601 0.299 0.114 · BT.709 0.2126 0.0722 · BT.2020 0.2627 0.0593
# FCC 0.30 0.11 · SMPTE 240M 0.212 0.087
# Tags are numbers of ISO/IEC 23091-2 (H.273), as libav has them: 0 is RGB, 2 "unspecified", 5 and 6 are both
# BT.601 (625 and 525 lines). Numbers that are reserved say nothing.
SILENT: Final = 2
RGB: Final = 0
MATRIX_OF_TAG: Final[dict[int, ColorMatrix]] = {
    1: "bt709",
    2: "bt601",
    4: "fcc",
    5: "bt601",
    6: "bt601",
    7: "smpte240m",
    9: "bt2020",
}
TAG_OF_MATRIX: Final[dict[ColorMatrix, int]] = {
    "bt601": 6,
    "bt709": 1,
    "bt2020": 9,
    "fcc": 4,
    "smpte240m": 7,
}
SWSCALE_MATRIX: Final = {
    "bt601": Colorspace.ITU601,
    "bt709": Colorspace.ITU709,
    "bt2020": Colorspace.BT2020,
    "fcc": Colorspace.FCC,
    "smpte240m": Colorspace.SMPTE240M,
}
# 8 bits: limited has Y in 16 … 235 and Cb, Cr in 16 … 240; full has all in 0 … 255.
SWSCALE_RANGE: Final = {"limited": ColorRange.MPEG, "full": ColorRange.JPEG}
# How chroma is brought to full size when the arithmetic is exact; see ColorConverter.to_rgb.
Upsampling = Literal["nearest", "bicubic"]
SWSCALE_UPSAMPLING: Final = {"nearest": Interpolation.POINT, "bicubic": Interpolation.BICUBIC}
# x265 refuses to open with later ones.
LAST_X265_PRIMARIES: Final = 12
LAST_X265_MATRIX: Final = 14
MISTAGGED: Final = "its Y'CbCr is tagged as RGB; it is read as if it had no tag, as BT.601"


def tags_of(source: VideoFrame | VideoCodecContext) -> ColorTags:
    """Return what a frame or a stream says of its colours."""
    range_ = source.color_range if source.color_range in (ColorRange.MPEG, ColorRange.JPEG) else 0
    return _meaningful(ColorTags(source.color_primaries, source.color_trc, source.colorspace, range_))


def _meaningful(tags: ColorTags) -> ColorTags:
    """Return ``tags`` without the numbers that have no meaning, which encoders may refuse."""
    return ColorTags(
        primaries=tags.primaries if tags.primaries in PRIMARIES else SILENT,
        transfer=tags.transfer if tags.transfer in TRANSFERS else SILENT,
        matrix=tags.matrix if tags.matrix in MATRICES else SILENT,
        range=tags.range,
    )


def color_of(frame: VideoFrame, stream: ColorTags | None = None) -> ColorSpec:
    """Return how to read ``frame``: its tags, or BT.601 and limited range where it has none.

    ``stream`` are tags of its file, for what the frame does not say. RGB and grey frames have no matrix; they
    get BT.601 and limited range, for output, and are tagged as RGB. Grey of limited range (H.265, AV1) counts
    as Y'CbCr of any matrix. Y'CbCr that is tagged as RGB counts as untagged (see :func:`is_mistagged`).

    Raises
    ------
    InputError
        If the matrix is none of ``MATRIX_OF_TAG``.
    """
    bit_depth: Literal[8, 10] = 10 if depth_of_format(frame) > 8 else 8
    tags = _merged(tags_of(frame), stream or ColorTags())
    is_gray = _is_gray(frame)
    if is_gray and tags.range == ColorRange.MPEG:
        tags = replace(tags, matrix=tags.matrix if tags.matrix in MATRIX_OF_TAG else SILENT)
    elif is_gray or has_rgb(frame):
        return ColorSpec(bit_depth=bit_depth, tags=replace(tags, matrix=RGB, range=int(ColorRange.JPEG)))
    # yuvj… are libav's old pixel formats of full range; their frames may lack the tag.
    if frame.format.name.startswith("yuvj"):
        tags = replace(tags, range=int(ColorRange.JPEG))
    if tags.matrix == RGB:
        tags = replace(tags, matrix=SILENT)
    if tags.matrix not in MATRIX_OF_TAG:
        name = MATRICES[tags.matrix]
        raise InputError(f"colour matrix {name} is not supported; convert the video to BT.709 or BT.2020")
    is_full = tags.range == ColorRange.JPEG
    return ColorSpec(MATRIX_OF_TAG[tags.matrix], "full" if is_full else "limited", bit_depth, tags)


def is_mistagged(frame: VideoFrame) -> bool:
    """Return whether ``frame`` is Y'CbCr with the tag of RGB."""
    return frame.colorspace == RGB and not (_is_gray(frame) or has_rgb(frame))


def _merged(first: ColorTags, other: ColorTags) -> ColorTags:
    return ColorTags(
        primaries=other.primaries if first.primaries == SILENT else first.primaries,
        transfer=other.transfer if first.transfer == SILENT else first.transfer,
        matrix=other.matrix if first.matrix == SILENT else first.matrix,
        range=first.range or other.range,
    )


def output_tags(color: ColorSpec, pixel_format: str) -> ColorTags:
    """Return how an output of ``pixel_format`` is tagged: as the input was, or with what it is converted by.

    RGB formats are full range, without a matrix. Y'CbCr made of RGB states its matrix and range.
    """
    stated = _meaningful(color.tags or ColorTags())
    if av.VideoFormat(pixel_format).is_rgb:
        return replace(stated, matrix=SILENT, range=int(ColorRange.JPEG))
    if color.tags is not None and stated.matrix != RGB:
        return stated
    return replace(stated, matrix=TAG_OF_MATRIX[color.matrix], range=int(SWSCALE_RANGE[color.range]))


def tag_color(target: CodecContext | VideoFrame, color: ColorSpec, pixel_format: str) -> None:
    """Write :func:`output_tags` to an encoder, before it is opened, or to a frame."""
    assert isinstance(target, VideoCodecContext | VideoFrame)
    tags = output_tags(color, pixel_format)
    if isinstance(target, VideoCodecContext) and target.name == "libx265":
        primaries = tags.primaries if tags.primaries <= LAST_X265_PRIMARIES else SILENT
        matrix = tags.matrix if tags.matrix <= LAST_X265_MATRIX else SILENT
        tags = replace(tags, primaries=primaries, matrix=matrix)
    target.color_primaries, target.color_trc = tags.primaries, tags.transfer
    target.colorspace, target.color_range = tags.matrix, tags.range


def planes_of(frame: VideoFrame) -> Planes:
    """Return copies of the planes of a planar frame, each [rows, columns] of its own size.

    They are uint8; uint16 where samples have more than 8 bits.
    """
    deep = is_deep(frame.format.name)
    planes: list[Levels] = []
    for plane in frame.planes:
        # A line of a plane is width samples and then padding up to line_size, in bytes.
        raw = memoryview(plane)
        lines: Levels = np.frombuffer(raw, np.uint16) if deep else np.frombuffer(raw, np.uint8)
        planes.append(lines.reshape(plane.height, -1)[:, : plane.width].copy())
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
        return read_rgb(self._reformatter, self._in_color(frame), self.color)

    def to_rgb(self, frame: VideoFrame, *, upsampling: Upsampling | None = None) -> NDArray[np.uint8]:
        """Return ``frame`` as uint8 rgb_HWC; deeper samples are rounded to 8 bits.

        Without ``upsampling`` swscale's fast default is used, with which the papers' PNG frames were made. It
        rounds down: 4:2:0 comes out darker by one level of 255, so that :meth:`from_rgb` and back gives at
        most 46 dB. With it the arithmetic is exact, and several times slower; chroma is taken to be sited
        where :meth:`from_rgb` puts it, whatever the decoder says.
        """
        frame = self._in_color(frame)
        is_rgb = has_rgb(frame)
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

    def _in_color(self, frame: VideoFrame) -> VideoFrame:
        """Return grey of limited range as 4:2:0 without colour: swscale takes all grey for full range."""
        if not _is_gray(frame) or self.color.tags is None or self.color.tags.matrix == RGB:
            return frame
        num_bits = depth_of_format(frame)
        depth = f"{num_bits}le" if num_bits > 8 else ""
        gray = self._reformatter.reformat(frame, format=f"gray{depth}")
        (luma,) = planes_of(gray)
        colored = VideoFrame(frame.width, frame.height, f"yuv420p{depth}")
        size = colored.planes[1].height, colored.planes[1].width
        chroma = np.full(size, 2 ** (num_bits - 1), dtype=luma.dtype)
        fill_planes(colored, (luma, chroma, chroma))
        return colored

    def from_rgb(self, rgb_HWC: Levels, pixel_format: str) -> VideoFrame:
        """Return ``rgb_HWC`` as a frame, tagged: of yuv420p, yuv444p or bgr0; if uint16 see ``write_rgb``."""
        if rgb_HWC.dtype == np.uint16:
            converted = write_rgb(rgb_HWC.astype(np.uint16, copy=False), pixel_format, self.color)
        else:
            converted = self._from_bytes(np.ascontiguousarray(rgb_HWC, dtype=np.uint8), pixel_format)
        tag_color(converted, self.color, pixel_format)
        return converted

    def _from_bytes(self, rgb_HWC: NDArray[np.uint8], pixel_format: str) -> VideoFrame:
        frame = VideoFrame.from_ndarray(rgb_HWC, format="rgb24")
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


def _is_gray(frame: VideoFrame) -> bool:
    """Return whether ``frame`` has brightness alone, or with transparency."""
    return len(frame.format.components) < 3 and not has_rgb(frame)
