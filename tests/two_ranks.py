"""Two processes that fit together on this machine's CPU, started as torchrun starts them, and what they do."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from clips import MemoryClip, moving_shapes
from fresh import PRELOADED
from vinr.cli.app import main
from vinr.config import Preset, load_preset
from vinr.errors import VinrError
from vinr.fit import Event, Trainer, fit
from vinr.fit.follow import work_together
from vinr.fit.ranks import ALONE, Ranks, joined
from vinr.fit.task import Reconstruct
from vinr.state.interruption import raised

COUNT: Final = 2


# -- two processes -------------------------------------------------------------------------------------------


def on_two(act: Callable[..., Any], *arguments: object) -> list[Any]:
    """Return what ``act(*arguments)`` returns in each of two processes; None for one that was killed."""
    context = get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED, "torch.distributed"])
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


def stepped(preset: Preset, ranks: Ranks = ALONE, *, seconds: float | None = None, poisoned: int = -1) -> Fitted:
    """Fit to the end; the weights of the last rank become infinite after step ``poisoned``."""
    trainer = Trainer(clip(), preset, seconds=seconds, ranks=ranks)
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
