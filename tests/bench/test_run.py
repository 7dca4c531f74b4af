"""Running recipes: what is finished is kept, work is shared between processes, bad input is refused first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clips import moving_shapes
from vinr.bench import base_fits, runner
from vinr.bench.datasets import find_clip, find_masks
from vinr.bench.recipe import Recipe, parse_recipe
from vinr.bench.run import plan_row, run_recipe
from vinr.bench.work import Values, Work
from vinr.config import default_model, load_preset
from vinr.errors import InputError, VinrError
from vinr.fit import Event, Noted, Trainer, ignore
from vinr.temporaries import try_lock


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


def test_force_forgets_what_it_measures_anew_and_nothing_else(
    tmp_path: Path, calls: list[int | None]
) -> None:
    recipe = a_recipe(tune=[{"epochs": 1}])
    run_recipe(recipe, scale="tiny", out=tmp_path, device="cpu")
    folder = tmp_path / "jobs"
    one, two = (plan_row(recipe, row, "tiny")[0] for row in recipe.rows)
    others = [f"{one.result_name('cuda')}.json", f"{one.result_name('cuda')}.vinr", "base-other.tensors"]
    for name in others:
        (folder / name).touch()
    work = Work(one, None, folder, "cpu", ignore)
    mine = [work.base_path(), work.base_path().with_suffix(".checkpoint"), work.file(), work.checkpoint()]
    for path in mine:
        path.touch()
    busy = Work(two, None, folder, "cpu", ignore)
    busy.base_path().touch()
    before = (folder / f"{two.key}.json").read_bytes()
    with (
        try_lock(folder / f"{two.key}.lock"),  # another process is at the second row
        try_lock(busy.base_path().with_suffix(".lock")),
    ):
        events: list[Event] = []
        run_recipe(recipe, scale="tiny", out=tmp_path, device="cpu", force=True, on_event=events.append)
    assert calls == [1, 2, 1]
    assert (folder / f"{two.key}.json").read_bytes() == before
    assert busy.base_path().exists()
    assert "its result stays" in " ".join(e.text for e in events if isinstance(e, Noted))
    assert [path.name for path in mine if path.exists()] == []
    assert [name for name in others if not (folder / name).exists()] == []


def test_files_of_every_device_have_names_of_their_own(tmp_path: Path) -> None:
    recipe = a_recipe("encode", bits=[4, 6])
    (job,) = plan_row(recipe, recipe.rows[0], "tiny")
    cpu, gpu = (Work(job, None, tmp_path, device, ignore) for device in ("cpu", "cuda:1"))
    for work in (cpu, gpu):
        work.checkpoint().touch()
        for suffix in ("", "-4bit", "-6bit"):
            work.file(suffix).touch()
    assert len(list(tmp_path.iterdir())) == 8
    cpu.forget()
    assert sorted(tmp_path.iterdir()) == sorted(
        [gpu.checkpoint(), gpu.file(), gpu.file("-4bit"), gpu.file("-6bit")]
    )


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
    (document,) = result.rows["two"].documents.values()
    assert document["setup"]["overrides"] == ["fit.batch_size=2"]


def test_what_another_process_runs_is_left_to_it(tmp_path: Path, calls: list[int | None]) -> None:
    recipe = a_recipe()
    (job,) = plan_row(recipe, recipe.rows[0], "tiny")
    lock = tmp_path / "jobs" / f"{job.key}.lock"
    lock.parent.mkdir()
    with try_lock(lock) as is_mine:  # as another process would hold it
        assert is_mine
        result = run_recipe(recipe, scale="tiny", out=tmp_path)
    assert calls == [2]
    assert result.num_missing == 1
    assert "1 job has not ended" in (tmp_path / "test-tiny.md").read_text(encoding="utf-8")


def test_a_base_fit_of_another_process_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, waits = tmp_path / "base.tensors", []
    frames = moving_shapes(num_frames=8, height=32, width=64)
    preset = load_preset(f"{default_model()}-tiny", ["fit.epochs=1"])

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(base_fits.time, "sleep", wait)
    with try_lock(path.with_suffix(".lock")), pytest.raises(KeyboardInterrupt):
        base_fits.base_fit(frames, preset, path)
    assert not path.exists()
    base = base_fits.base_fit(frames, preset, path)  # the other process has ended without a fit
    assert path.exists()
    assert len(waits) == 3
    result = base_fits.continue_fit(frames, base, [(1, {}), (2, {})])
    assert result.num_epochs == 4


def test_phases_end_one_after_another(tmp_path: Path) -> None:
    frames = moving_shapes(num_frames=8, height=32, width=64)
    preset = load_preset(f"{default_model()}-tiny", ["fit.epochs=1"])
    base = base_fits.base_fit(frames, preset, tmp_path / "base.tensors")
    epochs: list[float] = []

    def note(trainer: Trainer) -> None:
        epochs.append(trainer.steps_done / trainer.steps_per_epoch)

    base_fits.continue_fit(frames, base, [(1, {}), (2, {})], at_end=note)
    assert epochs == [2, 4]


def test_data_that_no_row_reads_is_reported(tmp_path: Path, calls: list[int | None]) -> None:
    events: list[Event] = []
    run_recipe(a_recipe(), scale="tiny", out=tmp_path / "out", data=tmp_path, on_event=events.append)
    assert "data has no effect: at scale tiny" in next(e.text for e in events if isinstance(e, Noted))
    with pytest.raises(InputError, match=r"data folder .* is not a folder"):
        run_recipe(a_recipe(), scale="tiny", out=tmp_path / "out", data=tmp_path / "none")


@pytest.mark.parametrize(
    ("recipe", "given", "said"),
    [
        (a_recipe(), {"scale": "small"}, r"scale 'small': give one of full, mini, tiny"),
        (a_recipe(), {"overrides": ["fit.epocs=1"]}, "epocs"),
        (a_recipe(model="none-such"), {}, "none-such"),
        (a_recipe(clips=["uvg/Beauty"]), {}, r"uvg/Beauty does not come with vinr.*data='FOLDER'"),
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
    with pytest.raises(InputError, match="not a folder"):
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
