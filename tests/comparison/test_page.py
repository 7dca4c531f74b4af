"""The page of a comparison holds what it is given, safely, and nothing from elsewhere."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from base64 import b64decode, b64encode
from html.parser import HTMLParser
from importlib import resources
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from PIL import Image

from clips import moving_shapes
from vinr.comparison.page import ComparisonPage, CropSet, busiest_window
from vinr.comparison.plots import frame_plot, rd_plots
from vinr.comparison.rd import RDCurve, RDPoint, bd_table
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
    """Gathers tags with their attributes, the text of table cells, and scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self._open = self._in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")
        self._open = tag in ("td", "th")
        if self._open:
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False
        self._open = self._open and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[-1] += data
        if self._open:
            self.cells[-1] += " ".join(data.split())


def read(text: str) -> Collector:
    collector = Collector()
    collector.feed(text)
    collector.close()
    return collector


def plots_of(found: Collector) -> list[dict[str, Any]]:
    plots: list[dict[str, Any]] = json.loads(found.scripts[0])
    return plots


def test_nothing_is_loaded_from_elsewhere_and_texts_are_escaped() -> None:
    text = page().render()
    found = read(text)
    assert {tag for tag, _ in found.tags}.isdisjoint({"link", "iframe", "object", "embed", "base", "form"})
    addresses = [
        value or ""
        for _, attributes in found.tags
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "data", "poster")
    ]
    assert len(addresses) == 3  # two crops, and the points as CSV
    assert all(address.startswith(("data:image/png;base64,", "data:text/csv;")) for address in addresses)
    assert "url(" not in text
    assert HOSTILE in found.cells
    assert [attributes for tag, attributes in found.tags if tag == "script"] == [
        {"type": "application/json", "id": "plots"},
        {},
        {},
    ]


def test_only_the_scripts_of_the_page_may_run() -> None:
    found = read(page().render())
    (policy,) = [
        values["content"] or ""
        for tag, values in found.tags
        if tag == "meta" and values.get("http-equiv") == "Content-Security-Policy"
    ]
    digests = [b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in found.scripts[1:]]
    assert policy == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digests[0]}' 'sha256-{digests[1]}'"
    )
    assert "Permission is hereby granted" in found.scripts[1]
    # What the script looks for is there.
    script = resources.files("vinr.comparison").joinpath("web", "page.js").read_text(encoding="utf-8")
    assert found.scripts[2] == script.strip()
    classes = {name for _, values in found.tags for name in (values.get("class") or "").split()}
    wanted = set(re.findall(r'querySelector(?:All)?\("\.(\w+)', script))
    assert wanted == {"plot", "crops", "slider", "pair"}
    assert wanted <= classes


def test_a_text_cannot_end_the_data_of_the_plots() -> None:
    hostile = curve("</script><script>alert(1)</script>", "anchor", 0)
    found = read(page(curves=[hostile], results=[], chosen=[]).render())
    assert len(found.scripts) == 3
    assert plots_of(found)[0]["lines"][0]["name"] == hostile.name


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
    pictures = CropSet("x", {9: crop_CHW.flip(1), 2: crop_CHW}).pictures()
    assert [number for number, _ in pictures] == [2, 9]
    for (_, address), expected in zip(pictures, (crop_CHW, crop_CHW.flip(1)), strict=True):
        image = Image.open(io.BytesIO(b64decode(address.partition(",")[2])))
        assert np.array_equal(np.asarray(image), expected.permute(1, 2, 0).numpy())


def test_plots_show_the_points_they_are_given() -> None:
    rgb, ms_ssim = rd_plots(CURVES)
    assert (rgb.title, rgb.y_label, rgb.is_log) == ("RGB-PSNR, mean of frames", "dB", True)
    assert ms_ssim.title == "MS-SSIM, −10·log10(1 − x)"
    for line, item in zip(rgb.lines, CURVES, strict=True):
        assert [(point.x, point.y) for point in line.points] == item.samples("psnr_db")
    assert [line.name for line in rgb.lines[1:]] == ["x265 medium", "HM (published)"]
    assert (
        rgb.lines[1].points[2].text == "x265 medium CRF 38, 0.0400 bpp, 4,000 bytes, 35.00 dB, MS-SSIM 0.9300"
    )
    frames = frame_plot(CURVES, [(CURVES[1], CURVES[1].points[2])])
    assert [point.y for point in frames.lines[0].points] == [33.0, 35.0]
    assert frames.lines[0].name == "x265 medium, 0.0400 bpp"


def test_curves_have_the_same_colour_in_all_plots() -> None:
    assert [line.number for line in rd_plots(CURVES)[0].lines] == [0, 1, 2]
    assert frame_plot(CURVES, [(CURVES[1], CURVES[1].points[0])]).lines[0].number == 1


def test_the_points_can_be_downloaded() -> None:
    found = read(page().render())
    (address,) = [values["href"] or "" for tag, values in found.tags if tag == "a"]
    rows = list(csv.DictReader(io.StringIO(unquote(address.partition(",")[2]))))
    assert len(rows) == sum(len(item.points) for item in CURVES)
    assert rows[0]["codec"] == CURVES[0].name
    assert (rows[5]["setting"], rows[5]["num_bytes"], rows[5]["psnr_db"]) == ("CRF 39", "2000", "33.0")
    assert rows[-1]["num_bytes"] == ""


def test_an_unfinished_page_says_so_and_has_no_rates() -> None:
    text = page(unfinished="3 of 8 points are here.", results=[]).render()
    assert "3 of 8 points are here." in text
    assert "BD-rate" not in text
    assert "Not finished" not in page().render()


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


def test_the_page_suits_dark_rooms_and_phones() -> None:
    """Colours follow the reader's system; on a narrow screen the tables and plots take another layout."""
    text = page().render()
    assert "color-scheme: light dark" in text
    assert "@media (prefers-color-scheme: dark)" in text
    assert "@media (max-width:" in text
    assert any(
        tag == "meta"
        and values.get("name") == "viewport"
        and "width=device-width" in (values["content"] or "")
        for tag, values in read(text).tags
    )
