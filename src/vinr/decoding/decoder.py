"""Playing a .vinr file back: any frame, any order, by number or by time.

::

    file ─> header ─> which network holds frame i? ─> weights (once a network) ─┐
                                                   └> chunk of frame i's latents ┴> network ─> 8-bit frame
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from operator import index as whole_number
from os import PathLike, fspath
from os.path import abspath, isfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self, SupportsIndex, overload

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vinr.bitstream import Clip, Container, Header, SectionKind, SectionSize
from vinr.decoding.networks import NetworkLoader, NetworkParts, memory_told, parse_memory, to_uint8
from vinr.device import exact_float32, resolve_device
from vinr.errors import UsageError
from vinr.sharing import LruCache
from vinr.video.spec import ColorSpec, FrameBatch, Query, Timeline, VideoSpec

if TYPE_CHECKING:
    from vinr.decoding.engine import Engine
    from vinr.decoding.settings import DecodeSettings

FileLike = str | PathLike[str] | bytes | BinaryIO


@dataclass(frozen=True)
class Span:
    """Frames of a clip, from ``first`` on, that are those of ``network`` from its frame ``offset`` on."""

    network: int
    first: int
    num_frames: int
    offset: int


class VideoDecoder:
    """One clip of a .vinr file. A :class:`vinr.video.spec.FrameSource`.

    Without ``settings`` frames that are asked for by number or time are decoded one at a time, in float32, so
    that a frame is the same, bit for bit, whether it is asked for alone or with others (with the same CPU and
    number of threads; others may round differently). :meth:`play` decodes many in order as fast as the device
    can; on CPUs its frames are those same ones.

    Threads may share a decoder: each network is loaded once, all run it at the same time, and each gets the
    frames that it would get alone. So may processes that are forked after the file was opened by its path, as
    bytes or by :func:`open`; they compute on one thread each. Pickled, as for processes that are spawned, a
    decoder opens the same path or bytes again.

    Parameters
    ----------
    file
        Path, bytes, or a seekable binary file. A path may end in ``#name`` to choose a clip.
    clip
        Name of the clip, where the file holds several.
    device
        ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:N``.
    settings
        How all frames are computed.
    max_memory
        Bytes that a network may take, as a number or ``"4GB"``; by default what docs/format.md (8) allows
        files of that size. The limit on work is multiplied by as much as this exceeds the default.
    constant_rate
        Do without the file's presentation times: frames follow each other at the nominal rate.

    Raises
    ------
    BitstreamError
        If the file is damaged, hostile, or of a newer format. Frames raise LimitError where their network
        needs more than it may, OutOfMemoryError where memory runs out.
    InputError
        If the file cannot be opened; from any method that decodes or reads, if it was closed.
    UsageError
        If the clip is unknown or must be named, there is no such device, or ``settings`` are not for it.
    """

    def __init__(
        self,
        file: FileLike,
        *,
        clip: str | None = None,
        device: str = "auto",
        settings: DecodeSettings | None = None,
        max_memory: int | str | None = None,
        constant_rate: bool = False,
    ) -> None:
        self._max_memory, self._constant_rate = parse_memory(max_memory), constant_rate
        file, clip = _split_clip(file, clip)
        self._arguments: dict[str, Any] = {
            "clip": clip,
            "device": device,
            "settings": settings,
            "max_memory": self._max_memory,
            "constant_rate": constant_rate,
        }
        self._file = _lasting(file)
        self._device, self._settings = resolve_device(device), settings
        self._engines: LruCache[None, Engine] = LruCache(1)
        self._notes: list[str] = []
        self._container = Container.open(file)
        try:
            self.header: Header = self._container.header
            self._clip_number = _find_clip(self.header, clip)
            self.clip: Clip = self.header.clips[self._clip_number]
            self.spec = _clip_spec(self.clip)
            self.timeline = self._read_timeline()
            self._spans = _spans_of(self.header, self._clip_number)
            self._starts = [span.first for span in self._spans]
            self._networks = NetworkLoader(self._container, self._device, max_memory=self._max_memory)
            if settings is not None:
                self._make_engine()  # says now what cannot be done
        except BaseException:
            self._container.close()
            raise

    # -- what is there -------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.spec.num_frames

    @property
    def bytes_read(self) -> int:
        """Bytes read from the file so far."""
        return self._container.bytes_read

    @property
    def num_bytes(self) -> int:
        """Size of the whole file in bytes."""
        return self._container.num_bytes

    def audio(self) -> bytes | None:
        """Return the clip's sound as a Matroska file, or None where it has none."""
        self._container.check_open()
        if not self.clip.has_audio:
            return None
        return self._container.read(SectionKind.AUDIO, self._clip_number)

    def verify(self) -> None:
        """Read every section, check every checksum, and decode one frame of each network of the clip.

        Raises
        ------
        BitstreamError
            Naming the first damaged part.
        """
        self._container.verify()
        first_of = {span.network: span.first for span in reversed(self._spans)}
        for first in first_of.values():
            self._decode(first)

    def network_parts(self, network: int) -> NetworkParts:
        """Return network number ``network`` as it lies in the file, for reports."""
        return self._networks.parts(network)

    def network_numbers(self, network: int) -> int:
        """Return how many numbers network number ``network`` holds, those of all its frames included."""
        return self._networks.skeleton(network).num_stored()

    @property
    def network_spans(self) -> tuple[Span, ...]:
        """Which networks hold which frames of this clip, in order."""
        return tuple(self._spans)

    def network_graph(self, network: int) -> bytes:
        """Return one network as an ONNX file; see :func:`vinr.decoding.onnx_graph.export_graph`."""
        from vinr.decoding.onnx_graph import export_graph  # needs packages of an extra

        networks = NetworkLoader(self._container, torch.device("cpu"), lambda _: None, self._max_memory)
        return export_graph(networks.model(network), networks.skeleton(network), networks.name(network))

    def section_sizes(self) -> tuple[SectionSize, ...]:
        """Return kind, owner and size of each section of the file."""
        return self._container.section_sizes()

    @property
    def front_bytes(self) -> tuple[int, int]:
        """Bytes of the header with its prologue, and of the index."""
        return self._container.header_bytes, self._container.index_bytes

    @property
    def format_version(self) -> int:
        """Format version of the file."""
        return self._container.format_version

    @property
    def notes(self) -> tuple[str, ...]:
        """What was chosen by measuring, or in place of what the settings ask for, a line each."""
        return tuple(dict.fromkeys(self._notes))

    # -- frames --------------------------------------------------------------------------------------------

    @overload
    def __getitem__(self, key: SupportsIndex) -> Tensor: ...

    @overload
    def __getitem__(self, key: slice | list[int]) -> Tensor: ...

    def __getitem__(self, key: SupportsIndex | slice | list[int]) -> Tensor:
        """Return a frame, uint8 rgb_CHW, or for a slice or a list of numbers frames, uint8 rgb_NCHW.

        Numbers are as in Python: −1 is the last frame.

        Raises
        ------
        IndexError
            If there is no such frame.
        TypeError
            If the number is not a whole one.
        """
        if isinstance(key, slice):
            return self.frames(torch.tensor(range(len(self))[key], dtype=torch.int64))
        if isinstance(key, list):
            return self.frames_at(key).rgb_NCHW
        return self.frames(torch.tensor([self._checked(key)]))[0]

    def frames_at(self, indices: Sequence[int]) -> FrameBatch:
        """Return the frames numbered ``indices``, in that order; repeats and negative numbers are allowed.

        Raises
        ------
        IndexError, TypeError
            As from ``video[index]``.
        """
        index_N = torch.tensor([self._checked(index) for index in indices], dtype=torch.int64)
        return FrameBatch(index_N, self.frames(index_N))

    def frames_played_at(self, seconds: Sequence[float]) -> FrameBatch:
        """Return the frames on screen at times ``seconds`` (the first frame appears at 0)."""
        end = self.timeline.seconds(len(self) - 1) + 1 / self.spec.frame_rate
        for time in seconds:
            if not 0 <= time < end:
                raise IndexError(f"time {time} s; the clip plays from 0 to {float(end):.3f} s")
        return self.frames_at([self.timeline.index_at(Fraction(time)) for time in seconds])

    def frames(self, index_N: Tensor) -> Tensor:
        """Return uint8 rgb_NCHW of frames ``index_N``; fractions lie between frames and are interpolated.

        Raises
        ------
        IndexError
            If one of them is less than 0 or greater than the number of the last frame, or is no number.
        """
        self._container.check_open()
        if index_N.numel() == 0:
            return torch.empty((0, 3, self.spec.height, self.spec.width), dtype=torch.uint8)
        times = [self._checked_time(time) for time in index_N.flatten().tolist()]
        return torch.cat([self._decode(time) for time in times])

    def __iter__(self) -> Iterator[Tensor]:
        """Yield every frame in order, uint8 rgb_CHW."""
        return (self._decode(index)[0] for index in range(len(self)))

    def play(self, times: Iterable[float | Fraction] | None = None) -> Generator[Tensor, None, None]:
        """Yield frames in order as fast as the device can: uint8 rgb_NCHW, one or more at a time, on the CPU.

        ``times`` are those wanted, as in :meth:`frames`; all frames without. On GPUs several are computed at
        once and in half precision where that shows no loss, unless ``settings`` say otherwise.

        Raises
        ------
        IndexError
            As from :meth:`frames`; of a list of times before any frame is decoded.
        """
        self._container.check_open()
        checked = (self._checked_time(float(time)) for time in (range(len(self)) if times is None else times))
        # A range or a generator may be as long as a clip of a day: what is wrong in it is found on the way.
        wanted = list(checked) if isinstance(times, list | tuple) else checked
        return self._make_engine().play(map(self._place, wanted))

    def _checked(self, index: SupportsIndex) -> int:
        try:
            number = whole_number(index)
        except TypeError:
            raise TypeError(
                f"frame numbers are integers, not {type(index).__name__}: give an int, a slice or a list of "
                f"ints; for times between frames call frames(tensor)"
            ) from None
        if not -len(self) <= number < len(self):
            raise IndexError(f"frame {number} is out of range; the clip has frames 0 to {len(self) - 1}")
        return number % len(self)

    def _checked_time(self, time: float) -> float:
        if not 0 <= time <= len(self) - 1:  # NaN is neither
            raise IndexError(
                f"time {time} in frames is out of range; the clip has frames 0 to {len(self) - 1}"
            )
        return time

    def _place(self, time: float) -> tuple[int, float]:
        """Return which network holds the frame at ``time``, and the time there."""
        span = self._spans[bisect_right(self._starts, time) - 1]
        return span.network, span.offset + min(time - span.first, span.num_frames - 1)

    def _decode(self, time: float) -> Tensor:
        network, inside = self._place(time)
        if self._settings is not None:
            return self._make_engine().run(network, [inside]).cpu()
        model = self._networks.model(network)
        what = f"a frame of {self.spec.height}×{self.spec.width}"
        with torch.inference_mode(), exact_float32(self._device), memory_told(what):
            query = Query.of_frames(torch.tensor([inside], device=self._device))
            return to_uint8(model(query)).cpu()

    def _make_engine(self) -> Engine:
        return self._engines.get(None, self._new_engine)

    def _new_engine(self) -> Engine:
        from vinr.decoding.engine import Engine
        from vinr.decoding.settings import DecodeSettings  # few programs need them

        settings = DecodeSettings() if self._settings is None else self._settings
        if not isinstance(settings, DecodeSettings):
            raise UsageError(f"settings {settings!r}: give a value of type DecodeSettings")
        open_networks = partial(NetworkLoader, self._container, max_memory=self._max_memory)
        return Engine(open_networks, self._device, settings, self._notes.append)

    def _read_timeline(self) -> Timeline:
        if not self.clip.has_times or self._constant_rate:
            return Timeline(self.spec.num_frames, self.spec.frame_rate)
        from vinr.compress import decode_times  # few files need it

        payload = self._container.read(SectionKind.TIMES, self._clip_number)
        return decode_times(payload, self.spec.num_frames, self.spec.frame_rate)

    # -- resources -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        self._container.check_open()
        if self._file is None:
            raise TypeError(
                "a decoder of a file object cannot be pickled; open the file by its path or as bytes"
            )
        return partial(type(self), self._file, **self._arguments), ()


