"""Frames of 10 bits: read, edited, and written, sample by sample."""

from __future__ import annotations

from fractions import Fraction
from io import BytesIO
from itertools import product
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from PIL import Image

from deep_clips import gradient, write_10
from video.video_clips import write_clip
from vinr.errors import InputError
from vinr.video.color import ColorConverter, planes_of
from vinr.video.deep_color import fill_planes, read_rgb, write_rgb
from vinr.video.deep_images import read_deep_image
from vinr.video.depth import with_depth
from vinr.video.edit import Edit
from vinr.video.reading import ReadOptions
from vinr.video.sink import open_sink
from vinr.video.source import open_video
from vinr.video.spec import ColorMatrix, ColorSpec, Timeline, VideoSpec

MATRICES: dict[ColorMatrix, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
}


def rgb_by_formula(
    planes: list[NDArray[np.float64]], matrix: ColorMatrix, num_bits: int, *, full: bool
) -> NDArray[np.float64]:
    """ISO/IEC 23091-2, 8.3: samples of 4:4:4 to rgb_HWC, 0 … 1023, in float64."""
    kr, kb = MATRICES[matrix]
    unit, middle = 2.0 ** (num_bits - 8), 2.0 ** (num_bits - 1)
    white = 2.0**num_bits - 1
    black, scale, chroma_scale = (0, white, white) if full else (16 * unit, 219 * unit, 224 * unit)
    luma, blue, red = planes[0] - black, planes[1] - middle, planes[2] - middle
    luma, blue, red = luma / scale, blue / chroma_scale, red / chroma_scale
    r, b = luma + 2 * (1 - kr) * red, luma + 2 * (1 - kb) * blue
    g = (luma - kr * r - kb * b) / (1 - kr - kb)
    return 1023 * np.stack([r, g, b], axis=-1)


@pytest.mark.parametrize(("matrix", "full"), list(product(MATRICES, (False, True))))
@pytest.mark.parametrize(("pixel_format", "num_bits"), [("yuv444p10le", 10), ("yuv444p12le", 12)])
def test_reading_rounds_the_formula(
    matrix: ColorMatrix, full: bool, pixel_format: str, num_bits: int
) -> None:
    generator = np.random.default_rng(1)
    unit = 2 ** (num_bits - 8)
    planes = [generator.integers(16 * unit, 235 * unit, (16, 24)) for _ in range(3)]
    frame = VideoFrame(24, 16, pixel_format)
    fill_planes(frame, [plane.astype(np.uint16) for plane in planes])
    color = ColorSpec(matrix, "full" if full else "limited")
    found_HWC = read_rgb(VideoReformatter(), frame, color)
    wanted_HWC = rgb_by_formula([plane.astype(np.float64) for plane in planes], matrix, num_bits, full=full)
    difference = np.abs(found_HWC - wanted_HWC.clip(0, 1023))
    assert difference.max() < 0.501


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("pixel_format", ["yuv444p10le", "yuv420p10le"])
def test_black_grey_and_white_keep_their_levels(pixel_format: str, full: bool) -> None:
    color = ColorSpec("bt709", "full" if full else "limited")
    black, white = (0, 1023) if full else (64, 940)
    for level, luma in ((0, black), (1023, white), (512, round(black + 512 / 1023 * (white - black)))):
        rgb_HWC = np.full((6, 8, 3), level, np.uint16)
        frame = write_rgb(rgb_HWC, pixel_format, color)
        assert [set(plane.ravel().tolist()) for plane in planes_of(frame)] == [{luma}, {512}, {512}]
        assert np.abs(read_rgb(VideoReformatter(), frame, color).astype(int) - level).max() <= 1


@pytest.mark.parametrize("matrix", MATRICES)
def test_writing_444_and_reading_is_off_by_one_level_at_most(matrix: ColorMatrix) -> None:
    rgb_HWC = gradient(1)[0].permute(1, 2, 0).numpy()
    color = ColorSpec(matrix, "full")
    back = read_rgb(VideoReformatter(), write_rgb(rgb_HWC, "yuv444p10le", color), color)
    assert np.abs(back.astype(int) - rgb_HWC).max() <= 1


