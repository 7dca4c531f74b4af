"""The settings there are: key, type, default, allowed values, meaning; from the classes that check them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from vinr.config import OPTIMIZERS, CompressSettings, FitSettings, default_model, load_preset
from vinr.decoding.settings import DecodeSettings
from vinr.errors import UsageError, did_you_mean, quoted
from vinr.fit.losses import list_losses
from vinr.models import get_model

ARCHITECTURE = "architecture"
SECTIONS = (ARCHITECTURE, "fit", "compress", "decode")

_WORDS: dict[Any, tuple[str, str]] = {
    int: ("whole number", "whole numbers"),
    float: ("number", "numbers"),
    bool: ("true or false", "true or false each"),
    str: ("text", "texts"),
    Any: ("anything", "anything"),
}


@dataclass(frozen=True)
class SettingEntry:
    """A setting as ``--set`` takes it; ``key`` has ``[]`` behind a list of tables whose keys follow.

    ``default`` is None where there is none: settings that are ``required`` have to be given, or are solved
    for if they are of an architecture. ``by_model`` is what the preset file of a model sets instead, if
    anything.
    """

    key: str
    type: str
    allowed: str
    default: Any
    required: bool
    meaning: str
    by_model: Any = None


def list_settings(section: str | None = None, model: str | None = None) -> list[SettingEntry]:
    """Return all settings, or those of a section or below a key.

    The architecture, and what its preset file sets, are those of ``model``, the default model if None.

    Raises
    ------
    UsageError
        If there is no such section, key or model.
    """
    model = model or default_model()
    architecture = get_model(model).Config
    classes: dict[str, type[BaseModel]] = {
        ARCHITECTURE: architecture,
        "fit": FitSettings,
        "compress": CompressSettings,
        "decode": DecodeSettings,
    }
    entries: list[SettingEntry] = []
    for name in SECTIONS:
        entries += _entries(classes[name], name, {})
    values = load_preset(model).model_dump(mode="json", exclude_unset=True)
    entries = [_with_value(entry, values) for entry in entries]
    if section is None:
        return entries
    wanted = section.strip().strip(".")
    found = [entry for entry in entries if f"{entry.key}.".startswith((f"{wanted}.", f"{wanted}[]."))]
    if not found:
        names = [*SECTIONS, *(entry.key for entry in entries)]
        near = did_you_mean(wanted, names)
        raise UsageError(f"unknown section {quoted(section)}; there are {', '.join(SECTIONS)}{near}")
    return found


def _entries(cls: type[BaseModel], section: str, seen: dict[type[BaseModel], str]) -> Iterator[SettingEntry]:
    """Yield the settings of a class, and behind a table its keys; ``seen`` says where a class was listed."""
    for name, field in cls.model_fields.items():
        key = f"{section}.{name}"
        table = _table_class(field.annotation)
        words = _type_words(field.annotation)
        if table in seen:
            words = f"{words} as {seen[table]}"
        yield SettingEntry(
            key=key,
            type=words,
            allowed=_allowed(name, field),
            default=None if field.is_required() else _plain(field.get_default(call_default_factory=True)),
            required=field.is_required(),
            meaning=field.description or "",
        )
        if table is not None and table not in seen:
            seen[table] = key
            is_list = words.startswith("list")
            yield from _entries(table, f"{key}[]" if is_list else key, seen)


def _with_value(entry: SettingEntry, values: Any) -> SettingEntry:
    """Return the entry with what ``values``, the sections of a preset, have at its key."""
    for part in entry.key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    # Of tables the keys are listed by themselves.
    is_other = values != entry.default and entry.type != "table"
    return replace(entry, by_model=values) if is_other else entry


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


# -- types and bounds in words -------------------------------------------------------------------------------


def _alternatives(hint: Any) -> list[Any]:
    """Return the types that a value may have, None left out: no text stands for it."""
    if get_origin(hint) in (UnionType, Union):
        return [part for part in get_args(hint) if part is not NoneType]
    return [hint]


def _table_class(hint: Any) -> type[BaseModel] | None:
    """Return the settings class that a setting, or each item of it, is of; None if it is of none."""
    for part in _alternatives(hint):
        for leaf in (part, *get_args(part)):
            if isinstance(leaf, type) and issubclass(leaf, BaseModel):
                return leaf
    return None


def _type_words(hint: Any, *, many: bool = False) -> str:
    """Return a type in words; ``many``: of the items of a list."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _type_words(parts[0], many=many)
    if origin in (UnionType, Union):
        return " or ".join(dict.fromkeys(_type_words(part, many=many) for part in _alternatives(hint)))
    if origin is Literal:
        return _type_words(type(parts[0]), many=many)
    if origin is tuple and parts[-1] is not Ellipsis:
        return f"list of {len(parts)} {_type_words(parts[0], many=True)}"
    if origin in (tuple, list):
        return f"list of {_type_words(parts[0], many=True)}"
    if origin is dict:
        return f"table of {_type_words(parts[1], many=True)}"
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return "tables" if many else "table"
    return _WORDS[hint][many]


