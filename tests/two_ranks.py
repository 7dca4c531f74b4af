"""Two processes that fit together on the CPU, started as torchrun starts them, and what they do."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from clips import MemoryClip, moving_shapes
from vinr.cli.app import main
from vinr.config import Preset, load_preset
from vinr.errors import RankError, UsageError, VinrError
from vinr.fit import Trainer, fit
from vinr.fit.budget import Budget
from vinr.fit.checkpoint import read_fit_state
from vinr.fit.follow import work_together
from vinr.fit.ranks import ALONE, Ranks, current, joined
from vinr.fit.task import Reconstruct
from vinr.state.interruption import exit_status, raised
from vinr.video.spec import VideoSpec

COUNT: Final = 2


# -- two processes -------------------------------------------------------------------------------------------


def on_two(act: Callable[..., Any], *arguments: object) -> list[Any]:
    """Return what ``act(*arguments)`` returns in each of two processes; None for one that was killed."""
    # Forks have loaded everything, PyTorch's compiler included, for which optimisers otherwise take seconds.
    import torch._dynamo  # noqa: F401

    context: Any = get_context("fork" if hasattr(os, "fork") else "spawn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for number in range(COUNT):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_act, args=(number, port, theirs, act, arguments))
        process.start()
        theirs.close()
        started.append((process, ours))
    results = []
    for process, ours in started:
        results.append(_received(ours))
        process.join()
    return results


def _act(number: int, port: int, results: Connection, act: Callable[..., Any], arguments: Any) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(number),
        LOCAL_RANK=str(number),
        WORLD_SIZE=str(COUNT),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    results.send_bytes(pickle.dumps(act(*arguments)))


def _received(results: Connection) -> Any:
    try:
        return pickle.loads(results.recv_bytes())
    except EOFError:
        return None


# -- steps of Trainers, one in each process ------------------------------------------------------------------


@dataclass
class Fitted:
    """What a fit came to in a process: tensors and values of its state, and what it told."""

    tensors: dict[str, Tensor]
    steps: int
    psnr_db: float
    collapses: int
    events: list[str] = field(default_factory=list)


def clip() -> MemoryClip:
    return moving_shapes(num_frames=7, height=16, width=32)


def preset_of(model: str, *overrides: str) -> Preset:
    common = ["fit.epochs=3", "fit.batch_size=2", "fit.precision=fp32", "fit.phases=[]"]
    return load_preset(f"{model}-tiny", [*common, *overrides])


class PretendedClock(Budget):
    """Time passes by steps: all of it in ``seconds`` of them."""

    def progress(self, steps_done: int, seconds_done: float, epoch_seconds: float) -> float:
        assert self.seconds is not None
        return min(steps_done / self.seconds, 1.0)


def stepped(
    preset: Preset, ranks: Ranks = ALONE, *, clock: tuple[int, int] | None = None, poisoned: int = -1
) -> Fitted:
    """Fit to the end; the weights of the last rank become infinite after step ``poisoned``.

    ``clock``: after how many steps the time is over, by the clock of either process.
    """
    seconds = None if clock is None else float(clock[ranks.number])
    trainer = Trainer(clip(), preset, seconds=seconds, ranks=ranks)
    if seconds is not None:
        trainer.budget = PretendedClock(trainer.budget.num_steps, seconds)
    events = []
    while not trainer.is_done:
        event = trainer.step()
        events += [] if event is None else [type(event).__name__]
        if trainer.steps_done == poisoned and ranks.number == ranks.count - 1:
            poisoned = -1
            with torch.no_grad():
                next(trainer.model.parameters()).fill_(torch.inf)
    tensors = {name: value.detach().clone() for name, value in trainer.learner.tensors().items()}
    return Fitted(tensors, trainer.steps_done, trainer.best_psnr_db, trainer.num_collapses, events)


def step_all(fits: dict[str, tuple[Preset, dict[str, Any]]]) -> dict[str, Fitted | str]:
    """Fit one preset after another; a message instead where one is refused."""
    results: dict[str, Fitted | str] = {}
    with joined() as ranks:
        for name, (preset, options) in fits.items():
            try:
                results[name] = stepped(preset, ranks, **options)
            except VinrError as error:
                results[name] = str(error)
    return results


# -- fits of rank 0, in which the other takes part -----------------------------------------------------------


class Disturbed(Reconstruct):
    """Sends ``number`` to process ``rank``, or refuses to begin there, in its step ``step``."""

    def __init__(self, rank: int, step: int, number: int = 0) -> None:
        self.rank, self.step, self.number, self.seen = rank, step, number, 0

    def training_frames(self, spec: VideoSpec) -> Tensor:
        if not self.step and current().number == self.rank:
            raise UsageError("it does not want to")
        return super().training_frames(spec)

    def weight(self, index_N: Tensor) -> Tensor | None:
        self.seen += 1
        if self.seen == self.step and current().number == self.rank:
            signal.raise_signal(self.number)
        return None


def interrupt_and_go_on(folder: Path, preset: Preset) -> dict[str, Any]:
    """Fit without and with an interruption, of the rank that does not write; then with one that refuses."""
    results: dict[str, Any] = {}
    kept = folder / "kept"

    def weights(**options: Any) -> dict[str, Tensor]:
        stored = fit(clip(), preset, **options).model.stored()
        return {name: item.value.detach() for name, item in stored.items()}

    def work() -> None:
        results["whole"] = weights()
        try:
            weights(task=Disturbed(1, 5, signal.SIGTERM), checkpoint=kept)
        except KeyboardInterrupt as error:
            results["interrupted"] = exit_status(error), read_fit_state(kept).last.values.steps_done
        results["resumed"] = weights(checkpoint=kept, resume=True)
        try:
            weights(task=Disturbed(1, 0))
        except UsageError as error:
            results["refused"] = str(error)
        results["again"] = weights()

    with raised(), joined() as ranks:
        work_together(ranks, work)
    return results


def lose(rank: int, checkpoint: Path) -> str:
    """Return what a process says whose peer, number ``rank``, is killed in step 5 of a fit."""
    preset = preset_of("hnerv")
    try:
        with joined() as ranks:
            task = Disturbed(rank, 5, signal.SIGKILL)
            work_together(ranks, lambda: fit(clip(), preset, task, checkpoint=checkpoint))
    except RankError as error:
        return str(error)
    return "nothing"


def run_command(folder: Path, arguments: list[str]) -> int:
    """Run the command line, with what each process writes in ``folder``; return the exit status."""
    number = os.environ["RANK"]
    sys.argv = ["vinr", *arguments]
    with (
        (folder / f"out{number}").open("w", encoding="utf-8") as out,
        (folder / f"err{number}").open("w", encoding="utf-8") as err,
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as error:
            return int(error.code or 0)
    return 0
