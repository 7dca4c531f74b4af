"""``quality``: a dial, whose three places give rising sizes, times and forecasts."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

import vinr
from clips import moving_shapes, write_clip
from command_line import Run, refused
from vinr.encoding.forecast import Workload, expected_psnr
from vinr.encoding.plan import QUALITIES, QualityName, count_parameters, plan_encode
from vinr.encoding.trial import guess_costs
from vinr.errors import UsageError
from vinr.units import SegmentLength
from vinr.video.spec import VideoSpec

CLIP = VideoSpec(48, 90, 160)
DIAL: tuple[QualityName, ...] = ("low", "medium", "high")


def forecast_psnr_db(quality: QualityName) -> float:
    """What a default encode is told to come to, on a slow machine."""
    plan = plan_encode([CLIP], quality=quality)
    costs = guess_costs(plan.presets[0], CLIP, multiply_rate=lambda: 8e8)
    work = Workload(costs, num_frames=48, height=90, width=160)
    assert plan.seconds is not None
    expected = expected_psnr(work.epochs_in(plan.seconds) * costs.steps_per_epoch)
    assert expected is not None
    return expected.likely


def test_the_dial_has_three_places_and_medium_changes_nothing() -> None:
    assert tuple(QUALITIES) == DIAL
    assert QUALITIES["medium"] == (1.0, 1.0)
    usual, medium = plan_encode([CLIP]), plan_encode([CLIP], quality="medium")
    assert (usual.presets, usual.seconds) == (medium.presets, medium.seconds)


def test_parameters_time_and_forecast_rise() -> None:
    plans = [plan_encode([CLIP], quality=quality) for quality in DIAL]
    counts = [count_parameters(plan, [CLIP]) for plan in plans]
    seconds = [plan.seconds or 0.0 for plan in plans]
    for place, count, time in zip(DIAL, counts, seconds, strict=True):
        share, duration = QUALITIES[place]
        assert count == pytest.approx(share * counts[1], rel=0.03)
        assert time == pytest.approx(duration * seconds[1])
    forecasts = list(map(forecast_psnr_db, DIAL))
    for values in (counts, seconds, forecasts):
        assert all(more > less for less, more in pairwise(values)), values


def test_what_is_given_stays_as_it_is() -> None:
    high = plan_encode([CLIP], quality="high", seconds=77.0)
    assert high.seconds == 77
    assert plan_encode([CLIP], quality="low", epochs=9).presets[0].fit.epochs == 9
    assert count_parameters(high, [CLIP]) > 1.5 * count_parameters(plan_encode([CLIP]), [CLIP])
    for fixed in ({"num_parameters": 30_000}, {"preset": "hnerv-tiny"}):
        with pytest.raises(UsageError, match="chooses the size of the network, and so does"):
            plan_encode([CLIP], quality="low", **fixed)  # type: ignore[arg-type]


def test_each_segment_has_its_share() -> None:
    low, high = (
        plan_encode([CLIP], quality=quality, segment=SegmentLength(frames=24)) for quality in ("low", "high")
    )
    assert len(low.presets) == len(high.presets) == 2
    assert count_parameters(high, [CLIP]) == pytest.approx(4 * count_parameters(low, [CLIP]), rel=0.05)


def test_bytes_rise(tmp_path: Path) -> None:
    video = write_clip(tmp_path / "a.mkv", moving_shapes(num_frames=4, height=48, width=64))
    sizes = [
        vinr.encode(video, tmp_path / f"{quality}.vinr", quality=quality, epochs=1, device="cpu").num_bytes
        for quality in DIAL
    ]
    assert all(more > 1.2 * less for less, more in pairwise(sizes)), sizes


def test_other_places_are_refused(run: Run, tiny_video: Path, tmp_path: Path) -> None:
    said = ("unknown quality 'higest'; there are low, medium, high", "did you mean 'high'?")
    refused(run("encode", tiny_video, tmp_path / "a.vinr", "--quality", "higest"), *said)
    refused(
        run("plan", tiny_video, "--quality", "best"), "unknown quality 'best'; there are low, medium, high"
    )
    assert list(tmp_path.iterdir()) == []