@pytest.mark.parametrize("size", [(5, 7), (6, 8)])
def test_chroma_of_420_is_the_mean_of_its_neighbours(size: tuple[int, int]) -> None:
    height, width = size
    rgb_HWC = gradient(1, height, width)[0].permute(1, 2, 0).numpy()
    color = ColorSpec("bt709", "limited")
    whole = planes_of(write_rgb(rgb_HWC, "yuv444p10le", color))
    halved = planes_of(write_rgb(rgb_HWC, "yuv420p10le", color))
    assert np.array_equal(halved[0], whole[0])
    for full_HW, half_HW in zip(whole[1:], halved[1:], strict=True):
        assert half_HW.shape == ((height + 1) // 2, (width + 1) // 2)
        for row, col in np.ndindex(half_HW.shape):
            rows = [2 * row, min(2 * row + 1, height - 1)]
            cols = [max(2 * col - 1, 0), 2 * col, min(2 * col + 1, width - 1)]
            mean = full_HW[np.ix_(rows, cols)].mean(axis=0) @ np.array([0.25, 0.5, 0.25])
            assert abs(half_HW[row, col] - mean) <= 1


@pytest.mark.parametrize("pixel_format", ["gbrp10le", "rgb48be"])
def test_rgb_formats_keep_every_level(pixel_format: str) -> None:
    rgb_HWC = np.arange(1024, dtype=np.uint16).reshape(16, 64)[..., None].repeat(3, 2)
    frame = write_rgb(rgb_HWC, pixel_format, ColorSpec())
    assert np.array_equal(read_rgb(VideoReformatter(), frame, ColorSpec()), rgb_HWC)


@pytest.mark.parametrize(
    ("pixel_format", "num_bits"),
    [("gray", 8), ("gray10le", 10), ("gray16le", 16), ("gbrp", 8), ("gbrp9le", 9), ("gbrp12le", 12)],
)
def test_grey_and_rgb_of_any_depth_become_10_bits(pixel_format: str, num_bits: int) -> None:
    white = 2**num_bits - 1
    sample_HW = np.linspace(0, white, 512).round().astype(np.uint8 if num_bits == 8 else np.uint16)
    sample_HW = sample_HW.reshape(8, 64)
    frame = VideoFrame(64, 8, pixel_format)
    fill_planes(frame, [sample_HW] * len(frame.planes))
    wanted = np.rint(sample_HW * (1023 / white))
    for channel in range(3):
        assert np.abs(read_rgb(VideoReformatter(), frame, ColorSpec())[..., channel] - wanted).max() == 0


def test_full_range_of_old_formats_keeps_black_and_white() -> None:
    frame = VideoFrame(8, 8, "yuvj420p")
    level_HW = np.repeat(np.array([0, 255], np.uint8), 4)[None].repeat(8, 0)
    fill_planes(frame, [level_HW, np.full((4, 4), 128, np.uint8), np.full((4, 4), 128, np.uint8)])
    found = read_rgb(VideoReformatter(), frame, ColorSpec(range="full"))
    assert np.array_equal(found[0, :, 0], np.repeat([0, 1023], 4))


def test_deep_video_is_read_at_10_bits_and_at_8_as_before(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "deep.mkv", 3, codec="ffv1", pixel_format="yuv420p10le")
    with open_video(path) as reader:
        assert (reader.spec.bit_depth, reader.spec.color.bit_depth) == (10, 10)
        assert reader.notes == ()
        frames = reader.read()
    assert frames.rgb_NCHW.dtype == torch.uint16
    with open_video(path, options=ReadOptions(bit_depth=8)) as reader:
        assert (reader.spec.bit_depth, reader.spec.color.bit_depth) == (8, 10)
        at_8 = reader.read()
    with av.open(str(path)) as container:
        converter = ColorConverter(at_8.spec.color)
        wanted = [converter.to_rgb(frame) for frame in container.decode(video=0)]
    assert np.array_equal(at_8.rgb_NCHW.permute(0, 2, 3, 1).numpy(), np.stack(wanted))


def test_8_bit_video_stays_8_bit_unless_10_are_asked_for(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "flat.mkv", 2)
    with open_video(path) as reader:
        assert reader.read().rgb_NCHW.dtype == torch.uint8
    with open_video(path, options=ReadOptions(bit_depth=10)) as reader:
        assert reader.read().rgb_NCHW.dtype == torch.uint16


def test_more_than_10_bits_are_rounded_with_a_note(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "deeper.mkv", 2, codec="ffv1", pixel_format="yuv420p16le")
    with open_video(path) as reader:
        (note,) = reader.notes
        assert note == f"{path}: has 16 bits per sample (yuv420p16le), which are rounded to 10"
        assert reader.read().rgb_NCHW.dtype == torch.uint16
    with open_video(path, options=ReadOptions(bit_depth=8)) as reader:
        assert reader.notes == ()


def test_lossless_files_give_back_every_level(tmp_path: Path) -> None:
    rgb_NCHW = gradient()
    write_10(tmp_path / "out.mkv", rgb_NCHW, codec="ffv1")
    with open_video(tmp_path / "out.mkv") as reader:
        assert torch.equal(reader.read().rgb_NCHW, rgb_NCHW)


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [
        ("out.mp4", None, "yuv420p10le"),
        ("out.mkv", "x264", "yuv420p10le"),
        ("out.mkv", "av1", "yuv420p10le"),
        ("out.mkv", "ffv1", "gbrp10le"),
        ("odd.mkv", None, "yuv444p10le"),
        ("odd.mkv", "ffv1", "gbrp10le"),
    ],
)
def test_codecs_write_10_bits(tmp_path: Path, name: str, codec: str | None, pixel_format: str) -> None:
    rgb_NCHW = gradient(2, 65, 67) if name.startswith("odd") else gradient(2, 64, 96)
    write_10(tmp_path / name, rgb_NCHW, codec=codec)
    with av.open(str(tmp_path / name)) as container:
        context = container.streams.video[0].codec_context
        assert context.pix_fmt == pixel_format
        if codec is None:
            assert context.name == "hevc"
    with open_video(tmp_path / name) as reader:
        decoded = reader.read().rgb_NCHW
    error = (decoded.double() - rgb_NCHW.double()).square().mean().sqrt()
    assert float(error) < 12  # of 1023; an 8-bit file read wrongly is hundreds off


