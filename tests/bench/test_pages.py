"""Pages of results: values as tables show them, and documents that lie whole beside their pages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vinr.bench.datasets import find_clip, find_clips
from vinr.bench.pages import markdown_table, records_table, show_value, write_json, write_page
from vinr.bench.points import bd_of_points, point_values, value_at_rate
from vinr.comparison.rd import RDPoint
from vinr.errors import InputError, OutputError
from vinr.video.samples import sample_clip


@pytest.mark.parametrize(
    ("value", "options", "shown"),
    [
        (None, {}, "—"),
        (None, {"digits": 2}, "—"),
        ("as it is", {"digits": 2}, "as it is"),
        (3, {}, "3"),
        (1234567, {"digits": 0}, "1,234,567"),
        (0.123456, {}, "0.1235"),
        (-9.87654, {}, "-9.877"),
        (12.3456, {}, "12.35"),
        (12.3456, {"digits": 1}, "12.3"),
        (1234.5, {"digits": 1, "sign": True}, "+1,234.5"),
        (-0.26, {"digits": 1, "sign": True}, "-0.3"),
        (True, {}, "True"),
    ],
)
def test_values_are_shown(value: Any, options: dict[str, Any], shown: str) -> None:
    assert show_value(value, **options) == shown


def test_tables_have_labels_left_and_numbers_right() -> None:
    assert markdown_table(["a", "b", "c"], [["x", "1", "2"], ["y", "3", "4"]]).splitlines() == [
        "| a | b | c |",
        "| --- | ---: | ---: |",
        "| x | 1 | 2 |",
        "| y | 3 | 4 |",
    ]
    turned = [{"way": "plain", "fps": 12}, {"fps": 7, "way": "onnx"}]
    assert records_table(turned).splitlines()[2:] == ["| plain | 12 |", "| onnx | 7 |"]
    assert records_table([{"way": "plain", "fps": 12.345}, {"way": "onnx", "fps": None}]).splitlines()[
        2:
    ] == [
        "| plain | 12.35 |",
        "| onnx | — |",
    ]


def test_a_page_and_its_document_have_one_name_whatever_dots_it_has(tmp_path: Path) -> None:
    page = write_page(tmp_path / "hnerv-1.5m", {"psnr_db": 33.5}, "# Page\n")
    assert page == tmp_path / "hnerv-1.5m.md"
    assert page.read_text(encoding="utf-8") == "# Page\n"
    assert json.loads((tmp_path / "hnerv-1.5m.json").read_text(encoding="utf-8")) == {"psnr_db": 33.5}
    other = write_page(tmp_path / "results", {}, "x", page="README.md")
    assert other == tmp_path / "README.md"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md",
        "hnerv-1.5m.json",
        "hnerv-1.5m.md",
        "results.json",
    ]


def test_pages_are_not_overwritten_unasked(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"first": 1})
    with pytest.raises(OutputError, match="force=True"):
        write_json(tmp_path / "a.json", {"second": 2}, force=False)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"first": 1}
    with pytest.raises(OutputError, match="force=True"):
        write_page(tmp_path / "a", {}, "x", force=False)
    assert not (tmp_path / "a.md").exists()


def test_a_page_takes_names_that_are_no_text(tmp_path: Path) -> None:
    page = write_page(tmp_path / "a", {}, "caf\udce9")
    assert page.read_text(encoding="utf-8") == r"caf\udce9"


# -- points --------------------------------------------------------------------------------------------------


def test_a_point_is_kept_as_its_known_numbers() -> None:
    point = RDPoint("CRF 30", 0.25, num_bytes=100, psnr_db=30.0, yuv_psnr_db=31.0, decode_fps=9.0)
    assert point_values(point) == {"bpp": 0.25, "num_bytes": 100, "psnr_db": 30.0, "decode_fps": 9.0}


def test_values_lie_between_points_by_the_logarithm_of_the_rate() -> None:
    points = [{"bpp": 0.4, "psnr_db": 34.0}, {"bpp": 0.1, "psnr_db": 30.0}, {"bpp": 0.2}]
    assert value_at_rate(points, 0.2, "psnr_db") == pytest.approx(32.0)
    assert value_at_rate(points, 0.1, "psnr_db") == 30.0
    assert value_at_rate(points, 0.4, "psnr_db") == 34.0
    assert value_at_rate(points, 0.05, "psnr_db") is None
    assert value_at_rate(points, 0.5, "psnr_db") is None
    assert value_at_rate(points, 0.2, "ms_ssim") is None
    assert value_at_rate(points[:1], 0.4, "psnr_db") is None  # a point alone is no curve


def test_half_of_the_bits_at_every_quality_are_fifty_percent_less() -> None:
    anchor = [{"bpp": 0.1 * 2**step, "psnr_db": 30.0 + 2 * step} for step in range(5)]
    test = [{**point, "bpp": point["bpp"] / 2} for point in anchor]
    assert bd_of_points(anchor, test, "rate_percent") == pytest.approx(-50)
    assert bd_of_points(test, anchor, "rate_percent") == pytest.approx(100)
    assert bd_of_points(anchor, test, "quality_db") == pytest.approx(2)
    assert bd_of_points(anchor[:3], test, "rate_percent") is None
    far = [{**point, "psnr_db": point["psnr_db"] + 40} for point in test]
    assert bd_of_points(anchor, far, "rate_percent") is None


# -- clips ---------------------------------------------------------------------------------------------------


def test_bunny_comes_with_a_package() -> None:
    assert find_clip("bunny", None) == sample_clip()
    assert find_clips("bunny", None) == [sample_clip()]


def test_all_clips_of_a_data_set_are_sorted(tmp_path: Path) -> None:
    folder = tmp_path / "mcl-jcv"
    (folder / "videoSRC02" / "frames").mkdir(parents=True)
    (folder / "videoSRC03").mkdir()
    for name in ("videoSRC01_1920x1080_30.yuv", "videoSRC04.MP4", "readme.txt"):
        (folder / name).touch()
    assert [str(path.relative_to(folder)) for path in find_clips("mcl-jcv/*", tmp_path)] == [
        "videoSRC01_1920x1080_30.yuv",
        "videoSRC02/frames",
        "videoSRC03",
        "videoSRC04.MP4",
    ]
    assert find_clips("mcl-jcv/videosrc04", tmp_path) == [folder / "videoSRC04.MP4"]
    assert find_clip("mcl-jcv/videoSRC02", tmp_path) == folder / "videoSRC02" / "frames"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("uvg/*", r"uvg has no videos and no folders of images; https://ultravideo\.fi"),
        ("uvg/Beauty", r"Beauty\.mp4 .*or a folder of images .*frames; https://ultravideo\.fi"),
        ("mine/a", r"expected the folder .*mine; see docs/bench\.md"),
    ],
)
def test_what_is_missing_is_named_with_where_it_comes_from(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "uvg").mkdir()
    with pytest.raises(InputError, match=said):
        find_clips(name, tmp_path)
    with pytest.raises(InputError, match="does not come with vinr; give the folder"):
        find_clips(name, None)
