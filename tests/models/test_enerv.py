from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from golden_tensors import DTYPES, Golden, record_outputs
from model_checks import (
    ANY_SIZES,
    check_patches_are_refused,
    check_refused,
    check_solved,
    check_stages,
    golden_settings,
    golden_video,
    preset_on_meta,
)
from vinr.errors import UsageError
from vinr.models.enerv import ENeRV, ENeRVConfig
from vinr.models.layers.modulation import InstanceModulation
from vinr.video.spec import Query, VideoSpec


def own_name(name: str) -> str:
    """Return our name of a golden weight: layers count from 0, in a chain every other one is linear."""
    name = re.sub(r"transformer(\d)", lambda m: f"transformers.{int(m[1]) - 1}", name)
    name = re.sub(r"decoder\.stage(\d+)\.conv", lambda m: f"decoder.stages.{int(m[1]) - 1}.block.conv", name)
    name = re.sub(r"decoder\.stage(\d+)", lambda m: f"decoder.stages.{int(m[1]) - 1}", name)
    name = name.replace(".modulation.linear1", ".modulation.linear").replace("feed_forward.", "")
    name = name.replace("time_modulation", "time_condition").replace("to_conv", "to_channels")
    chain = r"(time_content|time_condition|spatial_tokens|to_channels)\.linear(\d)"
    name = re.sub(chain, lambda m: f"{m[1]}.{2 * int(m[2]) - 2}", name)
    return name.replace("head.conv", "decoder.head")


def build(golden: Golden, dtype: torch.dtype) -> ENeRV:
    same = (
        "strides",
        "widths",
        "token_width",
        "feed_forward_width",
        "heads",
        "head_channels",
        "base",
        "levels",
    )
    same += ("stem_height", "stem_width", "activation", "output")
    settings = golden_settings(golden, *same, content_width="time_hidden", condition_width="modulation_width")
    model = ENeRV(ENeRVConfig(**settings), golden_video(golden))
    model.load_state_dict({own_name(name): value for name, value in golden.below("weight").items()})
    return model.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_stage_matches(dtype: torch.dtype) -> None:
    golden = Golden("enerv")
    model = build(golden, dtype)
    stages = model.decoder.stages
    seen = record_outputs(
        {f"decoder.stage{n + 1}": stage for n, stage in enumerate(stages)}
        | {f"decoder.stage{n + 1}.modulated_input": stage.modulation for n, stage in enumerate(stages)}
        | {f"transformer{n + 1}": transformer for n, transformer in enumerate(model.transformers)}
        | {
            "head": model.decoder.head,
            "spatial_tokens": model.spatial_tokens,
            "time_content": model.time_content,
            "time_modulation": model.time_condition,
            "to_conv": model.to_channels,
        }
    )
    index_N = golden["input/frame_index"]
    frames = model(Query.of_frames(index_N))
    seen["spatial_tokens"] = seen["spatial_tokens"][0]
    seen["position_encoding"] = model.encoding(index_N).to(dtype)
    seen["grid_encoding"] = model.grid_encoding.like(model.decoder.head.weight)
    check_stages(golden, seen)
    golden.check("output/frames", frames)


def counts(module: nn.Module) -> list[int]:
    return [value.numel() for value in module.parameters()]


def test_parameters_of_the_published_network() -> None:
    model = preset_on_meta("enerv-12.5m")
    assert counts(model.time_content) == [81_920, 512, 131_072, 256]
    assert counts(model.spatial_tokens) == [81_920, 256]
    feed_forward = [32_768, 128, 32_768, 256]
    assert counts(model.transformers[0]) == [49_152, 16_384, 256, *feed_forward]
    assert counts(model.transformers[1]) == [393_216, 131_072, 256, *feed_forward]
    assert counts(model.to_channels) == [50_176, 196]
    assert counts(model.time_condition) == [20_480, 128, 16_384, 128]
    assert [counts(stage.block) for stage in model.decoder.stages] == [
        [2_160_900, 1_225, 259_308, 588],
        [6_223_392, 1_176],
        [1_555_848, 588],
        [508_032, 384],
        [331_776, 384],
    ]
    assert [counts(stage.modulation) for stage in model.decoder.stages] == [
        [50_176, 392], [150_528, 1_176], [75_264, 588], [37_632, 294], [24_576, 192],
    ]  # fmt: skip
    assert counts(model.decoder.head) == [288, 3]
    # The published total counts the coordinates of the 9×16 cells, which we compute and do not store.
    coordinates = 2 * 9 * 16
    assert model.stem_grid == (9, 16)
    assert model.num_stored() + coordinates == 12_490_602


