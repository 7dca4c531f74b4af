"""Losses against the reference fixture, their weighted sum, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

from golden_tensors import golden_path
from vinr.config import FitSettings
from vinr.errors import UsageError
from vinr.fit.losses import build_loss, list_losses

FIXTURE = golden_path("losses_metrics")
DTYPES = (torch.float32, torch.float64)

# Weights under the names of the NeRV code base, for the fixture.
FUSIONS = {
    "Fusion1": {"l2": 0.3, "ssim": 0.7},
    "Fusion2": {"l1": 0.3, "ssim": 0.7},
    "Fusion3": {"l2": 0.5, "ssim": 0.5},
    "Fusion4": {"l1": 0.5, "ssim": 0.5},
    "Fusion5": {"l2": 0.7, "ssim": 0.3},
    "Fusion6": {"l1": 0.7, "ssim": 0.3},
    "Fusion7": {"l2": 0.7, "l1": 0.3},
    "Fusion8": {"l2": 0.5, "l1": 0.5},
    "Fusion9": {"l1": 0.9, "ssim": 0.1},
    "Fusion10": {"l1": 0.7, "ms_ssim": 0.3},
    "Fusion11": {"l1": 0.9, "ms_ssim": 0.1},
    "Fusion12": {"l1": 0.8, "ms_ssim": 0.2},
}

# The fixture's names as weights. The 60 of Boosting-NeRV multiplies all but the frequency term.
FIXTURE_WEIGHTS = {
    **FUSIONS,
    "L1": {"l1": 1.0},
    "L2": {"l2": 1.0},
    "SSIM": {"ssim": 1.0},
    "boost_Fusion10_freq": {"l1": 42.0, "ms_ssim": 18.0, "frequency": 1.0},
    "boost_L1_freq": {"l1": 60.0, "frequency": 1.0},
    "boost_L1_ssim_freq": {"l1": 42.0, "ssim": 18.0, "frequency": 1.0},
    "dnerv_diverse_0.7_l1_0.3_ssim": {"l1": 0.7, "ssim": 0.3},
    "dnerv_diverse_mse_0.03_ssim": {"l2": 1.0, "ssim": 0.03},
    "hinerv_l1_ms_ssim_5x5": {"l1": 0.7, "ms_ssim5": 0.3},
}


def fixture_keys(prefix: str) -> list[str]:
    with safe_open(FIXTURE, framework="pt") as file:
        return [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118 - not a dict


def load(key: str) -> Tensor:
    with safe_open(FIXTURE, framework="pt") as file:
        value: Tensor = file.get_tensor(key)
    return value


def load_pair(name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Prediction and target; ``clip`` (built as its notes say) holds the frames that its mask keeps."""
    if name == "clip":
        prediction_NCHW, target_NCHW = load_pair("small", dtype)
        kept = load("input/clip.frame_mask")[0].bool()
        prediction_NCHW = torch.stack([*prediction_NCHW, prediction_NCHW[0].flip(-1)])
        return prediction_NCHW[kept], torch.stack([*target_NCHW, target_NCHW[1].flip(-1)])[kept]
    keys = fixture_keys(f"input/{name}.")
    prediction, target = (load(next(k for k in keys if kind in k)) for kind in ("prediction", "target"))
    if prediction.dtype == torch.uint8:
        prediction = prediction.float() / 255
    return prediction.to(dtype), (target.float() / 255).to(dtype)


def limit(key: str, expected: Tensor, dtype: torch.dtype) -> float:
    """The fixture's tolerance: 1e-9 in float64, ten times the measured spread of float32 there."""
    largest = max(1.0, float(expected.abs().max()))
    if dtype == torch.float64:
        return 1e-9 * largest
    with safe_open(FIXTURE, framework="pt") as file:
        spread = json.loads(file.metadata()["float32_spread"])[key]
    return max(10 * spread, 2e-6 * largest)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("key", fixture_keys("loss/"))
