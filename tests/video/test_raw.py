"""Raw video: size, rate, depth and layout as people write them into names, or as options."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from video.video_clips import picture
from vinr.errors import InputError, UsageError
from vinr.video.depth import with_depth
from vinr.video.raw import describe_raw
from vinr.video.reading import ReadOptions
from vinr.video.source import VideoReader, open_video

HEIGHT, WIDTH = 24, 32


def samples_of(index: int, pixel_format: str, height: int = HEIGHT, width: int = WIDTH) -> bytes:
    """A picture's samples, without the padding that libav puts at the end of rows."""
    frame = av.VideoFrame.from_ndarray(picture(height, width, index), format="rgb24")
    frame = frame.reformat(format=pixel_format)
    content = b""
    for number, plane in enumerate(frame.planes):
        rows_HW = np.frombuffer(bytes(plane), np.uint8).reshape(plane.height, plane.line_size)
        parts = [part for part in frame.format.components if part.plane == number]
        row_bytes = sum(part.width * -(-part.bits // 8) for part in parts)
        content += rows_HW[:, :row_bytes].tobytes()
    return content


def write_raw(path: Path, pixel_format: str, num_frames: int = 3) -> Path:
    """Pictures as raw samples."""
    path.write_bytes(b"".join(samples_of(index, pixel_format) for index in range(num_frames)))
    return path


def read(path: Path, **options: object) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Frames as uint8 rgb_NHWC, and notes."""
    with open_video(path, options=ReadOptions(**options)) as reader:  # type: ignore[arg-type]
        assert reader.audio() is None
        return at_8_bits(reader), reader.notes


def at_8_bits(reader: VideoReader) -> NDArray[np.uint8]:
    """All frames as uint8 rgb_NHWC."""
    return with_depth(reader.read().rgb_NCHW, 8).permute(0, 2, 3, 1).numpy()


def is_close(rgb_NHWC: NDArray[np.uint8], num_frames: int = 3) -> bool:
    """Whether these are the pictures, as far as subsampled chroma leaves them."""
    expected = np.stack([picture(HEIGHT, WIDTH, index) for index in range(num_frames)])
    return rgb_NHWC.shape == expected.shape and np.abs(rgb_NHWC.astype(int) - expected).mean() < 4


@pytest.mark.parametrize(
    ("name", "pixel_format"),
    [
        ("clip_32x24_25fps_420_8bit_YUV.yuv", "yuv420p"),
        ("clip_32x24_25_8b.yuv", "yuv420p"),
        ("clip_yuv420p_32x24_25.yuv", "yuv420p"),
        ("clip_32x24_25fps_420_10bit_YUV.yuv", "yuv420p10le"),
        ("clip_32x24_25_10b.yuv", "yuv420p10le"),
        ("clip_32x24_60p_yuv420_10b.yuv", "yuv420p10le"),
        ("10bit_clip_32x24_25.yuv", "yuv420p10le"),
        ("clip 10-bit 32x24 25fps.yuv", "yuv420p10le"),
        ("clip_32x24_25fps_10_bit.yuv", "yuv420p10le"),
        ("clip_32x24_25_10bpp.yuv", "yuv420p10le"),
        ("clip_32x24_25_p10.yuv", "yuv420p10le"),
        ("clip_32x24_25_P10LE.yuv", "yuv420p10le"),
        ("clip_32x24_25_420p10le.yuv", "yuv420p10le"),
        ("clip_yuv420p10le_32x24_25.yuv", "yuv420p10le"),
        ("clip_32x24p25_yuv420p10.yuv", "yuv420p10le"),
        ("clip_32x24_25_yuv420p10be.yuv", "yuv420p10be"),
        ("clip_32x24_25_422_10bit.yuv", "yuv422p10le"),
        ("clip_32x24_25_yuv422p.yuv", "yuv422p"),
        ("clip_32x24_25_444_8bit.yuv", "yuv444p"),
        ("clip_32x24_25_yuv444p12le.yuv", "yuv444p12le"),
        ("clip_32x24_25_16bit.yuv", "yuv420p16le"),
        ("clip_32x24_25_nv12.yuv", "nv12"),
        ("clip_32x24_25_420_NV21.yuv", "nv21"),
        ("clip_32x24_25_nv16.yuv", "nv16"),
        ("clip_32x24_25_I420_8bit.yuv", "yuv420p"),
        ("clip_32x24_25_P010.yuv", "p010le"),
        ("clip_32x24_25_p010le.yuv", "p010le"),
        ("clip_32x24_25_uyvy.yuv", "uyvy422"),
        ("clip_32x24_25_411_8bit.yuv", "yuv411p"),
        ("clip_32x24_25_argb.yuv", "argb"),
        ("clip_32x24_25_gbrp.yuv", "gbrp"),
        ("clip_32x24_25.nv12", "nv12"),
        ("clip_32x24_25.rgb", "rgb24"),
        ("clip_32x24_25_rgba.raw", "rgba"),
        ("clip_32x24_25_420_8bit.raw", "yuv420p"),
        ("clip_420_8bit_32x24@25.yuv", "yuv420p"),
        ("CLIP_32X24_25FPS_8BIT.YUV", "yuv420p"),
    ],
)
def test_format_as_people_write_it(tmp_path: Path, name: str, pixel_format: str) -> None:
    rgb_NHWC, notes = read(write_raw(tmp_path / name, pixel_format))
    assert is_close(rgb_NHWC)
    assert not [note for note in notes if "pix_fmt" in note]


def test_yv12_has_cr_before_cb(tmp_path: Path) -> None:
    content = samples_of(0, "yuv420p")
    luma, chroma = HEIGHT * WIDTH, HEIGHT * WIDTH // 4
    y, u, v = content[:luma], content[luma : luma + chroma], content[luma + chroma :]
    (tmp_path / "clip_32x24_25.yv12").write_bytes(y + v + u)
    rgb_NHWC, notes = read(tmp_path / "clip_32x24_25.yv12")
    assert is_close(rgb_NHWC, 1)
    assert notes == ()


@pytest.mark.parametrize(
    "name", ["clip_32x24_25_gray8.yuv", "clip_32x24_25_400_8bit.yuv", "clip_32x24_25.y8"]
)
def test_grey(tmp_path: Path, name: str) -> None:
    raw = describe_raw(write_raw(tmp_path / name, "gray"), name, ReadOptions())
    assert (raw.options["pixel_format"], raw.notes) == ("gray", ())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("clip_32x24_25.yuv", "read as 8-bit 4:2:0, as its name does not say the depth; pix_fmt chooses"),
        ("clip_32x24_25_420.yuv", "read as 8-bit 4:2:0, as"),
        ("clip_32x24_25_400.yuv", "read as 8-bit grey, as"),
        ("clip_32x24_25_gray.yuv", "read as 8-bit grey, as"),
    ],
)
def test_guess_is_said(tmp_path: Path, name: str, said: str) -> None:
    path = write_raw(tmp_path / name, "gray", 3 * 2)  # 4 frames of 4:2:0
    raw = describe_raw(path, str(path), ReadOptions())
    assert len(raw.notes) == 1
    assert raw.notes[0].startswith(f"{path}: {said}")


@pytest.mark.parametrize(("name", "pixel_format"), [("a", "yuv420p10le"), ("a_444", "yuv444p10le")])
def test_ten_bits_that_no_name_states_are_seen(tmp_path: Path, name: str, pixel_format: str) -> None:
    path = write_raw(tmp_path / f"{name}_32x24_25.yuv", pixel_format)
    rgb_NHWC, (note,) = read(path)
    assert is_close(rgb_NHWC)
    assert "10-bit 4:" in note
    assert "by its samples" in note


@pytest.mark.parametrize("pixel_format", ["yuv420p", "p010le", "yuv420p16le"])
def test_samples_above_the_depth_in_the_name_are_refused(tmp_path: Path, pixel_format: str) -> None:
    path = write_raw(tmp_path / "clip_32x24_25_10b.yuv", pixel_format, 4)
    with pytest.raises(InputError, match=r"by its name 10-bit 4:2:0, but has samples above 1023; pix_fmt"):
        open_video(path)
    assert is_close(read(path, pixel_format=pixel_format)[0], 4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clip_32x24_25_8bit_10bit.yuv", "says both 10 and 8; pix_fmt"),
        ("clip_32x24_25_420_444.yuv", "says both 420 and 444; pix_fmt"),
        ("clip_32x24_25_nv12_10bit.yuv", "says both 10 and 8; pix_fmt"),
        ("clip_32x24_of_64x48_25.yuv", "states 2 sizes; raw_size chooses"),
        ("clip_32x24_25_bgr8.yuv", "bgr8, which cannot be read|says both"),
        ("clip_32x24_25_v210.yuv", "by its name v210, which cannot be read; convert it, or give pix_fmt"),
        ("clip_32x24_25_bayer.raw", "by its name bayer, which cannot be read; convert it, or give pix_fmt"),
        ("clip_32x24_25_422.yuv", r"are not whole 32x24 yuv422p frames of 1536 bytes; .* yuv420p, "),
        ("clip_32x24.yuv", "needs size and rate .*; else give rate$"),
        ("clip_25fps.yuv", "needs size and rate .*; else give raw_size \\(height x width\\)$"),
        ("clip.yuv", "needs size and rate .*; else give raw_size \\(height x width\\) and rate$"),
        ("foreman_cif.yuv", "needs size and rate .*; else give rate$"),
        ("clip_32x24_0.yuv", "needs size and rate"),
        ("clip_32x24_420.yuv", "needs size and rate"),
    ],
)
def test_names_that_do_not_do(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_bytes(bytes(1152))
    with pytest.raises(InputError, match=message):
        open_video(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "size", "rate"),
    [
        ("foreman_qcif_30_8bit.yuv", "176x144", "30"),
        ("akiyo_CIF_29.97fps_8bit.yuv", "352x288", "30000/1001"),
        ("soccer_4cif_60_8bit.yuv", "704x576", "60"),
        ("crowd_run_1080p50_8bit.yuv", "1920x1080", "50"),
        ("park_8bit_720p_25.yuv", "1280x720", "25"),
        ("pacific_176x144_25_8bit.yuv", "176x144", "25"),
    ],
)
def test_sizes_that_have_names(tmp_path: Path, name: str, size: str, rate: str) -> None:
    width, height = map(int, size.split("x"))
    (tmp_path / name).write_bytes(bytes(width * height * 3 // 2))
    raw = describe_raw(tmp_path / name, name, ReadOptions())
    assert (raw.options["video_size"], raw.options["framerate"], raw.notes) == (size, rate, ())


@pytest.mark.parametrize(
    ("words", "rate"),
    [
        ("24000-1001fps", Fraction(24_000, 1001)),
        ("30000_1001", Fraction(30_000, 1001)),
        ("59_94fps", Fraction(60_000, 1001)),
        ("23-976FPS", Fraction(24_000, 1001)),
        ("take_12_30fps", Fraction(30)),
        ("25_1001", Fraction(25)),
    ],
)
def test_rates_with_other_signs(tmp_path: Path, words: str, rate: Fraction) -> None:
    path = write_raw(tmp_path / f"clip_32x24_{words}_8bit.yuv", "yuv420p")
    raw = describe_raw(path, path.name, ReadOptions())
    assert (raw.options["framerate"], raw.notes) == (str(rate), ())


def test_options_make_any_name_do(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "camera.bin", "yuv422p10le")
    options = ReadOptions.of(raw_size=(HEIGHT, WIDTH), rate="29.97", pix_fmt="422p10")
    with open_video(path, options=options) as reader:
        assert reader.spec.frame_rate == Fraction(30_000, 1001)
        assert is_close(at_8_bits(reader))
        assert reader.notes == ()


OTHERS = (
    *("yuv444p16be", "p210le", "p416le", "nv24", "nv42", "yvyu422", "bgra", "gbrp12le", "gbrap16be"),
    *("rgb48be", "yuva444p10le", "ayuv64le", "yuv411p", "yuv440p", "yuvj420p"),
)


@pytest.mark.parametrize("pixel_format", OTHERS)
def test_formats_of_libav(tmp_path: Path, pixel_format: str) -> None:
    path = write_raw(tmp_path / "camera.bin", pixel_format)
    rgb_NHWC, _ = read(path, pixel_format=pixel_format, raw_size=(HEIGHT, WIDTH), rate=Fraction(25))
    assert is_close(rgb_NHWC)


def test_options_come_before_the_name(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "clip_64x48_25_10bit.yuv", "nv12")
    options = ReadOptions.of(raw_size=(HEIGHT, WIDTH), rate=50, pix_fmt="nv12")
    with open_video(path, options=options) as reader:
        assert (reader.original, reader.spec.frame_rate) == ((HEIGHT, WIDTH), 50)
        assert is_close(at_8_bits(reader))


def test_portrait_size_is_said(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "clip_25fps_8bit.yuv", "yuv420p")
    _, (note,) = read(path, raw_size=(WIDTH, HEIGHT))
    assert note == f"{path}: read as 24 wide and 32 high; for 32 wide and 24 high write raw_size='32:24'"


@pytest.mark.parametrize(
    "text",
    ["", "yuv", "10bit4", "cuda", "pal", "rgb565le", "pal8", "gray32le", "rgbf32le", "x" * 300, "yuv420p11"],
)
def test_unknown_pixel_formats_are_refused(tmp_path: Path, text: str) -> None:
    path = write_raw(tmp_path / "clip_32x24_25.yuv", "yuv420p")
    with pytest.raises(UsageError, match=r"pixel format .*such as yuv420p") as caught:
        open_video(path, options=ReadOptions(pixel_format=text))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("suffix", ["raw", "rgb", "nv12"])
def test_what_may_be_raw_says_what_is_lacking(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(bytes([128]) * 4096)
    with pytest.raises(InputError, match=r"if it is raw video, give raw_size \(height x width\) and rate$"):
        open_video(path)


def test_options_without_effect_are_refused(tmp_path: Path, tiny_video: Path) -> None:
    for options, option in ((ReadOptions(rate=Fraction(25)), "rate"), (ReadOptions(stream=0), "stream")):
        with pytest.raises(UsageError, match=f"leave {option} out"):
            open_video(tmp_path if option == "stream" else tiny_video, options=options)
    with pytest.raises(UsageError, match="leave raw_size out"):
        open_video(tmp_path, options=ReadOptions(raw_size=(8, 8)))
    with pytest.raises(UsageError, match="numbered from 0"):
        ReadOptions(stream=-1)
    with pytest.raises(UsageError, match="at least 1"):
        ReadOptions(raw_size=(0, 8))


@pytest.mark.parametrize("pixel_format", ["yuv420p", "nv12", "yuv422p10le", "yuyv422", "rgb24"])
def test_odd_sizes(tmp_path: Path, pixel_format: str) -> None:
    path = tmp_path / f"clip_33x25_25_{pixel_format}.yuv"
    # As libav writes them.
    with av.open(str(path), "w", format="rawvideo") as output:
        stream = output.add_stream("rawvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 33, 25, pixel_format
        for index in range(2):
            frame = av.VideoFrame.from_ndarray(picture(25, 33, index), format="rgb24")
            frame = frame.reformat(format=pixel_format)
            frame.pts = index
            output.mux(stream.encode(frame))
    rgb_NHWC, _ = read(path)
    expected = np.stack([picture(25, 33, index) for index in range(2)])
    assert np.abs(rgb_NHWC.astype(int) - expected).mean() < 4


def test_any_range_of_frames(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "clip_32x24_25_nv12.yuv", "nv12", 6)
    with open_video(path) as whole, open_video(path, frames=(2, 5)) as part:
        assert torch.equal(part.read().rgb_NCHW, whole.read().rgb_NCHW[2:5])
