from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pytorch_msssim import ssim
from torch import Tensor

from golden_tensors import DTYPES, Golden, record_outputs
from model_checks import (
    check_gradients,
    check_patches_are_refused,
    check_refused,
    check_stages,
    frame_macs,
    golden_settings,
    golden_video,
    preset_on_meta,
    published_first_width,
    published_widths,
)
from vinr.errors import UsageError
from vinr.models.nerv import NeRV, NeRVConfig
from vinr.video.spec import Query, VideoSpec


def own_name(name: str) -> str:
    """Return our name of a golden weight: layers count from 0, in the stem every other one is linear."""
    name = re.sub(r"stem\.linear(\d+)", lambda m: f"stem.{2 * int(m[1]) - 2}", name)
    name = re.sub(r"decoder\.stage(\d+)", lambda m: f"blocks.{int(m[1]) - 1}", name)
    return name.replace("decoder.stem.conv", "stem.0").replace("head.conv", "head")


def build(golden: Golden, dtype: torch.dtype, **settings: object) -> NeRV:
    same = ("strides", "base", "levels", "stem_height", "stem_width", "activation", "output")
    config = NeRVConfig(**golden_settings(golden, *same), head_kernel=golden.kernel("head.conv"), **settings)
    model = NeRV(config, golden_video(golden))
    weights = {own_name(name): value for name, value in golden.below("weight").items()}
    # A 1×1 convolution on one pixel is a linear layer.
    weights["stem.0.weight"] = weights["stem.0.weight"].flatten(1)
    model.load_state_dict(weights)
    return model.to(dtype)


def original(dtype: torch.dtype) -> tuple[Golden, NeRV]:
    golden = Golden("nerv")
    given = golden.config
    widths = [given["stem_channels"], int(given["stem_channels"] * given["expansion"])]
    for stride in given["strides"][1:]:
        reduced = widths[-1] // given["reduction"] if stride > 1 else widths[-1]
        widths.append(max(reduced, given["lower_width"]))
    settings = {"stem_widths": [given["stem_hidden"]], "encoding_order": "interleaved"}
    return golden, build(golden, dtype, widths=widths, **settings)


def baseline(dtype: torch.dtype) -> tuple[Golden, NeRV]:
    golden = Golden("nerv_baseline")
    return golden, build(golden, dtype, widths=golden.config["widths"])


Builder = Callable[[torch.dtype], tuple[Golden, NeRV]]
BUILDERS = pytest.mark.parametrize("make", [original, baseline])


@BUILDERS
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_stage_matches(make: Builder, dtype: torch.dtype) -> None:
    golden, model = make(dtype)
    seen = record_outputs(
        {f"decoder.stage{n}": block for n, block in enumerate(model.blocks, 1)} | {"head": model.head}
        | {"stem": model.stem}
    )  # fmt: skip
    index_N = golden["input/frame_index"]
    frames = model(Query.of_frames(index_N))
    stem_name = "stem" if "stage/stem" in golden.tensors else "decoder.stem"
    seen[stem_name] = seen.pop("stem").view(golden[f"stage/{stem_name}"].shape)
    encoded = model.encoding(index_N).to(dtype)
    seen["position_encoding"] = encoded.view(golden["stage/position_encoding"].shape)
    check_stages(golden, seen)
    golden.check("output/frames", frames)


def fusion6(prediction: Tensor, target: Tensor) -> Tensor:
    # pytorch_msssim makes its window in float32 whatever the images' precision, as the references do.
    return 0.7 * F.l1_loss(prediction, target) + 0.3 * (1 - ssim(prediction, target, data_range=1))