def test_fixture(key: str, dtype: torch.dtype) -> None:
    _, loss_name, pair_name = key.split("/")
    prediction_NCHW, target_NCHW = load_pair(pair_name, dtype)
    value = build_loss(FIXTURE_WEIGHTS[loss_name])(prediction_NCHW, target_NCHW)
    expected = load(key)
    assert value.total.dtype == dtype
    assert abs(float(value.total) - float(expected)) <= limit(key, expected, dtype)
    mse = (prediction_NCHW - target_NCHW).square().mean()
    torch.testing.assert_close(value.mse, mse)


@pytest.mark.parametrize("key", fixture_keys("loss_per_frame/"))
def test_fixture_per_frame(key: str) -> None:
    _, loss_name, pair_name = key.split("/")
    prediction_NCHW, target_NCHW = load_pair(pair_name, torch.float64)
    loss = build_loss(FIXTURE_WEIGHTS[loss_name])
    for frame, expected in enumerate(load(key)):
        one = slice(frame, frame + 1)
        value = loss(prediction_NCHW[one], target_NCHW[one])
        assert abs(float(value.total) - float(expected)) <= 1e-9


def test_every_fusion_of_the_table_is_in_the_fixture() -> None:
    assert {key.split("/")[1] for key in fixture_keys("loss/Fusion")} == set(FUSIONS)
    assert len(FUSIONS) == 12
    assert all(sum(weights.values()) == pytest.approx(1) for weights in FUSIONS.values())


