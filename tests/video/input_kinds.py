"""Small inputs of every kind that people have, and what must become of each: a table for test_inputs.py.

A kind makes its own file with PyAV, Pillow or by hand, in a few milliseconds. Most are read; the others are
refused by one line. What people may rely on is in docs/inputs.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from av.video.frame import VideoFrame
from PIL import Image

from video.video_clips import ONE_THREAD, SAMPLE_RATE, picture, write_clip
from vinr.video.encoders import safe_options

NUM_FRAMES: Final = 8
HEIGHT, WIDTH = 48, 64
STEP: Final = Fraction(1, 25)
UNTAGGED: Final = (2, 2, 2, 0)
Times = Sequence[float | Fraction]


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    ``times`` are seconds after the first frame, ``duration`` the seconds of the whole where the last frame is
    held; ``tags`` are primaries, transfer, matrix (H.273) and range (libav) that the output must state too;
    ``tolerance`` is the mean difference, in levels of 255, from PyAV's own conversion. ``note`` is what one
    of the notes says; without it there are none. ``refused`` is what the one line of an error says.
    """

    name: str
    make: Callable[[Path], Path]
    num_frames: int = NUM_FRAMES
    times: Times | None = None
    duration: float | Fraction | None = None
    size: tuple[int, int] = (HEIGHT, WIDTH)
    aspect: Fraction = Fraction(1)
    tags: tuple[int, int, int, int] | None = None
    bit_depth: int = 8
    tolerance: float = 2.0
    pixels: Callable[[Path], list[np.ndarray[Any, Any]]] | None = None
    num_tracks: int = 0
    sound_offset: float = 0.0
    keeps_packets: bool = True
    note: str | None = None
    refused: str | None = None


# -- makers --------------------------------------------------------------------------------------------------


def clip(
    name: str, codec: str = "libx264", pixel_format: str = "yuv420p", **options: Any
) -> Callable[[Path], Path]:
    """Return a maker of 8 pictures in a file called ``name``; see :func:`video.video_clips.write_clip`."""
    return lambda folder: write_clip(
        folder / name,
        options.pop("num_frames", NUM_FRAMES),
        codec=codec,
        pixel_format=pixel_format,
        **options,
    )


def tone(rate: int, seconds: float) -> np.ndarray[Any, Any]:
    """A 440 Hz tone, float32 [2, samples]."""
    time_S = np.arange(int(rate * seconds), dtype=np.float32) / rate
    return np.stack([0.3 * np.sin(2 * np.pi * 440 * time_S)] * 2).astype(np.float32)


def with_sound(
    name: str,
    *codecs: str,
    offset: float = 0.0,
    seconds: float = 0.4,
    rate: int = SAMPLE_RATE,
    layout: str = "stereo",
    video_codec: str = "libx264",
    titles: Sequence[str] = (),
    default: int | None = None,
) -> Callable[[Path], Path]:
    """Return a maker of 8 pictures and a track of each codec that begins ``offset`` s after them."""

    def make(folder: Path) -> Path:
        path = folder / name
        with av.open(str(path), "w") as output:
            options = safe_options(video_codec, ONE_THREAD, width=WIDTH)
            video = output.add_stream(video_codec, rate=25, options=options)
            pixel_format = "yuvj420p" if video_codec == "mjpeg" else "yuv420p"
            video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, pixel_format
            tracks = []
            for number, codec in enumerate(codecs):
                track = output.add_stream(codec, rate=rate)
                track.layout = layout
                if titles:
                    track.metadata.update(title=titles[number], language=("eng", "deu")[number % 2])
                if default is not None:
                    track.disposition = (
                        av.stream.Disposition.default if number == default else av.stream.Disposition(0)
                    )
                tracks.append(track)
            packets = []
            delay = max(0.0, -offset)
            for index in range(NUM_FRAMES):
                frame = _frame(index, pixel_format)
                frame.pts = index + round(delay * 25)
                packets += video.encode(frame)
            packets += video.encode(None)
            for track in tracks:
                resampler = av.AudioResampler(
                    track.codec_context.format, layout, rate, track.codec_context.frame_size or 1024
                )
                samples = av.AudioFrame.from_ndarray(
                    np.ascontiguousarray(tone(rate, seconds)), format="fltp", layout="stereo"
                )
                samples.sample_rate, samples.pts = rate, round(max(0.0, offset) * rate)
                for piece in (*resampler.resample(samples), *resampler.resample(None)):
                    packets += track.encode(piece)
                packets += track.encode(None)
            packets.sort(key=lambda packet: (packet.dts or 0) * packet.time_base)
            for packet in packets:
                output.mux(packet)
        return path

    return make


