"""Finished segments, without their bytes, and the one file they become.

::

    FOLDER/segment-00000 ─┐  sizes, checksums, quality ─> header, index ─┐
    FOLDER/segment-00001 ─┼──────────────────────────────────────────────┼─> one file, a section at a time
    FOLDER/segment-…     ─┘  sections ───────────────────────────────────┘

A video of any length is written in the memory of the largest section of a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from torch import Tensor

from vinr.bitstream import Clip, ContainerWriter, EditRecord, Header, Network, PartSizes, SectionKind
from vinr.bitstream import Quality as ClipHeaderQuality
from vinr.bitstream.header import pack_header
from vinr.compress import encode_times, unpack_fixed
from vinr.config import Preset
from vinr.decoding.networks import expected_tensors
from vinr.encoding.segment import FittedSegment, clip_entry, created_by, fraction_parts, part_names
from vinr.encoding.sound import Sound
from vinr.encoding.splitting import Job
from vinr.errors import UsageError, argument, plural
from vinr.models import get_model, validate_architecture
from vinr.quality.record import Quality
from vinr.state.tensorfile import read_some_tensors
from vinr.video.names import unique_names
from vinr.video.source import VideoReader
from vinr.video.spec import VideoSpec


@dataclass(frozen=True)
class FinishedSegment:
    """What header, index and report say of a segment; its bytes lie in ``path``.

    ``held`` is the segment itself where it could not be kept there, ``path`` is None then.
    """

    network: Network
    sections: tuple[PartSizes, ...] = field(repr=False)
    num_parameters: int
    num_epochs: float
    train_psnr_db: float
    num_collapses: int
    qualities: tuple[Quality, ...]
    path: Path | None
    held: FittedSegment | None = field(default=None, repr=False)

    @classmethod
    def of(cls, segment: FittedSegment, job: Job, path: Path | None) -> FinishedSegment:
        """Return what is said of ``segment``, which has the spans of ``job`` and is kept in ``path``."""
        return cls(
            network=segment.network(job.spans),
            sections=tuple(PartSizes.of(kind, parts) for kind, parts in segment.sections().items()),
            num_parameters=segment.num_parameters,
            num_epochs=segment.num_epochs,
            train_psnr_db=segment.train_psnr_db,
            num_collapses=segment.num_collapses,
            qualities=segment.qualities,
            path=path,
            held=None if path is not None else segment,
        )

    @property
    def num_frames(self) -> int:
        """Frames that the network represents."""
        return self.network.num_frames

    @property
    def num_bytes(self) -> int:
        """Bytes of all sections."""
        return sum(sum(section.sizes) for section in self.sections)

    def read(self, kind: SectionKind) -> tuple[bytes, ...]:
        """Return the parts of one section.

        Raises
        ------
        InputError
            If the file that holds them is not there any more.
        """
        if self.held is not None:
            return self.held.sections()[kind]
        assert self.path is not None
        sizes = next(section.sizes for section in self.sections if section.kind is kind)
        tensors = read_some_tensors(self.path, part_names(kind, len(sizes)))
        # A part of no bytes is kept as one.
        return tuple(tensor.numpy().tobytes()[:size] for tensor, size in zip(tensors, sizes, strict=True))


def weights_of(segment: FinishedSegment, video: VideoSpec) -> dict[str, Tensor]:
    """Return the tensors of a segment's network as a decoder has them, by stored name, per-frame ones aside.

    ``video`` is of its size.
    """
    network = segment.network
    cls = get_model(network.model)
    config = validate_architecture(cls, network.architecture)
    spec = replace(video, num_frames=network.num_frames, span_lengths=())
    (payload,) = segment.read(SectionKind.WEIGHTS)
    expected = expected_tensors(cls.on_meta(config, spec))
    stored, _ = unpack_fixed(payload, expected, network.frames_per_chunk)
    return {name: item.value for name, item in stored.items()}


def assemble(
    readers: Sequence[VideoReader], segments: Sequence[FinishedSegment], sounds: Sequence[Sound | None]
) -> ContainerWriter:
    """Return the file that holds all clips: networks, timestamps and audio, that of each in ``sounds``.

    The result depends on the segments alone, not on where or in which order they were fitted.
    """
    clips, names = [], [reader.name for reader in readers]
    qualities = clip_qualities(segments)
    for number, (reader, name, sound) in enumerate(zip(readers, unique_names(names), sounds, strict=True)):
        clips.append(_clip_of(reader, name, qualities[number], sound))
    networks = tuple(segment.network for segment in segments)
    writer = ContainerWriter(Header(created_by=created_by(), clips=tuple(clips), networks=networks))
    for number, segment in enumerate(segments):
        for section in segment.sections:
            writer.add_stored(section, number, partial(segment.read, section.kind))
    for number, (reader, sound) in enumerate(zip(readers, sounds, strict=True)):
        if reader.timeline.pts is not None:
            writer.add(SectionKind.TIMES, number, encode_times(reader.timeline))
        if sound is not None:
            writer.add_file(SectionKind.AUDIO, number, sound.file)
    return writer


def clip_qualities(segments: Sequence[FinishedSegment]) -> list[Quality]:
    """Return the quality of each clip: it may be cut into networks, and a network may hold several."""
    qualities: dict[int, list[Quality]] = {}
    for segment in segments:
        for span, quality in zip(segment.network.spans, segment.qualities, strict=True):
            qualities.setdefault(span.clip, []).append(quality)
    return [Quality.of_all(qualities[clip]) for clip in sorted(qualities)]


def check_networks(readers: Sequence[VideoReader], jobs: Sequence[Job], presets: Sequence[Preset]) -> None:
    """Refuse more networks than the header of a file holds: before hours of fitting, not after them.

    Raises
    ------
    UsageError
        If the header would be too long.
    """
    clips, networks = [], []
    unknown = Quality(1, 0.0, 0.0, None, None)
    for number, reader in enumerate(readers):
        clips.append(_clip_of(reader, f"{reader.name} {number}", unknown, None))
    for job, preset in zip(jobs, presets, strict=True):
        # The longest that the two numbers can be is of no account beside the architecture.
        networks.append(Network(model=preset.model, architecture=preset.architecture, spans=job.spans))
    try:
        pack_header(Header(created_by=created_by(), clips=tuple(clips), networks=tuple(networks)))
    except ValueError:
        raise UsageError(
            f"the header of a file does not hold {plural(len(jobs), 'network')}; give longer segments "
            f"({argument('segment')}), or encode parts of the video ({argument('frames')}) to several files"
        ) from None


def side_bytes(readers: Sequence[VideoReader], sounds: Sequence[Sound | None]) -> int:
    """Return the bytes of a file that belong to no network: times and audio."""
    num_bytes = 0
    for reader, sound in zip(readers, sounds, strict=True):
        if reader.timeline.pts is not None:
            num_bytes += len(encode_times(reader.timeline))
        num_bytes += 0 if sound is None else sound.num_bytes
    return num_bytes


def _clip_of(reader: VideoReader, name: str, quality: Quality, sound: Sound | None) -> Clip:
    edit, similarity, held = reader.edit, quality.ms_ssim, reader.timeline.last_seconds
    return clip_entry(
        name,
        reader.spec,
        edit=EditRecord(
            first_frame=edit.first_frame,
            stop_frame=edit.stop_frame,
            crop=edit.crop,
            resize=edit.resize,
            stream=reader.options.stream,
            deinterlaced=reader.options.deinterlace,
        ),
        has_audio=sound is not None,
        audio_start=(0, 1) if sound is None else fraction_parts(sound.start),
        last_seconds=None if held is None else fraction_parts(held),
        has_times=reader.timeline.pts is not None,
        quality=ClipHeaderQuality(
            psnr_db=round(quality.psnr_db, 4),
            pooled_psnr_db=round(quality.pooled_psnr_db, 4),
            ms_ssim=None if similarity is None else round(similarity, 6),
            ms_ssim_window=quality.ms_ssim_window,
        ),
    )
