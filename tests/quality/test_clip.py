"""Metrics against the reference fixture, against pytorch-msssim, and in their own terms."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
import pytorch_msssim
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

from golden_tensors import golden_path
from vinr.errors import InputError
from vinr.quality import (
    ClipQuality,
    ClipQualityMeter,
    Quality,
    bits_per_pixel,
    compare,
    kilobits_per_second,
    mean_frame_psnr_db,
    ms_ssim_per_frame,
    ms_ssim_window,
    pooled_psnr_db,
    psnr_per_frame_db,
)
from vinr.quality.clip import YuvPsnrMeter, yuv_psnr_611_db
from vinr.quality.measures import mse_per_frame, psnr_from_mse_db, ssim_per_frame
from vinr.video.spec import ColorSpec, FrameBatch, FrameStream, VideoSpec

FIXTURE = golden_path("losses_metrics")
DTYPES = (torch.float32, torch.float64)


def batch_psnr_db(prediction_NCHW: Tensor, target_NCHW: Tensor) -> Tensor:
    """PSNR of the batch as NeRV prints it: pooled, without the small constant."""
    return psnr_from_mse_db(mse_per_frame(prediction_NCHW, target_NCHW).mean(), epsilon=0)


def required_ms_ssim(prediction_NCHW: Tensor, target_NCHW: Tensor) -> Tensor:
    value_N = ms_ssim_per_frame(prediction_NCHW, target_NCHW)
    assert value_N is not None
    return value_N


FIXTURE_METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "psnr_per_frame/small": psnr_per_frame_db,
    "psnr_per_frame/large": psnr_per_frame_db,
    "psnr_of_batch_mse/small": batch_psnr_db,
    "hinerv_psnr/medium": psnr_per_frame_db,
    "ssim_11x11/small": ssim_per_frame,
    "ssim_11x11/medium": ssim_per_frame,
    "ssim_11x11/large": ssim_per_frame,
    "ms_ssim_5x5/medium": required_ms_ssim,
    "ms_ssim_11x11/large": required_ms_ssim,
}


def load_pair(name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Prediction and target of the fixture; 8-bit values are divided in float32, as the references do."""
    with safe_open(FIXTURE, framework="pt") as file:
        pair = []
        for kind in ("prediction", "target"):
            key = f"input/{name}.{kind}"
            if key in file.keys():  # noqa: SIM118 - not a dict
                pair.append(file.get_tensor(key).to(dtype))
            else:
                pair.append((file.get_tensor(f"{key}_uint8").float() / 255).to(dtype))
    return pair[0], pair[1]


def limit(key: str, expected: Tensor, dtype: torch.dtype) -> float:
    """The fixture's tolerance: 1e-9 in float64, ten times the measured spread of float32 there."""
    largest = max(1.0, float(expected.abs().max()))
    if dtype == torch.float64:
        return 1e-9 * largest
    with safe_open(FIXTURE, framework="pt") as file:
        spread = json.loads(file.metadata()["float32_spread"])[key]
    return max(10 * spread, 2e-6 * largest)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", sorted(FIXTURE_METRICS))
