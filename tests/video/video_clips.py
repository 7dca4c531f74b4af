"""Makes the small clips of the tests in this folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray

from vinr.video.color import output_tags
from vinr.video.encoders import safe_options
from vinr.video.sink import open_sink
from vinr.video.source import open_video
from vinr.video.spec import ColorSpec, ColorTags, Timeline, VideoSpec

SAMPLE_RATE = 48_000
# Encoders take as many threads as there are CPUs, and some write other bytes with each number of them.
ONE_THREAD = {"threads": "1"}
# Display P3 with D65, 0.005 to 1000 cd/m², as x264 and x265 are told it.
MASTER = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"


def picture(height: int, width: int, index: int) -> NDArray[np.uint8]:
    """A smooth colour picture, different in every corner and every frame."""
    row, col = np.mgrid[:height, :width]
    phase = 0.4 * index
    red = 128 + 100 * np.sin(row / 12 + phase)
    green = 40 + 170 * col / width
    blue = 128 + 100 * np.cos((row + col) / 25 - phase)
    return np.stack([red, green, blue], axis=-1).round().astype(np.uint8)


def pictures(num_frames: int, height: int = 48, width: int = 64) -> torch.Tensor:
    """uint8 rgb_NCHW."""
    stack = np.stack([picture(height, width, index) for index in range(num_frames)])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).contiguous()


def copy_frames(source: Path, target: Path, codec: str = "x264") -> tuple[str, ...]:
    """Read a video and write its frames, as a decoder writes those of a file; return the notes."""
    has_codec = target.suffix in (".mkv", ".mp4")
    with (
        open_video(source) as reader,
        open_sink(str(target), reader.spec, reader.timeline, codec=codec if has_codec else None) as sink,
    ):
        sink.write(reader.read().rgb_NCHW)
        return reader.notes + sink.notes


def set_tags(target: Any, tags: ColorTags | None) -> None:
    """Tag an encoder or a frame."""
    if tags is not None:
        target.color_primaries, target.color_trc = tags.primaries, tags.transfer
        target.colorspace, target.color_range = tags.matrix, tags.range


def tags_in(path: Path) -> ColorTags:
    """Return what the stream of a file says before anything is decoded."""
    with av.open(str(path)) as container:
        codec = container.streams.video[0].codec_context
        return ColorTags(codec.color_primaries, codec.color_trc, codec.colorspace, codec.color_range)


def said(color: ColorSpec) -> ColorSpec:
    """Return ``color`` as a Y'CbCr file that was written with it is read."""
    return replace(color, tags=output_tags(color, "yuv420p"))


def spec_of(
    rgb_NCHW: torch.Tensor, rate: Fraction = Fraction(25), color: ColorSpec | None = None
) -> tuple[VideoSpec, Timeline]:
    """Size and constant-rate timeline of frames."""
    num_frames, _, height, width = rgb_NCHW.shape
    return VideoSpec(num_frames, height, width, rate, color or ColorSpec()), Timeline(num_frames, rate)


def write_clip(
    path: Path,
    num_frames: int = 10,
    *,
    height: int = 48,
    width: int = 64,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    options: Mapping[str, str] | None = None,
    container_options: Mapping[str, str] | None = None,
    pts: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 25),
    tags: ColorTags | None = None,
    display_matrix: Sequence[int] | None = None,
    pixel_aspect: Fraction | None = None,
) -> Path:
    """Encode :func:`picture` frames."""
    with av.open(str(path), "w", options=dict(container_options or {})) as output:
        settings = {**ONE_THREAD, **(options or {})}
        chosen = safe_options(codec, settings, width=width, num_frames=num_frames)
        stream = output.add_stream(codec, rate=Fraction(25), options=chosen)
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        stream.codec_context.time_base = time_base
        set_tags(stream.codec_context, tags)
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        if display_matrix is not None:
            stream.set_display_matrix(display_matrix)
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(picture(height, width, index), format="rgb24")
            frame = frame.reformat(format=pixel_format)
            set_tags(frame, tags)
            frame.pts, frame.time_base = (pts[index] if pts else index), time_base
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def write_clip_with_tone(
    path: Path, sound_codec: str, *, seconds: int = 1, sound_rate: int = SAMPLE_RATE
) -> Path:
    """25 grey frames and a 440 Hz tone a second."""
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", rate=25, options=safe_options("libx264", ONE_THREAD, width=32))
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        sound = output.add_stream(sound_codec, rate=sound_rate)
        sound.layout, sound.bit_rate = "stereo", 128_000
        for index in range(25 * seconds):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 100, np.uint8), format="rgb24")
            frame = frame.reformat(format="yuv420p")
            frame.pts = index
            output.mux(video.encode(frame))
        resampler = av.AudioResampler(sound.codec_context.format, "stereo", sound_rate)
        time = np.arange(sound_rate * seconds, dtype=np.float32) / sound_rate
        tone = np.stack([0.3 * np.sin(2 * np.pi * 440 * time)] * 2).astype(np.float32)
        for first in range(0, tone.shape[1], 1000):
            piece = np.ascontiguousarray(tone[:, first : first + 1000])
            samples = av.AudioFrame.from_ndarray(piece, format="fltp", layout="stereo")
            samples.sample_rate, samples.pts = sound_rate, first
            for converted in resampler.resample(samples):
                output.mux(sound.encode(converted))
        output.mux(sound.encode(None))
        output.mux(video.encode(None))
    return path


def decoded(path: Path) -> NDArray[np.uint8]:
    """All frames as PyAV gives them by default, NHWC."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def psnr_db(one: torch.Tensor, other: torch.Tensor) -> float:
    """Peak signal to noise ratio over all samples."""
    error = torch.mean((one.double() - other.double()) ** 2)
    return float(10 * torch.log10(255**2 / error))
