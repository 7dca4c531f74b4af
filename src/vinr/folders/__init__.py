"""Many files with one command: a folder or a list of them in, a folder and a list of results out."""

from __future__ import annotations

from vinr.folders.commands import decode_folder, encode_folder, evaluate_folder
from vinr.folders.results import FileResult, FolderReport

__all__ = ["FileResult", "FolderReport", "decode_folder", "encode_folder", "evaluate_folder"]
