"""The verdict of a comparison: bytes at equal quality, and nothing where that cannot be said."""

from __future__ import annotations

import pytest

from vinr.comparison.rd import RDCurve, RDPoint
from vinr.comparison.verdict import Verdict, bytes_at, verdicts


def curve(name: str, kind: str, *samples: tuple[float, int]) -> RDCurve:
    points = tuple(RDPoint(str(size), size / 1000, num_bytes=size, psnr_db=psnr) for psnr, size in samples)
    return RDCurve(name, kind, points)  # type: ignore[arg-type]


X264 = curve("x264 medium", "anchor", (30.0, 1000), (34.0, 4000), (38.0, 16_000))


@pytest.mark.parametrize(("psnr_db", "expected"), [(30, 1000), (32, 2000), (36, 8000), (38, 16_000)])
def test_bytes_between_points_lie_on_a_line_of_their_logarithm(psnr_db: float, expected: int) -> None:
    assert bytes_at(X264, psnr_db) == pytest.approx(expected)


@pytest.mark.parametrize("psnr_db", [29.9, 38.1])
def test_nothing_is_computed_beyond_the_points(psnr_db: float) -> None:
    assert bytes_at(X264, psnr_db) is None


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (
            [(29.0, 900), (32.0, 5000)],
            Verdict("x264 medium needs 2.5 times fewer bytes than vinr hnerv at 32.0 dB (RGB)", False),
        ),
        (
            [(32.0, 24_000)],
            Verdict("x264 medium needs 12 times fewer bytes than vinr hnerv at 32.0 dB (RGB)", False),
        ),
        # The file that does best beside the codec speaks for the network.
        (
            [(32.0, 5000), (36.0, 4000)],
            Verdict("vinr hnerv needs 2.0 times fewer bytes than x264 medium at 36.0 dB (RGB)", True),
        ),
        (
            [(24.0, 900), (28.0, 2000)],
            Verdict(
                "x264 medium is better with fewer bytes: 30.0 dB (RGB) in 1,000 bytes, "
                "where the best network has 28.0 dB in 2,000",
                False,
            ),
        ),
        (
            [(39.0, 15_000)],
            Verdict(
                "networks are better than x264 medium with fewer bytes: 39.0 dB (RGB) in 15,000 bytes, "
                "where it has 38.0 dB in 16,000",
                True,
            ),
        ),
        (
            [(28.0, 800)],
            Verdict(
                "no verdict on x264 medium: it was run from 30.0 to 38.0 dB (RGB), "
                "networks have 28.0 to 28.0 dB; add points between",
                None,
            ),
        ),
    ],
)
def test_a_codec_has_one_verdict(samples: list[tuple[float, int]], expected: Verdict) -> None:
    published = RDCurve("HM", "published", (RDPoint("", 0.1, psnr_db=35.0),))
    assert verdicts([curve("vinr hnerv", "vinr", *samples), X264, published]) == [expected]


def test_without_networks_there_is_no_verdict() -> None:
    assert verdicts([X264]) == []


def test_a_codec_of_half_the_colours_is_judged_in_yuv() -> None:
    # In RGB the network would win: what 4:2:0 loses is no matter of coding.
    def point(psnr: float, yuv: float | None, size: int, **options: str) -> RDPoint:
        return RDPoint(str(size), size / 1000, num_bytes=size, psnr_db=psnr, yuv_psnr_db=yuv, options=options)

    network = RDCurve("vinr", "vinr", (point(32.0, 33.0, 2000),))
    subsampled = [point(31.0, 33.0, 1000, chroma="4:2:0"), point(33.0, 36.0, 4000, chroma="4:2:0")]
    full = [point(31.0, 33.0, 1000, chroma="4:4:4"), point(33.0, 36.0, 4000, chroma="4:4:4")]
    found = verdicts([network, RDCurve("x264", "anchor", (*subsampled,)), RDCurve("444", "anchor", (*full,))])
    assert [verdict.text for verdict in found] == [
        "x264 needs 2.0 times fewer bytes than vinr at 33.0 dB (YUV 6:1:1)",
        "444 needs 1.0 times fewer bytes than vinr at 32.0 dB (RGB)",
    ]
    unmeasured = RDCurve("old", "anchor", (point(31.0, None, 1000, chroma="4:2:0"),))
    assert unmeasured.fair_measure == "psnr_db"