def test_y4m_says_10_bits_and_holds_the_samples(tmp_path: Path) -> None:
    rgb_NCHW = gradient(2, 5, 7)
    content = write_10(tmp_path / "out.y4m", rgb_NCHW).read_bytes()
    header, _, rest = content.partition(b"\n")
    assert b" C444p10 XYSCSS=444P10 " in header
    assert len(rest) == 2 * (len(b"FRAME\n") + 3 * 2 * 5 * 7)
    first = np.frombuffer(rest, "<u2", 3 * 5 * 7, len(b"FRAME\n")).reshape(3, 5, 7)
    rgb_HWC = rgb_NCHW[0].permute(1, 2, 0).contiguous().numpy()
    assert np.array_equal(first, np.stack(planes_of(write_rgb(rgb_HWC, "yuv444p10le", ColorSpec()))))
    with open_video(tmp_path / "out.y4m") as reader:
        assert reader.spec.bit_depth == 10
        assert (reader.read().rgb_NCHW.int() - rgb_NCHW.int()).abs().max() <= 3  # limited range


def test_pngs_hold_16_bits(tmp_path: Path) -> None:
    rgb_NCHW = gradient(2)
    write_10(tmp_path / "frames", rgb_NCHW)
    content = (tmp_path / "frames" / "frame_00001.png").read_bytes()
    assert content[24:26] == b"\x10\x02"  # 16 bits, RGB
    with Image.open(BytesIO(content)) as image:
        image.verify()
    with av.open(BytesIO(content)) as container:
        wide = next(container.decode(video=0)).to_ndarray(format="rgb48le")
    wanted = np.rint(rgb_NCHW[1].permute(1, 2, 0).numpy() * (65535 / 1023))
    assert np.array_equal(wide, wanted)


def test_8_bit_sinks_refuse_10_bits(tmp_path: Path) -> None:
    rgb_NCHW = gradient(1)
    spec = VideoSpec(1, 32, 48)
    with (
        pytest.raises(ValueError, match="must be torch"),
        open_sink(str(tmp_path / "out.y4m"), spec, Timeline(1, Fraction(25))) as sink,
    ):
        sink.write(rgb_NCHW)


@pytest.mark.parametrize("resize", [(16, 24), (20, 30), (40, 50)])
def test_resizing_at_10_bits_is_that_at_8_bits_but_finer(resize: tuple[int, int]) -> None:
    rgb_HWC = gradient(1)[0].permute(1, 2, 0).contiguous()
    edit = Edit(crop=(32, 48), resize=resize)
    deep = edit.apply(rgb_HWC.numpy())
    assert deep.dtype == np.uint16
    flat = edit.apply(with_depth(rgb_HWC, 8).numpy())
    assert np.abs(deep * (255 / 1023) - flat).max() <= 1.5
    assert len(np.unique(deep)) > len(np.unique(flat))


