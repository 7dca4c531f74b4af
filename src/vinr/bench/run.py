"""Runs recipes: rows become jobs, each finished job is kept at once, so that an interrupted run goes on.

::

    OUT/jobs/                  what jobs measured and need (:mod:`vinr.bench.runner`)
    OUT/NAME-SCALE.json, .md   the table: paper | ours | difference
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from itertools import product
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Final

from vinr.bench.datasets import BUNNY, find_clips
from vinr.bench.points import published_points
from vinr.bench.recipe import SCALES, Kind, Recipe, Row, Scale, Setup, Tuning, load_recipe
from vinr.bench.report import Result, RowResult, write_result
from vinr.bench.runner import Runner, RunnerJob, run_job
from vinr.bench.work import BUNNY_CROP, DEFAULTS, Job, OnPanels, Work
from vinr.codecs.anchors import parse_anchor
from vinr.config import load_preset
from vinr.device import check_device_name, resolve_device
from vinr.encoding.telling import Teller
from vinr.errors import InputError, UsageError, argument
from vinr.files import check_parent
from vinr.fit import Event, Noted, ignore
from vinr.fit.events import FREQUENT
from vinr.scale.pool import open_pool
from vinr.scale.workers import Workers
from vinr.settings import checked_arguments

JOBS: Final = "jobs"


@checked_arguments()
def run_recipe(
    recipe: str | Recipe,
    *,
    scale: str = "mini",
    data: str | PathLike[str] | None = None,
    out: str | PathLike[str] = "bench",
    epochs: int | None = None,
    device: str = "auto",
    overrides: Sequence[str] = (),
    force: bool = False,
    workers: int | None = None,
    ray: str | None = None,
    gpus_per_worker: float | None = None,
    threads_per_worker: int | None = None,
    on_event: Callable[[Event], None] = ignore,
) -> Result:
    """Run the rows of a recipe that ``out`` does not hold yet, and write the table there.

    Parameters
    ----------
    recipe
        Its name; `vinr bench` lists them.
    scale
        ``full`` (as in the paper), ``mini`` (Bunny reduced, minutes) or ``tiny`` (a few steps, a test).
    data
        Folder of the clips that ``full`` needs, laid out as docs/bench.md says.
    out
        Folder of results; several processes may share it, each row is run by one of them.
    epochs, overrides
        Passes over all frames and ``section.key=value`` settings, for every row.
    force
        Run anew what is there.
    workers, ray, gpus_per_worker, threads_per_worker
        Run so many jobs at a time on workers, as :func:`vinr.encode` does with segments; ``out`` and ``data``
        are folders that all of them reach. What measures time should have the machine to itself.

    Raises
    ------
    UsageError, InputError, OutputError
        Before anything is fitted, if something cannot be used; a missing clip is named with its place.
    FitError
        If a fit collapses again and again.
    """
    if isinstance(recipe, str):
        recipe = load_recipe(recipe)
    chosen, folder = parse_scale(scale), Path(fspath(out))
    check_parent(folder)
    data_folder = None if data is None else Path(fspath(data))
    asked = Workers.asked_for(workers, ray, gpus_per_worker, threads_per_worker)
    # Workers may have GPUs where this process has none, or none where it has some.
    check_device_name(device)
    device = str(resolve_device(device)) if asked is None else asked.device(device)
    jobs: dict[str, list[Job]] = {}
    distinct: dict[str, Job] = {}  # rows share jobs
    for row in recipe.rows:
        if row.runs:
            jobs[row.label] = plan_row(recipe, row, chosen, epochs, overrides)
            for job in jobs[row.label]:
                distinct[job.key] = job
    check_jobs(distinct.values(), data_folder)
    if data is not None and not any(job.reads_data for job in distinct.values()):
        on_event(
            Noted(
                f"{argument('data')} has no effect: at scale {chosen} no row reads anything "
                f"from {data_folder}"
            )
        )
    runner = run_jobs(
        recipe.name,
        list(distinct.values()),
        folder,
        data_folder,
        device,
        force=force,
        workers=asked,
        on_event=on_event,
    )
    rows = {}
    for label, row_jobs in jobs.items():
        documents = {}
        for job in row_jobs:
            document = runner.read(job)
            if document is not None:  # None: another process is still at it
                documents[job.label] = document
        rows[label] = RowResult(documents, missing=len(row_jobs) - len(documents))
    settings = {"epochs": epochs, "overrides": [*overrides], "device": device}
    result = Result(recipe, chosen, rows, settings)
    write_result(result, folder)
    return result


def run_jobs(
    title: str,
    jobs: Sequence[Job],
    folder: Path,
    data: Path | None,
    device: str,
    *,
    force: bool,
    on_event: Callable[[Event], None],
    on_panels: OnPanels | None = None,
    workers: Workers | None = None,
) -> Runner:
    """Run jobs that ``folder`` does not hold yet, perhaps on ``workers``; return what reads their results.

    ``on_panels`` is called in this process alone: without workers.
    """
    (folder / JOBS).mkdir(parents=True, exist_ok=True)
    runner = Runner(folder / JOBS, data, device, on_event, on_panels)
    if force:
        runner.forget(jobs)
    if workers is not None:
        _run_on(workers, runner, jobs, on_event)
        return runner
    for number, job in enumerate(jobs):
        on_event(Noted(f"{title}: {number + 1} of {len(jobs)}, {job.key}"))
        runner.run(job)
    return runner


def _run_on(workers: Workers, runner: Runner, jobs: Sequence[Job], on_event: Callable[[Event], None]) -> None:
    """Run jobs on workers; each result lies in the folder as soon as its job has ended."""
    data, tell = runner.data, Teller([job.key for job in jobs], on_event)
    tasks = []
    for job in jobs:
        own_data = None if data is None else data.absolute()
        tasks.append(RunnerJob(runner.folder.absolute(), own_data, runner.device, job))

    with open_pool(workers) as pool:
        ends = pool.run(run_job, tasks, on_event=tell, frequent=FREQUENT)
        with closing(ends):
            for ended in ends:
                ended.value()
                tell.end(ended.number)


def plan_row(
    recipe: Recipe, row: Row, scale: Scale, epochs: int | None = None, overrides: Sequence[str] = ()
) -> list[Job]:
    """Return the jobs of a row, one for each clip."""
    setup = recipe.setup(row, scale).over(DEFAULTS[scale])
    return plan_jobs(recipe.kind_of(row), setup, scale, epochs, overrides)


def plan_jobs(
    kind: Kind,
    setup: Setup,
    scale: Scale,
    epochs: int | None = None,
    overrides: Sequence[str] = (),
    *,
    shown: tuple[float, ...] = (),
) -> list[Job]:
    """Return a job for each clip of ``setup`` and each seed, with the caller's epochs and settings on top."""
    # Before the caller's settings, which have the last word at tiny, too.
    if scale == "tiny":
        setup = _shortened(setup)
    changes: dict[str, Any] = {} if epochs is None else {"epochs": epochs}
    setup = Setup(**changes, overrides=tuple(overrides)).over(setup)
    # A job is of one clip and one seed: rows with others beside it share it. Codecs draw nothing.
    seeds = (None,) if setup.anchor is not None or setup.seeds is None else setup.seeds
    jobs = []
    for clip, seed in product(setup.clips or (), seeds):
        only: dict[str, Any] = {"clips": None, "seeds": None if seed is None else (seed,)}
        if clip == BUNNY and scale != "full" and setup.crop is None:
            only["crop"] = BUNNY_CROP
        jobs.append(Job(kind, setup.model_copy(update=only), clip, shown))
    return jobs


