"""The base of all settings classes: frozen, unknown keys refused; and ``key=value`` overrides."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from vinr.errors import UsageError, quoted

# Parts of a key between dots. Settings are three deep; more would only nest without end.
MAX_PARTS = 8
MAX_KEY = 100


class Settings(BaseModel):
    """Base of model configurations, presets, fit and compression settings.

    Frozen after construction; unknown keys and NaN/infinite numbers are refused. Each field carries
    ``Field(description=...)``: meaning, unit and range in one line, which is also the help text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _parse_value(text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except RecursionError:
        raise UsageError(f"--set {quoted(text)}: a value is nested too deeply") from None
    except ValueError:  # not TOML, or a number with more digits than Python reads
        return text
    # A line break in the text would start another key of the table: then it is plain text.
    return table["value"] if len(table) == 1 else text


def apply_overrides(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply ``key.sub=value`` to nested dictionaries; a value is TOML, or else plain text."""
    for item in overrides:
        key, equals, text = item.partition("=")
        parts = key.strip().split(".")
        if not equals or not 2 <= len(parts) <= MAX_PARTS or not all(parts):
            raise UsageError(f"--set {quoted(item)}: write it as section.key=value, such as fit.epochs=100")
        node = tree
        for part in parts[:-1]:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise UsageError(f"--set {quoted(item)}: {quoted(part)} has no settings below it")
        node[parts[-1]] = _parse_value(text.strip())
    return tree


def first_problem(error: ValidationError) -> str:
    """Return the first error of a validation in one line, without the value, which may be long or hostile."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    key = ".".join(map(str, first["loc"]))[:MAX_KEY]
    return f"{key}: {first['msg']}" if key else str(first["msg"])


def describe_validation(error: ValidationError) -> str:
    """Return the first error of a validation in one line: key, problem, value."""
    first = error.errors(include_url=False)[0]
    key = ".".join(map(str, first["loc"])) or "settings"
    return f"{key}: {first['msg']} (got {quoted(first['input'])})"
