"""Options that several commands share, and their help texts."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer
from typer.core import TyperArgument, TyperCommand

# One text per option: a command that means something else by it declares its own.
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="CPU threads (default: all cores, or 1 where more are not faster)"),
]
Force = Annotated[bool, typer.Option("--force", "-y", help="replace an existing output")]
Input = Annotated[
    str, typer.Argument(metavar="INPUT", help="a video, a folder of images, or - (standard input)")
]
Output = Annotated[
    str,
    typer.Argument(
        metavar="OUTPUT",
        help=".mp4, .mov, .mkv, .webm, .gif, .y4m, a folder or pattern of PNGs, or - (y4m)",
    ),
]
Codec = Annotated[
    str | None,
    typer.Option(
        help="x264, x265, av1, vp9 or, in .mkv, ffv1 (exact); default: x264, of 10 bits x265, of .webm vp9"
    ),
]
Crf = Annotated[
    int | None,
    typer.Option(
        min=0, max=63, metavar="CRF", help="0 (best, largest) to 51; default: 18 (av1, vp9: to 63; 24)"
    ),
]
BitDepth = Annotated[
    str | None, typer.Option(help="bits per colour, 8 or 10; default: the input's, at most 10")
]
DecodedDepth = Annotated[str | None, typer.Option(help="bits per colour, 8 or 10; default: the file's")]
Backend = Annotated[str | None, typer.Option(help="what runs the network: torch or onnx")]
Decoding = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="decode.key=value, repeatable")
]
Log = Annotated[
    list[str],
    typer.Option(
        metavar="RUN.csv",
        help="write loss, PSNR, bits and rates of each round to a .csv, or to a folder for TensorBoard",
    ),
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="a line for each round and each stage, on standard error")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="print errors alone")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON document")]

# A command with so many options shows them in groups, by their names in Python.
MANY_OPTIONS: Final = 20
GROUPS: Final = {
    "Network and time": (
        *("model", "preset", "params", "size", "bpp", "psnr", "quality", "epochs", "time"),
        *("segment", "scene_cuts", "seed", "settings"),
    ),
    "Input": (
        *("frames", "crop", "resize", "bit_depth"),
        *("stream", "pix_fmt", "raw_size", "rate", "deinterlace"),
    ),
    "Where it runs": ("device", "threads", "workers", "ray", "gpus_per_worker", "threads_per_worker"),
}


class Command(TyperCommand):
    """A command whose usage line names its arguments as other programs do: ``FILE.vinr OUTPUT``."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words after the name of the command."""
        pieces = ["[OPTIONS]"]
        for parameter in self.get_params(ctx):
            if isinstance(parameter, TyperArgument):
                name = parameter.metavar or (parameter.name or "").upper()
                pieces.append(name if parameter.required else f"[{name}]")
        return pieces

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the help of arguments and options; in groups, where there are many."""
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": [], **{title: [] for title in GROUPS}}
        has_many = len(self.params) >= MANY_OPTIONS
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            title = "Arguments" if isinstance(parameter, TyperArgument) else "Options"
            if has_many and title == "Options":
                title = next((name for name, names in GROUPS.items() if parameter.name in names), "Options")
            groups.setdefault(title, []).append(record)
        for title, records in groups.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


File = Annotated[str, typer.Argument(metavar="FILE.vinr", help="a .vinr file; FILE.vinr#name chooses a clip")]
FileOrFolder = Annotated[
    str,
    typer.Argument(
        metavar="FILE.vinr",
        help="a .vinr file; FILE.vinr#name chooses a clip; or a folder of files, or a list (.csv, .jsonl)",
    ),
]
Settings = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="section.key=value, repeatable")
]
MaxMemory = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="memory a network may use, such as 4GB; only for files you trust"),
]
Model = Annotated[str | None, typer.Option(help="model; `vinr models` lists them")]
Preset = Annotated[str | None, typer.Option(help="model and size; `vinr presets` lists them")]
Quality = Annotated[
    str, typer.Option(metavar="low|medium|high", help="half the usual network and time, or twice and 4 times")
]
Epochs = Annotated[int | None, typer.Option(min=1, help="passes over all frames")]
Time = Annotated[str | None, typer.Option(help="wall-clock time for everything, such as 10m")]
Frames = Annotated[str | None, typer.Option(help="half-open frame range A:B, such as 0:48")]
Crop = Annotated[str | None, typer.Option(metavar="SIZE", help="part to keep, from the centre")]
Resize = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE", help="after the crop: 640:360 (width:height), 640:-2, 360p, 50%, 360x640 (HxW)"
    ),
]
Seed = Annotated[int | None, typer.Option(min=0, help="random seed of the training")]
Stream = Annotated[
    int | None, typer.Option(min=0, help="video stream, from 0 (default: the one that players show)")
]
PixFmt = Annotated[str | None, typer.Option(help="pixel format of raw video, such as yuv420p10le or nv12")]
RawSize = Annotated[
    str | None, typer.Option(metavar="SIZE", help="size of raw video: 640:360 (width:height), 360x640 (HxW)")
]
Rate = Annotated[str | None, typer.Option(help="frames per second of raw video or of a folder of images")]
Deinterlace = Annotated[bool, typer.Option("--deinterlace", help="make full frames of interlaced ones")]
WorkerCount = Annotated[
    int | None, typer.Option("--workers", min=1, help="jobs at a time, each in a process of its own (Ray)")
]
RayAddress = Annotated[
    str | None, typer.Option("--ray", metavar="ADDRESS", help="run them on the Ray cluster there, or auto")
]
GpusPerWorker = Annotated[
    float | None, typer.Option(min=0, help="GPUs per worker; 0.5: two workers share one (default: 0)")
]
ThreadsPerWorker = Annotated[int | None, typer.Option(min=1, help="CPU threads per worker (default: 1)")]