class FrameDataset(Dataset[Tensor]):
    """The frames of a .vinr file as a torch ``Dataset`` of uint8 rgb_CHW.

    The file is kept in memory as it is; each worker process decodes it by itself, forked or spawned, before
    and after the first frame was decoded here. Threads may share a dataset.

    A GPU is not touched before the first frame is asked for. Once a process has used one, processes forked
    from it cannot: give the ``DataLoader`` ``multiprocessing_context="spawn"`` where ``device`` is a GPU.
    """

    def __init__(
        self,
        file: str | PathLike[str],
        *,
        clip: str | None = None,
        device: str = "cpu",
        max_memory: int | str | None = None,
    ) -> None:
        path, name = _split_clip(fspath(file), clip)
        with VideoDecoder(path, clip=name, device="cpu") as decoder:
            self.spec = decoder.spec
        content = Path(fspath(path)).read_bytes()  # type: ignore[arg-type]
        self._arguments: dict[str, Any] = {
            "file": content,
            "clip": name,
            "device": device,
            "max_memory": max_memory,
        }
        self._decoders: LruCache[None, VideoDecoder] = LruCache(1)

    def __len__(self) -> int:
        return self.spec.num_frames

    def __getitem__(self, index: int) -> Tensor:
        return self._decoders.get(None, lambda: VideoDecoder(**self._arguments))[index]


