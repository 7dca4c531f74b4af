"""Every recipe runs at its tiny scale, and states what the papers print."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from command_line import Run, refused
from vinr.bench.datasets import comes_with_vinr
from vinr.bench.recipe import (
    SCALES,
    Metric,
    Recipe,
    Row,
    Setup,
    list_recipes,
    load_recipe,
    paper_mean,
    parse_recipe,
    parse_toml,
)
from vinr.bench.report import page
from vinr.bench.run import plan_row, run_recipe
from vinr.errors import UsageError

# By the end of a value's name: bounds of what a few steps on frames of 32×64 can give. A copy of a frame
# reaches 40 dB, and a network that learnt nothing still knows that colours lie between 0 and 1.
BOUNDS = {
    "psnr_db": (3.0, 60.0),
    "bpp": (0.001, 100.0),
    "bytes": (0.0, 1e6),
    "percent": (0.0, 100.0),
    "bits_per_parameter": (0.1, 1000.0),
    "fps": (0.1, 1e6),
    "seconds": (1e-6, 600.0),
    "parameters": (100.0, 1e6),
}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all recipes, since many share rows."""
    return tmp_path_factory.mktemp("bench")


def of_each_kind() -> dict[str, str]:
    """Return the recipe of fewest fits for each kind of experiment."""
    shortest: dict[str, str] = {}
    for recipe in sorted(map(load_recipe, list_recipes()), key=num_fits):
        name = recipe.name
        for row in recipe.rows:
            shortest.setdefault(recipe.kind_of(row), name)
    return shortest


def num_fits(recipe: Recipe) -> int:
    return sum(1 + len(recipe.setup(row, "tiny").tune or ()) for row in recipe.rows)


def some_or_slow() -> list[Any]:
    long = {"clips", "rate_distortion"}
    usual = {name for kind, name in of_each_kind().items() if kind not in long}
    slow = [pytest.param(name, marks=pytest.mark.slow) for name in list_recipes() if name not in usual]
    return [*sorted(usual), *slow]


@pytest.mark.parametrize("kind", ["clips", "rate_distortion"])
def test_first_and_last_row_of_a_long_recipe_run_at_tiny_scale(kind: str, tmp_path: Path) -> None:
    recipe = load_recipe(of_each_kind()[kind])
    check_recipe(recipe.model_copy(update={"rows": (recipe.rows[0], recipe.rows[-1])}), tmp_path)


@pytest.mark.parametrize("name", some_or_slow())
def test_recipe_runs_at_tiny_scale(name: str, out: Path) -> None:
    check_recipe(load_recipe(name), out)


def check_recipe(recipe: Recipe, out: Path) -> None:
    name = recipe.name
    result = run_recipe(recipe, scale="tiny", out=out, device="cpu")
    assert result.num_missing == 0
    document = json.loads((out / f"{name}-tiny.json").read_text(encoding="utf-8"))
    assert [row["label"] for row in document["rows"]] == [row.label for row in recipe.rows]
    for row, found in zip(recipe.rows, document["rows"], strict=True):
        for metric_name, metric in recipe.metrics.items():
            codec = recipe.setup(row, "tiny").anchor is not None
            _check_value(row, metric_name, metric, found, codec=codec)
    text = (out / f"{name}-tiny.md").read_text(encoding="utf-8")
    assert text == page(document)
    table = [line.split(" | ")[0].removeprefix("| ") for line in text.splitlines() if line.startswith("| ")]
    assert set(table) >= {row.label for row in recipe.rows}


def _check_value(row: Row, metric_name: str, metric: Metric, found: dict[str, Any], *, codec: bool) -> None:
    value = found["ours"][metric_name]
    name = row.values.get(metric_name) or metric.of or metric_name
    if not row.runs:
        assert value is None
    elif name == "ms_ssim":
        assert value is None  # frames of 32×64 have no room for five scales
    elif codec and name in ("half_seconds", "quarter_seconds"):
        assert value is None  # a codec decodes all frames that lie between
    elif metric.bd is not None:
        assert value is None  # two points are too few for a Bjøntegaard delta
    elif row.at_rate_of is not None and value is None:
        pass  # the other row's rate lies outside this one's points
    elif metric.relative_to is not None:
        assert 1 < value < 1000
    else:
        low, high = next(bounds for end, bounds in BOUNDS.items() if end in name)
        assert low <= value / metric.scale <= high, f"{row.label}: {name}"


