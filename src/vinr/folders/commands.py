"""Encodes, decodes and scores all files of a folder, or of a list, several at a time where workers are given.

::

    FOLDER or LIST ──> entries ──> jobs ──> here or on workers ──> OUT_FOLDER/…
                                                           └─────> OUT_FOLDER/results.jsonl, as each one ends

A file that fails is no reason not to do the others: its reason stands in its row. The same command again does
what is missing, and goes on with what was interrupted.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Final

from vinr.decoding.playback import decode, evaluate
from vinr.encoding.encode import encode
from vinr.encoding.telling import Teller
from vinr.errors import InputError, OutputError, UsageError, VinrError, argument
from vinr.files import check_suffix, exists_as_other
from vinr.fit import Event, Noted, ignore
from vinr.fit.events import FREQUENT
from vinr.folders.manifest import (
    FILE_SUFFIXES,
    LIST_SUFFIXES,
    RESULTS_NAME,
    VIDEO_SUFFIXES,
    FileEntry,
    is_list,
    list_entries,
)
from vinr.folders.results import FileResult, FolderReport, ResultsFile, hash_input, key_of
from vinr.scale.pool import Ended, OnEvent, open_pool, run_here
from vinr.scale.workers import Workers
from vinr.state.folder import holds_state, is_expected
from vinr.units import parse_frames
from vinr.video.images import SUFFIXES as IMAGE_SUFFIXES

# What rows of a list may set, each for its file alone.
ENCODE_COLUMNS: Final = (
    *("model", "preset", "params", "size", "bpp", "psnr", "epochs", "time", "segment", "seed"),
    *("frames", "crop", "resize", "stream", "pix_fmt", "raw_size", "rate"),
)
DECODE_COLUMNS: Final = ("frames", "codec", "crf")
EVALUATE_COLUMNS: Final = ("reference", "stream", "pix_fmt", "raw_size", "rate")
KINDS: Final = {int: "whole number", float: "number"}
NUMBERS: Final[dict[str, type[int] | type[float]]] = {
    "epochs": int,
    "crf": int,
    "stream": int,
    "seed": int,
    "bpp": float,
    "psnr": float,
}


@dataclass(frozen=True)
class FileJob:
    """One file of a folder.

    ``command`` is encode, decode or evaluate; ``before`` is what was done of it. ``name`` and ``output_name``
    are those of results, ``path`` and ``output`` where the files lie.
    """

    command: str
    name: str
    path: Path
    output_name: str | None
    output: Path | None
    settings: Mapping[str, Any]
    force: bool
    before: FileResult | None


def run_file(job: FileJob, again: bool, on_event: OnEvent) -> FileResult:
    """Do one file, unless that is done; what cannot be done is a result, too."""
    output = job.output_name
    try:
        if not job.path.exists():
            raise InputError(f"{job.path}: does not exist")
        key = key_of(job.command, hash_input(job.path), job.settings)
        if job.output is None:
            return FileResult(job.name, None, "done", key, values=_score(job))
        if not job.force and job.before is not None and _is_done(job.output, job.before, key):
            return replace(job.before, input=job.name, status="skipped")
        job.output.parent.mkdir(parents=True, exist_ok=True)
        values = _encode(job, on_event) if job.command == "encode" else _decode(job)
        return FileResult(job.name, output, "done", key, hash_input(job.output), values=values)
    except (VinrError, OSError) as error:
        return FileResult(job.name, output, "failed", reason=str(error))
    except Exception as error:  # a mistake of vinr's at one file is no reason not to do the others
        return FileResult(job.name, output, "failed", reason=f"{type(error).__name__}: {error}")


def _is_done(output: Path, before: FileResult, key: str) -> bool:
    """Return whether the output is there, made of the same content with the same settings."""
    return output.exists() and before.key == key and before.sha256 == hash_input(output)


def _encode(job: FileJob, on_event: OnEvent) -> dict[str, Any]:
    assert job.output is not None
    report = encode(
        job.path,
        job.output,
        resume=holds_state(job.output) and not job.force,
        # Of an output that is whole, but not all of its state removed, the process was killed just then.
        force=job.force or is_expected(job.output),
        on_event=on_event,
        **job.settings,
    )
    return {name: value for name, value in asdict(report).items() if name != "path"}


def _decode(job: FileJob) -> dict[str, Any]:
    assert job.output is not None
    report = decode(job.path, job.output, force=job.force, **job.settings)
    return {"num_frames": report.num_frames, "lost": report.lost, "notes": report.notes}


def _score(job: FileJob) -> dict[str, Any]:
    report = asdict(evaluate(job.path, **job.settings))
    return {name: value for name, value in report.items() if not name.startswith("per_frame")}


def encode_folder(
    source: str | PathLike[str],
    output: str | PathLike[str],
    *,
    workers: Workers | None = None,
    force: bool = False,
    on_event: Callable[[Event], None] = ignore,
    **settings: Any,
) -> FolderReport:
    """Encode each video of a folder, or of a list, to a file of its own.

    Parameters
    ----------
    source
        A folder, whose videos are found in all folders below it, or a list: .csv or .jsonl with the column
        ``input`` and perhaps ``output`` and settings such as ``params`` or ``resize``.
    output
        A folder; it is made if need be. ``results.jsonl`` in it has a row for each file.
    workers
        Encode several at a time; one after another in this process if None.
    force
        Encode again what is done, and replace files of other sources or settings.
    on_event
        Called with each event, those of the fits as :class:`vinr.fit.OfJob`.
    settings
        Those of :func:`vinr.encode`, for each file; rows of a list have the last word.

    Returns
    -------
    FolderReport
        What became of each. Files that could not be encoded are no error, but results with their reason.

    Raises
    ------
    UsageError, InputError, OutputError
        If folder or list cannot be used.
    """
    path, folder = Path(fspath(source)), Path(fspath(output))
    check_many(path, folder)
    entries, notes = list_entries(path, VIDEO_SUFFIXES, ENCODE_COLUMNS)
    jobs = partial(_jobs, "encode", entries, folder, ".vinr", settings, force)
    return _run(jobs, folder, workers, notes, on_event)


def decode_folder(
    source: str | PathLike[str],
    output: str | PathLike[str],
    *,
    suffix: str = ".mp4",
    workers: Workers | None = None,
    force: bool = False,
    on_event: Callable[[Event], None] = ignore,
    **settings: Any,
) -> FolderReport:
    """Decode each .vinr file of a folder, or of a list, to a video of its own.

    Parameters
    ----------
    suffix
        That of the outputs: ``.mp4``, ``.mkv`` or ``.y4m``.
    source, output, workers, force, on_event, settings
        As for :func:`encode_folder`; the settings are those of :func:`vinr.decode`.
    """
    path, folder = Path(fspath(source)), Path(fspath(output))
    check_many(path, folder)
    if suffix not in (".mp4", ".mkv", ".y4m"):
        raise UsageError(f"{argument('suffix')} {suffix}: give .mp4, .mkv or .y4m")
    entries, notes = list_entries(path, FILE_SUFFIXES, DECODE_COLUMNS)
    return _run(
        partial(_jobs, "decode", entries, folder, suffix, settings, force), folder, workers, notes, on_event
    )


def evaluate_folder(
    source: str | PathLike[str],
    references: str | PathLike[str],
    *,
    workers: Workers | None = None,
    on_event: Callable[[Event], None] = ignore,
    **settings: Any,
) -> FolderReport:
    """Compare each .vinr file of a folder, or of a list, with the video it was made from.

    Parameters
    ----------
    references
        The folder of the originals: that of ``a/b.vinr`` is the video ``a/b.*`` in it; rows of a list may
        name another in the column ``reference``.
    source, workers, on_event, settings
        As for :func:`encode_folder`; the settings are those of :func:`vinr.evaluate`.
    """
    path, folder = Path(fspath(source)), Path(fspath(references))
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder; give the one with the originals of {path}")
    entries, notes = list_entries(path, FILE_SUFFIXES, EVALUATE_COLUMNS)
    jobs, missing = [], []
    for entry in entries:
        own = {**settings, **_typed("evaluate", entry.settings)}
        try:
            own["reference"] = str(_reference(entry, folder.absolute(), own.get("reference")))
        except InputError as error:
            missing.append(FileResult(entry.name, None, "failed", reason=str(error)))
            continue
        path = entry.path.absolute()
        jobs.append(FileJob("evaluate", entry.name, path, None, None, own, force=False, before=None))
    results = _finish(jobs, workers, notes, on_event, lambda result: None)
    return FolderReport((*missing, *results))


def _reference(entry: FileEntry, folder: Path, named: str | None) -> Path:
    if named is not None:
        return folder / named
    place = (folder / entry.name).parent
    stem = Path(entry.name).stem
    found = [path for path in sorted(place.glob("*")) if path.stem == stem and path.suffix != ".vinr"]
    if len(found) != 1:
        there = "none" if not found else ", ".join(path.name for path in found)
        raise InputError(f"{entry.name}: its original should be {place / stem}.*; there is {there}")
    return found[0]


def check_many(source: Path, output: Path) -> None:
    """Refuse what is one video, not many, and an output that is no folder.

    Raises
    ------
    UsageError, InputError, OutputError
        Saying which of both is meant by which name.
    """
    if not source.is_dir() and not is_list(source):
        lists = " or ".join(LIST_SUFFIXES)
        raise UsageError(
            f"{source}: is one file; name a file as output, such as out.vinr. Of many files give the folder, "
            f"or a list ({lists})"
        )
    if source.is_dir() and (image := _image_alone(source)) is not None:
        raise UsageError(
            f"{source}: holds images such as {image}, which are one video; name a file as output, such as "
            "out.vinr. A folder of videos holds video files"
        )
    if exists_as_other(output, stat.S_ISDIR):
        raise OutputError(f"{output}: exists and is not a folder; give a folder for the files")


def _image_alone(folder: Path) -> str | None:
    """Return an image of a folder that holds images, and no videos."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    if any(Path(name).suffix.lower() in VIDEO_SUFFIXES for name in names):
        return None
    return next((name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES), None)


