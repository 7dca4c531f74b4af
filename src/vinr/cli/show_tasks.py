"""What the command line shows of inpainting and interpolation: figures with and without a network."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from vinr.cli.console import print_json, print_pairs
from vinr.errors import plural
from vinr.units import format_count

if TYPE_CHECKING:
    from vinr.tasks.between import InterpolateReport
    from vinr.tasks.inpainting import InpaintReport


def show_inpaint(report: InpaintReport, *, as_json: bool) -> None:
    """Print what was written, and the PSNR of the pixels that are known."""
    if as_json:
        print_json(asdict(report))
        return
    print_pairs(
        [
            ("video", f"{report.path}  {plural(report.num_frames, 'frame')}"),
            ("filled", f"{report.masked_share:.2%} of all pixels"),
            ("PSNR", f"{report.visible_psnr_db:.2f} dB of the network where nothing was masked"),
            *_held_out_rows(report),
            ("model", f"{report.model}, {format_count(report.num_parameters)} parameters"),
            ("fit", f"{report.num_epochs:.1f} epochs in {report.precision}, {report.seconds:.0f} s in all"),
        ]
    )


def _held_out_rows(report: InpaintReport) -> list[tuple[str, str]]:
    """Return the network's figure and the trivial ones where a copy of the mask was held out."""
    held_out = report.held_out
    if held_out is None:
        return []
    return [
        (
            "held out",
            f"{held_out.network_psnr_db:.2f} dB of the network in a copy of the mask that it did not see",
        ),
        (
            "without it",
            f"{held_out.surroundings_psnr_db:.2f} dB by blurred surroundings, "
            f"{held_out.nearest_psnr_db:.2f} dB by the nearest frame",
        ),
    ]


def show_interpolate(report: InterpolateReport) -> None:
    """Print how new frames compare with mixed ones."""
    between = report.between
    if between is None:
        return
    print_pairs(
        [
            ("video", f"{report.path}  {plural(report.num_frames, 'frame')}"),
            (
                "new frames",
                f"{between.from_mix_psnr_db:.2f} dB from mixed neighbours; true ones are not known",
            ),
            ("mixing", f"{between.mix_psnr_db:.2f} dB at known frames, at twice the distance"),
        ]
    )
