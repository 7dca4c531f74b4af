"""Options that several commands share, and their help texts."""

from __future__ import annotations

from typing import Annotated

import typer

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")]
Force = Annotated[bool, typer.Option("--force", help="overwrite the output")]
Output = Annotated[str, typer.Argument(help=".mp4 .mkv .y4m, a folder or pattern of PNGs, or - (y4m)")]
Codec = Annotated[str, typer.Option(help="x264, x265, av1 or ffv1, for .mp4 and .mkv")]
Backend = Annotated[str | None, typer.Option(help="what runs the network: torch or onnx")]
Decoding = Annotated[list[str], typer.Option("--set", help="decode.key=value, repeatable")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON document")]
File = Annotated[str, typer.Argument(metavar="FILE.vinr", help="a .vinr file; FILE.vinr#name chooses a clip")]
Settings = Annotated[list[str], typer.Option("--set", help="section.key=value, repeatable")]
MaxMemory = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="memory a network may use, such as 4GB; only for files you trust"),
]
