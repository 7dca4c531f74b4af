"""Runs checks one after another and keeps what came of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from vinr.models import get_model
from vinr.testing.checks import CHECKS, Check, CheckError, Subject

SEED = 0


@dataclass(frozen=True)
class Outcome:
    """What came of a check: ``problem`` is empty if the model passed."""

    check: Check
    problem: str = ""

    def __str__(self) -> str:
        """The verdict in one line."""
        if self.problem:
            return f"FAIL  {self.check.name}: {self.problem}"
        return f"ok    {self.check.name}: {self.check.purpose}"


def run_checks(name: str, checks: Sequence[Check] = CHECKS) -> Iterator[Outcome]:
    """Run ``checks`` on the model ``name``, each from the same random state, and yield what comes of each.

    Whatever a check raises is its problem; the others are run all the same.

    Raises
    ------
    UsageError
        If there is no such model, or it cannot be imported.
    """
    get_model(name)
    for check in checks:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            yield _outcome(check, Subject(name))


def _outcome(check: Check, subject: Subject) -> Outcome:
    try:
        check(subject)
    except CheckError as error:
        return Outcome(check, str(error))
    except Exception as error:  # whatever the code of a model raises
        text = " ".join(str(error).split())
        return Outcome(check, f"{type(error).__name__}: {text}" if text else type(error).__name__)
    return Outcome(check)
