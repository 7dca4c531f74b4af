"""Tensors of a fitted network to the bytes of its sections WEIGHTS and CHUNKS (docs/format.md, 5 and 6).

::

    StoredTensor ─> quantize ─┬─> small arrays grouped ─> a model each ──> records + one stream     = WEIGHTS
                              └─> per-frame slices ─────> a static model ─> a stream per few frames = CHUNKS

What changes little over time is coded as differences (:mod:`vinr.compress.prediction`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from torch import Tensor

from vinr.bitstream import pack_varint
from vinr.compress.accounting import ComponentSize, component_sizes
from vinr.compress.entropy import StreamWriter, SymbolModel, Symbols, differences
from vinr.compress.prediction import code_latents, predict_tensor
from vinr.compress.quantize import quantize, quantize_to_steps
from vinr.compress.roles import bits_of, is_channelwise
from vinr.compress.search import group_small, price_model
from vinr.compress.unpack import (
    CHANNEL_CODE_UNIT,
    STEP_BYTES,
    ArrayKey,
    Layout,
    QuantizedTensor,
    Record,
    TensorShape,
    check_budget,
    dequantize,
    ordered_shapes,
)
from vinr.config import CompressSettings
from vinr.errors import BitstreamError, FitError
from vinr.models import StoredTensor

# An entry of the index at most: kind (1), owner (3), number of parts (3); then a size and a checksum per
# part.
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
        num_bytes = self.num_bytes + ENTRY_BYTES * (2 if self.chunks else 1)
        for part in (self.fixed, *self.chunks):
            num_bytes += len(pack_varint(len(part))) + CRC_BYTES
        return num_bytes

    @property
    def ideal_bits(self) -> float:
        """Bits that the tables assign to all symbols; the side information is not in it."""
        return sum(component.ideal_bits for component in self.components)


def quantized_symbols(
    stored: Mapping[str, StoredTensor], settings: CompressSettings, *, steps: Mapping[str, Tensor] = NO_STEPS
) -> dict[str, QuantizedTensor]:
    """Return the symbols and steps of all tensors as :func:`pack_tensors` writes them, by name.

    Raises
    ------
    FitError
        If a value is not finite, or too large to store.
    """
    coded = {}
    for name, item in stored.items():
        if name in steps:
            coded[name] = quantize_to_steps(item.value, steps[name], name=name)
        else:
            by_channel = is_channelwise(item, settings)
            coded[name] = quantize(item.value, bits_of(item.role, settings), name=name, by_channel=by_channel)
    return coded


def quantized(
    stored: Mapping[str, StoredTensor], settings: CompressSettings, *, steps: Mapping[str, Tensor] = NO_STEPS
) -> dict[str, StoredTensor]:
    """Return ``stored`` as a decoder of the file will see it, bit for bit, without coding anything.

    Raises
    ------
    FitError
        If a value is not finite, or too large to store.
    """
    coded = quantized_symbols(stored, settings, steps=steps)
    return {name: replace(item, value=dequantize(coded[name])) for name, item in stored.items()}


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
        Bits of each role, and whether weights have a step per channel.
    frames_per_chunk
        Frames whose latents are coded together. None: 1, or the smallest power of two with which chunks cost
        at most 0.5 % of the total besides their content; more, up to 16, where prediction gains by it.
    steps
        Name → steps that training has learned, one or one for each index of the first axis; all others follow
        from ``settings``.

    Raises
    ------
    FitError
        If a value is not finite or too large, or if so much is constant that the file would be refused as
        hostile.
    """
    coded = quantized_symbols(stored, settings, steps=steps)
    shapes = ordered_shapes(stored)
    layout, arrays, packed_records, frames_per_chunk = _plan(shapes, coded, frames_per_chunk)
    stream = _write_stream(layout, arrays)
    fixed = packed_records + stream
    num_fixed = sum(shape.num_elements for shape in shapes if not shape.per_frame)
    _refuse_unreadable(num_fixed, fixed, "the network")
    chunks, latent_bits = _pack_chunks(layout, coded, frames_per_chunk)
    elements = {name: coded[name].symbols.size for name in latent_bits}
    chunk_bytes = sum(map(len, chunks))
    components = component_sizes(layout, arrays, len(stream), latent_bits, elements, chunk_bytes)
    return PackedTensors(fixed, tuple(chunks), frames_per_chunk, components)


def _plan(
    shapes: list[TensorShape], coded: Mapping[str, QuantizedTensor], frames_per_chunk: int | None
) -> tuple[Layout, dict[ArrayKey, Symbols], bytes, int]:
    """Choose all models; return layout, arrays of the stream, packed records, and frames per chunk."""
    arrays = _arrays(shapes, coded)
    models: list[SymbolModel] = []
    model_of: dict[ArrayKey, int] = {}
    fixed_bits = 0.0
    for group in _groups(shapes, arrays):
        priced = price_model(np.concatenate([arrays[member] for member in group]))
        fixed_bits += priced.num_bits
        model_of |= dict.fromkeys(group, len(models))
        models.append(priced.model)
    # Records of latents come last, and define their models after all others.
    latents = [coded[shape.name].symbols for shape in shapes if shape.per_frame]
    frames_per_chunk, codings = code_latents(latents, fixed_bits / 8, frames_per_chunk)
    for number, coding in enumerate(codings, len(shapes) - len(latents)):
        model_of[number, False] = len(models)
        models.append(coding.model)
        if coding.first_model is not None:
            if coding.first_model != coding.model:
                models.append(coding.first_model)
            model_of[number, True] = len(models) - 1
    records: list[Record] = []
    packed, num_defined = b"", 0
    for number, shape in enumerate(shapes):
        model, second_model = model_of[number, False], model_of.get((number, True))
        step_codes = coded[shape.name].step_codes
        record = Record(shape, model, 0 if len(step_codes) > 1 else step_codes[0], second_model)
        packed_record = _pack_record(record, models, num_defined)
        num_defined = max(num_defined, model + 1, (second_model or 0) + 1)
        records.append(replace(record, num_bytes=len(packed_record)))
        packed += packed_record
    return Layout(tuple(records), tuple(models)), arrays, packed, frames_per_chunk


