"""What a comparison comes to, a sentence per codec: how many times fewer bytes at equal quality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from vinr.comparison.rd import SHORT_MEASURES, Measure, RDCurve, RDPoint


@dataclass(frozen=True)
class Verdict:
    """One sentence on a codec and the networks; ``network_wins`` is None where they cannot be compared."""

    text: str
    network_wins: bool | None


def verdicts(curves: Sequence[RDCurve]) -> list[Verdict]:
    """Return a verdict for each codec that was run, on the networks that do best beside it.

    Bytes are compared at equal quality: by YUV-PSNR 6:1:1 beside codecs of 4:2:0, by RGB-PSNR beside others
    (:attr:`RDCurve.fair_measure`). A codec's bytes between two of its points follow from a straight line of
    log bytes over PSNR; beyond its points nothing is computed.
    """
    found = []
    for codec in curves:
        measure = codec.fair_measure
        networks = [curve for curve in curves if curve.kind == "vinr" and _measured(curve, measure)]
        if codec.kind == "anchor" and networks and _measured(codec, measure):
            found.append(_verdict(codec, networks, measure))
    return found


def bytes_at(curve: RDCurve, psnr_db: float, measure: Measure = "psnr_db") -> float | None:
    """Return the bytes that ``curve`` needs for ``psnr_db`` of ``measure``; None beyond its points."""
    for low, high in pairwise(_measured(curve, measure)):
        if low[0] <= psnr_db <= high[0]:
            share = (psnr_db - low[0]) / (high[0] - low[0]) if high[0] > low[0] else 0.0
            return math.exp((1 - share) * math.log(low[1]) + share * math.log(high[1]))
    return None


def _verdict(codec: RDCurve, networks: Sequence[RDCurve], measure: Measure) -> Verdict:
    # Of all files of networks the one that does best beside this codec speaks for them.
    best: tuple[float, RDCurve, RDPoint] | None = None
    for network in networks:
        for point in network.points:
            psnr_db = point.value(measure)
            if psnr_db is None or point.num_bytes is None:
                continue
            needed = bytes_at(codec, psnr_db, measure)
            if needed is not None and (best is None or point.num_bytes / needed < best[0]):
                best = point.num_bytes / needed, network, point
    if best is None:
        return _beyond(codec, networks, measure)
    ratio, network, point = best
    where = f"at {point.value(measure):.1f} dB ({SHORT_MEASURES[measure]})"
    if ratio >= 1:
        return Verdict(f"{codec.name} needs {_times(ratio)} fewer bytes than {network.name} {where}", False)
    return Verdict(f"{network.name} needs {_times(1 / ratio)} fewer bytes than {codec.name} {where}", True)


def _beyond(codec: RDCurve, networks: Sequence[RDCurve], measure: Measure) -> Verdict:
    """Return the verdict where no network has a quality that lies between two of the codec's points."""
    of_codec = _measured(codec, measure)
    smallest, largest = of_codec[0], of_codec[-1]
    points = [sample for network in networks for sample in _measured(network, measure)]
    worst, best = min(points), max(points)
    unit = f"dB ({SHORT_MEASURES[measure]})"
    if best[0] < smallest[0] and smallest[1] <= best[1]:
        text = (
            f"{codec.name} is better with fewer bytes: {smallest[0]:.1f} {unit} in {smallest[1]:,} bytes, "
            f"where the best network has {best[0]:.1f} dB in {best[1]:,}"
        )
        return Verdict(text, False)
    if worst[0] > largest[0] and worst[1] <= largest[1]:
        text = (
            f"networks are better than {codec.name} with fewer bytes: {worst[0]:.1f} {unit} in {worst[1]:,} "
            f"bytes, where it has {largest[0]:.1f} dB in {largest[1]:,}"
        )
        return Verdict(text, True)
    text = (
        f"no verdict on {codec.name}: it was run from {smallest[0]:.1f} to {largest[0]:.1f} {unit}, "
        f"networks have {worst[0]:.1f} to {best[0]:.1f} dB; add points between"
    )
    return Verdict(text, None)


def _measured(curve: RDCurve, measure: Measure) -> list[tuple[float, int]]:
    """Return (PSNR, bytes) of the points that have both, by rising quality."""
    samples = []
    for point in curve.points:
        psnr_db, num_bytes = point.value(measure), point.num_bytes
        if psnr_db is not None and num_bytes is not None:
            samples.append((psnr_db, num_bytes))
    return sorted(samples)


def _times(ratio: float) -> str:
    """Return a factor in words, with digits that mean something."""
    return f"{ratio:.0f} times" if ratio >= 9.95 else f"{ratio:.1f} times"
