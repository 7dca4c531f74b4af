"""Files to change: of all models, with sound, times, keyframes, several clips and networks; and bombs."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from importlib import import_module
from importlib.util import find_spec
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import _soak  # noqa: F401 - says where the tests' modules are
import crafting
from video_clips import write_clip_with_tone

from random_files import random_network
from vinr.bitstream import SectionKind
from vinr.compress import encode_times, pack_tensors
from vinr.config import load_preset
from vinr.encoding.segment import FittedSegment
from vinr.errors import VinrError
from vinr.models import VideoModel, get_model, list_models
from vinr.video.source import FrameTensor, open_video
from vinr.video.spec import Timeline, VideoSpec

__all__ = ["Parts", "bombs", "seeds", "take_apart"]

HEIGHT, WIDTH = 32, 64
# What is in all networks of bombs: more records than any model has tensors. The first defines a model of one
# symbol, the others use it; what no tensor takes is read as the stream, which nothing reads, but which raises
# how much the network may hold.
CONSTANT = bytes([0, 0, 1, 0, 0]) + 400 * bytes([2, 0, 0]) + bytes(1000)


@dataclass
class Parts:
    """A file in parts: its header as JSON, and the sections as (kind, owner, payloads)."""

    header: dict[str, Any]
    sections: list[tuple[int, int, list[bytes]]] = field(default_factory=list)

    def copy(self) -> Parts:
        """Return a copy that can be changed."""
        sections = [(kind, owner, list(payloads)) for kind, owner, payloads in self.sections]
        return Parts(json.loads(json.dumps(self.header)), sections)

    def index(self) -> bytes:
        """Return an index that fits the sections."""
        entries = [
            crafting.entry(kind, owner, *payloads, count=len(payloads) if kind & 0x40 else None)
            for kind, owner, payloads in self.sections
        ]
        return crafting.varint(len(entries)) + b"".join(entries)

    def build(
        self, *, text: bytes | None = None, stored: bytes | None = None, index: bytes | None = None
    ) -> bytes:
        """Return the file, checksums made to fit; ``text`` is other JSON, ``stored`` that deflated."""
        plain = json.dumps(self.header, separators=(",", ":")).encode() if text is None else text
        packed = crafting.deflate(plain) if stored is None else stored
        body = b"".join(payload for _, _, payloads in self.sections for payload in payloads)
        if len(packed) > 0xFFFF:  # does not fit its field: a header that is cut
            packed = packed[:0xFFFF]
        return crafting.assemble(packed, self.index() if index is None else index, body)


def take_apart(data: bytes) -> Parts:
    """Return the parts of a valid file."""
    from vinr.bitstream.index import unpack_index

    _, _, _, header_size, index_size = struct.unpack_from("<4sBBHI", data)
    start = 20 + header_size
    header = json.loads(zlib.decompress(data[20:start], -15))
    entries = unpack_index(data[start : start + index_size], start + index_size, len(data))
    sections = []
    for entry in entries:
        payloads = [data[first:last] for first, last in pairwise(entry.starts)]
        sections.append((int(entry.kind), int(entry.owner), payloads))
    return Parts(header, sections)


# -- valid files ---------------------------------------------------------------------------------------------


def seeds(folder: Path, models: Sequence[str] = ()) -> dict[str, bytes]:
    """Return valid files by name; small networks of random numbers, the same each time.

    ``models``: one file for each of these models alone, and none of the others.
    """
    if models:
        return {name: _file(name, [4], [4]).build() for name in models}
    sound = _sound(folder)
    found = {name: _file(name, [4], [4]).build() for name in list_models()}
    found["several networks"] = _file("hnerv", [5], [2, 2, 1]).build()
    found["two clips, one network"] = _file("nerv", [3, 2], [5]).build()
    found["times and sound"] = _file("hinerv", [4], [4], times=True, sound=sound).build()
    found["clips, networks, times and sound"] = _file(
        "hnerv", [3, 3], [2, 4], times=True, sound=sound
    ).build()
    found["keyframes, networks and times"] = _file("dnerv_diverse", [6], [3, 3], times=True).build()
    return found


def _sound(folder: Path) -> bytes:
    with open_video(write_clip_with_tone(folder / "tone.mkv", "flac")) as reader:
        sound = reader.audio()
    assert sound is not None
    return sound.data


def _file(
    name: str,
    clips: Sequence[int],
    networks: Sequence[int],
    *,
    times: bool = False,
    sound: bytes | None = None,
) -> Parts:
    """Return a file of ``clips`` of so many frames each, cut into networks of so many."""
    settings = load_preset(f"{name}-tiny")
    described: list[dict[str, Any]] = []
    parts = Parts({"created_by": "a soak", "clips": described, "networks": []})
    for number, count in enumerate(clips):
        clip = {"name": f"clip {number}", "num_frames": count, "height": HEIGHT, "width": WIDTH}
        described.append(clip | {"has_times": times, "has_audio": sound is not None})
        if times:
            pts = tuple(accumulate(range(1, count), initial=0))
            timeline = Timeline(count, Fraction(30), Fraction(1, 90), pts)
            parts.sections.append((SectionKind.TIMES, number, [encode_times(timeline)]))
        if sound is not None:
            parts.sections.append((SectionKind.AUDIO, number, [sound]))
    for number, (count, spans) in enumerate(zip(networks, _spans(clips, networks), strict=True)):
        lengths = tuple(span[2] for span in spans)
        spec = VideoSpec(count, HEIGHT, WIDTH, span_lengths=lengths)
        model = random_network(name, spec, seed=number)
        segment = FittedSegment.coded(settings, model, pack_tensors(model.stored(), settings.compress), spec)
        entry: dict[str, Any] = {"model": name, "architecture": segment.architecture, "spans": spans}
        parts.sections.append((SectionKind.WEIGHTS, number, [segment.fixed]))
        if segment.chunks:
            entry["frames_per_chunk"] = segment.frames_per_chunk
            parts.sections.append((SectionKind.CHUNKS, number, list(segment.chunks)))
        if segment.keyframes:
            entry["num_keyframes"] = len(segment.keyframes)
            parts.sections.append((SectionKind.KEYFRAMES, number, list(segment.keyframes)))
        parts.header["networks"].append(entry)
    return parts


def _spans(clips: Sequence[int], networks: Sequence[int]) -> Iterator[list[list[int]]]:
    """Yield the spans of each network: clips one after another, cut."""
    clip, first = 0, 0
    for count in networks:
        spans = []
        while count:
            taken = min(count, clips[clip] - first)
            spans.append([clip, first, taken])
            count, first = count - taken, first + taken
            if first == clips[clip]:
                clip, first = clip + 1, 0
        yield spans


# -- bombs ---------------------------------------------------------------------------------------------------


def bombs() -> dict[str, bytes]:
    """Return small files that ask for much work or memory."""
    found: dict[str, Parts | bytes] = {
        "maps of hnerv 2160x3840": _bomb(
            "hnerv", {"strides": [16, 16, 2], "widths": [256, 64, 64, 64]}, 2160, 3840, latents=True
        ),
        "maps of nerv 8192x4096": _bomb("nerv", _nerv(8192, 4096), 8192, 4096),
        "maps of nerv 4320x7680": _bomb("nerv", _nerv(4320, 7680), 4320, 7680),
        "10^7 frames": _bomb("nerv", _nerv(32, 64), 32, 64, frames=10**7),
        "10^7 times": _bomb("nerv", _nerv(32, 64), 32, 64, frames=10**7, times=_times(10**7)),
        "10^7 times, too many": _bomb("nerv", _nerv(32, 64), 32, 64, frames=10**7, times=_times(9 * 10**7)),
        "64 spans of 720p": _spans_bomb(64, 720, 1280),
        "4096 spans of 720p": _spans_bomb(4096, 720, 1280),
        "4096 clips": _clips_bomb(4096),
        "900 networks": _networks_bomb(900, 32, 64),
        "200 networks of 720p": _networks_bomb(200, 720, 1280),
        "10^7 frames in chunks of one": _chunks_bomb(),
        # About as much as 65,535 bytes inflate to, and as much as is allowed.
        "header of 56 MiB": _bomb("nerv", {}, 32, 64).build(stored=_deflated_zeros(56 * 2**20)),
        "header of 1 MiB": _bomb("nerv", {}, 32, 64).build(stored=_deflated_zeros(2**20)),
        "header of brackets": _bomb("nerv", {}, 32, 64).build(stored=crafting.deflate(b"[" * 10**6)),
        "header of digits": _bomb("nerv", {}, 32, 64).build(stored=crafting.deflate(b"9" * 10**6)),
        "keyframes of 4 million pixels": _keyframe_bomb(2048, 2048),
    }
    for name in list_models():
        for width in (16, 256):
            if (parts := _wide(name, width)) is not None:
                found[f"{name} of width {width} at 2160x3840"] = parts
    # Those of the tests, once there are some.
    more = import_module("bombs").bombs() if find_spec("bombs") else {}
    return more | {name: made if isinstance(made, bytes) else made.build() for name, made in found.items()}


def _nerv(height: int, width: int) -> dict[str, Any]:
    video = VideoSpec(1, height, width)
    config = get_model("nerv").configure(video, width=16, settings={})
    return config.model_dump(mode="json")


def _wide(name: str, width: int) -> Parts | None:
    """Return a network of so many channels for one frame of 2160×3840; None where there is none."""
    cls = get_model(name)
    try:
        config = cls.configure(VideoSpec(1, 2160, 3840), width=width, settings={})
        skeleton = cls.on_meta(config, VideoSpec(1, 2160, 3840))
    except (VinrError, ValueError):
        return None
    parts = _bomb(name, config.model_dump(mode="json"), 2160, 3840, latents=bool(skeleton.per_frame_shapes()))
    if skeleton.keyframes is not None:
        _add_keyframes(parts, skeleton)
    return parts


def _bomb(
    model: str,
    architecture: dict[str, Any],
    height: int,
    width: int,
    *,
    frames: int = 1,
    latents: bool = False,
    times: bytes | None = None,
) -> Parts:
    """Return a file of one clip, a network whose tensors hold one symbol, and no bytes for its latents."""
    clip = {"name": "bomb", "num_frames": frames, "height": height, "width": width, "has_times": bool(times)}
    network: dict[str, Any] = {"model": model, "architecture": architecture, "spans": [[0, 0, frames]]}
    parts = Parts({"created_by": "a soak", "clips": [clip], "networks": [network]})
    parts.sections.append((SectionKind.WEIGHTS, 0, [CONSTANT]))
    if latents:
        network["frames_per_chunk"] = frames
        parts.sections.append((SectionKind.CHUNKS, 0, [b""]))
    if times:
        parts.sections.append((SectionKind.TIMES, 0, [times]))
    return parts


def _deflated_zeros(count: int, first: bytes = b"") -> bytes:
    """Return one raw deflate stream of ``first`` and ``count`` zeros; equal blocks are deflated once."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = packer.compress(first + bytes(count % 2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + count // 2**20 * block + packer.flush()


