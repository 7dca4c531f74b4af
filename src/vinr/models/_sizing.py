"""From a wanted size to an architecture, and from an architecture to its size and cost.

::

    frame size ──> choose_strides ──┐
    wanted numbers ──> width dial ──┴─> configure ──> count without memory ──> dial again, then a few steps
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement
from typing import Annotated, Any

import torch
from pydantic import TypeAdapter, ValidationError

from vinr.errors import UsageError
from vinr.models._base import HybridModel, ModelConfig, VideoModel
from vinr.video.spec import Query, VideoSpec

STRIDES = (5, 4, 3, 2)
MAX_STAGES = 6
# What models accept at most: the product of the strides, and the cells of the first grid.
MAX_MULTIPLE = 1024
MAX_CELLS = 4096
MAX_WIDTH = 4096
# No model decodes more frames together.
MOST_TOGETHER = 32
# What a grid n doublings away from the target is worth in padding: 0.004 n². More cells cost latents, fewer
# detail; padding costs time, and beyond 6 % it counts double.
PADDING_PER_SQUARED_DOUBLING = 0.004
FREE_PADDING = 0.06


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
    ``target_grid``; then the fewest stages. P is at most 1024, and the grid has at most 4096 cells, or as few
    as there can be. 640×1280 gives 5, 4, 4, 2, 2 as in HNeRV.
    """
    target_cells = math.prod(target_grid)

    def cost(strides: tuple[int, ...]) -> tuple[int, float, int, int]:
        multiple = math.prod(strides)
        cells = -(-height // multiple) * -(-width // multiple)
        padding = cells * multiple**2 / (height * width) - 1
        padding += max(padding - FREE_PADDING, 0)
        distance = math.log2(cells / target_cells) ** 2
        return max(cells - MAX_CELLS, 0), round(padding + grid_cost * distance, 12), len(strides), -multiple

    return min(_stride_lists(), key=cost)


@lru_cache(maxsize=1)
def _stride_lists() -> list[tuple[int, ...]]:
    lists = (
        strides
        for count in range(1, MAX_STAGES + 1)
        for strides in combinations_with_replacement(STRIDES, count)
        if strides[-1] == 2 and math.prod(strides) <= MAX_MULTIPLE
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


def count_macs(model_class: type[VideoModel], config: ModelConfig, video: VideoSpec) -> int:
    """Return the multiply-accumulates of decoding one frame, padding included; nothing is computed."""
    return _count_macs(model_class.on_meta(config, video))


def _count_macs(model: VideoModel) -> int:
    from vinr.models._meta import MacCounter, MetaLatents  # they need what this module gives to models

    if isinstance(model, HybridModel):
        model.attach_latents(MetaLatents(model))
    # Frames that are decoded together share the cost: it is that of a frame when all come in order.
    group_N = model.group_of(torch.arange(min(model.video.num_frames, MOST_TOGETHER)))
    together_N = (group_N == group_N[0]).nonzero()[:, 0]
    counter = MacCounter()
    with torch.no_grad(), counter:
        model(Query.of_frames(together_N))
    return counter.macs // len(together_N)


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
    stored, macs = model.num_stored(), _count_macs(model)
    return ModelSize(
        stored=stored,
        latents=per_frame * video.num_frames,
        encoder=encoder,
        macs=macs,
        macs_per_pixel=macs / (video.height * video.width),
    )


def solve_size(
    model_class: type[VideoModel], video: VideoSpec, num_parameters: int, settings: Mapping[str, Any]
) -> ModelConfig:
    """Return a configuration whose stored total (head and latents included) is ``num_parameters``, or close.

    ``settings`` (names and plain values of the model's configuration) are kept as they are. First the width
    dial of :meth:`VideoModel.configure` is turned up to the target. Then numbers in the fields that
    ``size_fields`` names are changed, as little in relation to their size as brings the total within 0.1 %,
    and none by more than 2 unless nothing else comes within 2 %.

    Raises
    ------
    UsageError
        If the target lies below the smallest size or above the largest, or nothing within 2 % (or 64 numbers)
        of it exists, or a setting is unknown or not allowed.
    """
    from vinr.models._size_search import EFFORTS, SizeSearch  # decoding a file does without

    search = SizeSearch(model_class, video, num_parameters, _checked(model_class.Config, settings))
    totals = []
    try:
        search.check_range()
        for effort in EFFORTS:
            for start in search.turn_dial():
                found = search.refine(start, effort)
                if search.is_allowed(found):
                    return found
                totals.append(search.count(found))
    except ValidationError as error:
        raise UsageError(f"architecture: {error.errors()[0]['msg']}") from None
    nearest = min(totals, key=lambda total: abs(total - num_parameters))
    raise UsageError(
        f"no {model_class.__name__} with these settings has {num_parameters:,} numbers; the nearest has "
        f"{nearest:,}; ask for that, or leave widths open"
    )


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
