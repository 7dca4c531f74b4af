"""Segments that are fitted and coded, and the one file they become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vinr.bitstream import (
    Clip,
    Color,
    ContainerWriter,
    EditRecord,
    Header,
    Network,
    Quality,
    SectionKind,
    Span,
)
from vinr.compress import ComponentSize, PackedTensors, encode_times
from vinr.config import Preset
from vinr.decode import VideoDecoder
from vinr.evaluate.metrics import ClipQuality
from vinr.fit import FitResult
from vinr.plan import Job
from vinr.tensorfile import read_tensors, write_tensors
from vinr.video.source import VideoReader
from vinr.video.spec import VideoSpec

__all__ = ["FittedSegment", "assemble", "load_segment", "save_segment"]


@dataclass(frozen=True)
class FittedSegment:
    """One network, fitted and coded, with the quality measured on the decoded result."""

    model: str
    architecture: dict[str, Any]
    num_parameters: int
    num_frames: int
    fixed: bytes = field(repr=False)
    chunks: tuple[bytes, ...] = field(repr=False)
    frames_per_chunk: int
    components: tuple[ComponentSize, ...] = field(repr=False)
    num_epochs: float
    train_psnr_db: float
    num_collapses: int
    psnr_db: float = 0.0
    pooled_psnr_db: float = 0.0
    ms_ssim: float | None = None
    ms_ssim_window: int | None = None

    @classmethod
    def of(cls, preset: Preset, result: FitResult, packed: PackedTensors, spec: VideoSpec) -> FittedSegment:
        """Return a fitted and coded network as a segment, not yet measured."""
        return cls(
            model=preset.model,
            architecture=preset.architecture,
            num_parameters=result.model.num_stored(),
            num_frames=spec.num_frames,
            fixed=packed.fixed,
            chunks=packed.chunks,
            frames_per_chunk=packed.frames_per_chunk,
            components=packed.components,
            num_epochs=result.num_epochs,
            train_psnr_db=result.train_psnr_db,
            num_collapses=result.num_collapses,
        )

    def measured(self, quality: ClipQuality) -> FittedSegment:
        """Return the segment with its quality."""
        return replace(
            self,
            psnr_db=quality.psnr_db,
            pooled_psnr_db=quality.pooled_psnr_db,
            ms_ssim=quality.ms_ssim,
            ms_ssim_window=quality.ms_ssim_window,
        )

    def network(self, spans: Sequence[tuple[int, int, int]]) -> Network:
        """Return the header entry of the network when it holds ``spans`` (clip, first frame, frames)."""
        return Network(
            model=self.model,
            architecture=self.architecture,
            spans=tuple(Span(*span) for span in spans),
            frames_per_chunk=self.frames_per_chunk,
        )

    def open(self, spec: VideoSpec, device: str) -> VideoDecoder:
        """Return a decoder of a file that holds this segment alone: what a reader of the file will see."""
        clip = _clip("segment", spec)
        header = Header(
            created_by=created_by(), clips=(clip,), networks=(self.network([(0, 0, self.num_frames)]),)
        )
        writer = ContainerWriter(header)
        self.add_to(writer, 0)
        return VideoDecoder(writer.to_bytes(), device=device)

    def add_to(self, writer: ContainerWriter, network: int) -> None:
        """Add the sections of this segment as those of ``network``."""
        writer.add(SectionKind.WEIGHTS, network, self.fixed)
        if self.chunks:
            writer.add_chunks(network, self.chunks)


def created_by() -> str:
    """Return the name and version that files are signed with."""
    from importlib.metadata import version

    return f"vinr {version('vinr')}"


def assemble(
    readers: Sequence[VideoReader], jobs: Sequence[Job], segments: Sequence[FittedSegment], *, audio: bool
) -> ContainerWriter:
    """Return the file that holds all clips: networks, timestamps and, where ``audio`` is set, sound.

    The result depends on the segments alone, not on where or in which order they were fitted.
    """
    clips = []
    sounds = [reader.audio() if audio else None for reader in readers]
    for number, reader in enumerate(readers):
        own = [segment for job, segment in zip(jobs, segments, strict=True) if job.clip == number]
        name = _unique_name(readers, number)
        clips.append(_clip_of(reader, name, own, has_audio=sounds[number] is not None))
    networks = tuple(
        segment.network([(job.clip, job.first, job.num_frames)])
        for job, segment in zip(jobs, segments, strict=True)
    )
    writer = ContainerWriter(Header(created_by=created_by(), clips=tuple(clips), networks=networks))
    for number, segment in enumerate(segments):
        segment.add_to(writer, number)
    for number, (reader, sound) in enumerate(zip(readers, sounds, strict=True)):
        if reader.timeline.pts is not None:
            writer.add(SectionKind.TIMES, number, encode_times(reader.timeline))
        if sound is not None:
            writer.add(SectionKind.AUDIO, number, sound)
    return writer


def _unique_name(readers: Sequence[VideoReader], number: int) -> str:
    names = [reader.name for reader in readers]
    earlier = names[:number].count(names[number])
    return names[number] if not earlier else f"{names[number]}-{earlier + 1}"


def _clip(name: str, spec: VideoSpec, **more: Any) -> Clip:
    color = Color(matrix=spec.color.matrix, range=spec.color.range, bit_depth=spec.color.bit_depth)
    rate = (spec.frame_rate.numerator, spec.frame_rate.denominator)
    return Clip(
        name=name,
        num_frames=spec.num_frames,
        height=spec.height,
        width=spec.width,
        frame_rate=rate,
        color=color,
        **more,
    )


def _clip_of(reader: VideoReader, name: str, segments: Sequence[FittedSegment], *, has_audio: bool) -> Clip:
    total = sum(segment.num_frames for segment in segments)

    def mean(values: Sequence[float]) -> float:
        return sum(v * s.num_frames for v, s in zip(values, segments, strict=True)) / total

    similarities = [segment.ms_ssim for segment in segments if segment.ms_ssim is not None]
    whole = len(similarities) == len(segments)
    mean_mse = mean([10 ** (-segment.pooled_psnr_db / 10) for segment in segments])
    quality = Quality(
        psnr_db=round(mean([segment.psnr_db for segment in segments]), 4),
        pooled_psnr_db=round(float(-10 * np.log10(mean_mse)), 4),
        ms_ssim=round(mean(similarities), 6) if whole else None,
        ms_ssim_window=segments[0].ms_ssim_window if whole else None,
    )
    return _clip(
        name,
        reader.spec,
        edit=_edit_record(reader),
        has_audio=has_audio,
        has_times=reader.timeline.pts is not None,
        quality=quality,
    )


def _edit_record(reader: VideoReader) -> EditRecord:
    edit = reader.edit
    return EditRecord(
        first_frame=edit.first_frame,
        stop_frame=edit.stop_frame,
        crop=edit.crop,
        resize=edit.resize,
    )


def save_segment(segment: FittedSegment, path: Path) -> None:
    """Keep a finished segment, so that an interrupted encode need not fit it again."""
    values = asdict(segment)
    fixed, chunks = values.pop("fixed"), values.pop("chunks")
    parts = {"fixed": fixed} | {f"chunk.{number:07d}": chunk for number, chunk in enumerate(chunks)}
    tensors = {
        name: torch.frombuffer(bytearray(part or b"\0"), dtype=torch.uint8) for name, part in parts.items()
    }
    values["empty"] = [name for name, part in parts.items() if not part]
    write_tensors(path, tensors, values)


def load_segment(path: Path) -> FittedSegment:
    """Read what :func:`save_segment` kept.

    Raises
    ------
    InputError
        If the file is damaged.
    """
    tensors, values = read_tensors(path)
    parts = {name: value.numpy().tobytes() for name, value in tensors.items()}
    parts |= dict.fromkeys(values.pop("empty"), b"")
    values["components"] = tuple(ComponentSize(**item) for item in values["components"])
    fixed = parts.pop("fixed")
    return FittedSegment(**values, fixed=fixed, chunks=tuple(parts[name] for name in sorted(parts)))
