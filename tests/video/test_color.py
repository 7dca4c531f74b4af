"""Colour: against the definitions of BT.601 and BT.709 in floating point."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from video.video_clips import copy_frames, decoded, picture, said, write_clip
from vinr.errors import InputError
from vinr.video.color import (
    MISTAGGED,
    TAG_OF_MATRIX,
    ColorConverter,
    Upsampling,
    color_of,
    output_tags,
    planes_of,
)
from vinr.video.reading import ReadOptions
from vinr.video.source import open_video
from vinr.video.spec import ColorSpec, ColorTags

# Weights of red and blue in luma: ITU-R BT.601-7, BT.709-6, BT.2020-2; FCC and SMPTE 240M as H.273 has them.
LUMA = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
    "fcc": (0.30, 0.11),
    "smpte240m": (0.212, 0.087),
}
SPECS = [ColorSpec(matrix, range_) for matrix in TAG_OF_MATRIX for range_ in ("limited", "full")]
RGB_TAGS = ColorTags(matrix=0, range=2)


def ycbcr_of(rgb_HWC: NDArray[np.uint8], color: ColorSpec) -> NDArray[np.float64]:
    """8-bit Y'CbCr planes of 8-bit RGB, not rounded."""
    weight_red, weight_blue = LUMA[color.matrix]
    red, green, blue = np.moveaxis(rgb_HWC.astype(np.float64), -1, 0)
    luma = weight_red * red + (1 - weight_red - weight_blue) * green + weight_blue * blue
    difference = [(blue - luma) / (2 * (1 - weight_blue)), (red - luma) / (2 * (1 - weight_red))]
    if color.range == "full":
        return np.stack([luma, 128 + difference[0], 128 + difference[1]])
    return np.stack([16 + luma * 219 / 255, *(128 + plane * 224 / 255 for plane in difference)])


def rgb_of(planes_3HW: NDArray[np.uint8], color: ColorSpec) -> NDArray[np.float64]:
    """RGB of 8-bit Y'CbCr planes, clipped, not rounded."""
    weight_red, weight_blue = LUMA[color.matrix]
    luma, blue_difference, red_difference = planes_3HW.astype(np.float64)
    if color.range == "full":
        blue_difference, red_difference = blue_difference - 128, red_difference - 128
    else:
        luma = (luma - 16) * 255 / 219
        blue_difference, red_difference = (
            (blue_difference - 128) * 255 / 224,
            (red_difference - 128) * 255 / 224,
        )
    red = luma + 2 * (1 - weight_red) * red_difference
    blue = luma + 2 * (1 - weight_blue) * blue_difference
    green = (luma - weight_red * red - weight_blue * blue) / (1 - weight_red - weight_blue)
    return np.stack([red, green, blue], axis=-1).clip(0, 255)


@pytest.mark.parametrize("color", SPECS, ids=str)
@pytest.mark.parametrize("codec", ["ffv1", "libx264"])
def test_tagged_streams_follow_their_tags(tmp_path: Path, color: ColorSpec, codec: str) -> None:
    tags = output_tags(color, "yuv444p")
    path = write_clip(tmp_path / "clip.mkv", 2, codec=codec, pixel_format="yuv444p", tags=tags)
    with av.open(str(path)) as container:
        planes_3HW = next(container.decode(video=0)).to_ndarray()
    with open_video(path) as reader:
        assert reader.spec.color == said(color)
        rgb_HWC = reader.read(0, 1).rgb_NCHW[0].permute(1, 2, 0).numpy()
    assert np.abs(rgb_HWC - rgb_of(planes_3HW, color)).max() <= 2
    # PyAV 18 follows the tags by itself, too.
    assert np.array_equal(decoded(path)[0], rgb_HWC)


