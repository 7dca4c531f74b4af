"""Plots of a comparison as data, which the page draws: quality over rate, over encoding time, over frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vinr.comparison.rd import MEASURES, Kind, Measure, RDCurve, RDPoint

SHOWN_MEASURES: Final[tuple[Measure, ...]] = ("psnr_db", "yuv_psnr_db", "ms_ssim_db")
TIME_NOTE: Final = (
    "Seconds are those that encoding took. A network that was gone on with after a kill has no encoding time "
    "and is left out here."
)


@dataclass(frozen=True)
class PlotPoint:
    """A point of a line: where it lies, and what the page says of it."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class PlotLine:
    """A line of a plot. ``number`` is that of the curve in the comparison: its colour in all plots.

    ``dash`` tells networks' lines of one colour apart.
    """

    name: str
    kind: Kind
    number: int
    points: tuple[PlotPoint, ...]
    dash: int = 0


@dataclass(frozen=True)
class Plot:
    """A plot with its axes; ``is_log`` says that x is logarithmic, ``note`` what is to be said below it."""

    title: str
    x_label: str
    y_label: str
    is_log: bool
    lines: tuple[PlotLine, ...]
    note: str = ""


def rd_plots(curves: Sequence[RDCurve]) -> list[Plot]:
    """Return quality over bits per pixel, a plot for each quality that any curve has."""
    plots = []
    for measure in SHOWN_MEASURES:
        lines = []
        for number, curve in enumerate(curves):
            points = []
            for point in curve.points:
                value = point.value(measure)
                if value is not None:
                    points.append(PlotPoint(point.bpp, value, describe_point(curve, point)))
            # Numbers go by all curves: one without this quality leaves its colour out.
            if points:
                name = f"{curve.name} (published)" if curve.kind == "published" else curve.name
                lines.append(PlotLine(name, curve.kind, number, tuple(points)))
        if lines:
            title, _, _ = MEASURES[measure].partition(" (dB")  # the axis has the unit
            plots.append(Plot(title, "bits per pixel (size of the file)", "dB", True, tuple(lines)))
    return plots


def time_plots(curves: Sequence[RDCurve]) -> list[Plot]:
    """Return RGB-PSNR over the seconds of encoding, a line per network and size; none without several times.

    Points whose encoding time is unknown are left out.
    """
    if len({curve.budget_seconds for curve in curves} - {None}) < 2:
        return []
    colors: dict[str, int] = {}  # of each network that of its first curve
    found: dict[str, dict[str, list[PlotPoint]]] = {}  # by network, then by size
    for number, curve in enumerate(curves):
        if curve.budget_seconds is None:
            continue
        colors.setdefault(curve.network, number)
        for point in curve.points:
            seconds, psnr_db = point.encode_seconds, point.psnr_db
            if seconds is None or psnr_db is None:
                continue
            text = f"{describe_point(curve, point)}, encoded in {seconds:,.0f} s"
            sizes = found.setdefault(curve.network, {})
            sizes.setdefault(point.setting, []).append(PlotPoint(seconds, psnr_db, text))
    lines = []
    for network, sizes in found.items():
        for dash, (setting, points) in enumerate(sizes.items()):
            name = f"{network}, {setting}"
            lines.append(PlotLine(name, "vinr", colors[network], tuple(points), dash))
    title = "RGB-PSNR over encoding time, a line per network and size"
    plot = Plot(title, "encoding time (s)", "RGB-PSNR (dB)", True, tuple(lines), TIME_NOTE)
    return [plot] if lines else []


def frame_plot(curves: Sequence[RDCurve], chosen: Sequence[tuple[RDCurve, RDPoint]]) -> Plot:
    """Return RGB-PSNR over the frame number, for one point each of some of the curves."""
    numbers = {curve.name: number for number, curve in enumerate(curves)}
    lines = []
    for curve, point in chosen:
        name = f"{curve.name}, {point.bpp:.4f} bpp"
        points = []
        for frame, value in enumerate(point.per_frame_psnr_db):
            points.append(PlotPoint(frame, value, f"{name}: frame {frame}, {value:.2f} dB"))
        lines.append(PlotLine(name, curve.kind, numbers[curve.name], tuple(points)))
    return Plot("Frame by frame, at about equal rate", "frame", "RGB-PSNR (dB)", False, tuple(lines))


def describe_point(curve: RDCurve, point: RDPoint) -> str:
    """Return what the page says of a point when the mouse is over it."""
    parts = [f"{curve.name} {point.setting}".strip(), f"{point.bpp:.4f} bpp"]
    if point.num_bytes is not None:
        parts.append(f"{point.num_bytes:,} bytes")
    if point.psnr_db is not None:
        parts.append(f"{point.psnr_db:.2f} dB")
    if point.ms_ssim is not None:
        parts.append(f"MS-SSIM {point.ms_ssim:.4f}")
    return ", ".join(parts)
