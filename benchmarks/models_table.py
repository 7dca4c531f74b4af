"""Writes docs/models.md: parameters and multiply-accumulates of published sizes, ours beside the source's.

Ours are counted from the network that the preset builds, without memory for its values.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from vinr.config import Preset, list_presets, load_preset
from vinr.models import get_model, validate_architecture
from vinr.models.cost import ModelSize, describe_size
from vinr.video.spec import VideoSpec

PATH = Path(__file__).resolve().parent.parent / "docs" / "models.md"

HEAD = """# Sizes: ours beside the papers'

This page compares the size of every preset with what its paper states.

Written by `python benchmarks/models_table.py`. Parameters are all numbers that a file stores: weights,
biases, grids and every frame's latents; encoders, used while fitting only, are not among them, nor are
keyframes, which are images. GMACs are multiply-accumulates of convolutions and matrix products of one
decoded frame, in 10⁹, at the size of the preset. "stated" is what the source prints, with as many digits;
"=" is where ours rounds to that. Some sources print a size and no widths, as those that compare models of
others do; then the widths were chosen to meet it, and the source's column says so. How models work, and which
of their details are in doubt, is on [their pages](models/hnerv.md).

US patent 12,634,488 B2 reportedly claims T-NeRV's combination of frame embeddings, a grid over groups of
pictures and an entropy loss. We give no legal advice; judge for yourself before you use that model
commercially.
"""

# What sources print: parameters, GMACs; empty where they print none.
STATED: dict[str, tuple[str, str]] = {
    "hinerv-xxs-bunny": ("0.77M", "23"),
    "hinerv-xs-bunny": ("1.59M", "47"),
    "hinerv-s-bunny": ("3.25M", "96"),
    "hinerv-a-xxs-bunny": ("0.76M", "18"),
    "hinerv-a-xs-bunny": ("1.57M", "37"),
    "hinerv-a-s-bunny": ("3.22M", "76"),
    "hinerv-b-xxs-bunny": ("0.79M", "12"),
    "hinerv-b-xs-bunny": ("1.57M", "24"),
    "hinerv-b-s-bunny": ("3.25M", "48"),
    "hinerv-s-uvg": ("3.19M", "181"),
    "hinerv-m-uvg": ("6.49M", "368"),
    "hinerv-l-uvg": ("12.82M", "718"),
    "hinerv-a-s-uvg": ("3.22M", "122"),
    "hinerv-a-m-uvg": ("6.56M", "246"),
    "hinerv-a-l-uvg": ("12.96M", "478"),
    "hinerv-b-s-uvg": ("3.22M", "78"),
    "hinerv-b-m-uvg": ("6.40M", "150"),
    "hinerv-b-l-uvg": ("13.08M", "302"),
    "hnerv-0.35m-bunny": ("0.35M", ""),
    "hnerv-0.75m-bunny": ("0.75M", ""),
    "hnerv-1.5m-bunny": ("1.5M", ""),
    "hnerv-3m-bunny": ("3M", ""),
    "hnerv-2m-960x1920": ("2M", ""),
    "hnerv-3m-960x1920": ("3M", ""),
    "hnerv-3m-960x1920-300f": ("3M", ""),
    "hnerv-5m-960x1920": ("5M", ""),
    "hnerv-10m-960x1920": ("10M", ""),
    "hnerv-3m-480x960": ("3M", ""),
    "hnerv-3m-480x960-300f": ("3M", ""),
    "hnerv-1.5m-bunny-k13": ("1.5M", ""),
    "hnerv-1.5m-bunny-k17": ("1.5M", ""),
    "hnerv-1.5m-bunny-k33": ("1.5M", ""),
    "hnerv-1.5m-bunny-r1": ("1.5M", ""),
    "hnerv-1.5m-bunny-r1.5": ("1.5M", ""),
    "hnerv-1.5m-bunny-r2": ("1.5M", ""),
    "hnerv-1.5m-bunny-d8": ("1.5M", ""),
    "hnerv-1.5m-bunny-d32": ("1.5M", ""),
    "hnerv-1.5m-bunny-1x2": ("1.5M", ""),
    "hnerv-1.5m-bunny-4x8": ("1.5M", ""),
    "hnerv-0.75m-bunny-720p": ("0.75M", ""),
    "hnerv-1.5m-bunny-720p": ("1.5M", ""),
    "hnerv-3m-bunny-720p": ("3M", ""),
    "hnerv-3m-1080p": ("3M", ""),
    "hnerv-5m-1080p": ("5M", ""),
    "hnerv-10m-1080p": ("10M", ""),
    "hnerv-15m-1080p": ("15M", ""),
    "nerv-s": ("3.2M", "101"),
    "nerv-m": ("6.3M", ""),
    "nerv-l": ("12.5M", ""),
    "nerv-c-12.5m": ("12.5M", ""),
    "nerv-0.35m-bunny": ("0.35M", ""),
    "nerv-0.75m-bunny": ("0.75M", ""),
    "nerv-1.5m-bunny": ("1.5M", ""),
    "nerv-3m-bunny": ("3M", ""),
    "enerv-12.5m": ("12.5M", ""),
    "enerv-3m-960x1920": ("3.0M", ""),
    "enerv-0.35m-bunny": ("0.35M", ""),
    "enerv-0.75m-bunny": ("0.75M", ""),
    "enerv-1.5m-bunny": ("1.5M", ""),
    "enerv-3m-bunny": ("3M", ""),
    "ffnerv-12.4m-720p": ("12.4M", ""),
    "ffnerv-0.91m-bunny": ("0.91M", "26"),
    "ffnerv-1.66m-bunny": ("1.66M", "58"),
    "ffnerv-3.19m-bunny": ("3.19M", "102"),
    "ffnerv-3.4m-1080p": ("3.40M", "228"),
    "ffnerv-6.4m-1080p": ("6.44M", "229"),
    "ffnerv-12.7m-1080p": ("12.66M", "232"),
    "ffnerv-3m-960x1920": ("3.0M", ""),
    "psnerv-0.9m-bunny": ("0.90M", ""),
    "psnerv-1.7m-bunny": ("1.68M", ""),
    "psnerv-3.3m-bunny": ("3.35M", ""),
    "psnerv-3m-1080p": ("3.24M", ""),
    "psnerv-7m-1080p": ("6.57M", ""),
    "psnerv-13m-1080p": ("13.07M", ""),
    "cnerv-12.5m": ("12.5M", ""),
    "cnerv-3m-960x1920": ("3.0M", ""),
    "dnerv-3m-960x1920": ("3.0M", ""),
    "dnerv-12.4m-720p": ("12.4M", ""),
    "dnerv-5m-720p": ("5M", ""),
    "dnerv-2m-1080p": ("2M", ""),
    "dnerv-released-960x1920": ("3M", ""),
    "tnerv-12.4m-720p": ("12.4M", ""),
    "tnerv-3m-960x1920": ("3.0M", ""),
    "tnerv-9.3m-1080p": ("9.3M", ""),
    "tnerv-2m-1080p-60f": ("2M", ""),
    "tnerv-5m-720p-150f": ("5M", ""),
    "dnerv_diverse-uvg-xs": ("8.02M", ""),
    "dnerv_diverse-uvg-s": ("15.96M", ""),
    "dnerv_diverse-uvg-m": ("24.20M", ""),
    "dnerv_diverse-uvg-l": ("41.66M", ""),
    "dnerv_diverse-uvg-xl": ("69.75M", ""),
    "dnerv_diverse-ucf101-s": ("21.40M", ""),
    "dnerv_diverse-ucf101-m": ("38.90M", ""),
    "dnerv_diverse-ucf101-l": ("61.30M", ""),
    "hnerv_boost-0.75m-bunny": ("0.75M", ""),
    "hnerv_boost-1.5m-bunny": ("1.5M", ""),
    "hnerv_boost-3m-bunny": ("3M", ""),
    "hnerv_boost-3m-1080p": ("3M", ""),
    "hnerv_boost-5m-1080p": ("5M", ""),
    "hnerv_boost-10m-1080p": ("10M", ""),
    "hnerv_boost-15m-1080p": ("15M", ""),
    "hnerv_boost-3m-1080p-300f": ("3M", ""),
    "hnerv_boost-5m-1080p-300f": ("5M", ""),
    "hnerv_boost-10m-1080p-300f": ("10M", ""),
    "hnerv_boost-15m-1080p-300f": ("15M", ""),
    "nerv_boost-0.75m-bunny": ("0.75M", ""),
    "nerv_boost-1.5m-bunny": ("1.5M", ""),
    "nerv_boost-3m-bunny": ("3M", ""),
    "nerv_boost-3m-1080p": ("3M", ""),
    "nerv_boost-5m-1080p": ("5M", ""),
    "nerv_boost-10m-1080p": ("10M", ""),
    "nerv_boost-15m-1080p": ("15M", ""),
    "enerv_boost-0.75m-bunny": ("0.75M", ""),
    "enerv_boost-1.5m-bunny": ("1.5M", ""),
    "enerv_boost-3m-bunny": ("3M", ""),
    "enerv_boost-3m-1080p": ("3M", ""),
    "enerv_boost-5m-1080p": ("5M", ""),
    "enerv_boost-10m-1080p": ("10M", ""),
    "enerv_boost-15m-1080p": ("15M", ""),
}

ONE_HOT = "the source's profiler also counted products with one-hot matrices, which we do not make; with them"
SIZE_RULE = "a target of the code's size rule, which leaves out biases, head, rounding and the lowest width"
BY_US = "settings are not published; those chosen here come this close"
# Why ours differs, by the beginning of the preset's name; the longest that fits counts.
REMARKS = {
    "hinerv": ONE_HOT,
    "hnerv": SIZE_RULE,
    "nerv-0": SIZE_RULE,
    "nerv-1": SIZE_RULE,
    "nerv-3": SIZE_RULE,
    "nerv-c": "printed as about so many",
    "enerv-": "widths are not published; those chosen here come this close",
    "ffnerv": BY_US,
    "psnerv": BY_US,
    "dnerv-released": "the released network; the size printed for it leaves out the difference embeddings",
    "tnerv-12.4m": "its convolutions are not published; ours are the simplest to meet all three sizes well",
    "dnerv_diverse-uvg-xl": "a misprint: the source's own bits need 67.95M",
    "dnerv_diverse-ucf101-m": "the settings say F = 281; 280 would give 38.91M",
    "dnerv_diverse-ucf101-s": "the settings printed give 21.39M",
    "hnerv_boost": SIZE_RULE,
    "nerv_boost": SIZE_RULE,
    "enerv_boost": SIZE_RULE,
}


@dataclass(frozen=True)
class Row:
    """One line of the table; differences are relative to what is stated."""

    name: str
    parameters: str
    stated_parameters: str
    parameters_difference: str
    gmacs: str
    stated_gmacs: str
    gmacs_difference: str
    remark: str
    source: str

    def __str__(self) -> str:
        return f"| {' | '.join(astuple(self))} |"


TITLES = ("preset", "parameters", "stated", "off by", "GMACs", "stated", "off by", "remark", "source")


def size_of(preset: Preset) -> ModelSize:
    """Count the network of a preset at the size that its source states."""
    assert preset.paper is not None
    cls = get_model(preset.model)
    video = VideoSpec(preset.paper.num_frames, preset.paper.height, preset.paper.width)
    return describe_size(cls, validate_architecture(cls, preset.architecture), video)


def one_hot_macs(preset: Preset) -> int:
    """Return the multiply-accumulates of HiNeRV's local encodings where one-hot matrices spread them.

    A stage of s² · P pixels multiplies a matrix of s² · P × s² by one of s² × channels.
    """
    assert preset.paper is not None
    strides, widths = preset.architecture["strides"], preset.architecture["widths"]
    multiple = math.prod(strides)
    pixels = -(-preset.paper.height // multiple) * -(-preset.paper.width // multiple)
    total = 0
    for stride, channels in zip(strides, (widths[0], *widths), strict=False):
        pixels *= stride**2
        total += pixels * stride**2 * channels
    return total


def rounds_to(value: float, stated: str) -> bool:
    """Return whether ``value`` rounds to the digits of ``stated``."""
    number = stated.rstrip("M")
    digits = len(number.partition(".")[2])
    return f"{value:.{digits}f}" == number


def difference(value: float, stated: str) -> str:
    """Return by what part ``value`` exceeds ``stated``."""
    if not stated:
        return "–"
    percent = round(100 * (value / float(stated.rstrip("M")) - 1), 1)
    return f"{percent:+.1f}%" if percent else "0"


def row_of(name: str) -> Row:
    """Return the line of a preset.

    Raises
    ------
    ValueError
        If it differs from its source and nothing says why.
    """
    preset = load_preset(name)
    size = size_of(preset)
    stated = STATED[name]
    ours = size.stored / 1e6, size.macs / 1e9
    equal = [not text or rounds_to(value, text) for value, text in zip(ours, stated, strict=True)]
    return Row(
        f"`{name}`",
        f"{size.stored:,}",
        stated[0] or "–",
        difference(ours[0], stated[0]),
        f"{ours[1]:.2f}",
        stated[1] or "–",
        difference(ours[1], stated[1]),
        "=" if all(equal) else explanation(preset, size, equal),
        preset.source,
    )


def explanation(preset: Preset, size: ModelSize, equal: Sequence[bool]) -> str:
    """Return what differs and why.

    Raises
    ------
    ValueError
        If nothing says why, or what is said does not make up for the difference.
    """
    fitting = [start for start in REMARKS if preset.name.startswith(start)]
    if not fitting:
        where = f"{size.stored:,} and {size.macs / 1e9:.2f} GMACs"
        raise ValueError(f"{preset.name}: {where} differ from {STATED[preset.name]}")
    remark = REMARKS[max(fitting, key=len)]
    if remark == ONE_HOT:
        with_products = (size.macs + one_hot_macs(preset)) / 1e9
        if not rounds_to(with_products, STATED[preset.name][1]):
            raise ValueError(f"{preset.name}: {with_products:.2f} GMACs with one-hot products")
        remark = f"{remark} {with_products:.2f}"
    parts = [part for part, same in zip(("parameters", "GMACs"), equal, strict=True) if not same]
    return f"{' and '.join(parts)}: {remark}"


def render() -> str:
    """Return the whole page."""
    lines = [HEAD]
    for model in dict.fromkeys(load_preset(name).model for name in list_presets() if name in STATED):
        names = [name for name in list_presets() if name in STATED and load_preset(name).model == model]
        lines += [f"## {model}", "", f"| {' | '.join(TITLES)} |", "|" + "---|" * len(TITLES)]
        lines += [str(row_of(name)) for name in names]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Write the page."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    PATH.write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
