"""What the command line prints: results on stdout, notes and errors on stderr.

Names, texts of files and of errors may hold anything, also what moves the cursor, renames the window or
turns a line around. All of it passes :func:`vinr.errors.visible` on its way to the terminal: every string
that is printed, alone or in a table, and every description of progress.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table

from vinr.cli.screen import SafeConsole
from vinr.errors import OutputError, format_frame, plural, quoted
from vinr.units import format_bytes, format_count

if TYPE_CHECKING:
    from vinr.cli.catalogue import ModelEntry, PresetEntry
    from vinr.cli.settings_list import SettingEntry
    from vinr.decoding.describe import ClipInfo, FileInfo
    from vinr.decoding.exporting import ExportedGraph, ExportedWeights
    from vinr.decoding.playback import DecodeReport, EvaluationReport
    from vinr.encoding.convert import ConvertReport
    from vinr.encoding.report import EncodeReport

# Wider than any table; where stdout is no terminal, rich would cut tables at 80 columns.
MAX_COLUMNS = 400
INDENT, GAP = "    ", "   "
# Below, a picture is a blur.
USABLE_DB = 25.0

OUT = SafeConsole()
ERR = SafeConsole(stderr=True)


def say(text: str) -> None:
    """Print a line on stdout."""
    OUT.print(text)


def complain(text: str) -> None:
    """Print one error line on stderr."""
    ERR.print(f"vinr: {text}", style="bold red" if ERR.is_terminal else None)


def note(text: str) -> None:
    """Print a line about how the work is done on stderr."""
    ERR.print(text)


def print_json(document: Any) -> None:
    """Print one JSON document on stdout and nothing else."""
    if sys.stdout is None:  # Python has none where the descriptor is closed
        raise OutputError("standard output is closed; give --json somewhere to write to")
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")


def print_pairs(rows: Sequence[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        say(f"{name:<{width}}  {value}")


def print_table(table: Table) -> None:
    """Print a table as wide as its content; on a terminal that is narrower, a few lines for each row."""
    table.width = OUT.measure(table, options=OUT.options.update(width=MAX_COLUMNS)).maximum
    if OUT.is_terminal and table.width > OUT.width:
        for line in _folded(table, OUT.width):
            say(line)
    else:
        OUT.print(table)


def _folded(table: Table, width: int) -> Iterator[str]:
    """Yield for each row its first cell, then the others with their titles, as many in a line as fit."""
    titles = [str(column.header) for column in table.columns]
    for first, *cells in zip(*(column.cells for column in table.columns), strict=True):
        yield str(first)
        named = [f"{title} {cell}" for title, cell in zip(titles[1:], cells, strict=True) if str(cell)]
        line = ""
        for text in named:
            if line and len(f"{INDENT}{line}{GAP}{text}") > width:
                yield INDENT + line
                line = ""
            line += (GAP if line else "") + text
        if line:
            yield INDENT + line


def _quality_rows(psnr_db: float, ms_ssim: float | None, window: int | None) -> list[tuple[str, str]]:
    rows = [("PSNR", f"{psnr_db:.2f} dB (mean of frames)")]
    if ms_ssim is not None:
        rows.append(("MS-SSIM", f"{ms_ssim:.4f} (window {window})"))
    return rows


def _share_of_source(num_bytes: int, source_bytes: int | None) -> str:
    """Return how large a file is beside its source, if that is known; one that is larger saves nothing."""
    if not source_bytes:
        return ""
    share = num_bytes / source_bytes
    if share <= 1:
        return f", {share:.0%} of the source"
    return f", {share:.2g} times the source: larger than what it was made of"


def show_encode(report: EncodeReport, *, as_json: bool) -> None:
    """Print what was written and how good it is."""
    if as_json:
        print_json(asdict(report))
        return
    share = _share_of_source(report.num_bytes, report.source_bytes)
    source = [] if report.source_bytes is None else [("source", format_bytes(report.source_bytes))]
    frames = f"{report.num_frames:,} of {format_frame(report.height, report.width)}"
    quality = _quality_rows(report.psnr_db, report.ms_ssim, report.ms_ssim_window)
    if report.psnr_db < USABLE_DB:
        quality[0] = ("PSNR", f"{quality[0][1]}: too low for a usable picture; give more time, or --resize")
    print_pairs(
        [
            *source,
            ("file", f"{report.path}  {format_bytes(report.num_bytes)}{share}"),
            ("rate", _rate(report.bpp, report.kbit_per_s, report.num_bytes, report.other_bytes)),
            ("frames", frames),
            *quality,
            ("model", f"{report.model}, {format_count(report.num_parameters)} parameters"),
            ("fit", f"{report.num_epochs:.1f} epochs in {report.precision}, {report.seconds:.0f} s in all"),
            *_reference_rows(report),
        ]
    )


def _rate(bpp: float, kbit_per_s: float, num_bytes: int, other_bytes: int) -> str:
    """Return the rate of the video, and that of audio and times; both figures given are of the whole file."""
    video = 1 - other_bytes / num_bytes
    text = f"{video * bpp:.4f} bpp  {video * kbit_per_s:.1f} kbit/s"
    return text + (f", audio and times {(1 - video) * kbit_per_s:.1f} kbit/s" if other_bytes else "")


def _reference_rows(report: EncodeReport) -> list[tuple[str, str]]:
    """Return what x264 does with the same frames, or why that is not known."""
    if report.reference is None:
        note = report.reference_note
        return [] if note is None else [("x264", f"not measured: {note}; `vinr compare` measures it")]
    needed, psnr_db = report.reference.num_bytes, report.reference.psnr_db
    ratio = report.video_bytes / needed
    factor = f"{ratio:.1f} times fewer" if ratio >= 1 else f"{1 / ratio:.1f} times more"
    text = f"medium needs about {format_bytes(needed)} for {psnr_db:.2f} dB, {factor} than this video"
    return [("x264", text)]


def describe_decoded(report: DecodeReport) -> str:
    """Return a line on what was written."""
    size = "" if report.num_bytes is None else f", {format_bytes(report.num_bytes)}"
    return f"wrote {report.path}: {plural(report.num_frames, 'frame')}, {report.written}{size}"


def show_convert(report: ConvertReport, *, as_json: bool) -> None:
    """Print what a checkpoint became."""
    if report.refused:
        note(f"readers refuse this file by default: {report.refused}")
    if as_json:
        print_json(asdict(report))
        return
    sides = format_frame(report.height, report.width)
    size = f"{plural(report.num_frames, 'frame')} of {sides} at {report.fps:.3f} fps"
    bits = f"{report.bits_per_parameter:.2f} bits per parameter"
    print_pairs(
        [
            ("file", f"{report.path}  {format_bytes(report.num_bytes)}"),
            ("checkpoint", format_bytes(report.checkpoint_bytes)),
            ("video", size),
            ("model", f"{report.model}, {format_count(report.num_parameters)} parameters, {bits}"),
            (
                "frames",
                f"at most {report.largest_difference:.2g} of 255 off the checkpoint's "
                f"(before rounding, {report.num_compared} compared)",
            ),
        ]
    )


def show_info(info: FileInfo, *, as_json: bool) -> None:
    """Print the contents of a file."""
    if as_json:
        print_json(asdict(info))
        return
    print_pairs(
        [
            ("file", format_bytes(info.num_bytes)),
            ("format", str(info.format_version)),
            ("written by", info.created_by),
        ]
    )
    for clip in info.clips:
        say(_clip_line(clip))
        rows = [("colours", clip.colors), ("HDR", clip.hdr)]
        rows = [(name, text) for name, text in rows if text]
        if clip.psnr_db is not None:
            rows += _quality_rows(clip.psnr_db, clip.ms_ssim, clip.ms_ssim_window)
        if rows:
            print_pairs(rows)
    for network in info.networks:
        # ideal_bits / 8 is in bytes; max: a network of constants has no bits at all.
        above = network.num_bytes / max(network.ideal_bits / 8, 1) - 1
        say(
            f"network {network.model}: {format_count(network.num_parameters)} parameters, "
            f"{network.bits_per_parameter:.2f} bits per parameter, {above:.2%} above the ideal bits, "
            f"fitted in {network.precision}"
        )
    if info.missing_model:
        say(
            f"model {quoted(info.missing_model)} is of no installed package, so that its networks are not "
            "read; `vinr models` lists those there are"
        )
    elif len(info.networks) < info.num_networks:
        say(f"{len(info.networks)} of {info.num_networks} networks read; --max-memory 1GB reads all")
    table = Table("component", "bytes", "share", box=None)
    for name, num_bytes in info.bytes_by_component.items():
        table.add_row(name, f"{num_bytes:,}", f"{num_bytes / info.num_bytes:.1%}")
    print_table(table)
    _show_layers(info)


def _clip_line(clip: ClipInfo) -> str:
    """Return a line on a clip; what is as usual is left out."""
    audio = f"with audio from {clip.audio_start:.3f} s" if clip.audio_start else "with audio"
    parts = [
        f"clip {clip.name}: {plural(clip.num_frames, 'frame')} of {format_frame(clip.height, clip.width)} "
        f"at {clip.fps:.3f} fps{' on average' if clip.has_times else ''}",
        f"{clip.bit_depth} bits" if clip.bit_depth != 8 else "",
        f"pixels {clip.pixel_aspect}" if clip.pixel_aspect != "1:1" else "",
        f"last frame held for {clip.last_seconds:.3f} s" if clip.last_seconds is not None else "",
        audio if clip.has_audio else "",
        clip.edit,
    ]
    return ", ".join(part for part in parts if part)


def _show_layers(info: FileInfo) -> None:
    from vinr.decoding.describe import layer_bars

    names = ("layer", "bytes", "share", "parameters", "bits per parameter", "ideal bytes")
    table = Table(names[0], box=None)
    for name in names[1:]:
        table.add_column(name, justify="right")
    for layer in layer_bars(info):
        table.add_row(
            layer.label,
            f"{layer.num_bytes:,}",
            f"{layer.num_bytes / info.num_bytes:.1%}",
            f"{layer.num_elements:,}",
            f"{layer.bits_per_parameter:.2f}",
            f"{layer.ideal_bits / 8:,.0f}",
        )
    print_table(table)


def show_evaluation(report: EvaluationReport, *, per_frame: bool, as_json: bool) -> None:
    """Print how close a file is to its original."""
    if as_json:
        document = asdict(report)
        if not per_frame:
            del document["per_frame_psnr_db"], document["per_frame_ms_ssim"]
        print_json(document)
        return
    audio = f", of which audio {report.audio_bytes:,}" if report.audio_bytes else ""
    print_pairs(
        [
            *_quality_rows(report.psnr_db, report.ms_ssim, report.ms_ssim_window),
            ("PSNR of mean MSE", f"{report.pooled_psnr_db:.2f} dB"),
            ("file", format_bytes(report.num_bytes) + audio),
            ("rate", _rate(report.bpp, report.kbit_per_s, report.num_bytes, report.audio_bytes)),
            ("decoding", f"{report.decode_fps:.1f} frames/s"),
            *(("note", text) for text in report.notes),
        ]
    )
    if per_frame:
        # Frames too small for MS-SSIM have none, in all of the file.
        similarities = report.per_frame_ms_ssim or (None,) * report.num_frames
        for index, (psnr_db, ms_ssim) in enumerate(zip(report.per_frame_psnr_db, similarities, strict=True)):
            say(f"frame {index:5d}  {psnr_db:.3f} dB" + ("" if ms_ssim is None else f"  {ms_ssim:.5f}"))


def show_export(files: Sequence[ExportedGraph | ExportedWeights]) -> None:
    """Print which files hold which frames."""
    from vinr.decoding.exporting import ExportedGraph, ExportedWeights

    for file in files:
        # In a network that clips share, a clip's frames follow those of the clips before it.
        last = file.first_frame + file.num_frames - 1
        line = f"{file.path}  {format_bytes(file.num_bytes)}, frames {file.first_frame} to {last}"
        match file:
            case ExportedWeights():
                line += f", {plural(file.num_tensors, 'tensor')}"
            case ExportedGraph() if file.first_input != file.first_frame:
                line += f", its inputs from {file.first_input} on"
        say(line)


def show_models(entries: Sequence[ModelEntry], *, as_json: bool) -> None:
    """Print the list of models."""
    if as_json:
        print_json([asdict(entry) for entry in entries])
        return
    for entry in entries:
        say(f"{entry.name}: {entry.paper}")
        say(f"    sizes: {', '.join(entry.sizes)}")


def show_presets(entries: Sequence[PresetEntry], *, as_json: bool) -> None:
    """Print the list of presets."""
    if as_json:
        print_json([asdict(entry) for entry in entries])
        return
    table = Table("preset", "video", "stored", "paper", "encoder", "kMAC/pixel", "paper dB", box=None)
    for entry in entries:
        table.add_row(
            entry.name,
            f"{entry.num_frames} × {entry.width}×{entry.height}",
            f"{entry.stored_parameters:,}",
            f"{entry.paper_parameters:,}",
            f"{entry.encoder_parameters:,}",
            f"{entry.macs_per_pixel / 1000:.1f}",
            "" if entry.paper_psnr_db is None else f"{entry.paper_psnr_db:.2f}",
        )
    print_table(table)


def show_settings(entries: Sequence[SettingEntry], model: str, *, as_json: bool) -> None:
    """Print two lines for each setting: key, default and type; meaning."""
    from vinr.cli.settings_list import lines_of

    if as_json:
        print_json(list(map(asdict, entries)))
        return
    for entry in entries:
        for line in lines_of(entry, model):
            say(line)
    note(
        f"--set KEY=VALUE changes a setting. In parentheses: what {model} sets instead of the default; "
        "its sizes (`vinr presets`) and other recipes may set more."
    )
