"""NeRV-Boost, E-NeRV-Boost and HNeRV-Boost, which share one decoder."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clips import moving_shapes
from model_checks import (
    check_latent_share,
    check_patches_are_refused,
    check_refused,
    check_solved,
    count,
    preset_model,
    preset_on_meta,
    published_first_width,
    published_widths,
    smallest_size,
)
from vinr.config import load_preset
from vinr.errors import UsageError
from vinr.fit.losses import build_loss
from vinr.models import get_model, validate_architecture
from vinr.models.cost import describe_size
from vinr.models.enerv_boost import ENeRVBoost, ENeRVBoostConfig
from vinr.models.hnerv_boost import HNeRVBoost, HNeRVBoostConfig
from vinr.models.layers.conditional import SFTBlock
from vinr.models.nerv_boost import NeRVBoost, NeRVBoostConfig
from vinr.video.spec import Query, VideoSpec

BUNNY = VideoSpec(132, 720, 1280)
BOOSTED = pytest.mark.parametrize("name", ["enerv_boost", "hnerv_boost", "nerv_boost"])

# -- parameters ----------------------------------------------------------------------------------------------

# Of each block: the convolution(s) that upsample, and the SFT block.
HNERV_BLOCKS = {
    "0.75m-bunny": [
        (850, 55_924), (53_550, 41_604), (53_060, 30_964), (36_656, 23_248), (7_598, 23_248),
        (25_152, 17_808), (5_208, 17_808), (17_360, 14_104), (3_620, 14_104),
    ],
    "1.5m-bunny": [
        (1_462, 148_876), (156_600, 107_184), (155_760, 77_064), (108_200, 55_924), (22_550, 55_924),
        (75_768, 41_604), (15_918, 41_604), (53_060, 30_964), (11_060, 30_964),
    ],
    "3m-bunny": [
        (2_278, 345_388), (378_000, 245_024), (375_348, 172_368), (261_456, 124_188), (54_834, 124_188),
        (182_780, 88_984), (38_090, 88_984), (126_576, 63_948), (26_298, 63_948),
    ],
}  # fmt: skip
HNERV_HEADS = {"0.75m-bunny": 543, "1.5m-bunny": 948, "3m-bunny": 1_461}
NERV_BLOCKS = [
    (203_250, 24_444), (16_260, 10_284), (6_528, 8_424), (1_308, 8_424), (5_232, 8_424), (1_308, 8_424),
    (5_232, 8_424), (1_308, 8_424),
]  # fmt: skip
ENERV_BLOCKS = [
    (122_375, 335_544), (313_896, 91_476), (78_540, 28_248), (9_834, 28_248), (19_072, 10_976),
    (2_320, 10_976), (6_960, 8_424), (1_308, 8_424),
]  # fmt: skip
ENERV_STEM = {
    "time_content": 74_112,
    "spatial_tokens": 41_088,
    "transformers.0": 49_472,
    "transformers.1": 278_848,
    "to_channels": 5_676,
}


def count_blocks(model: Any) -> list[tuple[int, int]]:
    return [(count(block.upsample), count(block.sft_block)) for block in model.decoder.blocks]


@pytest.mark.parametrize("size", HNERV_BLOCKS)
def test_blocks_of_hnerv_boost(size: str) -> None:
    model = preset_on_meta(f"hnerv_boost-{size}", BUNNY)
    assert count_blocks(model) == HNERV_BLOCKS[size]
    assert count(model.decoder.condition) == 12_384
    assert count(model.decoder.head) == HNERV_HEADS[size]
    assert model.per_frame_shapes() == {"embedding": (16, 9, 16)}


def test_blocks_of_nerv_boost() -> None:
    model = preset_on_meta("nerv_boost-1.5m-bunny", BUNNY)
    assert count_blocks(model) == NERV_BLOCKS
    assert count(model.stem) == 1_151_456
    assert (count(model.decoder.condition), count(model.decoder.head)) == (12_384, 39)


def test_blocks_of_enerv_boost() -> None:
    model = preset_on_meta("enerv_boost-1.5m-bunny", BUNNY)
    assert count_blocks(model) == ENERV_BLOCKS
    assert {name: count(model.get_submodule(name)) for name in ENERV_STEM} == ENERV_STEM
    assert (count(model.decoder.condition), count(model.decoder.head)) == (12_384, 39)


def test_costs_of_hnerv_boost() -> None:
    config = validate_architecture(HNeRVBoost, load_preset("hnerv_boost-1.5m-bunny").architecture)
    size = describe_size(HNeRVBoost, config, BUNNY)
    assert size.macs / 1e9 == pytest.approx(96.42, abs=5e-3)
    assert size.latents == 304_128
    assert size.encoder == 207_856


# -- widths: what the published rules make of the scripts' sizes --------------------------------------------

DIALS = {
    "hnerv_boost-0.75m-bunny": 0.64, "hnerv_boost-1.5m-bunny": 1.275, "hnerv_boost-3m-bunny": 2.65,
    "hnerv_boost-3m-1080p": 2.8, "hnerv_boost-5m-1080p": 4.6, "hnerv_boost-10m-1080p": 9.1,
    "hnerv_boost-15m-1080p": 13.6, "hnerv_boost-3m-1080p-300f": 2.75, "hnerv_boost-5m-1080p-300f": 4.5,
    "hnerv_boost-10m-1080p-300f": 9.05, "hnerv_boost-15m-1080p-300f": 13.55,
    "nerv_boost-0.75m-bunny": 0.375, "nerv_boost-1.5m-bunny": 0.8, "nerv_boost-3m-bunny": 1.65,
    "nerv_boost-3m-1080p": 1.65, "nerv_boost-5m-1080p": 2.65, "nerv_boost-10m-1080p": 5.2,
    "nerv_boost-15m-1080p": 7.55, "enerv_boost-0.75m-bunny": 0.55, "enerv_boost-1.5m-bunny": 1.25,
    "enerv_boost-3m-bunny": 2.2, "enerv_boost-3m-1080p": 1.8, "enerv_boost-5m-1080p": 2.6,
    "enerv_boost-10m-1080p": 4.3, "enerv_boost-15m-1080p": 5.8,
}  # fmt: skip


@pytest.mark.parametrize("name", DIALS)
def test_widths_follow_the_published_rules(name: str) -> None:
    preset = load_preset(name)
    config = get_model(preset.model).Config.model_validate(preset.architecture)
    first, num_stages = config.widths[0], len(config.strides)
    if isinstance(config, HNeRVBoostConfig):
        embeddings = 16 * 9 * 16 * preset.paper.num_frames
        solved = published_first_width(
            DIALS[name] * 1e6,
            embeddings,
            strides=config.strides,
            kernels=(1, 3, 5, 5, 5),
            reduction=1.2,
            stem_inputs=9 * 16,
        )
        assert first == solved
        assert config.widths == published_widths(first, num_stages, reduction=1.2, lower=12)
    else:
        widths = [first, 3 * first if isinstance(config, ENeRVBoostConfig) else first]
        while len(widths) <= num_stages:
            widths.append(int(max(widths[-1] // 2.0, 12)))
        assert config.widths == tuple(widths)


# -- behaviour -----------------------------------------------------------------------------------------------


def test_a_block_with_silent_convolutions_passes_its_input() -> None:
    block = SFTBlock(6, 5)
    nn.init.zeros_(block.conv2.weight)
    nn.init.zeros_(block.conv2.bias)
    feature = torch.randn(2, 5, 4, 4)
    assert torch.equal(block(feature, torch.randn(2, 6)), feature)


def test_gain_and_shift_act_on_channels() -> None:
    layer = SFTBlock(2, 3).sft1
    for branch in (layer.scale, layer.shift):
        for linear in (branch[0], branch[2]):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
    layer.scale[2].bias.data = torch.tensor([0.0, 1.0, -1.0])
    layer.shift[2].bias.data = torch.tensor([0.0, 0.5, 7.0])
    feature = torch.full((1, 3, 1, 1), 2.0)
    assert layer(feature, torch.randn(1, 2)).flatten().tolist() == [2.0, 4.5, 7.0]


@BOOSTED
def test_time_conditions_every_block(name: str) -> None:
    clip = moving_shapes(num_frames=4, height=32, width=64)
    model = preset_model(f"{name}-tiny", clip.spec)
    feature = torch.randn(1, model.decoder.blocks[0].sft_block.conv1.in_channels, 2, 4)
    time_NF = model.encoding(torch.tensor([0.0, 3.0])).float()
    first, last = (model.decoder.condition(time_NF[n : n + 1]) for n in (0, 1))
    block = model.decoder.blocks[0].sft_block
    assert (block(feature, first) - block(feature, last)).abs().max() > 1e-4


def test_the_first_frame_is_at_one_step_the_last_at_one() -> None:
    encoding = NeRVBoostConfig(strides=(2,), widths=(4, 4), base=2.0, levels=1).encoding(4)
    features = encoding(torch.tensor([0.0, 1.0, 3.0])).tolist()
    assert features == [pytest.approx(row, abs=1e-15) for row in ([0.5**0.5] * 2, [1, 0], [0, -1])]


def test_stem_of_nerv_boost_fills_channels_first() -> None:
    model = NeRVBoost(
        NeRVBoostConfig(strides=(2,), widths=(3, 4), levels=2, stem_widths=(), activation="relu"),
        VideoSpec(1, 4, 8),
    )
    nn.init.zeros_(model.stem[0].weight)
    model.stem[0].bias.data = torch.arange(3 * 2 * 4.0)
    seen: list[Tensor] = []
    model.decoder.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    model(Query.of_frames(torch.tensor([0])))
    assert torch.equal(seen[0], torch.arange(24.0).view(1, 3, 2, 4))


def test_blocks_of_each_stage() -> None:
    config = NeRVBoostConfig(strides=(3, 2, 2, 2), widths=(8, 8, 6, 5, 4))
    assert config.stage_depths == (1, 1, 2, 2)
    model = NeRVBoost.on_meta(config, VideoSpec(1, 24, 24))
    shapes = [tuple(block.upsample.conv.weight.shape[:2]) for block in model.decoder.blocks]
    assert shapes == [(72, 8), (24, 8), (20, 6), (5, 5), (16, 5), (4, 4)]


def test_all_blocks_of_the_first_stage_of_enerv_boost_convolve_twice() -> None:
    """A further block goes through a quarter of its channels too, without an activation between."""
    model = ENeRVBoost(
        ENeRVBoostConfig(strides=(3, 2), widths=(8, 12, 6), depths=(3, 2)), VideoSpec(2, 12, 18)
    )
    shapes = [[tuple(c.weight.shape) for c in convolutions(block.upsample)] for block in model.decoder.blocks]
    further = [(3, 12, 3, 3), (12, 3, 3, 3)]
    assert shapes == [[(18, 8, 3, 3), (12, 2, 3, 3)], further, further, [(24, 12, 3, 3)], [(6, 6, 3, 3)]]
    upsample = model.decoder.blocks[1].upsample
    feature_NCHW = torch.randn(1, 12, 6, 9)
    expected_NCHW = torch.sin(upsample.conv2(upsample.conv1(feature_NCHW)))
    assert torch.equal(upsample(feature_NCHW), expected_NCHW)
    assert model(Query.of_frames(torch.arange(2))).shape == (2, 3, 12, 18)


def convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [part for part in module.modules() if isinstance(part, nn.Conv2d)]


def test_latents_are_kept_within_their_share() -> None:
    video = VideoSpec(3000, 1080, 1920)
    assert check_latent_share(HNeRVBoost, video, width=40.0).embedding_channels < 16


@pytest.mark.slow  # tests/models/test_sizing.py asks for sizes of every model
@pytest.mark.parametrize(
    ("name", "clip"),
    [
        ("enerv_boost", (132, 720, 1280)),
        ("hnerv_boost", (600, 160, 320)),
        ("nerv_boost", (132, 720, 1280)),
    ],
)
def test_sizes_are_met_within_2_percent(name: str, clip: tuple[int, int, int]) -> None:
    cls, video = get_model(name), VideoSpec(*clip)
    check_solved(cls, video, 12 * smallest_size(cls, video), tolerance=0.02)


@BOOSTED
def test_the_published_loss(name: str) -> None:
    preset = load_preset(f"{name}-3m-1080p", ["fit.recipe=paper"])
    loss = build_loss(preset.fit.loss)
    prediction, target = torch.rand(1, 3, 176, 192), torch.rand(1, 3, 176, 192)
    spectra = torch.view_as_real(torch.fft.fft2(prediction)) - torch.view_as_real(torch.fft.fft2(target))
    structure = build_loss({"ms_ssim": 1.0})(prediction, target).total
    expected = 60 * (0.7 * (prediction - target).abs().mean() + 0.3 * structure) + spectra.abs().mean()
    assert loss(prediction, target).total.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("config_class", "change", "complaint"),
    [
        (NeRVBoostConfig, {"widths": (4, 4)}, "2 strides need 3 widths"),
        (NeRVBoostConfig, {"strides": (16, 16, 16), "widths": (4,) * 4}, "multiply to more than 1024"),
        (NeRVBoostConfig, {"depths": (1,)}, "2 strides need as many depths"),
        (NeRVBoostConfig, {"depths": (1, 9)}, "less than or equal to 8"),
        (NeRVBoostConfig, {"kernel_max": 4}, "odd"),
        (NeRVBoostConfig, {"base": 10.0, "levels": 31}, "exceeds 1e30"),
        (NeRVBoostConfig, {"condition_channels": 0}, "greater than or equal to 1"),
        (NeRVBoostConfig, {"stem_widths": (4,) * 5}, "at most 4"),
        (HNeRVBoostConfig, {"encoder_strides": (2, 3)}, "encoder_strides"),
        (HNeRVBoostConfig, {"encoder_depth": 33}, "less than or equal to 32"),
        (ENeRVBoostConfig, {"heads": (1, 33)}, "less than or equal to 32"),
        (ENeRVBoostConfig, {"token_width": 5000}, "less than or equal to 4096"),
    ],
)
def test_configurations_that_are_refused(config_class: Any, change: dict[str, Any], complaint: str) -> None:
    check_refused(config_class, change, complaint)


@pytest.mark.parametrize(
    ("cls", "config_class"), [(NeRVBoost, NeRVBoostConfig), (ENeRVBoost, ENeRVBoostConfig)]
)
def test_grids_that_do_not_cover_the_frame_are_refused(cls: Any, config_class: Any) -> None:
    with pytest.raises(UsageError, match="too small"):
        cls(config_class(strides=(2,), widths=(4, 4), stem_height=1, stem_width=1), VideoSpec(1, 8, 8))


@BOOSTED
def test_patches_are_refused(name: str) -> None:
    clip = moving_shapes(num_frames=1, height=32, width=64)
    check_patches_are_refused(preset_model(f"{name}-tiny", clip.spec), clip)
