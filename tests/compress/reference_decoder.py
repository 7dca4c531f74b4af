"""A second decoder of sections WEIGHTS and CHUNKS, written from docs/format.md with Python integers alone.

It shares nothing with vinr.compress: if both read the same symbols from the same bytes, then document,
tables and what is asked of the library of the range coder agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import isqrt, prod

TOTAL = 2**24
WORD = 2**32
WRAP = 2**64
TAILS = (20, 14, 11, 8)


class Bytes:
    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.at = 0

    def u8(self) -> int:
        self.at += 1
        return self.payload[self.at - 1]

    def u16(self) -> int:
        return self.u8() + 256 * self.u8()

    def varint(self) -> int:
        value, place, byte = 0, 1, 128
        while byte >= 128:
            byte = self.u8()
            value += byte % 128 * place
            place *= 128
        return value

    def zigzag(self) -> int:
        coded = self.varint()
        return -(coded + 1) // 2 if coded % 2 else coded // 2


class RangeDecoder:
    def __init__(self, stream: bytes) -> None:
        padded = stream + bytes(-len(stream) % 4)
        self.words = [int.from_bytes(padded[at : at + 4], "big") for at in range(0, len(padded), 4)]
        self.at = 0
        self.lower, self.range = 0, WRAP - 1
        self.point = self.word() * WORD + self.word()

    def word(self) -> int:
        self.at += 1
        return self.words[self.at - 1] if self.at <= len(self.words) else 0

    def symbol(self, table: list[int]) -> int:
        scale = self.range >> 24
        value = (self.point - self.lower) % WRAP // scale
        if value >= TOTAL:
            raise ValueError("no stream of this coder")
        below, number = 0, 0
        while value >= below + table[number]:
            below += table[number]
            number += 1
        self.lower = (self.lower + scale * below) % WRAP
        self.range = scale * table[number]
        if self.range < WORD:
            self.lower = self.lower * WORD % WRAP
            self.range *= WORD
            self.point = self.point * WORD % WRAP + self.word()
        return number


@cache
def root(part: int) -> int:
    value = 2 ** (6144 - part)
    for _ in range(8):
        value = isqrt(value)
    return value


def power(x: int) -> int:
    return 0 if x // 256 >= 25 else root(x % 256) >> x // 256


def normalise(weights: list[int]) -> list[int]:
    table = [1 + weight * (TOTAL - len(weights)) // sum(weights) for weight in weights]
    table[weights.index(max(weights))] += TOTAL - sum(table)
    return table


def bell(num_entries: int, centre: int, scale: int, shape: int, tail: int) -> list[int]:
    factor = isqrt(isqrt(isqrt(2 ** (224 - scale))))
    weights = []
    for entry in range(num_entries):
        t = abs(entry - centre) * factor >> 16
        x = (t, t * t // (t + 256), t * t >> 8)[shape]
        weights.append(max(power(x), TOTAL >> TAILS[tail]))
    return normalise(weights)


@dataclass
class Model:
    low: int
    size: int
    shift: int = 0
    kind: int = 0
    table: list[int] | None = None
    weight: int = 0

    @property
    def num_entries(self) -> int:
        return (self.size - 1 >> self.shift) + 1

    def high_parts(self, decoder: RangeDecoder, num_symbols: int) -> list[int]:
        assert self.table is not None
        if self.num_entries == 1:
            return [0] * num_symbols
        if self.kind:
            return [decoder.symbol(self.table) for _ in range(num_symbols)]
        counts, symbols = [0] * self.num_entries, []
        while len(symbols) < num_symbols:
            length = min(4096, max(64, len(symbols) >> 3), num_symbols - len(symbols))
            weights = [
                (n << 16) + ((prior << self.weight) >> 8) for n, prior in zip(counts, self.table, strict=True)
            ]
            table = normalise(weights)
            block = [decoder.symbol(table) for _ in range(length)]
            for symbol in block:
                counts[symbol] += 1
            if sum(counts) >= 2**17:
                counts = [n >> 1 for n in counts]
            symbols += block
        return symbols

    def symbols(self, decoder: RangeDecoder, num_symbols: int) -> list[int]:
        if self.size == 1:
            return [self.low] * num_symbols
        high = self.high_parts(decoder, num_symbols)
        uniform = [TOTAL >> self.shift] * 2**self.shift
        low = [decoder.symbol(uniform) for _ in high] if self.shift else [0] * num_symbols
        return [self.low + (h << self.shift) + part for h, part in zip(high, low, strict=True)]


def read_model(data: Bytes) -> Model:
    model = Model(data.zigzag(), data.varint())
    if model.size == 1:
        return model
    layout = data.u8()
    model.shift, model.kind = layout % 16, layout // 16
    if model.kind < 2:
        centre, scale, form = data.varint(), data.u8(), data.u8()
        model.table = bell(model.num_entries, centre, scale, form % 4, form // 4 % 4)
        model.weight = form // 16
    return model


def read_levels(model: Model, decoder: RangeDecoder) -> None:
    if model.size == 1 or model.kind != 2:
        return
    deltas = Model(0, 191, table=bell(191, 95, 40, 0, 2), weight=4)
    level, weights = 0, []
    for delta in deltas.symbols(decoder, model.num_entries):
        level += delta - 95
        weights.append(power(64 * (95 - level)))
    model.table = normalise(weights)


@dataclass
class Weights:
    """``symbols`` and ``step_codes`` of each tensor by name; ``latents``: (name, slice shape, model, model
    of a chunk's first slice where the others are predicted).
    """

    symbols: dict[str, list[int]]
    step_codes: dict[str, list[int]]
    latents: list[tuple[str, tuple[int, ...], Model, Model | None]]


def add_up(first: list[int], differences: list[int]) -> list[int]:
    """Return the symbols of all steps of time."""
    symbols = list(first)
    for difference in differences:
        symbols.append(symbols[-len(first)] + difference)
        if abs(symbols[-1]) > 2**24:
            raise ValueError("a sum that is no symbol")
    return symbols


def decode_weights(
    payload: bytes,
    shapes: dict[str, tuple[tuple[int, ...], bool]],
    rows_per_step: dict[str, int] | None = None,
) -> Weights:
    """Decode section WEIGHTS.

    ``shapes``: name → shape (of a slice, if per-frame) and whether per-frame. ``rows_per_step``: name → rows
    in a step of time, of the other tensors that run over time.
    """
    data = Bytes(payload)
    models: list[Model] = []
    uses: dict[int, list[tuple[str, str, int]]] = {}

    def refer(number: int) -> int:
        if number == 0:
            models.append(read_model(data))
        return number - 1 if number else len(models) - 1

    weights = Weights({}, {}, [])
    names = [n for n in shapes if not shapes[n][1]] + sorted(n for n in shapes if shapes[n][1])
    for name in names:
        shape, per_frame = shapes[name]
        rows = (rows_per_step or {}).get(name, 0)
        coded = data.varint()
        model = refer(coded // 2)
        second = refer(data.varint()) if coded % 2 else None
        if second is None or per_frame or rows:
            weights.step_codes[name] = [data.u16()]
        if per_frame:
            weights.latents.append((name, shape, models[model], None if second is None else models[second]))
            continue
        num_first = rows * prod(shape[1:]) if second is not None else 0
        uses.setdefault(model, []).append((name, "later" if rows else "all", prod(shape) - num_first))
        if second is not None:
            uses.setdefault(second, []).append(
                (name, "first", num_first) if rows else (name, "steps", shape[0])
            )
    parts: dict[tuple[str, str], list[int]] = {}
    decoder = RangeDecoder(payload[data.at :])
    for number, model in enumerate(models):
        read_levels(model, decoder)
        arrays = uses.get(number, [])
        symbols = model.symbols(decoder, sum(length for _, _, length in arrays))
        for name, what, length in arrays:
            parts[name, what], symbols = symbols[:length], symbols[length:]
    for (name, what), part in parts.items():
        if what == "steps":
            weights.step_codes[name] = [16 * t for t in part]
        elif what == "later":
            weights.symbols[name] = add_up(parts[name, "first"], part) if (name, "first") in parts else part
        elif what == "all":
            weights.symbols[name] = part
    return weights


def decode_chunk(payload: bytes, weights: Weights, num_frames: int) -> dict[str, list[int]]:
    """Decode a chunk of ``num_frames`` frames to symbols by name."""
    decoder = RangeDecoder(payload)
    symbols = {}
    for name, shape, model, first_model in weights.latents:
        if first_model is None:
            symbols[name] = model.symbols(decoder, num_frames * prod(shape))
        else:
            first = first_model.symbols(decoder, prod(shape))
            symbols[name] = add_up(first, model.symbols(decoder, (num_frames - 1) * prod(shape)))
    return symbols


def step(code: int) -> float:
    return (128 + code % 128) * 2.0 ** (code // 128 - 100)
