"""The networks of an open file: built when first needed, checked before memory is taken."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import ceil, prod
from typing import Final, Protocol

import torch
from torch import Tensor

from vinr.bitstream import Header, SectionKind, SectionSize
from vinr.compress import ChunkDecoder, unpack_fixed
from vinr.device import compute_when_forked
from vinr.errors import BitstreamError, LimitError, OutOfMemoryError, UsageError, argument, plural
from vinr.kernels import arrange_layers
from vinr.models import Latents, ModelConfig, StoredTensor, VideoModel, get_model, validate_architecture
from vinr.models.cost import measure_first_frame
from vinr.sharing import LruCache
from vinr.video.spec import VideoSpec, to_levels

LATENT_PREFIX = "latents."
NETWORK_SECTIONS = (SectionKind.WEIGHTS, SectionKind.CHUNKS, SectionKind.KEYFRAMES)
CACHED_CHUNKS = 8
CACHED_NETWORKS = 2
# For single frames, for playing, and for settings of a clip's own.
CACHED_LAYOUTS = 4
# Networks of one architecture for videos of one size cost the same: those of a video cut into segments do.
CACHED_COSTS = 64

# What a network may ask for (docs/format.md, section 8).
MEMORY: Final = 96 * 2**20
MEMORY_PER_BYTE: Final = 60 * 2**10
WORK: Final = 8 * 10**9
WORK_PER_BYTE: Final = 5 * 10**6
BYTES_WITHOUT_WORK: Final = 9_000
# Bytes that a parameter takes while it is decoded, at most.
BYTES_PER_PARAMETER: Final = 16
# Operations that decoding and copying a parameter counts as.
OPERATIONS_PER_PARAMETER: Final = 16
UNLIMITED: Final = 2**63
_MEMORY_UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


@dataclass(frozen=True)
class NetworkParts:
    """A network without its values, the tensors its sections hold, and the sections as they lie in the file.

    ``payload`` is section WEIGHTS, ``chunks`` are those of section CHUNKS, each with its number of frames.
    """

    skeleton: VideoModel
    expected: dict[str, StoredTensor]
    payload: bytes
    chunks: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True)
class NetworkCost:
    """What a network takes until its first frame is there: bytes at the peak, and operations.

    An operation is a multiply-accumulate; each parameter that is decoded counts as 16 of them.
    """

    num_bytes: int
    operations: int


class Sections(Protocol):
    """What networks are read from: an open file, or a view of it."""

    @property
    def header(self) -> Header:
        """What the file says about itself."""
        ...

    def check_open(self) -> None:
        """Raise InputError if the file was closed."""
        ...

    def section_sizes(self) -> Sequence[SectionSize]:
        """Return kind, owner and size of each section."""
        ...

    def read(self, kind: SectionKind, owner: int) -> bytes:
        """Return the content of a plain section."""
        ...

    def read_part(self, kind: SectionKind, owner: int, index: int) -> bytes:
        """Return part ``index`` of an array section."""
        ...


@dataclass(frozen=True)
class Layout:
    """Where a network lies and how its layers compute: networks of one layout can be shared.

    ``transforms`` and ``channels_last`` are those of :func:`vinr.kernels.arrange_layers`.
    """

    device: torch.device
    transforms: bool = False
    channels_last: bool | None = False

    @classmethod
    def fastest(cls, device: torch.device) -> Layout:
        """Return the layout for single frames in float32: on a GPU layers stay as they are."""
        return cls(device, transforms=True, channels_last=None) if device.type == "cpu" else cls(device)


class NetworkLoader:
    """Loads the networks of a file when they are needed, and keeps the last two of each layout.

    Threads may share it: one of them loads a network, and all compute with it at once.

    Parameters
    ----------
    sections
        The open file.
    device
        Where networks go unless a layout says otherwise.
    max_memory
        Bytes that a network may take; None: what a file of its size may (docs/format.md, 8).
    """

    def __init__(self, sections: Sections, device: torch.device, max_memory: int | None = None) -> None:
        self._sections, self.device, self.max_memory = sections, device, max_memory
        self._layouts: LruCache[Layout, LruCache[int, VideoModel]] = LruCache(CACHED_LAYOUTS)
        self._costs: LruCache[object, NetworkCost] = LruCache(CACHED_COSTS)

    def model(self, network: int, layout: Layout | None = None) -> VideoModel:
        """Return network number ``network`` in evaluation mode.

        Parameters
        ----------
        layout
            :meth:`Layout.fastest` of the loader's device where it is None.

        Raises
        ------
        BitstreamError
            If it is damaged, or cannot be built from what the file says, or asks for too much (LimitError).
        InputError
            If the file is closed.
        OutOfMemoryError
            If the memory of the device does not suffice.
        """
        self._sections.check_open()
        layout = layout or Layout.fastest(self.device)
        models = self._layouts.get(layout, lambda: LruCache(CACHED_NETWORKS))
        return models.get(network, lambda: self._load(network, layout))

    def parts(self, network: int) -> NetworkParts:
        """Return a network as it lies in the file, for reports."""
        skeleton = self.skeleton(network)
        payload = self._sections.read(SectionKind.WEIGHTS, network)
        entry = self._sections.header.networks[network]
        chunks = []
        for number in range(entry.num_chunks):
            count = _frames_of_chunk(number, entry.frames_per_chunk, entry.num_frames)
            chunks.append((count, self._sections.read_part(SectionKind.CHUNKS, network, number)))
        return NetworkParts(skeleton, expected_tensors(skeleton), payload, tuple(chunks))

    def _load(self, network: int, layout: Layout) -> VideoModel:
        compute_when_forked()
        entry = self._sections.header.networks[network]
        # Shapes are checked without memory first: a hostile header may ask for anything.
        config, skeleton = self._skeleton(network)
        self._check(network, skeleton)
        payload = self._sections.read(SectionKind.WEIGHTS, network)
        with memory_told(f"network {network}"):
            stored, chunks = unpack_fixed(payload, expected_tensors(skeleton), entry.frames_per_chunk)
            model = self._built(network, config, skeleton, stored, layout.device)
        if model.keyframes is not None:
            model.keyframes.attach(partial(self._sections.read_part, SectionKind.KEYFRAMES, network))
        if skeleton.per_frame_shapes():
            store = _FileLatents(self._sections, network, chunks, skeleton.video.num_frames, layout.device)
            model.attach_latents(store)
        arrange_layers(model, transforms=layout.transforms, channels_last=layout.channels_last)
        return model.eval()

    def _built(
        self,
        network: int,
        config: ModelConfig,
        skeleton: VideoModel,
        stored: dict[str, StoredTensor],
        device: torch.device,
    ) -> VideoModel:
        """Return the network with its values, on the device."""
        try:
            model = type(skeleton).to_restore(config, skeleton.video)
            model.restore(stored)
        except (ValueError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            raise _unbuildable(network, error) from None
        try:
            return model.to(device)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            reason = str(error).partition("\n")[0]
            raise UsageError(f"device {device} cannot be used: {reason}; give another one") from None

    def cost(self, network: int) -> NetworkCost:
        """Return what network number ``network`` takes, found without memory for it.

        Raises
        ------
        BitstreamError
            If it cannot be built from what the file says, or asks for too much (LimitError).
        """
        return self._check(network, self.skeleton(network))

    def _check(self, network: int, skeleton: VideoModel) -> NetworkCost:
        entry = self._sections.header.networks[network]
        num_bytes = 0
        for section in self._sections.section_sizes():
            if section.owner == network and section.kind in NETWORK_SECTIONS:
                num_bytes += section.num_bytes
        key = entry.model, repr(sorted(entry.architecture.items())), skeleton.video, entry.frames_per_chunk
        cost = self._costs.get(key, lambda: _cost_of(network, skeleton, entry.frames_per_chunk))
        default = allowed_for(num_bytes)
        memory_share = cost.num_bytes / default.num_bytes
        work_share = cost.operations / default.operations
        # --max-memory scales both limits: a user allows a network as such, not its parts.
        scale = 1.0 if self.max_memory is None else self.max_memory / default.num_bytes
        share = max(memory_share, work_share)
        if share <= scale:
            return cost
        clip = self._sections.header.clips[entry.spans[0].clip]
        if work_share > memory_share:
            what = f"{cost.operations / 1e9:,.3g} billion operations"
            allowed = f"{scale * default.operations / 1e9:,.3g} billion"
        else:
            what, allowed = _memory_text(cost.num_bytes), _memory_text(scale * default.num_bytes)
        who = (
            f"files of {num_bytes:,} bytes"
            if self.max_memory is None
            else f"with this {argument('max_memory')} it"
        )
        raise LimitError(
            f"network {network} needs about {what} for a frame of {clip.height}×{clip.width}; {who} "
            f"may ask for {allowed}; if you trust the file, allow more with "
            f"{argument('max_memory', f'{ceil(share * default.num_bytes / 1e9)}GB')}"
        )

    def name(self, network: int) -> str:
        """Return the name of the model that network number ``network`` is."""
        return self._sections.header.networks[network].model

    def skeleton(self, network: int) -> VideoModel:
        """Return network number ``network`` without memory for its values."""
        return self._skeleton(network)[1]

    def _skeleton(self, network: int) -> tuple[ModelConfig, VideoModel]:
        """Return a network's configuration, and the network without memory for its values."""
        entry = self._sections.header.networks[network]
        try:
            cls = get_model(entry.model)
            config = validate_architecture(cls, entry.architecture)
            skeleton = cls.on_meta(config, _network_spec(self._sections.header, network))
        except (UsageError, ValueError, RuntimeError, OverflowError) as error:
            raise _unbuildable(network, error) from None
        needed = 0 if skeleton.keyframes is None else skeleton.keyframes.num_parts
        if entry.num_keyframes != needed:
            found = plural(entry.num_keyframes, "part")
            raise BitstreamError(f"network {network} has {found} of keyframes, its model {needed}")
        return config, skeleton