def _shortened(setup: Setup) -> Setup:
    """Return ``setup`` with one epoch for each phase, and the model's tiny size where none is given."""
    changes: dict[str, Any] = {}
    if setup.tune is not None:
        changes["tune"] = tuple(Tuning(epochs=1, phase=tuning.phase) for tuning in setup.tune)
    # At tiny, a bare model means its smallest network, not the one that suits the video.
    named = setup.preset or setup.params or setup.sizes or setup.presets or setup.anchor or setup.published
    if setup.model is not None and not named:
        changes |= {"preset": f"{setup.model}-tiny", "model": None}
    return setup.model_copy(update=changes)


def parse_scale(text: str) -> Scale:
    """Return the scale of that name.

    Raises
    ------
    UsageError
        If there is none.
    """
    if text not in SCALES:
        raise UsageError(f"scale {text!r}: give one of {', '.join(SCALES)}")
    return text


def check_jobs(jobs: Iterable[Job], data: Path | None) -> None:
    """Refuse before hours of work what would be refused after them: missing clips, masks, unknown settings.

    Raises
    ------
    UsageError, InputError
        If a job cannot be run.
    """
    from vinr.bench.experiments.tasks import job_mask, parse_noise

    if data is not None and not data.is_dir():
        raise InputError(f"data folder {data}: is not a folder; give one as docs/bench.md lays it out")
    for job in jobs:
        setup = job.setup
        find_clips(job.clip, data)
        if job.kind == "inpaint":
            # Only an opened mask shows that it has the size and the frames of the clip.
            job_mask(Work(job, data, Path(), "cpu", ignore))
        if job.kind == "denoise":
            parse_noise(setup.noise or "")
        for name in setup.presets or (setup.preset or setup.model,):
            if name is not None:
                load_preset(name, setup.overrides)
        if setup.anchor is not None:
            parse_anchor(setup.anchor)
        if setup.published is not None:
            published_points(setup.published, data)