def held(name: str, seconds: float) -> Callable[[Path], Path]:
    """Return a maker of a Matroska file whose last frame is shown for ``seconds``."""

    def make(folder: Path) -> Path:
        path = folder / name
        with av.open(str(path), "w") as output:
            stream = output.add_stream("ffv1", rate=25)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            packets = []
            for index in range(NUM_FRAMES):
                packets += stream.encode(_frame(index))
            packets += stream.encode(None)
            for packet in packets:
                packet.duration = round((seconds if packet is packets[-1] else STEP) / packet.time_base)
                output.mux(packet)
        return path

    return make


def _frame(index: int, pixel_format: str = "yuv420p") -> VideoFrame:
    frame = VideoFrame.from_ndarray(picture(HEIGHT, WIDTH, index), format="rgb24").reformat(
        format=pixel_format
    )
    frame.pts, frame.time_base = index, STEP
    return frame


def remuxed(name: str, source: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """Return a maker that puts a raw stream into a container, with times in the order of decoding."""

    def make(folder: Path) -> Path:
        path = folder / name
        with av.open(str(source(folder))) as raw, av.open(str(path), "w") as output:
            stream = raw.streams.video[0]
            copy = output.add_stream_from_template(stream)
            number = 0
            for packet in raw.demux(stream):
                if packet.size == 0:
                    continue
                packet.time_base, packet.pts, packet.dts, packet.duration = STEP, number, number, 1
                packet.stream, number = copy, number + 1
                output.mux(packet)
        return path

    return make


def joined(name: str, *parts: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """Return a maker of a file that is the parts, byte after byte."""

    def make(folder: Path) -> Path:
        contents = []
        for number, part in enumerate(parts):
            (folder / str(number)).mkdir()
            contents.append(part(folder / str(number)).read_bytes())
        path = folder / name
        path.write_bytes(b"".join(contents))
        return path

    return make


def cut(
    name: str, source: Callable[[Path], Path], *, first: float = 0.0, last: float = 1.0
) -> Callable[[Path], Path]:
    """Return a maker of a part of a file, in whole transport packets of 188 bytes."""

    def make(folder: Path) -> Path:
        content = source(folder).read_bytes()
        begin, end = (int(share * len(content)) // 188 * 188 for share in (first, last))
        path = folder / name
        path.write_bytes(content[begin : end if last < 1 else None])
        return path

    return make


def changed(name: str, source: Callable[[Path], Path], old: bytes, new: bytes) -> Callable[[Path], Path]:
    """Return a maker of a file in which some bytes are replaced."""

    def make(folder: Path) -> Path:
        path = source(folder)
        content = path.read_bytes()
        assert old in content
        path = path.rename(folder / name)
        path.write_bytes(content.replace(old, new))
        return path

    return make


def content(name: str, data: bytes) -> Callable[[Path], Path]:
    """Return a maker of a file with these bytes."""

    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def raw(name: str, pixel_format: str = "yuv420p", num_frames: int = NUM_FRAMES) -> Callable[[Path], Path]:
    """Return a maker of raw samples and nothing else."""

    def make(folder: Path) -> Path:
        path = folder / name
        planes = []
        for index in range(num_frames):
            frame = _frame(index, pixel_format)
            for number, plane in enumerate(frame.planes):
                rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
                planes.append(rows[:, : plane.width * _sample_bytes(frame, number)].tobytes())
        path.write_bytes(b"".join(planes))
        return path

    return make


def _sample_bytes(frame: VideoFrame, plane: int) -> int:
    deep = 2 if max(part.bits for part in frame.format.components) > 8 else 1
    # Two chroma samples lie side by side in the second plane of NV12.
    return deep * (2 if frame.format.name.startswith(("nv", "p01")) and plane == 1 else 1)


def folder_of(names: Sequence[str], **save: Any) -> Callable[[Path], Path]:
    """Return a maker of a folder of images, :func:`picture` number i under the i-th name."""

    def make(folder: Path) -> Path:
        path = folder / "shots"
        path.mkdir()
        for index, name in enumerate(names):
            Image.fromarray(picture(HEIGHT, WIDTH, index)).save(path / name, **save)
        return path

    return make


def animated(name: str, durations: Sequence[int], **save: Any) -> Callable[[Path], Path]:
    """Return a maker of an animation that Pillow writes; ``durations`` in milliseconds, one a frame."""

    def make(folder: Path) -> Path:
        images = [Image.fromarray(picture(HEIGHT, WIDTH, index)) for index in range(len(durations))]
        options: dict[str, Any] = {
            "save_all": True,
            "append_images": images[1:],
            "duration": list(durations),
            **save,
        }
        images[0].save(folder / name, **options)
        return folder / name

    return make


def exact(num_frames: int = NUM_FRAMES) -> Callable[[Path], list[np.ndarray[Any, Any]]]:
    """Return a function that gives the pictures themselves, of which nothing may be lost."""
    return lambda path: [picture(HEIGHT, WIDTH, index) for index in range(num_frames)]


def tagged(
    name: str, codec: str, pixel_format: str, tags: tuple[int, int, int, int], **more: Any
) -> Callable[[Path], Path]:
    """Return a maker of 8 pictures with colour tags: primaries, transfer, matrix, range."""

    def make(folder: Path) -> Path:
        path = folder / name
        with av.open(str(path), "w") as output:
            options = safe_options(codec, {**ONE_THREAD, **more.get("options", {})}, width=WIDTH)
            stream = output.add_stream(codec, rate=25, options=options)
            stream.width, stream.height = more.get("size", (HEIGHT, WIDTH))[::-1]
            stream.pix_fmt = pixel_format
            context = stream.codec_context
            context.color_primaries, context.color_trc, context.colorspace, context.color_range = tags
            if "aspect" in more:
                stream.sample_aspect_ratio = context.sample_aspect_ratio = more["aspect"]
            for index in range(NUM_FRAMES):
                image = picture(stream.height, stream.width, index)
                frame = VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixel_format)
                frame.pts, frame.time_base = index, STEP
                frame.color_primaries, frame.color_trc, frame.colorspace, frame.color_range = tags
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
        return path

    return make


def see_through(folder: Path) -> Path:
    """8 pictures, half transparent."""
    path = folder / "a.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "bgra"
        for index in range(NUM_FRAMES):
            image = picture(HEIGHT, WIDTH, index)
            alpha = np.full((HEIGHT, WIDTH, 1), 128, np.uint8)
            frame = VideoFrame.from_ndarray(np.concatenate([image, alpha], axis=2), format="rgba")
            frame = frame.reformat(format="bgra")
            frame.pts, frame.time_base = index, STEP
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def two_pictures(folder: Path) -> Path:
    """A small video stream, and then a larger one that is marked as the default."""
    path = folder / "two.mkv"
    with av.open(str(path), "w") as output:
        streams = []
        for height, width in ((24, 32), (HEIGHT, WIDTH)):
            stream = output.add_stream("ffv1", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            large = height == HEIGHT
            stream.disposition = av.stream.Disposition.default if large else av.stream.Disposition(0)
            streams.append(stream)
        for index in range(NUM_FRAMES):
            for stream in streams:
                image = picture(stream.height, stream.width, index)
                frame = VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
                frame.pts, frame.time_base = index, STEP
                output.mux(stream.encode(frame))
        for stream in streams:
            output.mux(stream.encode(None))
    return path


def only_sound(folder: Path) -> Path:
    """A file without a picture."""
    path = folder / "only.mka"
    with av.open(str(path), "w") as output:
        track = output.add_stream("pcm_s16le", rate=8000)
        track.layout = "mono"
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        samples.sample_rate, samples.pts = 8000, 0
        output.mux(track.encode(samples))
        output.mux(track.encode(None))
    return path


def mixed_sizes(folder: Path) -> Path:
    """Two images of different sizes."""
    path = folder / "mixed"
    path.mkdir()
    Image.fromarray(picture(HEIGHT, WIDTH, 0)).save(path / "1.png")
    Image.fromarray(picture(WIDTH, HEIGHT, 0)).save(path / "2.png")
    return path


def deep_images(folder: Path) -> Path:
    """Grey images of 16 bits: the green of the pictures."""
    path = folder / "deep"
    path.mkdir()
    for index in range(NUM_FRAMES):
        wide_HW = picture(HEIGHT, WIDTH, index)[..., 1].astype(np.uint16) * 257
        Image.fromarray(wide_HW).save(path / f"{index}.png")
    return path


def greens(path: Path) -> list[np.ndarray[Any, Any]]:
    """The green of the pictures, as grey."""
    return [picture(HEIGHT, WIDTH, index)[..., 1:2].repeat(3, axis=2) for index in range(NUM_FRAMES)]


def float_images(folder: Path) -> Path:
    """An image of floating-point numbers."""
    path = folder / "floats"
    path.mkdir()
    Image.fromarray(np.full((HEIGHT, WIDTH), 0.5, np.float32)).save(path / "1.tif")
    return path


def turned_photos(folder: Path) -> Path:
    """JPEGs that a camera wrote lying on its side: EXIF orientation 6."""
    path = folder / "photos"
    path.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    for index in range(NUM_FRAMES):
        lying = np.ascontiguousarray(np.rot90(picture(HEIGHT, WIDTH, index)))
        Image.fromarray(lying).save(path / f"{index}.jpg", exif=exif, quality=95, subsampling=0)
    return path
