"""Records and stream of section WEIGHTS (docs/format.md, section 5): which model codes which array.

An array is the symbols of one tensor, or of the steps of its channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np

from vinr.bitstream import ByteReader, pack_varint
from vinr.compress.entropy import StreamReader, StreamWriter, SymbolModel, Symbols
from vinr.compress.quantize import CHANNEL_CODE_UNIT, MAX_STEP_CODE
from vinr.errors import BitstreamError
from vinr.models import Role, StoredTensor

__all__ = ["Layout", "Record", "TensorShape", "check_budget", "ordered_shapes", "read_layout"]

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

    def arrays_of(self, model: int) -> list[tuple[int, bool]]:
        """Return the arrays that ``model`` codes in the stream, in order: record number, whether steps."""
        uses = []
        for number, record in enumerate(self.records):
            if record.model == model and not record.tensor.per_frame:
                uses.append((number, False))
            if record.step_model == model:
                uses.append((number, True))
        return uses

    def num_symbols(self, array: tuple[int, bool]) -> int:
        """Return the length of an array of :meth:`arrays_of`."""
        number, is_steps = array
        tensor = self.records[number].tensor
        return tensor.shape[0] if is_steps else tensor.num_elements

    def write_stream(self, arrays: Mapping[tuple[int, bool], Symbols]) -> bytes:
        """Return the stream that holds ``arrays``."""
        writer = StreamWriter()
        for number, model in enumerate(self.models):
            writer.write_levels(model)
            uses = self.arrays_of(number)
            if uses:
                writer.write(model, np.concatenate([arrays[use] for use in uses]))
        return writer.finish()

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
    """Refuse tensors that are larger than so few bytes can be meant for (docs/format.md, section 7).

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


def pack_record(record: Record, models: Sequence[SymbolModel], num_defined: int) -> bytes:
    """Return the bytes of ``record`` when ``num_defined`` of ``models`` have been defined before it."""

    def reference(model: int, low_bit: int, factor: int) -> bytes:
        nonlocal num_defined
        if model < num_defined:
            return pack_varint(factor * (model + 1) + low_bit)
        num_defined += 1
        return pack_varint(low_bit) + models[model].pack()

    if record.step_model is None:
        return reference(record.model, 0, 2) + record.step_code.to_bytes(STEP_BYTES, "little")
    return reference(record.model, 1, 2) + reference(record.step_model, 0, 1)


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
