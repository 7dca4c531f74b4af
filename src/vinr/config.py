"""Frozen settings of a fit and of its compression, and the presets that fill them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from vinr.errors import UsageError, argument, did_you_mean, quoted, unknown
from vinr.models import built_in_models, get_model, list_models
from vinr.settings import Settings, apply_overrides, describe_validation, list_plugins

DEFAULT_RECIPE = "vinr"
# Those of vinr itself; packages add more as entry points of the group below.
OPTIMIZERS = ("adam", "adamw", "adan", "muon")
OPTIMIZER_GROUP = "vinr.optimizers"


def _check_optimizer(name: str) -> str:
    # Looking for packages takes long, so that it waits until a name is not known.
    if name in OPTIMIZERS:
        return name
    names = sorted({*OPTIMIZERS, *list_plugins(OPTIMIZER_GROUP)})
    if name not in names:
        raise ValueError(unknown("optimizer", name, names))
    return name


OptimizerName = Annotated[str, AfterValidator(_check_optimizer)]


class Schedule(Settings):
    """Learning rate over a fit, as a multiplier of the full rate: a linear warm-up to 1, then a decay."""

    warmup: float = Field(0.1, ge=0, lt=1, description="share of the fit spent warming up, 0 to 1")
    warmup_start: float = Field(0.1, ge=0, le=1, description="multiplier at the first step, 0 to 1")
    final: float = Field(0.0, ge=0, le=1, description="multiplier at the last step, 0 to 1; 1: no decay")
    decay: Literal["cosine", "power"] = Field("cosine", description="shape: half cosine, or 1 - x ** power")
    power: float = Field(2.0, gt=0, le=100, description="exponent of the power decay")
    decay_from: Literal["warmup", "start"] = Field(
        "warmup", description="where the decay counts from; start (HiNeRV): the rate drops after the warm-up"
    )


class Phase(Settings):
    """A part of a fit, after the plain one, that makes the network cheap to code.

    It works on the frozen network: latents are free parameters, no encoder is left; a new optimiser starts.
    """

    share: float = Field(gt=0, le=1, description="share of the whole fit, 0 to 1; the plain fit has the rest")
    learning_rate: float = Field(
        1.0, gt=0, le=10, description="full learning rates, as a multiple of the plain fit's"
    )
    schedule: Schedule | None = Field(
        None, description="learning rate over the phase; none: the schedule before it spans this phase too"
    )
    optimizer: OptimizerName | None = Field(
        None, description="update rule of the phase; none: that of the fit"
    )
    sparsity: float = Field(
        0.0, ge=0, lt=1, description="share of all parameters that is zero from the start of the phase on"
    )
    pruning: Literal["global", "adaptive", "head_excluded"] = Field(
        "adaptive",
        description="which weights: the smallest; the smallest by tensor size (HiNeRV); all but the head's",
    )
    quantization: Literal["none", "qat", "noise", "noise_ste", "entropy"] = Field(
        "none",
        description="none; all weights rounded (qat); nine in ten, without or with straight-through "
        "gradients (noise, noise_ste: Quant-Noise); learned steps against a rate (entropy)",
    )
    rate_weight: float = Field(
        0.1, ge=0, le=1e6, description="weight of the rate under quantization = entropy, in rate_unit"
    )
    rate_unit: Literal["relative", "bpp"] = Field(
        "relative",
        description="what rate_weight prices: a bit per parameter, relative to the loss; or a bit per pixel",
    )
    rate_moves: Literal["all", "steps"] = Field(
        "all", description="what the rate moves: values and steps (C-NeRV, T-NeRV), or steps alone"
    )
    fix_from: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="progress of the phase from which learned steps stay and symbols are fixed one after "
        "another; none: all are rounded until the end",
    )
    target_bytes: int | None = Field(
        None, ge=1, description="bytes that the coded network may take; rate_weight is then only the start"
    )
    target_psnr_db: float | None = Field(
        None,
        gt=0,
        le=100,
        description="PSNR to reach with as few bytes as possible, dB; rate_weight is then only the start",
    )
    initial_bits: float = Field(
        5.0,
        ge=1,
        le=12,
        description="bits per parameter that learned steps start from, for normally distributed values",
    )
    prior: Literal["laplace", "gaussian", "factorized"] = Field(
        "laplace", description="distribution that prices symbols: fixed in shape, or learned (factorized)"
    )
    trains: Literal["all", "latents"] = Field(
        "all", description="which parameters train: all, or only the latents"
    )

    @model_validator(mode="after")
    def _check(self) -> Phase:
        if self.optimizer == "adan":
            raise ValueError(
                "adan needs three betas, and a phase has those of the fit; choose another optimizer"
            )
        if self.fix_from is not None and self.quantization != "entropy":
            raise ValueError(f"fix_from needs quantization = entropy, got {self.quantization}")
        has_target = self.target_bytes is not None or self.target_psnr_db is not None
        if has_target and self.quantization != "entropy":
            raise ValueError(f"a target needs quantization = entropy, got {self.quantization}")
        if self.target_bytes is not None and self.target_psnr_db is not None:
            raise ValueError("target_bytes and target_psnr_db are both set; set one of them")
        if self.target_psnr_db is not None and self.fix_from is not None:
            raise ValueError("target_psnr_db needs symbols that are not fixed; leave fix_from out")
        if self.target_psnr_db is not None and self.rate_unit != "relative":
            raise ValueError(f"target_psnr_db needs rate_unit = relative, got {self.rate_unit}")
        return self


class FitSettings(Settings):
    """How a model is fitted."""

    recipe: str = Field(DEFAULT_RECIPE, description="name of the recipe these settings come from")
    epochs: int = Field(300, ge=1, le=1_000_000, description="passes over all frames")
    batch_size: int = Field(
        2,
        ge=1,
        le=4096,
        description="frames per step; groups of frames where a model decodes several together",
    )
    micro_batch: int = Field(
        0,
        ge=0,
        le=2**20,
        description="frames (patches, groups) of a step computed at once, to save memory; 0: all",
    )
    join_clips: bool | None = Field(
        None, description="whether clips of one size share a network; none: as the model's paper does"
    )
    patches: tuple[Annotated[int, Field(ge=1, le=256)], Annotated[int, Field(ge=1, le=256)]] = Field(
        (1, 1),
        description="rows and columns of patches that a frame is cut into for training; [1, 1]: whole frames",
    )
    drop_last: bool = Field(True, description="leave out the last batch of an epoch where it is smaller")
    optimizer: OptimizerName = Field(
        "adam", description="update rule: adam, adamw, adan, muon, or one of an installed package"
    )
    learning_rate: float = Field(1e-3, gt=0, le=1, description="full rate, reached after the warm-up")
    vector_learning_rate: float | None = Field(
        None,
        gt=0,
        le=1,
        description="learning rate of biases and everything else that is no matrix; none: learning_rate",
    )
    betas: tuple[float, float] | tuple[float, float, float] = Field(
        (0.9, 0.999), description="decay rates of Adam's two moments, or of Adan's three, each below 1"
    )
    momentum: float = Field(0.95, ge=0, lt=1, description="momentum of muon")
    weight_decay: float = Field(0.0, ge=0, le=1, description="decoupled weight decay")
    gradient_clip: float = Field(0.0, ge=0, description="largest gradient norm; 0: no limit")
    schedule: Schedule = Field(default_factory=Schedule, description="learning rate over the fit")
    loss: dict[str, float] = Field(default={"l2": 1.0}, description="named losses and their weights")
    precision: Literal["auto", "fp32", "bf16"] = Field("fp32", description="arithmetic of the network")
    channels_last: bool = Field(False, description="store feature maps channels last")
    convolution: Literal["auto", "direct"] = Field(
        "direct", description="auto: by Winograd or Fourier transforms where faster"
    )
    keep_memory: bool = Field(False, description="keep freed memory for the next step (CPU, Linux)")
    seed: int = Field(1, ge=0, lt=2**63, description="seed of initial weights and frame order")
    warm_start: bool = Field(
        False, description="begin a segment with the network of the one before it; no two are fitted at once"
    )
    phases: tuple[Phase, ...] = Field((), max_length=16, description="what follows the plain fit, in order")
    collapse_db: float = Field(
        4.0, gt=0, description="drop of the training PSNR that counts as a collapse, dB"
    )

    @model_validator(mode="before")
    @classmethod
    def _read_old_keys(cls, values: Any) -> Any:
        # Presets of earlier versions say that weights are not averaged over steps; they never are any more.
        if isinstance(values, dict) and values.get("ema_decay") == 0:
            values = dict(values)  # the caller keeps its own
            del values["ema_decay"]
        return values

    @model_validator(mode="after")
    def _check(self) -> FitSettings:
        if not self.loss:
            raise ValueError("loss names no term; give at least one, such as l2 = 1.0")
        if min(self.betas) < 0 or max(self.betas) >= 1:
            raise ValueError(f"betas {self.betas} must each lie in [0, 1)")
        # Optimisers of other packages say themselves how many they have.
        num_moments = 3 if self.optimizer == "adan" else 2
        if self.optimizer in OPTIMIZERS and len(self.betas) != num_moments:
            raise ValueError(f"{self.optimizer} has {num_moments} betas, got {self.betas}")
        shares = [phase.share for phase in self.phases]
        if sum(shares) > 1:  # the rest is the plain fit's
            raise ValueError(f"shares of the phases add up to more than 1: {shares}")
        return self


class CompressSettings(Settings):
    """How a fitted model is written."""

    weight_bits: int = Field(8, ge=2, le=16, description="bits of convolution and linear weights")
    bias_bits: int = Field(12, ge=2, le=16, description="bits of biases and other vectors")
    grid_bits: int = Field(8, ge=2, le=16, description="bits of feature grids")
    latent_bits: int = Field(8, ge=2, le=16, description="bits of per-frame latents")
    audio: bool = Field(True, description="copy the audio into the file")
    weight_scales: Literal["tensor", "channel"] = Field(
        "tensor", description="one step per tensor, or one per output channel"
    )


class PaperSize(Settings):
    """What the source of a preset states about it, for checks and tables."""

    height: int = Field(ge=1, description="rows of the frames")
    width: int = Field(ge=1, description="columns of the frames")
    num_frames: int = Field(ge=1, description="frames of the clip")
    parameters: int = Field(ge=1, description="stored parameters, head and latents included")
    gmacs: float | None = Field(None, gt=0, description="multiply-accumulates per decoded frame, in 10⁹")
    psnr_db: float | None = Field(None, description="published PSNR, dB")


class Preset(Settings):
    """One named size of one model with everything needed to fit and write it."""

    name: str = Field(description="name, model-size")
    model: str = Field(description="name of the model")
    architecture: dict[str, Any] = Field(description="architecture settings; missing widths are solved for")
    fit: FitSettings = Field(description="how it is fitted")
    compress: CompressSettings = Field(description="how it is written")
    source: str = Field(description="source of the sizes")
    paper: PaperSize | None = Field(None, description="what the source states about the size")


def _read_model_file(model: str) -> dict[str, Any]:
    #  vinr.models.hnerv ─> vinr, where presets/hnerv.toml lies; so too for models of other packages
    package = get_model(model).__module__.rpartition(".")[0].rpartition(".")[0]
    name = f"presets/{model}.toml"
    try:
        tree = tomllib.loads(resources.files(package).joinpath(name).read_text(encoding="utf-8"))
    except (OSError, ValueError, ImportError) as error:
        raise UsageError(f"model {model!r}: {name} of the package {package!r}: {error}") from None
    for key in ("fit", "sizes"):
        if not isinstance(tree.get(key), dict):
            raise UsageError(f"model {model!r}: {name} of the package {package!r} has no table {key}")
    if tree.get("model", model) != model:
        raise UsageError(f"model {model!r}: {name} of the package {package!r} names another model")
    return {"model": model, "source": package, **tree}


def list_presets() -> list[str]:
    """Return the names of all presets, ``model-size``, sorted by model, then as in the model's file.

    Models of packages that cannot be used are left out; :func:`presets_of` says what is wrong with one.
    """
    names = []
    for model in list_models():
        if model in built_in_models():
            names += presets_of(model)
            continue
        with suppress(UsageError):
            names += presets_of(model)
    return names


def presets_of(model: str) -> list[str]:
    """Return the names of a model's presets, ``model-size``, as in its file.

    Raises
    ------
    UsageError
        If there is no such model, or its package cannot be used.
    """
    return [f"{model}-{size}" for size in _read_model_file(model)["sizes"]]


def default_model() -> str:
    """Return the model used when none is asked for: the one whose preset file says ``default = true``."""
    # No package takes its place, or keeps it from being found.
    models = sorted(built_in_models())
    return next(model for model in models if _read_model_file(model).get("default", False))


def preset_asked_for(model: str | None, preset: str | Path | None) -> str | Path:
    """Return the name for :func:`load_preset` from arguments of which at most one is given.

    Raises
    ------
    UsageError
        If both are, or there is no such model.
    """
    if model is not None and preset is not None:
        raise UsageError("both a model and a preset are given; a preset names its model, give one of them")
    if model is not None and model not in list_models():
        if model in list_presets():
            raise UsageError(f"model {model!r} is a preset; give it as {argument('preset', model)}")
        raise UsageError(unknown("model", model, list_models()))
    return preset or model or default_model()


def _split_name(name: str) -> tuple[str, str]:
    # Longest first: the name of a model may start with another's and a hyphen.
    for model in sorted(list_models(), key=len, reverse=True):
        if name == model:
            return model, ""
        if name.startswith(model + "-"):
            return model, name[len(model) + 1 :]
    near = did_you_mean(name, [*list_presets(), *list_models()])
    raise UsageError(f"unknown preset {quoted(name)}; `vinr presets` lists them{near}")


def load_preset(name: str | Path, overrides: Sequence[str] = ()) -> Preset:
    """Return the preset ``name`` with ``overrides`` applied.

    Parameters
    ----------
    name
        ``model-size`` as listed by :func:`list_presets`; a bare model name gives the model's common settings,
        with widths left to be solved for; a path ending in .toml reads a preset file of the same layout whose
        ``model`` key names the model and whose ``architecture`` table is complete.
    overrides
        ``section.key=value``, such as ``fit.epochs=100`` or ``fit.recipe=paper`` (which picks another recipe
        of the model's file before the other overrides are applied).

    Raises
    ------
    UsageError
        If the preset, the recipe or a key is unknown, or a value not allowed.
    """
    if str(name).endswith(".toml"):
        tree, table, size = _read_preset_path(Path(name))
    else:
        model, size = _split_name(str(name))
        tree = _read_model_file(model)
        table = tree["sizes"].get(size, {}) if size else {}
        if size and not table:
            message = f"unknown preset {quoted(name)}; {model} has {', '.join(tree['sizes'])}"
            raise UsageError(message + did_you_mean(name, list_presets()))
    return _build(str(name), tree, table, overrides)


def _read_preset_path(path: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not a readable preset file ({error})") from None
    if "model" not in table:
        raise UsageError(f"{path}: the key model is missing; it names one of {', '.join(list_models())}")
    return _read_model_file(str(table["model"])), table, path.stem


def _section(name: str, table: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return a part of a preset's table; a file may have anything there."""
    section = table.get(key, {})
    if not isinstance(section, dict):
        raise UsageError(f"preset {name}: {key} must be a table of settings, got {str(section)[:60]!r}")
    return section


def _build(name: str, tree: Mapping[str, Any], table: Mapping[str, Any], overrides: Sequence[str]) -> Preset:
    recipes = tree["fit"]
    recipe = DEFAULT_RECIPE
    rest = []
    for item in overrides:
        key, _, value = item.partition("=")
        if key.strip() == "fit.recipe":
            recipe = value.strip()
        else:
            rest.append(item)
    sections = {key: _section(name, table, key) for key in ("architecture", "fit", "compress", "recipes")}
    # A size may come from another paper than the model: `recipes = { paper = "baseline" }` says whose recipe.
    actual = sections["recipes"].get(recipe, recipe)
    if not isinstance(actual, str):
        raise UsageError(
            f"preset {name}: recipes.{recipe} must be the name of a recipe, got {str(actual)[:60]!r}"
        )
    if actual not in recipes:
        raise UsageError(unknown("recipe", recipe, recipes, where=f"{tree['model']} has"))
    # Sizes may state architecture settings without a table of that name. Later ones win:
    #   model's ── size's, plain ── size's table ── overrides
    plain = dict(table)
    for key in ("source", "paper", "model", *sections):
        plain.pop(key, None)
    values = {
        "name": name,
        "model": tree["model"],
        "source": table.get("source", tree["source"]),
        "paper": table.get("paper"),
        "architecture": {**tree.get("architecture", {}), **plain, **sections["architecture"]},
        "fit": {**recipes[actual], **sections["fit"], "recipe": recipe},
        "compress": {**tree.get("compress", {}), **sections["compress"]},
    }
    try:
        return Preset.model_validate(apply_overrides(values, rest))
    except ValidationError as error:
        raise UsageError(f"preset {name}: {describe_validation(error, Preset)}") from None
