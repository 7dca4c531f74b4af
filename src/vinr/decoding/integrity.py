"""What is whole in a file, and what damage touches: clips, frames, times, sound.

::

    damaged section   CHUNKS part ──> frames whose latents it holds, and those that need these as neighbours
                      KEYFRAMES part ──> frames that are made from it
                      WEIGHTS, or a network that does not decode ──> all frames of the network
                      TIMES ──> times of the clip;   AUDIO ──> its sound;   header, index ──> everything
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from os import PathLike
from typing import Final

import torch

from vinr.bitstream import Clip, Container, Header, SectionKind
from vinr.bitstream.container import DamagedPart
from vinr.compress import decode_times
from vinr.decoding.networks import NetworkLoader, allowed_for, memory_told, to_uint8
from vinr.errors import BitstreamError, LimitError
from vinr.units import format_bytes
from vinr.video.spec import Query

# Loading a network takes about as long as so many operations (docs/format.md, section 8).
OPERATIONS_A_NETWORK: Final = 500 * 10**6

Ranges = tuple[tuple[int, int], ...]
"""Frames as half-open ranges, rising, apart from each other."""


@dataclass(frozen=True)
class ClipReport:
    """What is whole of one clip.

    ``whole`` and ``lost`` are half-open ranges of frames; together all frames of the clip. ``sound_ok`` is
    None where the clip has no sound. ``times_ok`` is true for a constant rate too.
    """

    name: str
    num_frames: int
    whole: Ranges
    lost: Ranges
    times_ok: bool
    sound_ok: bool | None

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the clip is damaged."""
        return not self.lost and self.times_ok and self.sound_ok is not False


@dataclass(frozen=True)
class VerifyReport:
    """What :func:`inspect_file` found: damaged sections as messages, and what is whole of each clip.

    Of ``num_networks`` networks ``num_tried`` decoded a frame, as many as the budget of work allows.
    """

    path: str
    num_bytes: int
    damaged: tuple[str, ...]
    clips: tuple[ClipReport, ...]
    num_networks: int
    num_tried: int

    @property
    def is_whole(self) -> bool:
        """Whether no damage was found."""
        return not self.damaged

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        count = f"{len(self.clips)} clip{'s' * (len(self.clips) > 1)}"
        name = f"{self.path}: {format_bytes(self.num_bytes)}, {count}"
        tried = ""
        if self.num_tried < self.num_networks:
            tried = f", {self.num_tried} of {self.num_networks} networks tried"
        if self.is_whole:
            return [f"{name}, no damage found{tried}"]
        lines = [f"{name}, damaged{tried}"]
        lines += self.damaged[:SHOWN]
        if len(self.damaged) > SHOWN:
            lines.append(f"{len(self.damaged) - SHOWN} more damaged sections")
        lines += [_clip_line(clip) for clip in self.clips if not clip.is_whole][:SHOWN]
        unaffected = sum(clip.is_whole for clip in self.clips)
        if len(self.clips) > 1:
            lines.append(f"{unaffected} of {len(self.clips)} clips unaffected")
        return lines


SHOWN: Final = 20


def _clip_line(clip: ClipReport) -> str:
    parts = [
        f"frames lost: {ranges_text(clip.lost)}; unaffected: {ranges_text(clip.whole)}"
        if clip.lost
        else "no frame lost"
    ]
    if not clip.times_ok:
        parts.append("times lost")
    if clip.sound_ok is False:
        parts.append("sound lost")
    return f"clip {clip.name}: {'; '.join(parts)}"


def ranges_text(ranges: Ranges) -> str:
    """Return ranges as people write them, first to last frame."""
    shown = [str(first) if stop - first == 1 else f"{first}-{stop - 1}" for first, stop in ranges[:SHOWN]]
    return ", ".join(shown + ["…"] * (len(ranges) > SHOWN)) or "none"


def inspect_file(
    container: Container,
    path: str,
    device: torch.device,
    *,
    clip: str | None = None,
    max_memory: int | None = None,
) -> VerifyReport:
    """Check every checksum, decode TIMES and one frame of each network, and say what damage touches.

    Parameters
    ----------
    clip
        The clip to report; all of them without.

    Raises
    ------
    LimitError
        If a network asks for more than a file of its size may.
    """
    header, parts = container.header, container.damaged_parts()
    loader = NetworkLoader(container, device, max_memory=max_memory)
    damaged = {part.owner for part in parts if part.kind is SectionKind.WEIGHTS}
    messages = [part.message for part in parts]
    num_tried = 0
    budget = allowed_for(container.num_bytes).operations if max_memory is None else None
    wanted = _networks_of(header, clip)
    for network in wanted:
        if network in damaged:
            num_tried += 1
            continue
        if budget is not None:
            budget -= OPERATIONS_A_NETWORK
            if budget < 0:
                break
        try:
            cost = loader.cost(network)
            if budget is not None:
                budget -= cost.operations
                if budget < 0 and num_tried:
                    break
            _try(loader, header, network, parts)
        except LimitError:
            raise
        except BitstreamError as error:
            damaged.add(network)
            messages.append(str(error))
        num_tried += 1
    lost = _lost_frames(loader, header, parts, damaged)
    times = {number: _times_complaint(container, number) for number, _ in _clips_of(header, clip)}
    known = {part.owner for part in parts if part.kind is SectionKind.TIMES}
    messages += [text for number, text in times.items() if text is not None and number not in known]
    sound = {part.owner for part in parts if part.kind is SectionKind.AUDIO}
    reports = []
    for number, own in _clips_of(header, clip):
        gone = _merged(lost.get(number, ()))
        reports.append(
            ClipReport(
                name=own.name,
                num_frames=own.num_frames,
                whole=_others(gone, own.num_frames),
                lost=gone,
                times_ok=times[number] is None,
                sound_ok=number not in sound if own.has_audio else None,
            )
        )
    if clip is not None:
        messages = messages if not all(report.is_whole for report in reports) else []
    return VerifyReport(path, container.num_bytes, tuple(messages), tuple(reports), len(wanted), num_tried)