def _arrays(shapes: list[TensorShape], coded: Mapping[str, QuantizedTensor]) -> dict[ArrayKey, Symbols]:
    """Return what section WEIGHTS codes: symbols and channels' steps, or differences and first steps."""
    arrays: dict[ArrayKey, Symbols] = {}
    for number, shape in enumerate(shapes):
        item = coded[shape.name]
        if item.is_channelwise and shape.is_over_time:
            raise ValueError(f"{shape.name} runs over time and has {len(item.step_codes)} quantisation steps")
        if shape.per_frame:
            continue
        arrays[number, False] = item.symbols.ravel()
        if item.is_channelwise:
            arrays[number, True] = np.array(item.step_codes, dtype=np.int32) // CHANNEL_CODE_UNIT
        if shape.rows_per_step:
            parts = predict_tensor(arrays[number, False], shape.shape[0] // shape.rows_per_step)
            if parts is not None:
                arrays[number, True], arrays[number, False] = parts
    return arrays


def _groups(shapes: list[TensorShape], arrays: Mapping[ArrayKey, Symbols]) -> list[list[ArrayKey]]:
    """Return the arrays grouped by model, in order of definition. Steps are never coded with elements."""
    elements: list[ArrayKey] = []
    steps: list[ArrayKey] = []
    for number, is_second in arrays:
        is_steps = is_second and not shapes[number].is_over_time
        (steps if is_steps else elements).append((number, is_second))
    groups: list[list[ArrayKey]] = []
    for keys in (elements, steps):
        for group in group_small([arrays[key] for key in keys]):
            members = [keys[member] for member in group]
            groups.append(members)
    # A model is defined by the record that is the first to use it: groups in the order of their first arrays.
    return sorted(groups)


def _pack_record(record: Record, models: Sequence[SymbolModel], num_defined: int) -> bytes:
    """Return the bytes of ``record`` when ``num_defined`` of ``models`` have been defined before it."""

    # varint  m…m c   then the model's definition if m = 0     c: a second reference (without c) follows
    #                                                         m: 0 defines a model, m > 0 is model m − 1
    def refer(model: int, low_bit: int, factor: int) -> bytes:
        nonlocal num_defined
        if model < num_defined:
            return pack_varint(factor * (model + 1) + low_bit)
        num_defined += 1
        return pack_varint(low_bit) + models[model].pack()

    step: bytes = b"" if record.has_channel_steps else record.step_code.to_bytes(STEP_BYTES, "little")
    if record.second_model is None:
        return refer(record.model, 0, 2) + step
    return refer(record.model, 1, 2) + refer(record.second_model, 0, 1) + step


def _write_stream(layout: Layout, arrays: Mapping[ArrayKey, Symbols]) -> bytes:
    writer = StreamWriter()
    for number, model in enumerate(layout.models):
        writer.write_levels(model)
        uses = layout.arrays_of(number)
        if uses:
            writer.write(model, np.concatenate([arrays[use] for use in uses]))
    return writer.finish()


def _pack_chunks(
    layout: Layout, coded: Mapping[str, QuantizedTensor], frames_per_chunk: int
) -> tuple[list[bytes], dict[str, float]]:
    """Return the chunks, and the ideal bits of each per-frame tensor in all of them."""
    bits = dict.fromkeys((record.tensor.name for record in layout.latents), 0.0)
    chunks: list[bytes] = []
    num_frames = coded[next(iter(bits))].symbols.shape[0] if bits else 0
    for first in range(0, num_frames, max(frames_per_chunk, 1)):
        writer, num_elements = StreamWriter(), 0
        for record in layout.latents:
            part_TS = coded[record.tensor.name].symbols[first : first + frames_per_chunk]
            num_elements += part_TS.size
            bits[record.tensor.name] += _write_slices(writer, layout, record, part_TS)
        chunks.append(writer.finish())
        _refuse_unreadable(num_elements, chunks[-1], "a chunk of latents")
    return chunks, bits


def _write_slices(writer: StreamWriter, layout: Layout, record: Record, symbol_TS: Symbols) -> float:
    """Write one tensor's slices of a chunk; return the bits that the tables assign to them."""
    model = layout.models[record.model]
    if record.second_model is None:
        return writer.write(model, symbol_TS.ravel())
    first_S, difference_S = differences(symbol_TS)
    return writer.write(layout.models[record.second_model], first_S) + writer.write(model, difference_S)


def _refuse_unreadable(num_elements: int, payload: bytes, what: str) -> None:
    """Do not write what readers take for a decompression bomb."""
    try:
        check_budget(num_elements, len(payload), what)
    except BitstreamError as error:
        raise FitError(
            f"nearly all parameters are equal ({error}); fit again or use a smaller model"
        ) from None
