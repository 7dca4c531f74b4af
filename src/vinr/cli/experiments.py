"""The commands of those who compare: what there is, how it does beside codecs, the papers' experiments."""

from __future__ import annotations

from typing import Annotated

import typer

from vinr.cli import console
from vinr.cli.options import Device, Force, Json, Settings
from vinr.errors import UsageError
from vinr.units import parse_frames, parse_list, parse_numbers, parse_size


def compare(
    source: Annotated[str, typer.Argument(metavar="INPUT", help="a video")],
    page: Annotated[
        str | None, typer.Argument(metavar="PAGE.html", help="what to write; INPUT-compare.html otherwise")
    ] = None,
    model: Annotated[str | None, typer.Option(help="models to fit, with commas between them")] = None,
    preset: Annotated[str | None, typer.Option(help="presets to fit, with commas between them")] = None,
    params: Annotated[str | None, typer.Option(help="sizes of networks: 100k,200k,400k,800k")] = None,
    bpp: Annotated[str | None, typer.Option(help="sizes in bits a pixel: 0.02,0.05,0.1,0.2")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="passes over all frames, each network")] = None,
    time: Annotated[str | None, typer.Option(help="time for each network, such as 10m")] = None,
    files: Annotated[list[str], typer.Option("--vinr", help="file of this video, repeatable")] = [],  # noqa: B006
    anchors: Annotated[
        str | None,
        typer.Option(help="codecs: x264,x265-veryslow-nob,av1-4:20:30:40:50,vp9; published: FILE.csv#CLIP"),
    ] = None,
    frames: Annotated[str | None, typer.Option(help="A:B, half open")] = None,
    crop: Annotated[str | None, typer.Option(help="HxW, cut from the centre")] = None,
    resize: Annotated[str | None, typer.Option(help="HxW, after the crop")] = None,
    device: Device = "auto",
    settings: Settings = [],  # noqa: B006
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Compare networks with x264, x265, AV1 and VP9 on the same frames, in one HTML page."""
    from vinr.cli.console import note
    from vinr.cli.show_compare import compare_progress, show_comparison
    from vinr.comparison import DEFAULT_ANCHORS, page_path, what_is_left
    from vinr.comparison import compare as run

    with compare_progress(lambda: what_is_left(page_path(source, page))) as on_progress:
        report = run(
            source,
            page,
            models=parse_list(model),
            presets=parse_list(preset),
            params=parse_list(params),
            bpp=parse_numbers(bpp),
            epochs=epochs,
            time=time,
            files=files,
            anchors=DEFAULT_ANCHORS if anchors is None else parse_list(anchors),
            frames=parse_frames(frames) if frames else None,
            crop=parse_size(crop) if crop else None,
            resize=parse_size(resize) if resize else None,
            device=device,
            overrides=settings,
            force=force,
            on_progress=on_progress,
            on_note=note,
        )
    show_comparison(report, as_json=as_json)


def bench(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="[RECIPE]", help="a table or figure of a paper; none: list them"),
    ] = None,
    scale: Annotated[
        str, typer.Option(help="full: as in the paper; mini: Bunny reduced, minutes; tiny: a few steps")
    ] = "mini",
    data: Annotated[str | None, typer.Option(metavar="FOLDER", help="the papers' clips, for full")] = None,
    out: Annotated[str, typer.Option(metavar="FOLDER", help="where results are kept")] = "bench",
    epochs: Annotated[int | None, typer.Option(min=1, help="passes over all frames, each network")] = None,
    device: Device = "auto",
    settings: Settings = [],  # noqa: B006
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Run a paper's experiment and print paper, ours and the difference; without a name, list them."""
    from vinr.cli import show_bench as shown

    if recipe is None:
        from vinr.bench.recipe import list_recipes, load_recipe
        from vinr.bench.run import parse_scale

        parse_scale(scale)
        if data is not None or epochs is not None or settings:
            raise UsageError("--data, --epochs and --set belong to a recipe; `vinr bench` lists them")
        shown.show_recipes(list(map(load_recipe, list_recipes())), as_json=as_json)
        return
    options = shown.BenchOptions(
        scale=scale,
        data=data,
        out=out,
        epochs=epochs,
        device=device,
        overrides=settings,
        force=force,
    )
    shown.run_and_show(recipe, options, as_json=as_json)


def models(as_json: Json = False) -> None:
    """List the models."""
    from vinr.cli.catalogue import list_model_entries

    console.show_models(list_model_entries(), as_json=as_json)


def presets(
    model: Annotated[str | None, typer.Option(help="only this model's")] = None, as_json: Json = False
) -> None:
    """List the presets: parameters, operations, and the paper's figures."""
    from vinr.cli.catalogue import list_preset_entries

    console.show_presets(list_preset_entries(model), as_json=as_json)
