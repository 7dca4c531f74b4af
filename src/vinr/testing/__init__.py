"""Checks that every model has to pass, for packages that offer models of their own.

``python -m vinr.testing NAME`` runs them. Nothing here needs pytest, so that a package may call
:func:`check_model` from tests of any kind.
"""

from __future__ import annotations

from vinr.testing.checks import CHECKS, Check, CheckError, Subject, check_model
from vinr.testing.clips import MemoryClip, moving_shapes
from vinr.testing.verdicts import Outcome, run_checks

__all__ = [
    "CHECKS",
    "Check",
    "CheckError",
    "MemoryClip",
    "Outcome",
    "Subject",
    "check_model",
    "moving_shapes",
    "run_checks",
]
