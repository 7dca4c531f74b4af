"""Fits networks, and shows on one page what becomes of frames.

::

    gallery.toml ─> jobs, kept as those of recipes ─┬─> figures ─────────> OUT/gallery.json ─┐
                                                    └─> frames shown ────> OUT/*.webp ───────┴─> OUT/README.md
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Final

from benchmarks.gallery.page import MARK, gallery_page
from benchmarks.gallery.pictures import write_picture
from benchmarks.gallery.settings import GallerySettings, Network, Section, load_gallery
from benchmarks.gallery.shown import ShownFrames, keep_frames
from vinr.bench.datasets import OBJECT_MASK, find_clip, find_masks
from vinr.bench.pages import write_page
from vinr.bench.recipe import Scale
from vinr.bench.run import check_jobs, parse_scale, plan_jobs, run_jobs
from vinr.bench.runner import Runner
from vinr.bench.work import SHOWN_SUFFIX, Job
from vinr.device import resolve_device
from vinr.errors import InputError, OutputError
from vinr.files import check_parent
from vinr.fit import Event, Noted, ignore

PAGE: Final = "README.md"
NAME: Final = "gallery"


@dataclass(frozen=True)
class GalleryReport:
    """What the page shows, as plain values, and the two files."""

    document: dict[str, Any]
    json_path: Path
    page_path: Path


@dataclass(frozen=True)
class _Planned:
    """A section with the job of each network; none where its clip is missing, and ``left_out`` says so."""

    section: Section
    jobs: tuple[tuple[Network, Job], ...]
    left_out: str | None


def run_gallery(
    *,
    scale: str = "mini",
    data: str | PathLike[str] | None = None,
    out: str | PathLike[str] = NAME,
    epochs: int | None = None,
    device: str = "auto",
    overrides: Sequence[str] = (),
    force: bool = False,
    settings: GallerySettings | None = None,
    on_event: Callable[[Event], None] = ignore,
) -> GalleryReport:
    """Fit what the gallery shows and ``out`` does not hold yet, and write its page there.

    Parameters
    ----------
    scale, data, epochs, device, overrides, force
        As for :func:`vinr.bench.run.run_recipe`. Sections whose clip ``data`` lacks are left out.
    out
        Folder of README.md, gallery.json, the pictures, and below ``jobs/`` what they are made from.
    settings
        What is fitted and shown; that of gallery.toml if None.

    Raises
    ------
    UsageError, InputError, OutputError
        Before anything is fitted, if something cannot be used; a README.md that is no gallery's stays.
    FitError
        If a fit collapses again and again.
    """
    gallery, chosen = settings or load_gallery(), parse_scale(scale)
    folder, where = Path(fspath(out)), None if data is None else Path(fspath(data))
    name = str(resolve_device(device))
    _check_folder(folder)
    planned = [_plan(gallery, section, chosen, where, epochs, overrides) for section in gallery.sections]
    jobs = [job for plan in planned for _, job in plan.jobs]
    check_jobs(jobs, where)
    for plan in planned:
        if plan.left_out:
            on_event(Noted(f"gallery: {plan.section.title}: {plan.left_out}"))
    runner = run_jobs(NAME, jobs, folder, where, name, force=force, on_event=on_event, on_panels=keep_frames)
    datasets = {job.clip.partition("/")[0] for job in jobs}
    document = {
        "title": gallery.title,
        "text": gallery.text,
        "scale": chosen,
        "note": gallery.notes.get(chosen, ""),
        "has_data": any(plan.section.optional and plan.jobs for plan in planned),
        "settings": {"epochs": epochs, "overrides": [*overrides], "device": name},
        "sections": [_shown(plan, runner, folder) for plan in planned],
        "credits": [text for dataset, text in gallery.credits.items() if dataset in datasets],
    }
    return _write(document, folder)


def _check_folder(out: Path) -> None:
    check_parent(out)
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: exists and is no folder; choose another name")
    page = out / PAGE
    if page.exists() and not page.read_bytes().startswith(MARK.encode()):
        raise OutputError(f"{page}: exists and is no gallery's page; choose another folder with --out")


def _plan(
    settings: GallerySettings,
    section: Section,
    scale: Scale,
    data: Path | None,
    epochs: int | None,
    overrides: Sequence[str],
) -> _Planned:
    jobs = []
    for network in section.networks:
        setup = settings.setup(section, network, scale)
        for job in plan_jobs(section.kind, setup, scale, epochs, overrides, shown=section.shown):
            if section.optional and not _is_there(job, data):
                parts = f"`{job.clip}/frames` and `{job.clip}/masks`"
                return _Planned(
                    section, (), f"Left out: it needs `--data FOLDER` with {parts} (docs/bench.md)."
                )
            jobs.append((network, job))
    return _Planned(section, tuple(jobs), None)


def _is_there(job: Job, data: Path | None) -> bool:
    try:
        find_clip(job.clip, data)
        if job.setup.mask == OBJECT_MASK:
            find_masks(job.clip, data)
    except InputError:
        return False
    return True


def _shown(plan: _Planned, runner: Runner, folder: Path) -> dict[str, Any]:
    """Return a section's part of the document; its pictures are written."""
    section = plan.section
    ended = [(network, job, document) for network, job in plan.jobs if (document := runner.read(job))]
    return {
        "name": section.name,
        "title": section.title,
        "text": section.text,
        "left_out": plan.left_out,
        "panels": section.panels,
        "figures": {name: figure.model_dump() for name, figure in section.figures.items()},
        "num_missing": len(plan.jobs) - len(ended),
        "networks": [_network(section, *one, runner, folder) for one in ended],
    }


def _network(
    section: Section, network: Network, job: Job, document: Mapping[str, Any], runner: Runner, folder: Path
) -> dict[str, Any]:
    kept, clip = ShownFrames.read(runner.path(job, SHOWN_SUFFIX)), job.clip.rpartition("/")[2]
    slug = re.sub(r"[^a-z0-9]", "-", f"{clip}-{network.label}".lower())
    picture = write_picture(section, f"{section.name}-{slug}", kept, folder)
    height, width = kept.rgb_NCHW["original"].shape[2:]
    measured = document["values"]
    values = {name: measured.get(name) for name in section.figures}
    return {
        "label": network.label,
        "picture": picture.picture,
        "num_frames": kept.num_frames,
        "height": height,
        "width": width,
        "frames": [*picture.frames],
        "shown_psnr_db": {panel: [*values_db] for panel, values_db in picture.psnr_db.items()},
        "ms_ssim_window": measured.get("ms_ssim_window"),
        # Figures of the section alone: behind an object there is no truth, and no PSNR.
        **document,
        "values": values,
    }


def _write(document: dict[str, Any], folder: Path) -> GalleryReport:
    page_path = write_page(folder / NAME, document, gallery_page(document), page=PAGE)
    return GalleryReport(document, folder / f"{NAME}.json", page_path)
