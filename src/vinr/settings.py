"""The base of all settings classes: frozen, unknown keys refused; and ``key=value`` overrides.

Names in settings may stand for objects of installed packages (entry points). Also the check of the arguments
of public functions: mistakes in a program are refused as plainly as those on a command line.
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

from vinr.errors import UsageError, quoted

MAX_SHOWN = 60
# Parts of a key between dots. Settings are three deep; more would only nest without end.
MAX_PARTS = 8
MAX_KEY = 100


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


def list_plugins(group: str) -> list[str]:
    """Return the names that installed packages offer under the entry point group ``group``, sorted."""
    return sorted(entry_points(group=group).names)


def load_plugin(group: str, name: str, *, is_called: bool = True) -> Any:
    """Return the object that an installed package offers as ``name`` under ``group``.

    Raises
    ------
    UsageError
        If it cannot be loaded, two packages offer that name, or it cannot be called though it ``is_called``.
    """
    # A package may be listed twice where its folder is on the path twice: that is one entry all the same.
    what = f"entry point {name!r} of {group}"
    values = sorted({entry.value for entry in entry_points(group=group, name=name)})
    if len(values) > 1:
        raise UsageError(f"{what} is offered by two packages ({', '.join(values)}); remove one of them")
    entry = next(iter(entry_points(group=group, name=name)))
    try:
        plugin = entry.load()
    except (Exception, SystemExit) as error:  # whatever a module of somebody else raises when it is imported
        problem = f"{type(error).__name__}: {error}"
        raise UsageError(
            f"{what}: {entry.value} cannot be loaded ({problem}); mend the package that offers it"
        ) from error
    if is_called and not callable(plugin):
        raise UsageError(f"{what}: {entry.value} is of type {type(plugin).__name__}; it has to be a function")
    return plugin


def describe_validation(error: ValidationError) -> str:
    """Return the first error of a validation in one line: key, problem, value."""
    first = error.errors(include_url=False)[0]
    key = ".".join(map(str, first["loc"])) or "settings"
    return f"{key}: {first['msg']} (got {quoted(first['input'])})"


def first_problem(error: ValidationError) -> str:
    """Return the first error of a validation in one line, without the value, which may be long or hostile."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    key = ".".join(map(str, first["loc"]))[:MAX_KEY]
    return f"{key}: {first['msg']}" if key else str(first["msg"])


def checked_arguments(
    *, unchecked: Sequence[str] = ()
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Return a decorator that lets a function refuse arguments of types other than those it declares.

    Values that can be converted are (``"3"`` to a whole number, a list to a tuple). Arguments named in
    ``unchecked`` are passed as they are.

    Raises
    ------
    UsageError
        From the function: the argument, its value, and the types that it may have.
    """

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        signature = inspect.signature(function)

        @cache
        def adapters() -> dict[str, TypeAdapter[Any]]:
            # At the first call: by then the module of the function, which its hints name, is complete.
            hints = get_type_hints(function)
            names = signature.parameters.keys() & hints.keys() - set(unchecked)
            config = ConfigDict(arbitrary_types_allowed=True)
            return {name: TypeAdapter(_texts_as_they_are(hints[name]), config=config) for name in names}

        @wraps(function)
        def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            bound = signature.bind(*args, **kwargs)
            for name, adapter in adapters().items():
                if name not in bound.arguments:
                    continue
                try:
                    _refuse_bytes(bound.arguments[name])
                    bound.arguments[name] = adapter.validate_python(bound.arguments[name])
                except (ValidationError, TypeError):
                    shown, allowed = repr(bound.arguments[name]), signature.parameters[name].annotation
                    shown = shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}…"
                    raise UsageError(f"{name} {shown}: give a value of type {allowed}") from None
            return function(*bound.args, **bound.kwargs)

        return call

    return decorate


def _refuse_bytes(value: object) -> None:
    """Raise TypeError for bytes, alone or in a list: pydantic would read a number or a text from them."""
    items = value if isinstance(value, (list, tuple)) else [value]
    if any(isinstance(item, (bytes, bytearray)) for item in items):
        raise TypeError


def _texts_as_they_are(hint: Any) -> Any:
    """Return a type whose texts are not converted: file names may contain bytes that are not text."""
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
