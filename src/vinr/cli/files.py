"""The commands around a file: what it will take, what it holds, whether it is whole, its other forms."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import vinr
from vinr.cli import console
from vinr.cli.numbers import whole_number
from vinr.cli.options import (
    Crop,
    Device,
    Epochs,
    File,
    FileSize,
    Force,
    Frames,
    Input,
    Json,
    MaxMemory,
    Model,
    Params,
    Preset,
    Quality,
    Resize,
    Segment,
    Settings,
    Time,
)
from vinr.cli.show_capacity import show_capacity
from vinr.errors import argument
from vinr.units import format_bytes, parse_frames, parse_quality


def plan(
    source: Input,
    model: Model = None,
    preset: Preset = None,
    params: Params = None,
    size: FileSize = None,
    quality: Quality = "medium",
    epochs: Epochs = None,
    time: Time = None,
    frames: Frames = None,
    crop: Crop = None,
    resize: Resize = None,
    segment: Segment = None,
    device: Device = "auto",
    workers: Annotated[
        int | None,
        whole_number("--workers", least=1, help="segments that are fitted at a time (default: 1)"),
    ] = None,
    gpus: Annotated[
        int | None, whole_number("--gpus", least=1, help="GPUs, a worker each, in place of workers")
    ] = None,
    rates: Annotated[
        str | None,
        typer.Option(metavar="FILE.json", help="rates of another machine, as --json prints them"),
    ] = None,
    settings: Settings = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Measure some steps, and print the time, hours, bytes and memory that an encode will take."""
    report = vinr.plan(
        source,
        model=model,
        preset=preset,
        params=params,
        size=size,
        quality=parse_quality(quality),
        epochs=epochs,
        time=time,
        frames=parse_frames(frames) if frames else None,
        crop=crop,
        resize=resize,
        segment=segment,
        device=device,
        workers=workers,
        gpus=gpus,
        rates=rates,
        overrides=settings,
    )
    show_capacity(report, as_json=as_json)


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
    if force and plot is None:
        console.note(
            f"{argument('force', True)} has no effect without {argument('plot')}: nothing is written"
        )
    console.show_info(vinr.info(file, plot=plot, force=force, max_memory=max_memory), as_json=as_json)
    if plot is not None:
        console.note(f"plot: {plot}, {format_bytes(Path(plot).stat().st_size)}")


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
    fps: Annotated[str, typer.Option(metavar="FPS", help="frames per second: 25, 29.97, 30000/1001")] = "30",
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="name of the clip (default: the checkpoint's)")
    ] = None,
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
        str | None,
        typer.Option(metavar="FILE.onnx", help="graph to write; part_%02d.onnx for several networks"),
    ] = None,
    safetensors: Annotated[
        str | None,
        typer.Option(metavar="FILE.safetensors", help="tensors to write: weights, and latents of all frames"),
    ] = None,
    force: Force = False,
    max_memory: MaxMemory = None,
) -> None:
    """Write the network of a .vinr file as an ONNX graph, or its weights and latents as safetensors."""
    console.show_export(vinr.export(file, onnx, safetensors=safetensors, force=force, max_memory=max_memory))
