"""Figures: where the bytes of a file go, by component and by layer."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vinr.errors import plural, visible
from vinr.files import atomic_path, check_suffix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that the colour-blind can tell apart (Okabe and Ito, 2008), for all figures of vinr.
OKABE_ITO: Final = {
    "vermilion": "#d55e00",
    "blue": "#0072b2",
    "green": "#009e73",
    "purple": "#cc79a7",
    "orange": "#e69f00",
    "sky": "#56b4e9",
    "yellow": "#f0e442",
}
# Greys for what is no content.
COLORS: Final = {
    "weight": OKABE_ITO["blue"],
    "grid": OKABE_ITO["green"],
    "latent": OKABE_ITO["orange"],
    "keyframe": OKABE_ITO["purple"],
    "keyframes": "#b3548a",
    "bias": OKABE_ITO["sky"],
    "steps and tables": OKABE_ITO["vermilion"],
    "audio": OKABE_ITO["yellow"],
    "times": "#8c8c8c",
    "index": "#b0b0b0",
    "header": "#d0d0d0",
}
OTHER_COLOR: Final = "#444444"
# On these, dark text is read better than white.
PALE: Final = ("latent", "bias", "audio", "index", "header")
# Right ends of the columns beside the bars, in points from the axes.
COLUMNS: Final = (48, 116, 176)
# Layers beyond these, the smallest, share one bar.
MAX_BARS: Final = 48
# Shares below this have no room for a label in the bar of the whole file.
LABELLED_SHARE: Final = 0.06
INCHES_WIDE: Final = 10.0
INCHES_A_BAR: Final = 0.27
# Title, legend, axis: what a figure needs besides its layers.
INCHES_ROUND: Final = 2.9


@dataclass(frozen=True)
class ByteBar:
    """A layer: its bytes by component, its number of parameters, and the ideal bits of those."""

    label: str
    parts: Mapping[str, int]
    num_elements: int
    ideal_bits: float

    @classmethod
    def joined(cls, label: str, bars: Sequence[ByteBar]) -> ByteBar:
        """Return several bars as one."""
        parts: Counter[str] = Counter()
        num_elements, ideal_bits = 0, 0.0
        for bar in bars:
            parts.update(bar.parts)
            num_elements += bar.num_elements
            ideal_bits += bar.ideal_bits
        return cls(label, dict(parts), num_elements, ideal_bits)

    @property
    def num_bytes(self) -> int:
        """Bytes of all components."""
        return sum(self.parts.values())

    @property
    def bits_per_parameter(self) -> float:
        """Bits per parameter of the layer, steps and tables included."""
        return 8 * self.num_bytes / self.num_elements if self.num_elements else 0.0


def plot_bytes(
    components: Mapping[str, int], layers: Sequence[ByteBar], path: Path, *, title: str, force: bool = False
) -> None:
    """Write :func:`draw_bytes` as a PNG.

    Raises
    ------
    UsageError
        If the name does not end in .png.
    OutputError
        If the file exists (without ``force``) or cannot be written.
    """
    check_suffix(path, ".png", "plot")
    with atomic_path(path, force=force) as temporary, warnings.catch_warnings():
        # No font has the characters of all names; a box stands for those that it lacks.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        draw_bytes(components, layers, title=title).savefig(temporary, format="png", dpi=150)


def draw_bytes(components: Mapping[str, int], layers: Sequence[ByteBar], *, title: str) -> Figure:
    """Draw the bytes of a file: one bar of all ``components`` above, a bar for each layer below.

    Bars are stacked by component. A line in a layer's bar marks its ideal bits: what its symbols cost at
    least under the tables that code them. The columns beside the bars give the figures.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bars = _largest(layers)
    height = INCHES_ROUND + INCHES_A_BAR * max(len(bars), 1)
    figure = Figure(figsize=(INCHES_WIDE, height))
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.08)
    FigureCanvasAgg(figure)
    whole, by_layer = figure.subplots(2, 1, height_ratios=[0.5, height - 1.9])
    _draw_whole(whole, components, title)
    _draw_layers(by_layer, bars)
    return figure


def _largest(layers: Sequence[ByteBar]) -> list[ByteBar]:
    """Return the layers in order; where there are too many, the smallest as one bar at the end."""
    if len(layers) <= MAX_BARS:
        return list(layers)
    ranked = sorted(layers, key=lambda layer: -layer.num_bytes)
    kept, rest = ranked[: MAX_BARS - 1], ranked[MAX_BARS - 1 :]
    in_order = [layer for layer in layers if layer in kept]
    return [*in_order, ByteBar.joined(f"{len(rest)} smaller layers", rest)]


def _draw_whole(axes: Axes, components: Mapping[str, int], title: str) -> None:
    total = sum(components.values())
    start = 0
    for name in _in_order(components):
        num_bytes = components[name]
        share = num_bytes / total
        label = f"{name}  {num_bytes:,} ({share:.1%})"
        axes.barh(0, num_bytes, left=start, color=_color(name), edgecolor="white", linewidth=0.6, label=label)
        if share >= LABELLED_SHARE:
            color = "black" if name in PALE else "white"
            middle = start + num_bytes / 2
            axes.text(middle, 0, f"{share:.0%}", ha="center", va="center", color=color, fontsize=9)
        start += num_bytes
    text = f"{visible(title)}: {plural(total, 'byte')}"
    # A dollar sign in a name is no formula.
    axes.set_title(text, loc="left", fontsize=11, fontweight="bold", parse_math=False)
    axes.set_xlim(0, total)
    axes.set_axis_off()
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=3, fontsize=8, frameon=False)


def _draw_layers(axes: Axes, bars: Sequence[ByteBar]) -> None:
    labels, widest = [], 1
    for row, bar in enumerate(bars):
        labels.append(bar.label)
        widest = max(widest, bar.num_bytes)
        start = 0
        for name in _in_order(bar.parts):
            axes.barh(row, bar.parts[name], left=start, height=0.72, color=_color(name))
            start += bar.parts[name]
        ideal_bytes = bar.ideal_bits / 8
        axes.plot([ideal_bytes, ideal_bytes], [row - 0.36, row + 0.36], color="black", linewidth=1.0)
        _write_columns(
            axes, row, [f"{bar.num_bytes:,}", f"{bar.bits_per_parameter:.2f}", f"{ideal_bytes:,.0f}"]
        )
    _write_columns(axes, -1, ["bytes", "bits per parameter", "ideal bytes"])
    axes.set_yticks(range(len(bars)), labels, fontsize=8)
    # Rows count downwards: the first layer is on top, with the heads of the columns above it.
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, 1.02 * widest)
    axes.set_xlabel("bytes of each layer; black line: ideal", fontsize=9)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _write_columns(axes: Axes, row: int, texts: Sequence[str]) -> None:
    """Write ``texts`` to the right of the bars of ``row``; row −1 is above the first bar."""
    for place, text in zip(COLUMNS, texts, strict=True):
        # x: points from the right edge of the axes, whatever their scale; y: the row, in their own units.
        axes.annotate(
            text,
            (1, row),
            (place, 0),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=8,
            annotation_clip=False,
        )


def _in_order(parts: Mapping[str, int]) -> list[str]:
    """Return the components that take bytes, in the order of the palette, unknown ones last."""
    names = list(COLORS)
    used = [name for name, num_bytes in parts.items() if num_bytes]
    return sorted(used, key=lambda name: names.index(name) if name in names else len(names))


def _color(component: str) -> str:
    return COLORS.get(component, OTHER_COLOR)