def _jobs(
    command: str,
    entries: Sequence[FileEntry],
    folder: Path,
    suffix: str,
    settings: Mapping[str, Any],
    force: bool,
    results: ResultsFile,
) -> list[FileJob]:
    jobs, taken = [], dict[str, str]()
    for entry in entries:
        name = entry.output or Path(entry.name).with_suffix(suffix).as_posix()
        output = folder.absolute() / name
        if entry.output is not None:
            check_suffix(output, suffix, f"output of {entry.name}:")
        if name in taken:
            both = f"{taken[name]} and {entry.name}"
            raise UsageError(f"{both} would both become {name}; name outputs in a list, in the column output")
        taken[name] = entry.name
        own, before = {**settings, **_typed(command, entry.settings)}, results.find_done(name)
        jobs.append(FileJob(command, entry.name, entry.path.absolute(), name, output, own, force, before))
    return jobs


def _typed(command: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of a row as the function of the command takes them: CSV has texts alone."""
    typed = dict(settings)
    for name, kind in NUMBERS.items():
        value = typed.get(name)
        if isinstance(value, str):
            try:
                typed[name] = kind(value)
            except ValueError:
                raise UsageError(f"column {name}: {value!r} is no {KINDS[kind]}") from None
    if command == "encode" and "frames" in typed:
        typed["frames"] = parse_frames(str(typed["frames"]))
    return typed


def _run(
    make_jobs: Callable[[ResultsFile], list[FileJob]],
    folder: Path,
    workers: Workers | None,
    notes: Sequence[str],
    on_event: Callable[[Event], None],
) -> FolderReport:
    results = ResultsFile(folder / RESULTS_NAME)
    jobs = make_jobs(results)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror or error}") from None
    return FolderReport(tuple(_finish(jobs, workers, notes, on_event, results.add)))


def _result_of(ended: Ended[FileResult], job: FileJob) -> FileResult:
    if ended.error is None:
        return ended.value()
    return FileResult(job.name, job.output_name, "failed", reason=str(ended.error))


def _finish(
    jobs: Sequence[FileJob],
    workers: Workers | None,
    notes: Sequence[str],
    on_event: Callable[[Event], None],
    keep: Callable[[FileResult], None],
) -> list[FileResult]:
    """Run all jobs; return their results in order, and ``keep`` each as it ends."""
    for text in notes:
        on_event(Noted(text))
    results: dict[int, FileResult] = {}
    tell = Teller([job.name for job in jobs], on_event)
    with ExitStack() as opened:
        if workers is None or not jobs:
            ends = run_here(run_file, jobs, on_event=tell)
        else:
            pool = opened.enter_context(open_pool(workers))
            ends = pool.run(run_file, jobs, on_event=tell, frequent=FREQUENT)
        opened.callback(ends.close)
        for ended in ends:
            results[ended.number] = _result_of(ended, jobs[ended.number])
            if results[ended.number].status != "skipped":
                keep(results[ended.number])
            tell.end(ended.number)
    return [results[number] for number in range(len(jobs))]
