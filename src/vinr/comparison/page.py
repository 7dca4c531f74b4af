"""One HTML page of a comparison, with everything it shows inside: no other file, no network.

Scripts and style come from the folder ``web``: uPlot (MIT License) and vinr's own. A content policy in the
page lets nothing else run and nothing be loaded.

Axes: C colour channels, H rows, W columns.
"""

from __future__ import annotations

import csv
import hashlib
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from io import BytesIO, StringIO
from typing import Any, Final
from urllib.parse import quote

import torch
from PIL import Image
from torch import Tensor

from vinr.comparison.plots import SHOWN_MEASURES, Plot, frame_plot, rd_plots, time_plots
from vinr.comparison.rd import MEASURES, BDResult, Measure, RDCurve, RDPoint
from vinr.comparison.verdict import Verdict, verdicts
from vinr.decoding.streams import CropWindow
from vinr.units import format_length

TEMPLATE: Final = "page.html.jinja"
STYLES: Final = ("uPlot.min.css", "page.css")
CSV_VALUES: Final = (
    "bpp",
    "num_bytes",
    "psnr_db",
    "pooled_psnr_db",
    "yuv_psnr_db",
    "pooled_yuv_psnr_db",
    "ms_ssim",
    "encode_seconds",
    "decode_fps",
)
CSV_OF_NETWORKS: Final = ("network", "budget_seconds")
# Characters that could end a block of data in a page, as JSON may also write them.
UNSAFE_IN_PAGES: Final = {ord(character): f"\\u{ord(character):04x}" for character in "<>&"}


@dataclass(frozen=True)
class CropSet:
    """Crops of one point, or of the original (``caption`` says which): uint8 rgb_CHW by frame number."""

    caption: str
    crops: Mapping[int, Tensor]

    def pictures(self) -> list[tuple[int, str]]:
        """Return frame numbers and crops as ``data:`` addresses, by frame number."""
        return [(index, _png_data_uri(self.crops[index])) for index in sorted(self.crops)]


@dataclass(frozen=True)
class ComparisonPage:
    """What the page shows. ``chosen`` are the points, one per curve, that crops and per-frame lines are of.

    ``equal_time`` are the BD-rates of networks against each other. ``unfinished`` says what is missing of a
    comparison that was stopped; empty: nothing.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    curves: Sequence[RDCurve]
    results: Sequence[BDResult]
    chosen: Sequence[tuple[RDCurve, RDPoint]]
    crops: Sequence[CropSet]
    csv_name: str = "comparison.csv"
    equal_time: Sequence[BDResult] = ()
    unfinished: str = ""

    def render(self) -> str:
        """Return the page as HTML; all texts are escaped."""
        from jinja2 import Environment, StrictUndefined

        environment = Environment(
            autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        return environment.from_string(_web_file(TEMPLATE)).render(page=self)

    @property
    def style(self) -> Any:
        """The style of the page, as markup."""
        from markupsafe import Markup

        return Markup("\n".join(map(_web_file, STYLES)))

    @property
    def scripts(self) -> list[Any]:
        """The scripts of the page, as markup: uPlot with its licence, and vinr's own."""
        from markupsafe import Markup

        licence = f"/*\n{_web_file('uPlot.LICENSE')}*/\n"
        return [Markup(licence + _web_file("uPlot.iife.min.js")), Markup(_web_file("page.js"))]

    @property
    def content_policy(self) -> str:
        """What browsers allow the page: its own scripts by their hashes, its style, pictures inside it."""
        hashes = []
        for script in self.scripts:
            digest = hashlib.sha256(script.encode("utf-8")).digest()
            hashes.append(f"'sha256-{b64encode(digest).decode('ascii')}'")
        return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {' '.join(hashes)}"

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """What the comparison comes to, a sentence per codec."""
        return verdicts(self.curves)

    @cached_property
    def plots(self) -> list[Plot]:
        """Quality over rate, for each quality that any curve has; over encoding time; over the frames."""
        return [*rd_plots(self.curves), *time_plots(self.curves), frame_plot(self.curves, self.chosen)]

    @property
    def plots_json(self) -> Any:
        """The plots as JSON for the script, as markup; no text in it can end the block that holds it."""
        from markupsafe import Markup

        documents = []
        for plot in self.plots:
            lines = []
            for line in plot.lines:
                points = [{"x": point.x, "y": point.y, "text": point.text} for point in line.points]
                about = {"name": line.name, "kind": line.kind, "number": line.number, "dash": line.dash}
                lines.append({**about, "points": points})
            labels = {"xLabel": plot.x_label, "yLabel": plot.y_label, "isLog": plot.is_log}
            documents.append({**labels, "lines": lines})
        return Markup(json.dumps(documents).translate(UNSAFE_IN_PAGES))

    @property
    def csv_uri(self) -> str:
        """All points as a ``data:`` address of a CSV file."""
        text = StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["codec", "kind", "setting", *CSV_VALUES, "source", *CSV_OF_NETWORKS])
        for curve in self.curves:
            for point in curve.points:
                values = [getattr(point, name) for name in CSV_VALUES]
                of_network = [getattr(curve, name) for name in CSV_OF_NETWORKS]
                writer.writerow([curve.name, curve.kind, point.setting, *values, curve.source, *of_network])
        return "data:text/csv;charset=utf-8," + quote(text.getvalue(), errors="backslashreplace")

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
    def equal_time_table(self) -> tuple[list[str], list[tuple[list[str], list[BDResult | None]]]]:
        """The qualities (columns); of each pair of networks time, network and anchor, then its results."""
        curves = {curve.name: curve for curve in self.curves}
        by_pair: dict[tuple[str, str], dict[Measure, BDResult]] = {}
        measures: list[Measure] = []
        for result in self.equal_time:
            by_pair.setdefault((result.test, result.anchor), {})[result.measure] = result
            # A quality in which no pair can be compared has no column.
            if result.rate_percent is not None and result.measure not in measures:
                measures.append(result.measure)
        rows = []
        for (test, anchor), results in by_pair.items():
            time = format_length(curves[test].budget_seconds or 0)
            heads = [time, curves[test].network, curves[anchor].network]
            rows.append((heads, list(map(results.get, measures))))
        return list(map(MEASURES.__getitem__, measures)), rows

    @property
    def refusals(self) -> list[str]:
        """Why curves are missing in the tables, each reason once."""
        results = [*self.results, *self.equal_time]
        return list(dict.fromkeys(result.reason for result in results if result.reason))


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


@cache
def _web_file(name: str) -> str:
    return resources.files("vinr.comparison").joinpath("web", name).read_text(encoding="utf-8").strip()
