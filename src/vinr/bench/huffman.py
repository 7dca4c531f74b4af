"""What a network's symbols would take in one Huffman code: how the tables of HNeRV and NeRV count bits.

No file is written this way. The figure is there to stand beside published ones, which leave out the code
itself and the headers; the size of a vinr file has everything in it.

Source: HNeRV (Chen et al., CVPR 2023), supplement and public code: one code for the symbols of all weights
and embeddings together, with an end symbol that occurs once and is not counted, and 16 bits for each minimum
and each scale. Symbols here are multiples of a step, so that there are steps alone.

Axes: A symbols of the alphabet from the smallest to the largest, S symbols of all tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import constriction
import numpy as np
from numpy.typing import NDArray

from vinr.compress.unpack import QuantizedTensor

# HNeRV's code stores its minima and scales as half floats.
SCALAR_BITS: Final = 16


@dataclass(frozen=True)
class HuffmanSize:
    """Bits of a network in one Huffman code: of all symbols, by tensor, and of the steps."""

    code_bits: int
    scalar_bits: int
    code_bits_by_tensor: dict[str, int] = field(repr=False)

    @property
    def num_bits(self) -> int:
        """Bits of symbols and steps, as HNeRV's tables have them."""
        return self.code_bits + self.scalar_bits


def code_lengths(count_A: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the length in bits of each symbol's Huffman code, given how often (≥ 0) each occurs.

    Symbols that do not occur get no code: length 0. So does a symbol that occurs alone.
    """
    length_A = np.zeros(count_A.shape[0], dtype=np.int64)
    used = np.flatnonzero(count_A)
    if used.shape[0] > 1:
        tree = constriction.symbol.huffman.EncoderHuffmanTree(count_A[used].astype(np.float64))
        for number, symbol in enumerate(used):
            # constriction tells lengths only by coding a symbol.
            coder = constriction.symbol.QueueEncoder()
            coder.encode_symbol(number, tree)
            length_A[symbol] = coder.get_compressed_and_bitrate()[1]
    return length_A


def joint_code_bits(symbols: Mapping[str, NDArray[np.int32]]) -> dict[str, int]:
    """Return the bits that each tensor's symbols (any shape) take in one code for all of them.

    The code has an end symbol, which is not counted.
    """
    # The empty array in front lets networks without tensors pass.
    symbol_S = np.concatenate([np.zeros(0, dtype=np.int32), *map(np.ravel, symbols.values())])
    if not symbol_S.size:
        return dict.fromkeys(symbols, 0)
    #  symbol    low  low + 1  …  high  end
    #  index A    0      1     …        last     int64: the difference may exceed 32 bits
    low = int(symbol_S.min())
    length_A = code_lengths(np.append(np.bincount(symbol_S.astype(np.int64) - low), 1))
    return {name: int(length_A[part.astype(np.int64) - low].sum()) for name, part in symbols.items()}


def huffman_size(coded: Mapping[str, QuantizedTensor]) -> HuffmanSize:
    """Return what quantised tensors take in one Huffman code, with 16 bits per step.

    :func:`~vinr.compress.pipeline.quantized_symbols` gives ``coded`` as it is written.
    """
    symbols, num_scalars = {}, 0
    for name, item in coded.items():
        symbols[name] = item.symbols
        num_scalars += len(item.step_codes)
    by_tensor = joint_code_bits(symbols)
    return HuffmanSize(sum(by_tensor.values()), SCALAR_BITS * num_scalars, by_tensor)
