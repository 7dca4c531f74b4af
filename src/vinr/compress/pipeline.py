"""Tensors of a fitted network ↔ the bytes of its sections WEIGHTS and CHUNKS (docs/format.md, 5 and 6).

::

    StoredTensor ─> quantize ─┬─> small arrays grouped ─> a model each ─> records + one stream     = WEIGHTS
                              └─> per-frame slices ────> a static model ─> one stream a few frames = CHUNKS
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from vinr.bitstream import ByteReader
from vinr.compress.accounting import ComponentSize, component_sizes
from vinr.compress.entropy import StreamReader, StreamWriter, SymbolModel, Symbols
from vinr.compress.layout import (
    WHAT,
    Layout,
    Record,
    TensorShape,
    check_budget,
    ordered_shapes,
    pack_record,
    read_layout,
)
from vinr.compress.quantize import CHANNEL_CODE_UNIT, QuantizedTensor, dequantize, quantize
from vinr.compress.search import choose_model, group_small
from vinr.config import CompressSettings
from vinr.errors import BitstreamError, FitError
from vinr.models import StoredTensor

__all__ = ["ChunkDecoder", "PackedTensors", "fixed_sizes", "pack_tensors", "quantized", "unpack_fixed"]

# What a chunk costs besides its content: its size and checksum in the index, and the rounding of its stream.
CHUNK_OVERHEAD_BYTES = 6
OVERHEAD_SHARE = 0.005
LEAST_CHANNEL_ELEMENTS = 8


@dataclass(frozen=True)
class PackedTensors:
    """One network, coded: section WEIGHTS, the chunks of section CHUNKS, and where the bytes went."""

    fixed: bytes
    chunks: tuple[bytes, ...]
    frames_per_chunk: int
    components: tuple[ComponentSize, ...]

    def __repr__(self) -> str:
        num_bytes = len(self.fixed) + sum(map(len, self.chunks))
        return f"PackedTensors({len(self.components)} tensors, {len(self.chunks)} chunks, {num_bytes} bytes)"

    @property
    def ideal_bits(self) -> float:
        """Bits that the tables assign to all symbols; the side information is not in it."""
        return sum(component.ideal_bits for component in self.components)


def _quantize(name: str, item: StoredTensor, settings: CompressSettings) -> QuantizedTensor:
    bits = {
        "weight": settings.weight_bits,
        "bias": settings.bias_bits,
        "grid": settings.grid_bits,
        "latent": settings.latent_bits,
        "keyframe": settings.latent_bits,
    }[item.role]
    value = item.value
    by_channel = (
        settings.weight_scales == "channel"
        and item.role == "weight"
        and not item.per_frame
        and value.ndim >= 2
        and value.shape[0] >= 2
        and value.numel() >= LEAST_CHANNEL_ELEMENTS * value.shape[0]
    )
    return quantize(value, bits, name=name, by_channel=by_channel)


def quantized(stored: Mapping[str, StoredTensor], settings: CompressSettings) -> dict[str, StoredTensor]:
    """Return ``stored`` as a decoder of the file will see it, bit for bit, without coding anything.

    Raises
    ------
    FitError
        If a value is not finite, or too large to store.
    """
    return {
        name: replace(item, value=dequantize(_quantize(name, item, settings)))
        for name, item in stored.items()
    }


def pack_tensors(
    stored: Mapping[str, StoredTensor], settings: CompressSettings, frames_per_chunk: int | None = None
) -> PackedTensors:
    """Quantise and code all tensors of a network.

    Parameters
    ----------
    stored
        All tensors, in the model's order. Per-frame tensors have as many slices as the network has frames.
    settings
        Bits of each role, and whether weights have a step a channel.
    frames_per_chunk
        Frames whose latents are coded together. None: 1, or the least power of two with which chunks cost at
        most 0.5 % of the total besides their content.

    Raises
    ------
    FitError
        If a value is not finite or too large, or if so much is constant that the file would be refused as
        hostile.
    """
    coded = {name: _quantize(name, item, settings) for name, item in stored.items()}
    shapes = ordered_shapes(stored)
    layout, arrays, packed_records = _plan(shapes, coded)
    stream = layout.write_stream(arrays)
    fixed = packed_records + stream
    latents = [record for record in layout.records if record.tensor.per_frame]
    chunks: list[bytes] = []
    latent_bits: dict[str, float] = {}
    if latents:
        frames_per_chunk = frames_per_chunk or _frames_per_chunk(layout, latents, coded, len(fixed))
        chunks, latent_bits = _pack_chunks(layout, latents, coded, frames_per_chunk)
    _refuse_unreadable(layout, fixed, chunks, frames_per_chunk or 0)
    elements = {record.tensor.name: coded[record.tensor.name].symbols.size for record in latents}
    components = component_sizes(
        layout, arrays, len(stream), latent_bits, elements, sum(len(chunk) for chunk in chunks)
    )
    return PackedTensors(fixed, tuple(chunks), frames_per_chunk or 0 if latents else 0, components)


def _plan(
    shapes: list[TensorShape], coded: Mapping[str, QuantizedTensor]
) -> tuple[Layout, dict[tuple[int, bool], Symbols], bytes]:
    """Choose all models; return the layout, the arrays of the stream, and the packed records."""
    arrays: dict[tuple[int, bool], Symbols] = {}
    for number, shape in enumerate(shapes):
        item = coded[shape.name]
        if not shape.per_frame:
            arrays[number, False] = item.symbols.ravel()
        if item.is_channelwise:
            arrays[number, True] = np.array(item.step_codes, dtype=np.int32) // CHANNEL_CODE_UNIT
    uses = list(arrays)
    models: list[SymbolModel] = []
    model_of: dict[tuple[int, bool], int] = {}
    # Groups begin in the order of their first array, which is the order of definition.
    for group in group_small(list(arrays.values())):
        model_of |= dict.fromkeys((uses[member] for member in group), len(models))
        models.append(choose_model(np.concatenate([arrays[uses[member]] for member in group])))
    records, packed, num_defined = [], b"", 0
    for number, shape in enumerate(shapes):
        item = coded[shape.name]
        if shape.per_frame:
            model_of[number, False] = len(models)
            models.append(choose_model(item.symbols.ravel(), static=True))
        model, step_model = model_of[number, False], model_of.get((number, True))
        record = Record(shape, model, 0 if item.is_channelwise else item.step_codes[0], step_model)
        packed_record = pack_record(record, models, num_defined)
        num_defined = max(num_defined, model + 1, (step_model or 0) + 1)
        records.append(replace(record, num_bytes=len(packed_record)))
        packed += packed_record
    return Layout(tuple(records), tuple(models)), arrays, packed


def _slices(item: QuantizedTensor, first: int, stop: int) -> Symbols:
    part: Symbols = item.symbols[first:stop].ravel()
    return part


def _frames_per_chunk(
    layout: Layout, latents: list[Record], coded: Mapping[str, QuantizedTensor], fixed_bytes: int
) -> int:
    _, bits = _pack_chunks(layout, latents, coded, 2**62)
    num_frames = coded[latents[0].tensor.name].symbols.shape[0]
    allowed = OVERHEAD_SHARE * (fixed_bytes + sum(bits.values()) / 8) / CHUNK_OVERHEAD_BYTES
    frames_per_chunk = 1
    while num_frames / frames_per_chunk > max(allowed, 1):
        frames_per_chunk *= 2
    return frames_per_chunk


def _pack_chunks(
    layout: Layout, latents: list[Record], coded: Mapping[str, QuantizedTensor], frames_per_chunk: int
) -> tuple[list[bytes], dict[str, float]]:
    """Return the chunks, and the ideal bits of each per-frame tensor in all of them."""
    lengths = {coded[record.tensor.name].symbols.shape[0] for record in latents}
    if len(lengths) > 1:
        raise ValueError(f"per-frame tensors have different numbers of frames: {sorted(lengths)}")
    num_frames = lengths.pop()
    bits = {record.tensor.name: 0.0 for record in latents}
    chunks = []
    for first in range(0, num_frames, frames_per_chunk):
        writer = StreamWriter()
        for record in latents:
            part_S = _slices(coded[record.tensor.name], first, first + frames_per_chunk)
            bits[record.tensor.name] += writer.write(layout.models[record.model], part_S)
        chunks.append(writer.finish())
    return chunks, bits


def _refuse_unreadable(layout: Layout, fixed: bytes, chunks: list[bytes], frames_per_chunk: int) -> None:
    try:
        num_elements = sum(r.tensor.num_elements for r in layout.records if not r.tensor.per_frame)
        check_budget(num_elements, len(fixed), "the network")
        slice_elements = sum(r.tensor.num_elements for r in layout.records if r.tensor.per_frame)
        if chunks:
            check_budget(frames_per_chunk * slice_elements, min(map(len, chunks)), "a chunk of latents")
    except BitstreamError as error:
        raise FitError(f"nearly all numbers are equal ({error}); fit again or use a smaller model") from None


def _open_fixed(
    payload: bytes, expected: Mapping[str, StoredTensor]
) -> tuple[Layout, dict[tuple[int, bool], Symbols], int]:
    """Return layout, arrays, and the length of the stream."""
    shapes = ordered_shapes(expected)
    check_budget(sum(shape.num_elements for shape in shapes if not shape.per_frame), len(payload), WHAT)
    reader = ByteReader(payload, WHAT)
    layout = read_layout(reader, shapes)
    stream = reader.take(reader.num_left)
    layout, arrays = layout.read_stream(stream)
    return layout, arrays, len(stream)


def unpack_fixed(
    payload: bytes, expected: Mapping[str, StoredTensor], frames_per_chunk: int
) -> tuple[dict[str, StoredTensor], ChunkDecoder]:
    """Decode section WEIGHTS.

    Parameters
    ----------
    payload
        The section's bytes.
    expected
        All tensors the model has, in its order; of the values only the shapes count (they may be on the
        device ``meta``), and of per-frame tensors only that of a slice: (anything, \\*slice).
    frames_per_chunk
        As the header says; 0 if the network has no section CHUNKS.

    Returns
    -------
    tensors, chunks
        Float32 values of all tensors that are not per-frame, and the decoder of those that are.

    Raises
    ------
    BitstreamError
        If the section is damaged, hostile, or does not fit the model.
    """
    layout, arrays, _ = _open_fixed(payload, expected)
    decoder = ChunkDecoder(layout, frames_per_chunk)
    tensors = {}
    for number, record in enumerate(layout.records):
        tensor = record.tensor
        if tensor.per_frame:
            continue
        codes: tuple[int, ...] = (record.step_code,)
        if record.step_model is not None:
            codes = tuple((arrays[number, True] * CHANNEL_CODE_UNIT).tolist())
        value = dequantize(QuantizedTensor(arrays[number, False].reshape(tensor.shape), codes))
        tensors[tensor.name] = StoredTensor(value, tensor.role)
    return tensors, decoder


def fixed_sizes(payload: bytes, expected: Mapping[str, StoredTensor]) -> tuple[ComponentSize, ...]:
    """Return where the bytes of section WEIGHTS go; of per-frame tensors only their models are part of it.

    Raises
    ------
    BitstreamError
        As :func:`unpack_fixed`.
    """
    layout, arrays, stream_bytes = _open_fixed(payload, expected)
    nothing = {record.tensor.name: 0 for record in layout.records if record.tensor.per_frame}
    return component_sizes(layout, arrays, stream_bytes, nothing, nothing, 0)


class ChunkDecoder:
    """Decodes chunks of latents one by one, in any order."""

    def __init__(self, layout: Layout, frames_per_chunk: int) -> None:
        self._latents = [
            (record.tensor, layout.models[record.model], record.step_code)
            for record in layout.records
            if record.tensor.per_frame
        ]
        if bool(self._latents) != (frames_per_chunk > 0):
            raise BitstreamError(
                f"the header has {frames_per_chunk} frames a chunk, the model {len(self._latents)} latents"
            )
        self.frames_per_chunk = frames_per_chunk

    def decode(self, payload: bytes, num_frames: int) -> dict[str, Tensor]:
        """Return name → float32 (``num_frames``, \\*slice) of the frames of one chunk.

        ``num_frames`` is :attr:`frames_per_chunk`, or less for a network's last chunk.

        Raises
        ------
        BitstreamError
            If the chunk is damaged.
        """
        what = "a chunk of latents"
        check_budget(num_frames * sum(t.num_elements for t, _, _ in self._latents), len(payload), what)
        reader = StreamReader(payload, what)
        values = {}
        for tensor, model, step_code in self._latents:
            symbol_S = reader.read(model, num_frames * tensor.num_elements)
            shaped = symbol_S.reshape(num_frames, *tensor.shape)
            values[tensor.name] = dequantize(QuantizedTensor(shaped, (step_code,)))
        return values
