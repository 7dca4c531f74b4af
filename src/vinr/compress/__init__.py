"""From the tensors of a fitted network to bytes and back: quantiser, symbol models, range coder, accounting.

Symbols and their tables are integers, so a file decodes to the same numbers on every machine; floats begin
with the multiplication by the step. What is decoded is what :func:`quantized` returned, bit for bit.
"""

from __future__ import annotations

from vinr.compress.accounting import ComponentSize
from vinr.compress.pipeline import (
    ChunkDecoder,
    PackedTensors,
    fixed_sizes,
    pack_tensors,
    quantized,
    unpack_fixed,
)
from vinr.compress.quantize import QuantizedTensor, dequantize, quantize
from vinr.compress.times import decode_times, encode_times

__all__ = [
    "ChunkDecoder",
    "ComponentSize",
    "PackedTensors",
    "QuantizedTensor",
    "decode_times",
    "dequantize",
    "encode_times",
    "fixed_sizes",
    "pack_tensors",
    "quantize",
    "quantized",
    "unpack_fixed",
]
