"""How fits went: the PSNR of their rounds, as jobs keep it, and what a page shows of it."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from vinr.bench.pages import markdown_table, show_value
from vinr.decoding.byte_plot import OKABE_ITO
from vinr.fit import Event, RoundDone

OnEvent = Callable[[Event], None]
Curve = list[list[float]]
"""Points (epochs done, PSNR of the training frames in dB), in order."""

# Yellow is too pale for a line; black and grey follow.
COLORS: Final = (*[color for name, color in OKABE_ITO.items() if name != "yellow"], "#000000", "#8c8c8c")
FIGURE_INCHES: Final = (8.0, 5.0)
MAX_POINTS: Final = 40
# Where along a fit the table shows its PSNR.
SHOWN_SHARES: Final = (0.1, 0.25, 0.5, 0.75, 1.0)


class History:
    """Notes the rounds of a fit and passes its events on."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._points: Curve = []

    def __call__(self, event: Event) -> None:
        """Take an event of the fit."""
        if isinstance(event, RoundDone):
            self._points.append([round(event.epochs_done, 3), round(event.psnr_db, 3)])
        self._on_event(event)

    def curve(self) -> Curve:
        """Return at most 40 points, evenly spread; the last round is one of them."""
        last, count = len(self._points) - 1, min(len(self._points), MAX_POINTS)
        return [self._points[round(last * number / max(count - 1, 1))] for number in range(count)]


def psnr_after(curve: Sequence[Sequence[float]], share: float) -> float:
    """Return the PSNR after ``share`` (0 to 1) of the epochs of a curve, between points by a line."""
    epoch, before = share * curve[-1][0], curve[0]
    for point in curve:
        if point[0] >= epoch:
            span = point[0] - before[0]
            return before[1] + (point[1] - before[1]) * ((epoch - before[0]) / span if span else 1.0)
        before = point
    return curve[-1][1]


def mean_psnr_after(curves: Sequence[Curve], share: float) -> float:
    """Return the mean over curves of :func:`psnr_after`."""
    total = 0.0
    for curve in curves:
        total += psnr_after(curve, share)
    return total / len(curves)


def curves_table(rows: Mapping[str, Sequence[Curve]]) -> str:
    """Return a table of the mean PSNR of each row's fits along their epochs."""
    head = ["training PSNR, dB, after", *(f"{share:.0%}" for share in SHOWN_SHARES)]
    lines = []
    for label, curves in rows.items():
        means = [show_value(mean_psnr_after(curves, share), 2) for share in SHOWN_SHARES]
        lines.append([label, *means])
    return markdown_table(head, lines)


def curves_picture(panels: Mapping[str, Mapping[str, Sequence[Curve]]]) -> bytes:
    """Return a PNG with a panel per clip: PSNR over epochs, a line per row, the mean of its fits."""
    from matplotlib.figure import Figure

    width, height = FIGURE_INCHES
    figure = Figure(figsize=(width * 0.75 * len(panels), height), layout="constrained")
    for axes, (clip, rows) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for number, (label, curves) in enumerate(rows.items()):
            epochs, _ = zip(*curves[0], strict=True)
            means = [mean_psnr_after(curves, epoch / epochs[-1]) for epoch in epochs]
            # Colours repeat after a while; the line's style then tells rows apart.
            style = ("-", "--", ":")[number // len(COLORS) % 3]
            axes.plot(epochs, means, style, color=COLORS[number % len(COLORS)], label=label)
        axes.set_title(clip)
        axes.set_xlabel("epochs")
        axes.set_ylabel("PSNR of the training frames, dB")
        axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="lower right")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    return content.getvalue()


def curves_of(document: Mapping[str, Any]) -> dict[str, dict[str, list[Curve]]]:
    """Return the curves of a result's JSON document: by clip, then by row; seeds follow one another."""
    panels: dict[str, dict[str, list[Curve]]] = {}
    for row in document["rows"]:
        for job in row["clips"].values():
            curve = job["values"].get("curve")
            if curve:
                panels.setdefault(job["clip"], {}).setdefault(row["label"], []).append(curve)
    return panels
