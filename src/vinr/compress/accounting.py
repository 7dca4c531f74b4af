"""Where the bytes of a network go, component by component."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vinr.compress.entropy import StreamWriter, Symbols
from vinr.compress.unpack import ArrayKey, Layout, open_fixed
from vinr.errors import BitstreamError, plural
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
    exact = num_bytes * (
        np.asarray(weights) / total if total else np.full(len(weights), 1 / max(len(weights), 1))
    )
    shares = exact.astype(np.int64)
    # The bytes that rounding down leaves over go to the parts that lost most.
    by_loss = np.argsort(shares - exact, kind="stable")
    shares[by_loss[: num_bytes - int(shares.sum())]] += 1
    return shares.tolist()  # type: ignore[no-any-return]


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
    stream_shares = share_bytes(stream_bytes, list(value_bits + side_bits))
    chunk_shares = dict(zip(latent_bits, share_bytes(chunk_bytes, list(latent_bits.values())), strict=True))
    sizes = []
    for number, record in enumerate(layout.records):
        tensor = record.tensor
        sizes.append(
            ComponentSize(
                name=tensor.name,
                role=tensor.role,
                num_elements=latent_elements.get(tensor.name, tensor.num_elements),
                num_bytes=record.num_bytes + stream_shares[number] + chunk_shares.get(tensor.name, 0),
                side_bytes=record.num_bytes + round(float(side_bits[number]) / 8),
                ideal_bits=float(value_bits[number]) + latent_bits.get(tensor.name, 0.0),
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
    if chunks and not layout.latents:
        raise BitstreamError(
            f"the network has {plural(len(chunks), 'chunk')} of latents, but its model has no latents"
        )
    bits = dict.fromkeys((record.tensor.name for record in layout.latents), 0.0)
    elements = dict.fromkeys(bits, 0)
    chunk_bytes = 0
    for num_frames, chunk in chunks:
        chunk_bytes += len(chunk)
        for record, parts in layout.read_chunk(chunk, num_frames):
            for model, symbol_S in parts:
                bits[record.tensor.name] += StreamWriter().write(model, symbol_S)
                elements[record.tensor.name] += symbol_S.shape[0]
    return component_sizes(layout, arrays, stream_bytes, bits, elements, chunk_bytes)


def _bits_of_records(
    layout: Layout, arrays: Mapping[ArrayKey, Symbols]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return, for each record, the bits of its elements, and of its quantisation steps and tables."""
    value_bits, side_bits = np.zeros(len(layout.records)), np.zeros(len(layout.records))
    # A model is part of the record that is the first to use it.
    first_users: dict[int | None, int] = {}
    for number, record in enumerate(layout.records):
        first_users.setdefault(record.model, number)
        first_users.setdefault(record.second_model, number)
    for number, model in enumerate(layout.models):
        side_bits[first_users[number]] += StreamWriter().write_levels(model)
        # An adaptive model learns from all arrays that it codes, so their symbols are priced as one sequence:
        #   symbols   array 0 | array 1 | array 2           uses    [(record, second?), …]
        #   bits_S    ────────┴─────────┴────────           ends    running sums of their lengths
        uses = layout.arrays_of(number)
        if not uses:
            continue
        bits_S = StreamWriter().write_priced(model, np.concatenate([arrays[use] for use in uses]))
        end = 0
        for use in uses:
            start, end = end, end + layout.num_symbols(use)
            owner, is_second = use
            is_side = is_second and layout.records[owner].has_channel_steps
            (side_bits if is_side else value_bits)[owner] += float(bits_S[start:end].sum())
    return value_bits, side_bits
