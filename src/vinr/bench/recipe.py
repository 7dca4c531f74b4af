"""Recipes: a table or figure of a paper, its numbers, how vinr makes them at three scales (docs/bench.md).

::

    [all] ─ [full]                      recipe: what its rows share
          └ [reduced] ─ [mini] | [tiny]
    row:  all ─ full | reduced ─ mini | tiny      later ones win; overrides add up
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from vinr.config import Phase
from vinr.errors import UsageError, unknown
from vinr.settings import Settings, describe_validation

Scale = Literal["full", "mini", "tiny"]
SCALES: Final[tuple[Scale, ...]] = get_args(Scale)
Kind = Literal["fit", "encode", "rate_distortion", "interpolate", "inpaint", "denoise", "decode", "clips"]
Size = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]

# What was run under a name of `vinr bench` before, and measures this machine or draws a page for people.
MOVED: Final = {"speed": "python -m benchmarks.speed", "gallery": "python -m benchmarks.gallery"}
# D-NeRV, for diverse videos, is the model dnerv_diverse; the model dnerv is DNeRV.
RENAMED: Final = re.compile(r"^dnerv-")

# Epochs are counted apart from a phase's settings, since its share follows from all of them.
ANY_SHARE: Final = 0.5


class Tuning(Settings):
    """A phase that goes on from a plain fit."""

    epochs: int = Field(ge=1, description="passes over all frames")
    phase: dict[str, Any] = Field(default={}, description="settings of the phase, as in fit.phases, no share")

    @model_validator(mode="after")
    def _check(self) -> Tuning:
        Phase.model_validate({**self.phase, "share": ANY_SHARE})
        return self


class Setup(Settings):
    """What is run for a row; every key may be left out, and then comes from the tables before it."""

    model: str | None = Field(None, description="model by name; with params, or its tiny size at scale tiny")
    preset: str | None = Field(None, description="model and size by name, instead of model and params")
    params: int | None = Field(None, ge=1, description="parameters, head and latents included")
    epochs: int | None = Field(
        None, ge=1, description="passes over all frames; none: the recipe's of the fit"
    )
    overrides: tuple[str, ...] = Field((), description="section.key=value settings")
    clips: tuple[str, ...] | None = Field(
        None, description="dataset/clip, bunny, bikes or carphone; the row runs on each"
    )
    crop: Size | None = Field(None, description="rows and columns of the centred part")
    resize: Size | None = Field(None, description="rows and columns after the crop")
    frames: tuple[int, int] | None = Field(None, description="first frame, and that before which to stop")
    tune: tuple[Tuning, ...] | None = Field(
        None, description="fit, encode: phases after the plain fit, which rows share; none: the preset's"
    )
    bits: tuple[int, ...] | None = Field(
        None, description="encode: bits per parameter, a file for each, tuned for it"
    )
    sizes: tuple[int, ...] | None = Field(None, description="rate_distortion, clips: params of the points")
    presets: tuple[str, ...] | None = Field(None, description="rate_distortion: presets of the points")
    rate_weights: tuple[float, ...] | None = Field(
        None, description="rate_distortion: weights of the rate of the last phase, a point for each"
    )
    anchor: str | None = Field(None, description="a codec instead of a network: x265-medium-nob:20:30:40:50")
    published: str | None = Field(
        None, description="published points: FILE.csv#CLIP#CODEC, the file in the folder of data"
    )
    every: int | None = Field(None, ge=2, description="interpolate: train on every n-th frame (default 2)")
    mask: str | None = Field(None, description="inpaint: boxes:WIDTH, center, or object (DAVIS)")
    grow: int | None = Field(
        None, ge=0, le=256, description="inpaint: pixels that the mask is grown by on all sides; none: 0"
    )
    noise: str | None = Field(None, description="denoise: black, white, salt_pepper or gaussian:AMOUNT")
    seeds: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None, min_length=1, description="seeds of the fit; the row runs with each, and shows the mean"
    )
    tiles: Size | None = Field(None, description="clips: rows and columns of tiles that a clip is cut into")
    length: int | None = Field(None, ge=1, description="clips: frames of a part, so that one clip gives many")
    parts: int | None = Field(
        None, ge=1, description="clips: how many parts are kept, as many of each clip, evenly spread over it"
    )
    joint: bool | None = Field(None, description="clips: one joint network (default), or one per clip")

    def over(self, other: Setup) -> Setup:
        """Return ``other`` with what is set here on top of it; overrides come one after another."""
        # Only what a table sets counts: a default in it must not hide what a table below it sets.
        mine, below = self.model_dump(exclude_unset=True), other.model_dump(exclude_unset=True)
        # A size is named in one way: a preset replaces model and size below it, and the other way round.
        for name in ("model", "params") if "preset" in mine else ("preset",) if "model" in mine else ():
            below.pop(name, None)
        return Setup.model_validate({**below, **mine, "overrides": (*other.overrides, *self.overrides)})


def laid_over(*setups: Setup) -> Setup:
    """Return setups on top of one another, the last on top."""
    result = Setup()
    for setup in setups:
        result = setup.over(result)
    return result


class Layers(Settings):
    """Settings by scale; see the drawing above."""

    all: Setup = Field(Setup(), description="at every scale")
    full: Setup = Field(Setup(), description="as in the paper")
    reduced: Setup = Field(Setup(), description="at mini and tiny")
    mini: Setup = Field(Setup(), description="Bunny reduced, minutes")
    tiny: Setup = Field(Setup(), description="a few steps, for tests")

    def of(self, scale: Scale) -> list[Setup]:
        """Return the tables that make up a scale, in order."""
        # `reduced` is what mini and tiny share: their clip, mostly, and its crop.
        if scale == "full":
            return [self.all, self.full]
        return [self.all, self.reduced, self.mini if scale == "mini" else self.tiny]


class Metric(Settings):
    """A column of the table."""

    title: str = Field(description="what is measured, with its unit")
    better: Literal["higher", "lower", "none"] = Field("higher", description="which direction is better")
    digits: int = Field(2, ge=0, le=6, description="decimals shown")
    of: str | None = Field(None, description="name of the measured value; none: the metric's own name")
    relative_to: str | None = Field(
        None, description="label of the row that counts 100: the value is its percentage of that row's"
    )
    bd: Literal["rate_percent", "quality_db"] | None = Field(
        None, description="Bjøntegaard delta of row `test` against this row, from the points of both"
    )
    test: str | None = Field(None, description="label of the row that bd tests")
    scale: float = Field(1.0, gt=0, description="factor from the measured value to the paper's unit")

    @model_validator(mode="after")
    def _check(self) -> Metric:
        if (self.bd is None) != (self.test is None):
            raise ValueError("give bd and test together")
        return self


class Row(Layers):
    """A row of the table: the paper's numbers, and how vinr makes them."""

    label: str = Field(description="name of the row")
    paper: dict[str, float | tuple[float | None, ...]] = Field(
        default={}, description="by metric: the printed number, or a list by clip of the full scale"
    )
    source: str | None = Field(None, description="where the numbers stand; none: the recipe's source")
    kind: Kind | None = Field(None, description="kind of experiment; none: the recipe's")
    runs: bool = Field(True, description="whether vinr makes the row; false: it is only printed")
    values: dict[str, str] = Field(
        default={}, description="metric to measured value, where it differs from the metric's `of`"
    )
    at_rate_of: str | None = Field(
        None, description="label of the row at whose rate this row's points are read off"
    )


