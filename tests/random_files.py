"""Networks of random numbers, and files of them: for tests of decoding, which need no fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from vinr.bitstream import Clip, ContainerWriter, Header, SectionKind, Span
from vinr.compress import pack_tensors
from vinr.config import default_model, load_preset
from vinr.encoding.segment import FittedSegment
from vinr.models import HybridModel, Latents, VideoModel, get_model, validate_architecture
from vinr.models.base import FrozenLatents
from vinr.video.source import FrameTensor
from vinr.video.spec import VideoSpec


def random_network(name: str, video: VideoSpec, *, seed: int = 0) -> VideoModel:
    """Return the tiny network ``name`` for ``video``, ready to decode, the same for the same seed."""
    preset = load_preset(f"{name}-tiny")
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        cls = get_model(name)
        model = cls(validate_architecture(cls, preset.architecture), video, with_encoder=False).eval()
    shapes = model.per_frame_shapes().items()
    if shapes and isinstance(model, HybridModel):
        latents = {key: torch.randn(video.num_frames, *shape, generator=generator) for key, shape in shapes}
        model.attach_latents(FrozenLatents(Latents(latents)))
    if model.keyframes is not None:
        size = (video.num_frames, 3, video.height, video.width)
        noise_TCHW = torch.randint(256, size, dtype=torch.uint8, generator=generator)
        model.keyframes.code(FrameTensor(noise_TCHW, video))
    return model


def random_file(
    path: Path,
    video: VideoSpec,
    *,
    name: str | None = None,
    lengths: Sequence[int] = (),
    audio: bytes | None = None,
    fps: int = 30,
    stated: Mapping[str, Any] | None = None,
) -> Path:
    """Write one clip of random networks, of ``lengths`` frames each (none: of all); return ``path``.

    ``stated`` are more keys of the clip's header.
    """
    lengths = lengths or (video.num_frames,)
    name = name or default_model()
    preset = load_preset(f"{name}-tiny")
    segments = []
    for seed, count in enumerate(lengths):
        part = VideoSpec(count, video.height, video.width)
        model = random_network(name, part, seed=seed)
        packed = pack_tensors(model.stored(), preset.compress)
        segments.append(FittedSegment.coded(preset, model, packed, part))
    starts = accumulate(lengths, initial=0)
    clip = Clip(
        name="random",
        num_frames=video.num_frames,
        height=video.height,
        width=video.width,
        frame_rate=(fps, 1),
        has_audio=audio is not None,
        **(stated or {}),
    )
    spans = [Span(0, start, count) for start, count in zip(starts, lengths, strict=False)]
    networks = tuple(segment.network([span]) for segment, span in zip(segments, spans, strict=True))
    writer = ContainerWriter(Header(created_by="a test", clips=(clip,), networks=networks))
    for number, segment in enumerate(segments):
        segment.add_to(writer, number)
    if audio is not None:
        writer.add(SectionKind.AUDIO, 0, audio)
    writer.write(path)
    return path


def random_set(path: Path, lengths: Mapping[str, int], *, height: int = 16, width: int = 24) -> Path:
    """Write clips of ``lengths`` frames, all shown by one network that stores no latents; return ``path``."""
    name = "nerv"
    preset = load_preset(f"{name}-tiny")
    spec = VideoSpec(sum(lengths.values()), height, width, span_lengths=tuple(lengths.values()))
    model = random_network(name, spec)
    segment = FittedSegment.coded(preset, model, pack_tensors(model.stored(), preset.compress), spec)
    clips = [Clip(name=clip, num_frames=count, height=height, width=width) for clip, count in lengths.items()]
    spans = [Span(number, 0, count) for number, count in enumerate(lengths.values())]
    header = Header(created_by="a test", clips=tuple(clips), networks=(segment.network(spans),))
    writer = ContainerWriter(header)
    segment.add_to(writer, 0)
    writer.write(path)
    return path
