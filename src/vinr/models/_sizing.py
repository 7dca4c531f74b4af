"""From a wanted size to an architecture, and from an architecture to its size and cost.

::

    frame size ──> choose_strides ──┐
    wanted numbers ──> width dial ──┴─> configure ──> count without memory ──> dial again, then single widths
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement
from typing import Annotated, Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vinr.errors import UsageError
from vinr.models._base import HybridModel, ModelConfig, VideoModel
from vinr.models._stored import Latents
from vinr.video.spec import Query, VideoSpec

__all__ = [
    "ModelSize",
    "choose_strides",
    "count_macs",
    "describe_size",
    "published_first_width",
    "published_widths",
    "solve_size",
    "taper",
]

STRIDES = (5, 4, 3, 2)
MAX_STAGES = 6
MAX_WIDTH = 4096
# What a grid n doublings away from the target is worth in padding: 0.004 n². More cells cost latents, fewer
# detail; padding costs time, and beyond 6 % it counts double.
PADDING_PER_SQUARED_DOUBLING = 0.004
FREE_PADDING = 0.06

TOLERANCE = 0.02
TOLERANCE_NUMBERS = 64
_CLOSE_ENOUGH = 0.001
_DIAL_LIMITS = (0.25, 4096.0)
_DIAL_STEPS = 18
_MAX_CLIMB = 400
_MAX_POLISH = 4


def taper(width: float, count: int, *, reduction: float, lower: float) -> tuple[int, ...]:
    """Return ``count`` widths that shrink by ``reduction`` from ``width``, rounded, within ``lower`` … 4096.

    Each width is rounded by itself, so that a rising ``width`` raises them one after another.
    """
    return tuple(
        min(max(round(max(width / reduction**number, lower)), 1), MAX_WIDTH) for number in range(count)
    )


@lru_cache(maxsize=512)
def choose_strides(
    height: int,
    width: int,
    *,
    target_grid: tuple[int, int] = (2, 4),
    grid_cost: float = PADDING_PER_SQUARED_DOUBLING,
) -> tuple[int, ...]:
    """Return falling strides out of 5, 4, 3, 2, the last one 2, for frames of any size.

    The product P of the strides fixes the padding (each side is rounded up to a multiple of P) and the latent
    grid (the padded frame divided by P). Chosen is the least sum of the share of padded pixels (twice what
    exceeds 6 %) and ``grid_cost`` · n², where the grid has 2ⁿ times or 2⁻ⁿ times the cells of
    ``target_grid``; then the fewest stages. 640×1280 gives 5, 4, 4, 2, 2 as in HNeRV.
    """
    target_cells = math.prod(target_grid)

    def cost(strides: tuple[int, ...]) -> tuple[float, int, int]:
        multiple = math.prod(strides)
        cells = -(-height // multiple) * -(-width // multiple)
        padding = cells * multiple**2 / (height * width) - 1
        padding += max(padding - FREE_PADDING, 0)
        distance = math.log2(cells / target_cells) ** 2
        return round(padding + grid_cost * distance, 12), len(strides), -multiple

    return min(_stride_lists(), key=cost)


@lru_cache(maxsize=1)
def _stride_lists() -> list[tuple[int, ...]]:
    lists = (
        strides
        for count in range(1, MAX_STAGES + 1)
        for strides in combinations_with_replacement(STRIDES, count)
        if strides[-1] == 2
    )
    return list(lists)


def published_first_width(
    num_parameters: float,
    num_latents: int,
    *,
    strides: Sequence[int],
    kernels: Sequence[int],
    reduction: float,
    stem_inputs: int,
) -> int:
    """Return C0 as HNeRV's code solves it: the positive root of a·C0² + b·C0 = weights, rounded down.

    The rule leaves out biases, the head, rounding and the lowest width, so sizes miss by up to 10 %.
    ``stem_inputs`` is b: 9 · d for HNeRV (whose stem has 1, not 9, positions), and encoding length · h0 · w0
    for NeRV.
    """
    a = sum(
        reduction ** (-2 * stage) * stride**2 * kernel**2
        for stage, (stride, kernel) in enumerate(zip(strides, kernels, strict=True))
    )
    a /= reduction
    return int((-stem_inputs + math.sqrt(stem_inputs**2 + 4 * a * (num_parameters - num_latents))) / (2 * a))


def published_widths(first: int, num_stages: int, *, reduction: float, lower: int) -> tuple[int, ...]:
    """Return C0 … Cn as HNeRV's code does: each the one before divided, rounded half to even, ≥ ``lower``."""
    widths = [first]
    for _ in range(num_stages):
        widths.append(max(round(widths[-1] / reduction), lower))
    return tuple(widths)


class _MetaLatents:
    """Latents without values, of the right shapes."""

    def __init__(self, model: VideoModel) -> None:
        self.shapes = model.per_frame_shapes()

    def read(self, index_N: Tensor) -> Latents:
        """Return empty latents for as many frames."""
        return Latents(
            {name: torch.empty(len(index_N), *shape, device="meta") for name, shape in self.shapes.items()}
        )


def count_macs(model_class: type[VideoModel], config: ModelConfig, video: VideoSpec) -> int:
    """Return the multiply-accumulates of decoding one frame, padding included; nothing is computed."""
    model = model_class.on_meta(config, video)
    if isinstance(model, HybridModel):
        model.attach_latents(_MetaLatents(model))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(Query.of_frames(torch.zeros(1, dtype=torch.int64)))
    return int(counter.get_total_flops()) // 2


