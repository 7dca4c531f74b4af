"""What is whole in a file, and what damage touches: clips, frames, times, audio.

::

    damaged section   CHUNKS part ──> frames whose latents it holds, and those that need these as neighbours
                      KEYFRAMES part ──> frames that are made from its keyframes
                      WEIGHTS, or a network that does not decode ──> all frames of the network
                      TIMES ──> times of the clip;   AUDIO ──> its audio;   header, index ──> everything
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from os import PathLike
from typing import Final

import torch

from vinr.bitstream import Container, Header, SectionKind, SectionSize
from vinr.bitstream.container import DamagedPart
from vinr.compress import decode_times
from vinr.decoding.file import Piece, VinrFile, list_pieces
from vinr.decoding.networks import NETWORK_SECTIONS, NetworkLoader, allowed_for, memory_told
from vinr.errors import BitstreamError, LimitError, plural
from vinr.units import format_bytes
from vinr.video.spec import Query, to_levels

# Loading a network takes about as long as so many operations (docs/format.md, section 8).
OPERATIONS_PER_NETWORK: Final = 500 * 10**6

Ranges = tuple[tuple[int, int], ...]
"""Frames as half-open ranges, rising, apart from each other."""


@dataclass(frozen=True)
class ClipReport:
    """What is whole of one clip.

    ``whole`` and ``lost`` are half-open ranges of frames; together all frames of the clip. ``sound_ok`` is
    None where the clip has no audio. ``times_ok`` is true for a constant rate too.
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
    """What was found in the file ``path`` of ``num_bytes``.

    ``damaged`` are the damaged sections, as messages; ``clips`` say what is whole of each clip. Of
    ``num_networks`` networks ``num_tried`` decoded a frame, as many as the budget of work allows.
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
        name = f"{self.path}: {format_bytes(self.num_bytes)}, {plural(len(self.clips), 'clip')}"
        tried = ""
        if self.num_tried < self.num_networks:
            tried = f", {self.num_tried} of {self.num_networks} networks tried"
        if self.is_whole:
            return [f"{name}, no damage found{tried}"]
        lines = [f"{name}, damaged{tried}"]
        lines += self.damaged[:SHOWN]
        if len(self.damaged) > SHOWN:
            lines.append(f"{len(self.damaged) - SHOWN} more damaged sections")
        affected = [clip for clip in self.clips if not clip.is_whole]
        lines += map(_clip_line, affected[:SHOWN])
        if len(self.clips) > 1:
            unaffected = len(self.clips) - len(affected)
            lines.append(f"{unaffected} of {len(self.clips)} clips unaffected")
        return lines


# Lines and ranges that a report lists; of more it gives the number, or "…".
SHOWN: Final = 20


def _clip_line(clip: ClipReport) -> str:
    parts = ["no frame lost"]
    if clip.lost:
        parts = [f"frames lost: {format_ranges(clip.lost)}", f"unaffected: {format_ranges(clip.whole)}"]
    if not clip.times_ok:
        parts.append("times lost")
    if clip.sound_ok is False:
        parts.append("audio lost")
    return f"clip {clip.name}: {'; '.join(parts)}"


def format_ranges(ranges: Ranges) -> str:
    """Return ranges as people write them, first to last frame."""
    texts = []
    for first, stop in ranges[:SHOWN]:
        texts.append(str(first) if stop - first == 1 else f"{first}-{stop - 1}")
    if len(ranges) > SHOWN:
        texts.append("…")
    return ", ".join(texts) or "none"


def inspect_file(file: VinrFile, name: str = "") -> VerifyReport:
    """Read each part once, check its checksum, decode TIMES and one frame of each network; list the damage.

    Parameters
    ----------
    file
        Where ``#name`` chose a clip, its sections and networks alone are checked.
    name
        What the report calls the file.

    Raises
    ------
    LimitError
        If a network asks for more than a file of its size may.
    """
    header, sections = file.header, _HeldSections(file.container)
    loader = NetworkLoader(sections, file.networks.device, file.networks.max_memory)
    clips = range(len(header.clips)) if file.clip_name is None else [file.clip_number()]
    pieces = defaultdict[int, list[Piece]](list)
    networks = set()
    for piece in list_pieces(header):
        pieces[piece.network].append(piece)
        if piece.span.clip in clips:
            networks.add(piece.network)
    trials = _Trials(loader, header, file.num_bytes)
    lost = defaultdict[int, list[tuple[int, int]]](list)
    for network in sorted(networks):
        parts = sections.check_network(network)
        ranges = trials.lost_frames(network, parts)
        for clip, first, stop in _in_clips(pieces[network], ranges):
            lost[clip].append((first, stop))
    reports = [_inspect_clip(sections, clip, lost[clip]) for clip in clips]
    if file.clip_name is None:
        sections.messages += [part.message for part in file.container.unknown_damage()]
    messages = [*sections.messages, *trials.messages]
    if file.clip_name is not None and all(report.is_whole for report in reports):
        messages = []  # a network of several clips may be damaged where it shows others
    return VerifyReport(
        name, file.num_bytes, tuple(messages), tuple(reports), len(networks), trials.num_tried
    )


class _HeldSections:
    """The sections of a file, each part read once; those of one network at a time are held for its trial."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._num_parts: dict[tuple[SectionKind | None, int], int] = {}
        for section in container.section_sizes():
            self._num_parts[section.kind, section.owner] = section.num_parts
        self._held: dict[tuple[SectionKind, int, int], bytes] = {}
        self.messages: list[str] = []

    @property
    def header(self) -> Header:
        return self._container.header

    def check_open(self) -> None:
        self._container.check_open()

    def section_sizes(self) -> tuple[SectionSize, ...]:
        return self._container.section_sizes()

    def read(self, kind: SectionKind, owner: int) -> bytes:
        return self.read_part(kind, owner, 0)

    def read_part(self, kind: SectionKind, owner: int, index: int) -> bytes:
        payload = self._held.get((kind, owner, index))
        # A damaged part is not held; reading it again raises what is wrong with it.
        return self._container.read_part(kind, owner, index) if payload is None else payload

    def check_network(self, network: int) -> list[DamagedPart]:
        """Read all parts of a network and hold them; return those whose checksum does not fit."""
        self._held.clear()
        damaged = []
        for kind in NETWORK_SECTIONS:
            damaged += self.check(kind, network, hold=True)
        return damaged

    def check(self, kind: SectionKind, owner: int, *, hold: bool) -> list[DamagedPart]:
        """Read all parts of a section, where there is one; return those whose checksum does not fit."""
        damaged = []
        for part in range(self._num_parts.get((kind, owner), 0)):
            try:
                payload = self._container.read_part(kind, owner, part)
            except BitstreamError as error:
                damaged.append(DamagedPart(kind, owner, part, str(error)))
                self.messages.append(str(error))
            else:
                if hold:
                    self._held[kind, owner, part] = payload
        return damaged