def refused_by_default(path: str | PathLike[str]) -> str:
    """Return why a reader refuses the file without ``--max-memory``: it asks for too much; else nothing."""
    with Container.open(path) as container:
        loader = NetworkLoader(container, torch.device("cpu"))
        for network in range(len(container.header.networks)):
            try:
                loader.cost(network)
            except LimitError as error:
                return str(error)
    return ""


def _clips_of(header: Header, clip: str | None) -> list[tuple[int, Clip]]:
    return [(n, own) for n, own in enumerate(header.clips) if clip is None or own.name == clip]


def _networks_of(header: Header, clip: str | None) -> list[int]:
    chosen = {number for number, _ in _clips_of(header, clip)}
    return [n for n, own in enumerate(header.networks) if any(span.clip in chosen for span in own.spans)]


def _try(loader: NetworkLoader, header: Header, network: int, parts: Iterable[DamagedPart]) -> None:
    """Decode the first frame of a network that no damaged part touches; none, where all are touched."""
    lost = _merged(_lost_of_network(loader, header, network, parts))
    whole = _others(lost, header.networks[network].num_frames)
    model = loader.model(network)
    if whole:
        with torch.inference_mode(), memory_told(f"a frame of network {network}"):
            device = next(model.parameters()).device
            to_uint8(model(Query.of_frames(torch.tensor([whole[0][0]], device=device))))


def _lost_frames(
    loader: NetworkLoader, header: Header, parts: Iterable[DamagedPart], damaged: set[int]
) -> dict[int, list[tuple[int, int]]]:
    """Return the frames of each clip, as ranges, that are lost with ``parts`` and ``damaged`` networks."""
    owners = {part.owner for part in parts if part.kind in (SectionKind.CHUNKS, SectionKind.KEYFRAMES)}
    lost: dict[int, list[tuple[int, int]]] = {}
    for network in sorted(damaged | owners):
        own = header.networks[network]
        ranges = [(0, own.num_frames)] if network in damaged else None
        if ranges is None:
            ranges = _lost_of_network(loader, header, network, parts)
        offset = 0
        for clip, first, num_frames in own.spans:
            for start, stop in ranges:
                start, stop = max(start - offset, 0), min(stop - offset, num_frames)
                if start < stop:
                    lost.setdefault(clip, []).append((first + start, first + stop))
            offset += num_frames
    return lost


def _lost_of_network(
    loader: NetworkLoader, header: Header, network: int, parts: Iterable[DamagedPart]
) -> list[tuple[int, int]]:
    """Return the frames of a network that damaged chunks and keyframes touch, as ranges."""
    own = header.networks[network]
    touched = [
        part
        for part in parts
        if part.owner == network and part.kind in (SectionKind.CHUNKS, SectionKind.KEYFRAMES)
    ]
    if not touched:
        return []
    try:
        model = loader.skeleton(network)
    except BitstreamError:
        return [(0, own.num_frames)]
    found = []
    for part in touched:
        if part.kind is SectionKind.CHUNKS:
            first = part.part * own.frames_per_chunk
            frames = model.frames_using_latents(first, min(first + own.frames_per_chunk, own.num_frames))
        else:
            frames = model.frames_using_keyframe(part.part)
        found.append((frames.start, frames.stop))
    return found


def _times_complaint(container: Container, number: int) -> str | None:
    """Return what is wrong with the times of a clip, or None."""
    clip = container.header.clips[number]
    if not clip.has_times:
        return None
    try:
        decode_times(container.read(SectionKind.TIMES, number), clip.num_frames, Fraction(*clip.frame_rate))
    except BitstreamError as error:
        return str(error)
    return None


def _merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Return the same frames as rising ranges that do not touch."""
    merged: list[tuple[int, int]] = []
    for first, stop in sorted(ranges):
        if merged and first <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], stop)
        elif first < stop:
            merged.append((first, stop))
    return tuple(merged)


def _others(ranges: Ranges, num_frames: int) -> Ranges:
    """Return the frames 0 … ``num_frames`` − 1 that are not in ``ranges``."""
    found, start = [], 0
    for first, stop in (*ranges, (num_frames, num_frames)):
        if start < first:
            found.append((start, first))
        start = stop
    return tuple(found)
