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
NAMES: Final = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
NUMBERS: Final = tuple(signal.Signals[name].value for name in NAMES if name in signal.Signals.__members__)


class Interrupted(KeyboardInterrupt):
    """The program was asked to stop by signal ``number``."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def exit_status(error: KeyboardInterrupt | None) -> int:
    """Return the exit status of a program that ``error`` ended: 128 and the signal, SIGINT if it is none."""
    return 128 + (error.number if isinstance(error, Interrupted) else signal.SIGINT.value)


class _Inbox:
    """What the handler, which runs between any two instructions of the main thread, shares with the rest."""

    def __init__(self) -> None:
        self.depth = 0
        self.waiting: int | None = None
        # At most one entry: whoever takes it out, the handler or the thread that watches, says it.
        self.unsaid: deque[Callable[[], None]] = deque()

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if not self.depth:
            raise Interrupted(number)
        if self.waiting is None:
            self.waiting = number
        self.announce()

    def announce(self) -> None:
        """Say, once, that the signal was seen."""
        try:
            say = self.unsaid.pop()
        except IndexError:
            return
        say()


_inbox = _Inbox()


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextmanager
def raised() -> Iterator[None]:
    """Raise :class:`Interrupted` on each of the signals while the body runs, as Ctrl-C does.

    Signals that are ignored (``nohup``) or handled by the program around stay so. Nothing is done outside the
    main thread, where Python allows no handlers.
    """
    if not _is_main_thread():
        yield
        return
    usual = (signal.SIG_DFL, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in NUMBERS}
    before = {number: handler for number, handler in before.items() if handler in usual}
    _inbox.waiting = None
    try:
        for number in before:
            signal.signal(number, _inbox.receive)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held_back() -> Iterator[None]:
    """Let signals wait until the body has ended well, if :func:`raised` is at work; may be nested.

    An exception of the body goes on as it is, and the signal waits for the end of the next such block.
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


@contextmanager
def announced(say: Callable[[], None]) -> Iterator[None]:
    """Call ``say`` as soon as a signal is held back, once; from another thread, since PyTorch may be at work.

    Python's own handlers wait for the running instruction, and a backward pass is a single one.
    """
    if not _is_main_thread():
        yield
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    _inbox.unsaid.append(say)
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(ours,), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        _inbox.unsaid.clear()
        theirs.close()
        watcher.join()
        ours.close()


def _watch(inbox: socket.socket) -> None:
    """Announce signals until the other end is closed."""
    while numbers := inbox.recv(16):
        if _inbox.depth and set(numbers) & set(NUMBERS):
            _inbox.announce()
