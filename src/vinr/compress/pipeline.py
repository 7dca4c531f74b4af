"""Tensors of a fitted network to the bytes of its sections WEIGHTS and CHUNKS (docs/format.md, 5 and 6).

::

    StoredTensor ─> quantize ─┬─> small arrays grouped ─> a model each ─> records + one stream     = WEIGHTS
                              └─> per-frame slices ────> a static model ─> one stream a few frames = CHUNKS

What changes little over time is coded as differences (:mod:`vinr.compress.prediction`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

import numpy as np
from torch import Tensor

from vinr.bitstream import pack_varint
from vinr.compress.accounting import ComponentSize, component_sizes
from vinr.compress.entropy import StreamWriter, SymbolModel, Symbols, differences
from vinr.compress.prediction import code_latents, predict_tensor
from vinr.compress.quantize import (
    nearest,
    quantize,
    quantize_to_steps,
)
from vinr.compress.roles import bits_of, is_channelwise
from vinr.compress.rounding import round_for_rate
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
    by_weight = partial(round_for_rate, rdo_weight=settings.rdo_weight)
    rounding = nearest if settings.rounding == "nearest" else by_weight
    if name in steps:
        return quantize_to_steps(item.value, steps[name], name=name, rounding=rounding)
    return quantize(
        item.value,
        bits_of(item.role, settings),
        name=name,
        by_channel=is_channelwise(item, settings),
        steps=settings.steps,
        rounding=rounding,
    )


def quantized_symbols(
    stored: Mapping[str, StoredTensor], settings: CompressSettings, *, steps: Mapping[str, Tensor] = NO_STEPS
) -> dict[str, QuantizedTensor]:
    """Return the symbols and steps of all tensors as :func:`pack_tensors` writes them, by name.

    Raises
    ------
    FitError
        If a value is not finite, or too large to store.
    """
    return {name: _quantize(name, item, settings, steps) for name, item in stored.items()}


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
        Bits of each role, whether weights have a step a channel, and how steps and symbols are chosen.
    frames_per_chunk
        Frames whose latents are coded together. None: 1, or the least power of two with which chunks cost at
        most 0.5 % of the total besides their content; more, up to 16, where prediction gains by it.
    steps
        Name → steps that a fit has learned, one or one for each index of the first axis; all others follow
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
    _refuse_unreadable(sum(s.num_elements for s in shapes if not s.per_frame), fixed, "the network")
    latents = [record for record in layout.records if record.tensor.per_frame]
    chunks, latent_bits = _pack_chunks(layout, latents, coded, frames_per_chunk)
    elements = {record.tensor.name: coded[record.tensor.name].symbols.size for record in latents}
    components = component_sizes(
        layout, arrays, len(stream), latent_bits, elements, sum(len(chunk) for chunk in chunks)
    )
    return PackedTensors(fixed, tuple(chunks), frames_per_chunk, components)


def _plan(
    shapes: list[TensorShape], coded: Mapping[str, QuantizedTensor], frames_per_chunk: int | None
) -> tuple[Layout, dict[ArrayKey, Symbols], bytes, int]:
    """Choose all models; return layout, arrays of the stream, packed records, and frames in a chunk."""
    arrays = _arrays(shapes, coded)
    groups = _groups(shapes, arrays)
    priced = [price_model(np.concatenate([arrays[member] for member in group])) for group in groups]
    models = [own.model for own in priced]
    model_of = {member: number for number, group in enumerate(groups) for member in group}
    latents = [coded[shape.name].symbols for shape in shapes if shape.per_frame]
    frames_per_chunk, codings = code_latents(
        latents, sum(own.num_bits for own in priced) / 8, frames_per_chunk
    )
    for number, coding in enumerate(codings, len(shapes) - len(latents)):
        model_of[number, False] = len(models)
        models.append(coding.model)
        if coding.first_model is not None:
            models += [coding.first_model] if coding.first_model != coding.model else []
            model_of[number, True] = len(models) - 1
    records, packed, num_defined = [], b"", 0
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
    groups = []
    for is_steps in (False, True):
        keys = [key for key in arrays if (key[1] and not shapes[key[0]].is_over_time) == is_steps]
        groups += [[keys[member] for member in group] for group in group_small([arrays[key] for key in keys])]
    return sorted(sorted(group) for group in groups)


def _pack_record(record: Record, models: Sequence[SymbolModel], num_defined: int) -> bytes:
    """Return the bytes of ``record`` when ``num_defined`` of ``models`` have been defined before it."""

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
    layout: Layout, latents: list[Record], coded: Mapping[str, QuantizedTensor], frames_per_chunk: int
) -> tuple[list[bytes], dict[str, float]]:
    """Return the chunks, and the ideal bits of each per-frame tensor in all of them."""
    bits = {record.tensor.name: 0.0 for record in latents}
    chunks: list[bytes] = []
    num_frames = coded[latents[0].tensor.name].symbols.shape[0] if latents else 0
    for first in range(0, num_frames, max(frames_per_chunk, 1)):
        writer, num_elements = StreamWriter(), 0
        for record in latents:
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
    """Do not write what readers take for a bomb."""
    try:
        check_budget(num_elements, len(payload), what)
    except BitstreamError as error:
        raise FitError(f"nearly all numbers are equal ({error}); fit again or use a smaller model") from None
