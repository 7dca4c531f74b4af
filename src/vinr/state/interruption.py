"""Signals that ask a program to stop: as exceptions, and never in the middle of what must stay whole.

::

    SIGINT, SIGTERM, SIGHUP ──> held back? ──no──> Interrupted, at once
                                    └─────yes────> "stopping…", at once; Interrupted when the block ends
"""

from __future__ import annotations

import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

# SIGHUP: the terminal was closed; SIGBREAK: Ctrl-Break on Windows. Not every system has all of them.
NAMES: Final = frozenset({"SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"})
NUMBERS: Final = tuple(number.value for number in signal.Signals if number.name in NAMES)


class Interrupted(KeyboardInterrupt):
    """The program was asked to stop by signal ``number``."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def exit_status(error: KeyboardInterrupt | None) -> int:
    """Return the exit status of a program that ``error`` ended: 128 plus the signal (SIGINT if unknown)."""
    return 128 + (error.number if isinstance(error, Interrupted) else signal.SIGINT.value)


class _Inbox:
    """What the handler, which runs between any two instructions of the main thread, shares with the rest."""

    def __init__(self) -> None:
        self.depth = 0
        self.waiting: int | None = None
        # At most one entry. The handler and the watching thread both want to call it: taking it out is
        # atomic.
        self.announcements: deque[Callable[[], None]] = deque()

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if not self.depth:
            raise Interrupted(number)
        if self.waiting is None:
            self.waiting = number
        self.announce()

    def announce(self) -> None:
        """Tell the user, once, that the signal was seen."""
        try:
            say = self.announcements.pop()
        except IndexError:
            return
        say()


_inbox = _Inbox()


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextmanager
def raised() -> Iterator[None]:
    """Raise :class:`Interrupted` on each of the signals while the body runs, as Ctrl-C does.

    Signals that are ignored (``nohup``) or handled by the calling program stay so. Outside the main thread,
    where Python allows no handlers, nothing is done.
    """
    if not _is_main_thread():
        yield
        return
    defaults = (signal.SIG_DFL, signal.default_int_handler)
    replaced = [(number, signal.getsignal(number)) for number in NUMBERS]
    replaced = [(number, handler) for number, handler in replaced if handler in defaults]
    _inbox.waiting = None
    try:
        for number, _ in replaced:
            signal.signal(number, _inbox.receive)
        yield
    finally:
        for number, handler in replaced:
            signal.signal(number, handler)


@contextmanager
def held_back() -> Iterator[None]:
    """Delay signals until the body has ended without an exception, inside :func:`raised`; may be nested.

    An exception of the body is raised as it is, and the signal waits for the end of the next such block.
    """
    if not _is_main_thread():
        yield
        return
    _inbox.depth += 1
    try:
        yield
    finally:
        _inbox.depth -= 1
    number = _inbox.waiting
    if number is not None and not _inbox.depth:
        _inbox.waiting = None
        raise Interrupted(number)


def waiting() -> int | None:
    """Return the signal that is held back, if any."""
    return _inbox.waiting


def take_waiting() -> int | None:
    """Return the signal that is held back, if any; whoever calls this acts on it."""
    number, _inbox.waiting = _inbox.waiting, None
    return number


@contextmanager
def announced(say: Callable[[], None]) -> Iterator[None]:
    """Call ``say`` once, as soon as a signal is held back.

    It is called from another thread: Python's own handlers wait for the running instruction, and a whole
    backward pass of PyTorch is a single one.
    """
    if not _is_main_thread():
        yield
        return
    # The interpreter writes the number of each signal to `theirs` at once; the thread waits at `ours`.
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    _inbox.announcements.append(say)
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(ours,), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        _inbox.announcements.clear()
        theirs.close()  # which ends the thread
        watcher.join()
        ours.close()


def _watch(inbox: socket.socket) -> None:
    """Announce signals until the other end is closed."""
    while numbers := inbox.recv(16):
        if _inbox.depth and set(numbers) & set(NUMBERS):
            _inbox.announce()
