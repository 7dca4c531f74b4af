"""Decoding sections WEIGHTS and CHUNKS (docs/format.md, 5 and 6): bytes to tensors.

WEIGHTS is one record per tensor and then one stream. The stream holds arrays: the symbols of one tensor, or
of the steps of its channels. A layout says which model codes which arrays.

A tensor over time may be predicted, each step of time by the step before::

    symbols of steps   a  b  c  d   <──>   a | b − a | c − b | d − c
    coded by              second model ────┘   └─────── model ───┘
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vinr.bitstream import ByteReader
from vinr.compress.entropy import StreamReader, SymbolModel, Symbols, accumulate
from vinr.errors import BitstreamError
from vinr.models import Role, StoredTensor

# A step code is a float of 14 bits:  eeeeeee mmmmmmm  stands for  1.mmmmmmm · 2^(eeeeeee − 93)
MANTISSA_BITS: Final = 7
# Of the mantissa as a whole number, 128 … 255: 93 and the 7 bits after its point.
EXPONENT_BIAS: Final = 100
MAX_STEP_CODE: Final = 2**14 - 1
# Steps per channel are stored to an eighth of an octave: coarser steps lose quality and bits alike.
CHANNEL_CODE_UNIT: Final = 16
STEP_BYTES: Final = 2
# Elements that a network or chunk may have: a base, and more for each byte (docs/format.md, section 8).
BUDGET: Final = 2**20
BUDGET_PER_BYTE: Final = 2**13
WHAT: Final = "section WEIGHTS"
CHUNK: Final = "a chunk of latents"

# Number of a record, and whether what its second model codes is meant.
ArrayKey = tuple[int, bool]
# Symbols in a chunk, and the model that codes them.
CodedPart = tuple[SymbolModel, Symbols]


@dataclass(frozen=True)
class QuantizedTensor:
    """``symbols``: int32, shaped as the tensor. ``step_codes``: one, or one for each index of axis 0."""

    symbols: NDArray[np.int32]
    step_codes: tuple[int, ...]

    @property
    def is_channelwise(self) -> bool:
        """Whether there is a step for each index of the first axis."""
        return len(self.step_codes) > 1


def step_of(code: int) -> float:
    """Return the step that ``code`` (0 … 2¹⁴ − 1) stands for; exact in float32."""
    mantissa = (1 << MANTISSA_BITS) + (code & (1 << MANTISSA_BITS) - 1)
    return mantissa * 2.0 ** ((code >> MANTISSA_BITS) - EXPONENT_BIAS)


def dequantize(quantized: QuantizedTensor) -> Tensor:
    """Return the float32 tensor a decoder sees: one exact conversion and one multiplication per element."""
    steps = np.array([step_of(code) for code in quantized.step_codes], dtype=np.float32)
    # (R, 1, …, 1) for a step per index of the first axis; () for the only one.
    shape = (-1,) + (1,) * (quantized.symbols.ndim - 1) if quantized.is_channelwise else ()
    return torch.from_numpy(np.asarray(quantized.symbols.astype(np.float32) * steps.reshape(shape)))


@dataclass(frozen=True)
class TensorShape:
    """What the model says about one tensor; ``shape`` of a per-frame tensor is that of one frame's slice."""

    name: str
    role: Role
    shape: tuple[int, ...]
    per_frame: bool
    rows_per_step: int = 0

    @property
    def num_elements(self) -> int:
        """Elements of the tensor, or of one frame's slice."""
        return prod(self.shape)

    @property
    def is_over_time(self) -> bool:
        """Whether the tensor has steps of time, each of which the one before may predict."""
        return self.per_frame or self.rows_per_step > 0


@dataclass(frozen=True)
class Record:
    """What is stored about one tensor before the stream.

    ``model`` codes its elements. A ``second_model`` codes the first step of time of a tensor over time, whose
    later steps ``model`` then codes as differences; of any other tensor it codes the quantisation steps of
    the channels, which then has no ``step_code``. Models are numbered in order of definition. ``num_bytes``
    is the length of the record.
    """

    tensor: TensorShape
    model: int
    step_code: int = 0
    second_model: int | None = None
    num_bytes: int = 0

    @property
    def is_predicted(self) -> bool:
        """Whether each step of time but the first is coded as its difference to the step before."""
        return self.second_model is not None and self.tensor.is_over_time

    @property
    def has_channel_steps(self) -> bool:
        """Whether there is a quantisation step for each index of the first axis."""
        return self.second_model is not None and not self.tensor.is_over_time


