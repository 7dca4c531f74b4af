"""The record of quality: means over frames, the error of all frames, and parts put together."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vinr.quality.measures import ms_ssim_per_frame, mse_per_frame, psnr_from_mse_db, ssim_per_frame
from vinr.quality.record import Quality, psnr_of_mse_db

ERRORS = st.lists(st.floats(0, 1), min_size=1, max_size=9)


@pytest.mark.parametrize(
    ("mse", "psnr_db"), [(0.0, 90.0), (1.0, 0.0), (0.01, 20.0), (1 / 255**2, 48.1308), (1e-9, 86.9897)]
)
def test_psnr_of_an_error(mse: float, psnr_db: float) -> None:
    assert psnr_of_mse_db(mse) == pytest.approx(psnr_db, abs=1e-3)
    assert float(psnr_from_mse_db(torch.tensor(mse, dtype=torch.float64))) == pytest.approx(
        psnr_of_mse_db(mse)
    )


def test_without_epsilon_identical_frames_have_no_bound() -> None:
    assert math.isinf(float(psnr_from_mse_db(torch.zeros(()), epsilon=0)))


def test_the_mean_of_psnr_is_not_the_psnr_of_the_mean() -> None:
    found = Quality.of([0.01, 0.0001], None, None)
    assert found.psnr_db == pytest.approx(30, abs=1e-4)
    assert found.pooled_psnr_db == pytest.approx(-10 * math.log10(0.00505), abs=1e-4)
    assert (found.num_frames, found.ms_ssim, found.ms_ssim_window) == (2, None, None)


@settings(max_examples=40)
@given(ERRORS)
def test_pooling_never_raises_the_psnr(errors: list[float]) -> None:
    found = Quality.of(errors, None, None)
    assert found.pooled_psnr_db <= found.psnr_db + 1e-9
    assert min(map(psnr_of_mse_db, errors)) - 1e-9 <= found.pooled_psnr_db


@settings(max_examples=40)
@given(st.lists(ERRORS, min_size=1, max_size=4))
def test_parts_are_the_frames_of_all_of_them(parts: list[list[float]]) -> None:
    found = Quality.of_all([Quality.of(part, [0.9] * len(part), 11) for part in parts])
    together = [error for part in parts for error in part]
    expected = Quality.of(together, [0.9] * len(together), 11)
    assert found.num_frames == expected.num_frames
    assert found.psnr_db == pytest.approx(expected.psnr_db)
    assert found.mse == pytest.approx(expected.mse)
    assert found.ms_ssim == pytest.approx(0.9)
    assert found.ms_ssim_window == 11


def test_ms_ssim_of_parts_is_there_only_where_all_have_it() -> None:
    large, small = Quality.of([0.1, 0.1], [0.8, 0.9], 11), Quality.of([0.2], None, None)
    assert Quality.of_all([large, large]).ms_ssim == pytest.approx(0.85)
    for parts in ([large, small], [small, large]):
        found = Quality.of_all(parts)
        assert (found.ms_ssim, found.ms_ssim_window) == (None, None)
        assert found.num_frames == 3


def test_longer_parts_count_more() -> None:
    found = Quality.of_all([Quality.of([0.1] * 3, [1.0] * 3, 5), Quality.of([0.5], [0.6], 5)])
    assert found.mse == pytest.approx(0.2)
    assert found.ms_ssim == pytest.approx(0.9)


def test_each_frame_has_its_own_value() -> None:
    target = torch.rand(3, 3, 176, 180)
    prediction = target.clone()
    prediction[1] = (target[1] + 0.1 * torch.randn(3, 176, 180)).clamp(0, 1)
    prediction[2] = 1 - target[2]
    mse, ssim = mse_per_frame(prediction, target), ssim_per_frame(prediction, target)
    ms_ssim = ms_ssim_per_frame(prediction, target, window=11)
    for value in (mse, ssim, ms_ssim):
        assert value.shape == (3,)
    assert mse[0] == 0
    assert float(mse[1]) < float(mse[2])
    assert float(ssim[0]) == pytest.approx(1, abs=1e-6)
    assert float(ms_ssim[0]) == pytest.approx(1, abs=1e-6)
    assert float(ssim[0]) > float(ssim[1]) > 0 > float(ssim[2])  # a negative is worse than nothing
    assert 0 <= float(ms_ssim[2]) < float(ms_ssim[1]) < 1
