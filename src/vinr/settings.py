"""The one base of every settings class: frozen, and unknown keys are refused."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError

__all__ = ["Settings", "describe_validation"]


class Settings(BaseModel):
    """Base of model configurations, presets, fit and compression settings.

    Frozen after construction; unknown keys and NaN/infinite numbers are refused. Each field carries
    ``Field(description=...)``: meaning, unit and range in one line, which is also the help text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def describe_validation(error: ValidationError) -> str:
    """Return the first complaint of a settings check in one line: key, problem, value."""
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"]) or "settings"
    return f"{key}: {first['msg']} (got {str(first['input'])[:60]!r})"
