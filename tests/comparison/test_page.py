"""The page of a comparison holds what it is given, safely, and nothing from elsewhere."""

from __future__ import annotations

import io
from base64 import b64decode
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from clips import moving_shapes
from vinr.comparison.page import ComparisonPage, CropSet, busiest_window
from vinr.comparison.rd import MEASURES, RDCurve, RDPoint, bd_table
from vinr.comparison.rd_plots import draw_per_frame, draw_rd, svg_data_uri
from vinr.decoding.streams import CropKeeper, CropWindow, StreamClock
from vinr.video.spec import FrameBatch, FrameStream

HOSTILE = '<script src="http://example.org/x.js"></script>&" $\\frac$ --> x'


def curve(name: str, kind: str, shift: float) -> RDCurve:
    points = tuple(
        RDPoint(
            f"CRF {40 - n}",
            0.01 * 2**n,
            num_bytes=None if kind == "published" else 1000 * 2**n,
            psnr_db=30.0 + 2 * n + shift,
            ms_ssim=0.9 + 0.01 * n + shift / 100,
            per_frame_psnr_db=() if kind == "published" else (29.0 + 2 * n, 31.0 + 2 * n),
            options={"crf": str(40 - n)},
        )
        for n in range(4)
    )
    return RDCurve(name, kind, points, f"made by {name}")  # type: ignore[arg-type]


CURVES = [
    curve(f"vinr {HOSTILE}", "vinr", 0.5),
    curve("x265 medium", "anchor", 1.0),
    curve("HM", "published", 2.0),
]


def page(**changed: object) -> ComparisonPage:
    crops = {3: moving_shapes(num_frames=1, height=16, width=16).rgb_NCHW[0]}
    settings = {
        "title": f"clip {HOSTILE}",
        "facts": [("video", HOSTILE)],
        "curves": CURVES,
        "results": bd_table(CURVES, ["psnr_db", "ms_ssim_db", "yuv_psnr_db"]),
        "chosen": [(item, item.points[1]) for item in CURVES[:2]],
        "crops": [CropSet("original", crops), CropSet(HOSTILE, crops)],
    }
    return ComparisonPage(**{**settings, **changed})  # type: ignore[arg-type]


