"""Kills comparisons at chosen places, repeats the command, and tells what was fitted again and what is left.

``main`` is called in a fresh process, so that every comparison is a fork of one that has loaded everything
and has one thread. Its arguments are VIDEO FOLDER PLACE...; it prints a JSON object of each place.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import torch

import vinr.encoding.encode
import vinr.encoding.segment_work
from kill_points import KILLED, in_child
from vinr.comparison import compare
from vinr.comparison.page import ComparisonPage
from vinr.config import default_model
from vinr.errors import OutputError
from vinr.state.folder import StateFolder

PARAMS: Final = (8_000, 12_000)
TIMES: Final = ("encode_seconds", "decode_fps")
Progress = Callable[[str, float], None]


def ignore(text: str, share: float) -> None:
    """Watch nothing."""


def run(video: Path, on_progress: Progress = ignore, **options: Any) -> Any:
    """Compare two small networks and a codec, in the current folder; the page has pictures, and no plots."""
    settings: dict[str, Any] = {
        "models": [default_model()],
        "params": PARAMS,
        "epochs": 2,
        "anchors": ["x264:30"],
        "device": "cpu",
    }
    with patch.object(ComparisonPage, "plots", []):  # to draw them takes longer than to fit
        return compare(video, "page.html", on_progress=on_progress, **settings | options)


def without_times(report: Any) -> dict[str, Any]:
    """Return a report as plain values, without what a clock says."""
    document: dict[str, Any] = json.loads(json.dumps(asdict(report)))
    for curve in document["curves"]:
        for point in curve["points"]:
            for name in TIMES:
                del point[name]
    return document


def count_fits() -> list[Any]:
    """Let each fit from now on add an item to the list that is returned."""
    fits: list[Any] = []
    fit = vinr.encoding.segment_work.fit

    def counted(*arguments: Any, **options: Any) -> Any:
        fits.append(arguments)
        return fit(*arguments, **options)

    vinr.encoding.segment_work.fit = counted  # type: ignore[attr-defined]
    return fits


def is_second_network(text: str) -> bool:
    """Return whether a line of progress is of the fit of the second network."""
    return "12.00 k" in text and "epoch" in text


# -- places --------------------------------------------------------------------------------------------------


def _in_second_fit(video: Path) -> None:
    def stop(text: str, share: float) -> None:
        if is_second_network(text):
            os.kill(os.getpid(), signal.SIGKILL)

    run(video, stop)


def _file_is_announced(video: Path) -> None:
    """End when the folder of a network's state is made, and nothing says yet whose it is."""
    prepare = StateFolder.prepare

    def killed(state: StateFolder) -> Path:
        folder = prepare(state)
        return os._exit(KILLED) if state.work == "encode" else folder

    StateFolder.prepare = killed  # type: ignore[method-assign]
    run(video)


def _file_has_its_name(video: Path) -> None:
    """End when the file of the first network is whole and nothing was said of it."""
    vinr.encoding.encode.Written = lambda *values: os._exit(KILLED)  # type: ignore[attr-defined, assignment]
    run(video)


def _clearing(work: str) -> Callable[[Path], None]:
    """Return what ends when an output is whole, before its state is removed."""

    def place(video: Path) -> None:
        finish = StateFolder.finish

        def killed(state: StateFolder) -> None:
            if state.work == work:
                os._exit(KILLED)
            finish(state)

        StateFolder.finish = killed  # type: ignore[method-assign]
        run(video)

    return place


PLACES: Final[Mapping[str, Callable[[Path], None]]] = {
    "SIGKILL in the second fit": _in_second_fit,
    "file of the first network is announced": _file_is_announced,
    "file of the first network has its name": _file_has_its_name,
    "state of the first network is removed": _clearing("encode"),
    "state of the comparison is removed": _clearing("comparison"),
}


def _repeat(video: Path) -> dict[str, Any]:
    """Compare once more, and tell what came of it and what lies in the folder."""
    fits = count_fits()
    try:
        report = without_times(run(video))
    except OutputError as error:
        report = {"refused": str(error)}
    page = Path("page.html").read_text(encoding="utf-8") if Path("page.html").exists() else ""
    left = sorted(str(path) for path in Path().rglob("*"))
    return {"fits": len(fits), "report": report, "left": left, "page": page}


def _try_place(name: str, video: Path, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    os.chdir(folder)
    result = folder.with_suffix(".json")
    status = in_child(lambda: PLACES[name](video))
    again = in_child(lambda: void(result.write_text(json.dumps(_repeat(video)), encoding="utf-8")))
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return {"status": status, "again": again, **found}


def void(value: object) -> None:
    """Drop a value."""


def main() -> None:
    """Compare undisturbed, which loads for all forks what is loaded at first use; then try the places."""
    video, folder, *places = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]
    torch.set_num_threads(1)
    (folder / "undisturbed").mkdir()
    os.chdir(folder / "undisturbed")
    found = {"undisturbed": _repeat(video)}
    for number, name in enumerate(places):
        found[name] = _try_place(name, video, folder / str(number))
    print(json.dumps(found))
