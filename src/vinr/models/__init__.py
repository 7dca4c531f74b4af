"""Video representations, one paper a file; the file name is the registry."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from inspect import getdoc, isabstract
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from vinr.errors import UsageError, unknown
from vinr.models.base import (
    FirstFrame,
    FrozenLatents,
    HybridModel,
    IndexModel,
    Latents,
    LatentStore,
    ModelConfig,
    Role,
    Scaling,
    StoredTensor,
    StoringModule,
    VideoModel,
)
from vinr.settings import describe_validation, list_plugins, load_plugin

__all__ = [
    "FirstFrame",
    "FrozenLatents",
    "HybridModel",
    "IndexModel",
    "LatentStore",
    "Latents",
    "ModelConfig",
    "Role",
    "Scaling",
    "StoredTensor",
    "StoringModule",
    "VideoModel",
    "built_in_models",
    "describe_model",
    "get_model",
    "list_models",
    "validate_architecture",
]

# Files of this folder that hold no model.
SHARED_FILES = {"base", "cost"}
GROUP = "vinr.models"


@cache
def built_in_models() -> frozenset[str]:
    """Return the names of the models of vinr itself."""
    return frozenset(module.name for module in iter_modules(__path__) if not module.ispkg) - SHARED_FILES


@cache  # what is installed does not change while a process runs; looking for it reads a file of each package
def _plugins() -> frozenset[str]:
    return frozenset(list_plugins(GROUP))


def list_models() -> list[str]:
    """Return the names of all models: files of this folder, and entry points of the group ``vinr.models``.

    Whether what a package offers can be used is seen when it is loaded.
    """
    return sorted(built_in_models() | _plugins())


@cache
def get_model(name: str) -> type[VideoModel]:
    """Return the model class that the file (or entry point) ``name`` defines.

    Raises
    ------
    UsageError
        If there is no such model, or what a package offers is none or cannot be imported.
    """
    if name not in list_models():
        raise UsageError(unknown("model", name, list_models()))
    # Files name their model: that of a package must not take the place of a built-in one.
    if name in built_in_models():
        module = import_module(f"{__name__}.{name}")
    else:
        module = load_plugin(GROUP, name, is_called=False)
    if not isinstance(module, ModuleType):
        came = "a class" if isinstance(module, type) else f"an object of type {type(module).__name__}"
        raise UsageError(
            f"model {name!r}: the entry point of its package names {came}; "
            "it has to name the module that defines the model"
        )
    for item in vars(module).values():
        # Not what the file imports: its own class, and no abstract one.
        is_defined_there = isinstance(item, type) and item.__module__ == module.__name__
        if is_defined_there and issubclass(item, VideoModel) and not isabstract(item):
            model_class: type[VideoModel] = item
            return model_class
    raise UsageError(f"model {name!r}: {module.__name__} defines no VideoModel")


def describe_model(name: str) -> str:
    """Return the first line of the model's docstring: the paper it implements."""
    return (getdoc(get_model(name)) or name).splitlines()[0]


def validate_architecture(cls: type[VideoModel], architecture: Mapping[str, Any]) -> ModelConfig:
    """Return the configuration of a model from plain settings.

    Raises
    ------
    UsageError
        Naming the first setting that is unknown, missing or not allowed.
    """
    try:
        return cls.Config.model_validate(architecture)
    except ValidationError as error:
        raise UsageError(f"architecture.{describe_validation(error, cls.Config)}") from None