class _Trials:
    """Decodes a frame of each network, as many networks as the budget of work for the file allows."""

    def __init__(self, loader: NetworkLoader, header: Header, num_bytes: int) -> None:
        self._loader, self._header = loader, header
        self._budget: float = math.inf
        if loader.max_memory is None:
            self._budget = allowed_for(num_bytes).operations
        self.num_tried = 0
        self.messages: list[str] = []

    def lost_frames(self, network: int, parts: Sequence[DamagedPart]) -> Ranges:
        """Return the frames of a network that ``parts`` or a failing trial take, numbered as it does."""
        all_frames = ((0, self._header.networks[network].num_frames),)
        if any(part.kind is SectionKind.WEIGHTS for part in parts):
            self.num_tried += self._budget >= 0  # its damage is known without a trial
            return all_frames
        lost = _merged(self._touched(network, parts))
        try:
            self._try(network, lost)
        except LimitError:
            raise
        except BitstreamError as error:
            self.num_tried += 1
            self.messages.append(str(error))
            return all_frames
        return lost

    def _try(self, network: int, lost: Ranges) -> None:
        """Load a network and decode the first of its frames that is not lost, while the budget lasts."""
        if self._budget < 0:
            return
        # Even to count the operations of a frame a network has to be built.
        self._budget -= OPERATIONS_PER_NETWORK
        if self._budget < 0:
            return
        self._budget -= self._loader.cost(network).operations
        # The first one is tried whatever it costs: it may take what a file of this size may.
        if self._budget < 0 and self.num_tried:
            return
        model = self._loader.model(network)
        intact = _others(lost, self._header.networks[network].num_frames)
        if intact:
            with torch.inference_mode(), memory_told(f"a frame of network {network}"):
                device = self._loader.device
                query = Query.of_frames(torch.tensor([intact[0][0]], device=device))
                to_levels(model(query), model.video.bit_depth)
        self.num_tried += 1

    def _touched(self, network: int, parts: Sequence[DamagedPart]) -> list[tuple[int, int]]:
        """Return the frames that need damaged chunks or keyframes, as ranges."""
        entry = self._header.networks[network]
        if not parts:
            return []
        try:
            model = self._loader.skeleton(network)
        except BitstreamError:
            return [(0, entry.num_frames)]
        touched = []
        for part in parts:
            if part.kind is SectionKind.CHUNKS:
                # chunk p: frames p * size … (p + 1) * size - 1, fewer in the last chunk
                first = part.part * entry.frames_per_chunk
                stop = min(first + entry.frames_per_chunk, entry.num_frames)
                using = [model.frames_using_latents(first, stop)]
            else:
                assert model.keyframes is not None  # the skeleton has as many parts as the header announces
                using = list(map(model.frames_using_keyframe, model.keyframes.of_part(part.part)))
            touched += [(frames.start, frames.stop) for frames in using]
        return touched