def test_macs_of_each_part() -> None:
    model = preset_on_meta("enerv-12.5m")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(Query.of_frames(torch.tensor([0])))
    found = counter.get_flop_counts()
    macs = {name: sum(ops.values()) / 2e9 for name, ops in found.items()}
    each = [macs[f"ENeRV.decoder.stages.{number}.block"] for number in range(5)]
    assert each == pytest.approx([0.311 + 0.934, 22.40, 22.40, 29.26, 76.44], rel=5e-4)
    assert macs["ENeRV.decoder.head"] == pytest.approx(0.265, abs=5e-4)
    # The published figure counts convolutions and linear layers; products of queries and keys come on top.
    products = {torch.ops.aten.addmm, torch.ops.aten.mm, torch.ops.aten.convolution}
    layers = sum(count for operation, count in found["Global"].items() if operation in products)
    assert layers / 2e9 == pytest.approx(152.15, abs=5e-3)
    assert macs["Global"] - layers / 2e9 == pytest.approx(144**2 * 2 * (64 + 512) / 1e9)


def test_shares_at_three_million_are_those_published() -> None:
    model = preset_on_meta("enerv-3m-960x1920")
    assert round(model.num_stored() / 1e6, 2) == 2.99
    assert model.stem_grid == (8, 16)
    blocks = sum(sum(counts(stage.block)) for stage in model.decoder.stages)
    assert blocks / model.num_stored() == pytest.approx(0.884, abs=0.015)
    assert sum(counts(model.transformers)) / model.num_stored() == pytest.approx(0.058, abs=0.01)


def test_tokens_of_the_first_grids_width_need_no_layer() -> None:
    config = ENeRVConfig(strides=(2, 2), widths=(8, 8, 4), token_width=8)
    model = ENeRV(config, VideoSpec(2, 16, 16))
    assert counts(model.to_channels) == []
    assert model(Query.of_frames(torch.arange(2))).shape == (2, 3, 16, 16)


def test_first_stage_towards_fewer_channels() -> None:
    model = ENeRV(ENeRVConfig(strides=(3, 2), widths=(12, 8, 4)), VideoSpec(2, 18, 24))
    block = model.decoder.stages[0].block
    assert block.conv1.weight.shape == (8, 12, 3, 3)
    assert block.conv2.weight.shape == (8 * 9, 8, 3, 3)
    assert block(torch.zeros(1, 12, 3, 4)).shape == (1, 8, 9, 12)
    assert model(Query.of_frames(torch.arange(2))).shape == (2, 3, 18, 24)


def test_grid_encodings_do_not_lose_precision() -> None:
    model = ENeRV(ENeRVConfig(strides=(2,), widths=(4, 4)), VideoSpec(2, 6, 8))
    weight = model.decoder.head.weight
    exact = model.grid_encoding.like(weight.double())
    model.bfloat16()
    assert model.grid_encoding.like(weight).dtype == torch.bfloat16
    assert torch.equal(model.double().grid_encoding.like(weight), exact)
    assert exact.shape == (12, 320)
    assert torch.equal(exact[5, :160], exact[4, :160])
    assert torch.equal(exact[5, 160:], exact[1, 160:])
    assert exact[5, 160] == pytest.approx(torch.sin(torch.tensor(torch.pi / 4)).item())


