"""The figure shows the bytes it is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.patches import Rectangle
from PIL import Image

from vinr.decoding.byte_plot import MAX_BARS, ByteBar, draw_bytes, plot_bytes
from vinr.errors import OutputError, UsageError

COMPONENTS = {"header": 100, "weight": 6000, "latent": 900, "audio": 3000, "index": 0, "novelty": 40}
LAYERS = [
    ByteBar("stem", {"weight": 500, "bias": 40, "steps and tables": 10}, 480, 4200.0),
    ByteBar("blocks.0.conv", {"weight": 5500, "bias": 0}, 6000, 43_000.0),
    ByteBar("latents.embedding", {"latent": 900}, 1000, 7100.0),
]


def widths(axes: object) -> list[float]:
    """Return the widths of the drawn parts of bars, from the first row to the last, left to right."""
    parts = [patch for patch in axes.patches if isinstance(patch, Rectangle)]  # type: ignore[attr-defined]
    ordered = sorted(parts, key=lambda part: (round(part.get_y() + part.get_height() / 2), part.get_x()))
    return [part.get_width() for part in ordered]


def test_parts_of_bars_are_as_long_as_their_bytes() -> None:
    whole, by_layer = draw_bytes(COMPONENTS, LAYERS, title="clip.vinr").axes
    assert sorted(widths(whole)) == [40, 100, 900, 3000, 6000]
    assert widths(by_layer) == [500, 40, 10, 5500, 900]
    assert whole.get_title(loc="left") == "clip.vinr: 10,040 bytes"
    labels = [text.get_text() for text in whole.get_legend().get_texts()]
    assert "weight  6,000 (59.8%)" in labels
    assert len(labels) == 5
    assert [tick.get_text() for tick in by_layer.get_yticklabels()] == [layer.label for layer in LAYERS]


def test_ideal_bits_and_figures_stand_beside_the_bars() -> None:
    _, by_layer = draw_bytes(COMPONENTS, LAYERS, title="clip.vinr").axes
    assert [line.get_xdata()[0] for line in by_layer.lines] == [525.0, 5375.0, 887.5]
    texts = [text.get_text() for text in by_layer.texts]
    assert texts[3:6] == ["5,500", "7.33", "5,375"]
    assert texts[9:] == ["bytes", "bits per parameter", "ideal bytes"]


def test_many_layers_share_a_bar() -> None:
    layers = [
        ByteBar(f"layer{n}", {"weight": 1000 + n, "bias": 1}, 1000, 8000.0) for n in range(MAX_BARS + 5)
    ]
    _, by_layer = draw_bytes({"weight": 10**5}, layers, title="clip.vinr").axes
    labels = [tick.get_text() for tick in by_layer.get_yticklabels()]
    assert labels == [*(f"layer{n}" for n in range(6, MAX_BARS + 5)), "6 smaller layers"]
    assert widths(by_layer)[-2:] == [sum(1000 + n for n in range(6)), 6]
    assert len(draw_bytes({"weight": 1}, layers[:MAX_BARS], title="").axes[1].get_yticklabels()) == MAX_BARS


def test_nothing_is_cut_off(tmp_path: Path) -> None:
    """All text lies inside the picture: its outermost pixels are white, and it holds more than white."""
    long = [
        ByteBar(f"decoder.stages.{n}.local_encoding.grid.level{n}", {"grid": 10**7 * n}, 10, 8e7)
        for n in (1, 2)
    ]
    plot_bytes({"grid": 3 * 10**7, "header": 5}, long, tmp_path / "a.png", title="a.vinr")
    picture_HWC = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    edges = [picture_HWC[0], picture_HWC[-1], picture_HWC[:, 0], picture_HWC[:, -1]]
    assert all((edge == 255).all() for edge in edges)
    assert (picture_HWC < 128).any()


def test_a_file_without_networks_bytes_can_be_drawn() -> None:
    whole, by_layer = draw_bytes({"header": 10}, [], title="empty").axes
    assert widths(whole) == [10]
    assert widths(by_layer) == []


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must end in \.png"):
        plot_bytes(COMPONENTS, LAYERS, tmp_path / "a.pdf", title="")
    (tmp_path / "a.png").write_bytes(b"old")
    with pytest.raises(OutputError, match="force=True"):
        plot_bytes(COMPONENTS, LAYERS, tmp_path / "a.png", title="")
    assert (tmp_path / "a.png").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a$b$ $\\foo{$ x_", "a$b$ $\\foo{$ x_"),
        ("a\x1b[31m\n\u202e", r"a\x1b[31m\n\u202e"),
        ("中文 👨", "中文 👨"),
    ],
)
def test_names_of_files_are_no_formulas_and_need_no_font(tmp_path: Path, name: str, shown: str) -> None:
    plot_bytes(COMPONENTS, LAYERS, tmp_path / "a.png", title=name)
    assert (tmp_path / "a.png").stat().st_size > 0
    assert draw_bytes(COMPONENTS, LAYERS, title=name).axes[0].get_title(loc="left").startswith(f"{shown}: ")
