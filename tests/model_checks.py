"""What the tests of several models set up or assert alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from golden_tensors import Golden
from vinr.config import load_preset
from vinr.models import ModelConfig, VideoModel, get_model, validate_architecture
from vinr.models.cost import describe_size
from vinr.sizing.solve import solve_size
from vinr.video.spec import FrameSource, PatchGrid, Query, VideoSpec

TWO_STAGES = {"strides": (2, 2), "widths": (4, 4, 4)}

# From 90×51 to 1080p, with what about the smallest and the largest published networks store.
ANY_SIZES = pytest.mark.parametrize(
    ("height", "width", "num_parameters"),
    [
        (640, 1280, 30_000),
        (406, 720, 12_500_000),
        pytest.param(1080, 1920, 3_000_000, marks=pytest.mark.slow),
        pytest.param(90, 51, 5_000, marks=pytest.mark.slow),
    ],
)


# -- models --------------------------------------------------------------------------------------------------


def preset_on_meta(name: str, video: VideoSpec | None = None) -> Any:
    """Return the model of a preset without memory for its values, for ``video`` or the paper's."""
    preset = load_preset(name)
    if video is None:
        video = VideoSpec(preset.paper.num_frames, preset.paper.height, preset.paper.width)
    model_class = get_model(preset.model)
    return model_class.on_meta(validate_architecture(model_class, preset.architecture), video)


def preset_model(name: str, video: VideoSpec) -> Any:
    """Return the model of a preset, with values."""
    preset = load_preset(name)
    model_class = get_model(preset.model)
    return model_class(validate_architecture(model_class, preset.architecture), video)


def count(module: nn.Module) -> int:
    """Return how many numbers ``module`` holds."""
    return sum(value.numel() for value in module.parameters())


def frame_macs(model: VideoModel) -> dict[str, int]:
    """Return the multiply-accumulates of one frame by module name; all of them under ``Global``."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(Query.of_frames(torch.tensor([0])))
    return {name: sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()}


# -- golden tensors ------------------------------------------------------------------------------------------


def golden_video(golden: Golden) -> VideoSpec:
    """Return frames and size of the video that golden tensors were made with."""
    return VideoSpec(golden.config["num_frames"], golden.config["height"], golden.config["width"])


def golden_settings(golden: Golden, *names: str, **renamed: str) -> dict[str, Any]:
    """Return settings of a golden network: those of the same name, and ours under theirs of another name."""
    given = golden.config
    return {name: given[name] for name in names} | {own: given[theirs] for own, theirs in renamed.items()}


def check_stages(golden: Golden, seen: Mapping[str, Tensor]) -> None:
    """Assert that ``seen`` holds every golden stage and no other, with the golden values."""
    assert {f"stage/{name}" for name in seen} == {
        name for name in golden.tensors if name.startswith("stage/")
    }
    for name, value in seen.items():
        golden.check(f"stage/{name}", value)


def check_gradients(golden: Golden, model: VideoModel, own_name: Callable[[str], str]) -> None:
    """Assert that every parameter has a golden gradient norm, and those kept whole the golden gradient."""
    gradients = {name: value.grad for name, value in model.named_parameters()}
    norms = golden.below("gradient_norm")
    assert {own_name(name) for name in norms} == gradients.keys()
    for name in norms:
        golden.check(f"gradient_norm/{name}", gradients[own_name(name)].norm())
    for name in golden.below("gradient"):
        golden.check(f"gradient/{name}", gradients[own_name(name)])


# -- sizes ---------------------------------------------------------------------------------------------------


def check_solved(
    model_class: type[VideoModel],
    video: VideoSpec,
    num_parameters: int,
    *,
    tolerance: float,
    settings: Mapping[str, Any] | None = None,
) -> Any:
    """Assert that a size is met within the share ``tolerance``, and return the model."""
    config = solve_size(model_class, video, num_parameters, settings or {})
    model = model_class.on_meta(config, video)
    assert abs(model.num_stored() / num_parameters - 1) <= tolerance
    return model


def smallest_size(model_class: type[VideoModel], video: VideoSpec) -> int:
    """Return what the smallest network for ``video`` stores."""
    config = model_class.configure(video, width=0.25, settings={})
    return model_class.on_meta(config, video).num_stored()


def check_latent_share(model_class: type[VideoModel], video: VideoSpec, *, width: float) -> Any:
    """Assert that embeddings are kept within about 35 % of what is stored; return the configuration."""
    config = model_class.configure(video, width=width, settings={})
    size = describe_size(model_class, config, video)
    assert size.latents <= 0.36 * size.stored
    return config


# -- sizes as HNeRV's code chooses them ----------------------------------------------------------------------


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
    a = 0.0
    for stage, (stride, kernel) in enumerate(zip(strides, kernels, strict=True)):
        # Both channel counts of a stage shrink: C0/r^i inputs times C0/r^(i+1) outputs of s² · k² weights.
        a += reduction ** (-2 * stage - 1) * stride**2 * kernel**2
    return int((-stem_inputs + math.sqrt(stem_inputs**2 + 4 * a * (num_parameters - num_latents))) / (2 * a))


def published_widths(first: int, num_stages: int, *, reduction: float, lower: int) -> tuple[int, ...]:
    """Return C0 … Cn as HNeRV's code does: each the one before divided, rounded half to even, ≥ ``lower``."""
    widths = [first]
    for _ in range(num_stages):
        widths.append(max(round(widths[-1] / reduction), lower))
    return tuple(widths)


# -- what is refused -----------------------------------------------------------------------------------------


def check_refused(
    config_class: type[ModelConfig],
    change: Mapping[str, Any],
    complaint: str,
    good: Mapping[str, Any] = TWO_STAGES,
) -> None:
    """Assert that ``good`` is a configuration and, with ``change``, none, for the reason ``complaint``."""
    config_class.model_validate(good)
    with pytest.raises(ValidationError, match=complaint):
        config_class.model_validate({**good, **change})


def check_patches_are_refused(model: VideoModel, source: FrameSource | None = None) -> None:
    """Assert that the model decodes whole frames only."""
    zero_N = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match="whole frames only"):
        model(Query(zero_N.double(), zero_N, zero_N, PatchGrid(2, 2)), source)