@pytest.mark.parametrize("name", list_losses())
def test_equal_images_cost_nothing_and_gradients_flow(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    target_NCHW = torch.rand(2, 3, 161, 162, generator=generator)
    loss = build_loss({name: 2.0})
    best = {"psnr": -2 * 50.0, "rmse": 2 * 1e-4}.get(name, 0.0)
    assert abs(float(loss(target_NCHW, target_NCHW).total) - best) < 1e-5
    prediction_NCHW = (
        target_NCHW + 0.1 * torch.rand(target_NCHW.shape, generator=generator)
    ).requires_grad_()
    value = loss(prediction_NCHW, target_NCHW)
    value.total.backward()
    assert prediction_NCHW.grad is not None
    assert prediction_NCHW.grad.isfinite().all()
    assert prediction_NCHW.grad.abs().sum() > 0
    assert not value.mse.requires_grad
    assert float(loss(prediction_NCHW.detach(), target_NCHW).total) > best


def test_visibility_multiplies_both_images_and_averages_over_all_pixels() -> None:
    generator = torch.Generator().manual_seed(2)
    prediction_NCHW = torch.rand(2, 3, 20, 24, generator=generator, dtype=torch.float64)
    target_NCHW = torch.rand(2, 3, 20, 24, generator=generator, dtype=torch.float64)
    weight_N1HW = (torch.rand(2, 1, 20, 24, generator=generator) > 0.4).double()
    weights = {"l1": 0.5, "l2": 0.3, "ssim": 0.2}
    loss = build_loss(weights)
    value = loss(prediction_NCHW, target_NCHW, weight_N1HW)
    plain = loss(prediction_NCHW * weight_N1HW, target_NCHW * weight_N1HW)
    torch.testing.assert_close(value.total, plain.total)
    seen_NCHW = weight_N1HW.bool().expand_as(target_NCHW)
    torch.testing.assert_close(value.mse, (prediction_NCHW - target_NCHW)[seen_NCHW].square().mean())
    hidden_NCHW = torch.where(seen_NCHW, prediction_NCHW, 7.0)
    torch.testing.assert_close(loss(hidden_NCHW, target_NCHW, weight_N1HW).total, value.total)
    assert loss(prediction_NCHW, target_NCHW, torch.zeros_like(weight_N1HW)).mse == 0


def test_half_precision_and_autocast_are_measured_in_float32() -> None:
    generator = torch.Generator().manual_seed(3)
    prediction_NCHW = torch.rand(1, 3, 16, 16, generator=generator).bfloat16()
    target_NCHW = torch.rand(1, 3, 16, 16, generator=generator)
    loss = build_loss({"ssim": 1.0, "frequency": 0.1})
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(prediction_NCHW, target_NCHW)
    assert value.total.dtype == torch.float32
    assert torch.equal(value.total, loss(prediction_NCHW.float(), target_NCHW).total)


@settings(max_examples=25)
@given(
    weights=st.dictionaries(
        st.sampled_from(["l1", "l2", "ssim", "frequency"]), st.floats(0.01, 60), min_size=1
    )
)
def test_the_sum_is_the_sum(weights: dict[str, float]) -> None:
    prediction_NCHW, target_NCHW = load_pair("small", torch.float64)
    parts = [
        weight * build_loss({name: 1.0})(prediction_NCHW, target_NCHW).total
        for name, weight in weights.items()
    ]
    torch.testing.assert_close(
        build_loss(weights)(prediction_NCHW, target_NCHW).total, torch.stack(parts).sum()
    )


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"l3": 1.0}, "unknown loss 'l3'; there are frequency, l1, l2, ms_ssim, ms_ssim5, psnr, rmse, ssim"),
        ({"l1": -1.0}, "loss l1 has weight -1.0"),
        ({"l1": float("nan")}, "loss l1 has weight nan"),
        ({}, "no term"),
        ({"l1": 0.0}, "no term"),
    ],
)
def test_refused_weights(weights: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_loss(weights)


def test_weight_zero_leaves_a_term_out() -> None:
    tiny_NCHW = torch.zeros(1, 3, 4, 4)  # too small for ms_ssim
    assert build_loss({"l1": 1.0, "ms_ssim": 0.0})(tiny_NCHW, tiny_NCHW).total == 0


@pytest.mark.parametrize(("name", "side"), [("ssim", 11), ("ms_ssim", 161), ("ms_ssim5", 65)])
def test_frames_too_small_are_refused(name: str, side: int) -> None:
    loss = build_loss({name: 1.0})
    fits_NCHW = torch.rand(1, 3, side, side + 3, generator=torch.Generator().manual_seed(0))
    assert float(loss(fits_NCHW, fits_NCHW).total) == pytest.approx(0, abs=1e-5)
    with pytest.raises(
        UsageError, match=f"loss {name} needs frames of at least {side} pixels .* fit: frequency, l1"
    ):
        loss(fits_NCHW[:, :, 1:], fits_NCHW[:, :, 1:])
    with pytest.raises(UsageError):
        loss.check_size(500, side - 1)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        build_loss({"l1": 1.0})(torch.zeros(2, 3, 8, 8), torch.zeros(1, 3, 8, 8))


def test_the_default_loss_of_the_settings_exists() -> None:
    assert build_loss(FitSettings().loss).weights == {"l2": 1.0}


def test_psnr_is_that_of_frames_and_moves_by_its_slope() -> None:
    """A twentieth more error costs as much of frames that are good as of others: 0.21 dB."""
    target_NCHW = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    noise_NCHW = torch.randn(target_NCHW.shape, generator=torch.Generator().manual_seed(2))
    noise_NCHW *= torch.tensor([0.02, 0.2]).view(-1, 1, 1, 1)
    loss = build_loss({"psnr": 1.0})
    value, worse = (loss(target_NCHW + scale * noise_NCHW, target_NCHW) for scale in (1.0, 1.05**0.5))
    errors = noise_NCHW.square().mean((1, 2, 3))
    assert float(value.total) == pytest.approx(float(10 * errors.log10().mean()), abs=0.1)
    assert float(value.slope) == pytest.approx(4.343, abs=1e-3)
    assert float(worse.total - value.total) == pytest.approx(0.05 * float(value.slope), rel=0.05)


@pytest.mark.parametrize(("name", "power"), [("l1", 1.0), ("l2", 1.0), ("rmse", 0.5)])
def test_other_losses_move_by_a_share_of_what_they_are(name: str, power: float) -> None:
    target_NCHW = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    value = build_loss({name: 3.0})(target_NCHW + 0.1, target_NCHW)
    torch.testing.assert_close(value.slope, power * value.total)
