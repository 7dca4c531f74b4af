"""Fast layers for decoding: they compute what PyTorch's own do, with the same parameters."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernel_checks import count_transforms
from random_files import random_network
from vinr import kernels
from vinr.kernels import arrange_layers, replace_convolutions
from vinr.models import VideoModel, list_models
from vinr.video.spec import Query, VideoSpec

pytestmark = pytest.mark.numeric

# Large enough that the last convolutions are computed after a transform.
VIDEO = VideoSpec(5, 48, 64)
# Measured over 250 shapes: at most 7e-6 of the largest value (Winograd of one input channel).
TOLERANCE = 2e-5


@pytest.fixture
def transforms(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of what was convolved after a transform, from 3×3 on also where direct ones are as fast."""
    return count_transforms(monkeypatch)


def plain_frame(model: VideoModel, index: int) -> Tensor:
    with torch.inference_mode():
        rgb_NCHW: Tensor = model(Query.of_frames(torch.tensor([index])))
    return rgb_NCHW


# -- PyTorch's private operator ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "height", "width", "padding"),
    [
        (3, 45, 61, 1),
        (5, 45, 61, 2),
        (11, 30, 40, 5),
        # A map of 16×16 with a kernel of as many tiles' inside, as gradients use it.
        (14, 16, 16, 0),
        (12, 16, 16, 0),
        (6, 16, 16, 0),
    ],
)
def test_the_operator_is_a_convolution(kernel: int, height: int, width: int, padding: int) -> None:
    """What layers rely on, in any version of PyTorch that has it: (feature, kernel, bias, padding)."""
    assert kernels.NNPACK is not None, "this version of PyTorch has no such operator: decoding is slower"
    feature_NIHW, bias_O = torch.randn(2, 7, height, width), torch.randn(5)
    kernel_OIkk = torch.randn(5, 7, kernel, kernel)
    expected = F.conv2d(feature_NIHW.double(), kernel_OIkk.double(), bias_O.double(), padding=padding)
    computed = kernels.NNPACK(feature_NIHW, kernel_OIkk, bias_O, [padding, padding])
    assert computed.dtype == torch.float32
    assert computed.shape == expected.shape
    assert (computed - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("missing", ["operator", "library"])
def test_nothing_is_transformed_without_it(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing == "operator":
        monkeypatch.setattr(kernels, "NNPACK", None)
    else:
        monkeypatch.setattr(torch.backends.nnpack, "is_available", lambda: False)
    model = nn.Sequential(nn.Conv2d(1, 4, 5, padding=2), nn.PixelShuffle(2))
    assert not replace_convolutions(model)
    assert type(model[0]) is nn.Conv2d
    assert type(model[1]) is not nn.PixelShuffle
    arrange_layers(model)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_wider_vectors_convolve_3x3_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_replaced(kernel: int) -> bool:
        return replace_convolutions(nn.Sequential(nn.Conv2d(1, 1, kernel, padding=kernel // 2)))

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert not is_replaced(3)
    assert is_replaced(5)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert not is_replaced(5)


# -- replacing -----------------------------------------------------------------------------------------------


def test_new_layers_hold_the_parameters_of_the_old_ones(transforms: list[tuple[int, ...]]) -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1)
    model = nn.ModuleDict({"a": nn.Sequential(conv, nn.GELU()), "b": conv, "c": nn.Conv2d(4, 4, 1)}).eval()
    before, random_state = dict(model.named_parameters(remove_duplicate=False)), torch.get_rng_state()
    assert replace_convolutions(model)
    after = dict(model.named_parameters(remove_duplicate=False))
    assert list(after) == list(before)
    assert all(after[name] is parameter for name, parameter in before.items())
    assert torch.equal(torch.get_rng_state(), random_state)
    # What was one layer is one layer; settings stay.
    assert model["b"] is model["a"][0]  # type: ignore[index]
    assert not model["b"].training
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(copied["b"]) is type(model["b"])
        assert all(map(torch.equal, copied.state_dict().values(), model.state_dict().values()))
    # Once more: nothing is lost.
    assert replace_convolutions(model)
    assert model["b"].weight is before["b.weight"]


@pytest.mark.parametrize("kernel", [3, 5, 7, 9, 11])
@pytest.mark.parametrize("bias", [True, False])
def test_convolution_after_a_transform_is_the_direct_one(
    transforms: list[tuple[int, ...]], kernel: int, bias: bool
) -> None:
    model = nn.Sequential(nn.Conv2d(7, 13, kernel, padding=kernel // 2, bias=bias))
    feature_NCHW = torch.randn(2, 7, 45, 61)
    with torch.inference_mode():
        expected = copy.deepcopy(model).double()(feature_NCHW.double())
        assert replace_convolutions(model)
        computed = model(feature_NCHW)
    assert transforms == [(2, 7, 45, 61)]
    assert (computed - expected).abs().max() <= TOLERANCE * expected.abs().max()


class _OtherConv2d(nn.Conv2d):
    """A convolution that may do more."""


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.Conv2d(4, 4, 3, padding=1, stride=2),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="replicate"),
        nn.Conv2d(4, 4, (5, 1), padding=(2, 0)),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 13, padding=6),
        _OtherConv2d(4, 4, 3, padding=1),
    ],
    ids=str,
)
def test_other_convolutions_stay_as_they_are(transforms: list[tuple[int, ...]], conv: nn.Conv2d) -> None:
    feature_NCHW = torch.randn(1, 4, 64, 64)
    expected, model = conv(feature_NCHW), nn.Sequential(conv)
    assert not replace_convolutions(model)
    assert model[0] is conv
    assert torch.equal(model(feature_NCHW), expected)
    assert transforms == []


def test_small_maps_and_half_precision_are_convolved_directly(transforms: list[tuple[int, ...]]) -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1))
    small_NCHW, large_NCHW = torch.randn(1, 4, 40, 50), torch.randn(1, 4, 64, 64)
    with torch.inference_mode():
        expected = model(small_NCHW)
        assert replace_convolutions(model)
        assert torch.equal(model(small_NCHW), expected)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert model(large_NCHW).dtype == torch.bfloat16
    assert transforms == []


@pytest.mark.parametrize("scale", [2, 3, 5])
def test_depth_to_space_is_the_same_bit_for_bit(scale: int) -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.PixelShuffle(scale))
    feature_NCHW = torch.randn(2, 4 * scale**2, 7, 9)
    expected = model[1](feature_NCHW)
    replace_convolutions(model)
    assert type(model[1]) is not nn.PixelShuffle
    assert torch.equal(model[1](feature_NCHW), expected)
    by_pixel_NCHW = feature_NCHW.to(memory_format=torch.channels_last)
    assert torch.equal(model[1](by_pixel_NCHW), expected)
    assert model[1](by_pixel_NCHW).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", list_models())
def test_every_model_shows_the_same_frames(transforms: list[tuple[int, ...]], name: str) -> None:
    plain, fast = random_network(name, VIDEO), random_network(name, VIDEO)
    replace_convolutions(fast)
    assert fast.stored().keys() == plain.stored().keys()
    # Measured: at most 1e-4 of 255. Some models have no such convolution of so large a map.
    expected, computed = plain_frame(plain, 2), plain_frame(fast, 2)
    assert (computed - expected).abs().max() <= 1e-3 / 255
    assert transforms or torch.equal(computed, expected)
