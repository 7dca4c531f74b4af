"""Runs recipes: rows become jobs, each finished job is kept at once, so that an interrupted run goes on.

::

    OUT/jobs/KEY.json          what a job measured, its settings, commit, machine; rows and recipes share jobs
    OUT/jobs/…                 checkpoints, plain fits that jobs go on from, .vinr files
    OUT/NAME-SCALE.json, .md   the table: paper | ours | difference
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Final

from vinr.bench.claims import claimed
from vinr.bench.datasets import OBJECT_MASK, find_clips, find_masks
from vinr.bench.points import published_points
from vinr.bench.recipe import SCALES, Kind, Recipe, Row, Scale, Setup, Tuning, load_recipe
from vinr.bench.record import commit, machine
from vinr.bench.report import Result, RowResult, write_result
from vinr.bench.work import DEFAULTS, Job, Values, Work
from vinr.config import load_preset
from vinr.device import resolve_device
from vinr.errors import UsageError
from vinr.evaluate.anchors import parse_anchor
from vinr.files import atomic_path, check_parent
from vinr.fit import Event, Noted, ignore

__all__ = ["plan_row", "run_recipe"]

JOBS: Final = "jobs"


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

    Raises
    ------
    UsageError, InputError, OutputError
        Before anything is fitted, if something cannot be used; a missing clip is named with its place.
    FitError
        If a fit collapses again and again.
    """
    found = load_recipe(recipe) if isinstance(recipe, str) else recipe
    chosen = _scale(scale)
    folder = Path(fspath(out))
    check_parent(folder)
    where = None if data is None else Path(fspath(data))
    name = str(resolve_device(device))
    jobs = {row.label: plan_row(found, row, chosen, epochs, overrides) for row in found.rows if row.runs}
    distinct = list({job.key: job for own in jobs.values() for job in own}.values())
    _check(distinct, where)
    (folder / JOBS).mkdir(parents=True, exist_ok=True)
    runner = _Runner(folder / JOBS, where, name, on_event)
    if force:
        runner.forget(distinct)
    for number, job in enumerate(distinct):
        on_event(Noted(f"{found.name}: {number + 1} of {len(distinct)}, {job.key}"))
        runner.run(job)
    result = _result(
        found, chosen, runner, jobs, {"epochs": epochs, "overrides": [*overrides], "device": name}
    )
    write_result(result, folder)
    return result


def plan_row(
    recipe: Recipe, row: Row, scale: Scale, epochs: int | None = None, overrides: Sequence[str] = ()
) -> list[Job]:
    """Return the jobs of a row, one for each clip."""
    setup = recipe.setup(row, scale).over(DEFAULTS[scale])
    if scale == "tiny":
        setup = _shortened(setup)
    changes = (
        Setup(overrides=tuple(overrides))
        if epochs is None
        else Setup(epochs=epochs, overrides=tuple(overrides))
    )
    setup = changes.over(setup)
    clips = setup.clips or ()
    setup = setup.model_copy(update={"clips": None})
    return [Job(recipe.kind_of(row), setup, clip) for clip in clips]


def _shortened(setup: Setup) -> Setup:
    """Return ``setup`` with one epoch for each phase, and the model's tiny size where none is given."""
    changes: dict[str, Any] = {}
    if setup.tune is not None:
        changes["tune"] = tuple(Tuning(epochs=1, phase=tuning.phase) for tuning in setup.tune)
    named = setup.preset or setup.params or setup.sizes or setup.presets or setup.anchor or setup.published
    if setup.model is not None and not named:
        changes |= {"preset": f"{setup.model}-tiny", "model": None}
    return setup.model_copy(update=changes)


def _scale(text: str) -> Scale:
    for scale in SCALES:
        if text == scale:
            return scale
    raise UsageError(f"scale {text!r}: give one of {', '.join(SCALES)}")


def _check(jobs: Sequence[Job], data: Path | None) -> None:
    """Refuse before hours of work what would be refused after them: missing clips, unknown settings."""
    for job in jobs:
        setup = job.setup
        find_clips(job.clip, data)
        if setup.mask == OBJECT_MASK:
            find_masks(job.clip, data)
        for name in setup.presets or (setup.preset or setup.model,):
            if name is not None:
                load_preset(name, setup.overrides)
        if setup.anchor is not None:
            parse_anchor(setup.anchor)
        if setup.published is not None:
            published_points(setup.published, data)


@dataclass(frozen=True)
class _Runner:
    """Runs jobs that no process has run yet."""

    folder: Path
    data: Path | None
    device: str
    on_event: Callable[[Event], None]

    def run(self, job: Job) -> None:
        """Run ``job`` unless its result is there or another process is at it."""
        path = self._path(job)
        if path.exists():
            return
        with claimed(path.with_suffix(".lock")) as mine:
            if not mine:
                self.on_event(Noted(f"{job.key}: another process is at it"))
            elif not path.exists():
                self._measure(job, path)

    def _measure(self, job: Job, path: Path) -> None:
        started = time.perf_counter()
        work = Work(job, self.data, self.folder, self.device, self.on_event)
        values = _experiment(job.kind)(work)
        document = {
            "kind": job.kind,
            "clip": job.clip,
            "setup": job.setup.model_dump(mode="json", exclude_none=True),
            "device": self.device,
            "values": values,
            "seconds": time.perf_counter() - started,
            "date": date.today().isoformat(),
            "commit": commit(),
            "machine": machine(),
        }
        with atomic_path(path, force=True) as temporary:
            temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")

    def read(self, job: Job) -> dict[str, Any] | None:
        """Return what a job measured and under which conditions, None if it has not ended."""
        path = self._path(job)
        if not path.exists():
            return None
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def forget(self, jobs: Sequence[Job]) -> None:
        """Remove results of ``jobs`` and all that they were made from."""
        for job in jobs:
            for path in self.folder.glob(f"{job.key}*"):
                path.unlink()
        for path in self.folder.glob("base-*"):
            path.unlink()

    def _path(self, job: Job) -> Path:
        # Speed and rounding depend on the kind of device, so results of several kinds lie side by side.
        return (
            self.folder
            / f"{job.key}{'' if self.device == 'cpu' else '-' + self.device.partition(':')[0]}.json"
        )


def _experiment(kind: Kind) -> Callable[[Work], Values]:
    """Return the function that runs jobs of ``kind``; imported when needed, since each needs much."""
    match kind:
        case "fit":
            from vinr.bench.experiments import fit_experiment as run
        case "encode":
            from vinr.bench.experiments import encode_experiment as run
        case "interpolate":
            from vinr.bench.experiments_tasks import interpolate_experiment as run
        case "inpaint":
            from vinr.bench.experiments_tasks import inpaint_experiment as run
        case "denoise":
            from vinr.bench.experiments_tasks import denoise_experiment as run
        case "rate_distortion":
            from vinr.bench.experiments_rates import rate_distortion_experiment as run
        case "decode":
            from vinr.bench.experiments_rates import decode_experiment as run
        case "clips":
            from vinr.bench.experiments_clips import clips_experiment as run
    return run


def _result(
    recipe: Recipe, scale: Scale, runner: _Runner, jobs: dict[str, list[Job]], settings: dict[str, Any]
) -> Result:
    rows = []
    for label, own in jobs.items():
        documents = {job.clip: runner.read(job) for job in own}
        finished = {clip: found for clip, found in documents.items() if found is not None}
        rows.append(RowResult(label, finished, missing=len(own) - len(finished)))
    return Result(recipe, scale, tuple(rows), settings)
