"""The command line where ``torchrun`` has started it several times."""

from __future__ import annotations

from collections.abc import Callable

from vinr.state.launch import is_one_of_several


def run_once(run: Callable[[], object]) -> None:
    """Run a command in the first of the processes that torchrun has started; the others help it to fit."""
    if not is_one_of_several():
        run()
        return
    from vinr.fit.follow import work_together
    from vinr.fit.ranks import joined

    with joined() as ranks:
        work_together(ranks, run)