@pytest.mark.parametrize("name", list_recipes())
def test_every_row_is_planned_at_every_scale(name: str) -> None:
    recipe = load_recipe(name)
    for scale in SCALES:
        for row in recipe.rows:
            jobs = plan_row(recipe, row, scale)
            assert jobs or not row.runs
            # What is small comes with vinr, but for a clip that moves more than those.
            for job in jobs:
                has_more = scale == "mini" and "davis/bmx-trees" in job.clip
                assert scale == "full" or comes_with_vinr(job.clip) or has_more


def test_there_is_a_recipe_for_every_table() -> None:
    names = list_recipes()
    assert len(names) >= 25
    assert {load_recipe(name).paper.split(",")[0] for name in names} >= {
        "HNeRV",
        "HiNeRV",
        "T-NeRV",
        "D-NeRV",
    }


@pytest.mark.parametrize(
    ("name", "label", "metric", "printed"),
    [
        ("hnerv-table-2", "HNeRV, 0.35 M", "psnr_db", 30.15),
        ("hnerv-table-2", "HNeRV, 3 M", "psnr_db", 37.43),
        ("hnerv-table-8", "1, 5", "psnr_db", 35.57),
        ("hnerv-table-8", "3, 3", "ms_ssim", 0.9587),
        ("hinerv-table-5", "QAT", "b6", 35.50),
    ],
)
def test_numbers_are_the_papers(name: str, label: str, metric: str, printed: float) -> None:
    """From the papers' tables; several clips count by their mean."""
    assert paper_mean(load_recipe(name).row(label).paper[metric]) == pytest.approx(printed)


def a_recipe(**changes: Any) -> Recipe:
    tree: dict[str, Any] = {
        "paper": "P",
        "table": "Table 1",
        "title": "t",
        "source": "s",
        "kind": "fit",
        "metrics": {"psnr_db": {"title": "PSNR, dB"}},
        "all": {"overrides": ["a.b=1"], "epochs": 3},
        "mini": {"preset": "p"},
        "rows": [
            {"label": "one", "paper": {"psnr_db": 30.0}, "mini": {"epochs": 5, "overrides": ["a.b=2"]}},
            {"label": "two", "paper": {"psnr_db": 31.0}, "mini": {"model": "m", "params": 7}},
        ],
    }
    return parse_recipe("test", {**tree, **changes})


def test_later_tables_win_and_overrides_add_up() -> None:
    recipe = a_recipe()
    one, two = (recipe.setup(row, "mini") for row in recipe.rows)
    assert (one.epochs, one.overrides, one.preset) == (5, ("a.b=1", "a.b=2"), "p")
    assert (two.epochs, two.overrides) == (3, ("a.b=1",))
    assert (two.preset, two.model, two.params) == (None, "m", 7)  # a model takes the place of a preset
    assert recipe.setup(recipe.rows[0], "full").epochs == 3


def test_unknown_recipe_is_refused() -> None:
    with pytest.raises(UsageError, match=r"unknown recipe 'hnerv-table-99'.*hnerv-table-8"):
        load_recipe("hnerv-table-99")


def test_what_is_no_recipe_any_more_says_where_it_is(run: Run) -> None:
    for name in ("speed", "gallery"):
        refused(run("bench", name), f"{name} is a script", f"python -m benchmarks.{name}")


@pytest.mark.parametrize("name", [name for name in list_recipes() if name.startswith("dnerv_diverse-")])
def test_recipes_of_d_nerv_say_what_they_are_called_now(run: Run, name: str) -> None:
    refused(run("bench", name.replace("dnerv_diverse", "dnerv")), repr(name))


