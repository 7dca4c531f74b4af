"""What `vinr plan` shows."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from vinr.cli.console import note, print_json, print_pairs
from vinr.errors import format_frame, plural
from vinr.units import format_bytes, format_count

if TYPE_CHECKING:
    from vinr.encoding.capacity import CapacityReport


def show_capacity(report: CapacityReport, *, as_json: bool) -> None:
    """Print what an encode will take."""
    rates = report.rates
    for text in report.notes:
        note(text)
    if as_json:
        print_json({**asdict(report), "rates": rates.model_dump()})
        return
    frames = plural(report.num_frames, "frame")
    longest = plural(report.frames_per_segment, "frame")
    segments = f"{plural(report.num_segments, 'segment')} of up to {longest}"
    hours = f"{report.cpu_hours:.2f} CPU hours"
    if rates.is_gpu:
        hours += f", {report.gpu_hours:.2f} GPU hours"
    print_pairs(
        [
            ("video", f"{frames} of {format_frame(rates.height, rates.width)}, {segments}"),
            ("model", f"{rates.model}, {format_count(report.num_parameters)} parameters in all"),
            ("fit", f"{report.epochs:.0f} epochs, {report.fit_share:.0%} of the work"),
            ("time", f"{_duration(report.wall_hours)} on {plural(report.num_workers, 'worker')}"),
            ("work", hours),
            ("size", f"about {format_bytes(report.num_bytes)}"),
            ("memory", f"{report.memory_bytes / 1e9:.2f} GB per worker"),
            (
                "rates",
                f"{rates.seconds_per_step * 1000:.1f} ms per step on {rates.device}, "
                f"{rates.read_seconds_per_frame * 1000:.1f} ms to read a frame, "
                f"{rates.measure_seconds_per_frame * 1000:.1f} ms to decode and score one",
            ),
        ]
    )


def _duration(hours: float) -> str:
    seconds = round(3600 * hours)
    if seconds < 120:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