class Collector(HTMLParser):
    """Gathers tags with their attributes, and the text of table cells."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self._open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag in ("td", "th")
        if self._open:
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._open:
            self.cells[-1] += " ".join(data.split())


def read(text: str) -> Collector:
    collector = Collector()
    collector.feed(text)
    collector.close()
    return collector


def test_nothing_is_loaded_from_elsewhere_and_texts_are_escaped() -> None:
    found = read(page().render())
    assert {tag for tag, _ in found.tags}.isdisjoint({"script", "link", "iframe", "object", "embed", "base"})
    addresses = [
        value or ""
        for _, attributes in found.tags
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "data", "poster")
    ]
    assert len(addresses) == 5  # two plots and frame by frame; two crops
    assert all(
        address.startswith(("data:image/svg+xml;base64,", "data:image/png;base64,")) for address in addresses
    )
    assert "url(" not in page().render()
    for address in addresses:
        if "svg" in address:
            drawn = ElementTree.fromstring(b64decode(address.partition(",")[2]))
            assert {element.tag.rpartition("}")[2] for element in drawn.iter()}.isdisjoint(
                {"script", "image"}
            )
            links = [v for element in drawn.iter() for k, v in element.attrib.items() if k.endswith("href")]
            assert links
            assert all(link.startswith("#") for link in links)  # its own parts
    assert HOSTILE in found.cells


def test_points_and_bd_rates_are_in_the_tables() -> None:
    found = read(page().render())
    for item in CURVES:
        for point in item.points:
            assert f"{point.bpp:.5f}" in found.cells
    assert "8,000" in found.cells
    assert "39.00" not in found.cells
    assert "37.00" in found.cells
    for result in bd_table(CURVES, ["psnr_db"]):
        assert result.rate_percent is not None
        assert result.quality_db is not None
        star = "*" if (result.overlap_share or 0) < 0.75 else ""
        assert f"{result.rate_percent:+.1f} % ({result.quality_db:+.2f}){star}" in found.cells
    assert "made by HM" in found.cells


def test_reasons_for_missing_rates_are_given_once() -> None:
    short = RDCurve("short", "anchor", CURVES[1].points[:2])
    curves = [CURVES[0], short]
    text = page(curves=curves, results=bd_table(curves, ["psnr_db"]), chosen=[]).render()
    assert text.count("short has 2 points") == 1
    assert "Bits for equal quality" in text


def test_a_page_can_do_without_networks_crops_and_values() -> None:
    bare = RDCurve("bare", "anchor", (RDPoint("CRF 1", 0.5),))
    text = page(curves=[bare], results=bd_table([bare], ["psnr_db"]), chosen=[], crops=[]).render()
    assert "Side by side" not in text
    assert "None" not in text


def test_pictures_are_the_crops() -> None:
    crop_CHW = torch.randint(0, 256, (3, 5, 7), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    first, second = CropSet("x", {9: crop_CHW.flip(1), 2: crop_CHW}).pictures()
    for address, expected in ((first, crop_CHW), (second, crop_CHW.flip(1))):
        image = Image.open(io.BytesIO(b64decode(address.partition(",")[2])))
        assert np.array_equal(np.asarray(image), expected.permute(1, 2, 0).numpy())


def test_plots_show_the_points_they_are_given() -> None:
    (axes,) = draw_rd(CURVES, "psnr_db", title="quality").axes
    assert axes.get_xscale() == "log"
    assert len(axes.lines) == 3
    for line, item in zip(axes.lines, CURVES, strict=True):
        assert list(zip(line.get_xdata(), line.get_ydata(), strict=True)) == item.samples("psnr_db")
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[1:] == ["x265 medium", "HM (published)"]
    assert axes.get_ylabel() == MEASURES["psnr_db"]
    (axes,) = draw_per_frame([(CURVES[1], CURVES[1].points[2], 1)], title="frames").axes
    assert list(axes.lines[0].get_ydata()) == [33.0, 35.0]
    assert axes.get_legend().get_texts()[0].get_text() == "x265 medium, 0.0400 bpp"


def test_curves_have_the_same_colour_in_all_plots() -> None:
    (rates,) = draw_rd(CURVES, "psnr_db", title="").axes
    (frames,) = draw_per_frame([(CURVES[1], CURVES[1].points[0], 1)], title="").axes
    assert frames.lines[0].get_color() == rates.lines[1].get_color()
    assert len({line.get_color() for line in rates.lines}) == 3


def test_the_same_figure_gives_the_same_text() -> None:
    first, second = (svg_data_uri(draw_rd(CURVES, "psnr_db", title="a")) for _ in range(2))
    assert first == second


# -- sources -------------------------------------------------------------------------------------------------


def test_the_busiest_window_is_where_the_detail_is() -> None:
    rgb_CHW = torch.full((3, 64, 96), 90, dtype=torch.uint8)
    rgb_CHW[:, 40:56:2, 64:80] = 250
    window = busiest_window(rgb_CHW, 16)
    assert (window.height, window.width) == (16, 16)
    assert (window.top, window.left) == (40, 64)
    assert busiest_window(rgb_CHW[:, :1, :1], 16) == CropWindow(0, 0, 1, 1)


def test_crops_are_kept_while_frames_pass() -> None:
    clip = moving_shapes(num_frames=4, height=8, width=10)
    keeper = CropKeeper([1, 3], CropWindow(2, 3, 4, 5))
    passed = list(keeper.watch(FrameStream.of(clip, batch_size=2)))
    assert torch.equal(FrameBatch.join(passed).rgb_NCHW, clip.rgb_NCHW)
    assert sorted(keeper.crops) == [1, 3]
    assert torch.equal(keeper.crops[3], clip.rgb_NCHW[3, :, 2:6, 3:8])


def test_the_clock_runs_only_while_frames_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([10.0, 10.5, 90.0, 90.25, 95.0, 95.0])  # two frames, and the end
    monkeypatch.setattr("vinr.decoding.streams.time.perf_counter", lambda: next(ticks))
    clock = StreamClock()
    clip = moving_shapes(num_frames=2, height=8, width=8)
    assert len(list(clock.watch(FrameStream.of(clip, batch_size=1)))) == 2
    assert clock.seconds == 0.75
