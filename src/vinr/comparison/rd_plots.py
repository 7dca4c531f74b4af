"""Figures of a comparison: quality over rate, quality over time."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Final

from vinr.comparison.rd import MEASURES, Kind, Measure, RDCurve, RDPoint
from vinr.decoding.byte_plot import OKABE_ITO

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Yellow is too pale for a line; black and grey follow. Markers are a second sign.
COLORS: Final = (*[color for name, color in OKABE_ITO.items() if name != "yellow"], "#000000", "#8c8c8c")
MARKERS: Final = "osD^vP*X<>hp"
LINES: Final[dict[Kind, tuple[str, float]]] = {
    "vinr": ("-", 2.4),
    "anchor": ("-", 1.2),
    "published": ("--", 1.0),
}
FIGURE_INCHES: Final = (8.0, 5.0)
FEW_TICKS: Final = (1, 2, 5)


def draw_rd(curves: Sequence[RDCurve], measure: Measure, *, title: str) -> Figure:
    """Draw quality over bits per pixel (logarithmic), a line for each curve that has this quality."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    figure, axes = _figure(title)
    for number, curve in enumerate(curves):
        samples = curve.samples(measure)
        # Colours go by all curves: one without this quality leaves its colour out.
        if samples:
            style, width = LINES[curve.kind]
            axes.plot(
                *zip(*samples, strict=True),
                color=COLORS[number % len(COLORS)],
                marker=MARKERS[number % len(MARKERS)],
                markerfacecolor="white" if curve.kind == "published" else None,
                markersize=5,
                linestyle=style,
                linewidth=width,
                label=f"{curve.name} (published)" if curve.kind == "published" else curve.name,
            )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=FEW_TICKS))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("bits per pixel (size of the file)")
    axes.set_ylabel(MEASURES[measure])
    _legend(axes)
    return figure


def draw_per_frame(points: Sequence[tuple[RDCurve, RDPoint, int]], *, title: str) -> Figure:
    """Draw RGB-PSNR over the frame number; each point comes with its curve and the curve's number."""
    figure, axes = _figure(title)
    for curve, point, number in points:
        axes.plot(
            range(len(point.per_frame_psnr_db)),
            point.per_frame_psnr_db,
            color=COLORS[number % len(COLORS)],
            linewidth=LINES[curve.kind][1],
            # A line through one point cannot be seen.
            marker="o" if len(point.per_frame_psnr_db) == 1 else None,
            label=f"{curve.name}, {point.bpp:.4f} bpp",
        )
    axes.set_xlabel("frame")
    axes.set_ylabel("RGB-PSNR (dB)")
    _legend(axes)
    return figure


def svg_data_uri(figure: Figure) -> str:
    """Return the figure as a ``data:`` address for a page; the same figure gives the same text."""
    from matplotlib import rc_context

    drawn = BytesIO()
    # Without a salt and a date of its own, each drawing would have other names of clip paths.
    with rc_context({"svg.hashsalt": "vinr"}):
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + b64encode(drawn.getvalue()).decode("ascii")


def _figure(title: str) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=FIGURE_INCHES)
    figure.set_layout_engine("constrained")
    FigureCanvasAgg(figure)  # without pyplot: no window system, no global list of figures
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend(axes: Axes) -> None:
    """Put the legend beside the axes, where it hides no curve."""
    if axes.get_legend_handles_labels()[0]:
        legend = axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8, frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)  # a dollar sign in a name is no formula