class _FileLatents:
    """A latent store that reads and decodes chunks when their frames are decoded, and keeps the last few."""

    def __init__(
        self, sections: Sections, network: int, decoder: ChunkDecoder, num_frames: int, device: torch.device
    ) -> None:
        self._sections, self._network, self._decoder = sections, network, decoder
        self._num_frames, self._device = num_frames, device
        self._cache: LruCache[int, dict[str, Tensor]] = LruCache(CACHED_CHUNKS)

    def read(self, index_N: Tensor) -> Latents:
        """See :class:`vinr.models.LatentStore`."""
        # chunk       0          1          2            frame i lies in chunk i // size, row i % size
        # frames  0 … s-1    s … 2s-1    2s …
        size = self._decoder.frames_per_chunk
        rows: dict[str, list[Tensor]] = {}
        for index in index_N.tolist():
            chunk = self._cache.get(index // size, partial(self._chunk, index // size))
            for name, value in chunk.items():
                rows.setdefault(name.removeprefix(LATENT_PREFIX), []).append(value[index % size])
        return Latents({name: torch.stack(values).to(self._device) for name, values in rows.items()})

    def _chunk(self, number: int) -> dict[str, Tensor]:
        count = _frames_of_chunk(number, self._decoder.frames_per_chunk, self._num_frames)
        payload = self._sections.read_part(SectionKind.CHUNKS, self._network, number)
        return self._decoder.decode(payload, count)


def _frames_of_chunk(number: int, frames_per_chunk: int, num_frames: int) -> int:
    """Return how many of a network's ``num_frames`` are in chunk ``number``: the last may hold fewer."""
    return min(frames_per_chunk, num_frames - number * frames_per_chunk)


def _unbuildable(network: int, error: Exception) -> BitstreamError:
    reason = str(error).partition("\n")[0]
    return BitstreamError(f"network {network} cannot be built from what the file says: {reason}")


def allowed_for(num_bytes: int) -> NetworkCost:
    """Return what a network whose sections are ``num_bytes`` long may take by default."""
    more_bytes = max(num_bytes - BYTES_WITHOUT_WORK, 0)
    return NetworkCost(MEMORY + MEMORY_PER_BYTE * num_bytes, WORK + WORK_PER_BYTE * more_bytes)


def network_cost(skeleton: VideoModel, frames_per_chunk: int) -> NetworkCost:
    """Return what ``skeleton``, a network without values, takes until its first frame is there."""
    num_parameters = 0
    for item in skeleton.stored().values():
        if not item.per_frame:
            num_parameters += item.value.numel()
    # Of latents there are at most as many frames in memory as the cached chunks hold.
    num_frames = min(frames_per_chunk * CACHED_CHUNKS, skeleton.video.num_frames)
    num_parameters += num_frames * sum(map(prod, skeleton.per_frame_shapes().values()))
    frame = measure_first_frame(skeleton, partial(to_levels, bit_depth=skeleton.video.bit_depth))
    return NetworkCost(
        BYTES_PER_PARAMETER * num_parameters + frame.num_bytes,
        OPERATIONS_PER_PARAMETER * num_parameters + frame.operations,
    )


def _cost_of(network: int, skeleton: VideoModel, frames_per_chunk: int) -> NetworkCost:
    try:
        return network_cost(skeleton, frames_per_chunk)
    except (ValueError, RuntimeError, OverflowError) as error:
        raise _unbuildable(network, error) from None


def parse_memory(size: int | str | None) -> int | None:
    """Return bytes from 4000000000, ``4GB``, ``500MB``; None stays None.

    Raises
    ------
    UsageError
        If it is something else.
    """
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return min(size, UNLIMITED)
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{0,9})?)\s*([kmgt]?)b?", str(size).strip().lower())
    value = float(match[1]) * _MEMORY_UNITS[match[2]] if match else 0
    if size is not None and value < 1:
        raise UsageError(f"memory {str(size)!r}: give a positive size such as 4GB or 500MB")
    return None if size is None else int(min(value, UNLIMITED))


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` says that there is not enough memory, of the machine or of a GPU."""
    words = ("can't allocate", "posix_memalign", "out of memory", "not enough memory", "bad_alloc", "ALLOC_F")
    known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return known or (isinstance(error, RuntimeError) and any(word in str(error) for word in words))


@contextmanager
def memory_told(what: str) -> Iterator[None]:
    """Raise :class:`OutOfMemoryError` where memory runs out in the body; ``what`` says for what."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise OutOfMemoryError(
            f"not enough memory for {what}: {reason}; close other programs, or use a machine with more"
        ) from None


def _memory_text(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.3g} MB"


def _network_spec(header: Header, network: int) -> VideoSpec:
    spans = header.networks[network].spans
    clip = header.clips[spans[0].clip]
    lengths = tuple(span.num_frames for span in spans)
    rate = Fraction(*clip.frame_rate)
    return VideoSpec(
        sum(lengths), clip.height, clip.width, rate, span_lengths=lengths, bit_depth=clip.bit_depth
    )


def expected_tensors(skeleton: VideoModel) -> dict[str, StoredTensor]:
    """Return what the file must hold: fixed tensors, and one frame's slice of each per-frame tensor."""
    expected = {name: item for name, item in skeleton.stored().items() if not item.per_frame}
    for name, shape in skeleton.per_frame_shapes().items():
        value = torch.empty((1, *shape), device="meta")
        expected[LATENT_PREFIX + name] = StoredTensor(value, "latent", per_frame=True)
    return expected