class Recipe(Layers):
    """A table or figure of a paper."""

    name: str = Field(description="name of the file")
    paper: str = Field(description="whose table it is")
    table: str = Field(description="which one")
    title: str = Field(description="what it shows, in a line")
    source: str = Field(description="where the numbers stand")
    kind: Kind = Field(description="kind of experiment")
    metrics: dict[str, Metric] = Field(min_length=1, description="columns")
    rows: tuple[Row, ...] = Field(min_length=1, description="rows, as in the paper")
    baseline: str | None = Field(None, description="label of the row that others are compared with")
    curves: bool = Field(False, description="whether the page shows how the fits went, over their epochs")
    order: bool = Field(True, description="whether rows are meant to be ranked")
    notes: tuple[str, ...] = Field((), description="what to know when reading")

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        labels: list[str] = []
        named: set[str | None] = {self.baseline}  # the rows that something refers to by their labels
        for row in self.rows:
            labels.append(row.label)
            named.add(row.at_rate_of)
        if len(set(labels)) != len(labels):
            raise ValueError(f"two rows have one label: {labels}")
        for metric in self.metrics.values():
            named |= {metric.relative_to, metric.test}
        missing = named - {None, *labels}
        if missing:
            raise ValueError(f"no row is called {missing.pop()!r}; there are {labels}")
        for row in self.rows:
            unknown = [*(row.paper.keys() - self.metrics), *(row.values.keys() - self.metrics)]
            if unknown:
                raise ValueError(
                    f"row {row.label}: {unknown[0]} is not a metric; there are {[*self.metrics]}"
                )
            # Lists of printed numbers go by the clips of the paper; the smaller scales have others.
            clips = self.setup(row, "full").clips or ()
            for name, value in row.paper.items():
                if isinstance(value, tuple) and len(value) != len(clips):
                    raise ValueError(f"row {row.label}: {len(value)} values of {name}, {len(clips)} clips")
        return self

    def setup(self, row: Row, scale: Scale) -> Setup:
        """Return what is run for ``row`` at ``scale``."""
        return laid_over(*self.of(scale), *row.of(scale))

    def kind_of(self, row: Row) -> Kind:
        """Return the kind of experiment that makes ``row``."""
        return row.kind or self.kind

    def row(self, label: str) -> Row:
        """Return the row of that label, which the recipe has."""
        return next(row for row in self.rows if row.label == label)


