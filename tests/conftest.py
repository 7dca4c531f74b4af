"""What all tests share: one thread, restored random state, the real clip, and a small fitted file."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

import vinr
from clips import moving_shapes, write_clip
from command_line import Run
from random_files import random_file
from vinr.cli.app import main
from vinr.config import default_model
from vinr.state.interruption import NUMBERS
from vinr.video.spec import VideoSpec

# The same examples in every run, and no deadline: a test may neither fail by chance nor depend on the clock.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")


# What takes longest begins first, so that no process is left with it at the end.
LONGEST = (
    "test_public.py",
    "test_compare_resume.py",
    "test_phases.py",
    "test_device_discipline.py",
    "test_state.py",
    "test_registry.py",
    "test_recipes.py",
    "test_fresh_process.py",
    "test_rate_control.py",
    "test_resume.py",
    "test_compare.py",
    "test_kill_points.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Several processes get whole files, the longest first: what tests of a file share is made once."""
    if config.getoption("dist", "no") == "load":
        config.option.dist = "loadfile"
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files, and mark as numeric whatever compares with the numbers of other implementations."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item.module, "Golden"):
            item.add_marker("numeric")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    # Tests are small; threads only get in each other's way, and one thread keeps sums in one order.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _random_state() -> Iterator[None]:
    state = torch.get_rng_state()
    torch.manual_seed(0)
    yield
    torch.set_rng_state(state)


@pytest.fixture(scope="module")
def usual_signals() -> Iterator[None]:
    """Signals that ask to stop do so, also where the tests run in the background or under nohup."""
    usual = dict.fromkeys(NUMBERS, signal.SIG_DFL) | {signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def tiny_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lossless video of 8 frames, 36×50 pixels: odd enough to need padding."""
    clip = moving_shapes(num_frames=8, height=36, width=50)
    return write_clip(tmp_path_factory.mktemp("video") / "shapes.mkv", clip)


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory, tiny_video: Path) -> Path:
    """That video as a .vinr file of the default model, fitted for a few epochs."""
    path = tmp_path_factory.mktemp("file") / "shapes.vinr"
    vinr.encode(tiny_video, path, preset=f"{default_model()}-tiny", epochs=3, device="cpu")
    return path


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A .vinr file of random numbers of any model, made when first asked for; to be read only.

    It has frames like those of ``tiny_video``: 8 of 36×50 pixels, 25 a second.
    """
    folder = tmp_path_factory.mktemp("models")

    def written(model: str) -> Path:
        path = folder / f"{model}.vinr"
        return path if path.exists() else random_file(path, VideoSpec(8, 36, 50), name=model, fps=25)

    return written


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process; return exit status, stdout, stderr."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vinr", *map(str, arguments)])
        capfd.readouterr()
        try:
            main()
            status = 0
        except SystemExit as error:
            status = int(error.code or 0)
        out, err = capfd.readouterr()
        return status, out, err

    return call
