"""Where the bytes of a network go, component by component."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vinr.compress.entropy import StreamWriter, Symbols
from vinr.compress.unpack import ArrayKey, Layout, open_fixed
from vinr.errors import BitstreamError
from vinr.models import Role, StoredTensor


@dataclass(frozen=True)
class ComponentSize:
    """Bytes of one tensor in the file.

    Tensors share one stream, which is divided among them in proportion to their ideal bits and so that all
    ``num_bytes`` add up to the sections' sizes. ``side_bytes`` of them are steps, models and tables.
    ``ideal_bits`` is the sum of −log2 of the probability, in the tables used, of each of ``num_elements``.
    """

    name: str
    role: Role
    num_elements: int
    num_bytes: int
    side_bytes: int
    ideal_bits: float


def share_bytes(num_bytes: int, weights: Sequence[float]) -> list[int]:
    """Divide ``num_bytes`` in proportion to ``weights`` ≥ 0 (equally if all are 0) by largest remainder."""
    total = sum(weights)
    exact = [num_bytes * (weight / total if total else 1 / len(weights)) for weight in weights]
    shares = [int(part) for part in exact]
    by_remainder = sorted(range(len(exact)), key=lambda number: shares[number] - exact[number])
    for number in by_remainder[: num_bytes - sum(shares)]:
        shares[number] += 1
    return shares


def component_sizes(
    layout: Layout,
    arrays: Mapping[ArrayKey, Symbols],
    stream_bytes: int,
    latent_bits: Mapping[str, float],
    latent_elements: Mapping[str, int],
    chunk_bytes: int,
) -> tuple[ComponentSize, ...]:
    """Return the size of each tensor of ``layout``.

    ``stream_bytes`` is the length of the stream that holds ``arrays``, ``chunk_bytes`` that of all chunks;
    ``latent_bits`` and ``latent_elements`` are what each per-frame tensor has in them.
    """
    value_bits, side_bits = _bits_of_records(layout, arrays)
    stream_shares = share_bytes(stream_bytes, [v + s for v, s in zip(value_bits, side_bits, strict=True)])
    names = list(latent_bits)
    chunk_shares = dict(zip(names, share_bytes(chunk_bytes, [latent_bits[n] for n in names]), strict=True))
    sizes = []
    for number, record in enumerate(layout.records):
        tensor = record.tensor
        sizes.append(
            ComponentSize(
                name=tensor.name,
                role=tensor.role,
                num_elements=latent_elements.get(tensor.name, tensor.num_elements),
                num_bytes=record.num_bytes + stream_shares[number] + chunk_shares.get(tensor.name, 0),
                side_bytes=record.num_bytes + round(side_bits[number] / 8),
                ideal_bits=value_bits[number] + latent_bits.get(tensor.name, 0.0),
            )
        )
    return tuple(sizes)


def network_sizes(
    payload: bytes, expected: Mapping[str, StoredTensor], chunks: Sequence[tuple[int, bytes]] = ()
) -> tuple[ComponentSize, ...]:
    """Return where the bytes of a network go: those of section WEIGHTS and of its ``chunks`` of latents.

    A chunk is the number of its frames and its bytes. All symbols are decoded, none is made a float.

    Raises
    ------
    BitstreamError
        If section or chunks are damaged, hostile, or do not fit the model.
    """
    layout, arrays, stream_bytes = open_fixed(payload, expected)
    latents = [record for record in layout.records if record.tensor.per_frame]
    if chunks and not latents:
        raise BitstreamError(f"a network has {len(chunks)} chunks of latents, its model has no latents")
    bits = {record.tensor.name: 0.0 for record in latents}
    elements = dict.fromkeys(bits, 0)
    for num_frames, chunk in chunks:
        for record, parts in layout.read_chunk(chunk, num_frames):
            for model, symbol_S in parts:
                bits[record.tensor.name] += StreamWriter().write(model, symbol_S)
                elements[record.tensor.name] += symbol_S.shape[0]
    chunk_bytes = sum(len(chunk) for _, chunk in chunks)
    return component_sizes(layout, arrays, stream_bytes, bits, elements, chunk_bytes)


def _bits_of_records(layout: Layout, arrays: Mapping[ArrayKey, Symbols]) -> tuple[list[float], list[float]]:
    """Return the bits of each record's elements, and of its quantisation steps and tables."""
    value_bits, side_bits = [0.0] * len(layout.records), [0.0] * len(layout.records)
    definers: dict[int | None, int] = {}
    for number, record in enumerate(layout.records):
        definers.setdefault(record.model, number)
        definers.setdefault(record.second_model, number)
    for number, model in enumerate(layout.models):
        side_bits[definers[number]] += StreamWriter().write_levels(model)
        uses = layout.arrays_of(number)
        if not uses:
            continue
        bits_S = StreamWriter().write_priced(model, np.concatenate([arrays[use] for use in uses]))
        ends = np.cumsum([layout.num_symbols(use) for use in uses])
        for (owner, is_second), part_S in zip(uses, np.split(bits_S, ends[:-1]), strict=True):
            is_side = is_second and layout.records[owner].has_channel_steps
            (side_bits if is_side else value_bits)[owner] += float(part_S.sum())
    return value_bits, side_bits
