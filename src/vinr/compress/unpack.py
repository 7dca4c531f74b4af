"""Decoding sections WEIGHTS and CHUNKS (docs/format.md, 5 and 6): bytes to tensors.

WEIGHTS is a record for each tensor and then one stream. The stream holds arrays: the symbols of one tensor,
or of the steps of its channels. A layout says which model codes which arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Final

import numpy as np
from torch import Tensor

from vinr.bitstream import ByteReader
from vinr.compress.entropy import StreamReader, SymbolModel, Symbols
from vinr.compress.quantize import CHANNEL_CODE_UNIT, MAX_STEP_CODE, QuantizedTensor, dequantize
from vinr.errors import BitstreamError
from vinr.models import Role, StoredTensor

__all__ = [
    "BUDGET",
    "STEP_BYTES",
    "ChunkDecoder",
    "Layout",
    "Record",
    "TensorShape",
    "check_budget",
    "open_fixed",
    "ordered_shapes",
    "unpack_fixed",
]

STEP_BYTES: Final = 2
BUDGET: Final = 2**20
BUDGET_A_BYTE: Final = 2**13
WHAT: Final = "section WEIGHTS"


@dataclass(frozen=True)
class TensorShape:
    """What the model says about one tensor; ``shape`` of a per-frame tensor is that of one frame's slice."""

    name: str
    role: Role
    shape: tuple[int, ...]
    per_frame: bool

    @property
    def num_elements(self) -> int:
        """Elements of the tensor, or of one frame's slice."""
        return prod(self.shape)


@dataclass(frozen=True)
class Record:
    """What is stored about one tensor before the stream.

    ``model`` codes its elements, ``step_model`` its channels' steps where there is no one ``step_code``.
    Models are numbered in order of definition. ``num_bytes`` is the length of the record.
    """

    tensor: TensorShape
    model: int
    step_code: int = 0
    step_model: int | None = None
    num_bytes: int = 0


@dataclass(frozen=True)
class Layout:
    """All records of a network and the models they define."""

    records: tuple[Record, ...]
    models: tuple[SymbolModel, ...]

    @cached_property
    def _uses(self) -> list[list[tuple[int, bool]]]:
        uses: list[list[tuple[int, bool]]] = [[] for _ in self.models]
        for number, record in enumerate(self.records):
            if not record.tensor.per_frame:
                uses[record.model].append((number, False))
            if record.step_model is not None:
                uses[record.step_model].append((number, True))
        return uses

    def arrays_of(self, model: int) -> list[tuple[int, bool]]:
        """Return the arrays that ``model`` codes in the stream, in order: record number, whether steps."""
        return self._uses[model]

    def num_symbols(self, array: tuple[int, bool]) -> int:
        """Return the length of an array of :meth:`arrays_of`."""
        number, is_steps = array
        tensor = self.records[number].tensor
        return tensor.shape[0] if is_steps else tensor.num_elements

    def read_stream(self, stream: bytes) -> tuple[Layout, dict[tuple[int, bool], Symbols]]:
        """Return the layout with the levels of its histograms, and all arrays.

        Raises
        ------
        BitstreamError
            If the stream cannot have been written with these models.
        """
        reader = StreamReader(stream, WHAT)
        models: list[SymbolModel] = []
        arrays: dict[tuple[int, bool], Symbols] = {}
        for number, model in enumerate(self.models):
            models.append(reader.read_levels(model))
            uses = self.arrays_of(number)
            lengths = [self.num_symbols(use) for use in uses]
            symbol_S = reader.read(models[-1], sum(lengths))
            parts = np.split(symbol_S, np.cumsum(lengths)[:-1]) if uses else []
            arrays |= dict(zip(uses, parts, strict=True))
        return Layout(self.records, tuple(models)), arrays


def ordered_shapes(stored: Mapping[str, StoredTensor]) -> list[TensorShape]:
    """Return what ``stored`` says about its tensors, in order of records: per-frame ones last, by name."""
    shapes = [
        TensorShape(name, item.role, tuple(item.value.shape[item.per_frame :]), item.per_frame)
        for name, item in stored.items()
    ]
    fixed = [shape for shape in shapes if not shape.per_frame]
    return fixed + sorted((shape for shape in shapes if shape.per_frame), key=lambda shape: shape.name)


def check_budget(num_elements: int, num_bytes: int, what: str) -> None:
    """Refuse tensors that are larger than so few bytes can be meant for (docs/format.md, section 8).

    Raises
    ------
    BitstreamError
        If ``num_bytes`` bytes of ``what`` stand for ``num_elements`` elements.
    """
    limit = BUDGET + BUDGET_A_BYTE * num_bytes
    if num_elements > limit:
        raise BitstreamError(
            f"{what} of {num_bytes} bytes would hold {num_elements} numbers, at most {limit} are allowed"
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
        if number == 0:
            models.append(SymbolModel.unpack(reader))
            return len(models) - 1
        if number > len(models):
            raise BitstreamError(f"{WHAT} uses model {number - 1}, {len(models)} are defined so far")
        return number - 1

    records = []
    for tensor in shapes:
        start = reader.position
        coded = reader.varint()
        model = refer(coded >> 1)
        step_code, step_model = 0, None
        if coded & 1:
            if tensor.per_frame or len(tensor.shape) < 2:
                raise BitstreamError(f"{WHAT} has steps a channel for {tensor.name}, which has no channels")
            step_model = refer(reader.varint())
            _check_step_model(models[step_model])
        else:
            step_code = reader.fixed(STEP_BYTES)
            if step_code > MAX_STEP_CODE:
                raise BitstreamError(f"{WHAT} has step code {step_code}, at most {MAX_STEP_CODE} is allowed")
        if tensor.per_frame and not models[model].is_static:
            raise BitstreamError(f"{WHAT} has an adaptive model for {tensor.name}, whose frames stand alone")
        records.append(Record(tensor, model, step_code, step_model, reader.position - start))
    return Layout(tuple(records), tuple(models))


def _check_step_model(model: SymbolModel) -> None:
    last = MAX_STEP_CODE // CHANNEL_CODE_UNIT
    if model.low < 0 or model.low + model.size - 1 > last:
        raise BitstreamError(f"{WHAT} has {model.size} steps from {model.low}; 0 … {last} are allowed")


def open_fixed(
    payload: bytes, expected: Mapping[str, StoredTensor]
) -> tuple[Layout, dict[tuple[int, bool], Symbols], int]:
    """Decode section WEIGHTS to symbols: return layout, arrays, and the length of the stream."""
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
    layout, arrays, _ = open_fixed(payload, expected)
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
