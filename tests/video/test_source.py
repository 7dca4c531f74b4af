"""Reading: counts, ranges, timestamps, rotation, folders, raw video, and the real clip."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fresh import run_fresh
from video.video_clips import decoded, picture, pictures, psnr_db, write_clip
from vinr.errors import InputError, UsageError
from vinr.video.edit import Edit
from vinr.video.reading import ReadOptions
from vinr.video.samples import sample_clip
from vinr.video.source import FrameTensor, open_video
from vinr.video.spec import FrameSource, VideoSpec
from vinr.video.stream import StreamInput

CONTAINERS = {
    "clip.mp4": ("libx264", "yuv420p"),
    "clip.mov": ("libx264", "yuv420p"),
    "clip.mkv": ("libx265", "yuv420p"),
    "clip.webm": ("libvpx-vp9", "yuv420p"),
    "clip.avi": ("mpeg4", "yuv420p"),
    "clip.ts": ("libx264", "yuv420p"),
    "clip.h264": ("libx264", "yuv420p"),
    "clip.y4m": ("wrapped_avframe", "yuv420p"),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_reads_containers_and_any_range_of_them(tmp_path: Path, name: str) -> None:
    codec, pixel_format = CONTAINERS[name]
    options = {"x265-params": "log-level=none:keyint=8"} if codec == "libx265" else {"g": "8"}
    path = write_clip(tmp_path / name, 30, codec=codec, pixel_format=pixel_format, options=options)
    expected_NHWC = decoded(path)
    with open_video(path) as reader:
        assert reader.spec == VideoSpec(30, 48, 64, Fraction(25), reader.spec.color)
        assert (reader.timeline.pts, reader.name, reader.original) == (None, "clip", (48, 64))
        for first, stop in ((19, 22), (22, 25), (3, 4), (29, 30), (0, 30)):
            read = reader.read(first, stop)
            assert read.spec.num_frames == stop - first
            assert np.array_equal(read.rgb_NCHW.permute(0, 2, 3, 1).numpy(), expected_NHWC[first:stop])


def test_first_and_second_half_are_decoded_in_one_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_clip(tmp_path / "clip.mp4", 12)
    with open_video(path) as reader:
        starts: list[int] = []
        decode = StreamInput.decode
        monkeypatch.setattr(
            StreamInput, "decode", lambda self, first: starts.append(first) or decode(self, first)
        )
        halves = torch.cat([reader.read(0, 6).rgb_NCHW, reader.read(6, 12).rgb_NCHW])
        assert starts == [0]
        assert torch.equal(halves, reader.read().rgb_NCHW)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_seek_with_open_gops_and_b_frames_gives_the_same_pixels(tmp_path: Path, codec: str) -> None:
    private = "x265-params" if codec == "libx265" else "x264-params"
    options = {private: "keyint=10:open-gop=1:bframes=3" + (":log-level=none" if codec == "libx265" else "")}
    path = write_clip(tmp_path / "clip.mkv", 45, codec=codec, options=options)
    expected_NHWC = decoded(path)
    with open_video(path) as reader:
        for first in (9, 10, 11, 27, 31, 44):
            assert np.array_equal(
                reader.read(first, first + 1).rgb_NCHW[0].permute(1, 2, 0), expected_NHWC[first]
            )


def test_frames_select_a_half_open_range(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 10)
    with (
        open_video(path) as whole,
        open_video(path, frames=(4, 9)) as part,
        open_video(path, frames=(7, None)) as tail,
    ):
        everything = whole.read().rgb_NCHW
        assert torch.equal(part.read().rgb_NCHW, everything[4:9])
        assert part.edit == Edit(first_frame=4, stop_frame=9)
        assert torch.equal(tail.read().rgb_NCHW, everything[7:])
        assert torch.equal(part.read(2, 3).rgb_NCHW, everything[6:7])
        for first, stop in ((0, 6), (-1, 2), (3, 3)):
            with pytest.raises(IndexError, match="of 5"):
                part.read(first, stop)


def test_recorded_edit_gives_the_same_frames_again(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 6)
    with open_video(path, crop=(40, 48), resize=(20, 24), frames=(1, None)) as reader:
        assert reader.edit == Edit((40, 48), (20, 24), 1, 6)
        assert (reader.spec.height, reader.spec.width, reader.spec.num_frames) == (20, 24, 5)
        assert reader.original == (48, 64)
        with open_video(path, edit=reader.edit) as again:
            assert again.spec == reader.spec
            assert torch.equal(again.read().rgb_NCHW, reader.read().rgb_NCHW)
        with pytest.raises(UsageError, match="not both"):
            open_video(path, edit=reader.edit, crop=(8, 8))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_rate_keeps_its_timestamps(tmp_path: Path, suffix: str) -> None:
    milliseconds = [100, 140, 180, 300, 333, 400, 1000, 1040]
    path = write_clip(tmp_path / f"clip.{suffix}", 8, pts=milliseconds, time_base=Fraction(1, 1000))
    with open_video(path) as reader:
        assert [reader.timeline.seconds(i) * 1000 for i in range(8)] == [t - 100 for t in milliseconds]
    with open_video(path, frames=(3, 7)) as reader:
        assert [reader.timeline.seconds(i) * 1000 for i in range(4)] == [0, 33, 100, 700]


def test_millisecond_rounding_is_no_variable_rate(tmp_path: Path) -> None:
    ntsc = Fraction(30_000, 1001)
    pts = [round(i / ntsc * 1000) for i in range(40)]
    path = write_clip(tmp_path / "clip.mkv", 40, pts=pts, time_base=Fraction(1, 1000))
    with open_video(path) as reader:
        assert reader.timeline.pts is None
        assert abs(reader.spec.frame_rate - ntsc) < Fraction(1, 50)


# Matrices a b 0 / c d 0 / 0 0 1 and what they do to rows × columns, as numpy does it.
ONE = 1 << 16
TURNS = {
    "counterclockwise": ((0, -ONE, ONE, 0), lambda rgb: np.rot90(rgb, 1)),
    "half": ((-ONE, 0, 0, -ONE), lambda rgb: np.rot90(rgb, 2)),
    "clockwise": ((0, ONE, -ONE, 0), lambda rgb: np.rot90(rgb, 3)),
    "mirrored": ((-ONE, 0, 0, ONE), lambda rgb: rgb[:, ::-1]),
}


@pytest.mark.parametrize("turn", TURNS)
def test_rotation_metadata_is_applied(tmp_path: Path, turn: str) -> None:
    (a, b, c, d), expected_of = TURNS[turn]
    path = write_clip(tmp_path / "clip.mp4", 3, display_matrix=[a, b, 0, c, d, 0, 0, 0, 1 << 30])
    expected = np.stack([expected_of(rgb_HWC) for rgb_HWC in decoded(path)])
    with open_video(path) as reader:
        assert reader.original == expected.shape[1:3]
        assert np.array_equal(reader.read().rgb_NCHW.permute(0, 2, 3, 1), expected)


@pytest.mark.parametrize("turn", sorted(TURNS))
def test_rounded_right_angles_are_right_angles(tmp_path: Path, turn: str) -> None:
    (a, b, c, d), expected_of = TURNS[turn]
    path = write_clip(
        tmp_path / "clip.mp4", 2, display_matrix=[a or 1, b or 2, 0, c or -2, d or 1, 0, 0, 0, 1 << 30]
    )
    expected = np.stack([expected_of(rgb_HWC) for rgb_HWC in decoded(path)])
    with open_video(path) as reader:
        assert np.array_equal(reader.read().rgb_NCHW.permute(0, 2, 3, 1), expected)


def test_oblique_rotation_is_refused(tmp_path: Path) -> None:
    path = write_clip(
        tmp_path / "clip.mp4", 3, display_matrix=[46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30]
    )
    with pytest.raises(InputError, match="multiple of 90"):
        open_video(path)


def test_image_folder_in_order_of_names(tmp_path: Path) -> None:
    for index in range(3):
        Image.fromarray(picture(21, 33, index)).save(tmp_path / f"f{index}.png")
    (tmp_path / "notes.txt").write_text("no image", encoding="utf-8")
    with open_video(tmp_path) as reader:
        assert (reader.spec.num_frames, reader.original, reader.audio()) == (3, (21, 33), None)
        assert torch.equal(reader.read().rgb_NCHW, pictures(3, 21, 33))
        assert torch.equal(reader.read(1, 2).rgb_NCHW, pictures(3, 21, 33)[1:2])


def test_turned_photographs_stand_upright(tmp_path: Path) -> None:
    photo = Image.fromarray(picture(20, 30, 0))
    exif = photo.getexif()
    exif[0x0112] = 6
    photo.save(tmp_path / "a.png", exif=exif)
    with open_video(tmp_path) as reader:
        assert reader.original == (30, 20)
        assert np.array_equal(reader.read().rgb_NCHW[0].permute(1, 2, 0), np.rot90(picture(20, 30, 0), 3))


@pytest.mark.parametrize(("height", "width"), [(48, 64), (35, 51)])
def test_raw_yuv_takes_size_and_rate_from_its_name(tmp_path: Path, height: int, width: int) -> None:
    rng = np.random.default_rng(3)
    luma = height * width
    chroma = -(-height // 2) * -(-width // 2)
    planes = [np.full(luma, 40 + 30 * i, np.uint8).tobytes() + bytes([128] * 2 * chroma) for i in range(5)]
    path = tmp_path / f"beauty_{width}x{height}_29.97fps_420_8bit_YUV.yuv"
    path.write_bytes(b"".join(planes))
    with open_video(path) as reader:
        assert reader.spec.frame_rate == Fraction(30_000, 1001)
        assert reader.original == (height, width)
        index = int(rng.integers(5))
        expected = round((40 + 30 * index - 16) * 255 / 219)
        assert (reader.read(index, index + 1).rgb_NCHW.int() - expected).abs().max() <= 1


def test_frame_tensor_is_a_bounded_source() -> None:
    rgb_NCHW = pictures(4)
    source = FrameTensor(rgb_NCHW, VideoSpec(4, 48, 64))
    assert isinstance(source, FrameSource)
    assert torch.equal(source.frames(torch.tensor([3, 0])), rgb_NCHW[[3, 0]])
    for index in (4, -1):
        with pytest.raises(IndexError, match=f"frame {index} of 4"):
            source.frames(torch.tensor([0, index]))
    with pytest.raises(ValueError, match="uint8"):
        FrameTensor(rgb_NCHW.float(), source.spec)


def test_bunny_is_the_papers_clip_bit_for_bit() -> None:
    path = sample_clip("bigbuckbunny.mp4")
    expected_NHWC = decoded(path)
    assert expected_NHWC.shape == (132, 720, 1280, 3)
    with open_video(path) as reader:
        assert (reader.spec.num_frames, reader.original, reader.spec.fps) == (132, (720, 1280), 25)
        for first in range(0, 132, 33):
            read = reader.read(first, first + 33).rgb_NCHW.permute(0, 2, 3, 1).numpy()
            assert np.array_equal(read, expected_NHWC[first : first + 33])
        assert np.array_equal(reader.read(0, 1).rgb_NCHW[0].permute(1, 2, 0), expected_NHWC[0])


def test_bunny_cropped_as_in_the_papers() -> None:
    path, first = sample_clip(), (0, 1)
    with open_video(path, crop=(640, 1280), frames=first) as cropped, open_video(path, frames=first) as whole:
        assert torch.equal(cropped.read().rgb_NCHW, whole.read().rgb_NCHW[:, :, 40:680])


def test_missing_sample_names_the_others() -> None:
    with pytest.raises(InputError, match=r"bigbuckbunny\.mp4"):
        sample_clip("big.mp4")


def test_missing_distribution_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vinr.video.samples.DISTRIBUTION", "no-such-distribution-here")
    with pytest.raises(InputError, match="pip install"):
        sample_clip()


def test_ten_bit_input_is_eight_bit_frames_on_request(tmp_path: Path) -> None:
    options = {"x265-params": "log-level=none:crf=4"}
    path = write_clip(tmp_path / "clip.mkv", 3, codec="libx265", pixel_format="yuv444p10le", options=options)
    with open_video(path, options=ReadOptions(bit_depth=8)) as reader:
        assert reader.spec.color.bit_depth == 10
        assert psnr_db(reader.read().rgb_NCHW, pictures(3)) > 40


def test_spec_alone_needs_no_media_libraries() -> None:
    code = "import sys, vinr.video.spec; print(sorted({'av', 'PIL'} & set(sys.modules)))"
    assert run_fresh(code).stdout.strip() == b"[]"
