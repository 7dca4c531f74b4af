"""Commands on many files, and what they show: counts, and each reason why a file failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer
from rich.table import Table

from vinr.cli import console
from vinr.cli.progress import Loudness, fit_progress
from vinr.errors import UsageError, argument, plural

if TYPE_CHECKING:
    from vinr.folders import FolderReport
    from vinr.scale.workers import Workers

Asked = tuple[int | None, str | None, float | None, int | None]
"""Workers, address of a cluster, GPUs and threads per worker, as they were given."""

MOST_SHOWN: Final = 20
AGAIN: Final = "finished files are kept. Repeat the command to continue"


def is_many(source: str, output: str | None = None) -> bool:
    """Return whether a command is on many files: of a folder or a list.

    A folder may be one video, too: that of images, whose ``output`` is a file.
    """
    from vinr.folders.manifest import is_list

    is_file = output is not None and Path(output).suffix.lower() == ".vinr"
    return (Path(source).is_dir() or is_list(Path(source))) and not is_file


def refuse_workers(asked: Asked) -> None:
    """Refuse workers where a command has one job alone.

    Raises
    ------
    UsageError
        If any are asked for.
    """
    if any(value is not None for value in asked):
        names = f"{argument('workers')} and {argument('ray')}"
        raise UsageError(f"{names} are for many files; give a folder, or leave them out")


def encode_many(
    source: str,
    output: str,
    *,
    asked: Asked,
    threads: int | None,
    force: bool,
    as_json: bool,
    loudness: Loudness,
    logs: Sequence[str],
    settings: Mapping[str, Any],
) -> None:
    """Encode the videos of a folder or a list."""
    from vinr.folders import encode_folder

    with fit_progress(lambda: AGAIN, loudness, logs) as watch:
        report = encode_folder(
            source,
            output,
            workers=_workers(asked, threads),
            force=force,
            on_event=watch.on_event,
            threads=threads,
            **settings,
        )
    _show(report, as_json=as_json, loudness=loudness)


def decode_many(
    source: str, output: str, *, suffix: str, asked: Asked, force: bool, settings: Mapping[str, Any]
) -> None:
    """Decode the files of a folder or a list."""
    from vinr.folders import decode_folder

    with fit_progress(lambda: AGAIN) as watch:
        report = decode_folder(
            source,
            output,
            suffix=suffix,
            workers=_workers(asked),
            force=force,
            on_event=watch.on_event,
            **settings,
        )
    _show(report, as_json=False)


def evaluate_many(
    source: str, references: str, *, asked: Asked, as_json: bool, settings: Mapping[str, Any]
) -> None:
    """Compare the files of a folder or a list with their originals."""
    from vinr.folders import evaluate_folder

    with fit_progress(lambda: "nothing was written") as watch:
        report = evaluate_folder(
            source, references, workers=_workers(asked), on_event=watch.on_event, **settings
        )
    if not as_json:
        _show_scores(report)
    _show(report, as_json=as_json)


def _workers(asked: Asked, threads: int | None = None) -> Workers | None:
    from vinr.scale.workers import Workers

    return Workers.asked_for(*asked, threads)


def _show(report: FolderReport, *, as_json: bool, loudness: Loudness = "usual") -> None:
    """Print what became of the files, and end with status 1 if any failed."""
    if as_json:
        console.print_json([asdict(result) for result in report.results])
    elif loudness != "quiet":
        counts = [f"{len(report.of(status))} {status}" for status in ("done", "skipped", "failed")]
        console.say(f"{plural(len(report.results), 'file')}: {', '.join(counts)}")
    failed = report.of("failed")
    reasons = Counter(_reason(result.reason, result.input) for result in failed)
    for result in failed[:MOST_SHOWN]:
        if reasons[_reason(result.reason, result.input)] == 1 or len(failed) <= MOST_SHOWN:
            console.note(f"{result.input}: {result.reason}")
    if len(failed) > MOST_SHOWN:
        for reason, count in reasons.most_common(MOST_SHOWN):
            console.note(f"{plural(count, 'file')}: {reason}")
    if failed:
        raise typer.Exit(1)


def _reason(reason: str | None, name: str) -> str:
    """Return a reason without the name of its file, so that equal ones can be counted."""
    text = reason or ""
    head, colon, rest = text.partition(": ")
    return rest if colon and head.endswith(name) else text


def _show_scores(report: FolderReport) -> None:
    table = Table("file", box=None)
    for title in ("PSNR dB", "MS-SSIM", "bpp", "bytes"):
        table.add_column(title, justify="right")
    for result in report.of("done"):
        values = result.values
        similarity = "" if values["ms_ssim"] is None else f"{values['ms_ssim']:.4f}"
        cells = (f"{values['psnr_db']:.2f}", similarity, f"{values['bpp']:.4f}", f"{values['num_bytes']:,}")
        table.add_row(result.input, *cells)
    console.print_table(table)
