"""Neural representations of video: fit, compress, decode, measure.

Names are loaded when first used, so that decoding a file loads nothing of fitting.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vinr.decode import FrameDataset, VideoDecoder, open
    from vinr.encoding import EncodeReport, encode
    from vinr.errors import BitstreamError, FitError, InputError, OutputError, UsageError, VinrError

__all__ = [
    "BitstreamError",
    "EncodeReport",
    "FitError",
    "FrameDataset",
    "InputError",
    "OutputError",
    "UsageError",
    "VideoDecoder",
    "VinrError",
    "encode",
    "open",
]

_HOME = {name: "errors" for name in __all__ if name.endswith("Error")}
_HOME |= {"FrameDataset": "decode", "VideoDecoder": "decode", "open": "decode"}
_HOME |= {"EncodeReport": "encoding", "encode": "encoding"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vinr' has no attribute {name!r}")
    return getattr(import_module(f"vinr.{_HOME[name]}"), name)