def test_published_roundings_reach_the_grid_too() -> None:
    exact, rounded = (
        ENeRV(ENeRVConfig(strides=(2,), widths=(4, 4), encoding_precision=name), VideoSpec(3, 6, 8))
        for name in ("exact", "float32")
    )
    weight = exact.decoder.head.weight.double()
    difference_PF = exact.grid_encoding.like(weight) - rounded.grid_encoding.like(weight)
    assert difference_PF[:, :40].abs().max() < 1e-4
    assert difference_PF[4, 140:160].abs().max() > 0.1
    time_NF = exact.encoding(torch.tensor([1])) - rounded.encoding(torch.tensor([1]))
    assert time_NF.abs().max() > 0.1


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_modulation_is_instance_normalisation(layout: torch.memory_format) -> None:
    layer = InstanceModulation(6, 5).double()
    feature_NCHW = torch.randn(3, 5, 4, 7, dtype=torch.float64).to(memory_format=layout)
    condition_NF = torch.randn(3, 6, dtype=torch.float64)
    gain_NC, shift_NC = F.gelu(layer.linear(condition_NF)).chunk(2, dim=1)
    expected = F.instance_norm(feature_NCHW) * gain_NC[..., None, None] + shift_NC[..., None, None]
    assert torch.allclose(layer(feature_NCHW, condition_NF), expected, atol=1e-12)


def test_modulation_of_a_single_pixel_is_its_shift() -> None:
    layer = InstanceModulation(6, 5, activation=None, gain="1+gamma")
    torch.nn.init.normal_(layer.linear.bias)
    out_NCHW = layer(torch.randn(2, 5, 1, 1), torch.zeros(2, 6))
    assert torch.equal(out_NCHW[1, :, 0, 0], layer.linear.bias[5:])


def test_modulation_around_one_starts_as_plain_normalisation() -> None:
    layer = InstanceModulation(6, 5, activation=None, gain="1+gamma")
    feature_NCHW = torch.randn(2, 5, 4, 7)
    assert torch.allclose(layer(feature_NCHW, torch.zeros(2, 6)), F.instance_norm(feature_NCHW), atol=1e-6)
    assert 0 < layer.linear.weight.abs().max() < 0.15


def test_modulation_keeps_the_type_under_mixed_precision() -> None:
    layer = InstanceModulation(6, 5)
    feature_NCHW = torch.randn(2, 5, 4, 7, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = layer(feature_NCHW, torch.ones(2, 6))
    assert mixed.dtype == torch.bfloat16
    assert (mixed.float() - layer(feature_NCHW.float(), torch.ones(2, 6))).abs().max() < 0.05


def test_one_cell_is_enough() -> None:
    model = ENeRV(ENeRVConfig(strides=(2, 2), widths=(4, 4, 4)), VideoSpec(1, 4, 3))
    assert bool(model(Query.of_frames(torch.tensor([0]))).isfinite().all())


def test_grids_that_do_not_fit_are_refused() -> None:
    config = ENeRVConfig(strides=(2, 2), widths=(4, 4, 4), stem_height=2, stem_width=2)
    with pytest.raises(UsageError, match="too small for 12×8 pixels, which need 3×2"):
        ENeRV(config, VideoSpec(1, 12, 8))
    with pytest.raises(UsageError, match="50×100 has more than 4096 cells"):
        ENeRV(ENeRVConfig(strides=(2,), widths=(4, 4)), VideoSpec(1, 100, 200))


def test_patches_are_refused() -> None:
    check_patches_are_refused(ENeRV(ENeRVConfig(strides=(2,), widths=(4, 4)), VideoSpec(1, 8, 8)))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"widths": (4, 4)}, "2 strides need 3 widths"),
        ({"heads": (1, 8, 8)}, "heads"),
        ({"heads": (1, 0)}, "greater than or equal to 1"),
        ({"head_channels": 5000}, "512"),
        ({"base": 4.0}, "exceeds 1e30"),
        ({"stem_height": 1000}, "512"),
        ({"kernel": 3}, "kernel"),
    ],
)
def test_configurations_that_are_refused(change: dict[str, Any], complaint: str) -> None:
    check_refused(ENeRVConfig, change, complaint)


@ANY_SIZES
def test_any_size_is_solved(height: int, width: int, num_parameters: int) -> None:
    check_solved(ENeRV, VideoSpec(60, height, width), num_parameters, tolerance=0.01)
