"""Objects that threads share, and what becomes of them in a forked child.

A child has one thread: the one that forked. A lock that another thread held at that moment would never be
released in the child, and what it guarded may be half changed. So this module knows every such lock and gives
the child a new one.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Event, Lock
from typing import Any, Final, Generic, TypeVar
from weakref import WeakSet

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Shared:
    """Base of objects that threads share: they change only while they hold ``self._lock``.

    Subclasses call ``super().__init__()`` last: from then on a fork may call :meth:`_forked`.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        _ALL.add(self)

    def _forked(self, *, interrupted: bool) -> None:
        """Repair this object in a forked child; ``interrupted``: another thread was changing it."""


# Weak: being listed here keeps no object alive.
_ALL: Final[WeakSet[Shared]] = WeakSet()


def _renew_locks() -> None:
    # A lock that is held now is held by a thread that this process does not have.
    for shared in tuple(_ALL):
        interrupted = shared._lock.locked()
        shared._lock = Lock()
        shared._forked(interrupted=interrupted)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


class SharedLock(Shared):
    """A lock that is free in a forked child, for ``with`` statements."""

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exception: object) -> None:
        self._lock.release()


_NOT_MADE: Final[Any] = object()


class _Job:
    """A value that one thread makes while others may wait for it."""

    def __init__(self) -> None:
        self.done = Event()
        self.value: Any = _NOT_MADE


class LruCache(Shared, Generic[Key, Value]):
    """A cache of the values used most recently, for threads and forks.

    A value is made once, outside of any lock, by the first thread that needs it. Dropping one from the cache
    does not affect threads that use it. Copies and unpickled caches are empty.

    Parameters
    ----------
    max_entries
        Number of values to keep.
    max_bytes, num_bytes
        More values are kept while all of them, each measured by ``num_bytes``, take at most ``max_bytes``.
    """

    def __init__(
        self, max_entries: int, *, max_bytes: int = 0, num_bytes: Callable[[Value], int] | None = None
    ) -> None:
        self.max_entries, self._max_bytes, self._num_bytes = max_entries, max_bytes, num_bytes
        self._clear(None)
        super().__init__()

    def __len__(self) -> int:
        return len(self._entries)

    def __reduce__(self) -> tuple[Any, ...]:
        return _empty, (self.max_entries, self._max_bytes, self._num_bytes)

    def get(self, key: Key, make: Callable[[], Value], state: object = None) -> Value:
        """Return the value of ``key``; call ``make`` unless it is cached or another thread is making it.

        When ``state`` differs from that of the last call, all values are dropped. An exception of ``make`` is
        raised here, and in no other thread: one that waited calls its own ``make``.
        """
        #   no entry, no job   this thread's job is listed; it makes the value outside the lock, then keeps it
        #   no entry, a job    another thread makes it: wait; without a value (it failed) start over
        mine = _Job()
        try:
            while True:
                with self._lock:
                    if state != self._state:
                        self._clear(state)
                    if key in self._entries:
                        self._entries.move_to_end(key)
                        return self._entries[key]
                    job = self._jobs.setdefault(key, mine)
                if job is mine:
                    mine.value = make()
                    self._keep(key, mine)
                    return mine.value  # type: ignore[no-any-return]
                job.done.wait()
                if job.value is not _NOT_MADE:
                    return job.value  # type: ignore[no-any-return]
        finally:
            with self._lock:
                if self._jobs.get(key) is mine:
                    del self._jobs[key]
            mine.done.set()

    def _keep(self, key: Key, job: _Job) -> None:
        with self._lock:
            if self._jobs.get(key) is not job:
                return  # the state has changed meanwhile
            self._entries[key] = job.value
            self._total += self._measure(job.value)
            while len(self._entries) > self.max_entries and self._total > self._max_bytes:
                _, dropped = self._entries.popitem(last=False)
                self._total -= self._measure(dropped)

    def _measure(self, value: Value) -> int:
        return 1 if self._num_bytes is None else self._num_bytes(value)

    def _clear(self, state: object) -> None:
        self._entries: OrderedDict[Key, Value] = OrderedDict()
        self._jobs: dict[Key, _Job] = {}
        self._total = 0
        self._state = state

    def _forked(self, *, interrupted: bool) -> None:
        if interrupted:
            self._clear(None)
        self._jobs = {}  # the threads at them are not in this process


def _empty(
    max_entries: int, max_bytes: int, num_bytes: Callable[[Value], int] | None
) -> LruCache[Any, Value]:
    return LruCache(max_entries, max_bytes=max_bytes, num_bytes=num_bytes)
