"""From the tensors of a fitted network to bytes and back: quantiser, symbol models, range coder, accounting.

Symbols and their tables are integers, so a file decodes to the same numbers on every machine; floats begin
with the multiplication by the step. What is decoded is what :func:`quantized` returned, bit for bit. Names
are loaded when used, so that decoding does not load the encoder.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vinr.compress.accounting import ComponentSize, network_sizes
    from vinr.compress.pipeline import PackedTensors, pack_tensors, quantized
    from vinr.compress.times import decode_times, encode_times
    from vinr.compress.unpack import ChunkDecoder, unpack_fixed

__all__ = [
    "ChunkDecoder",
    "ComponentSize",
    "PackedTensors",
    "decode_times",
    "encode_times",
    "network_sizes",
    "pack_tensors",
    "quantized",
    "unpack_fixed",
]

PLACES = {
    "accounting": ("ComponentSize", "network_sizes"),
    "pipeline": ("PackedTensors", "pack_tensors", "quantized"),
    "times": ("decode_times", "encode_times"),
    "unpack": ("ChunkDecoder", "unpack_fixed"),
}


def __getattr__(name: str) -> Any:
    for module, names in PLACES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
