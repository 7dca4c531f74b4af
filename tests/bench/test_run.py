"""Running recipes: what is finished is kept, work is shared between processes, bad input is refused first."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from vinr.bench import runner, stages
from vinr.bench.claims import claim, claimed
from vinr.bench.datasets import find_clip, find_masks
from vinr.bench.recipe import Recipe, parse_recipe
from vinr.bench.run import plan_row, run_recipe
from vinr.bench.work import Values, Work
from vinr.config import default_model
from vinr.errors import InputError, UsageError, VinrError


def a_recipe(kind: str = "fit", **setup: Any) -> Recipe:
    """Two rows that differ in their epochs."""
    return parse_recipe(
        "test",
        {
            "paper": "P",
            "table": "Table 1",
            "title": "t",
            "source": "s",
            "kind": kind,
            "metrics": {"psnr_db": {"title": "PSNR, dB"}},
            "all": {"model": default_model(), **setup},
            "rows": [{"label": "one", "all": {"epochs": 1}}, {"label": "two", "all": {"epochs": 2}}],
        },
    )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """Epochs of the jobs that were measured; their PSNR is 20 + epochs."""
    seen: list[int | None] = []

    def measure(work: Work) -> Values:
        seen.append(work.setup.epochs)
        return {"psnr_db": 20.0 + (work.setup.epochs or 0)}

    monkeypatch.setattr(runner, "experiment_of", lambda kind: measure)
    return seen


def test_a_finished_row_is_not_run_again(tmp_path: Path, calls: list[int | None]) -> None:
    first = run_recipe(a_recipe(), scale="tiny", out=tmp_path)
    assert calls == [1, 2]
    kept = sorted((tmp_path / "jobs").glob("*.json"))
    assert len(kept) == 2
    again = run_recipe(a_recipe(), scale="tiny", out=tmp_path)
    assert calls == [1, 2]
    assert again.document() == first.document()
    kept[0].unlink()
    run_recipe(a_recipe(), scale="tiny", out=tmp_path)
    assert len(calls) == 3
    run_recipe(a_recipe(), scale="tiny", out=tmp_path, force=True)
    assert sorted(calls[3:], key=str) == [1, 2]


def test_rows_that_finished_before_an_error_are_kept(
    tmp_path: Path, calls: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(work: Work) -> Values:
        if work.setup.epochs == 2:
            raise KeyboardInterrupt
        return {"psnr_db": 1.0}

    measure = runner.experiment_of("fit")
    monkeypatch.setattr(runner, "experiment_of", lambda kind: stop)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(a_recipe(), scale="tiny", out=tmp_path)
    monkeypatch.setattr(runner, "experiment_of", lambda kind: measure)
    result = run_recipe(a_recipe(), scale="tiny", out=tmp_path)
    assert calls == [2]
    assert (result.value("one", "psnr_db"), result.value("two", "psnr_db")) == (1.0, 22.0)


def test_epochs_and_settings_of_the_caller_hold_for_all_rows(tmp_path: Path, calls: list[int | None]) -> None:
    result = run_recipe(a_recipe(), scale="tiny", out=tmp_path, epochs=7, overrides=["fit.batch_size=2"])
    assert calls == [7]  # both rows are the same job now
    (document,) = result.rows[1].documents.values()
    assert document["setup"]["overrides"] == ["fit.batch_size=2"]


def test_what_another_process_runs_is_left_to_it(tmp_path: Path, calls: list[int | None]) -> None:
    recipe = a_recipe()
    (job,) = plan_row(recipe, recipe.rows[0], "tiny")
    lock = tmp_path / "jobs" / f"{job.key}.lock"
    lock.parent.mkdir()
    lock.write_text(f"another-host {os.getpid()}", encoding="utf-8")
    result = run_recipe(recipe, scale="tiny", out=tmp_path)
    assert calls == [2]
    assert result.num_missing == 1
    assert "1 jobs have not ended" in (tmp_path / "test-tiny.md").read_text(encoding="utf-8")


def test_a_claim_is_exclusive_and_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "row.lock"
    with claimed(path) as mine:
        assert mine
        assert not claim(path)
        with claimed(path) as again:
            assert not again
    assert not path.exists()
    path.write_text(f"{socket.gethostname()} {2**30}", encoding="utf-8")  # no process has this number
    with claimed(path) as mine:
        assert mine


def test_a_silent_process_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "WAIT_SECONDS", 0.0)
    path = tmp_path / "base.tensors"
    lock = path.with_suffix(".lock")
    lock.write_text("another-host 1", encoding="utf-8")
    stages._wait(path)  # it was claimed just now
    os.utime(lock, (1.0, 1.0))
    with pytest.raises(UsageError, match=r"base.lock.*remove that file"):
        stages._wait(path)


@pytest.mark.parametrize(
    ("recipe", "given", "said"),
    [
        (a_recipe(), {"scale": "small"}, r"scale 'small': give one of full, mini, tiny"),
        (a_recipe(), {"overrides": ["fit.epocs=1"]}, "epocs"),
        (a_recipe(model="none-such"), {}, "none-such"),
        (a_recipe(clips=["uvg/Beauty"]), {}, r"uvg/Beauty does not come with vinr.*--data"),
        (a_recipe("rate_distortion", anchor="x999"), {}, "x999"),
        (a_recipe("rate_distortion", published="a.csv#b#c"), {}, "a.csv"),
        ("none-such", {}, "unknown recipe 'none-such'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_run(
    tmp_path: Path, calls: list[int | None], recipe: Recipe | str, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(VinrError, match=said) as caught:
        run_recipe(recipe, out=tmp_path, **{"scale": "tiny", **given})
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 2
    assert calls == []


def test_a_missing_clip_is_named_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=str(tmp_path / "uvg")):
        find_clip("uvg/Beauty", tmp_path)
    (tmp_path / "uvg").mkdir()
    with pytest.raises(InputError, match=str(tmp_path / "uvg" / "Beauty")):
        find_clip("uvg/Beauty", tmp_path)
    with pytest.raises(InputError, match="no folder"):
        find_clip("uvg/Beauty", tmp_path / "none")


def test_clips_are_found_as_files_and_as_folders(tmp_path: Path) -> None:
    (tmp_path / "uvg").mkdir()
    video = tmp_path / "uvg" / "Beauty_1920x1080_120fps.yuv"
    for path in (video, tmp_path / "uvg" / "Beauty2.mp4"):
        path.touch()
    frames = tmp_path / "davis" / "bmx-trees" / "frames"
    frames.mkdir(parents=True)
    assert find_clip("uvg/beauty", tmp_path) == video
    assert find_clip("davis/bmx-trees", tmp_path) == frames
    with pytest.raises(InputError, match="masks"):
        find_masks("davis/bmx-trees", tmp_path)
    (frames.parent / "masks").mkdir()
    assert find_masks("davis/bmx-trees", tmp_path) == frames.parent / "masks"
