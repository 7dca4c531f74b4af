"""What the command line shows of a comparison."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.table import Table

from vinr.cli.console import print_json, print_table, say
from vinr.comparison.rd import SHORT_MEASURES

if TYPE_CHECKING:
    from vinr.comparison import ComparisonReport


def show_comparison(report: ComparisonReport, *, as_json: bool) -> None:
    """Print every point, and the BD-rates by the quality that is fair beside each codec."""
    if as_json:
        print_json(asdict(report))
        return
    names = ("codec", "setting", "bytes", "bpp", "RGB dB", "YUV dB", "MS-SSIM", "encoding s", "frames/s")
    table = Table(*names[:2], box=None)
    for name in names[2:]:
        table.add_column(name, justify="right")  # so that digits line up
    for curve in report.curves:
        for point in curve.points:
            table.add_row(
                curve.name,
                point.setting,
                "" if point.num_bytes is None else f"{point.num_bytes:,}",
                f"{point.bpp:.4f}",
                _cell(point.psnr_db, 2),
                _cell(point.yuv_psnr_db, 2),
                _cell(point.ms_ssim, 4),
                _cell(point.encode_seconds, 1),
                _cell(point.decode_fps, 1),
            )
    print_table(table)
    # Of codecs against each other the page has all: here stands what the networks save.
    networks = {curve.name for curve in report.curves if curve.kind == "vinr"}
    fair = {curve.name: curve.fair_measure for curve in report.curves}
    for result in [*report.bd, *report.bd_equal_time]:
        if result.measure == fair.get(result.anchor, "psnr_db") and result.test in networks:
            quality = f"{SHORT_MEASURES[result.measure]}-PSNR"
            verdict = result.reason or f"{result.rate_percent:+.1f} % bits at equal {quality}"
            say(f"{result.test} against {result.anchor}: {verdict}")
    say(f"page: {report.page}")


def _cell(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
