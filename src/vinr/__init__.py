"""Neural representations of video: fit, compress, decode, measure.

Each command of the command line has a function of its name here; that of ``vinr eval`` is :func:`evaluate`.
Names are loaded when first used, so that decoding a file loads nothing of fitting.
``__version__`` is the version of the installed package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from vinr.comparison import ComparisonReport, compare
    from vinr.decoding.dataset import FrameDataset
    from vinr.decoding.decoder import VideoDecoder
    from vinr.decoding.describe import FileInfo, info
    from vinr.decoding.exporting import ExportedGraph, ExportedWeights, export
    from vinr.decoding.file import VinrFile
    from vinr.decoding.file import open_clip as open
    from vinr.decoding.integrity import VerifyReport
    from vinr.decoding.playback import DecodeReport, EvaluationReport, decode, evaluate, verify
    from vinr.decoding.settings import DecodeSettings
    from vinr.encoding.capacity import CapacityReport, plan
    from vinr.encoding.convert import ConvertReport, convert
    from vinr.encoding.encode import encode
    from vinr.encoding.report import EncodeReport
    from vinr.errors import (
        BitstreamError,
        FitError,
        InputError,
        LimitError,
        OutOfMemoryError,
        OutputError,
        RankError,
        UsageError,
        VinrError,
    )
    from vinr.fit.trainer import Trainer
    from vinr.tasks.between import InterpolateReport, interpolate
    from vinr.tasks.inpainting import InpaintReport, inpaint
    from vinr.video.spec import FrameBatch, FrameSource, FrameStream, VideoSpec

__all__ = [
    "BitstreamError",
    "CapacityReport",
    "ComparisonReport",
    "ConvertReport",
    "DecodeReport",
    "DecodeSettings",
    "EncodeReport",
    "EvaluationReport",
    "ExportedGraph",
    "ExportedWeights",
    "FileInfo",
    "FitError",
    "FrameBatch",
    "FrameDataset",
    "FrameSource",
    "FrameStream",
    "InpaintReport",
    "InputError",
    "InterpolateReport",
    "LimitError",
    "OutOfMemoryError",
    "OutputError",
    "RankError",
    "Trainer",
    "UsageError",
    "VerifyReport",
    "VideoDecoder",
    "VideoSpec",
    "VinrError",
    "VinrFile",
    "compare",
    "convert",
    "decode",
    "encode",
    "evaluate",
    "export",
    "info",
    "inpaint",
    "interpolate",
    "open",
    "plan",
    "verify",
]

_MODULES = {
    "comparison": ("ComparisonReport", "compare"),
    "decoding.dataset": ("FrameDataset",),
    "decoding.decoder": ("VideoDecoder",),
    "decoding.describe": ("FileInfo", "info"),
    "decoding.exporting": ("ExportedGraph", "ExportedWeights", "export"),
    "decoding.file": ("VinrFile", "open"),
    "decoding.integrity": ("VerifyReport",),
    "decoding.playback": ("DecodeReport", "EvaluationReport", "decode", "evaluate", "verify"),
    "decoding.settings": ("DecodeSettings",),
    "encoding.capacity": ("CapacityReport", "plan"),
    "encoding.convert": ("ConvertReport", "convert"),
    "encoding.encode": ("encode",),
    "encoding.report": ("EncodeReport",),
    "fit.trainer": ("Trainer",),
    "errors": tuple(name for name in __all__ if name.endswith("Error")),
    "tasks.between": ("InterpolateReport", "interpolate"),
    "tasks.inpainting": ("InpaintReport", "inpaint"),
    "video.spec": ("FrameBatch", "FrameSource", "FrameStream", "VideoSpec"),
}
# A module that defined ``open`` would hide the built-in function from itself.
_NAMES_THERE = {"open": "open_clip"}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("vinr")
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"vinr.{module}"), _NAMES_THERE.get(name, name))
    raise AttributeError(f"module 'vinr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__", "__doc__"])