def _allowed(name: str, field: FieldInfo) -> str:
    """Return the values that a setting may have, beyond its type."""
    if name == "optimizer":
        return ", ".join(OPTIMIZERS)  # those of packages are named by its meaning
    if name == "loss":
        return f"names: {', '.join(list_losses())}"
    found = [_bounds(field.metadata)]
    for part in _alternatives(field.annotation):
        found += _inner_allowed(part)
    return "; ".join(dict.fromkeys(text for text in found if text))


def _inner_allowed(hint: Any) -> list[str]:
    """Return what the parts of a type allow: values of a Literal, bounds of items."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return [", ".join(map(str, parts))]
    if origin is Annotated:
        metadata: list[Any] = []
        for item in parts[1:]:
            metadata += item.metadata if isinstance(item, FieldInfo) else [item]
        bounds = _bounds(metadata)
        return [bounds, *_inner_allowed(parts[0])]
    found = []
    for part in parts if origin in (tuple, list) else ():
        found += [f"each {text}" for text in _inner_allowed(part) if text]
    return found


def _bounds(metadata: Sequence[Any]) -> str:
    """Return bounds in words: ``1 to 8``, ``above 0, at most 1``, ``at most 16 items``."""
    low = high = items = ""
    for item in metadata:
        low = _bound(item, "ge", "at least ") or _bound(item, "gt", "above ") or low
        high = _bound(item, "le", "at most ") or _bound(item, "lt", "below ") or high
        if (count := getattr(item, "max_length", None)) is not None:
            items = f"at most {count} items"
    if low.startswith("at least") and high.startswith("at most"):
        low, high = f"{low.removeprefix('at least ')} to {high.removeprefix('at most ')}", ""
    return ", ".join(text for text in (low, high, items) if text)


def _bound(constraint: Any, name: str, words: str) -> str:
    """Return a bound in words if the constraint has one of this name, as those of pydantic do."""
    value = getattr(constraint, name, None)
    if value is None:
        return ""
    is_whole = isinstance(value, int) or float(value).is_integer()
    return f"{words}{int(value):,}" if is_whole else f"{words}{value:g}"


# -- as text -------------------------------------------------------------------------------------------------


def default_text(entry: SettingEntry) -> str:
    """Return the default of a setting as ``--set`` takes it; in words where there is none."""
    if entry.required:
        return "solved for" if entry.key.startswith(ARCHITECTURE) else "required"
    if isinstance(entry.default, dict) and entry.type == "table":
        return "by its keys"
    return "none" if entry.default is None else toml_text(entry.default)


def toml_text(value: Any) -> str:
    """Return a value as ``--set`` takes it."""
    match value:
        case bool():
            return str(value).lower()
        case list():
            return f"[{', '.join(map(_item_text, value))}]"
        case dict():
            return f"{{{', '.join(f'{key} = {_item_text(item)}' for key, item in value.items())}}}"
    return str(value)


def _item_text(value: Any) -> str:
    """Return a value inside of another: there texts need their quotes."""
    return json.dumps(value) if isinstance(value, str) else toml_text(value)


def lines_of(entry: SettingEntry, model: str) -> tuple[str, str]:
    """Return what the command line prints of a setting: key, default and type; meaning."""
    value = default_text(entry)
    if entry.by_model is not None:
        value += f" ({model}: {toml_text(entry.by_model)})"
    bounds = f"; {entry.allowed}" if entry.allowed else ""
    return f"{entry.key} = {value}  [{entry.type}{bounds}]", f"    {entry.meaning}"
