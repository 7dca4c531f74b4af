"""Options that keep x264 and x265 from their faults: only where they are needed, and they are taken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import av
import pytest
import torch
from av.video.codeccontext import VideoCodecContext

from video.video_clips import decoded, pictures, psnr_db, spec_of
from vinr.video.encoders import REAL_TIME, drops_cu_tree, open_encoder, safe_options
from vinr.video.mux import CODECS
from vinr.video.sink import open_sink
from vinr.video.spec import VideoSpec


@pytest.fixture(params=[False, True], ids=["other", "avx512"])
def has_avx512(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """A CPU with or without AVX-512."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: request.param)
    return bool(request.param)


def test_x264_does_without_avx512(has_avx512: bool) -> None:
    expected = {"x264-params": "asm=avx2"} if has_avx512 else {}
    assert safe_options("libx264", {}, width=176) == expected
    options = {"crf": "10", "x264-params": "no-psy=1"}
    joined = "no-psy=1:asm=avx2" if has_avx512 else "no-psy=1"
    assert safe_options("libx264", options, width=32) == {"crf": "10", "x264-params": joined}
    assert options == {"crf": "10", "x264-params": "no-psy=1"}


@pytest.mark.parametrize("kernels", ["default", pytest.param("avx2", marks=pytest.mark.slow)])
def test_the_processor_is_asked_and_not_pytorchs_kernels(kernels: str) -> None:
    """ATEN_CPU_CAPABILITY chooses kernels of PyTorch; x264 uses what there is all the same."""
    code = "from vinr.video.encoders import _has_avx512; print(_has_avx512())"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "ATEN_CPU_CAPABILITY": kernels},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == str(torch.cpu._is_avx512_supported())


@pytest.mark.usefixtures("has_avx512")
def test_narrow_frames_go_to_x265_without_its_cu_tree() -> None:
    assert safe_options("libx265", {}, width=48) == {"x265-params": "cutree=0"}
    assert safe_options("libx265", {"x265-params": "info=0"}, width=2) == {"x265-params": "info=0:cutree=0"}
    assert safe_options("libx265", {"crf": "3"}, width=49) == {"crf": "3"}
    assert [drops_cu_tree("libx265", width) for width in (16, 48, 49, 1920)] == [True, True, False, False]
    assert not drops_cu_tree("libx264", 16)


@pytest.mark.usefixtures("has_avx512")
def test_other_encoders_are_left_alone() -> None:
    for encoder in ("libsvtav1", "libvpx-vp9", "ffv1", "mpeg4"):
        assert safe_options(encoder, {"crf": "4"}, width=16) == {"crf": "4"}


def test_output_gets_the_same_options(has_avx512: bool) -> None:
    x264, x265 = (
        CODECS["x264"].options_for(VideoSpec(9, 480, 854), 10),
        CODECS["x265"].options_for(VideoSpec(9, 480, 48), 10),
    )
    assert x264 == ({"crf": "10", "x264-params": "asm=avx2"} if has_avx512 else {"crf": "10"})
    assert x265 == {"crf": "10", "x265-params": "log-level=none:cutree=0"}
    assert CODECS["x265"].options_for(VideoSpec(9, 48, 854), None)["x265-params"] == "log-level=none"


@pytest.mark.parametrize("width", [16, 34, 48])
def test_x265_output_of_narrow_frames(width: int, tmp_path: Path) -> None:
    rgb_NCHW = pictures(24, 64, width)
    with open_sink(str(tmp_path / "a.mkv"), *spec_of(rgb_NCHW), codec="x265") as sink:
        sink.write(rgb_NCHW)
    assert settings_of(tmp_path / "a.mkv").count(b"no-cutree") == 1
    found_NCHW = torch.from_numpy(decoded(tmp_path / "a.mkv")).permute(0, 3, 1, 2)
    assert psnr_db(found_NCHW, rgb_NCHW) > 30  # chroma of half the size


def test_x265_output_of_wider_frames_keeps_the_cu_tree(tmp_path: Path) -> None:
    rgb_NCHW = pictures(3, 64, 50)
    with open_sink(str(tmp_path / "a.mkv"), *spec_of(rgb_NCHW), codec="x265") as sink:
        sink.write(rgb_NCHW)
    assert b"no-cutree" not in settings_of(tmp_path / "a.mkv")
    assert b"cutree" in settings_of(tmp_path / "a.mkv")


def settings_of(path: Path) -> bytes:
    """Return the stream's bytes, among them the settings that the encoder writes there."""
    with av.open(str(path)) as container:
        header = bytes(container.streams.video[0].codec_context.extradata or b"")
        return header + b"".join(bytes(packet) for packet in container.demux(video=0))


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4])
def test_x265_gives_few_frames_their_times(tmp_path: Path, num_frames: int) -> None:
    """mp4 holds decoding times: x265 made them up for one and two frames, differently each time."""
    rgb_NCHW = pictures(num_frames)
    for repeat in range(4):
        path = tmp_path / f"{repeat}.mp4"
        with open_sink(str(path), *spec_of(rgb_NCHW), codec="x265") as sink:
            sink.write(rgb_NCHW)
        with av.open(str(path)) as container:
            times = [(packet.dts, packet.pts) for packet in container.demux(video=0) if packet.size]
        assert len(times) == num_frames
        ticks = times[1][0] - times[0][0] if num_frames > 1 else 1
        assert [dts - times[0][0] for dts, _ in times] == [ticks * index for index in range(num_frames)]
        assert min(pts for _, pts in times) == 0


def test_h265_in_mp4_has_the_name_that_apples_players_take(tmp_path: Path) -> None:
    rgb_NCHW = pictures(8)
    with open_sink(str(tmp_path / "a.mp4"), *spec_of(rgb_NCHW), codec="x265") as sink:
        sink.write(rgb_NCHW)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].codec_context.codec_tag == "hvc1"


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds threads by Linux's /proc")
def test_encoding_makes_no_thread_real_time() -> None:
    # SVT-AV1 does so where the system lets it: for root.
    context = VideoCodecContext.create("libsvtav1", "w")
    context.width, context.height, context.pix_fmt, context.framerate = 64, 64, "yuv420p", 8  # type: ignore[assignment]
    open_encoder(context)
    frame = av.VideoFrame(64, 64, "yuv420p")
    context.encode(frame)
    during = [os.sched_getscheduler(int(entry.name)) for entry in Path("/proc/self/task").iterdir()]
    context.encode(None)
    assert not REAL_TIME & {*during, os.sched_getscheduler(0)}
