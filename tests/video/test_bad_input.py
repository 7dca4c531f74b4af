"""What cannot be read is refused in one line, with nothing on standard error."""

from __future__ import annotations

import random
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from video.video_clips import picture, write_clip, write_clip_with_tone
from vinr.errors import InputError, UsageError, VinrError
from vinr.tasks.masks import open_mask
from vinr.video.source import open_video
from vinr.video.spec import ColorTags


def refuse(path: Path, match: str, kind: type[VinrError] = InputError, **edit: object) -> None:
    """Open and read everything; the error must be of ``kind``, one line, and say ``match``."""
    with pytest.raises(kind, match=match) as caught, open_video(path, **edit) as reader:
        reader.read()
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="the system has no such device")
def test_a_device_is_not_called_missing() -> None:
    with pytest.raises(InputError, match=r"^/dev/null: not a regular file; "):
        open_video("/dev/null")


def test_missing_file(tmp_path: Path) -> None:
    refuse(tmp_path / "none.mp4", "no such file")


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    refuse(tmp_path / "empty.mp4", "is empty")


@pytest.mark.parametrize("name", ["text.mp4", "text.mkv", "text.txt", "text"])
def test_text(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("This is no video.\n" * 200, encoding="utf-8")
    refuse(tmp_path / name, "not a readable video|text file")


@pytest.mark.parametrize(
    "header", [b"YUV4MPEG2 garbage\n", b"YUV4MPEG2 W64 H48 F25:1 C420jpeg\n", b"YUV4MPEG2 W"]
)
def test_y4m_garbage(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "bad.y4m"
    path.write_bytes(header)
    refuse(path, "not a readable video|no frames")


def cut(path: Path, fraction: float) -> Path:
    """Keep the first part of a file."""
    data = path.read_bytes()
    target = path.with_stem("cut")
    target.write_bytes(data[: int(len(data) * fraction)])
    return target


def test_mp4_without_its_index(tmp_path: Path) -> None:
    refuse(cut(write_clip(tmp_path / "a.mp4", 40), 0.7), "not a readable video, or cut short")


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"movflags": "faststart"}),
        ("a.mkv", "libx264", {}),
        ("a.webm", "libvpx-vp9", {}),
        ("a.y4m", "wrapped_avframe", {}),
        ("a.avi", "mpeg4", {}),
    ],
)
def test_cut_in_the_middle(tmp_path: Path, name: str, codec: str, options: dict[str, str]) -> None:
    path = write_clip(tmp_path / name, 60, height=96, width=160, codec=codec, container_options=options)
    refuse(cut(path, 0.6), "cut short")


def test_damage_in_the_middle(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 30, options={"crf": "8"})
    data = bytearray(path.read_bytes())
    for place in range(len(data) // 4, 3 * len(data) // 4, len(data) // 20):
        data[place : place + 60] = bytes(60)
    path.write_bytes(data)
    refuse(path, "damaged|cannot be decoded")


def test_sound_alone(tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), format="s16", layout="stereo")
        frame.sample_rate = 8000
        output.mux(stream.encode(frame))
    refuse(path, "no video stream")


def test_video_stream_without_frames(tmp_path: Path) -> None:
    source = write_clip_with_tone(tmp_path / "a.mkv", "libopus")
    path = tmp_path / "b.mkv"
    with av.open(str(source)) as container, av.open(str(path), "w") as output:
        output.add_stream_from_template(container.streams.video[0])
        sound = output.add_stream_from_template(container.streams.audio[0])
        for packet in container.demux(container.streams.audio[0]):
            if packet.size:
                packet.stream = sound
                output.mux(packet)
    refuse(path, "no frames")


@pytest.mark.parametrize("frames", [(3, 3), (5, 2), (10, None), (0, 11), (-1, 4), (2, -1)])
def test_frame_range_empty_or_outside(tmp_path: Path, frames: tuple[int, int | None]) -> None:
    refuse(write_clip(tmp_path / "a.mp4", 10), "frames? ", UsageError, frames=frames)


def test_crop_larger_than_the_frame(tmp_path: Path) -> None:
    refuse(
        write_clip(tmp_path / "a.mp4", 3), "50x64 is larger than the frame, 48x64", UsageError, crop=(50, 64)
    )


@pytest.mark.parametrize("matrix", [8, 10])
def test_unknown_colour_matrix(tmp_path: Path, matrix: int) -> None:
    path = write_clip(tmp_path / "a.mkv", 3, tags=ColorTags(matrix=matrix, range=1))
    refuse(path, "colour matrix (YCgCo|BT.2020 with constant luminance)")