@dataclass(frozen=True)
class ModelSize:
    """Size and cost of a model, in numbers and multiply-accumulates.

    ``stored``: all that a file holds, ``latents`` of them per-frame; ``encoder``: used while fitting only;
    ``macs``: for one decoded frame, ``macs_per_pixel``: the same divided by the frame's pixels.
    """

    stored: int
    latents: int
    encoder: int
    macs: int
    macs_per_pixel: float


def describe_size(model_class: type[VideoModel], config: ModelConfig, video: VideoSpec) -> ModelSize:
    """Return size and cost of a model for ``video``, found without memory for its values."""
    model = model_class.on_meta(config, video, with_encoder=True)
    per_frame = sum(math.prod(shape) for shape in model.per_frame_shapes().values())
    encoder = sum(value.numel() for name, value in model.named_parameters() if name.startswith("encoder."))
    macs = count_macs(model_class, config, video)
    return ModelSize(
        stored=model.num_stored(),
        latents=per_frame * video.num_frames,
        encoder=encoder,
        macs=macs,
        macs_per_pixel=macs / (video.height * video.width),
    )


def solve_size(
    model_class: type[VideoModel], video: VideoSpec, num_parameters: int, settings: Mapping[str, Any]
) -> ModelConfig:
    """Return the configuration whose stored total (head and latents included) is nearest ``num_parameters``.

    ``settings`` (names and plain values of the model's configuration) are kept as they are. First the width
    dial of :meth:`VideoModel.configure` is turned to the largest total that does not exceed the target, then
    the fields named in ``size_fields`` are changed by ones.

    Raises
    ------
    UsageError
        If the target lies below the smallest size or above the largest, or nothing within 2 % (or 64 numbers)
        of it exists, or a setting is unknown or not allowed.
    """
    settings = _checked(model_class.Config, settings)
    counted: dict[ModelConfig, int] = {}

    def count(config: ModelConfig) -> int:
        if config not in counted:
            counted[config] = model_class.on_meta(config, video).num_stored()
        return counted[config]

    try:
        below = _turn_dial(model_class, video, num_parameters, settings, count)
    except ValidationError as error:
        raise UsageError(f"architecture: {error.errors()[0]['msg']}") from None
    free = [name for name in model_class.Config.size_fields if name not in settings]
    best = _adjust(below, free, num_parameters, count)
    total = count(best)
    if abs(total - num_parameters) > max(TOLERANCE * num_parameters, TOLERANCE_NUMBERS):
        raise UsageError(
            f"no {model_class.__name__} with these settings has {num_parameters:,} numbers; the nearest has "
            f"{total:,}; ask for that, or leave widths open"
        )
    return best


def _checked(config_class: type[ModelConfig], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``settings`` converted to the types of their fields, each checked by itself."""
    checked: dict[str, Any] = {}
    for name, value in settings.items():
        field = config_class.model_fields.get(name)
        if field is None:
            known = ", ".join(config_class.model_fields)
            raise UsageError(f"architecture.{name}: no such setting; there are {known}")
        field_type: Any = Annotated[field.annotation, field]
        try:
            checked[name] = TypeAdapter(field_type).validate_python(value)
        except ValidationError as error:
            raise UsageError(f"architecture.{name}: {error.errors()[0]['msg']} (got {value!r})") from None
    return checked


def _turn_dial(
    model_class: type[VideoModel],
    video: VideoSpec,
    target: int,
    settings: Mapping[str, Any],
    count: Callable[[ModelConfig], int],
) -> ModelConfig:
    low, high = (math.log(limit) for limit in _DIAL_LIMITS)
    below, above = (model_class.configure(video, width=limit, settings=settings) for limit in _DIAL_LIMITS)
    where = f"{model_class.__name__} for {video.num_frames} frames of {video.height}×{video.width}"
    if target < (1 - TOLERANCE) * count(below):
        raise UsageError(
            f"{target:,} numbers are too few: the smallest {where} stores {count(below):,}; ask for at least "
            f"that, or shrink or shorten the video"
        )
    if target > (1 + TOLERANCE) * count(above):
        raise UsageError(f"{target:,} numbers are too many: the largest {where} stores {count(above):,}")
    for _ in range(_DIAL_STEPS):
        middle = (low + high) / 2
        config = model_class.configure(video, width=math.exp(middle), settings=settings)
        if count(config) <= target:
            low, below = middle, config
        else:
            high = middle
    return below


def _adjust(
    config: ModelConfig, free: Sequence[str], target: int, count: Callable[[ModelConfig], int]
) -> ModelConfig:
    """Climb from below ``target`` by the largest steps that fit, then try single steps and pairs nearby."""

    def miss(candidate: ModelConfig) -> int:
        return abs(count(candidate) - target)

    for _ in range(_MAX_CLIMB):
        fitting = [step for step in _steps(config, free) if count(config) < count(step) <= target]
        if not fitting:
            break
        config = max(fitting, key=count)
    for _ in range(_MAX_POLISH):
        if miss(config) <= _CLOSE_ENOUGH * target:
            break
        singles = list(_steps(config, free))
        pairs = (pair for single in singles for pair in _steps(single, free))
        best = min([config, *singles, *pairs], key=miss)
        if best is config:
            break
        config = best
    return config


def _steps(config: ModelConfig, free: Sequence[str]) -> Iterator[ModelConfig]:
    """Yield the allowed configurations that differ by one in one number of the ``free`` settings."""
    values = config.model_dump()
    for name in free:
        value = values[name]
        for change in (1, -1):
            if isinstance(value, int):
                changed: list[Any] = [value + change]
            else:
                changed = [
                    (*value[:place], value[place] + change, *value[place + 1 :])
                    for place in range(len(value))
                ]
            for item in changed:
                try:
                    yield type(config).model_validate({**values, name: item})
                except ValidationError:
                    continue  # a width of 0, or a combination that the model refuses