def list_recipes() -> list[str]:
    """Return the names of all recipes, sorted."""
    names = []
    for file in resources.files("vinr.bench").joinpath("recipes").iterdir():
        name, _, suffix = file.name.rpartition(".")
        if suffix == "toml":
            names.append(name)
    return sorted(names)


def load_recipe(name: str) -> Recipe:
    """Return a recipe by name.

    Raises
    ------
    UsageError
        If there is none of that name, or its file is broken; where a recipe was renamed or became a script,
        the message says what it is called now.
    """
    if name in MOVED:
        raise UsageError(f"{name} is a script of the source now: run `{MOVED[name]}` in its folder")
    names = list_recipes()
    renamed = RENAMED.sub("dnerv_diverse-", name)
    if renamed != name and renamed in names:
        raise UsageError(f"recipe {name!r} is called {renamed!r} now: dnerv is another model")
    if name not in names:
        raise UsageError(unknown("recipe", name, names, where="`vinr bench` lists them:"))
    file = resources.files("vinr.bench").joinpath("recipes", f"{name}.toml")
    return parse_recipe(name, parse_toml(f"recipe {name}", file.read_bytes()))


def parse_toml(what: str, content: bytes) -> dict[str, Any]:
    """Return a TOML document as plain values; ``what`` it is stands in the error.

    Raises
    ------
    UsageError
        If it is no TOML in UTF-8; line and column are named.
    """
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{what} is not valid TOML: {error}") from None


def parse_recipe(name: str, tree: Mapping[str, Any]) -> Recipe:
    """Return the recipe that a TOML document describes.

    Raises
    ------
    UsageError
        If a key is unknown or missing, or a value not allowed.
    """
    try:
        return Recipe.model_validate({"name": name, **tree})
    except ValidationError as error:
        raise UsageError(f"recipe {name}: {describe_validation(error, Recipe)}") from None


def paper_mean(value: float | Sequence[float | None] | None) -> float | None:
    """Return a printed number, or the mean of those of the clips."""
    if value is None or isinstance(value, (int, float)):
        return value
    # A paper may leave the cell of a clip empty.
    known = [item for item in value if item is not None]
    return sum(known) / len(known) if known else None