def open(
    file: FileLike,
    *,
    clip: str | None = None,
    device: str = "auto",
    settings: DecodeSettings | None = None,
    max_memory: int | str | None = None,
) -> VideoDecoder:
    """Open a .vinr file for decoding; see :class:`VideoDecoder`."""
    return VideoDecoder(file, clip=clip, device=device, settings=settings, max_memory=max_memory)


def _split_clip(file: FileLike, clip: str | None) -> tuple[FileLike, str | None]:
    if isinstance(file, (bytes, bytearray)) or not isinstance(file, (str, PathLike)):
        return file, clip
    text = fspath(file)
    return split_clip(text) if clip is None and isinstance(text, str) else (text, clip)


def split_clip(text: str) -> tuple[str, str | None]:
    """Return path and clip of ``FILE.vinr#name``; a name may hold ``#``, and so may the folders of a file."""
    marks = [match.end() - 1 for match in re.finditer(r"\.vinr#", text, re.IGNORECASE)]
    mark = next((place for place in marks if isfile(text[:place])), marks[0] if marks else None)
    if mark is None or (isfile(text) and not isfile(text[:mark])):
        return text, None
    return text[:mark], text[mark + 1 :]


def _lasting(file: FileLike) -> str | bytes | None:
    """Return what opens the same file again, in another process too; None: nothing does."""
    if isinstance(file, (bytes, bytearray, memoryview)):
        return bytes(file)
    return abspath(file) if isinstance(file, (str, PathLike)) else None


def _find_clip(header: Header, name: str | None) -> int:
    names = [clip.name for clip in header.clips]
    if name is None:
        if len(names) == 1:
            return 0
        raise UsageError(f"the file holds {len(names)} clips; name one: FILE.vinr#{names[0]}, …")
    if name not in names:
        raise UsageError(f"no clip {name!r} in the file; it holds {', '.join(names[:20])}")
    return names.index(name)


def _clip_spec(clip: Clip) -> VideoSpec:
    color = ColorSpec(clip.color.matrix, clip.color.range, clip.color.bit_depth)
    return VideoSpec(clip.num_frames, clip.height, clip.width, Fraction(*clip.frame_rate), color)


def _spans_of(header: Header, clip_number: int) -> list[Span]:
    spans = []
    for number, network in enumerate(header.networks):
        offset = 0
        for clip, first, num_frames in network.spans:
            if clip == clip_number:
                spans.append(Span(number, first, num_frames, offset))
            offset += num_frames
    return sorted(spans, key=lambda span: span.first)