def test_fixture(name: str, dtype: torch.dtype) -> None:
    with safe_open(FIXTURE, framework="pt") as file:
        expected = file.get_tensor(f"metric/{name}")
    value = FIXTURE_METRICS[name](*load_pair(name.rpartition("/")[2], dtype))
    assert value.dtype == dtype
    assert value.shape == expected.shape
    assert (value.double() - expected).abs().max() <= limit(f"metric/{name}", expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dnerv_diverse_psnr_is_the_clamped_mean_over_kept_frames(dtype: torch.dtype) -> None:
    prediction_NCHW, target_NCHW = load_pair("small", dtype)
    with safe_open(FIXTURE, framework="pt") as file:
        kept = file.get_tensor("input/clip.frame_mask")[0].bool()
        prediction_NCHW = torch.stack([*prediction_NCHW, prediction_NCHW[0].flip(-1)])[kept]
        target_NCHW = torch.stack([*target_NCHW, target_NCHW[1].flip(-1)])[kept]
        expected = file.get_tensor("metric/dnerv_diverse_psnr/clip")
    mse_N = mse_per_frame(prediction_NCHW, target_NCHW)
    value = psnr_from_mse_db(mse_N, epsilon=0).clamp(0, 50).mean()
    assert abs(float(value) - float(expected)) <= limit("metric/dnerv_diverse_psnr/clip", expected, dtype)


def test_identical_frames_have_90_db() -> None:
    frame_NCHW = torch.rand(2, 3, 8, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(psnr_per_frame_db(frame_NCHW, frame_NCHW), torch.full((2,), 90.0))


def test_averages_differ_as_named() -> None:
    target_NCHW = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
    prediction_NCHW = target_NCHW.clone()
    prediction_NCHW[0], prediction_NCHW[1] = 0.1, 0.01  # 20 dB and 40 dB
    assert mean_frame_psnr_db(prediction_NCHW, target_NCHW) == pytest.approx(30, abs=1e-4)
    pooled = -10 * math.log10((0.1**2 + 0.01**2) / 2)
    assert pooled_psnr_db(prediction_NCHW, target_NCHW) == pytest.approx(pooled, abs=1e-4)


@pytest.mark.parametrize(
    ("height", "width", "window"),
    [
        (161, 161, 11),
        (161, 400, 11),
        (160, 320, 5),
        (400, 160, 5),
        (65, 65, 5),
        (64, 500, None),
        (8, 8, None),
    ],
)
def test_ms_ssim_window(height: int, width: int, window: int | None) -> None:
    assert ms_ssim_window(height, width) == window


@pytest.mark.parametrize(("size", "window"), [((161, 170), 11), ((65, 90), 5)])
@pytest.mark.parametrize("kind", ["noise", "picture"])
def test_ms_ssim_is_that_of_the_package(size: tuple[int, int], window: int, kind: str) -> None:
    generator = torch.Generator().manual_seed(3)
    if kind == "noise":
        target_NCHW = torch.rand(2, 3, *size, generator=generator)
    else:
        coarse_NCHW = torch.rand(2, 3, 9, 9, generator=generator)
        target_NCHW = torch.nn.functional.interpolate(coarse_NCHW, size=size, mode="bilinear")
    prediction_NCHW = target_NCHW + 0.05 * torch.randn(target_NCHW.shape, generator=generator)
    package = pytorch_msssim.MS_SSIM(data_range=1.0, size_average=False, win_size=window)
    value_N = required_ms_ssim(prediction_NCHW, target_NCHW)
    torch.testing.assert_close(value_N, package(prediction_NCHW, target_NCHW), atol=1e-5, rtol=0)


def test_ms_ssim_of_frames_too_small_is_none() -> None:
    frame_NCHW = torch.zeros(1, 3, 64, 64)
    assert ms_ssim_per_frame(frame_NCHW, frame_NCHW) is None


def test_rates() -> None:
    assert bits_per_pixel(1000, 4000) == 2.0
    assert kilobits_per_second(125, 0.5) == 2.0


class Frames:
    """Frames in memory as a frame source."""

    def __init__(self, rgb_NCHW: Tensor) -> None:
        self.rgb_NCHW = rgb_NCHW
        self.spec = VideoSpec(rgb_NCHW.shape[0], rgb_NCHW.shape[2], rgb_NCHW.shape[3])

    def frames(self, index_N: Tensor) -> Tensor:
        return self.rgb_NCHW[index_N]


def noisy_clip(num_frames: int, height: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num_frames, 3, height, width), generator=generator, dtype=torch.uint8)


def test_compare() -> None:
    reference_NCHW = noisy_clip(5, 66, 70, 0)
    decoded_NCHW = reference_NCHW.clone()
    decoded_NCHW[1:] = (decoded_NCHW[1:] // 8) * 8
    calls: list[tuple[int, int]] = []
    quality = compare(
        Frames(decoded_NCHW), Frames(reference_NCHW), batch_size=2, on_frame=lambda *args: calls.append(args)
    )
    decoded, reference = decoded_NCHW.double() / 255, reference_NCHW.double() / 255
    assert calls == [(done, 5) for done in range(1, 6)]
    assert quality.num_frames == 5
    assert quality.per_frame_psnr_db[0] == pytest.approx(90)
    assert quality.per_frame_psnr_db == pytest.approx(
        psnr_per_frame_db(decoded, reference).tolist(), abs=1e-12
    )
    assert quality.psnr_db == pytest.approx(mean_frame_psnr_db(decoded, reference), abs=1e-12)
    assert quality.pooled_psnr_db == pytest.approx(pooled_psnr_db(decoded, reference), abs=1e-12)
    assert quality.ms_ssim_window == 5
    assert quality.per_frame_ms_ssim == pytest.approx(required_ms_ssim(decoded, reference).tolist(), abs=1e-6)
    assert quality.ms_ssim == pytest.approx(sum(quality.per_frame_ms_ssim or ()) / 5)


def test_small_frames_have_no_ms_ssim() -> None:
    clip_NCHW = noisy_clip(2, 16, 16, 1)
    quality = compare(Frames(clip_NCHW), Frames(clip_NCHW))
    assert quality.psnr_db == pytest.approx(90)
    assert (quality.ms_ssim, quality.ms_ssim_window, quality.per_frame_ms_ssim) == (None, None, None)


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 18, 16), (2, 16, 18)])
def test_sources_of_other_shape_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match=rf"2 frames of 16×16 .* {shape[0]} frames of {shape[2]}×{shape[1]}"):
        compare(Frames(noisy_clip(2, 16, 16, 0)), Frames(noisy_clip(*shape, 0)))


