"""When the state of a fit is written, and what happens where it cannot be."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from vinr.errors import OutputError
from vinr.fit.checkpoint import FitState, SnapshotValues, write_fit_state
from vinr.fit.events import Event, NotKept
from vinr.fit.fingerprint import Fingerprint
from vinr.state.interruption import held_back
from vinr.temporaries import Maker

CHECKPOINT_SECONDS: Final = 120.0


class Keeper:
    """Writes the state of one fit to ``path``. What cannot be written costs a warning, not the fit.

    Only the process that made it writes: a child that was forked from it may end a copy of the fit.
    """

    def __init__(self, path: Path, fingerprint: Fingerprint, on_event: Callable[[Event], None]) -> None:
        self.path, self.fingerprint = path, fingerprint
        self._kept: SnapshotValues | None = None
        self._is_finished = False
        self._on_event, self._maker = on_event, Maker()
        self._tried_at = time.monotonic()

    def remember(self, state: FitState) -> None:
        """Take ``state`` for what the file holds."""
        self._kept, self._is_finished = state.last.values, state.is_finished

    def keep_sometimes(self, state: Callable[[], FitState]) -> None:
        """Keep the state if the last attempt was two minutes ago."""
        if time.monotonic() - self._tried_at >= CHECKPOINT_SECONDS:
            self.keep(state())

    def keep(self, state: FitState) -> None:
        """Keep ``state``, unless it is there already, or nothing was done yet; signals wait meanwhile."""
        is_known = state.last.values == self._kept and state.is_finished == self._is_finished
        if is_known or not state.last.values.steps_done or not self._maker.is_here:
            return
        with held_back():
            try:
                write_fit_state(self.path, state, self.fingerprint)
            except OutputError as error:
                self._on_event(NotKept(str(error)))
            else:
                self.remember(state)
            self._tried_at = time.monotonic()
