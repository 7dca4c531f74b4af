"""Segments that are fitted and coded, alone in a file, and kept until all of them are finished."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from itertools import accumulate, pairwise, starmap
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError

from vinr.bitstream import (
    Clip,
    Color,
    ContainerWriter,
    Header,
    Network,
    SectionKind,
    Span,
    Tags,
)
from vinr.bitstream import Hdr as HeaderHdr
from vinr.compress import ComponentSize, PackedTensors
from vinr.config import Preset
from vinr.decoding.decoder import VideoDecoder
from vinr.decoding.file import open_clip
from vinr.decoding.networks import UNLIMITED
from vinr.errors import BitstreamError
from vinr.fit import FitResult
from vinr.fit.fingerprint import Fingerprint
from vinr.fit.precision import PrecisionName
from vinr.models import VideoModel
from vinr.quality.clip import ClipQuality
from vinr.quality.record import Quality
from vinr.settings import StoredValues
from vinr.state.tensorfile import read_state, refuse_state, write_tensors
from vinr.video.spec import Hdr, VideoSpec


@dataclass(frozen=True)
class FittedSegment:
    """One network, fitted and coded, with the quality measured on the decoded result."""

    model: str
    architecture: dict[str, Any]
    num_parameters: int
    span_lengths: tuple[int, ...]
    fixed: bytes = field(repr=False)
    chunks: tuple[bytes, ...] = field(repr=False)
    keyframes: tuple[bytes, ...] = field(repr=False)
    frames_per_chunk: int
    components: tuple[ComponentSize, ...] = field(repr=False)
    num_epochs: float
    train_psnr_db: float
    num_collapses: int
    qualities: tuple[Quality, ...] = ()
    precision: PrecisionName = "fp32"

    @property
    def num_frames(self) -> int:
        """Frames that the network represents."""
        return sum(self.span_lengths)

    @classmethod
    def coded(
        cls, preset: Preset, model: VideoModel, packed: PackedTensors, spec: VideoSpec
    ) -> FittedSegment:
        """Return a coded network as a segment; how it was fitted is not known, and it is not measured."""
        return cls(
            model=preset.model,
            architecture=preset.architecture,
            num_parameters=model.num_stored(),
            span_lengths=spec.span_lengths,
            fixed=packed.fixed,
            chunks=packed.chunks,
            keyframes=() if model.keyframes is None else model.keyframes.coded,
            frames_per_chunk=packed.frames_per_chunk,
            components=packed.components,
            num_epochs=0.0,
            train_psnr_db=math.nan,
            num_collapses=0,
        )

    @property
    def psnr_db(self) -> float:
        """Mean of the frames' PSNR, once measured."""
        return Quality.of_all(self.qualities).psnr_db

    @classmethod
    def of(cls, preset: Preset, result: FitResult, packed: PackedTensors, spec: VideoSpec) -> FittedSegment:
        """Return a fitted and coded network as a segment, not yet measured."""
        return replace(
            cls.coded(preset, result.model, packed, spec),
            num_epochs=result.num_epochs,
            train_psnr_db=result.train_psnr_db,
            num_collapses=result.num_collapses,
            precision=result.precision,
        )

    def measured(self, quality: ClipQuality) -> FittedSegment:
        """Return the segment with its quality, measured on all its frames in order."""
        # span_lengths    3    2    4
        # bounds        0    3    5    9
        bounds = accumulate(self.span_lengths, initial=0)
        return replace(self, qualities=tuple(starmap(quality.part, pairwise(bounds))))

    def network(self, spans: Sequence[Span]) -> Network:
        """Return the header entry of the network when it holds ``spans``."""
        return Network(
            model=self.model,
            architecture=self.architecture,
            spans=tuple(spans),
            frames_per_chunk=self.frames_per_chunk,
            num_keyframes=len(self.keyframes),
            precision=self.precision,
        )

    def alone(self, name: str, spec: VideoSpec) -> ContainerWriter:
        """Return a file that holds this segment alone, all its spans in one clip, one after another."""
        # ``accumulate`` gives the end of the last span too, which is no start.
        starts = accumulate(self.span_lengths, initial=0)
        spans = [Span(0, start, count) for start, count in zip(starts, self.span_lengths, strict=False)]
        header = Header(
            created_by=created_by(), clips=(clip_entry(name, spec),), networks=(self.network(spans),)
        )
        writer = ContainerWriter(header)
        self.add_to(writer, 0)
        return writer

    def open(self, spec: VideoSpec, device: str) -> VideoDecoder:
        """Return a decoder of a file that holds this segment alone: what a reader of the file will see."""
        content = self.alone("segment", spec).to_bytes()
        return open_clip(content, device=device, max_memory=UNLIMITED)  # one's own file is trusted

    def sections(self) -> dict[SectionKind, tuple[bytes, ...]]:
        """Return the parts of each section that this segment has, in the order of the file."""
        sections: dict[SectionKind, tuple[bytes, ...]] = {SectionKind.WEIGHTS: (self.fixed,)}
        if self.chunks:
            sections[SectionKind.CHUNKS] = self.chunks
        if self.keyframes:
            sections[SectionKind.KEYFRAMES] = self.keyframes
        return sections

    def add_to(self, writer: ContainerWriter, network: int) -> None:
        """Add the sections of this segment as those of ``network``."""
        for kind, parts in self.sections().items():
            if kind.is_array:
                writer.add_array(kind, network, parts)
            else:
                writer.add(kind, network, *parts)


