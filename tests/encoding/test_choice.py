"""Which model an encode gets that has a time and names none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import vinr
from clips import moving_shapes, write_clip
from vinr.encoding import foresee, segment_work
from vinr.encoding.choice import is_open, model_ahead
from vinr.encoding.kept import find_kept
from vinr.encoding.trial import Costs
from vinr.fit import Event, Noted, StepDone
from vinr.state.folder import partial_folder


def quick_costs(*_: object, **__: object) -> Costs:
    """Ten steps a second, of two frames: 36,000 in an hour."""
    return Costs(build=0.0, step=0.1, freeze=0.0, code=0.0, frame=0.0, steps_per_epoch=48)


@pytest.fixture
def began(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Models whose fits began; each is interrupted there."""
    models: list[str] = []

    def cut_short(*arguments: Any, **__: object) -> object:
        models.append(arguments[1].model)
        raise KeyboardInterrupt

    monkeypatch.setattr(foresee, "try_costs", quick_costs)
    monkeypatch.setattr(segment_work, "fit", cut_short)
    return models


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 frames."""
    clip = moving_shapes(num_frames=96, height=16, width=24)
    return write_clip(tmp_path_factory.mktemp("video") / "shapes.mkv", clip)


def encode(video: Path, output: Path, **settings: Any) -> list[str]:
    """Encode until the first step is done; return what was told."""
    told: list[str] = []

    def note(event: Event) -> None:
        if isinstance(event, Noted):
            told.append(event.text)
        if isinstance(event, StepDone):
            raise KeyboardInterrupt

    asked: dict[str, Any] = {"params": "12k", "device": "cpu", "on_event": note}
    with pytest.raises(KeyboardInterrupt):
        vinr.encode(video, output, **(asked | settings))
    return told


@pytest.mark.parametrize(
    ("settings", "model"),
    [
        ({"time": "1h"}, "vinr"),
        ({"time": "1h", "size": "6kB", "params": None}, "vinr"),
        ({"time": "1h", "quality": "high", "params": None}, "vinr"),
        ({"time": "1h", "segment": "96f"}, "vinr"),
        ({"time": "1h", "segment": "48f"}, "hnerv"),  # networks of 48 frames
        ({"time": "6m"}, "hnerv"),  # 3,600 steps
        ({"epochs": 9000}, "hnerv"),
        ({}, "hnerv"),
        ({"time": "1h", "model": "hnerv"}, "hnerv"),
        ({"time": "1h", "preset": "hnerv-tiny", "params": None}, "hnerv"),
        ({"time": "1h", "overrides": ["architecture.kernel_max=3"]}, "hnerv"),
        ({"time": "1h", "overrides": ["fit.recipe=paper"]}, "hnerv"),
    ],
)
def test_the_model_follows_the_time_where_nothing_names_one(
    settings: dict[str, Any], model: str, began: list[str], video: Path, tmp_path: Path
) -> None:
    told = encode(video, tmp_path / "a.vinr", **settings)
    assert began == [model]
    assert any("should reach more" in line for line in told) == (model == "vinr")
    assert any(line.startswith(f"model {model}") for line in told)


def test_a_chosen_model_is_gone_on_with_on_a_machine_that_became_slow(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow_costs(*_: object, **__: object) -> Costs:
        return replace(quick_costs(), step=10.0)

    path = tmp_path / "a.vinr"
    monkeypatch.setattr(foresee, "try_costs", quick_costs)
    encode(video, path, time="1h")
    assert find_kept(partial_folder(path)).epochs_done is not None
    monkeypatch.setattr(foresee, "try_costs", slow_costs)
    told = encode(video, path, time="1h", resume=True)
    assert any(line.startswith("model vinr") for line in told)


@pytest.mark.parametrize(
    ("model", "steps", "num_frames", "ahead"),
    [
        ("hnerv", 3999, 500, None),
        ("hnerv", 4000, 80, "vinr"),
        ("hnerv", 1e9, 79, None),
        ("nerv", 1e9, 500, None),
        ("vinr", 1e9, 500, None),
    ],
)
def test_models_say_which_is_ahead(model: str, steps: float, num_frames: int, ahead: str | None) -> None:
    assert model_ahead(model, steps=steps, num_frames=num_frames) == ahead


def test_only_a_time_opens_the_choice() -> None:
    assert is_open(model=None, preset=None, time="1h", overrides=["fit.seed=3"])
    assert not is_open(model=None, preset=None, time=None, overrides=[])
