"""The one base of every settings class: frozen, unknown keys refused; and ``key=value`` for any of them.

Names in settings may stand for objects of installed packages: entry points. Also the check of arguments of
public functions: what comes from a program is refused as plainly as what comes from a command line.
"""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Callable, Sequence
from functools import cache, wraps
from importlib.metadata import entry_points
from os import PathLike
from types import UnionType
from typing import Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, InstanceOf, TypeAdapter, ValidationError

from vinr.errors import UsageError

MAX_SHOWN = 60
# Of a key; settings are three deep.
MAX_PARTS = 8


Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


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
        raise UsageError(f"--set {_shown(text)}: a value is nested too deeply") from None
    except ValueError:  # no TOML, or a number of more digits than Python reads
        return text
    return table["value"] if len(table) == 1 else text


def apply_overrides(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply ``key.sub=value`` to nested dictionaries; a value is TOML, or else plain text."""
    for item in overrides:
        key, equals, text = item.partition("=")
        parts = key.strip().split(".")
        if not equals or not 2 <= len(parts) <= MAX_PARTS or not all(parts):
            raise UsageError(f"--set {_shown(item)}: write it as section.key=value, such as fit.epochs=100")
        node = tree
        for part in parts[:-1]:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise UsageError(f"--set {_shown(item)}: {part[:MAX_SHOWN]} holds no settings of its own")
        node[parts[-1]] = _parse_value(text.strip())
    return tree


def list_plugins(group: str) -> list[str]:
    """Return the names that installed packages offer under the entry point group ``group``, sorted."""
    return sorted(entry_points(group=group).names)


def load_plugin(group: str, name: str) -> Any:
    """Return the object that an installed package offers as ``name`` under ``group``.

    Raises
    ------
    UsageError
        If it cannot be loaded.
    """
    entry = next(iter(entry_points(group=group, name=name)))
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{name!r} of the group {group}: {entry.value} cannot be loaded ({error})") from None


def describe_validation(error: ValidationError) -> str:
    """Return the first complaint of a settings check in one line: key, problem, value."""
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"]) or "settings"
    return f"{key}: {first['msg']} (got {_shown(first['input'])})"


def _shown(value: object) -> str:
    text = str(value)
    return repr(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…")


def checked_arguments(
    *, unchecked: Sequence[str] = ()
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Return a decorator that lets a function refuse arguments of other types than it declares.

    What stands for such a value is taken as that (``"3"`` for a whole number, a list for a tuple).
    Arguments named in ``unchecked`` pass as they are.

    Raises
    ------
    UsageError
        From the function: the argument, what came, and the types that it may have.
    """

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        signature = inspect.signature(function)

        @cache
        def adapters() -> dict[str, TypeAdapter[Any]]:
            # At the first call: the module of the function is whole by then.
            hints = get_type_hints(function)
            names = signature.parameters.keys() & hints.keys() - set(unchecked)
            config = ConfigDict(arbitrary_types_allowed=True)
            return {name: TypeAdapter(_texts_as_they_are(hints[name]), config=config) for name in names}

        @wraps(function)
        def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            given = signature.bind(*args, **kwargs)
            for name, adapter in adapters().items():
                if name not in given.arguments:
                    continue
                try:
                    given.arguments[name] = adapter.validate_python(given.arguments[name])
                except ValidationError:
                    shown, allowed = repr(given.arguments[name]), signature.parameters[name].annotation
                    shown = shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}…"
                    raise UsageError(f"{name} {shown}: give a value of type {allowed}") from None
            return function(*given.args, **given.kwargs)

        return call

    return decorate


def _texts_as_they_are(hint: Any) -> Any:
    """Return a type whose texts are not converted: names of files may hold bytes that are no text."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint is str:
        return InstanceOf[str]
    if origin is PathLike:
        return InstanceOf[PathLike[Any]]
    if origin is UnionType:
        return Union[tuple(map(_texts_as_they_are, parts))]  # noqa: UP007 - as many as there are
    if origin in (Sequence, tuple):
        return origin[tuple(map(_texts_as_they_are, parts))]
    return hint