def test_meter_refuses_what_it_cannot_compare() -> None:
    meter = ClipQualityMeter()
    with pytest.raises(ValueError, match="no frame"):
        meter.quality()
    with pytest.raises(ValueError, match="uint8"):
        meter.add(torch.zeros(1, 3, 4, 4), noisy_clip(1, 4, 4, 0))
    meter.add(noisy_clip(1, 4, 4, 0), noisy_clip(1, 4, 4, 1))
    with pytest.raises(ValueError, match="differ"):
        meter.add(noisy_clip(1, 4, 5, 0), noisy_clip(1, 4, 5, 1))


def test_clip_quality_checks_itself() -> None:
    with pytest.raises(ValueError, match="at least one"):
        ClipQuality((), None, None)
    with pytest.raises(ValueError, match="2 frames"):
        ClipQuality((1e-3, 1e-3), (0.9,), 11)
    with pytest.raises(ValueError, match="window"):
        ClipQuality((1e-3,), (0.9,), None)


def test_parts_add_up_to_the_whole() -> None:
    """Means weigh parts by their frames, and errors are averaged, not decibels."""
    quality = ClipQuality((1e-2, 1e-3, 1e-4, 1e-3, 5e-4), (0.5, 0.6, 0.7, 0.8, 0.9), 11)
    whole = Quality.of_all([quality.part(0, 3), quality.part(3, 5)])
    assert whole.num_frames == 5
    assert whole.mse == pytest.approx(2.52e-3)
    assert whole.pooled_psnr_db == pytest.approx(-10 * math.log10(2.52e-3), abs=1e-5)
    assert whole.psnr_db == pytest.approx(quality.psnr_db)
    assert whole.ms_ssim == pytest.approx(0.7)
    mixed = Quality.of_all([quality.part(0, 3), ClipQuality((1e-3,), None, None).whole])
    assert (mixed.ms_ssim, mixed.ms_ssim_window) == (None, None)


