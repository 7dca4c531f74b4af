"""The base of all settings classes: frozen, unknown keys refused; and ``key=value`` overrides.

Names in settings may stand for objects of installed packages (entry points). Also the check of the arguments
of public functions: mistakes in a program are refused as plainly as those on a command line.
"""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import cache, wraps
from importlib.metadata import entry_points
from io import TextIOBase
from os import PathLike
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    BinaryIO,
    Literal,
    ParamSpec,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import (
    BaseModel,
    ConfigDict,
    InstanceOf,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from vinr.errors import UsageError, did_you_mean, quoted

MAX_SHOWN = 60
# Parts of a key between dots. Settings are three deep; more would only nest without end.
MAX_PARTS = 8
MAX_KEY = 100
_BYTES = (bytes, bytearray, memoryview)


Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class StoredValues(BaseModel):
    """Base of what files of vinr's own hold: as settings, but nothing is converted between types."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class Settings(BaseModel):
    """Base of model configurations, presets, fit and compression settings.

    Frozen after construction; unknown keys and NaN/infinite numbers are refused. Each field carries
    ``Field(description=...)``: meaning, unit and range in one line, which is also the help text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_true_for_one(cls, value: Any, field: ValidationInfo) -> Any:
        annotation = cls.model_fields[field.field_name or ""].annotation
        leaves = _leaves(annotation)
        items = value.values() if isinstance(value, dict) else value
        for item in items if isinstance(items, (list, tuple, type({}.values()))) else [items]:
            if isinstance(item, bool) and leaves & {int, float} and not leaves & {bool, Any}:
                raise PydanticCustomError("not_bool", "Input should be a number, not true or false")
        return value


def _parse_value(text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except RecursionError:
        raise UsageError(f"setting {quoted(text)}: the value is nested too deeply") from None
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
            raise UsageError(f"setting {quoted(item)}: write it as section.key=value, such as fit.epochs=100")
        node = tree
        for part in parts[:-1]:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise UsageError(
                    f"setting {quoted(item)}: {quoted(part)} is no section; there is nothing below it"
                )
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


def describe_validation(error: ValidationError, cls: type[BaseModel] | None = None) -> str:
    """Return the first error of a validation in one line: key, problem, value.

    With ``cls``, the class that was validated, unknown keys are answered with those that there are.
    """
    first = error.errors(include_url=False)[0]
    key, problem = ".".join(map(str, first["loc"])) or "settings", _problem(first)
    if first["type"] == "extra_forbidden" and cls is not None:
        return f"{key}: {describe_unknown(first['loc'][-1], fields_at(cls, first['loc'][:-1]))}"
    # Checks of several settings together have all of them as their input; they name those that matter.
    is_whole = isinstance(first["input"], dict) and first["type"] == "value_error"
    return f"{key}: {problem}" if is_whole else f"{key}: {problem} (got {quoted(first['input'])})"


def describe_unknown(name: object, names: Sequence[str]) -> str:
    """Return what a message says of a setting that is none of ``names``."""
    return f"no such setting; there are {', '.join(names)}{did_you_mean(name, names)}"


def fields_at(cls: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    """Return the names of the settings at ``place`` (keys, and numbers in lists) in ``cls``."""
    for part in place:
        field = None if isinstance(part, int) else cls.model_fields.get(part)
        for leaf in _leaves(field.annotation) if field is not None else ():
            if isinstance(leaf, type) and issubclass(leaf, BaseModel):
                cls = leaf
    return list(cls.model_fields)


def first_problem(error: ValidationError) -> str:
    """Return the first error of a validation in one line, without the value, which may be long or hostile."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    key = ".".join(map(str, first["loc"]))[:MAX_KEY]
    return f"{key}: {_problem(first)}" if key else _problem(first)


def _problem(error: Mapping[str, Any]) -> str:
    if error["type"] == "dict_type":
        return "Input should be a table, such as {name = 1.0}"
    return str(error["msg"]).removeprefix("Value error, ")


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
        def checks() -> dict[str, tuple[Any, TypeAdapter[Any]]]:
            # At the first call: by then the module of the function, which its hints name, is complete.
            hints = get_type_hints(function)
            config = ConfigDict(arbitrary_types_allowed=True)
            found = {}
            for name in signature.parameters.keys() & hints.keys() - set(unchecked):
                found[name] = hints[name], TypeAdapter(_as_it_is(hints[name]), config=config)
            return found

        @wraps(function)
        def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            bound = signature.bind(*args, **kwargs)
            for name, (hint, adapter) in checks().items():
                if name not in bound.arguments:
                    continue
                try:
                    _check_kind(bound.arguments[name], hint)
                    bound.arguments[name] = adapter.validate_python(bound.arguments[name])
                except (ValidationError, TypeError):
                    shown = repr(bound.arguments[name])
                    shown = shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}…"
                    raise UsageError(f"{name} {shown}: give {_in_words(hint)}") from None
            return function(*bound.args, **bound.kwargs)

        return call

    return decorate


def _check_kind(value: object, hint: Any) -> None:
    """Raise TypeError for what pydantic would convert and nobody means, alone or in a list.

    It would read a text or a number from bytes, and 1 from True.
    """
    leaves = _leaves(hint)
    for item in value if isinstance(value, (list, tuple)) else [value]:
        is_bool = type(item).__name__ in ("bool", "bool_")  # Python's and NumPy's
        if (is_bool and bool not in leaves) or (isinstance(item, _BYTES) and bytes not in leaves):
            raise TypeError


def _leaves(hint: Any) -> set[Any]:
    """Return the types that a type is made of."""
    origin, parts = get_origin(hint), get_args(hint)
    if not parts or origin in (Callable, Literal):
        return {origin or hint}
    if origin is Annotated:
        parts = parts[:1]
    return set().union(*map(_leaves, parts))


def _as_it_is(hint: Any) -> Any:
    """Return a type whose texts are not converted: file names may contain bytes that are not text."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint is str:
        return InstanceOf[str]
    if hint is bytes:
        return InstanceOf[bytes] | InstanceOf[bytearray] | InstanceOf[memoryview]
    if hint is BinaryIO:
        return Annotated[Any, PlainValidator(_binary_file)]
    if origin is PathLike:
        return InstanceOf[PathLike[Any]]
    if origin in (UnionType, Union):
        return Union[tuple(map(_as_it_is, parts))]  # noqa: UP007 - as many as there are
    if origin in (Sequence, tuple):
        return origin[tuple(map(_as_it_is, parts))]
    return hint


def _binary_file(value: Any) -> Any:
    # Not by its class: those of other libraries have none in common.
    does_all = all(callable(getattr(value, name, None)) for name in ("read", "seek", "tell"))
    if not does_all or isinstance(value, (type, TextIOBase)):
        raise ValueError
    return value


_WORDS: dict[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    bytes: "bytes",
    BinaryIO: "a binary file",
    NoneType: "None",
    Fraction: "a fraction",
}


def _in_words(hint: Any) -> str:
    """Return a type as people say it."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint in _WORDS:
        return _WORDS[hint]
    if origin is PathLike:
        return "a path"
    if origin in (UnionType, Union):
        *most, last = dict.fromkeys(map(_in_words, parts))
        return f"{', '.join(most)} or {last}" if most else last
    if origin is Callable:
        return "a function"
    if origin is Literal:
        return f"one of {', '.join(map(repr, parts))}"
    if origin is tuple and Ellipsis not in parts:
        return f"({', '.join(map(_in_words, parts))})"
    if origin in (Sequence, tuple):
        return f"a list, each {_in_words(parts[0])}"
    return f"a {hint.__name__}" if isinstance(hint, type) else str(hint)
