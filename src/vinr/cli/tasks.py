"""The commands that use a network for something else than coding: filling in, frames in between."""

from __future__ import annotations

from typing import Annotated

import typer

import vinr
from vinr.cli import console, progress
from vinr.cli.began import command_start
from vinr.cli.numbers import whole_number
from vinr.cli.options import (
    BitDepth,
    Codec,
    Crf,
    Crop,
    DecodedDepth,
    Deinterlace,
    Device,
    Epochs,
    File,
    Force,
    Frames,
    Input,
    Json,
    MaxMemory,
    Model,
    Output,
    PixFmt,
    Preset,
    Rate,
    RawSize,
    Resize,
    Seed,
    Settings,
    Stream,
    Time,
)
from vinr.errors import UsageError
from vinr.units import parse_depth, parse_frames


def inpaint(
    source: Input,
    output: Output,
    mask: Annotated[
        str,
        typer.Option(
            metavar="MASK",
            help="image, folder or video, masked where not black; or boxes, boxes:WIDTH, center",
        ),
    ],
    model: Model = None,
    preset: Preset = None,
    params: Annotated[
        str | None, typer.Option(metavar="N", help="parameters of the network, such as 1.5M")
    ] = None,
    epochs: Epochs = None,
    time: Time = None,
    frames: Frames = None,
    crop: Crop = None,
    resize: Resize = None,
    stream: Stream = None,
    pix_fmt: PixFmt = None,
    raw_size: RawSize = None,
    rate: Rate = None,
    deinterlace: Deinterlace = False,
    all_pixels: Annotated[
        bool, typer.Option("--all-pixels", help="write the network's whole frames, not only masked pixels")
    ] = False,
    bit_depth: BitDepth = None,
    codec: Codec = None,
    crf: Crf = None,
    device: Device = "auto",
    seed: Seed = None,
    settings: Settings = [],  # noqa: B006
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Fill masked pixels of a video with those of a network trained on the others."""
    started = command_start()  # loading PyTorch takes seconds, which --time counts
    from vinr.cli.show_tasks import show_inpaint
    from vinr.encoding.encode import time_counted_from

    if as_json and output == "-":
        # Two documents in one stream could not be told apart.
        raise UsageError("the video and --json are both to go to standard output; name a file for the video")
    with progress.fit_progress(lambda: "nothing was written") as watch, time_counted_from(started):
        report = vinr.inpaint(
            source,
            output,
            mask=mask,
            model=model,
            preset=preset,
            params=params,
            epochs=epochs,
            time=time,
            frames=parse_frames(frames) if frames else None,
            crop=crop,
            resize=resize,
            bit_depth=parse_depth(bit_depth),
            stream=stream,
            pix_fmt=pix_fmt,
            raw_size=raw_size,
            rate=rate,
            deinterlace=deinterlace,
            all_pixels=all_pixels,
            codec=codec,
            crf=crf,
            device=device,
            seed=seed,
            overrides=settings,
            force=force,
            on_event=watch.on_event,
        )
    if output != "-":
        show_inpaint(report, as_json=as_json)


def interpolate(
    file: File,
    output: Output,
    factor: Annotated[
        int, whole_number("--factor", least=2, most=16, help="multiply the frame rate by 2 to 16")
    ] = 2,
    bit_depth: DecodedDepth = None,
    codec: Codec = None,
    crf: Crf = None,
    device: Device = "auto",
    force: Force = False,
    max_memory: MaxMemory = None,
) -> None:
    """Decode a .vinr file to a video with new frames in between: as long, at a higher frame rate."""
    from vinr.cli.show_tasks import show_interpolate

    with progress.frame_progress("decoding", quiet=output == "-") as on_frame:
        report = vinr.interpolate(
            file,
            output,
            factor=factor,
            bit_depth=parse_depth(bit_depth),
            codec=codec,
            crf=crf,
            device=device,
            force=force,
            max_memory=max_memory,
            on_frame=on_frame,
        )
    for text in report.notes:
        console.note(text)
    if output != "-":
        show_interpolate(report)
