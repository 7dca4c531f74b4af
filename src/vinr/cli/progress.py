"""How long work takes, while it is done: a bar on a terminal, a line a minute elsewhere, all on stderr.

::

    events ─┬─> stage: reading, trying, fitting, coding, measuring, comparing
            ├─> bar: steps of the fit, or frames; one time left; one more for each job of workers
            └─> lines: notes, and what went wrong
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Final, Literal

from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TimeRemainingColumn

from vinr.cli.console import ERR
from vinr.cli.screen import SafeColumn
from vinr.cli.stages import Jobs, Stage
from vinr.errors import UsageError
from vinr.state.interruption import announced, exit_status, held_back

if TYPE_CHECKING:
    from vinr.fit.events import Event, RoundDone
    from vinr.fit.logs import EventLog

# Seconds between the lines where there is no terminal, as in a file of nohup or a batch system.
LINE_SECONDS: Final = 60.0

Loudness = Literal["quiet", "usual", "verbose"]


class Watch:
    """Shows what it is told; ``clock`` reads seconds."""

    def __init__(
        self,
        loudness: Loudness = "usual",
        *,
        clock: Callable[[], float] = time.monotonic,
        is_terminal: bool | None = None,
    ) -> None:
        self._loudness, self._clock = loudness, clock
        self._has_bar = (ERR.is_terminal if is_terminal is None else is_terminal) and loudness != "quiet"
        self._bar = Progress(
            SafeColumn("{task.description}"), BarColumn(), SafeColumn("{task.fields[detail]}"), console=ERR
        )
        self._task = self._bar.add_task("", total=None, detail="")
        self._stage, self._said_at = Stage(began=clock()), clock()
        self._jobs, self._job_tasks = Jobs(), dict[str, TaskID]()
        self.logs: Sequence[EventLog] = ()
        self.not_kept: list[str] = []  # why the state could not be saved, for the line after an interruption

    def on_event(self, event: Event) -> None:
        """Take an event."""
        for log in self.logs:
            log(event)
        from vinr.fit.events import JobEnded, OfJob, StageBegun

        match event:
            case OfJob():
                if self._jobs.take(event, self._stage, self._clock()):
                    self._show()
                self._tell(event.event, f"{event.name}: ")
            case JobEnded():
                self._jobs.end(event, self._stage, self._clock())
                self._show()
            case StageBegun():
                self._begin(event.name)
            case _:
                if self._stage.take(event, self._clock()):
                    self._show()
                self._tell(event)

    def _tell(self, event: Event, of: str = "") -> None:
        """Print a line on an event that needs one, which begins with ``of``."""
        from vinr.fit.events import Collapsed, Noted, NotKept, Resumed, RoundDone

        match event:
            case RoundDone():
                if self._loudness == "verbose":
                    self._say(f"{of}{_in_full(event)}")
            case Resumed():
                self._note(f"{of}resumed after {event.epochs_done:.1f} epochs")
            case Noted():
                self._note(f"{of}{event.text}")
            case Collapsed():
                self._say(f"{of}{event}")
            case NotKept():
                self.not_kept.append(event.reason)
                self._say(f"{of}the state could not be saved: {event.reason}; the fit continues")

    def _begin(self, name: str) -> None:
        now, stage = self._clock(), self._stage
        if self._loudness == "verbose" and stage.name:
            self._say(f"{stage.name} took {now - stage.began:.1f} s")
        stage.begin(name, now)
        self._show()

    def _show(self) -> None:
        stage = self._stage
        if self._has_bar:
            # Not before the first stage: an error of usage should not leave a bar behind.
            self._bar.start()
            self._draw(self._task, stage.name, stage)
            self._draw_jobs()
        elif self._loudness != "quiet" and self._clock() - self._said_at >= LINE_SECONDS:
            self._said_at = self._clock()
            self._say(f"{stage.name}: {stage}".rstrip(": "))

    def _draw(self, task: TaskID, name: str, stage: Stage) -> None:
        done, total = stage.progress or 0.0, None if stage.progress is None else 1.0
        self._bar.update(task, description=name, completed=done, total=total, detail=str(stage))

    def _draw_jobs(self) -> None:
        """Draw a bar for each job at work, below that of all."""
        for name in self._job_tasks.keys() - self._jobs.stages.keys():
            self._bar.remove_task(self._job_tasks.pop(name))
        for name, stage in self._jobs.stages.items():
            if name not in self._job_tasks:
                self._job_tasks[name] = self._bar.add_task(name, total=None, detail="")
            self._draw(self._job_tasks[name], f"{name}: {stage.name}".rstrip(": "), stage)

    def _note(self, text: str) -> None:
        if self._loudness != "quiet":
            self._say(text)

    def _say(self, text: str) -> None:
        ERR.print(text, markup=False)

    def stop(self) -> None:
        """Leave the bar as it is."""
        if self._bar.live.is_started:
            self._bar.stop()


def _in_full(event: RoundDone) -> str:
    """Return a line on a round."""
    parts = [f"epoch {event.epochs_done:.1f}", f"step {event.steps_done}", f"PSNR {event.psnr_db:.2f} dB"]
    if event.loss is not None:
        parts.append(f"loss {event.loss:.5f}")
    if event.learning_rate is not None:
        parts.append(f"learning rate {event.learning_rate:.2e}")
    if event.bpp is not None:
        parts.append(f"{event.bpp:.4f} bpp")
    return "  ".join([*parts, f"{event.seconds_done:.1f} s"])


def loudness_of(*, verbose: bool, quiet: bool) -> Loudness:
    """Return how much two options ask to be told.

    Raises
    ------
    UsageError
        If both are given.
    """
    if verbose and quiet:
        raise UsageError("--verbose and --quiet exclude each other; give one of them")
    return "quiet" if quiet else "verbose" if verbose else "usual"


@contextmanager
def fit_progress(
    describe_saved: Callable[[], str], loudness: Loudness = "usual", logs: Sequence[str] = ()
) -> Iterator[Watch]:
    """Show stages, steps and time left; after an interruption, a line on what was saved.

    ``logs`` names the logs to write (:func:`vinr.fit.logs.open_log`).
    """
    watch = Watch(loudness)
    with (
        _opened(logs) as watch.logs,
        ended_by_signals(watch.stop, lambda: _interrupted(describe_saved(), watch.not_kept)),
        announced(_say_stopping),
    ):
        try:
            yield watch
        finally:
            watch.stop()


@contextmanager
def _opened(paths: Sequence[str]) -> Iterator[list[EventLog]]:
    """Open logs, and close them."""
    if not paths:
        yield []  # what writes them loads PyTorch
        return
    from vinr.fit.logs import open_log

    with ExitStack() as opened:
        yield [opened.enter_context(open_log(path)) for path in paths]


def _say_stopping() -> None:
    with suppress(OSError):  # the terminal may be what was closed
        ERR.print("stopping after this step…")


def _interrupted(left: str, lost: Sequence[str]) -> str:
    return f"interrupted; {left}" + (f" (the state could not be saved: {lost[-1]})" if lost else "")


@contextmanager
def ended_by_signals(stop: Callable[[], None], text: Callable[[], str]) -> Iterator[None]:
    """End the program as a signal asks, after one line of ``text``; ``stop`` ends what is being drawn."""
    try:
        yield
    except KeyboardInterrupt as error:
        # A second Ctrl-C must not cut off the line that says how to continue.
        with held_back(), suppress(OSError):
            stop()
            ERR.print(text(), markup=False)
        sys.exit(exit_status(error))


@contextmanager
def frame_progress(verb: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Show a bar over frames; the callback takes the number of frames done and of all frames."""
    columns = [SafeColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()]
    # Quiet where a video goes to stdout: the program that reads it may draw on the same terminal.
    with Progress(*columns, console=ERR, disable=quiet or not ERR.is_terminal, transient=True) as bar:
        task = bar.add_task(verb, total=None)

        def on_frame(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        with ended_by_signals(bar.stop, lambda: "interrupted"):
            yield on_frame
