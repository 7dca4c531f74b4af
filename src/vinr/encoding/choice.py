"""Which model an encode with a time gets, where nothing names one.

::

    the default model tried ─> its steps in that time ─> enough: the model that is ahead, tried in its place

Small quick networks learn more in little time, others more in long fits; docs/models/vinr.md has where the
curves cross. A number of epochs decides nothing: the same command gives the same file on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from vinr.errors import argument
from vinr.models import get_model
from vinr.units import format_count

# Settings of one model, or of a paper's training of it.
OF_ONE_MODEL = ("architecture.", "fit.recipe")


def is_open(*, model: str | None, preset: str | None, time: object | None, overrides: Sequence[str]) -> bool:
    """Return whether the model may be chosen by the time."""
    if model is not None or preset is not None or time is None:
        return False
    return not any(item.strip().startswith(OF_ONE_MODEL) for item in overrides)


def model_ahead(model: str, *, steps: float, num_frames: float) -> str | None:
    """Return which model, if another, is ahead of ``model`` after ``steps`` on ``num_frames`` frames."""
    ahead = get_model(model).ahead_in_long_fits
    if ahead is None:
        return None
    other, least_steps, least_frames = ahead
    return other if steps >= least_steps and num_frames >= least_frames else None


def model_of_rates(rates_model: str, default: str) -> str | None:
    """Return ``rates_model`` if it is what may be chosen in place of ``default``, else None.

    Rates that were measured for a chosen model are those of an encode that chooses it again.
    """
    return rates_model if rates_model == model_ahead(default, steps=math.inf, num_frames=math.inf) else None


def describe_choice(model: str, chosen: str, steps: float) -> str:
    """Return a line on why ``chosen`` is fitted, not the default ``model``, which would get ``steps``."""
    named = argument("model", model)
    return (
        f"in this time {model} would get {format_count(round(steps))} steps: {chosen} should reach more; "
        f"{named} keeps it, its files decode faster"
    )
