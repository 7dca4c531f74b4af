"""The networks of an open file: built when first needed, checked before memory is taken."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, partial

import torch
from torch import Tensor

from vinr.bitstream import Container, Header, SectionKind
from vinr.compress import ChunkDecoder, unpack_fixed
from vinr.device import arrange_layers
from vinr.errors import BitstreamError, UsageError
from vinr.models import Latents, ModelConfig, StoredTensor, VideoModel, get_model, validate_architecture
from vinr.sharing import LruCache
from vinr.video.spec import VideoSpec

__all__ = ["CACHED_NETWORKS", "NetworkLoader", "NetworkParts", "to_uint8"]

LATENT_PREFIX = "latents."
CACHED_CHUNKS = 8
CACHED_NETWORKS = 2


def to_uint8(rgb_NCHW: Tensor) -> Tensor:
    """Round float rgb in [0, 1] to uint8; values outside are clipped."""
    return (rgb_NCHW.float() * 255).round_().clamp_(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class NetworkParts:
    """A network without its values, the tensors its sections hold, and the sections as they lie in the file.

    ``payload`` is section WEIGHTS, ``chunks`` are those of section CHUNKS, each with its number of frames.
    """

    skeleton: VideoModel
    expected: dict[str, StoredTensor]
    payload: bytes
    chunks: tuple[tuple[int, bytes], ...]


class NetworkLoader:
    """Gives the networks of ``container`` as models ready to decode, and keeps the last two.

    Threads may share it: each network is loaded by one of them, and all run it at once.
    ``prepare`` is called with each network that was loaded; None: its layers compute as is fastest.
    """

    def __init__(
        self,
        container: Container,
        device: torch.device,
        prepare: Callable[[VideoModel], None] | None = None,
    ) -> None:
        self._container, self._device, self._prepare = container, device, prepare
        self._models: LruCache[int, VideoModel] = LruCache(CACHED_NETWORKS)

    def model(self, network: int) -> VideoModel:
        """Return network number ``network`` in evaluation mode.

        Raises
        ------
        BitstreamError
            If it is damaged, or cannot be built from what the file says.
        InputError
            If the file is closed.
        """
        self._container.check_open()
        return self._models.get(network, lambda: self._load(network))

    def parts(self, network: int) -> NetworkParts:
        """Return a network as it lies in the file, for reports."""
        skeleton = self.skeleton(network)
        payload = self._container.read(SectionKind.WEIGHTS, network)
        entry = self._container.header.networks[network]
        chunks = tuple(
            (
                _frames_of_chunk(number, entry.frames_per_chunk, entry.num_frames),
                self._container.read_part(SectionKind.CHUNKS, network, number),
            )
            for number in range(entry.num_chunks)
        )
        return NetworkParts(skeleton, _expected(skeleton), payload, chunks)

    def _load(self, network: int) -> VideoModel:
        _compute_alone_when_forked()
        entry = self._container.header.networks[network]
        # Shapes are checked without memory first: a hostile header may ask for anything.
        config, skeleton = self._skeleton(network)
        payload = self._container.read(SectionKind.WEIGHTS, network)
        stored, chunks = unpack_fixed(payload, _expected(skeleton), entry.frames_per_chunk)
        try:
            model = type(skeleton)(config, skeleton.video, with_encoder=False).to(self._device)
            model.restore(stored)
        except (ValueError, RuntimeError) as error:
            raise _unbuildable(network, error) from None
        if model.keyframes is not None:
            container = self._container
            model.keyframes.attach(lambda number: container.read_part(SectionKind.KEYFRAMES, network, number))
        if skeleton.per_frame_shapes():
            store = _FileLatents(self._container, network, chunks, skeleton.video.num_frames, self._device)
            model.attach_latents(store)
        if self._prepare is not None:
            self._prepare(model)
        elif self._device.type == "cpu":
            arrange_layers(model)
        return model.eval()

    def name(self, network: int) -> str:
        """Return the name of the model that network number ``network`` is."""
        return self._container.header.networks[network].model

    def skeleton(self, network: int) -> VideoModel:
        """Return network number ``network`` without memory for its values."""
        return self._skeleton(network)[1]

    def _skeleton(self, network: int) -> tuple[ModelConfig, VideoModel]:
        """Return a network's configuration, and the network without memory for its values."""
        entry = self._container.header.networks[network]
        try:
            cls = get_model(entry.model)
            config = validate_architecture(cls, entry.architecture)
            skeleton = cls.on_meta(config, _network_spec(self._container.header, network))
        except (UsageError, ValueError, RuntimeError, OverflowError) as error:
            raise _unbuildable(network, error) from None
        needed = 0 if skeleton.keyframes is None else len(skeleton.keyframes)
        if entry.num_keyframes != needed:
            raise BitstreamError(f"network {network} has {entry.num_keyframes} keyframes, its model {needed}")
        return config, skeleton


class _FileLatents:
    """A latent store that reads and decodes the chunks of the frames asked for, and keeps the last few."""

    def __init__(
        self, container: Container, network: int, decoder: ChunkDecoder, num_frames: int, device: torch.device
    ) -> None:
        self._container, self._network, self._decoder = container, network, decoder
        self._num_frames, self._device = num_frames, device
        self._cache: LruCache[int, dict[str, Tensor]] = LruCache(CACHED_CHUNKS)

    def read(self, index_N: Tensor) -> Latents:
        """See :class:`vinr.models.LatentStore`."""
        size = self._decoder.frames_per_chunk
        rows = []
        for index in index_N.tolist():
            chunk = self._cache.get(index // size, partial(self._chunk, index // size))
            rows.append({name: value[index % size] for name, value in chunk.items()})
        names = rows[0].keys()
        stacked = {name: torch.stack([row[name] for row in rows]).to(self._device) for name in names}
        return Latents({name.removeprefix(LATENT_PREFIX): value for name, value in stacked.items()})

    def _chunk(self, number: int) -> dict[str, Tensor]:
        count = _frames_of_chunk(number, self._decoder.frames_per_chunk, self._num_frames)
        payload = self._container.read_part(SectionKind.CHUNKS, self._network, number)
        return self._decoder.decode(payload, count)


@cache
def _compute_alone_when_forked() -> None:
    """Let processes that are forked from now on compute on one thread.

    The threads of OpenMP are not copied into a forked process, which would wait for them without end. Workers
    of a DataLoader compute on one thread for the same reason.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def _frames_of_chunk(number: int, frames_per_chunk: int, num_frames: int) -> int:
    """Return how many of a network's ``num_frames`` are in chunk ``number``: the last may hold fewer."""
    return min(frames_per_chunk, num_frames - number * frames_per_chunk)


def _unbuildable(network: int, error: Exception) -> BitstreamError:
    reason = str(error).partition("\n")[0]
    return BitstreamError(f"network {network} cannot be built from what the file says: {reason}")


def _network_spec(header: Header, network: int) -> VideoSpec:
    spans = header.networks[network].spans
    clip = header.clips[spans[0].clip]
    lengths = tuple(span.num_frames for span in spans)
    return VideoSpec(sum(lengths), clip.height, clip.width, Fraction(*clip.frame_rate), span_lengths=lengths)


def _expected(skeleton: VideoModel) -> dict[str, StoredTensor]:
    """Return what the file must hold: fixed tensors, and one frame's slice of each per-frame tensor."""
    expected = {name: item for name, item in skeleton.stored().items() if not item.per_frame}
    for name, shape in skeleton.per_frame_shapes().items():
        value = torch.empty((1, *shape), device="meta")
        expected[LATENT_PREFIX + name] = StoredTensor(value, "latent", per_frame=True)
    return expected