def test_untagged_is_bt601_limited(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mkv", 1, codec="ffv1", pixel_format="yuv444p")
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        assert (frame.colorspace, frame.color_range) == (2, 0)
        assert color_of(frame) == ColorSpec("bt601", "limited", 8, ColorTags())
        expected = rgb_of(frame.to_ndarray(), ColorSpec())
    with open_video(path) as reader:
        assert np.abs(reader.read().rgb_NCHW[0].permute(1, 2, 0).numpy() - expected).max() <= 2


@pytest.mark.parametrize("pixel_format", ["bgr0", "gbrp16le", "gray", "gray10le"])
def test_formats_without_chroma_planes(tmp_path: Path, pixel_format: str) -> None:
    path = write_clip(tmp_path / "clip.mkv", 1, codec="ffv1", pixel_format=pixel_format)
    expected = picture(48, 64, 0).astype(float)
    if pixel_format.startswith("gray"):
        expected = np.repeat(
            ycbcr_of(picture(48, 64, 0), ColorSpec("bt601", "full"))[0][..., None], 3, axis=-1
        )
    with open_video(path, options=ReadOptions(bit_depth=8)) as reader:
        assert reader.spec.color.tags == RGB_TAGS
        assert np.abs(reader.read().rgb_NCHW[0].permute(1, 2, 0).numpy() - expected).max() <= 2


@pytest.mark.parametrize("color", SPECS, ids=str)
def test_to_ycbcr_is_the_definition_and_comes_back(color: ColorSpec) -> None:
    rgb_HWC = picture(48, 64, 3)
    converter = ColorConverter(color)
    frame = converter.from_rgb(rgb_HWC, "yuv444p")
    assert np.abs(frame.to_ndarray() - ycbcr_of(rgb_HWC, color)).max() <= 1.1
    assert color_of(frame) == said(color)
    assert np.abs(converter.to_rgb(frame).astype(int) - rgb_HWC).max() <= 3


def test_full_range_of_jpeg_formats_needs_no_tag() -> None:
    frame = av.VideoFrame(16, 16, "yuvj420p")
    assert color_of(frame).range == "full"


# -- tags ----------------------------------------------------------------------------------------------------


def test_gray_with_the_tag_of_rgb_is_gray(tmp_path: Path) -> None:
    """The PNG decoder tags its grey frames as RGB."""
    path = write_clip(tmp_path / "clip.mov", 1, codec="png", pixel_format="gray")
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        assert frame.colorspace == 0
        gray_HW = frame.to_ndarray()
    with open_video(path) as reader:
        assert (reader.spec.color.tags, reader.notes) == (RGB_TAGS, ())
        assert np.array_equal(reader.read().rgb_NCHW[0].permute(1, 2, 0), np.stack([gray_HW] * 3, axis=-1))


@pytest.mark.parametrize(("pixel_format", "bit_depth"), [("gray", 8), ("gray10le", 10), ("gray12le", 10)])
@pytest.mark.parametrize("range_", [1, 2])
def test_gray_has_the_range_that_it_states(
    tmp_path: Path, pixel_format: str, bit_depth: int, range_: int
) -> None:
    """H.265 states it always. Black is 0 or 16 of 255, white 255 or 235."""
    num_bits = int(pixel_format.removeprefix("gray").removesuffix("le") or 8)
    unit = 2 ** (num_bits - 8)
    levels = (16 * unit, 235 * unit) if range_ == 1 else (0, 2**num_bits - 1)
    luma_HW = np.zeros((48, 64), np.uint16 if num_bits > 8 else np.uint8)
    luma_HW[:, :32], luma_HW[:, 32:] = levels
    frame = av.VideoFrame.from_ndarray(luma_HW, format=pixel_format)
    frame.color_range = range_
    color = color_of(frame)
    assert color.tags == (ColorTags(range=1) if range_ == 1 else RGB_TAGS)
    read = ColorConverter(color)
    rgb_HWC = read.to_rgb(frame) if bit_depth == 8 else read.to_deep_rgb(frame)
    largest = 255 if bit_depth == 8 else 1023
    assert np.abs(rgb_HWC[:, :32].astype(int)).max() <= 1
    assert np.abs(rgb_HWC[:, 32:].astype(int) - largest).max() <= 1


def test_limited_gray_comes_back(tmp_path: Path) -> None:
    options = {"x265-params": "log-level=none"}
    path = write_clip(tmp_path / "in.mkv", 2, codec="libx265", pixel_format="gray", options=options)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        assert (frame.format.name, frame.color_range) == ("gray", 1)
        before_HW = frame.to_ndarray().astype(int)
    copy_frames(path, tmp_path / "out.mkv")
    with av.open(str(tmp_path / "out.mkv")) as container:
        (after_HW, *_) = planes_of(next(container.decode(video=0)))
    assert np.abs(after_HW - before_HW).mean() < 1.5


def test_ycbcr_with_the_tag_of_rgb_is_untagged(tmp_path: Path) -> None:
    tags = ColorTags(primaries=1, matrix=0)
    path = write_clip(tmp_path / "clip.mkv", 1, codec="ffv1", pixel_format="yuv420p", tags=tags)
    untagged = write_clip(tmp_path / "untagged.mkv", 1, codec="ffv1", pixel_format="yuv420p")
    with open_video(path) as reader, open_video(untagged) as other:
        assert reader.spec.color.tags == ColorTags(primaries=1)
        assert reader.notes == (f"{path}: {MISTAGGED}",)
        assert reader.read().rgb_NCHW.equal(other.read().rgb_NCHW)


@pytest.mark.parametrize("matrix", [8, 10, 12, 13, 14])
def test_other_matrices_are_refused(matrix: int) -> None:
    frame = av.VideoFrame(16, 16, "yuv420p")
    frame.colorspace = matrix
    with pytest.raises(InputError, match=r"colour matrix .* is not supported; convert"):
        color_of(frame)


def test_reserved_numbers_say_nothing() -> None:
    frame = av.VideoFrame(16, 16, "yuv420p")
    frame.color_primaries, frame.color_trc, frame.colorspace = 3, 19, 3
    assert color_of(frame).tags == ColorTags()


def test_the_file_speaks_where_the_frame_is_silent() -> None:
    frame = av.VideoFrame(16, 16, "yuv420p")
    frame.color_trc = 1
    color = color_of(frame, ColorTags(primaries=9, transfer=16, matrix=9, range=2))
    assert color == ColorSpec("bt2020", "full", tags=ColorTags(9, 1, 9, 2))


def test_outputs_are_tagged_as_the_input_was() -> None:
    tags = ColorTags(5, 1, 6, 1)
    assert output_tags(ColorSpec(tags=tags), "yuv420p") == tags
    assert output_tags(ColorSpec(tags=ColorTags()), "yuv420p") == ColorTags()
    assert output_tags(ColorSpec(tags=tags), "bgr0") == ColorTags(5, 1, 2, 2)


def test_what_has_no_matrix_is_tagged_with_that_of_its_conversion() -> None:
    """Frames of RGB, and files of format 1, which keep no tags."""
    assert output_tags(ColorSpec("bt709", "full"), "yuv420p") == ColorTags(matrix=1, range=2)
    color = ColorSpec(tags=ColorTags(1, 13, 0, 2))
    assert output_tags(color, "yuv444p") == ColorTags(1, 13, 6, 1)


# -- exact conversion ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("color", SPECS, ids=lambda color: f"{color.matrix}-{color.range}")
@pytest.mark.parametrize("upsampling", ["nearest", "bicubic"])
def test_exact_conversion_has_no_bias(color: ColorSpec, upsampling: Upsampling) -> None:
    """Gray levels through 4:2:0 and back: within a rounding; swscale's default is a level darker."""
    levels_HW = np.repeat(np.arange(0, 256, 2, dtype=np.uint8)[None], 8, axis=0)
    gray_HWC = np.repeat(levels_HW[..., None], 3, axis=2)
    converter = ColorConverter(color)
    frame = converter.from_rgb(gray_HWC, "yuv420p")
    exact = converter.to_rgb(frame, upsampling=upsampling).astype(int) - gray_HWC
    assert np.abs(exact).max() <= 1
    assert abs(exact.mean()) < 0.1
    if color.range == "limited":
        assert (converter.to_rgb(frame).astype(int) - gray_HWC).mean() < -0.4


@pytest.mark.parametrize("upsampling", ["nearest", "bicubic"])
def test_chroma_lies_where_it_was_put_whatever_a_decoder_says(tmp_path: Path, upsampling: Upsampling) -> None:
    """Decoders of H.264 say that chroma lies left; from_rgb puts it in the middle. QP 0 is lossless."""
    converter = ColorConverter(ColorSpec())
    written = converter.from_rgb(picture(48, 64, 0), "yuv420p")
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(written))
        container.mux(stream.encode(None))
    with av.open(str(tmp_path / "a.mkv")) as container:
        (read,) = container.decode(video=0)
    expected = converter.to_rgb(written, upsampling=upsampling)
    assert np.array_equal(converter.to_rgb(read, upsampling=upsampling), expected)


def test_planes_have_their_own_sizes() -> None:
    frame = ColorConverter(ColorSpec()).from_rgb(np.full((7, 9, 3), 200, dtype=np.uint8), "yuv420p")
    planes = planes_of(frame)
    assert [plane.shape for plane in planes] == [(7, 9), (4, 5), (4, 5)]
    assert [int(plane.min()) for plane in planes] == [int(plane.max()) for plane in planes] == [188, 128, 128]