@settings(max_examples=40)
@given(cut=st.integers(1, 5), seed=st.integers(0, 1000), step=st.integers(1, 64))
def test_meter_does_not_depend_on_batches_and_pooled_is_no_more_than_the_mean(
    cut: int, seed: int, step: int
) -> None:
    reference_NCHW = noisy_clip(6, 5, 7, seed)
    decoded_NCHW = (reference_NCHW // step) * step
    whole, parts = ClipQualityMeter(), ClipQualityMeter()
    whole.add(decoded_NCHW, reference_NCHW)
    for part in (slice(None, cut), slice(cut, None)):
        parts.add(decoded_NCHW[part], reference_NCHW[part])
    assert whole.quality() == parts.quality()
    assert whole.quality().pooled_psnr_db <= whole.quality().psnr_db + 1e-9


# -- YUV-PSNR ------------------------------------------------------------------------------------------------


def gray_clip(*levels: int, height: int = 6, width: int = 8) -> Tensor:
    return torch.stack([torch.full((3, height, width), level, dtype=torch.uint8) for level in levels])


def test_yuv_psnr_weighs_six_to_one_to_one() -> None:
    assert yuv_psnr_611_db([255**2, 25.5**2, 2.55**2]) == pytest.approx((6 * 0 + 20 + 40) / 8, abs=1e-4)


@pytest.mark.parametrize("width", [8, 7])
def test_yuv_psnr_of_gray_frames_by_hand(width: int) -> None:
    """Limited range: gray 100 has Y = 16 + 219/255 · 100 → 102, gray 110 has 110; both have U = V = 128."""
    reference, decoded = gray_clip(100, 100, width=width), gray_clip(110, 100, width=width)
    quality = compare(Frames(decoded), Frames(reference), yuv=True)
    luma_db = 20 * math.log10(255 / 8)
    first = (6 * luma_db + 90 + 90) / 8
    assert quality.yuv_psnr_db == pytest.approx((first + 90) / 2, abs=1e-3)
    pooled = (6 * (luma_db + 10 * math.log10(2)) + 90 + 90) / 8
    assert quality.pooled_yuv_psnr_db == pytest.approx(pooled, abs=1e-3)


def test_yuv_psnr_uses_the_matrix_of_the_reference() -> None:
    """A change from gray to green moves Y by 0.587 of it in BT.601, by 0.715 in BT.709."""
    gray = gray_clip(100)
    green = gray.clone()
    green[:, 1] += 40
    distances = {}
    for matrix in ("bt601", "bt709"):
        meter = YuvPsnrMeter(ColorSpec(matrix=matrix, range="full"))  # type: ignore[arg-type]
        (reference,), (decoded,) = meter.planes(gray), meter.planes(green)
        distances[matrix] = int(decoded[0][0, 0]) - int(reference[0][0, 0])
    assert distances == {"bt601": pytest.approx(0.587 * 40, abs=1), "bt709": pytest.approx(0.715 * 40, abs=1)}


def test_planes_of_a_decoder_are_measured_as_they_are() -> None:
    clip = gray_clip(100, 110)
    meter = YuvPsnrMeter(ColorSpec())
    batches = []
    for batch in FrameStream.of(Frames(clip), batch_size=1):
        ((luma, *chroma),) = meter.planes(batch.rgb_NCHW)
        batches.append(FrameBatch(batch.index_N, batch.rgb_NCHW, ((luma + 1, *chroma),)))
    quality = compare(FrameStream(Frames(clip).spec, batches), Frames(clip), yuv=True)
    assert quality.psnr_db == pytest.approx(90)
    assert quality.yuv_psnr_db == pytest.approx((6 * 20 * math.log10(255) + 180) / 8, abs=1e-3)
    with pytest.raises(ValueError, match="plane sizes differ"):
        meter.add(meter.planes(clip), meter.planes(gray_clip(1, 2, height=4)))


def test_yuv_psnr_is_measured_only_where_asked_for() -> None:
    quality = compare(Frames(gray_clip(100)), Frames(gray_clip(110)))
    assert (quality.yuv_psnr_db, quality.pooled_yuv_psnr_db) == (None, None)
