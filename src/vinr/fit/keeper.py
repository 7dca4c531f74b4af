"""When the state of a fit is written, and what happens where it cannot be."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from vinr.errors import FitError, InputError, OutputError
from vinr.fit.checkpoint import FitState, SnapshotValues, read_fit_state, write_fit_state
from vinr.fit.events import Event, NotKept
from vinr.fit.fingerprint import Fingerprint
from vinr.fit.trainer import Trainer
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

    def read(self) -> FitState | None:
        """Return the state that the file holds, None if there is no file.

        Raises
        ------
        InputError
            If it is no state of a fit, or damaged.
        UsageError
            If it belongs to another fit.
        """
        return read_fit_state(self.path, self.fingerprint) if self.path.exists() else None

    def restore(self, trainer: Trainer, state: FitState) -> None:
        """Let ``trainer`` go on from ``state``, which the file holds.

        Raises
        ------
        InputError
            If it is not one of a fit like this.
        """
        try:
            trainer.load(state)
        except InputError as error:
            raise InputError(f"{self.path}: {error}; delete it to start anew") from None
        self._remember(state)

    @contextmanager
    def watching(self, trainer: Trainer) -> Iterator[None]:
        """Keep the state of ``trainer`` at the end of the body, whatever ends it but a fit that fails."""
        try:
            yield
        except FitError:
            raise  # the same steps would come to the same end
        except BaseException:
            # Ctrl-C, what the caller's on_event or signal handler raises, memory that another program took.
            self.keep(trainer.state(copied=False))
            raise
        self.keep(trainer.state(copied=False))

    def keep_sometimes(self, trainer: Trainer) -> None:
        """Keep the state if the last attempt was two minutes ago."""
        if time.monotonic() - self._tried_at >= CHECKPOINT_SECONDS:
            self.keep(trainer.state(copied=False))

    def keep(self, state: FitState) -> None:
        """Keep ``state``, unless it is there already, or nothing was done yet; signals wait meanwhile."""
        is_known = state.last.values == self._kept and state.is_finished == self._is_finished
        if is_known or not state.last.values.steps_done or not self._maker.is_here:
            return
        with held_back():
            try:
                write_fit_state(self.path, state)
            except OutputError as error:
                self._on_event(NotKept(str(error)))
            else:
                self._remember(state)
            self._tried_at = time.monotonic()

    def _remember(self, state: FitState) -> None:
        """Take ``state`` for what the file holds."""
        self._kept, self._is_finished = state.last.values, state.is_finished
