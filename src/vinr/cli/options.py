"""Options that several commands share, and their help texts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Final, cast

import typer
from typer.core import TyperArgument, TyperCommand

from vinr.cli.numbers import number, whole_number
from vinr.errors import UsageError

# One text per option: a command that means something else by it declares its own.
Device = Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda or cuda:N")]
Threads = Annotated[
    int | None,
    whole_number(
        "--threads", least=1, help="CPU threads (default: all cores, or 1 where more are not faster)"
    ),
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
        metavar="CODEC",
        help="x264, x265, av1, vp9 or, in .mkv, ffv1 (exact); default: x264, of 10 bits x265, of .webm vp9",
    ),
]
Crf = Annotated[
    int | None,
    whole_number(
        "--crf",
        least=0,
        most=63,
        metavar="CRF",
        help="0 (best, largest) to 51; default: 18 (av1, vp9: to 63; 24)",
    ),
]
BitDepth = Annotated[
    str | None,
    typer.Option(metavar="8|10", help="bits per colour; default: the input's, at most 10"),
]
DecodedDepth = Annotated[
    str | None, typer.Option(metavar="8|10", help="bits per colour; default: the file's")
]
Backend = Annotated[str | None, typer.Option(metavar="torch|onnx", help="what runs the network")]
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


# What typer raises of a command line that it cannot read: that of click, or of its own copy of it.
_USAGE_ERROR: Final = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[1])


@contextmanager
def in_one_line(command: str) -> Iterator[None]:
    """Let mistakes on the command line of ``command``, such as unknown options, be a line like all others."""
    try:
        yield
    except _USAGE_ERROR as error:
        text = error.format_message()
        if "\n" in text:
            raise  # no mistake, but the help, which the program prints where no command is given
        raise UsageError(f"{text[:1].lower()}{text[1:].rstrip('.')}; `{command} -h` lists all") from None


class Command(TyperCommand):
    """A command whose usage line names its arguments as other programs do: ``FILE.vinr OUTPUT``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words after the name of the command."""
        with in_one_line(ctx.command_path):
            return super().parse_args(ctx, args)

    def get_short_help_str(self, limit: int = 0) -> str:
        """Return the first sentence of the help, whole: it is folded where it is shown."""
        return super().get_short_help_str(limit=1000)

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
            title = "Options"
            if isinstance(parameter, TyperArgument):
                # Its name alone, not how Python holds it: ``INPUT``, not ``INPUT <str>``.
                title, record = "Arguments", (parameter.metavar or (parameter.name or "").upper(), record[1])
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
Model = Annotated[str | None, typer.Option(metavar="NAME", help="model; `vinr models` lists them")]
Preset = Annotated[str | None, typer.Option(metavar="NAME", help="model and size; `vinr presets` lists them")]
Quality = Annotated[
    str, typer.Option(metavar="low|medium|high", help="half the usual network and time, or twice and 4 times")
]
Epochs = Annotated[int | None, whole_number("--epochs", least=1, help="passes over all frames")]
Time = Annotated[str | None, typer.Option(metavar="TIME", help="wall-clock time for everything, such as 10m")]
Params = Annotated[str | None, typer.Option(metavar="N", help="parameters stored in the file, such as 1.5M")]
FileSize = Annotated[
    str | None, typer.Option(metavar="BYTES", help="largest size of the file, such as 500kB")
]
Segment = Annotated[
    str | None,
    typer.Option(metavar="LENGTH", help="longest segment, such as 5s or 120f; each has its own network"),
]
Frames = Annotated[str | None, typer.Option(metavar="A:B", help="frames from A to before B, such as 0:48")]
Crop = Annotated[str | None, typer.Option(metavar="SIZE", help="part to keep, from the centre")]
Resize = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE", help="after the crop: 640:360 (width:height), 640:-2, 360p, 50%, 360x640 (HxW)"
    ),
]
Seed = Annotated[int | None, whole_number("--seed", least=0, help="random seed of the training")]
Stream = Annotated[
    int | None,
    whole_number("--stream", least=0, help="video stream, from 0 (default: the one that players show)"),
]
PixFmt = Annotated[
    str | None,
    typer.Option(metavar="FORMAT", help="pixel format of raw video, such as yuv420p10le or nv12"),
]
RawSize = Annotated[
    str | None, typer.Option(metavar="SIZE", help="size of raw video: 640:360 (width:height), 360x640 (HxW)")
]
Rate = Annotated[
    str | None,
    typer.Option(metavar="FPS", help="frames per second of raw video or of a folder of images"),
]
Deinterlace = Annotated[bool, typer.Option("--deinterlace", help="make full frames of interlaced ones")]
WorkerCount = Annotated[
    int | None,
    whole_number("--workers", least=1, help="jobs at a time, each in a process of its own (Ray)"),
]
RayAddress = Annotated[
    str | None, typer.Option("--ray", metavar="ADDRESS", help="run them on the Ray cluster there, or auto")
]
GpusPerWorker = Annotated[
    float | None,
    number("--gpus-per-worker", least=0, help="GPUs per worker; 0.5: two workers share one (default: 0)"),
]
ThreadsPerWorker = Annotated[
    int | None, whole_number("--threads-per-worker", least=1, help="CPU threads per worker (default: 1)")
]