def test_resized_edges_stay_in_range() -> None:
    rgb_HWC = np.zeros((16, 16, 3), np.uint16)
    rgb_HWC[:, 8:] = 1023
    resized = Edit(resize=(23, 23)).apply(rgb_HWC)
    assert (resized.min(), resized.max()) == (0, 1023)


def test_rounding_to_8_bits_keeps_black_and_white() -> None:
    levels = torch.tensor([0, 1, 2, 3, 511, 512, 1022, 1023], dtype=torch.uint16)
    assert with_depth(levels, 8).tolist() == [0, 0, 0, 1, 127, 128, 255, 255]
    every = torch.arange(256).to(torch.uint8)
    assert torch.equal(with_depth(with_depth(every, 10), 8), every)
    assert with_depth(every, 8) is every


def test_unusable_types_are_refused() -> None:
    with pytest.raises(ValueError, match=r"or torch\.uint16"):
        with_depth(torch.zeros(3), 8)


def test_damaged_deep_video_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "bad.mkv").write_bytes(b"no video")
    with pytest.raises(InputError):
        open_video(tmp_path / "bad.mkv", options=ReadOptions(bit_depth=10))


def test_folders_of_16_bit_images_give_back_their_10_bits(tmp_path: Path) -> None:
    rgb_NCHW = gradient(2)
    write_10(tmp_path / "frames", rgb_NCHW)
    with open_video(tmp_path / "frames") as reader:
        assert (reader.spec.bit_depth, reader.spec.color.bit_depth) == (10, 10)
        (note,) = reader.notes
        assert "2 of 2 images have more than 8 bits per sample; all are read at 10" in note
        assert torch.equal(reader.read().rgb_NCHW, rgb_NCHW)
    with open_video(tmp_path / "frames", options=ReadOptions(bit_depth=8)) as reader:
        assert reader.notes == ()
        assert torch.equal(reader.read().rgb_NCHW, with_depth(rgb_NCHW, 8))


def test_images_of_both_depths_are_read_at_10(tmp_path: Path) -> None:
    level_HW = np.linspace(0, 65535, 48).round().astype(np.uint16).reshape(6, 8)
    Image.fromarray(level_HW).save(tmp_path / "1.png")
    Image.fromarray(level_HW).save(tmp_path / "2.tif")
    netpbm = b"P6 8 6 1023\n" + np.rint(level_HW / 65535 * 1023).astype(">u2").repeat(3).tobytes()
    (tmp_path / "3.ppm").write_bytes(netpbm)
    Image.fromarray((level_HW >> 8).astype(np.uint8)).save(tmp_path / "4.png")
    with open_video(tmp_path) as reader:
        assert "3 of 4 images" in reader.notes[-1]
        frames = reader.read().rgb_NCHW
    wanted = np.rint(level_HW / 65535 * 1023)
    for number in range(3):
        assert np.abs(frames[number, 1].numpy() - wanted).max() <= 1, number
    assert np.array_equal(frames[3, 0].numpy(), np.rint((level_HW >> 8) * (1023 / 255)))


def test_damaged_16_bit_images_are_input_errors(tmp_path: Path) -> None:
    write_10(tmp_path / "frames", gradient(1))
    file = tmp_path / "frames" / "frame_00000.png"
    file.write_bytes(file.read_bytes()[:120])
    with pytest.raises(InputError, match=r"frame_00000\.png: not a readable image"):
        open_video(tmp_path / "frames")
    with pytest.raises(InputError, match=r"frame_00000\.png: not a readable image"):
        read_deep_image(file)


def test_16_bit_images_are_turned_upright(tmp_path: Path) -> None:
    level_HW = np.linspace(0, 65535, 48).round().astype(np.uint16).reshape(6, 8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(level_HW).save(tmp_path / "1.png", exif=exif)
    with open_video(tmp_path) as reader:
        assert (reader.spec.height, reader.spec.width) == (8, 6)
        frame_HW = reader.read().rgb_NCHW[0, 0].numpy()
    assert np.abs(frame_HW - np.rot90(level_HW, -1) / 65535 * 1023).max() <= 0.51
