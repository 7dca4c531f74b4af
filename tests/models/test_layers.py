"""Layers that models share, each against what its text says, computed in another way."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vinr.models.layers.blocks import (
    ActivationName,
    ConvStagesConfig,
    TwoStepBlock,
    UpsampleBlock,
    check_kernels,
    check_stages,
    enlarged,
    grid_size,
    make_activation,
    make_mlp,
    make_stages,
    padded,
    padded_size,
    require_whole_frames,
    squash,
    stage_kernels,
)
from vinr.models.layers.convnext import ChannelNorm, ConvNeXtBlock, ConvNeXtEncoder
from vinr.models.layers.tokens import Transformer
from vinr.video.spec import PatchGrid, Query, VideoSpec

STRIDES = st.lists(st.integers(1, 5), min_size=1, max_size=4)


def random_input(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


# -- activations and outputs ---------------------------------------------------------------------------------

BY_HAND = {
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "relu": lambda x: max(x, 0.0),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "leaky_relu_0.1": lambda x: x if x > 0 else 0.1 * x,
    "relu6": lambda x: min(max(x, 0.0), 6.0),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "softplus": lambda x: math.log1p(math.exp(x)),
    "hardswish": lambda x: x * min(max(x + 3, 0.0), 6.0) / 6,
    "sin": math.sin,
}


@pytest.mark.parametrize("name", get_args(ActivationName))
def test_activations_are_those_of_their_names(name: ActivationName) -> None:
    values = torch.linspace(-8, 8, 33, dtype=torch.float64)
    expected = [BY_HAND[name](value) for value in values.tolist()]  # type: ignore[no-untyped-call]
    assert make_activation(name)(values).tolist() == pytest.approx(expected, abs=1e-12)


def test_outputs_are_colours() -> None:
    raw = torch.linspace(-9, 9, 19, dtype=torch.float64)
    assert squash(raw, "tanh").tolist() == pytest.approx([(math.tanh(x) + 1) / 2 for x in raw.tolist()])
    assert squash(raw, "sigmoid").tolist() == pytest.approx([1 / (1 + math.exp(-x)) for x in raw.tolist()])
    assert squash(raw, "offset", 0.25).tolist() == pytest.approx([x + 0.25 for x in raw.tolist()])


def test_an_activation_follows_every_linear_layer() -> None:
    layers = make_mlp([4, 8, 2], "sin").double()
    assert [type(layer).__name__ for layer in layers] == ["Linear", "Sine", "Linear", "Sine"]
    value = random_input(3, 4)
    expected = torch.sin(layers[2](torch.sin(layers[0](value))))
    assert torch.equal(layers(value), expected)
    assert len(make_mlp([4], "gelu")) == 0


# -- sizes ---------------------------------------------------------------------------------------------------


@given(st.integers(1, 3000), st.integers(1, 3000), STRIDES)
def test_grids_are_the_smallest_that_cover_a_frame(height: int, width: int, strides: list[int]) -> None:
    multiple = math.prod(strides)
    rows, cols = grid_size(height, width, strides)
    assert (rows - 1) * multiple < height <= rows * multiple
    assert (cols - 1) * multiple < width <= cols * multiple
    coded = enlarged((rows, cols), strides)
    assert coded == padded_size(VideoSpec(1, height, width), strides)
    assert coded == (padded(height, multiple), padded(width, multiple))


def test_kernels_grow_by_two_up_to_the_largest() -> None:
    assert stage_kernels(1, 5, 5) == (1, 3, 5, 5, 5)
    assert stage_kernels(3, 3, 2) == (3, 3)
    assert stage_kernels(7, 3, 2) == (3, 3)


@pytest.mark.parametrize(
    ("strides", "widths", "complaint"),
    [
        ((2, 2), (4, 4), "2 strides need 3 widths, got 2"),
        ((2,), (4, 4, 4), "1 strides need 2 widths, got 3"),
        ((16, 16, 5), (4,) * 4, "multiply to more than 1024"),
    ],
)
def test_stages_that_do_not_fit_are_refused(
    strides: tuple[int, ...], widths: tuple[int, ...], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        check_stages(strides, widths)


def test_even_kernels_and_patches_are_refused() -> None:
    check_kernels(1, 3, 15)
    with pytest.raises(ValueError, match=r"kernels must be odd, got \(3, 4\)"):
        check_kernels(3, 4)
    require_whole_frames(Query.of_frames(torch.tensor([0])))
    patches = Query(
        torch.zeros(1), torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), PatchGrid(2, 3)
    )
    with pytest.raises(ValueError, match="whole frames only"):
        require_whole_frames(patches)


# -- stages --------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 3, 5]))
def test_channels_of_a_stage_become_pixels(inputs: int, outputs: int, stride: int, kernel: int) -> None:
    block = UpsampleBlock(inputs, outputs, stride=stride, kernel=kernel, activation="sin").double()
    value = random_input(2, inputs, 3, 5)
    found, raw = block(value), block.conv(value)
    assert found.shape == (2, outputs, 3 * stride, 5 * stride)
    for y in range(stride):
        for x in range(stride):
            # Channel c · s² + y · s + x becomes pixel (y, x) of channel c.
            expected = torch.sin(raw[:, y * stride + x :: stride**2])
            assert torch.allclose(found[:, :, y::stride, x::stride], expected)


def test_the_first_block_of_a_stage_enlarges() -> None:
    config = ConvStagesConfig(strides=(3, 2), widths=(8, 6, 4), kernel_min=1, kernel_max=3)
    blocks = make_stages(config, blocks_per_stage=2)
    shapes = [tuple(block.conv.weight.shape) for block in blocks]
    assert shapes == [(54, 8, 1, 1), (6, 6, 1, 1), (16, 6, 3, 3), (4, 4, 3, 3)]
    assert nn.Sequential(*blocks)(torch.zeros(1, 8, 2, 3)).shape == (1, 4, 12, 18)
    assert config.make_head()(torch.zeros(1, 4, 12, 18)).shape == (1, 3, 12, 18)


@pytest.mark.parametrize(("inputs", "outputs"), [(8, 16), (8, 8), (16, 8), (2, 3)])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_two_steps_take_fewer_weights_than_one(inputs: int, outputs: int, stride: int) -> None:
    block = TwoStepBlock(inputs, outputs, stride=stride, activation="relu").double()
    value = random_input(1, inputs, 4, 5)
    found = block(value)
    assert found.shape == (1, outputs, 4 * stride, 5 * stride)
    assert block.squeezed == (inputs <= outputs)
    if block.squeezed:
        expected = block.conv2(F.pixel_shuffle(block.conv1(value), stride))
        assert block.conv2.in_channels == max(inputs // 4, 1)
    else:
        expected = F.pixel_shuffle(block.conv2(block.conv1(value)), stride)
    assert torch.equal(found, F.relu(expected))
    one = UpsampleBlock(inputs, outputs, stride=stride, kernel=3, activation="relu")
    if block.squeezed and stride > 1 and inputs >= 8:
        assert count(block) < count(one)


def count(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


# -- encoders ------------------------------------------------------------------------------------------------


def test_a_channel_norm_has_mean_zero_and_variance_one_at_each_pixel() -> None:
    norm = ChannelNorm(6).double()
    found = norm(3 + 2 * random_input(2, 6, 4, 5))
    assert found.mean(1).abs().max() < 1e-12
    assert (found.var(1, unbiased=False) - 1).abs().max() < 1e-4
    with torch.no_grad():
        norm.weight.mul_(2)
        norm.bias.add_(1)
    assert found.shape == norm(found).shape
    assert torch.allclose(norm(found).mean(1), torch.ones(2, 4, 5, dtype=torch.float64))


def test_a_fresh_block_is_almost_the_identity_and_sees_seven_pixels() -> None:
    block = ConvNeXtBlock(4).double()
    value = random_input(1, 4, 15, 15)
    assert (block(value) - value).abs().max() < 1e-4
    with torch.no_grad():
        block.layer_scale.fill_(1.0)
        other = value.clone()
        other[0, 0, 7, 7] += 1.0
        changed = (block(other) - block(value)).abs().amax((0, 1)) > 0
    rows, cols = changed.nonzero().T
    assert (int(rows.min()), int(rows.max()), int(cols.min()), int(cols.max())) == (4, 10, 4, 10)


def test_an_encoder_divides_rows_and_columns() -> None:
    encoder = ConvNeXtEncoder((4, 3, 2), (8, 8, 5), (1, 2, 1))
    assert encoder(torch.rand(2, 3, 48, 72)).shape == (2, 5, 2, 3)
    assert [len(stage.blocks) for stage in encoder.stages] == [1, 2, 1]  # type: ignore[arg-type, union-attr]
    assert [stage.norm_first for stage in encoder.stages] == [False, True, True]
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert module.weight.abs().max() <= 2
            assert module.bias is not None
            assert not module.bias.any()


# -- tokens --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [1, 3])
def test_attention_is_that_of_its_formula(heads: int) -> None:
    width, channels = 6, 4
    transformer = Transformer(width, heads, channels, feed_forward_width=5).double()
    token_NPF = random_input(2, 7, width)
    mixed = []
    parts = transformer.attention.query_key_value(token_NPF).split(heads * channels, dim=-1)
    for head in range(heads):
        own = slice(head * channels, (head + 1) * channels)
        query, key, value = (part[..., own] for part in parts)
        weight = torch.softmax(query @ key.transpose(1, 2) / math.sqrt(channels), dim=-1)
        mixed.append(weight @ value)
    token = token_NPF + transformer.attention.output(torch.cat(mixed, dim=-1))
    expected = token + transformer.linear2(F.gelu(transformer.linear1(token)))
    assert (transformer(token_NPF) - expected).abs().max() < 1e-12


def test_cells_in_another_order_give_tokens_in_that_order() -> None:
    """Nothing but its encoding tells a cell where it lies."""
    transformer = Transformer(6, 2, 3, feed_forward_width=5).double()
    token_NPF, order_P = random_input(1, 8, 6), torch.randperm(8)
    assert torch.allclose(transformer(token_NPF[:, order_P]), transformer(token_NPF)[:, order_P])
