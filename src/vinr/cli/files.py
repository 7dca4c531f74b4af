"""The commands on a file as it is: what it holds, whether it is whole, and its other forms."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

import vinr
from vinr.cli import console
from vinr.cli.options import Device, File, Force, Json, MaxMemory, Settings


def info(
    file: File,
    plot: Annotated[
        str | None, typer.Option(metavar="FILE.png", help="draw bytes by component and by layer")
    ] = None,
    force: Force = False,
    as_json: Json = False,
    max_memory: MaxMemory = None,
) -> None:
    """Show what a .vinr file holds, and how many bytes each component and each layer takes."""
    console.show_info(vinr.info(file, plot=plot, force=force, max_memory=max_memory), as_json=as_json)


def verify(file: File, device: Device = "auto", as_json: Json = False, max_memory: MaxMemory = None) -> None:
    """Check all checksums, decode a frame of each network, and list damaged clips, frames and audio."""
    report = vinr.verify(file, device=device, max_memory=max_memory)
    if as_json:
        console.print_json(asdict(report))
    else:
        for line in report.lines():
            console.say(line)
    if not report.is_whole:
        raise typer.Exit(2)


def convert(
    checkpoint: Annotated[
        str,
        typer.Argument(metavar="CHECKPOINT", help="a published quantised checkpoint of HNeRV (torch.save)"),
    ],
    output: Annotated[str, typer.Argument(metavar="OUTPUT.vinr", help="the file to write")],
    fps: Annotated[str, typer.Option(help="frames per second: 25, 29.97, 30000/1001")] = "30",
    name: Annotated[str | None, typer.Option(help="name of the clip (default: the checkpoint's)")] = None,
    settings: Settings = [],  # noqa: B006
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a published quantised checkpoint as a .vinr file."""
    report = vinr.convert(checkpoint, output, fps=fps, name=name, overrides=settings, force=force)
    console.show_convert(report, as_json=as_json)


def export(
    file: File,
    onnx: Annotated[
        str, typer.Option(metavar="FILE.onnx", help="file to write; part_%02d.onnx for several networks")
    ],
    force: Force = False,
    max_memory: MaxMemory = None,
) -> None:
    """Write the network of a .vinr file as ONNX: frame number and latents in, colours out."""
    console.show_export(vinr.export(file, onnx, force=force, max_memory=max_memory))