@pytest.mark.parametrize(("make", "loss_name"), [(original, "fusion6"), (baseline, "l2")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_training_step_matches(make: Builder, loss_name: str, dtype: torch.dtype) -> None:
    golden, model = make(dtype)
    given = golden.config
    index_N = torch.tensor(given["train_frames"] if "train_frames" in given else [given["train_frame"]])
    frames = golden["input/training_step.frames"].to(dtype)
    loss = {"fusion6": fusion6, "l2": F.mse_loss}[loss_name](model(Query.of_frames(index_N)), frames)
    loss.backward()
    golden.check(f"loss/{loss_name}", loss)
    check_gradients(golden, model, own_name)


# Original, README sizes: weights and biases of stem, five blocks, head; then the total.
LAYERS = {
    "s": [
        (40_960, 512), (1_916_928, 3_744), (152_100, 650), (89_856, 384),
        (331_776, 384), (331_776, 384), (331_776, 384), (288, 3), 3_201_905,
    ],
    "m": [
        (40_960, 512), (4_276_224, 8_352), (756_900, 1_450), (200_448, 384),
        (331_776, 384), (331_776, 384), (331_776, 384), (288, 3), 6_282_001,
    ],
    "l": [
        (40_960, 512), (8_257_536, 16_128), (2_822_400, 2_800), (387_072, 384),
        (331_776, 384), (331_776, 384), (331_776, 384), (288, 3), 12_524_563,
    ],
}  # fmt: skip


@pytest.mark.parametrize("size", LAYERS)
def test_layers_of_the_original_sizes(size: str) -> None:
    model = preset_on_meta(f"nerv-{size}")
    layers = [model.stem[0], model.stem[2], *(block.conv for block in model.blocks), model.head]
    counts = [(layer.weight.numel(), layer.bias.numel()) for layer in layers]
    assert [*counts, model.num_stored()] == LAYERS[size]
    assert model.stem_grid == (9, 16)


@pytest.mark.parametrize(("size", "gmacs"), [("s", 100.94), ("m", 101.43), ("l", 102.40)])
def test_macs_of_the_original_sizes(size: str, gmacs: float) -> None:
    assert frame_macs(preset_on_meta(f"nerv-{size}"))["Global"] / 1e9 == pytest.approx(gmacs, abs=5e-3)


def test_macs_of_each_layer() -> None:
    macs = frame_macs(preset_on_meta("nerv-s"))
    assert macs["NeRV.stem"] / 1e6 == pytest.approx(1.96, abs=5e-3)
    each = [macs[f"NeRV.blocks.{n}"] / 1e9 for n in range(5)]
    assert each == pytest.approx([0.0219, 0.3235, 4.778, 19.11, 76.44], rel=1e-3)
    assert macs["NeRV.head"] / 1e9 == pytest.approx(0.265, abs=5e-4)


# Baseline of HNeRV: size dial in millions, widths, stem + blocks, GMAC a frame.
BASELINES = [
    ("0.35m-bunny", 0.35, (15, 12, 12, 12, 12), 381_312, 1.66),
    ("0.75m-bunny", 0.75, (30, 15, 12, 12, 12), 756_441, 1.69),
    ("1.5m-bunny", 1.5, (54, 27, 14, 12, 12), 1_507_541, 1.85),
    ("3m-bunny", 3.0, (91, 46, 23, 12, 12), 2_986_264, 2.45),
]


@pytest.mark.parametrize(("size", "dial", "widths", "without_head", "gmacs"), BASELINES)
def test_baseline_sizes(
    size: str, dial: float, widths: tuple[int, ...], without_head: int, gmacs: float
) -> None:
    model = preset_on_meta(f"nerv-{size}")
    assert model.config.widths == widths
    assert model.num_stored() == without_head + 327
    assert model.stem_grid == (8, 16)
    assert frame_macs(model)["Global"] / 1e9 == pytest.approx(gmacs, abs=5e-3)
    first = published_first_width(
        dial * 1e6, 0, strides=(5, 4, 2, 2), kernels=(3,) * 4, reduction=2, stem_inputs=160 * 128
    )
    assert published_widths(first, 4, reduction=2, lower=12) == widths


def test_other_published_sizes() -> None:
    assert preset_on_meta("nerv-c-12.5m").num_stored() == 12_565_523
    millions = {"24m-uvg": 24.36, "36m-uvg": 36.46, "59m-uvg": 59.05, "88m-uvg": 87.72, "190m-uvg": 190.16}
    for size, expected in millions.items():
        assert round(preset_on_meta(f"nerv-{size}").num_stored() / 1e6, 2) == expected


def test_times_between_frames_give_frames_of_their_own() -> None:
    config = NeRVConfig(strides=(2,), widths=(4, 4))
    model = NeRV(config, VideoSpec(10, 8, 8)).double()
    time_N = torch.tensor([3.0, 3.5, 4.0], dtype=torch.float64)
    zeros_N = torch.zeros(3, dtype=torch.int64)
    frames = model(Query(time_N, zeros_N, zeros_N))
    assert not torch.allclose(frames[1], frames[0])
    assert not torch.allclose(frames[1], frames[2])


def test_a_stem_grid_that_does_not_cover_the_frame_is_refused() -> None:
    config = NeRVConfig(strides=(2, 2), widths=(4, 4, 4), stem_height=2, stem_width=2)
    with pytest.raises(UsageError, match=r"too small for 12×8 pixels, which need 3×2"):
        NeRV(config, VideoSpec(1, 12, 8))


def test_a_larger_stem_grid_is_cropped() -> None:
    config = NeRVConfig(strides=(2, 2), widths=(4, 4, 4), stem_height=4, stem_width=4)
    model = NeRV(config, VideoSpec(1, 12, 9))
    assert model.coded_size() == (16, 16)
    assert model(Query.of_frames(torch.tensor([0]))).shape == (1, 3, 12, 9)


def test_patches_are_refused() -> None:
    check_patches_are_refused(NeRV(NeRVConfig(strides=(2,), widths=(4, 4)), VideoSpec(1, 8, 8)))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"widths": (4, 4)}, "2 strides need 3 widths"),
        ({"levels": 300}, "256"),
        ({"base": 4.0}, "exceeds 1e30"),
        ({"stem_widths": (8,) * 5}, "at most 4"),
        ({"head_kernel": 2}, "odd"),
        ({"stem_height": 1000}, "512"),
    ],
)
def test_configurations_that_are_refused(change: dict[str, Any], complaint: str) -> None:
    check_refused(NeRVConfig, change, complaint)
