"""The encoder's choice of prediction: where time changes little, differences are shorter than symbols.

::

    tensor over time ──┬─> as it is ───────────────────────────────────────┬─> the shorter one
                       └─> first step, differences of each step to the last ┘

Latents start again with each chunk, so the more frames it holds, the better they are predicted; but a frame
is not decoded without those before it in its chunk.

Axes: T steps of time (frames of latents), S symbols.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from vinr.compress.entropy import MAX_SIZE, SymbolModel, Symbols, differences
from vinr.compress.search import SMALL_ARRAY, group_small, price_model
from vinr.compress.unpack import BUDGET, BUDGET_PER_BYTE

# Prediction makes chunks larger than they need be up to here: to show a frame, its whole chunk is decoded.
MAX_FRAMES: Final = 16
# What a chunk costs besides its content: its size and checksum in the index, and the rounding of its stream.
CHUNK_OVERHEAD_BYTES: Final = 6
# The share of all bytes that small chunks are worth: a frame is found faster.
OVERHEAD_SHARE: Final = 0.005
# The reference of a record to its second model.
REFERENCE_BITS: Final = 8
# A saving below this share is less than what prices miss: adaptive models, whole bytes per chunk.
MIN_SAVING: Final = 0.01


def predict_tensor(symbol_S: Symbols, num_steps: int) -> tuple[Symbols, Symbols] | None:
    """Return the first of ``num_steps`` steps of time and the differences of the others, if that is shorter.

    None if it is not, however the symbols as they are may share a model with other tensors.
    """
    if num_steps < 2 or not symbol_S.size:
        return None
    first_S, difference_S = differences(symbol_S.reshape(num_steps, -1))
    if not _fits(difference_S):
        return None
    direct = price_model(symbol_S, static=True)
    # A small array may share a model with others, which then carry its definition: count the symbols alone.
    direct_bits = direct.symbol_bits if symbol_S.size <= SMALL_ARRAY else direct.num_bits
    first, later = price_model(first_S, static=True), price_model(difference_S, static=True)
    num_bits = REFERENCE_BITS + first.num_bits + later.num_bits
    # Readers take this many symbols in so few bytes for a decompression bomb.
    is_readable = symbol_S.size <= BUDGET_PER_BYTE * num_bits / 8
    is_shorter = num_bits < (1 - MIN_SAVING) * direct_bits
    return (first_S, difference_S) if is_shorter and is_readable else None


@dataclass(frozen=True)
class LatentCoding:
    """How a per-frame tensor is coded, and in how many bits, the models among them.

    ``model`` codes its symbols. Where there is a ``first_model``, that one codes the first frame of a chunk,
    and ``model`` the differences of each later frame to the one before.
    """

    model: SymbolModel
    first_model: SymbolModel | None
    num_bits: float


def code_latents(
    latents: Sequence[Symbols], fixed_bytes: float, frames_per_chunk: int | None
) -> tuple[int, list[LatentCoding]]:
    """Return how many frames make a chunk, and how each of ``latents`` (T, …) is coded; (0, []) for none.

    ``fixed_bytes`` is what the rest of the network takes. Without ``frames_per_chunk``, it is 1, or the
    smallest power of two with which chunks cost at most 0.5 % of the total besides their content; or the best
    larger one up to 16, if predicted latents make the total 0.5 % smaller with it.

    Raises
    ------
    ValueError
        If tensors differ in their number of frames.
    """
    if not latents:
        return 0, []
    num_frames = latents[0].shape[0]
    slice_elements = 0
    direct: list[LatentCoding] = []
    for symbol_TS in latents:
        if symbol_TS.shape[0] != num_frames:
            counts = sorted({num_frames, symbol_TS.shape[0]})
            raise ValueError(f"per-frame tensors have different numbers of frames: {counts}")
        slice_elements += symbol_TS[0].size
        priced = price_model(symbol_TS.ravel(), static=True)
        direct.append(LatentCoding(priced.model, None, priced.num_bits))
    if frames_per_chunk:
        return frames_per_chunk, _code(latents, direct, frames_per_chunk)
    total_bytes = fixed_bytes + _num_bytes(direct)
    size = _smallest_chunk(num_frames, slice_elements, total_bytes)
    best_size, best = size, _code(latents, direct, size)
    best_bytes = least_bytes = _num_bytes(best, num_frames, size)
    # Twice, four times, … as many frames: as long as that makes fewer chunks, which readers still accept.
    while (
        2 * size <= MAX_FRAMES and size < num_frames and min(2 * size, num_frames) * slice_elements <= BUDGET
    ):
        size *= 2
        codings = _code(latents, direct, size)
        num_bytes = _num_bytes(codings, num_frames, size)
        # Larger chunks for the sake of prediction alone: where nothing is predicted, they only save overhead.
        is_worth_it = num_bytes < least_bytes - OVERHEAD_SHARE * total_bytes
        if codings != direct and num_bytes < best_bytes and is_worth_it:
            best_size, best, best_bytes = size, codings, num_bytes
    return best_size, best


def _num_bytes(codings: Sequence[LatentCoding], num_frames: int = 0, frames_per_chunk: int = 1) -> float:
    """Return the bytes of per-frame tensors, with the overhead of their chunks."""
    num_chunks = -(-num_frames // frames_per_chunk)
    return num_chunks * CHUNK_OVERHEAD_BYTES + sum(coding.num_bits for coding in codings) / 8


def _smallest_chunk(num_frames: int, slice_elements: int, total_bytes: float) -> int:
    """Return the smallest power of two of frames whose chunks cost little, within what readers accept."""
    max_chunks = OVERHEAD_SHARE * total_bytes / CHUNK_OVERHEAD_BYTES
    max_frames = min(num_frames, BUDGET // max(slice_elements, 1))
    frames_per_chunk = 1
    while num_frames / frames_per_chunk > max_chunks and 2 * frames_per_chunk <= max_frames:
        frames_per_chunk *= 2
    return frames_per_chunk


def _code(
    latents: Sequence[Symbols], direct: Sequence[LatentCoding], frames_per_chunk: int
) -> list[LatentCoding]:
    """Return the shorter of ``direct`` and prediction for each tensor, in chunks of ``frames_per_chunk``."""
    codings = []
    for symbol_TS, plain in zip(latents, direct, strict=True):
        predicted = code_predicted(symbol_TS, frames_per_chunk)
        if predicted is None or predicted.num_bits >= (1 - MIN_SAVING) * plain.num_bits:
            predicted = plain
        codings.append(predicted)
    return codings


def code_predicted(symbol_TS: Symbols, frames_per_chunk: int) -> LatentCoding | None:
    """Return how a tensor is coded with prediction; None where that cannot be."""
    num_frames = symbol_TS.shape[0]
    if min(frames_per_chunk, num_frames) < 2 or not symbol_TS.size:
        return None
    # frames              0 1 2 3 | 4 5 6 7 | 8 9       in chunks of 4
    # as they are         0       | 4       | 8         one model for all of these
    # as differences        1 2 3 |   5 6 7 |   9       and one for these
    firsts: list[Symbols] = []
    later: list[Symbols] = []
    for start in range(0, num_frames, frames_per_chunk):
        first_S, difference_S = differences(symbol_TS[start : start + frames_per_chunk])
        firsts.append(first_S)
        later.append(difference_S)
    first_S, difference_S = np.concatenate(firsts), np.concatenate(later)
    if not _fits(difference_S):
        return None
    if len(group_small([first_S, difference_S])) == 1:
        both = price_model(np.concatenate([first_S, difference_S]), static=True)
        return LatentCoding(both.model, both.model, both.num_bits + REFERENCE_BITS)
    first, rest = price_model(first_S, static=True), price_model(difference_S, static=True)
    return LatentCoding(rest.model, first.model, first.num_bits + rest.num_bits + REFERENCE_BITS)


def _fits(symbol_S: Symbols) -> bool:
    """Return whether one model can code all of ``symbol_S``."""
    return int(symbol_S.max()) - int(symbol_S.min()) < MAX_SIZE
