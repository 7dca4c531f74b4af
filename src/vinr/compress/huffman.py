"""What a network's symbols would take in one Huffman code: how HNeRV and NeRV count bits.

No file is written this way. The figure is there to stand beside published ones, which leave out the code
itself and the headers; the size of a vinr file has everything in it.

Source: HNeRV (Chen et al., CVPR 2023), supplement and public code: one code for the symbols of all weights
and embeddings together, with an end symbol that occurs once and is not counted, and 16 bits for each minimum
and each scale. Symbols here are multiples of a step, so that there are steps alone.

Axes: A symbols of the alphabet from the least to the greatest, S symbols of a tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import constriction
import numpy as np
from numpy.typing import NDArray

from vinr.compress.entropy import Symbols
from vinr.compress.unpack import QuantizedTensor

SCALAR_BITS: Final = 16


@dataclass(frozen=True)
class HuffmanSize:
    """Bits of a network in one Huffman code: of all symbols, by tensor, and of the steps."""

    code_bits: int
    scalar_bits: int
    code_bits_by_tensor: dict[str, int] = field(repr=False)

    @property
    def num_bits(self) -> int:
        """Bits of symbols and steps, as HNeRV's figures have them."""
        return self.code_bits + self.scalar_bits


def code_lengths(count_A: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the length in bits of each symbol's Huffman code, given how often (≥ 0) each occurs.

    Symbols that do not occur get no code: length 0. So does a symbol that occurs alone.
    """
    length_A = np.zeros(count_A.shape[0], dtype=np.int64)
    used = np.flatnonzero(count_A)
    if used.shape[0] > 1:
        tree = constriction.symbol.huffman.EncoderHuffmanTree(count_A[used].astype(np.float64))
        length_A[used] = [_length(tree, number) for number in range(used.shape[0])]
    return length_A


def _length(tree: object, number: int) -> int:
    coder = constriction.symbol.QueueEncoder()
    coder.encode_symbol(number, tree)
    return int(coder.get_compressed_and_bitrate()[1])


def joint_code_bits(symbols: Mapping[str, Symbols]) -> dict[str, int]:
    """Return the bits that each tensor's symbols (whole numbers, any shape) take in one code for all of them.

    The code has an end symbol, which is not counted.
    """
    sizes = {name: part.size for name, part in symbols.items()}
    if not any(sizes.values()):
        return dict.fromkeys(symbols, 0)
    symbol_S = np.concatenate([part.ravel() for part in symbols.values()])
    offset_S = symbol_S.astype(np.int64) - int(symbol_S.min())
    length_A = code_lengths(np.append(np.bincount(offset_S), 1))
    parts = np.split(length_A[offset_S], np.cumsum(list(sizes.values()))[:-1])
    return {name: int(part.sum()) for name, part in zip(sizes, parts, strict=True)}


def huffman_size(coded: Mapping[str, QuantizedTensor]) -> HuffmanSize:
    """Return what quantised tensors take in one Huffman code, with 16 bits a step.

    :func:`~vinr.compress.pipeline.quantized_symbols` gives ``coded`` as it is written.
    """
    by_tensor = joint_code_bits({name: item.symbols for name, item in coded.items()})
    num_scalars = sum(len(item.step_codes) for item in coded.values())
    return HuffmanSize(sum(by_tensor.values()), SCALAR_BITS * num_scalars, by_tensor)
