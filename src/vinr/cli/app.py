"""The command line, ``vinr`` and ``python -m vinr``: each command calls the function of its name."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, TypeVar

import typer
from typer.core import TyperGroup

import vinr
from vinr.cli import console, experiments, files, progress, screen, show_folder, tasks
from vinr.cli.began import command_start, remember_start, wait_passively
from vinr.cli.numbers import number, whole_number
from vinr.cli.options import (
    Backend,
    BitDepth,
    Codec,
    Command,
    Crf,
    Crop,
    DecodedDepth,
    Decoding,
    Deinterlace,
    Device,
    Epochs,
    FileOrFolder,
    FileSize,
    Force,
    Frames,
    GpusPerWorker,
    Json,
    Log,
    MaxMemory,
    Model,
    Output,
    Params,
    PixFmt,
    Preset,
    Quality,
    Quiet,
    Rate,
    RawSize,
    RayAddress,
    Resize,
    Seed,
    Segment,
    Settings,
    Stream,
    Threads,
    ThreadsPerWorker,
    Time,
    Verbose,
    WorkerCount,
    in_one_line,
)
from vinr.cli.ranks import run_once
from vinr.cli.version import Version
from vinr.errors import UsageError, VinrError, argument, command_line_words, plural, unknown
from vinr.state import interruption
from vinr.units import parse_depth, parse_frames, parse_quality

# 128 and the number of SIGPIPE, which Windows has not.
UNREAD_STATUS: Final = 141


class Commands(TyperGroup):
    """The commands; in their messages arguments are called as options."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        with command_line_words():
            return super().invoke(ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the options before a command."""
        with in_one_line(ctx.command_path):
            return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command of the first of ``args``, and what follows it."""
        if not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            raise UsageError(unknown("command", args[0], self.list_commands(ctx)))
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="vinr",
    cls=Commands,
    help="Neural representations of video: encode a video into one .vinr file, decode any frame of it.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def options(version: Version = False) -> None:
    """Take the options that stand before a command."""


@app.command(cls=Command)
def encode(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT... OUTPUT.vinr",
            help="videos, folders of images, or - (standard input); then the file to write. "
            "Or many: a folder of videos (or a list, .csv or .jsonl), then a folder",
        ),
    ],
    model: Model = None,
    preset: Preset = None,
    params: Params = None,
    size: FileSize = None,
    bpp: Annotated[
        float | None, number("--bpp", metavar="BITS", help="largest size in bits per pixel, such as 0.05")
    ] = None,
    psnr: Annotated[
        float | None, number("--psnr", metavar="DB", help="PSNR to reach, in dB, at the smallest size")
    ] = None,
    quality: Quality = "medium",
    epochs: Epochs = None,
    time: Time = None,
    frames: Frames = None,
    crop: Crop = None,
    resize: Resize = None,
    bit_depth: BitDepth = None,
    stream: Stream = None,
    pix_fmt: PixFmt = None,
    raw_size: RawSize = None,
    rate: Rate = None,
    deinterlace: Deinterlace = False,
    join: Annotated[
        bool | None,
        typer.Option("--join/--no-join", help="one network for all inputs of one size, or one for each"),
    ] = None,
    segment: Segment = None,
    scene_cuts: Annotated[
        bool, typer.Option("--scene-cuts", help="end segments at scene cuts where possible")
    ] = False,
    device: Device = "auto",
    threads: Threads = None,
    workers: WorkerCount = None,
    ray: RayAddress = None,
    gpus_per_worker: GpusPerWorker = None,
    threads_per_worker: ThreadsPerWorker = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue an interrupted encode")] = False,
    seed: Seed = None,
    settings: Settings = [],  # noqa: B006
    no_reference: Annotated[
        bool, typer.Option("--no-reference", help="do not measure what x264 needs for the same PSNR")
    ] = False,
    log: Log = [],  # noqa: B006
    verbose: Verbose = False,
    quiet: Quiet = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Train a network on a video and write it as one .vinr file."""
    started = command_start()  # loading PyTorch takes seconds, which --time counts
    if len(paths) < 2:
        raise UsageError(
            f"{plural(len(paths), 'path')} given; give INPUT... OUTPUT.vinr: videos, then the output"
        )
    given: dict[str, Any] = {
        "model": model,
        "preset": preset,
        "params": params,
        "size": size,
        "bpp": bpp,
        "psnr": psnr,
        "quality": parse_quality(quality),
        "epochs": epochs,
        "time": time,
        "frames": parse_frames(frames) if frames else None,
        "crop": crop,
        "resize": resize,
        "bit_depth": parse_depth(bit_depth),
        "stream": stream,
        "pix_fmt": pix_fmt,
        "raw_size": raw_size,
        "rate": rate,
        "deinterlace": deinterlace,
        "segment": segment,
        "scene_cuts": scene_cuts,
        "device": device,
        "seed": seed,
        "overrides": settings,
    }
    asked = (workers, ray, gpus_per_worker, threads_per_worker)
    loudness = progress.loudness_of(verbose=verbose, quiet=quiet)
    if len(paths) == 2 and show_folder.is_many(*paths):
        if join is not None:
            name = argument("join" if join else "no_join")
            raise UsageError(f"{name} is for several inputs of one output; each file of a folder has its own")
        if resume:
            console.note(
                f"{argument('resume', True)} has no effect: files of a folder continue by themselves"
            )
        if no_reference:
            console.note(f"{argument('no_reference', True)} has no effect: of a folder x264 is not measured")
        show_folder.encode_many(
            *paths,
            asked=asked,
            threads=threads,
            force=force,
            as_json=as_json,
            loudness=loudness,
            logs=log,
            settings=given,
        )
        return
    from vinr.encoding.encode import time_counted_from

    with (
        progress.fit_progress(lambda: describe_saved(paths), loudness, log) as watch,
        time_counted_from(started),
    ):
        report = vinr.encode(
            paths[:-1],
            paths[-1],
            workers=workers,
            ray=ray,
            gpus_per_worker=gpus_per_worker,
            threads_per_worker=threads_per_worker,
            threads=threads,
            join=join,
            resume=resume,
            force=force,
            reference=not no_reference,
            on_event=watch.on_event,
            **given,
        )
    if as_json or not quiet:
        console.show_encode(report, as_json=as_json)


@app.command(cls=Command)
def decode(
    file: FileOrFolder,
    output: Output,
    frames: Annotated[
        str | None, typer.Option(metavar="LIST", help="frame numbers and slices: 0,10,20:40:5")
    ] = None,
    fps_scale: Annotated[
        int,
        whole_number(
            "--fps-scale",
            least=1,
            most=16,
            help="multiply the frame rate by 1 to 16: 2 adds a frame between each two",
        ),
    ] = 1,
    bit_depth: DecodedDepth = None,
    codec: Codec = None,
    crf: Crf = None,
    device: Device = "auto",
    backend: Backend = None,
    settings: Decoding = [],  # noqa: B006
    suffix: Annotated[
        str | None,
        typer.Option(
            metavar=".mp4|.mkv|.y4m",
            help="of the outputs where FILE.vinr is a folder or a list (default: .mp4)",
        ),
    ] = None,
    workers: WorkerCount = None,
    ray: RayAddress = None,
    gpus_per_worker: GpusPerWorker = None,
    threads_per_worker: ThreadsPerWorker = None,
    force: Force = False,
    max_memory: MaxMemory = None,
    keep_going: Annotated[
        bool,
        typer.Option("--keep-going", help="write the undamaged frames; exit status 1 if any are lost"),
    ] = False,
) -> None:
    """Write the frames of a .vinr file as a video or as images."""
    from vinr.decoding.settings import load_decode_settings

    asked = (workers, ray, gpus_per_worker, threads_per_worker)
    if show_folder.is_many(file):
        given: dict[str, Any] = {
            "fps_scale": fps_scale,
            "codec": codec,
            "crf": crf,
            "bit_depth": parse_depth(bit_depth),
            "device": device,
            "settings": load_decode_settings(settings, backend=backend),
            "max_memory": max_memory,
            "keep_going": keep_going,
        }
        given |= {} if frames is None else {"frames": frames}
        show_folder.decode_many(
            file, output, suffix=suffix or ".mp4", asked=asked, force=force, settings=given
        )
        return
    if suffix is not None:
        raise UsageError(
            f"{argument('suffix', suffix)} is for the files of a folder or a list; the name of one output "
            f"says it: {output}"
        )
    with progress.frame_progress("decoding", quiet=output == "-") as on_frame:
        report = vinr.decode(
            file,
            output,
            frames=frames,
            fps_scale=fps_scale,
            codec=codec,
            crf=crf,
            bit_depth=parse_depth(bit_depth),
            device=device,
            settings=load_decode_settings(settings, backend=backend),
            force=force,
            max_memory=max_memory,
            keep_going=keep_going,
            workers=workers,
            ray=ray,
            gpus_per_worker=gpus_per_worker,
            threads_per_worker=threads_per_worker,
            on_frame=on_frame,
        )
    for text in report.notes:
        console.note(text)
    if output != "-":
        console.note(console.describe_decoded(report))
    # 1: the output is there, but not whole; 2 would say that there is none.
    if report.lost:
        raise typer.Exit(1)


@app.command("eval", cls=Command)
def evaluate(
    file: FileOrFolder,
    reference: Annotated[
        str,
        typer.Argument(
            metavar="ORIGINAL",
            help="the original; how it was cropped, resized, cut and deinterlaced is read from the file",
        ),
    ],
    stream: Annotated[
        int | None,
        whole_number("--stream", least=0, help="video stream, from 0 (default: the one that was encoded)"),
    ] = None,
    pix_fmt: PixFmt = None,
    raw_size: RawSize = None,
    rate: Rate = None,
    deinterlace: Annotated[
        bool,
        typer.Option("--deinterlace", help="make full frames of interlaced ones (default: as for the file)"),
    ] = False,
    per_frame: Annotated[bool, typer.Option("--per-frame", help="also print each frame's quality")] = False,
    device: Device = "auto",
    backend: Backend = None,
    settings: Decoding = [],  # noqa: B006
    workers: WorkerCount = None,
    ray: RayAddress = None,
    gpus_per_worker: GpusPerWorker = None,
    threads_per_worker: ThreadsPerWorker = None,
    as_json: Json = False,
    max_memory: MaxMemory = None,
) -> None:
    """Compare a .vinr file with its original: PSNR, MS-SSIM, bpp, kbit/s, decoding speed."""
    from vinr.decoding.settings import load_decode_settings

    given: dict[str, Any] = {
        "stream": stream,
        "pix_fmt": pix_fmt,
        "raw_size": raw_size,
        "rate": rate,
        "deinterlace": deinterlace,
        "device": device,
        "settings": load_decode_settings(settings, backend=backend),
        "max_memory": max_memory,
    }
    asked = (workers, ray, gpus_per_worker, threads_per_worker)
    if show_folder.is_many(file):
        if per_frame:
            raise UsageError(
                f"{argument('per_frame', True)} is for one file; of a folder or a list a row per file is "
                "printed: leave it out"
            )
        show_folder.evaluate_many(file, reference, asked=asked, as_json=as_json, settings=given)
        return
    show_folder.refuse_workers(asked)
    with progress.frame_progress("decoding") as on_frame:
        report = vinr.evaluate(file, reference, on_frame=on_frame, **given)
    console.show_evaluation(report, per_frame=per_frame, as_json=as_json)


for command in (
    files.plan,
    files.info,
    files.verify,
    files.convert,
    files.export,
    tasks.inpaint,
    tasks.interpolate,
    experiments.compare,
    experiments.bench,
    experiments.models,
    experiments.presets,
    experiments.settings,
):
    app.command(cls=Command)(command)


def describe_saved(paths: Sequence[str]) -> str:
    """Return in words what an interrupted encode has saved, and the command that continues it."""
    from vinr.encoding.kept import find_kept
    from vinr.state.folder import partial_folder
    from vinr.video.pipes import is_pipe

    kept = find_kept(partial_folder(Path(paths[-1])))
    if not kept:
        return "nothing was saved"
    if any(map(is_pipe, paths[:-1])):
        return f"saved: {kept}, which cannot be continued: a pipe is read once"
    words = sys.argv[1:]  # the shell took its quotes away; shlex puts back what a shell needs
    command = shlex.join(words if "--resume" in words else [*words, "--resume"])
    return f"saved: {kept}. Continue with: vinr {command}"


def main() -> None:
    """Run the command line; errors end in one line and their exit status, never in a traceback.

    Signals that ask it to stop do what Ctrl-C does, with 128 and their number as exit status. Where nobody
    reads the output any more (``vinr decode in.vinr - | head -c 100``), it ends without a word, as programs
    do that SIGPIPE ends, and with the same exit status.
    """
    screen.write_any_character()
    with interruption.raised():
        try:
            # Scripts of completion call it by that name, under python -m too.
            run_once(partial(app, prog_name="vinr"))
        except VinrError as error:
            if _cause(error, BrokenPipeError) is not None:
                _end_unread()
            console.complain(str(error))
            sys.exit(error.exit_status)
        except BrokenPipeError:
            _end_unread()
        except OSError as error:
            console.complain(f"{error.filename or 'file system'}: {error.strerror or error}")
            sys.exit(2)
        except KeyboardInterrupt as error:
            sys.exit(interruption.exit_status(error))  # before any command has begun
        except SystemExit as error:
            # Typer ends a command that a signal ended with the status of Ctrl-C, whichever it was, and one
            # whose output nobody reads as if it had failed.
            cause = _cause(error, KeyboardInterrupt)
            if cause is not None:
                sys.exit(interruption.exit_status(cause))
            if _cause(error, BrokenPipeError) is not None:
                _end_unread()
            raise


def program() -> None:
    """Run the command line as a program of its own, whose time counts from its start."""
    remember_start()
    wait_passively()
    main()


Kind = TypeVar("Kind", bound=BaseException)


def _cause(error: BaseException, kind: type[Kind]) -> Kind | None:
    """Return the first of ``error`` and what it comes from that is of ``kind``."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, kind):
        cause = cause.__cause__ or cause.__context__
    return cause


def _end_unread() -> NoReturn:
    """End the program: whoever read its output has gone."""
    # Python writes what is held back once more when it ends, and would make an error of that.
    with suppress(OSError, AttributeError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    sys.exit(UNREAD_STATUS)


if __name__ == "__main__":
    program()
