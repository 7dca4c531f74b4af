"""Neural representations of video: fit, compress, decode, measure.

Names are loaded when first used, so that decoding a file loads nothing of fitting.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vinr.comparison import ComparisonReport, compare
    from vinr.decoding.decoder import FrameDataset, VideoDecoder, open
    from vinr.encoding.encode import EncodeReport, encode
    from vinr.errors import (
        BitstreamError,
        FitError,
        InputError,
        LimitError,
        OutOfMemoryError,
        OutputError,
        UsageError,
        VinrError,
    )
    from vinr.fit.trainer import Trainer
    from vinr.tasks.inpainting import InpaintReport, inpaint
    from vinr.tasks.interpolation import interpolate

__all__ = [
    "BitstreamError",
    "ComparisonReport",
    "EncodeReport",
    "FitError",
    "FrameDataset",
    "InpaintReport",
    "InputError",
    "LimitError",
    "OutOfMemoryError",
    "OutputError",
    "Trainer",
    "UsageError",
    "VideoDecoder",
    "VinrError",
    "compare",
    "encode",
    "inpaint",
    "interpolate",
    "open",
]

_HOME = {name: "errors" for name in __all__ if name.endswith("Error")}
_HOME |= dict.fromkeys(("FrameDataset", "VideoDecoder", "open"), "decoding.decoder")
_HOME |= {"ComparisonReport": "comparison", "compare": "comparison"}
_HOME |= dict.fromkeys(("EncodeReport", "encode"), "encoding.encode")
_HOME |= dict.fromkeys(("InpaintReport", "inpaint"), "tasks.inpainting")
_HOME |= {"Trainer": "fit.trainer", "interpolate": "tasks.interpolation"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vinr' has no attribute {name!r}")
    return getattr(import_module(f"vinr.{_HOME[name]}"), name)