@dataclass(frozen=True)
class Layout:
    """All records of a network and the models they define."""

    records: tuple[Record, ...]
    models: tuple[SymbolModel, ...]

    @cached_property
    def latents(self) -> tuple[Record, ...]:
        """The records of per-frame tensors, in order."""
        return tuple(record for record in self.records if record.tensor.per_frame)

    @cached_property
    def _uses(self) -> dict[int, list[ArrayKey]]:
        """The arrays of the stream of WEIGHTS by the number of their model."""
        uses: dict[int, list[ArrayKey]] = {}
        for number, record in enumerate(self.records):
            if not record.tensor.per_frame:
                uses.setdefault(record.model, []).append((number, False))
                if record.second_model is not None:
                    uses.setdefault(record.second_model, []).append((number, True))
        return uses

    def arrays_of(self, model: int) -> list[ArrayKey]:
        """Return the arrays that ``model`` codes in the stream of WEIGHTS, in order."""
        return self._uses.get(model, [])

    def num_symbols(self, array: ArrayKey) -> int:
        """Return the length of an array of :meth:`arrays_of`."""
        number, is_second = array
        tensor = self.records[number].tensor
        if not self.records[number].is_predicted:
            return tensor.shape[0] if is_second else tensor.num_elements
        # axis 0:  rows of step 0 | rows of step 1 | …     second model: step 0, model: all later steps
        num_first = min(tensor.rows_per_step * prod(tensor.shape[1:]), tensor.num_elements)
        return num_first if is_second else tensor.num_elements - num_first

    def read_stream(self, stream: bytes) -> tuple[Layout, dict[ArrayKey, Symbols]]:
        """Return the layout with the levels of its histograms, and all arrays.

        Raises
        ------
        BitstreamError
            If the stream cannot have been written with these models.
        """
        reader = StreamReader(stream, WHAT)
        models: list[SymbolModel] = []
        arrays: dict[ArrayKey, Symbols] = {}
        for number, model in enumerate(self.models):
            models.append(reader.read_levels(model))
            uses = self.arrays_of(number)
            # All arrays of a model are one sequence in the stream: an adaptive model learns from all of it.
            symbol_S = reader.read(models[-1], sum(map(self.num_symbols, uses)))
            end = 0
            for use in uses:
                start, end = end, end + self.num_symbols(use)
                arrays[use] = symbol_S[start:end]
        return Layout(self.records, tuple(models)), arrays

    def read_chunk(self, payload: bytes, num_frames: int) -> list[tuple[Record, list[CodedPart]]]:
        """Return the symbols of each per-frame tensor in a chunk of ``num_frames`` frames, as they are coded.

        Raises
        ------
        BitstreamError
            If the chunk cannot have been written with these models.
        """
        slice_elements = sum(record.tensor.num_elements for record in self.latents)
        check_budget(num_frames * slice_elements, len(payload), CHUNK)
        reader = StreamReader(payload, CHUNK)
        coded: list[tuple[Record, list[CodedPart]]] = []
        for record in self.latents:
            parts: list[CodedPart] = []
            for model, count in self._parts(record, num_frames):
                parts.append((model, reader.read(model, count)))
            coded.append((record, parts))
        return coded

    def _parts(self, record: Record, num_frames: int) -> list[tuple[SymbolModel, int]]:
        """Return the models that code a tensor's slices in a chunk, in order, and how many symbols each."""
        model, num_elements = self.models[record.model], record.tensor.num_elements
        if record.second_model is None:
            return [(model, num_frames * num_elements)]
        return [(self.models[record.second_model], num_elements), (model, (num_frames - 1) * num_elements)]


def ordered_shapes(stored: Mapping[str, StoredTensor]) -> list[TensorShape]:
    """Return what ``stored`` says about its tensors, in order of records: per-frame ones last, by name."""
    shapes = []
    for name, item in stored.items():
        shape = tuple(item.value.shape[1:] if item.per_frame else item.value.shape)
        shapes.append(TensorShape(name, item.role, shape, item.per_frame, item.rows_per_step))
    # Sorting is stable: tensors that are not per-frame stay in the model's order.
    return sorted(shapes, key=lambda tensor: (tensor.per_frame, tensor.name if tensor.per_frame else ""))


def check_budget(num_elements: int, num_bytes: int, what: str) -> None:
    """Refuse tensors that are too large for the bytes they are coded in (docs/format.md, section 8).

    Raises
    ------
    BitstreamError
        If ``num_bytes`` bytes of ``what`` stand for ``num_elements`` elements.
    """
    limit = BUDGET + BUDGET_PER_BYTE * num_bytes
    if num_elements > limit:
        raise BitstreamError(
            f"{what} of {num_bytes} bytes would hold {num_elements} values; at most {limit} are allowed"
        )


