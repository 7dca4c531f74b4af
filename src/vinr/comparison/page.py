"""One HTML page of a comparison, with everything it shows inside: no other file, no network.

Axes: C colour channels, H rows, W columns.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from io import BytesIO
from typing import Final

import torch
from PIL import Image
from torch import Tensor

from vinr.comparison.rd import MEASURES, BDResult, Measure, RDCurve, RDPoint
from vinr.comparison.rd_plots import draw_per_frame, draw_rd, svg_data_uri
from vinr.decoding.streams import CropWindow

SHOWN_MEASURES: Final[tuple[Measure, ...]] = ("psnr_db", "yuv_psnr_db", "ms_ssim_db")
TEMPLATE: Final = "page.html.jinja"


@dataclass(frozen=True)
class CropSet:
    """Crops of one point, or of the original (``caption`` says which): uint8 rgb_CHW by frame number."""

    caption: str
    crops: Mapping[int, Tensor]

    def pictures(self) -> list[str]:
        """Return the crops as ``data:`` addresses, by frame number."""
        return [_png_data_uri(self.crops[index]) for index in sorted(self.crops)]


@dataclass(frozen=True)
class ComparisonPage:
    """What the page shows. ``chosen`` are the points, one a curve, that crops and per-frame lines are of."""

    title: str
    facts: Sequence[tuple[str, str]]
    curves: Sequence[RDCurve]
    results: Sequence[BDResult]
    chosen: Sequence[tuple[RDCurve, RDPoint]]
    crops: Sequence[CropSet]

    def render(self) -> str:
        """Return the page as HTML; all texts are escaped."""
        from jinja2 import Environment, StrictUndefined

        source = resources.files("vinr.comparison").joinpath(TEMPLATE).read_text(encoding="utf-8")
        environment = Environment(
            autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        return environment.from_string(source).render(page=self)

    @cached_property
    def plots(self) -> list[str]:
        """Rate-distortion plots of the qualities that any curve has, then quality over the frames."""
        numbers = {curve.name: number for number, curve in enumerate(self.curves)}
        figures, lines = [], []
        for measure in SHOWN_MEASURES:
            title, _, _ = MEASURES[measure].partition(" (")  # the axis has the unit
            if any(curve.samples(measure) for curve in self.curves):
                figures.append(draw_rd(self.curves, measure, title=title))
        for curve, point in self.chosen:
            # A curve keeps its colour in all plots, which goes by its number.
            number = numbers[curve.name]
            lines.append((curve, point, number))
        figures.append(draw_per_frame(lines, title="Frame by frame, at about equal rate"))
        return list(map(svg_data_uri, figures))

    @property
    def bd_tables(self) -> list[tuple[str, list[str], list[tuple[str, list[BDResult | None]]]]]:
        """For each quality: its name, the anchors (columns), and a row of results for each curve."""
        tables = []
        for measure in SHOWN_MEASURES:
            by_curves: dict[tuple[str, str], BDResult] = {}
            anchors: list[str] = []
            for result in self.results:
                if result.measure == measure:
                    by_curves[result.test, result.anchor] = result
                    # An anchor that nothing can be compared with has no column.
                    if result.rate_percent is not None and result.anchor not in anchors:
                        anchors.append(result.anchor)
            rows = []
            # Every curve has a row; where it cannot be compared, a reason stands below the table.
            for curve in self.curves:
                cells = [by_curves.get((curve.name, anchor)) for anchor in anchors]
                rows.append((curve.name, cells))
            if anchors:
                tables.append((MEASURES[measure], anchors, rows))
        return tables

    @property
    def refusals(self) -> list[str]:
        """Why curves are missing in the tables, each reason once."""
        return list(dict.fromkeys(result.reason for result in self.results if result.reason))


def busiest_window(rgb_CHW: Tensor, side: int) -> CropWindow:
    """Return the window of ``side`` (or the frame's smaller side) where neighbouring pixels differ most."""
    _, height, width = rgb_CHW.shape
    side = min(side, height, width)
    if side < 2:
        return CropWindow(0, 0, side, side)
    # Absolute differences to the pixel on the left and to the one above, summed over each window:
    # average pooling of stride `step` visits windows at rows 0, step, 2 · step, … of the frame.
    gray_HW = rgb_CHW.float().mean(0)
    change_HW = torch.zeros(height, width)
    change_HW[:, 1:] += gray_HW.diff(dim=1).abs()
    change_HW[1:] += gray_HW.diff(dim=0).abs()
    step = max(side // 4, 1)
    total = torch.nn.functional.avg_pool2d(change_HW[None, None], side, stride=step)[0, 0]
    #  argmax counts windows row by row:  row · columns + column
    row, column = divmod(int(total.argmax()), total.shape[1])
    return CropWindow(row * step, column * step, side, side)


def _png_data_uri(rgb_CHW: Tensor) -> str:
    drawn = BytesIO()
    Image.fromarray(rgb_CHW.permute(1, 2, 0).contiguous().numpy()).save(drawn, format="PNG")
    return "data:image/png;base64," + b64encode(drawn.getvalue()).decode("ascii")
