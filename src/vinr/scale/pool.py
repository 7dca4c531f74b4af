"""Runs jobs on Ray workers and hands their results on as they come.

::

    jobs ──> a window of tasks ──> workers: function(job, again, on_event) ──> results, as they end
      ^                                │            └── events ──> inbox ──> on_event of the driver
      └── again, if a worker died ─────┘

A job whose worker died is given to another one, which is told so: where the job keeps its state in a folder
that both can reach, it goes on from there. Whatever ends the driver's loop, Ctrl-C included, interrupts the
jobs at hand as Ctrl-C would, and waits until they have kept their state.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Final, Generic, TypeVar

from vinr.errors import FitError, UsageError, VinrError, argument, command_line_words, is_command_line, plural
from vinr.scale.workers import Workers, import_ray
from vinr.state.interruption import raised

JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")
OnEvent = Callable[[Any], None]
Function = Callable[[JobT, bool, OnEvent], ResultT]
"""Runs a job: takes the job, whether a worker died at it before, and who is told of events."""

# How often events are looked for, and how often those of one kind are sent.
POLL_SECONDS: Final = 0.2
EVENT_SECONDS: Final = 0.3
# A job whose workers die so often is what kills them, by the memory that it takes, for instance.
MAX_DEATHS: Final = 4
# For the jobs at hand to keep their state once the driver is interrupted.
STOP_SECONDS: Final = 60.0
RUN_BYTES: Final = 6
# For the last events to come, once all jobs have ended.
LAST_SECONDS: Final = 2.0
# For the head of a cluster to answer.
ANSWER_SECONDS: Final = 10.0
# Frames and results on their way.
STORE_BYTES: Final = 2**30
# Ray's setting of how much more workers give way than Ray does, which gives way as this process does.
NICENESS: Final = "RAY_worker_niceness"


@dataclass(frozen=True)
class WorkerDied:
    """The worker of a job died, for ``reason``; another one goes on with the job."""

    reason: str


@dataclass(frozen=True)
class Ended(Generic[ResultT]):
    """Job ``number`` has ended: with a result, or an error of vinr's or of the system."""

    number: int
    result: ResultT | None
    error: VinrError | OSError | None

    def value(self) -> ResultT:
        """Return the result, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]


class Inbox:
    """Where events of the workers wait for the driver; an actor of its own, the same for all runs."""

    def __init__(self) -> None:
        self._events: list[tuple[str, int, Any]] = []

    def put(self, run: str, number: int, event: Any) -> None:
        """Take an event of job ``number`` of a run."""
        self._events.append((run, number, event))

    def take(self, run: str) -> list[tuple[int, Any]]:
        """Return what came since the last call; what belongs to earlier runs is dropped."""
        events, self._events = self._events, []
        return [(number, event) for name, number, event in events if name == run]


@cache
def _inbox(here: str, job: str) -> Any:
    """Return the inbox of this driver, on its own node ``here``; its number as a job of Ray is ``job``.

    Every cluster numbers its jobs from 1, and an inbox of another cluster ends the process: the node, whose
    name is random, tells them apart.
    """
    ray = import_ray()
    strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=True)
    return ray.remote(num_cpus=0, scheduling_strategy=strategy, max_restarts=-1)(Inbox).remote()


class _Sender:
    """Sends the events of a job; of several of a kind in a short time the first."""

    def __init__(self, inbox: Any, task: _Task[Any, Any]) -> None:
        self._inbox, self._task, self._frequent = inbox, task, task.frequent
        self._sent_at: dict[type, float] = {}

    def __call__(self, event: Any) -> None:
        if isinstance(event, self._frequent):
            now = time.monotonic()
            if now - self._sent_at.get(type(event), float("-inf")) < EVENT_SECONDS:
                return
            self._sent_at[type(event)] = now
        self._inbox.put.remote(self._task.run, self._task.number, event)


@dataclass(frozen=True)
class _Task(Generic[JobT, ResultT]):
    """What a worker is sent."""

    function: Function[JobT, ResultT]
    job: JobT
    run: str
    number: int
    again: bool
    threads: int
    frequent: tuple[type, ...]
    speaks_options: bool


def _perform(task: _Task[JobT, ResultT], inbox: Any) -> Ended[ResultT]:
    """Run a job in a worker."""
    import torch

    torch.set_num_threads(task.threads)
    send = _Sender(inbox, task)
    try:
        with raised(), command_line_words(task.speaks_options):
            return Ended(task.number, task.function(task.job, task.again, send), None)
    except (VinrError, OSError) as error:
        # What it comes from may be of a library that cannot be sent.
        error.__cause__ = error.__context__ = None
        return Ended(task.number, None, error)


class Pool:
    """Workers that run jobs until the body of :func:`open_pool` ends."""

    def __init__(self, ray: Any, workers: Workers) -> None:
        self._ray, self.workers = ray, workers
        options = {"num_cpus": workers.threads, "num_gpus": workers.gpus, "max_retries": 0}
        self._remote = ray.remote(**options)(_perform)
        context = ray.get_runtime_context()
        self._inbox = _inbox(context.get_node_id(), context.get_job_id())
        self._run = ""
        self._asked: Any = None
        self._tasks: dict[Any, _Task[Any, Any]] = {}

    @property
    def num_slots(self) -> int:
        """Jobs that run at a time.

        Raises
        ------
        UsageError
            If the machine or the cluster has not what a worker needs.
        """
        resources = self._ray.cluster_resources()
        slots = int(resources.get("CPU", 0.0) // self.workers.threads)
        if self.workers.gpus:
            gpus = resources.get("GPU", 0.0)
            whole = self.workers.gpus >= 1
            slots = min(slots, int(gpus // self.workers.gpus if whole else gpus * int(1 / self.workers.gpus)))
        if not slots:
            found = f"{resources.get('CPU', 0.0):g} CPUs and {resources.get('GPU', 0.0):g} GPUs"
            needs = plural(self.workers.threads, "CPU thread") + f" and {self.workers.gpus:g} GPUs"
            raise UsageError(f"a worker needs {needs}, but Ray has {found}; ask for less per worker")
        return slots if self.workers.count is None else min(slots, self.workers.count)

    def run(
        self,
        function: Function[JobT, ResultT],
        jobs: Sequence[JobT],
        *,
        on_event: Callable[[int, Any], None],
        frequent: tuple[type, ...] = (),
        in_order: bool = False,
        prepare: Callable[[JobT], JobT] | None = None,
    ) -> Generator[Ended[ResultT]]:
        """Run ``jobs`` and yield each as it ends, or ``in_order``.

        Parameters
        ----------
        function
            A function of a module, which workers import.
        on_event
            Called with the number of a job and an event of it, in the calling thread.
        frequent
            Kinds of events that need not all be told.
        in_order
            Results come in the order of the jobs, and no job begins that is more than twice the number of
            workers ahead, so that few results wait in memory.
        prepare
            Called with a job when its turn comes; what it returns is sent.
        """
        slots = self.num_slots
        self._run, self._asked = secrets.token_hex(RUN_BYTES), None
        waiting = deque(enumerate(jobs))
        deaths = [0] * len(jobs)
        held: dict[int, Ended[ResultT]] = {}
        next_number = 0
        try:
            while waiting or self._tasks or held:
                # At least one: the job that all others wait for may have been given back.
                limit = max(2 * slots - len(held), 1) if in_order else slots
                while waiting and len(self._tasks) < min(slots, limit):
                    number, job = waiting.popleft()
                    ready = job if prepare is None else prepare(job)
                    self._submit(function, ready, number, frequent, again=deaths[number] > 0)
                for ended in self._ended_now(deaths, waiting, on_event):
                    if not in_order:
                        yield ended
                        continue
                    held[ended.number] = ended
                while next_number in held:
                    yield held.pop(next_number)
                    next_number += 1
            # What was asked for may have been taken before the last events came.
            for _ in range(2):
                self._tell(on_event, LAST_SECONDS)
        finally:
            self._stop()

    def _submit(
        self,
        function: Function[JobT, ResultT],
        job: JobT,
        number: int,
        frequent: tuple[type, ...],
        *,
        again: bool,
    ) -> None:
        task = _Task(
            function, job, self._run, number, again, self.workers.threads, frequent, is_command_line()
        )
        self._tasks[self._remote.remote(task, self._inbox)] = task

    def _ended_now(
        self, deaths: list[int], waiting: deque[tuple[int, Any]], on_event: Callable[[int, Any], None]
    ) -> list[Ended[Any]]:
        """Wait a moment for tasks; return those that ended, and put back those whose worker died."""
        done, _ = self._ray.wait(list(self._tasks), num_returns=1, timeout=POLL_SECONDS)
        self._tell(on_event)
        ended = []
        for reference in done:
            task = self._tasks.pop(reference)
            try:
                ended.append(self._ray.get(reference))
            except self._ray.exceptions.RayTaskError:
                raise  # a mistake of vinr or of a library, with the traceback of the worker
            except self._ray.exceptions.RayError as error:
                reason = str(error).strip().splitlines()[0]
                deaths[task.number] += 1
                if deaths[task.number] >= MAX_DEATHS:
                    many = f"{plural(MAX_DEATHS, 'worker')} died at one job, last: {reason}"
                    ended.append(Ended(task.number, None, FitError(many)))
                    continue
                on_event(task.number, WorkerDied(reason))
                waiting.appendleft((task.number, task.job))
        return ended

    def _tell(self, on_event: Callable[[int, Any], None], patience: float = 0.0) -> None:
        """Hand on the events that have come, waiting ``patience`` seconds for them at most."""
        if self._asked is None:
            self._asked = self._inbox.take.remote(self._run)
        ready, _ = self._ray.wait([self._asked], timeout=patience)
        if not ready:
            return  # jobs do not wait for their display
        asked, self._asked = self._asked, None
        events: list[tuple[int, Any]] = []
        with suppress(self._ray.exceptions.RayError):  # of a node that went away
            events = self._ray.get(asked)
        for number, event in events:
            on_event(number, event)

    def _stop(self) -> None:
        """Interrupt the jobs at hand, and wait until they have kept their state."""
        references, self._tasks = list(self._tasks), {}
        for reference in references:
            with suppress(self._ray.exceptions.RayError):
                self._ray.cancel(reference, force=False)
        if references:
            self._ray.wait(references, num_returns=len(references), timeout=STOP_SECONDS)


def run_here(
    function: Function[JobT, ResultT], jobs: Sequence[JobT], *, on_event: Callable[[int, Any], None]
) -> Generator[Ended[ResultT]]:
    """Run ``jobs`` in this process, one after another, and yield each as it ends; see :meth:`Pool.run`."""
    for number, job in enumerate(jobs):
        try:
            yield Ended(number, function(job, False, partial(on_event, number)), None)
        except (VinrError, OSError) as error:
            yield Ended(number, None, error)


@contextmanager
def open_pool(workers: Workers) -> Iterator[Pool]:
    """Start the workers, or connect to those of a cluster; yield what runs jobs on them.

    Raises
    ------
    UsageError
        If Ray is not installed, or nothing answers at the address.
    """
    ray = import_ray()
    is_started = not ray.is_initialized()
    if not is_started and workers.address is not None:
        _check_connected(ray.get_runtime_context().gcs_address, workers.address)
    if is_started:
        with _signals_kept():
            _start(ray, workers)
    try:
        yield Pool(ray, workers)
    finally:
        if is_started:
            ray.shutdown()


def _start(ray: Any, workers: Workers) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if workers.address is None:
        assert workers.count is not None
        options |= {"num_cpus": workers.count * workers.threads, "include_dashboard": False}
        options |= {"object_store_memory": STORE_BYTES}
        # Ray's own default, 15, leaves workers next to nothing of a machine that has other work.
        os.environ.setdefault(NICENESS, "0")
        ray.init(address="local", **options)
        return
    _check_answer(workers.address)
    try:
        ray.init(address=workers.address, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"no Ray cluster answers at {workers.address}: {reason}") from None


def _check_connected(connected: str, address: str) -> None:
    """Refuse an address other than that of the cluster that this process is connected to.

    Raises
    ------
    UsageError
        If so, or if nothing answers there.
    """
    place = _place_of(address)
    if place is None or address == connected:
        return
    _check_answer(address)
    # Hosts have several names; clusters of one host have ports of their own.
    if place[1] != int(connected.rpartition(":")[2]):
        raise UsageError(
            f"this process is connected to the Ray cluster at {connected}, not to {address}; call "
            f"ray.shutdown() before, or give {argument('ray')} auto"
        )


def _place_of(address: str) -> tuple[str, int] | None:
    """Return host and port of ``HOST:PORT``, None of ``auto`` and of addresses that Ray alone understands."""
    host, colon, port = address.rpartition(":")
    return (host, int(port)) if colon and "/" not in host and port.isdecimal() else None


def _check_answer(address: str) -> None:
    """Refuse ``HOST:PORT`` where nothing listens: Ray itself would try for a quarter of an hour.

    Raises
    ------
    UsageError
        If so.
    """
    place = _place_of(address)
    if place is None:
        return
    try:
        socket.create_connection(place, ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"no Ray cluster answers at {address}: {reason}") from None


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Put back what Ray changes: the program's own answer to signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