def read_layout(reader: ByteReader, shapes: Sequence[TensorShape]) -> Layout:
    """Read the records of tensors with ``shapes``.

    Raises
    ------
    BitstreamError
        If a record breaks a rule of the format.
    """
    models: list[SymbolModel] = []

    def refer(number: int) -> int:
        # 0: a model is defined here; n > 0: model n − 1, defined before.
        if number == 0:
            models.append(SymbolModel.unpack(reader))
            return len(models) - 1
        if number > len(models):
            raise BitstreamError(f"{WHAT} uses model {number - 1}, {len(models)} are defined so far")
        return number - 1

    records = []
    for tensor in shapes:
        start = reader.position
        # varint  m…m c   m: reference to the model; c: whether a reference to a second one follows
        coded = reader.varint()
        model = refer(coded >> 1)
        second = refer(reader.varint()) if coded & 1 else None
        record = Record(tensor, model, second_model=second)
        step_code = 0
        if record.has_channel_steps:
            # A tensor has channel steps only if a second model was read.
            assert second is not None
            _check_channel_steps(tensor, models[second])
        else:
            step_code = reader.fixed(STEP_BYTES)
            if step_code > MAX_STEP_CODE:
                raise BitstreamError(f"{WHAT} has step code {step_code}, at most {MAX_STEP_CODE} is allowed")
        is_static = models[model].is_static and (second is None or models[second].is_static)
        if tensor.per_frame and not is_static:
            raise BitstreamError(f"{WHAT} has an adaptive model for {tensor.name}, whose frames stand alone")
        records.append(replace(record, step_code=step_code, num_bytes=reader.position - start))
    return Layout(tuple(records), tuple(models))


def _check_channel_steps(tensor: TensorShape, model: SymbolModel) -> None:
    if len(tensor.shape) < 2:
        raise BitstreamError(f"{WHAT} has steps per channel for {tensor.name}, which has no channels")
    last = MAX_STEP_CODE // CHANNEL_CODE_UNIT
    if model.low < 0 or model.low + model.size - 1 > last:
        raise BitstreamError(f"{WHAT} has {model.size} steps from {model.low}; 0 … {last} are allowed")


def open_fixed(
    payload: bytes, expected: Mapping[str, StoredTensor]
) -> tuple[Layout, dict[ArrayKey, Symbols], int]:
    """Decode section WEIGHTS to symbols: return layout, arrays, and the length of the stream."""
    shapes = ordered_shapes(expected)
    num_elements = sum(shape.num_elements for shape in shapes if not shape.per_frame)
    check_budget(num_elements, len(payload), WHAT)
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
    layout, arrays, _ = open_fixed(payload, expected)
    decoder = ChunkDecoder(layout, frames_per_chunk)
    tensors = {}
    for number, record in enumerate(layout.records):
        tensor = record.tensor
        if tensor.per_frame:
            continue
        codes: tuple[int, ...] = (record.step_code,)
        symbol_S = arrays[number, False]
        if record.has_channel_steps:
            codes = tuple((arrays[number, True] * CHANNEL_CODE_UNIT).tolist())
        elif record.is_predicted:
            num_steps = tensor.shape[0] // tensor.rows_per_step
            symbol_S = accumulate((arrays[number, True], symbol_S), num_steps, WHAT)
        value = dequantize(QuantizedTensor(symbol_S.reshape(tensor.shape), codes))
        tensors[tensor.name] = StoredTensor(value, tensor.role, rows_per_step=tensor.rows_per_step)
    return tensors, decoder


class ChunkDecoder:
    """Decodes chunks of latents one by one, in any order."""

    def __init__(self, layout: Layout, frames_per_chunk: int) -> None:
        self._layout = layout
        num_latents = len(layout.latents)
        if bool(num_latents) != (frames_per_chunk > 0):
            raise BitstreamError(
                f"the header has {frames_per_chunk} frames per chunk, the model {num_latents} latents"
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
        values = {}
        for record, parts in self._layout.read_chunk(payload, num_frames):
            _, symbol_S = parts[0]
            if record.is_predicted:
                symbol_S = accumulate((symbol_S, parts[1][1]), num_frames, CHUNK)
            shaped = symbol_S.reshape(num_frames, *record.tensor.shape)
            values[record.tensor.name] = dequantize(QuantizedTensor(shaped, (record.step_code,)))
        return values