def _in_clips(pieces: Iterable[Piece], ranges: Ranges) -> Iterator[tuple[int, int, int]]:
    """Yield clip, first frame and end of ``ranges``, which are numbered as the network does.

    ::

        network   0 … offset … first … stop …          range, cut to the piece
        clip      span.first_frame … the same …        shifted by span.first_frame - offset
    """
    for _, offset, span in pieces:
        for first, stop in ranges:
            first, stop = max(first - offset, 0), min(stop - offset, span.num_frames)
            if first < stop:
                yield span.clip, span.first_frame + first, span.first_frame + stop


def _inspect_clip(sections: _HeldSections, number: int, lost: Iterable[tuple[int, int]]) -> ClipReport:
    """Check times and audio of a clip, and report them with its ``lost`` frames."""
    clip = sections.header.clips[number]
    times_ok = not sections.check(SectionKind.TIMES, number, hold=True)
    if times_ok and clip.has_times:
        payload = sections.read(SectionKind.TIMES, number)
        try:
            decode_times(payload, clip.num_frames, Fraction(*clip.frame_rate))
        except BitstreamError as error:
            times_ok = False
            sections.messages.append(str(error))
    sound_ok = not sections.check(SectionKind.AUDIO, number, hold=False)
    gone = _merged(lost)
    return ClipReport(
        name=clip.name,
        num_frames=clip.num_frames,
        whole=_others(gone, clip.num_frames),
        lost=gone,
        times_ok=times_ok,
        sound_ok=sound_ok if clip.has_audio else None,
    )


def refused_by_default(path: str | PathLike[str]) -> str:
    """Return why readers refuse a file unless ``--max-memory`` allows more; "" if they do not."""
    with VinrFile.open(path, clip=None, device="cpu") as file:
        for network in range(len(file.header.networks)):
            try:
                file.networks.cost(network)
            except LimitError as error:
                return str(error)
    return ""


def _merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Return the same frames as rising ranges that do not touch."""
    # ranges    |---|    |--|             sorted by their first frame, so that one either begins
    #              |---|    |--|          in or right behind the last merged one, or apart from all
    # merged    |------| |-----|
    merged: list[tuple[int, int]] = []
    for first, stop in sorted(ranges):
        if merged and first <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], stop)
        elif first < stop:
            merged.append((first, stop))
    return tuple(merged)


def _others(ranges: Ranges, num_frames: int) -> Ranges:
    """Return the frames 0 … ``num_frames`` − 1 that are not in ``ranges``."""
    # ranges        |--|   |---|            the gap behind the last one ends at num_frames
    # others    |---|  |---|   |----|
    others, start = [], 0
    for first, stop in (*ranges, (num_frames, num_frames)):
        if start < first:
            others.append((start, first))
        start = stop
    return tuple(others)
