"""Pages: differences, order, percentages of a row, Bjøntegaard deltas, values at another row's rate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vinr.bench.points import bd_of_points, mean_point, published_points, value_at_rate
from vinr.bench.recipe import parse_recipe
from vinr.bench.report import Result, RowResult, conditions, ordering, page, write_result
from vinr.cli.show_bench import show_bench
from vinr.errors import UsageError

MACHINE = {"cpu": "a processor", "threads": 1, "torch": "2"}


def job(clip: str = "bunny", **values: Any) -> dict[str, Any]:
    return {
        "kind": "fit",
        "clip": clip,
        "setup": {"resize": [80, 160]},
        "device": "cpu",
        "values": values,
        "seconds": 2.0,
        "date": "2025-01-01",
        "commit": "abc",
        "machine": MACHINE,
    }


def result(
    metrics: dict[str, Any],
    papers: dict[str, dict[str, float]],
    ours: dict[str, list[dict[str, Any]]],
    *,
    rows: dict[str, dict[str, Any]] | None = None,
    **changes: Any,
) -> Result:
    own = [{"label": label, "paper": paper, **(rows or {}).get(label, {})} for label, paper in papers.items()]
    tree = {"paper": "P", "table": "Table 1", "title": "t", "source": "P, Table 1", "kind": "fit"}
    recipe = parse_recipe("test", {**tree, "metrics": metrics, "rows": own, **changes})
    results = {
        label: RowResult({f"clip{number}": values for number, values in enumerate(jobs)})
        for label, jobs in ours.items()
    }
    return Result(recipe, "mini", results, {"epochs": 4, "overrides": ["a.b=1"]})


PSNR = {"psnr_db": {"title": "PSNR, dB"}}


def test_difference_is_ours_minus_the_papers() -> None:
    made = result(PSNR, {"A": {"psnr_db": 30.5}, "B": {}}, {"A": [job(psnr_db=28.0), job(psnr_db=29.0)]})
    text = page(made.document())
    assert "| A | 30.50 | 28.50 | -2.00 |" in text
    assert "| B | — | — | — |" in text
    assert "--epochs 4 --set a.b=1" in text


def test_the_terminal_shows_no_difference_of_other_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    """Of other frames, sizes and epochs the order of the rows alone says something."""
    made = result(
        PSNR, {"A": {"psnr_db": 30.5}, "B": {}}, {"A": [job(psnr_db=28.0)], "B": [job(psnr_db=9.0)]}
    )
    show_bench(made, "out", as_json=False)
    shown = capsys.readouterr().out
    assert "difference" not in shown.partition("scale mini")[0]
    assert "read the order of the rows" in shown
    show_bench(replace(made, scale="full"), "out", as_json=False)
    shown = capsys.readouterr().out
    assert "difference" in shown
    assert "-2.50" in shown


def test_a_table_of_nothing_printed_has_ours_alone() -> None:
    ours = {"A": [job(psnr_db=28.0)], "B": [job(psnr_db=29.5)]}
    text = page(result(PSNR, {"A": {}, "B": {}}, ours, baseline="A").document())
    assert "| row | PSNR, dB |\n| --- | ---: |\n| A | 28.00 |\n| B | 29.50 |" in text
    assert "| row | PSNR, dB |\n| --- | ---: |\n| B | +1.50 |" in text
    assert "Source: P, Table 1." in text


def test_ordering_names_the_neighbours_that_differ() -> None:
    papers = {"A": {"psnr_db": 33.0}, "B": {"psnr_db": 32.0}, "C": {"psnr_db": 31.0}}
    ours = {"A": [job(psnr_db=25.0)], "B": [job(psnr_db=23.0)], "C": [job(psnr_db=24.0)]}
    (line,) = ordering(result(PSNR, papers, ours).document())
    assert "rank correlation +0.50" in line
    assert "differs from the paper's**, which has “B” before “C”." in line
    assert "“A”" not in line


def test_ordering_as_in_the_paper() -> None:
    papers = {"A": {"psnr_db": 33.0}, "B": {"psnr_db": 32.0}}
    made = result(PSNR, papers, {"A": [job(psnr_db=25.0)], "B": [job(psnr_db=24.0)]})
    (line,) = ordering(made.document())
    assert line == "Order by PSNR, dB: rank correlation +1.00; neighbours are ordered as in the paper."


def test_ordering_of_what_is_better_when_lower() -> None:
    metrics = {"bpp": {"title": "bpp", "better": "lower"}}
    papers = {"A": {"bpp": 0.2}, "B": {"bpp": 0.1}}
    (line,) = ordering(result(metrics, papers, {"A": [job(bpp=0.1)], "B": [job(bpp=0.3)]}).document())
    assert "rank correlation -1.00" in line
    assert "“B” before “A”" in line


def test_equal_numbers_are_not_called_swapped() -> None:
    papers = {"A": {"psnr_db": 33.0}, "B": {"psnr_db": 33.0}}
    (line,) = ordering(result(PSNR, papers, {"A": [job(psnr_db=1.0)], "B": [job(psnr_db=2.0)]}).document())
    assert "no rank correlation" in line
    assert "differs" not in line


def test_percentage_of_a_row() -> None:
    metrics = {"ratio": {"title": "size, %", "of": "num_bytes", "relative_to": "A", "better": "lower"}}
    made = result(metrics, {"A": {}, "B": {}}, {"A": [job(num_bytes=200)], "B": [job(num_bytes=150)]})
    assert (made.value("A", "ratio"), made.value("B", "ratio")) == (100.0, 75.0)


def test_value_is_unknown_until_all_clips_have_it() -> None:
    made = result(PSNR, {"A": {}}, {"A": [job(psnr_db=28.0), job(psnr_db=None)]})
    assert made.value("A", "psnr_db") is None


def curve(factor: float) -> list[dict[str, float]]:
    return [
        {"bpp": factor * bpp, "psnr_db": psnr_db}
        for bpp, psnr_db in ((0.1, 30.0), (0.2, 33.0), (0.4, 36.0), (0.8, 39.0))
    ]


def test_bd_rate_of_a_curve_at_half_the_rate() -> None:
    assert bd_of_points(curve(1.0), curve(0.5), "rate_percent") == pytest.approx(-50.0)
    assert bd_of_points(curve(1.0), curve(0.5), "quality_db") == pytest.approx(3.0)
    assert bd_of_points(curve(1.0)[:2], curve(0.5)[:2], "rate_percent") is None
    metrics = {"bd": {"title": "BD-rate, %", "bd": "rate_percent", "test": "A"}}
    made = result(metrics, {"A": {}, "B": {}}, {"A": [job(points=curve(0.5))], "B": [job(points=curve(1.0))]})
    assert made.value("B", "bd") == pytest.approx(-50.0)
    assert made.value("A", "bd") is None


def test_value_at_another_rows_rate() -> None:
    assert value_at_rate(curve(1.0), 0.1 * 2**0.5, "psnr_db") == pytest.approx(31.5)
    assert value_at_rate(curve(1.0), 0.05, "psnr_db") is None
    equal_rates = [{"bpp": 0.1, "psnr_db": 30.0}, {"bpp": 0.1, "psnr_db": 31.0}]
    assert value_at_rate(equal_rates, 0.1, "psnr_db") == 30.0
    ours = {"A": [job(bpp=0.4, psnr_db=35.0)], "codec": [job(points=curve(1.0))]}
    made = result(PSNR, {"A": {}, "codec": {}}, ours, rows={"codec": {"at_rate_of": "A"}})
    assert made.value("codec", "psnr_db") == pytest.approx(36.0)


def test_page_is_made_from_the_document_alone(tmp_path: Path) -> None:
    made = result(PSNR, {"A": {"psnr_db": 33.0}}, {"A": [job(psnr_db=25.0)]}, notes=["Mind the gap."])
    write_result(made, tmp_path)
    text = (tmp_path / "test-mini.md").read_text(encoding="utf-8")
    assert page(json.loads((tmp_path / "test-mini.json").read_text(encoding="utf-8"))) == text
    assert "Mind the gap." in text
    assert "2025-01-01, commit abc, a processor, 1 thread, torch 2; 2 s in all." in text


def test_the_page_names_every_machine_and_day() -> None:
    gpu = {"device": "cuda", "machine": {**MACHINE, "gpu": "a GPU"}, "date": "2025-01-03", "seconds": 3.0}
    jobs = [job(), {**job(), **gpu, "clip": "other"}, {**job(), "clip": "third"}]
    assert conditions(jobs) == (
        "2025-01-01 to 2025-01-03, commit abc, a processor, 1 thread, torch 2; a GPU, 1 thread, torch 2; "
        "7 s in all."
    )


def test_the_mean_of_points() -> None:
    points = [{"bpp": 1.0, "psnr_db": 30.0, "ms_ssim": 0.9}, {"bpp": 3.0, "psnr_db": 40.0}]
    assert mean_point(points) == {"bpp": 2.0, "psnr_db": 35.0}
    # Two clips of 4 and 1 frames, one of them large: all bytes by all pixels, and the mean over all frames.
    assert mean_point(points, [10, 30], [4, 1]) == {"bpp": 2.5, "psnr_db": 32.0}


CSV = "codec,clip,bpp,psnr_db,ms_ssim,source\nHM,Beauty,0.1,33.5,,a paper\nHM,Beauty,0.2,34.5,,a paper\n"


def test_published_points(tmp_path: Path) -> None:
    (tmp_path / "uvg.csv").write_text(CSV, encoding="utf-8")
    points = published_points("uvg.csv#Beauty#HM", tmp_path)
    assert points == [{"bpp": 0.1, "psnr_db": 33.5}, {"bpp": 0.2, "psnr_db": 34.5}]


@pytest.mark.parametrize(
    ("text", "data", "said"),
    [
        ("uvg.csv#Beauty", True, "write FILE.csv#CLIP#CODEC"),
        ("uvg.csv#Beauty#VTM", True, "no codec 'VTM'; it has HM"),
        ("uvg.csv#Jockey#HM", True, "no clip 'Jockey'"),
        ("mcl.csv#Beauty#HM", True, "mcl.csv"),
        ("uvg.csv#Beauty#HM", False, "data='FOLDER'"),
    ],
)
def test_published_points_that_are_not_there(tmp_path: Path, text: str, data: bool, said: str) -> None:
    (tmp_path / "uvg.csv").write_text(CSV, encoding="utf-8")
    with pytest.raises(UsageError, match=said):
        published_points(text, tmp_path if data else None)


def test_networks_behind_a_trivial_way_are_named() -> None:
    metrics = {"psnr_db": {"title": "PSNR, dB", "of": "held_out_psnr_db"}}
    trivial = {"nearest_psnr_db": 24.0, "mean_psnr_db": 26.0}
    ours = {
        "A": [job(held_out_psnr_db=25.5, **trivial), job(held_out_psnr_db=24.5, **trivial)],
        "B": [job(held_out_psnr_db=26.5, **trivial)],
        "nearest": [job(held_out_psnr_db=25.5, **trivial)],
    }
    rows = {"nearest": {"values": {"psnr_db": "nearest_psnr_db"}}}
    text = page(result(metrics, {"A": {}, "B": {}, "nearest": {}}, ours, rows=rows).document())
    line = "**Behind a way that needs no network**: “A” (25.00 dB; mean of both neighbours 26.00 dB)."
    assert line in text.splitlines()
    assert "Behind" not in page(result(metrics, {"B": {}}, {"B": ours["B"]}).document())


def test_fillings_behind_their_surroundings_are_named() -> None:
    measured = {"masked_psnr_db": 16.1, "surroundings_masked_psnr_db": 16.8, "nearest_masked_psnr_db": 12.0}
    made = result({"masked_psnr_db": {"title": "PSNR, dB"}}, {"A": {}}, {"A": [job(**measured)]})
    assert "“A” (16.10 dB; blurred surroundings 16.80 dB)." in page(made.document())
