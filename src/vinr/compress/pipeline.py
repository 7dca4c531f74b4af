"""Tensors of a fitted network to the bytes of its sections WEIGHTS and CHUNKS (docs/format.md, 5 and 6).

::

    StoredTensor ─> quantize ─┬─> small arrays grouped ─> a model each ─> records + one stream     = WEIGHTS
                              └─> per-frame slices ────> a static model ─> one stream a few frames = CHUNKS
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from torch import Tensor

from vinr.bitstream import pack_varint
from vinr.compress.accounting import ComponentSize, component_sizes
from vinr.compress.entropy import StreamWriter, SymbolModel, Symbols
from vinr.compress.quantize import (
    CHANNEL_CODE_UNIT,
    QuantizedTensor,
    dequantize,
    quantize,
    quantize_to_steps,
)
from vinr.compress.roles import bits_of, is_channelwise
from vinr.compress.search import choose_model, group_small
from vinr.compress.unpack import BUDGET, STEP_BYTES, Layout, Record, TensorShape, check_budget, ordered_shapes
from vinr.config import CompressSettings
from vinr.errors import BitstreamError, FitError
from vinr.models import StoredTensor

__all__ = ["PackedTensors", "pack_tensors", "quantized"]

# What a chunk costs besides its content: its size and checksum in the index, and the rounding of its stream.
CHUNK_OVERHEAD_BYTES = 6
OVERHEAD_SHARE = 0.005
# An entry of the index: kind, owner, number of parts; and a checksum for each part.
ENTRY_BYTES, CRC_BYTES = 7, 4
NO_STEPS: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True)
class PackedTensors:
    """One network, coded: section WEIGHTS, the chunks of section CHUNKS, and where the bytes went."""

    fixed: bytes
    chunks: tuple[bytes, ...]
    frames_per_chunk: int
    components: tuple[ComponentSize, ...]

    def __repr__(self) -> str:
        parts = f"{len(self.components)} tensors, {len(self.chunks)} chunks, {self.num_bytes} bytes"
        return f"PackedTensors({parts})"

    @property
    def num_bytes(self) -> int:
        """Bytes of both sections."""
        return len(self.fixed) + sum(map(len, self.chunks))

    @property
    def file_bytes(self) -> int:
        """Bytes of both sections and of their entries in the file's index (at most)."""
        parts = (self.fixed, *self.chunks)
        entries = ENTRY_BYTES * (2 if self.chunks else 1)
        return self.num_bytes + entries + sum(len(pack_varint(len(part))) + CRC_BYTES for part in parts)

    @property
    def ideal_bits(self) -> float:
        """Bits that the tables assign to all symbols; the side information is not in it."""
        return sum(component.ideal_bits for component in self.components)


def _quantize(
    name: str, item: StoredTensor, settings: CompressSettings, steps: Mapping[str, Tensor]
) -> QuantizedTensor:
    if name in steps:
        return quantize_to_steps(item.value, steps[name], name=name)
    by_channel = is_channelwise(item, settings)
    return quantize(item.value, bits_of(item.role, settings), name=name, by_channel=by_channel)


def quantized(
    stored: Mapping[str, StoredTensor], settings: CompressSettings, *, steps: Mapping[str, Tensor] = NO_STEPS
) -> dict[str, StoredTensor]:
    """Return ``stored`` as a decoder of the file will see it, bit for bit, without coding anything.

    Raises
    ------
    FitError
        If a value is not finite, or too large to store.
    """
    return {
        name: replace(item, value=dequantize(_quantize(name, item, settings, steps)))
        for name, item in stored.items()
    }