def test_options_without_a_recipe_are_refused(run: Run, tmp_path: Path) -> None:
    refused(run("bench", "--scale", "small"), "scale 'small'", "mini")
    refused(run("bench", "--data", tmp_path), "--data")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"colour": "red"}, "colour"),
        ({"all": {"epoch": 3}}, "epoch"),
        ({"rows": [{"label": "one"}, {"label": "one"}]}, "two rows have one label"),
        ({"rows": [{"label": "one", "paper": {"ssim": 1.0}}]}, "ssim is not a metric"),
        ({"baseline": "three"}, "no row is called 'three'"),
        ({"rows": [{"label": "one", "paper": {"psnr_db": [1.0, 2.0]}}]}, "2 values of psnr_db, 0 clips"),
        ({"metrics": {"bd": {"title": "BD", "bd": "rate_percent"}}}, "give bd and test together"),
        ({"all": {"tune": [{"epochs": 1, "phase": {"prunning": "global"}}]}}, "prunning"),
    ],
)
def test_recipes_that_say_nonsense_are_refused(changes: dict[str, Any], said: str) -> None:
    if "baseline" not in changes and "rows" not in changes and "metrics" in changes:
        changes = {**changes, "rows": [{"label": "one"}]}
    with pytest.raises(UsageError, match=said):
        a_recipe(**changes)


def test_a_broken_file_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes").mkdir()
    monkeypatch.setattr(resources, "files", lambda package: tmp_path)
    for content, said in (
        (b'paper = "P"\ntitle = = 3\n', "recipe broken is not valid TOML: .*line 2, column 9"),
        (b"paper = '\xff'", "recipe broken is not valid TOML: .*0xff"),
        (b"paper = 3", "recipe broken: "),
    ):
        (tmp_path / "recipes" / "broken.toml").write_bytes(content)
        with pytest.raises(UsageError, match=said) as caught:
            load_recipe("broken")
        assert "\n" not in str(caught.value)
        assert caught.value.exit_status == 2


# No table of the papers asks for it yet.
DENOISING = """
paper = "P"
table = "Table 1"
title = "Denoising"
source = "none"
kind = "denoise"

[metrics.psnr_db]
title = "PSNR, dB"

[metrics.input_psnr_db]
title = "noisy, dB"

[[rows]]
label = "salt and pepper"
all = { model = "hnerv", noise = "salt_pepper:0.2", epochs = 12 }
"""


def test_a_recipe_of_denoising_runs(tmp_path: Path) -> None:
    recipe = parse_recipe("denoising", parse_toml("recipe denoising", DENOISING.encode()))
    result = run_recipe(recipe, scale="tiny", out=tmp_path, device="cpu")
    noisy_db, fitted_db = (result.value("salt and pepper", name) for name in ("input_psnr_db", "psnr_db"))
    # A fifth of the pixels have squared errors of a third in the mean: 11.8 dB.
    assert noisy_db is not None
    assert 8 < noisy_db < 13
    assert fitted_db is not None
    assert fitted_db > noisy_db
    assert (tmp_path / "denoising-tiny.md").read_text(encoding="utf-8") == page(result.document())


@pytest.mark.parametrize("noise", ["salt_pepper", "salt_pepper:much", "rain:0.1", "gaussian:2", ""])
def test_unknown_noise_is_refused_before_anything_is_run(noise: str, tmp_path: Path) -> None:
    tree = parse_toml("recipe denoising", DENOISING.replace("salt_pepper:0.2", noise).encode())
    with pytest.raises(UsageError, match="noise"):
        run_recipe(parse_recipe("denoising", tree), scale="tiny", out=tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_setup_keeps_what_it_does_not_replace() -> None:
    under = Setup(crop=(4, 4), epochs=1)
    assert Setup(epochs=2).over(under) == Setup(crop=(4, 4), epochs=2)
    assert paper_mean([1.0, None, 3.0]) == 2.0
    assert paper_mean(None) is None
