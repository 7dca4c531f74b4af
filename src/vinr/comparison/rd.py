"""Rate-distortion points and curves, and what one curve saves against another (Bjøntegaard deltas).

BD-rate is the mean difference of log rate at equal quality, BD-quality the mean difference of quality at
equal log rate, both over what the two curves share; the interpolation between points is the ``bjontegaard``
package's. Source: G. Bjøntegaard, VCEG-M33, 2001; on the choice of interpolation: Herglotz et al., 2022.
MS-SSIM is taken as −10·log10(1 − MS-SSIM), since nearly all of its own scale lies close to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise, product
from typing import Final, Literal

from vinr.errors import UsageError, plural
from vinr.quality.clip import ClipQuality, bits_per_pixel

Measure = Literal["psnr_db", "pooled_psnr_db", "yuv_psnr_db", "pooled_yuv_psnr_db", "ms_ssim_db"]
Method = Literal["pchip", "akima", "cubic"]
Kind = Literal["vinr", "anchor", "published"]

MEASURES: Final[dict[Measure, str]] = {
    "psnr_db": "RGB-PSNR, mean of frames (dB)",
    "pooled_psnr_db": "RGB-PSNR of mean MSE (dB)",
    "yuv_psnr_db": "YUV-PSNR 6:1:1, mean of frames (dB)",
    "pooled_yuv_psnr_db": "YUV-PSNR 6:1:1 of mean MSE (dB)",
    "ms_ssim_db": "MS-SSIM, −10·log10(1 − x) (dB)",
}
# As verdicts name them.
SHORT_MEASURES: Final[dict[Measure, str]] = {"psnr_db": "RGB", "yuv_psnr_db": "YUV 6:1:1"}
# A cubic through log rate has four coefficients, and the standard conditions have four points.
MIN_POINTS: Final = 4


@dataclass(frozen=True)
class RDPoint:
    """One file: what it costs and how good it is. ``None`` stands for what is not known or not published.

    ``setting`` tells the points of a curve apart (``CRF 28``); ``options`` says exactly how it was made.
    """

    setting: str
    bpp: float
    num_bytes: int | None = None
    psnr_db: float | None = None
    pooled_psnr_db: float | None = None
    yuv_psnr_db: float | None = None
    pooled_yuv_psnr_db: float | None = None
    ms_ssim: float | None = None
    ms_ssim_window: int | None = None
    encode_seconds: float | None = None
    decode_fps: float | None = None
    per_frame_psnr_db: tuple[float, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.bpp > 0 or math.isinf(self.bpp):
            raise ValueError(f"a point needs a positive rate, got {self.bpp} bpp")

    @classmethod
    def measured(
        cls,
        setting: str,
        quality: ClipQuality,
        *,
        num_bytes: int,
        num_pixels: int,
        decode_fps: float,
        encode_seconds: float | None = None,
        options: Mapping[str, str],
    ) -> RDPoint:
        """Return the point of a file of ``num_bytes`` for ``num_pixels`` (frames × rows × columns)."""
        return cls(
            setting=setting,
            bpp=bits_per_pixel(num_bytes, num_pixels),
            num_bytes=num_bytes,
            psnr_db=quality.psnr_db,
            pooled_psnr_db=quality.pooled_psnr_db,
            yuv_psnr_db=quality.yuv_psnr_db,
            pooled_yuv_psnr_db=quality.pooled_yuv_psnr_db,
            ms_ssim=quality.ms_ssim,
            ms_ssim_window=quality.ms_ssim_window,
            encode_seconds=encode_seconds,
            decode_fps=decode_fps,
            per_frame_psnr_db=quality.per_frame_psnr_db,
            options=options,
        )

    @property
    def ms_ssim_db(self) -> float | None:
        """MS-SSIM as −10·log10(1 − MS-SSIM), at most 90 dB."""
        # Identical frames have MS-SSIM 1, which would be infinite: 1e-9 stands for 90 dB.
        return None if self.ms_ssim is None else -10 * math.log10(max(1 - self.ms_ssim, 1e-9))

    def value(self, measure: Measure) -> float | None:
        """Return the point's quality in dB by name."""
        value: float | None = getattr(self, measure)
        return value


@dataclass(frozen=True)
class RDCurve:
    """The points of one codec, by rising rate. ``source`` says what made them, or who published them.

    Of networks ``network`` is the model as the page calls it, the same for all times, and ``budget_seconds``
    the wall-clock time that each of the points was given; None: none, or not the same.
    """

    name: str
    kind: Kind
    points: tuple[RDPoint, ...]
    source: str = ""
    network: str = ""
    budget_seconds: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", tuple(sorted(self.points, key=lambda point: point.bpp)))

    def samples(self, measure: Measure) -> list[tuple[float, float]]:
        """Return (bpp, quality in dB) of the points that have this quality, by rising rate."""
        samples = []
        for point in self.points:
            value = point.value(measure)
            if value is not None:
                samples.append((point.bpp, value))
        return samples

    @property
    def fair_measure(self) -> Measure:
        """The quality by which a codec is judged beside networks, which have all colours of all pixels.

        A codec of 4:2:0 has lost three colour samples in four before it begins: in RGB that would count
        against it, on small frames by a third of its bits. So YUV-PSNR 6:1:1 decides where its points have
        it; and where nothing else was published.
        """
        loses_colours = any(point.options.get("chroma") == "4:2:0" for point in self.points)
        has_yuv = all(point.yuv_psnr_db is not None for point in self.points)
        has_rgb = any(point.psnr_db is not None for point in self.points)
        return "yuv_psnr_db" if has_yuv and (loses_colours or not has_rgb) else "psnr_db"

    def nearest(self, bpp: float) -> RDPoint:
        """Return the point whose rate is closest to ``bpp`` by ratio."""
        # Rates of a curve span factors: 0.2 bpp is as far from 0.1 as 0.05 is.
        return min(self.points, key=lambda point: abs(math.log(point.bpp / bpp)))