def pack_tensors(
    stored: Mapping[str, StoredTensor],
    settings: CompressSettings,
    frames_per_chunk: int | None = None,
    *,
    steps: Mapping[str, Tensor] = NO_STEPS,
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
    steps
        Name → steps that a fit has learned, one or one for each index of the first axis; all others follow
        from ``settings``.

    Raises
    ------
    FitError
        If a value is not finite or too large, or if so much is constant that the file would be refused as
        hostile.
    """
    coded = {name: _quantize(name, item, settings, steps) for name, item in stored.items()}
    shapes = ordered_shapes(stored)
    layout, arrays, packed_records = _plan(shapes, coded)
    stream = _write_stream(layout, arrays)
    fixed = packed_records + stream
    _refuse_unreadable(sum(s.num_elements for s in shapes if not s.per_frame), fixed, "the network")
    latents = [record for record in layout.records if record.tensor.per_frame]
    chunks: list[bytes] = []
    latent_bits: dict[str, float] = {}
    if not latents:
        frames_per_chunk = 0
    else:
        frames_per_chunk = frames_per_chunk or _frames_per_chunk(layout, latents, coded, len(fixed))
        chunks, latent_bits = _pack_chunks(layout, latents, coded, frames_per_chunk)
    elements = {record.tensor.name: coded[record.tensor.name].symbols.size for record in latents}
    components = component_sizes(
        layout, arrays, len(stream), latent_bits, elements, sum(len(chunk) for chunk in chunks)
    )
    return PackedTensors(fixed, tuple(chunks), frames_per_chunk, components)


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
    models: list[SymbolModel] = []
    model_of: dict[tuple[int, bool], int] = {}
    for group in _groups(arrays):
        model_of |= dict.fromkeys(group, len(models))
        models.append(choose_model(np.concatenate([arrays[member] for member in group])))
    records, packed, num_defined = [], b"", 0
    for number, shape in enumerate(shapes):
        item = coded[shape.name]
        if shape.per_frame:
            model_of[number, False] = len(models)
            models.append(choose_model(item.symbols.ravel(), static=True))
        model, step_model = model_of[number, False], model_of.get((number, True))
        record = Record(shape, model, 0 if item.is_channelwise else item.step_codes[0], step_model)
        packed_record = _pack_record(record, models, num_defined)
        num_defined = max(num_defined, model + 1, (step_model or 0) + 1)
        records.append(replace(record, num_bytes=len(packed_record)))
        packed += packed_record
    return Layout(tuple(records), tuple(models)), arrays, packed


def _groups(arrays: Mapping[tuple[int, bool], Symbols]) -> list[list[tuple[int, bool]]]:
    """Return the arrays grouped by model, in order of definition. Steps are never coded with elements."""
    groups = []
    for is_steps in (False, True):
        keys = [key for key in arrays if key[1] == is_steps]
        groups += [[keys[member] for member in group] for group in group_small([arrays[key] for key in keys])]
    return sorted(groups)


def _pack_record(record: Record, models: Sequence[SymbolModel], num_defined: int) -> bytes:
    """Return the bytes of ``record`` when ``num_defined`` of ``models`` have been defined before it."""

    def refer(model: int, low_bit: int, factor: int) -> bytes:
        nonlocal num_defined
        if model < num_defined:
            return pack_varint(factor * (model + 1) + low_bit)
        num_defined += 1
        return pack_varint(low_bit) + models[model].pack()

    if record.step_model is None:
        step: bytes = record.step_code.to_bytes(STEP_BYTES, "little")
        return refer(record.model, 0, 2) + step
    return refer(record.model, 1, 2) + refer(record.step_model, 0, 1)


def _write_stream(layout: Layout, arrays: Mapping[tuple[int, bool], Symbols]) -> bytes:
    writer = StreamWriter()
    for number, model in enumerate(layout.models):
        writer.write_levels(model)
        uses = layout.arrays_of(number)
        if uses:
            writer.write(model, np.concatenate([arrays[use] for use in uses]))
    return writer.finish()


def _slices(item: QuantizedTensor, first: int, stop: int) -> Symbols:
    part: Symbols = item.symbols[first:stop].ravel()
    return part


def _frames_per_chunk(
    layout: Layout, latents: list[Record], coded: Mapping[str, QuantizedTensor], fixed_bytes: int
) -> int:
    bits = sum(
        StreamWriter().write(layout.models[record.model], coded[record.tensor.name].symbols.ravel())
        for record in latents
    )
    num_frames = coded[latents[0].tensor.name].symbols.shape[0]
    allowed = OVERHEAD_SHARE * (fixed_bytes + bits / 8) / CHUNK_OVERHEAD_BYTES
    frames_per_chunk = 1
    slice_elements = sum(record.tensor.num_elements for record in latents)
    most = min(num_frames, BUDGET // max(slice_elements, 1))
    while num_frames / frames_per_chunk > allowed and 2 * frames_per_chunk <= most:
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
        writer, num_elements = StreamWriter(), 0
        for record in latents:
            part_S = _slices(coded[record.tensor.name], first, first + frames_per_chunk)
            num_elements += part_S.shape[0]
            bits[record.tensor.name] += writer.write(layout.models[record.model], part_S)
        chunks.append(writer.finish())
        _refuse_unreadable(num_elements, chunks[-1], "a chunk of latents")
    return chunks, bits


def _refuse_unreadable(num_elements: int, payload: bytes, what: str) -> None:
    """Do not write what readers take for a bomb."""
    try:
        check_budget(num_elements, len(payload), what)
    except BitstreamError as error:
        raise FitError(f"nearly all numbers are equal ({error}); fit again or use a smaller model") from None
