"""Frames of one clip of a .vinr file: any frame, any order, by number or by time.

::

    frame i ─> which network shows it? ─> weights (loaded once) ──────┐
                                     └──> chunk of frame i's latents ─┴─> network ─> 8-bit frame

Axes: N frames of a batch, C colour channels, H rows, W columns.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from operator import index as whole_number
from typing import TYPE_CHECKING, Any, BinaryIO, Self, SupportsIndex, overload

import torch
from torch import Tensor

from vinr.bitstream import Clip, SectionKind
from vinr.decoding.networks import memory_told
from vinr.device import exact_float32
from vinr.errors import UsageError, format_frame
from vinr.models import HybridModel
from vinr.sharing import LruCache
from vinr.video.spec import (
    TYPES,
    Audio,
    ColorSpec,
    ColorTags,
    FrameBatch,
    FrameStream,
    Hdr,
    Query,
    Timeline,
    VideoSpec,
    to_levels,
)

if TYPE_CHECKING:
    from vinr.decoding.engine import Engine
    from vinr.decoding.file import VinrFile
    from vinr.decoding.settings import DecodeSettings


@dataclass(frozen=True)
class StoredAudio:
    """The audio of a clip in its file, which ``open`` opens; ``start`` as of :class:`Audio`."""

    open: Callable[[], BinaryIO]
    start: Fraction


class VideoDecoder:
    """The frames of one clip, a :class:`vinr.FrameSource`. Get one from ``vinr.open`` or ``VinrFile.clip``.

    Without ``settings``, frames by number or time are decoded one at a time in float32: a frame is the same,
    bit for bit, alone or with others (on one CPU with one number of threads; others may round differently).
    :meth:`play` decodes frames in order as fast as the device can; on CPUs they are the same frames.

    Threads may share a decoder: each network is loaded once, all run it at the same time, and each gets the
    frames that it would get alone. So may processes that are forked after the file was opened by its path or
    as bytes; they compute on one thread each. Pickled, as for processes that are spawned, a decoder opens the
    same path or bytes again.

    Frames raise BitstreamError where they are damaged, LimitError where their network needs more than it may,
    OutOfMemoryError where memory runs out, InputError if the file was closed.

    Attributes
    ----------
    file
        The file, which other clips may share.
    clip
        What the file says about the clip.
    spec, timeline
        Size and rate; when each frame is shown.
    """

    def __init__(
        self,
        file: VinrFile,
        number: int,
        *,
        settings: DecodeSettings | None = None,
        constant_rate: bool = False,
        owns_file: bool = False,
    ) -> None:
        self.file, self.clip = file, file.header.clips[number]
        self._number, self._settings = number, settings
        self._constant_rate, self._owns_file = constant_rate, owns_file
        self.spec = _clip_spec(self.clip)
        self.timeline = self._read_timeline()
        self._pieces = file.pieces(number)
        self._starts = [piece.span.first_frame for piece in self._pieces]
        self._engines: LruCache[None, Engine] = LruCache(1)
        self._notes: list[str] = []
        if settings is not None:
            self._make_engine()  # refuses now what the settings cannot do on this device

    def __len__(self) -> int:
        return self.spec.num_frames

    def __repr__(self) -> str:
        from vinr.decoding.notebook import describe  # few programs ask

        return f"<VideoDecoder {describe(self)}>"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: a strip of frames, and the facts."""
        from vinr.decoding.notebook import html_of

        return html_of(self)

    @property
    def fps(self) -> float:
        """Frames per second, on average where they are shown for unequal times."""
        return self.spec.fps

    @property
    def duration(self) -> float:
        """How long the clip is shown, in seconds."""
        return float(self.timeline.duration)

    @property
    def latents(self) -> dict[str, Tensor]:
        """The latents of all frames by name, float32, their first axis the frames; empty without latents.

        They are decoded anew each time. Those of the network are the inputs of its ONNX graph.
        """
        self.file.container.check_open()
        found: dict[str, list[Tensor]] = {}
        for network, offset, span in self._pieces:
            model = self.file.networks.model(network)
            if not isinstance(model, HybridModel):
                continue
            time_N = torch.arange(offset, offset + span.num_frames, device=self.file.networks.device)
            for name, value in model.latents_at(time_N).per_frame.items():
                found.setdefault(name, []).append(value.detach().cpu())
        return {name: torch.cat(parts) for name, parts in found.items()}

    def audio(self) -> Audio | None:
        """Return the clip's audio, or None where it has none."""
        self.file.container.check_open()
        if not self.clip.has_audio:
            return None
        content = self.file.container.read(SectionKind.AUDIO, self._number)
        return Audio(content, Fraction(*self.clip.audio_start))

    def stored_audio(self) -> StoredAudio | None:
        """Return the clip's audio where it lies in the file, to be read in pieces; None where it has none.

        Raises
        ------
        BitstreamError
            If it is damaged.
        """
        self.file.container.check_open()
        if not self.clip.has_audio:
            return None
        open_audio = partial(self.file.container.open_section, SectionKind.AUDIO, self._number)
        open_audio()  # refuses damaged audio before anything is written
        return StoredAudio(open_audio, Fraction(*self.clip.audio_start))

    @property
    def notes(self) -> tuple[str, ...]:
        """One line for each choice made by measuring, or made in place of what the settings say."""
        return tuple(dict.fromkeys(self._notes))

    # -- frames --------------------------------------------------------------------------------------------

    @overload
    def __getitem__(self, key: SupportsIndex) -> Tensor: ...

    @overload
    def __getitem__(self, key: slice | list[int]) -> Tensor: ...

    def __getitem__(self, key: SupportsIndex | slice | list[int]) -> Tensor:
        """Return one frame, rgb_CHW, or the frames of a slice or list of numbers, rgb_NCHW.

        Numbers are as in Python: −1 is the last frame. Colours are uint8, of 10-bit clips uint16 (0 … 1023).

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
        index_N = torch.tensor(list(map(self._checked, indices)), dtype=torch.int64)
        return FrameBatch(index_N, self.frames(index_N))

    def frames_played_at(self, seconds: Sequence[float]) -> FrameBatch:
        """Return the frames on screen at times ``seconds`` (the first frame appears at 0)."""
        end = self.timeline.duration
        numbers = []
        for time in seconds:
            if not 0 <= time < end:
                raise IndexError(f"time {time} s; the clip plays from 0 to {float(end):.3f} s")
            numbers.append(self.timeline.index_at(Fraction(time)))
        return self.frames_at(numbers)

    def frames(self, index_N: Tensor) -> Tensor:
        """Return rgb_NCHW of frames ``index_N``; fractions lie between frames and are interpolated.

        Raises
        ------
        IndexError
            If one of them is less than 0 or greater than the number of the last frame, or is no number.
        """
        self.file.container.check_open()
        if index_N.numel() == 0:
            size = (0, 3, self.spec.height, self.spec.width)
            return torch.empty(size, dtype=TYPES[self.spec.bit_depth])
        # All times are checked before the first frame is decoded.
        times = list(map(self._checked_time, index_N.flatten().tolist()))
        return torch.cat(list(map(self._decode, times)))

    def __iter__(self) -> Iterator[Tensor]:
        """Yield every frame in order, rgb_CHW."""
        for index in range(len(self)):
            yield self._decode(index)[0]

    def play(self, times: Iterable[float | Fraction] | None = None) -> Generator[Tensor, None, None]:
        """Yield frames in order as fast as the device can: rgb_NCHW, one or more at a time, on the CPU.

        On GPUs several frames are computed at once, and in half precision where that shows no loss, unless
        ``settings`` say otherwise.

        Parameters
        ----------
        times
            Frame numbers, or fractions between them, as in :meth:`frames`; all frames if None.

        Raises
        ------
        IndexError
            As from :meth:`frames`; of a list of times before any frame is decoded.
        """
        self.file.container.check_open()
        numbers = range(len(self)) if times is None else times
        checked: Iterable[float] = map(self._checked_time, map(float, numbers))
        # A range or a generator may be as long as a clip of a day: it is checked while frames are played.
        if isinstance(times, list | tuple):
            checked = list(checked)
        return self._make_engine().play(map(self._place, checked))

    def stream(self) -> FrameStream:
        """Return all frames in order, decoded as :meth:`play` does."""
        return FrameStream.numbered(self.spec, self.play())

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
        # frames of the clip        0 1 2 3 | 4 5 6          piece: first_frame 4, offset 2
        # frames of the networks    0 1 2 3 | 2 3 4          time 5 ─> 2 + (5 - 4) = 3
        # Between the last frame of a network and the first of the next there is nothing to interpolate.
        network, offset, span = self._pieces[bisect_right(self._starts, time) - 1]
        return network, offset + min(time - span.first_frame, span.num_frames - 1)

    def _decode(self, time: float) -> Tensor:
        network, inside = self._place(time)
        if self._settings is not None:
            return self._make_engine().run(network, [inside]).cpu()
        networks = self.file.networks
        model = networks.model(network)
        what = f"a frame of {format_frame(self.spec.height, self.spec.width)}"
        with torch.inference_mode(), exact_float32(networks.device), memory_told(what):
            query = Query.of_frames(torch.tensor([inside], device=networks.device))
            return to_levels(model(query), self.spec.bit_depth).cpu()

    def _make_engine(self) -> Engine:
        return self._engines.get(None, self._new_engine)

    def _new_engine(self) -> Engine:
        from vinr.decoding.engine import Engine
        from vinr.decoding.settings import DecodeSettings  # few programs need them

        settings = DecodeSettings() if self._settings is None else self._settings
        if not isinstance(settings, DecodeSettings):
            raise UsageError(f"settings {settings!r}: give a value of type DecodeSettings")
        return Engine(self.file.networks, self.file.networks.device, settings, self._notes.append)

    def _read_timeline(self) -> Timeline:
        held = self.clip.last_seconds
        last_seconds = None if held is None else Fraction(*held)
        if not self.clip.has_times or self._constant_rate:
            return Timeline(self.spec.num_frames, self.spec.frame_rate, last_seconds=last_seconds)
        from vinr.compress import decode_times  # few files need it

        payload = self.file.container.read(SectionKind.TIMES, self._number)
        timeline = decode_times(payload, self.spec.num_frames, self.spec.frame_rate)
        return replace(timeline, last_seconds=last_seconds)

    # -- resources -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the file if this decoder came from ``vinr.open``; that of a ``VinrFile`` stays open."""
        if self._owns_file:
            self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close()
        if self._owns_file:
            self.file.name_error(error)

    def __reduce__(self) -> tuple[Any, ...]:
        self.file.container.check_open()
        rebuild = partial(
            VideoDecoder,
            settings=self._settings,
            constant_rate=self._constant_rate,
            owns_file=self._owns_file,
        )
        return rebuild, (self.file, self._number)


def _clip_spec(clip: Clip) -> VideoSpec:
    stated = clip.color
    color = ColorSpec(
        stated.matrix,
        stated.range,
        stated.bit_depth,
        tags=None if stated.tags is None else ColorTags(**stated.tags.model_dump()),
        hdr=Hdr() if stated.hdr is None else Hdr(stated.hdr.mastering, stated.hdr.light),
    )
    return VideoSpec(
        clip.num_frames,
        clip.height,
        clip.width,
        Fraction(*clip.frame_rate),
        color,
        pixel_aspect=Fraction(*clip.pixel_aspect),
        bit_depth=clip.bit_depth,
    )
