"""Small files that ask for much: what a hostile file of less than 10 kB may try. Used by tests and scripts.

All numbers of their networks are coded by models of one symbol, which take nothing in a stream: a tensor
of any size costs three bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vinr.bitstream import Clip, ContainerWriter, Header, Network, SectionKind, Span, deflate, pack_varint
from vinr.compress.unpack import BUDGET, BUDGET_PER_BYTE
from vinr.models import VideoModel, get_model, validate_architecture
from vinr.video.spec import VideoSpec

# A model of the one symbol 0 and a step; the same model again with a step.
DEFINITION, REFERENCE = b"\0\0\1\0\0", b"\2\0\0"
MANY = 10**7
# Bytes of the networks that take almost all that files of less than 10 kB may ask for.
PADDED = 9_700


def clip(name: str, num_frames: int, height: int, width: int, *, times: bool = False) -> Clip:
    """Return a clip at 30 frames a second."""
    return Clip(name=name, num_frames=num_frames, height=height, width=width, has_times=times)


def file_of(
    clips: Sequence[Clip],
    networks: Sequence[Network],
    *,
    created_by: str = "a bomb",
    keyframe: bytes = b"",
    payload_bytes: int = 0,
) -> bytes:
    """Return a file of networks whose numbers are all 0; WEIGHTS 0 has ``payload_bytes`` or more."""
    header = Header(created_by=created_by, clips=tuple(clips), networks=tuple(networks))
    writer = ContainerWriter(header)
    for number, network in enumerate(networks):
        skeleton = _skeleton(header, network)
        fixed = sum(item.value.numel() for item in skeleton.stored().values() if not item.per_frame)
        num_tensors = len(skeleton.stored()) + len(skeleton.per_frame_shapes())
        records = DEFINITION + REFERENCE * (num_tensors - 1)
        least = max(-(-(fixed - BUDGET) // BUDGET_PER_BYTE), 0 if number else payload_bytes)
        writer.add(SectionKind.WEIGHTS, number, records + bytes(max(least - len(records), 0)))
        if network.num_chunks:
            writer.add_array(SectionKind.CHUNKS, number, [b""] * network.num_chunks)
        if network.num_keyframes:
            writer.add_array(SectionKind.KEYFRAMES, number, [keyframe] * network.num_keyframes)
    for number, own in enumerate(clips):
        if own.has_times:
            # Steps of one tick each.
            body = deflate(b"\x02" + bytes(own.num_frames - 2))
            payload = pack_varint(1) + pack_varint(90_000) + b"\1" + body
            writer.add(SectionKind.TIMES, number, payload)
    return writer.to_bytes()


def network(model: str, architecture: dict[str, Any], spans: Sequence[Span], **more: Any) -> Network:
    """Return a network as the header has it."""
    return Network(model=model, architecture=architecture, spans=tuple(spans), **more)


def single(
    model: str, architecture: dict[str, Any], own: Clip, *, payload_bytes: int = 0, **more: Any
) -> bytes:
    """Return a file of one clip and one network."""
    only = network(model, architecture, [Span(0, 0, own.num_frames)], **more)
    return file_of([own], [only], payload_bytes=payload_bytes)


def bombs() -> dict[str, bytes]:
    """Return the files by name."""
    small: dict[str, Any] = {"strides": [2, 2], "widths": [4, 4, 4], "levels": 2, "stem_widths": [4]}
    thin = {"strides": [2], "widths": [2, 2], "embedding_channels": 1}
    wide = {"strides": [16, 16, 2], "widths": [256, 64, 64, 64]}
    numbers = {"strides": [2, 2, 2], "widths": [1024, 512, 512, 512], "embedding_channels": 1}
    grids = {"base_grid_levels": 1, "base_grid_frames": 2, "base_grid_channels": 1}
    grids |= {"local_grid_levels": 1, "local_grid_frames": 1, "local_grid_channels": 1}
    blocks = {"depths": [1, 1, 16], "expansions": [1, 1, 4]}
    deep: dict[str, Any] = {"strides": [5, 2, 2], "widths": [4, 4, 4]} | grids | blocks
    chunked = {"frames_per_chunk": 1}
    hd = clip("a", 64, 720, 1280)
    spans_720p = [Span(0, number, 1) for number in range(64)]
    return {
        "maps of 2160 × 3840": single("hnerv", wide, clip("a", 1, 2160, 3840), **chunked),
        "maps of 8192 × 4096": single(
            "nerv", small | {"strides": [8, 4, 4], "widths": [4] * 4}, clip("a", 1, 8192, 4096)
        ),
        "maps almost too large": single(
            "nerv",
            small | {"strides": [8, 4, 4], "widths": [4] * 4},
            clip("a", 1, 3328, 2048),
            payload_bytes=PADDED,
        ),
        "work almost too much": single(
            "nerv",
            small | {"strides": [5, 4], "widths": [128, 128, 192]},
            clip("a", 1, 40, 1140),
            payload_bytes=PADDED,
        ),
        "layers almost too many": single("hinerv", deep, clip("a", 1, 420, 1240), payload_bytes=PADDED),
        "10⁷ frames": single("nerv", small, clip("a", MANY, 16, 16)),
        "10⁷ times": single("nerv", small, clip("a", MANY, 16, 16, times=True)),
        "64 spans of 720p": file_of(
            [hd], [network("nerv", small | {"strides": [5, 4], "widths": [64, 64, 96]}, spans_720p)]
        ),
        "4,096 spans": file_of(
            [clip("a", 4096, 16, 16)],
            [network("nerv", small, [Span(0, number, 1) for number in range(4096)])],
        ),
        "1,500 clips": file_of(
            [clip(str(number), 1, 16, 16) for number in range(1500)],
            [network("nerv", small, [Span(number, 0, 1) for number in range(1500)])],
        ),
        "200 networks": file_of(
            [clip("a", 200, 16, 16)],
            [
                network("nerv", small | {"stem_widths": [5 + number]}, [Span(0, number, 1)])
                for number in range(100)
            ]
            + [network("nerv", small, [Span(0, number, 1)]) for number in range(100, 200)],
        ),
        "1,500 chunks": single("hnerv", thin, clip("a", 1500, 256, 256), **chunked),
        "many numbers": single("hnerv", numbers, clip("a", 1, 64, 64), **chunked),
        "keyframes of 10⁷ frames": _without_keyframes(),
    }


def _without_keyframes() -> bytes:
    """Return a file whose header names 10⁷ frames of a model of keyframes, and no keyframe."""
    spans = [Span(0, 0, MANY)]
    writer = ContainerWriter(
        Header(
            created_by="a bomb",
            clips=(clip("a", MANY, 16, 16),),
            networks=(network("dnerv_diverse", {"strides": [2], "widths": [4, 4], "clip_length": 2}, spans),),
        )
    )
    writer.add(SectionKind.WEIGHTS, 0, DEFINITION)
    return writer.to_bytes()


def _skeleton(header: Header, own: Network) -> VideoModel:
    first = header.clips[own.spans[0].clip]
    lengths = tuple(span.num_frames for span in own.spans)
    video = VideoSpec(sum(lengths), first.height, first.width, span_lengths=lengths)
    cls = get_model(own.model)
    return cls.on_meta(validate_architecture(cls, own.architecture), video)