def _times(count: int) -> bytes:
    """Return section TIMES of ``count`` frames, a tick apart each."""
    return crafting.varint(1) + crafting.varint(30) + b"\x01" + _deflated_zeros(count - 2, first=b"\x02")


def _spans_bomb(count: int, height: int, width: int) -> Parts:
    parts = _bomb("nerv", _nerv(height, width), height, width, frames=count)
    parts.header["networks"][0]["spans"] = [[0, number, 1] for number in range(count)]
    return parts


def _clips_bomb(count: int) -> Parts:
    parts = _bomb("nerv", _nerv(32, 64), 32, 64)
    (clip,) = parts.header["clips"]
    parts.header["clips"] = [clip | {"name": str(number)} for number in range(count)]
    parts.header["networks"][0]["spans"] = [[number, 0, 1] for number in range(count)]
    return parts


def _networks_bomb(count: int, height: int, width: int) -> Parts:
    parts = _bomb("nerv", _nerv(height, width), height, width, frames=count)
    (network,) = parts.header["networks"]
    parts.header["networks"] = [network | {"spans": [[0, number, 1]]} for number in range(count)]
    parts.sections = [(SectionKind.WEIGHTS, number, [CONSTANT]) for number in range(count)]
    return parts


def _chunks_bomb() -> Parts:
    count = 10**6
    parts = _bomb("hnerv", dict(load_preset("hnerv-tiny").architecture), 32, 64, frames=count, latents=True)
    parts.header["networks"][0]["frames_per_chunk"] = 1
    parts.sections[1] = (SectionKind.CHUNKS, 0, [b""] * count)
    return parts


def _keyframe_bomb(height: int, width: int) -> Parts:
    cls = get_model("dnerv_diverse")
    video = VideoSpec(8, height, width)
    config = cls.configure(video, width=8, settings={})
    skeleton = cls.on_meta(config, video)
    parts = _bomb(
        "dnerv_diverse",
        config.model_dump(mode="json"),
        height,
        width,
        frames=8,
        latents=bool(skeleton.per_frame_shapes()),
    )
    _add_keyframes(parts, skeleton)
    return parts


def _add_keyframes(parts: Parts, skeleton: VideoModel) -> None:
    """Add keyframes of one grey, as images or groups: as few bytes as they can have."""
    import torch

    video, keyframes = skeleton.video, skeleton.keyframes
    assert keyframes is not None
    grey_CHW = torch.full((3, video.height, video.width), 128, dtype=torch.uint8)
    keyframes.code(FrameTensor(grey_CHW.expand(video.num_frames, -1, -1, -1), video))
    parts.header["networks"][0]["num_keyframes"] = keyframes.num_parts
    parts.sections.append((SectionKind.KEYFRAMES, 0, list(keyframes.coded)))