def test_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image", encoding="utf-8")
    refuse(tmp_path, "holds no images")


def test_folder_of_differing_sizes(tmp_path: Path) -> None:
    Image.fromarray(picture(8, 8, 0)).save(tmp_path / "a.png")
    Image.fromarray(picture(8, 9, 0)).save(tmp_path / "b.png")
    refuse(tmp_path, r"b\.png: is 8x9, a\.png is 8x8")


def test_folder_with_a_damaged_image(tmp_path: Path) -> None:
    Image.fromarray(picture(64, 64, 0)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:300])
    refuse(tmp_path, "not a readable image")
    (tmp_path / "a.png").write_bytes(b"no image")
    refuse(tmp_path, "not a readable image")


def test_folder_of_images_with_32_bits(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "a.tif")
    refuse(tmp_path, "no whole numbers")


def png_header(height: int, width: int) -> bytes:
    """An image of that size as far as its header goes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def test_images_of_absurd_size(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(png_header(60_000, 60_000))
    refuse(folder, "not a readable image: Image size .* exceeds")
    refuse(folder / "a.png", "cannot be decoded|no frame|not a readable")
    with (
        open_video(write_clip(tmp_path / "a.mkv", 3)) as reader,
        pytest.raises(InputError, match=r"mask .*a\.png: not a readable image: Image size"),
    ):
        open_mask(str(folder / "a.png"), reader)


def test_large_image_says_nothing_on_standard_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # Pillow warns of more than 89 million pixels. Only the header is true here, so that it fails later.
    (tmp_path / "a.png").write_bytes(png_header(10_000, 10_000))
    refuse(tmp_path, "not a readable image")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("suffix", ["bmp", "jpg", "pgm", "png", "tif", "webp"])
def test_mutated_images_are_read_or_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    grey = Image.fromarray(picture(16, 24, 0)).convert("L" if suffix == "pgm" else "RGB")
    grey.save(path)
    whole, rng = path.read_bytes(), random.Random(suffix)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 5)):
            data[rng.randrange(min(len(data), 200))] = rng.choice((0, 0x7F, 0xFF, rng.randrange(256)))
        path.write_bytes(data)
        with suppress(InputError), open_video(tmp_path) as reader:
            reader.read()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".avif", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photo_with_exif_is_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    """PyAV raises for side data that it has no name for, EXIF among them."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    quality = {} if suffix in (".png", ".tif") else {"quality": 95}
    Image.fromarray(picture(32, 48, 0)).save(path, exif=exif, **quality)
    with open_video(path) as reader:
        found_HWC = reader.read().rgb_NCHW[0].permute(1, 2, 0).numpy()
    with Image.open(path) as image:
        expected_HWC = np.asarray(ImageOps.exif_transpose(image))
    assert found_HWC.shape == expected_HWC.shape
    assert np.abs(found_HWC.astype(int) - expected_HWC).max() <= 24


@pytest.mark.parametrize(
    ("name", "num_bytes", "match"),
    [
        ("clip.yuv", 96, "needs size and rate"),
        ("clip_8x8.yuv", 96, "needs size and rate"),
        ("clip_8x8_10bit.yuv", 192, "needs size and rate"),
        ("clip_8x8_25fps_10bit.yuv", 96, "96 bytes are not whole 8x8 yuv420p10le frames of 192 bytes"),
        ("clip_8x8_25fps.yuv", 100, "100 bytes"),
        ("clip_8x8_25fps.yuv", 0, "0 bytes"),
        ("clip_0x8_25fps.yuv", 96, "96 bytes"),
    ],
)
def test_raw_yuv(tmp_path: Path, name: str, num_bytes: int, match: str) -> None:
    (tmp_path / name).write_bytes(bytes(num_bytes))
    refuse(tmp_path / name, match)


def test_libav_keeps_standard_error_clean(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_clip(tmp_path / "a.ts", 60, codec="mpeg2video")
    data = path.read_bytes()
    for length in (30 * 188 - 1, 30 * 188 + 1):
        path.write_bytes(data[:length])
        refuse(path, "cut short: its last packet has [0-9]+ of 188 bytes")
    assert capfd.readouterr().err == ""


def test_empty_name_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    monkeypatch.chdir(tmp_path)
    with open_video(".") as reader:
        assert reader.spec.num_frames == 1
    with pytest.raises(InputError, match=r"^'': the name is empty"):
        open_video("")
