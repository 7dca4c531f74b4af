"""Points of rate-distortion curves as jobs keep them: what a curve saves, and its value at a rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from vinr.comparison.published import published_curves
from vinr.comparison.rd import RDCurve, RDPoint, bd_quality, bd_rate
from vinr.errors import UsageError, argument

Points = Sequence[Mapping[str, Any]]
# What is kept of a point; seconds and frames per second depend on the machine.
KEPT = ("bpp", "num_bytes", "psnr_db", "ms_ssim", "encode_seconds", "decode_fps")


def point_values(point: RDPoint) -> dict[str, float]:
    """Return what a point is kept as: its numbers that are known, by name."""
    values = asdict(point)
    return {name: values[name] for name in KEPT if values[name] is not None}


def mean_point(
    points: Points, num_pixels: Sequence[int] | None = None, num_frames: Sequence[int] | None = None
) -> dict[str, float]:
    """Return the mean of ``points`` in what all of them have.

    Of points of several clips, rates are weighted by ``num_pixels`` and quality by ``num_frames``: that is
    the rate of all bytes together, and the mean over all frames.
    """
    weights = {"bpp": num_pixels, "psnr_db": num_frames, "ms_ssim": num_frames}
    mean = {}
    for name, weight in weights.items():
        known = [point[name] for point in points if name in point]
        if len(known) == len(points):
            mean[name] = fmean(known, weight)
    return mean


def published_points(text: str, data: Path | None) -> list[dict[str, float]]:
    """Return the points of ``FILE.csv#CLIP#CODEC``, the file in the folder ``data``.

    Raises
    ------
    UsageError
        If the text is not of that form, there is no folder or no such file in it, clip or codec.
    """
    file, _, rest = text.partition("#")
    clip, _, codec = rest.partition("#")
    if not codec:
        raise UsageError(f"published {text!r}: write FILE.csv#CLIP#CODEC")
    if data is None:
        raise UsageError(f"published {text}: give the folder that holds {file}: {argument('data', 'FOLDER')}")
    if not (data / file).is_file():
        raise UsageError(
            f"published {text}: expected {data / file}; docs/published of the source has such files"
        )
    codecs = []
    for curve in published_curves(f"{data / file}#{clip}"):
        if curve.name == codec:
            return list(map(point_values, curve.points))
        codecs.append(curve.name)
    raise UsageError(f"published {text}: {data / file} has no codec {codec!r}; it has {', '.join(codecs)}")


def bd_of_points(anchor: Points, test: Points, what: Literal["rate_percent", "quality_db"]) -> float | None:
    """Return the Bjøntegaard delta by RGB-PSNR of ``test`` against ``anchor``; None where there is none.

    There is none of fewer than four points, of curves that do not rise, and of curves that share nothing.
    """
    delta = bd_rate if what == "rate_percent" else bd_quality
    # A table has a dash where a curve is too short; the reason would find no room in a cell.
    try:
        return delta(_curve("anchor", anchor), _curve("test", test))
    except UsageError:
        return None


def _curve(name: str, points: Points) -> RDCurve:
    rd_points = []
    for point in points:
        psnr_db = point.get("psnr_db")  # points that only have MS-SSIM stay out of the delta
        rd_points.append(RDPoint(setting="", bpp=point["bpp"], psnr_db=psnr_db))
    return RDCurve(name, "vinr", tuple(rd_points))


def value_at_rate(points: Points, bpp: float, name: str) -> float | None:
    """Return the value that a curve has at ``bpp``, between its points by log rate; None outside them."""
    known = sorted((point["bpp"], point[name]) for point in points if name in point)
    for (low, first), (high, second) in pairwise(known):
        if low <= bpp <= high:
            #  log low ──── log bpp ─────── log high
            #  first   ──── returned ────── second
            share = math.log(bpp / low) / math.log(high / low) if high > low else 0.0
            return float(first + share * (second - first))
    return None
