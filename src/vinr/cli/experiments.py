"""The commands of those who compare: what there is, how it does beside codecs, the papers' experiments."""

from __future__ import annotations

from typing import Annotated, Final

import typer

import vinr
from vinr.cli import console, progress
from vinr.cli.numbers import whole_number
from vinr.cli.options import (
    Crop,
    Deinterlace,
    Device,
    Force,
    Frames,
    GpusPerWorker,
    Input,
    Json,
    PixFmt,
    Rate,
    RawSize,
    RayAddress,
    Resize,
    Settings,
    Stream,
    ThreadsPerWorker,
    WorkerCount,
)
from vinr.errors import UsageError, argument
from vinr.units import parse_frames, parse_list, parse_numbers

OUT: Final = "bench"
SCALE: Final = "mini"
NetworkEpochs = Annotated[
    int | None, whole_number("--epochs", least=1, help="passes over all frames, per network")
]


def compare(
    source: Input,
    page: Annotated[
        str | None, typer.Argument(metavar="PAGE.html", help="page to write (default: INPUT-compare.html)")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAMES", help="models to train, separated by commas")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(metavar="NAMES", help="presets to train, separated by commas")
    ] = None,
    params: Annotated[
        str | None, typer.Option(metavar="LIST", help="parameters of the networks: 100k,200k,400k")
    ] = None,
    bpp: Annotated[
        str | None, typer.Option(metavar="LIST", help="bits per pixel of the files: 0.02,0.05,0.1,0.2")
    ] = None,
    epochs: NetworkEpochs = None,
    time: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="wall-clock time per network: 10m, or a curve each of 1m,5m,30m"),
    ] = None,
    files: Annotated[
        list[str], typer.Option("--vinr", metavar="FILE.vinr", help="file of this video, repeatable")
    ] = [],  # noqa: B006
    anchors: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="codecs: x264,x265-veryslow-nob,av1-4:20:30:40:50,vp9; published: FILE.csv#CLIP",
        ),
    ] = None,
    frames: Frames = None,
    crop: Crop = None,
    resize: Resize = None,
    stream: Stream = None,
    pix_fmt: PixFmt = None,
    raw_size: RawSize = None,
    rate: Rate = None,
    deinterlace: Deinterlace = False,
    device: Device = "auto",
    workers: WorkerCount = None,
    ray: RayAddress = None,
    gpus_per_worker: GpusPerWorker = None,
    threads_per_worker: ThreadsPerWorker = None,
    settings: Settings = [],  # noqa: B006
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Compare networks with x264, x265, AV1 and VP9 on the same frames, in one HTML page."""
    from vinr.cli.show_compare import show_comparison
    from vinr.comparison import describe_saved, page_path

    with progress.fit_progress(lambda: describe_saved(page_path(source, page))) as watch:
        report = vinr.compare(
            source,
            page,
            models=parse_list(model),
            presets=parse_list(preset),
            params=parse_list(params),
            bpp=parse_numbers(bpp),
            epochs=epochs,
            time=parse_list(time) or None,
            files=files,
            anchors=None if anchors is None else parse_list(anchors),
            frames=parse_frames(frames) if frames else None,
            crop=crop,
            resize=resize,
            stream=stream,
            pix_fmt=pix_fmt,
            raw_size=raw_size,
            rate=rate,
            deinterlace=deinterlace,
            device=device,
            workers=workers,
            ray=ray,
            gpus_per_worker=gpus_per_worker,
            threads_per_worker=threads_per_worker,
            overrides=settings,
            force=force,
            on_note=console.note,
            on_event=watch.on_event,
        )
    show_comparison(report, as_json=as_json)


def bench(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE", help="a table or figure of a paper; none: list them"),
    ] = None,
    scale: Annotated[
        str,
        typer.Option(
            metavar="full|mini|tiny",
            help="full: as in the paper; mini: Bunny reduced, minutes; tiny: a few steps",
        ),
    ] = SCALE,
    data: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="folder of the papers' clips, for full")
    ] = None,
    out: Annotated[str, typer.Option(metavar="FOLDER", help="folder of the results")] = OUT,
    epochs: NetworkEpochs = None,
    device: Device = "auto",
    workers: WorkerCount = None,
    ray: RayAddress = None,
    gpus_per_worker: GpusPerWorker = None,
    threads_per_worker: ThreadsPerWorker = None,
    settings: Settings = [],  # noqa: B006
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Run a paper's experiment and print paper, ours and the difference; without a name, list them."""
    from vinr.bench.recipe import list_recipes, load_recipe
    from vinr.bench.run import parse_scale, run_recipe
    from vinr.cli.show_bench import show_bench, show_recipes

    if recipe is None:
        # A mistyped scale or an option without effect is refused, as it would be with a recipe.
        parse_scale(scale)
        given: dict[str, object] = {
            "scale": None if scale == SCALE else scale,
            "data": data,
            "out": None if out == OUT else out,
            "epochs": epochs,
            "device": None if device == "auto" else device,
            "workers": workers,
            "ray": ray,
            "gpus_per_worker": gpus_per_worker,
            "threads_per_worker": threads_per_worker,
            "overrides": settings or None,
            "force": force or None,
        }
        if names := [argument(name) for name, value in given.items() if value is not None]:
            raise UsageError(f"{names[0]} belongs to a recipe; name one, `vinr bench` lists them")
        show_recipes(list(map(load_recipe, list_recipes())), as_json=as_json)
        return
    with progress.fit_progress(lambda: f"finished rows are saved in {out}") as watch:
        result = run_recipe(
            recipe,
            scale=scale,
            data=data,
            out=out,
            epochs=epochs,
            device=device,
            workers=workers,
            ray=ray,
            gpus_per_worker=gpus_per_worker,
            threads_per_worker=threads_per_worker,
            overrides=settings,
            force=force,
            on_event=watch.on_event,
        )
    show_bench(result, out, as_json=as_json)


def models(as_json: Json = False) -> None:
    """List the models."""
    from vinr.cli.catalogue import list_model_entries

    console.show_models(list_model_entries(console.note), as_json=as_json)


def settings(
    section: Annotated[
        str | None,
        typer.Argument(
            metavar="SECTION", help="architecture, fit, compress, decode, or a key such as fit.schedule"
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="model with the architecture; `vinr models` lists them"),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the settings that --set takes: default, type, allowed values and meaning."""
    from vinr.cli.settings_list import list_settings
    from vinr.config import default_model

    console.show_settings(list_settings(section, model), model or default_model(), as_json=as_json)


def presets(
    model: Annotated[str | None, typer.Option(metavar="NAME", help="list only presets of this model")] = None,
    as_json: Json = False,
) -> None:
    """List the presets: parameters, operations, and the paper's figures."""
    from vinr.cli.catalogue import list_preset_entries

    console.show_presets(list_preset_entries(model, console.note), as_json=as_json)