@dataclass(frozen=True)
class BDResult:
    """What ``test`` takes compared with ``anchor``.

    ``rate_percent``: bits for the same quality, negative where ``test`` saves. ``quality_db``: quality at the
    same bits. ``overlap``: the range of qualities that both curves cover, and ``overlap_share`` its part of
    the range that either covers. Where nothing can be said, ``reason`` says why and all else is None.
    """

    anchor: str
    test: str
    measure: Measure
    method: Method
    rate_percent: float | None = None
    quality_db: float | None = None
    overlap: tuple[float, float] | None = None
    overlap_share: float | None = None
    reason: str = ""


def bd_rate(
    anchor: RDCurve, test: RDCurve, *, measure: Measure = "psnr_db", method: Method = "pchip"
) -> float:
    """Return by how many percent ``test`` needs more bits than ``anchor`` for the same quality.

    Raises
    ------
    UsageError
        If a curve has fewer than four points, does not rise, or the two share no quality.
    """
    from bjontegaard import bd_rate as delta  # loads matplotlib.pyplot

    return _delta(delta, anchor, test, measure, method, axis=1)


def bd_quality(
    anchor: RDCurve, test: RDCurve, *, measure: Measure = "psnr_db", method: Method = "pchip"
) -> float:
    """Return by how many dB ``test`` is better than ``anchor`` at the same rate (BD-PSNR).

    Raises
    ------
    UsageError
        If a curve has fewer than four points, does not rise, or the two share no rate.
    """
    from bjontegaard import bd_psnr as delta

    return _delta(delta, anchor, test, measure, method, axis=0)


def bd_table(
    curves: Sequence[RDCurve], measures: Sequence[Measure], *, method: Method = "pchip"
) -> tuple[BDResult, ...]:
    """Return every curve against every anchor or published curve; refusals carry their reason."""
    results = []
    for measure, test, anchor in product(measures, curves, curves):
        # Networks are compared with codecs, not with each other.
        if anchor is not test and anchor.kind != "vinr":
            results.append(_bd_result(anchor, test, measure, method))
    return tuple(results)


def equal_time_table(
    curves: Sequence[RDCurve], measures: Sequence[Measure], *, method: Method = "pchip"
) -> tuple[BDResult, ...]:
    """Return each pair of networks that were given the same time, the later against the earlier one."""
    results = []
    for measure, (anchor, test) in product(measures, combinations(curves, 2)):
        if test.budget_seconds is not None and test.budget_seconds == anchor.budget_seconds:
            results.append(_bd_result(anchor, test, measure, method))
    return tuple(results)


def _bd_result(anchor: RDCurve, test: RDCurve, measure: Measure, method: Method) -> BDResult:
    try:
        percent = bd_rate(anchor, test, measure=measure, method=method)
        quality_db = bd_quality(anchor, test, measure=measure, method=method)
    except UsageError as error:
        return BDResult(anchor.name, test.name, measure, method, reason=str(error))
    #   anchor      ├──────────────┤            qualities, low to high
    #   test               ├───────────────┤
    #   overlap            ├───────┤            of  ├──────────────────────┤  both together
    first, second = _range(anchor, measure, axis=1), _range(test, measure, axis=1)
    overlap = max(first[0], second[0]), min(first[1], second[1])
    share = (overlap[1] - overlap[0]) / (max(first[1], second[1]) - min(first[0], second[0]))
    return BDResult(anchor.name, test.name, measure, method, percent, quality_db, overlap, share)


def _delta(
    delta: Callable[..., float], anchor: RDCurve, test: RDCurve, measure: Measure, method: Method, axis: int
) -> float:
    """Call the package on checked points; ``axis`` 0 integrates over rate, 1 over quality."""
    anchor_rates, anchor_values = zip(*_checked(anchor, measure), strict=True)
    test_rates, test_values = zip(*_checked(test, measure), strict=True)
    first_low, first_high = _range(anchor, measure, axis=axis)
    second_low, second_high = _range(test, measure, axis=axis)
    if max(first_low, second_low) >= min(first_high, second_high):
        what, unit = (("rate", "bpp"), ("quality", "dB"))[axis]
        raise UsageError(
            f"{test.name} and {anchor.name} do not overlap in {what}: {second_low:.4g} to {second_high:.4g} "
            f"{unit}, {first_low:.4g} to {first_high:.4g} {unit}; add points between"
        )
    # How much the curves share is reported beside the value, so the package need not warn.
    curves = list(anchor_rates), list(anchor_values), list(test_rates), list(test_values)
    return float(delta(*curves, method=method, require_matching_points=False, min_overlap=0))


def _range(curve: RDCurve, measure: Measure, *, axis: int) -> tuple[float, float]:
    values = [sample[axis] for sample in curve.samples(measure)]
    return min(values), max(values)


def _checked(curve: RDCurve, measure: Measure) -> list[tuple[float, float]]:
    samples = curve.samples(measure)
    if len(samples) < MIN_POINTS:
        raise UsageError(
            f"{curve.name} has {plural(len(samples), 'point')} of {MEASURES[measure]}, "
            f"{MIN_POINTS} are needed"
        )
    for (low_bpp, low), (high_bpp, high) in pairwise(samples):
        if high_bpp <= low_bpp or high <= low:
            raise UsageError(
                f"{curve.name} does not rise in {MEASURES[measure]}: {low:.3f} at {low_bpp:.4f} bpp, "
                f"{high:.3f} at {high_bpp:.4f} bpp; leave a point out"
            )
    return samples
