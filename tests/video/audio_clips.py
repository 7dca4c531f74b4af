"""Makes small clips with audio, of any codec that libav encodes, and looks at the audio of files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray

from video.video_clips import ONE_THREAD
from vinr.video.encoders import safe_options

RATE = 25
NUM_FRAMES = 8


@dataclass(frozen=True)
class Tone:
    """A track: half a second of a tone as ``codec`` makes it, ``start`` seconds after the first frame."""

    codec: str = "aac"
    sample_rate: int = 48_000
    layout: str = "stereo"
    start: Fraction = Fraction(0)
    bit_rate: int | None = None
    language: str = ""
    title: str = ""
    is_default: bool = True

    def frames(self, sample_format: str) -> Iterator[av.AudioFrame]:
        """Yield the samples as ``sample_format``, a tone of its own in each channel."""
        num_channels = av.AudioLayout(self.layout).nb_channels
        seconds = np.arange(self.sample_rate // 2, dtype=np.float32) / self.sample_rate
        waves = [0.3 * np.sin(2 * np.pi * 440 * (channel + 1) * seconds) for channel in range(num_channels)]
        samples = np.stack(waves, axis=1).astype(np.float32)  # channels in turn
        resampler = av.AudioResampler(sample_format, self.layout, self.sample_rate)
        for first in range(0, len(samples), 1000):
            piece = np.ascontiguousarray(samples[first : first + 1000]).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(piece, format="flt", layout=self.layout)
            frame.sample_rate, frame.pts = self.sample_rate, first
            yield from resampler.resample(frame)


def write_audio_clip(
    path: Path, *tones: Tone, picture_start: Fraction = Fraction(0), num_frames: int = NUM_FRAMES
) -> Path:
    """Write small frames, the first at ``picture_start``, and the tracks."""
    # No B-frames: some containers keep one time a packet.
    options = safe_options("libx264", {**ONE_THREAD, "bf": "0"}, width=32)
    # Times below 0 as they are: only the first packets of encoders have them here.
    with av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as output:
        video = output.add_stream("libx264", rate=RATE, options=options)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        video.disposition = Disposition.default
        tracks = [_add(output, tone) for tone in tones]
        packets = []
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * index, np.uint8), format="rgb24")
            frame = frame.reformat(format="yuv420p")
            frame.pts = index
            packets += video.encode(frame)
        packets += video.encode(None)
        for packet in packets:
            _move(packet, picture_start)
        for tone, track in zip(tones, tracks, strict=True):
            made = [packet for frame in tone.frames(track.format.name) for packet in track.encode(frame)]
            for packet in [*made, *track.encode(None)]:
                _move(packet, picture_start + tone.start)
                packets.append(packet)
        packets.sort(key=lambda packet: packet.dts * packet.time_base)
        for packet in packets:
            output.mux(packet)
    return path


def _add(output: av.container.OutputContainer, tone: Tone) -> av.AudioStream:
    track = output.add_stream(tone.codec, rate=tone.sample_rate, layout=tone.layout)
    assert isinstance(track, av.AudioStream)
    if tone.bit_rate is not None:
        track.bit_rate = tone.bit_rate
    for name, value in (("language", tone.language), ("title", tone.title)):
        if value:
            track.metadata[name] = value
    track.disposition = Disposition.default if tone.is_default else Disposition(0)
    track.codec_context.open()
    return track


def _move(packet: av.Packet, seconds: Fraction) -> None:
    ticks = Fraction(packet.time_base.numerator, packet.time_base.denominator) * 10**6
    packet.pts = round(packet.pts * ticks + seconds * 10**6)
    packet.dts = round(packet.dts * ticks + seconds * 10**6)
    packet.duration = round(packet.duration * ticks)
    packet.time_base = Fraction(1, 10**6)


@dataclass(frozen=True)
class Track:
    """A track as read: packets are (seconds after the first frame, bytes)."""

    codec: str
    layout: str
    language: str | None
    title: str | None
    is_default: bool
    packets: list[tuple[float, bytes]]

    @property
    def seconds(self) -> list[float]:
        return [seconds for seconds, _ in self.packets]

    @property
    def data(self) -> list[bytes]:
        return [data for _, data in self.packets]


def tracks_of(path: Path) -> list[Track]:
    """Read the tracks of a file with a picture."""
    with av.open(str(path)) as container:
        begins: dict[int, list[tuple[float, bytes]]] = {stream.index: [] for stream in container.streams}
        for packet in container.demux():
            if packet.size:
                begins[packet.stream_index].append((float(packet.pts * packet.time_base), bytes(packet)))
        first = min(seconds for seconds, _ in begins[container.streams.video[0].index])
        return [
            Track(
                stream.codec_context.name,
                stream.codec_context.layout.name,
                stream.language,
                stream.metadata.get("title") or stream.metadata.get("name"),
                bool(stream.disposition & Disposition.default),
                [(seconds - first, data) for seconds, data in begins[stream.index]],
            )
            for stream in container.streams.audio
        ]


def times_of(path: Path, kind: str) -> list[float]:
    """Return when the packets of video or audio begin, in seconds on the file's clock."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux() if packet.size and packet.stream.type == kind]
        return sorted(float(packet.pts * packet.time_base) for packet in packets)


def samples_of(file: Path | bytes, track: int = 0) -> NDArray[np.float64]:
    """Decode a track to (channels, samples), whole numbers as numbers from −1 to 1."""
    with av.open(io.BytesIO(file) if isinstance(file, bytes) else str(file)) as container:
        pieces: list[NDArray[np.float64]] = []
        for frame in container.decode(container.streams.audio[track]):
            channels = frame.layout.nb_channels
            samples = frame.to_ndarray()
            # Packed samples come as one row, channels in turn.
            samples = samples if frame.format.is_planar else samples.reshape(-1, channels).T
            pieces.append(_scaled(samples))
        return np.concatenate(pieces, axis=1)


def heard_until(path: Path) -> float:
    """Return when the last sample of a file ends, in seconds after the first frame."""
    first = times_of(path, "video")[0]
    with av.open(str(path)) as container:
        frames = list(container.decode(container.streams.audio[0]))
        seconds = Fraction(sum(frame.samples for frame in frames), frames[0].sample_rate)
        return float(frames[0].pts * frames[0].time_base + seconds) - first


def _scaled(samples: NDArray[np.generic]) -> NDArray[np.float64]:
    if samples.dtype == np.uint8:
        return (samples.astype(np.float64) - 128) / 128
    scale = 1.0 if samples.dtype.kind == "f" else float(2 ** (8 * samples.dtype.itemsize - 1))
    return samples.astype(np.float64) / scale