def created_by() -> str:
    """Return the name and version that files are signed with."""
    from importlib.metadata import version

    return f"vinr {version('vinr')}"


def fraction_parts(value: Fraction) -> tuple[int, int]:
    """Return numerator and denominator, as headers have them."""
    return value.numerator, value.denominator


def clip_entry(name: str, spec: VideoSpec, **more: Any) -> Clip:
    """Return the header entry of a clip of ``spec``; ``more`` are fields that the spec does not say."""
    tags, hdr = spec.color.tags, spec.color.hdr
    color = Color(
        matrix=spec.color.matrix,
        range=spec.color.range,
        bit_depth=spec.color.bit_depth,
        tags=None if tags is None else Tags(**asdict(tags)),
        hdr=None if hdr == Hdr() else HeaderHdr(mastering=hdr.mastering, light=hdr.light),
    )
    return Clip(
        name=name,
        num_frames=spec.num_frames,
        height=spec.height,
        width=spec.width,
        frame_rate=fraction_parts(spec.frame_rate),
        color=color,
        pixel_aspect=fraction_parts(spec.pixel_aspect),
        bit_depth=spec.bit_depth,
        **more,
    )


class SegmentValues(StoredValues):
    """The values of a kept segment; what its fingerprint states is not repeated."""

    kind: Literal["segment"] = Field(description="what the file holds")
    fingerprint: Fingerprint = Field(description="what it belongs to")
    precision: PrecisionName = Field(description="arithmetic of the fit")
    num_parameters: Annotated[int, Field(ge=1)] = Field(description="parameters stored")
    frames_per_chunk: int = Field(ge=0, description="frames per chunk of latents; 0: none")
    components: tuple[ComponentSize, ...] = Field(description="bytes of each tensor")
    num_epochs: float = Field(ge=0, description="passes over all frames")
    train_psnr_db: float = Field(description="best round of the fit, dB")
    num_collapses: int = Field(ge=0, description="collapses of the fit")
    qualities: tuple[Quality, ...] = Field(description="quality of the frames of each span")
    empty: tuple[str, ...] = Field(description="parts that are no bytes long")


def part_names(kind: SectionKind, count: int) -> list[str]:
    """Return the names in a kept segment of the ``count`` parts of a section."""
    if not kind.is_array:
        return ["fixed"]
    name = "chunk" if kind is SectionKind.CHUNKS else "keyframe"
    return [f"{name}.{number:07d}" for number in range(count)]


def save_segment(segment: FittedSegment, path: Path, fingerprint: Fingerprint) -> None:
    """Keep a finished segment, so that an interrupted encode need not fit it again.

    Raises
    ------
    OutputError
        If the system refuses to write.
    """
    tensors, empty = {}, []
    for kind, parts in segment.sections().items():
        for name, part in zip(part_names(kind, len(parts)), parts, strict=True):
            # A tensor of no bytes cannot be made of a buffer: it gets one byte, and ``empty`` names it.
            if not part:
                empty.append(name)
            tensors[name] = torch.frombuffer(bytearray(part or b"\0"), dtype=torch.uint8)
    values = SegmentValues(
        kind="segment",
        fingerprint=fingerprint,
        precision=segment.precision,
        num_parameters=segment.num_parameters,
        frames_per_chunk=segment.frames_per_chunk,
        components=segment.components,
        num_epochs=segment.num_epochs,
        train_psnr_db=segment.train_psnr_db,
        num_collapses=segment.num_collapses,
        qualities=segment.qualities,
        empty=tuple(empty),
    )
    write_tensors(path, tensors, values.model_dump(mode="json"))


def load_segment(path: Path, fingerprint: Fingerprint, spec: VideoSpec) -> FittedSegment:
    """Read what :func:`save_segment` kept of the video that ``spec`` describes.

    Raises
    ------
    InputError
        If the file is of another kind or version, or damaged.
    UsageError
        If its fingerprint is not ``fingerprint``.
    """
    tensors, values = read_state(path, SegmentValues)
    fingerprint.check(values.fingerprint)
    parts = {name: value.numpy().tobytes() for name, value in tensors.items()}
    parts |= dict.fromkeys(values.empty, b"")
    members: dict[str, list[bytes]] = {"chunk": [], "keyframe": []}
    for name in sorted(parts):  # numbers have leading zeros
        kind = name.partition(".")[0]
        if kind in members:
            members[kind].append(parts[name])
    segment = FittedSegment(
        model=fingerprint.model,
        architecture=fingerprint.architecture,
        num_parameters=values.num_parameters,
        span_lengths=spec.span_lengths,
        fixed=parts.get("fixed", b""),
        chunks=tuple(members["chunk"]),
        keyframes=tuple(members["keyframe"]),
        frames_per_chunk=values.frames_per_chunk,
        components=values.components,
        num_epochs=values.num_epochs,
        train_psnr_db=values.train_psnr_db,
        num_collapses=values.num_collapses,
        qualities=values.qualities,
        precision=values.precision,
    )
    if tuple(quality.num_frames for quality in segment.qualities) != segment.span_lengths:
        raise refuse_state(path, "qualities of other frames")
    # A network that cannot be decoded is refused now, not once all the others are fitted.
    try:
        with segment.open(spec, "cpu") as decoder:
            damaged = decoder.file.verify().damaged
    except (BitstreamError, ValidationError, ValueError) as error:
        raise refuse_state(path, str(error).splitlines()[0]) from None
    if damaged:
        raise refuse_state(path, damaged[0].splitlines()[0])
    return segment
