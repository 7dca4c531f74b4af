"""Convolutions in training: outputs and gradients are those of plain autograd in double precision."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clips import moving_shapes
from vinr import kernels
from vinr.config import load_preset
from vinr.fit.precision import Precision
from vinr.fit.prepare import build_model
from vinr.kernels import arrange_layers, is_transformed, training
from vinr.kernels.training import replace_trained_convolutions
from vinr.models import HybridModel, list_models
from vinr.video.spec import Query

# Measured over 40 shapes: at most 7e-6 of the largest value (output and gradient of the input).
TOLERANCE = 2e-5


@pytest.fixture(autouse=True)
def _transforms_from_3x3_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test every kernel, also where the direct convolution of small ones is as fast."""
    monkeypatch.setitem(kernels.MIN_KERNEL, torch.backends.cpu.get_cpu_capability(), 3)


def gradients(module: nn.Module, feature_NCHW: Tensor, weight_NCHW: Tensor) -> dict[str, Tensor]:
    """Return the output and the gradients of input and parameters, for a given output gradient."""
    feature_NCHW = feature_NCHW.clone().requires_grad_()
    result_NCHW = module(feature_NCHW)
    result_NCHW.backward(weight_NCHW.to(result_NCHW.dtype))
    values = {"result": result_NCHW.detach(), "feature": feature_NCHW.grad}
    for name, parameter in module.named_parameters():
        values[name] = parameter.grad
    return {name: value for name, value in values.items() if value is not None}


def fast(conv: nn.Conv2d) -> nn.Module:
    """Return the layer that takes the place of ``conv`` in training."""
    model = nn.Sequential(conv)
    replace_trained_convolutions(model)
    return model[0]


def check(conv: nn.Conv2d, feature_NCHW: Tensor) -> None:
    """Compare a layer with itself in double precision."""
    exact, layer = copy.deepcopy(conv).double(), fast(conv)
    assert type(layer) is not nn.Conv2d
    weight_NCHW = torch.randn_like(conv(feature_NCHW))
    expected = gradients(exact, feature_NCHW.double(), weight_NCHW)
    computed = gradients(layer, feature_NCHW, weight_NCHW)
    assert computed.keys() == expected.keys()
    for name, value in expected.items():
        assert computed[name].shape == value.shape
        assert (computed[name] - value).abs().max() <= TOLERANCE * value.abs().max(), name


@pytest.mark.parametrize("kernel", [3, 5, 7, 11])
@pytest.mark.parametrize(
    ("count", "inputs", "outputs", "height", "width"),
    [(1, 3, 8, 40, 60), (2, 7, 13, 47, 53), (3, 5, 4, 130, 17), (1, 6, 9, 9, 400), (1, 4, 3, 72, 300)],
)
def test_gradients_are_those_of_the_direct_convolution(
    kernel: int, count: int, inputs: int, outputs: int, height: int, width: int
) -> None:
    check(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), torch.randn(count, inputs, height, width))


@pytest.mark.parametrize("outputs", [1, 3, 4, 16])
def test_few_and_more_output_channels_without_bias(outputs: int) -> None:
    check(nn.Conv2d(5, outputs, 3, padding=1, bias=False), torch.randn(2, 5, 50, 70))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("kernel", "size"), [(7, (12, 20)), (3, (2, 4)), (7, (2, 4)), ((5, 1), (9, 30))])
def test_depthwise_gradients(
    kernel: int | tuple[int, int], size: tuple[int, int], layout: torch.memory_format
) -> None:
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    conv = nn.Conv2d(6, 6, sides, padding=(sides[0] // 2, sides[1] // 2), groups=6)
    check(conv, torch.randn(3, 6, *size).contiguous(memory_format=layout))


def test_maps_of_any_layout_and_large_ones_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "MAX_TILES", 8)
    monkeypatch.setattr(training, "UNFOLDED_PIXELS", 150)
    for outputs in (3, 12):
        feature_NCHW = torch.randn(2, 4, 61, 70).contiguous(memory_format=torch.channels_last)
        check(nn.Conv2d(4, outputs, 3, padding=1), feature_NCHW)


def test_only_what_learns_gets_gradients() -> None:
    for outputs in (3, 12):
        conv = nn.Conv2d(4, outputs, 3, padding=1)
        conv.weight.requires_grad_(False)
        fast(conv)(torch.randn(1, 4, 50, 50)).sum().backward()
        assert conv.weight.grad is None
        assert conv.bias is not None
        assert conv.bias.grad is not None
        assert torch.allclose(conv.bias.grad, torch.full((outputs,), 2500.0))


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 8, 3, padding=1, groups=4),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, stride=2),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="replicate"),
        nn.Conv2d(4, 4, 4, padding=2, groups=4),
        nn.Conv2d(4, 4, 3, padding="same", groups=4),
        nn.Conv2d(4, 4, 1),
    ],
    ids=str,
)
def test_other_convolutions_stay_as_they_are(conv: nn.Conv2d) -> None:
    model = nn.Sequential(conv)
    assert not replace_trained_convolutions(model)
    assert model[0] is conv


def test_small_maps_and_half_precision_are_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Tensor:
        raise AssertionError("transformed")

    monkeypatch.setattr(kernels, "NNPACK", refuse)
    conv = fast(nn.Conv2d(4, 4, 3, padding=1))
    small_NCHW, large_NCHW = torch.randn(1, 4, 20, 30), torch.randn(1, 4, 60, 60)
    assert not is_transformed(small_NCHW)
    conv(small_NCHW).sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        conv(large_NCHW).sum().backward()
    with pytest.raises(AssertionError, match="transformed"):
        conv(large_NCHW)


def gradients_of(model: str, name: str) -> dict[str, Tensor]:
    """Return the gradients of all parameters of a new model, for one frame, under ``fit.convolution``."""
    clip = moving_shapes(num_frames=16, height=32, width=64)
    preset = load_preset(f"{model}-tiny", [f"fit.convolution={name}", "fit.precision=fp32"])
    network = build_model(preset, clip.spec, torch.device("cpu"), Precision("fp32"))
    if network.keyframes is not None:
        network.keyframes.code(clip)
    source = clip if isinstance(network, HybridModel) else None
    loss = network(Query.of_frames(torch.tensor([1])), source).square().mean()
    loss.backward()
    return {key: value.grad for key, value in network.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("model", list_models())
def test_every_model_has_the_gradients_of_its_plain_form(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "MIN_PIXELS", 64)  # tiny models have small maps
    plain, computed = gradients_of(model, "direct"), gradients_of(model, "auto")
    assert computed.keys() == plain.keys()
    largest = max(value.abs().max() for value in plain.values())
    for name, value in plain.items():
        # Measured: at most 2e-6 of the largest gradient; 1.4e-4 in E-NeRV, which normalises maps that are
        # almost constant and so enlarges the last bits of the convolution before.
        assert (computed[name] - value).abs().max() <= 3e-4 * largest, name


def test_a_trained_network_is_arranged_as_a_new_one_is() -> None:
    """Layers of a fit make way for those that decode: there is one way to compute a file's frames."""
    convs = [nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=4)]
    model = nn.Sequential(*convs, nn.PixelShuffle(2))
    trained = copy.deepcopy(model)
    assert replace_trained_convolutions(trained)
    arrange_layers(trained)
    arrange_layers(model)
    assert type(trained[0]) is type(model[0])
    feature_NCHW = torch.randn(1, 4, 60, 60)
    with torch.inference_mode():
        assert torch.equal(trained(feature_NCHW), model(feature_NCHW))
