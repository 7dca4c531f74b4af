"""The training loop: it learns, resumes bit for bit, keeps to its budget, and survives a collapse."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clips import MemoryClip, moving_shapes
from vinr.config import Preset, load_preset
from vinr.errors import FitError, InputError, UsageError
from vinr.fit import Collapsed, Event, FitResult, Resumed, RoundDone, fit
from vinr.fit import learner as learner_module
from vinr.fit.learner import Learner
from vinr.fit.task import Reconstruct
from vinr.models import get_model, list_models, validate_architecture


@pytest.fixture(scope="module")
def clip() -> MemoryClip:
    return moving_shapes(num_frames=6, height=32, width=48)


def tiny(model: str, clip: MemoryClip, *overrides: str, epochs: int = 4) -> Preset:
    from vinr.encoding.plan import choose_preset

    preset = f"{model}-tiny"
    settings = (f"fit.epochs={epochs}", *overrides)
    return choose_preset(clip.spec, model=None, preset=preset, num_parameters=None, overrides=settings)


def weights_of(result: FitResult) -> dict[str, Tensor]:
    return {name: item.value.detach() for name, item in result.model.stored().items()}


def interrupt_after(rounds: int) -> Callable[[Event], None]:
    seen = []

    def watch(event: Event) -> None:
        if isinstance(event, RoundDone):
            seen.append(event)
            if len(seen) == rounds:
                raise KeyboardInterrupt

    return watch


def first_or_slow() -> list[Any]:
    """A model that stores latents and one that does not; the others learn a little in test_phases.py."""
    slow = [
        pytest.param(name, marks=pytest.mark.slow) for name in list_models() if name not in ("hnerv", "nerv")
    ]
    return ["hnerv", "nerv", *slow]


@pytest.mark.parametrize("model", first_or_slow())
def test_every_model_learns(model: str) -> None:
    few = moving_shapes(num_frames=4, height=32, width=48)
    check_learning(model, "vinr", few, epochs=24, gain_db=1.5)


def some_or_slow() -> list[Any]:
    """Published recipes of all with -m slow."""
    every = [(model, recipe) for model in list_models() for recipe in ("paper", "vinr")]
    usual = {("hnerv", "paper"), ("nerv", "paper")}
    return [pytest.param(*one, marks=() if one in usual else pytest.mark.slow) for one in every]


@pytest.mark.parametrize(("model", "recipe"), some_or_slow())
def test_every_model_learns_with_every_recipe(model: str, recipe: str, clip: MemoryClip) -> None:
    check_learning(model, recipe, clip, epochs=30, gain_db=2)


def check_learning(model: str, recipe: str, clip: MemoryClip, *, epochs: int, gain_db: float) -> None:
    events: list[Event] = []
    # An epoch of a model that decodes several frames together has fewer steps.
    epochs = max(epochs, epochs // 2 * clip.spec.num_frames // num_groups(model, clip))
    preset = tiny(model, clip, f"fit.recipe={recipe}", "fit.loss={l2=1.0}", epochs=epochs)
    result = fit(clip, preset, on_event=events.append)
    first = next(event for event in events if isinstance(event, RoundDone))
    assert result.train_psnr_db > first.psnr_db + gain_db
    assert result.num_epochs == epochs


def num_groups(model: str, clip: MemoryClip) -> int:
    model_class = get_model(model)
    config = validate_architecture(model_class, tiny(model, clip).architecture)
    index_N = torch.arange(clip.spec.num_frames)
    return len(model_class.on_meta(config, clip.spec).group_of(index_N).unique())


@pytest.mark.parametrize(
    "overrides",
    [
        ["fit.optimizer=adam"],
        *(pytest.param(one, marks=pytest.mark.slow) for one in ([], ["fit.channels_last=false"])),
    ],
)
def test_resumed_fit_equals_the_uninterrupted_one(
    overrides: list[str], clip: MemoryClip, tmp_path: Path
) -> None:
    preset = tiny(list_models()[0], clip, *overrides, epochs=5)
    whole = fit(clip, preset)
    checkpoint = tmp_path / "fit.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(clip, preset, on_event=interrupt_after(2), checkpoint=checkpoint)
    events: list[Event] = []
    resumed = fit(clip, preset, checkpoint=checkpoint, resume=True, on_event=events.append)
    assert events[0] == Resumed(epochs_done=2.0)
    assert resumed.num_steps == whole.num_steps
    expected = weights_of(whole)
    assert expected.keys() == weights_of(resumed).keys()
    for name, value in weights_of(resumed).items():
        assert torch.equal(value, expected[name]), name


def test_same_seed_gives_the_same_weights_and_another_seed_others(clip: MemoryClip) -> None:
    runs = [fit(clip, tiny(list_models()[0], clip, f"fit.seed={seed}", epochs=1)) for seed in (3, 3, 4)]
    first, second, other = (torch.cat([v.flatten() for v in weights_of(run).values()]) for run in runs)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_checkpoint_of_another_fit_is_refused(clip: MemoryClip, tmp_path: Path) -> None:
    checkpoint = tmp_path / "fit.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(clip, tiny(list_models()[0], clip), on_event=interrupt_after(1), checkpoint=checkpoint)
    with pytest.raises(UsageError, match="another video or other settings"):
        fit(clip, tiny(list_models()[0], clip, "fit.seed=9"), checkpoint=checkpoint, resume=True)


def test_damaged_checkpoint_is_refused(clip: MemoryClip, tmp_path: Path) -> None:
    checkpoint = tmp_path / "fit.safetensors"
    checkpoint.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="not a readable state"):
        fit(clip, tiny(list_models()[0], clip), checkpoint=checkpoint, resume=True)


@pytest.mark.parametrize("reading_seconds", [0.01, 0.002])
def test_time_budget_stops_the_fit_and_follows_the_clock(
    clip: MemoryClip, monkeypatch: pytest.MonkeyPatch, reading_seconds: float
) -> None:
    # A clock that nothing but being read by the fit moves on; others, such as pytest's, have the usual one.
    readings, usual = count(time.monotonic(), reading_seconds), time.monotonic

    def clock() -> float:
        reader = str(sys._getframe(1).f_globals["__name__"])
        return next(readings) if reader.startswith("vinr.fit.") else usual()

    monkeypatch.setattr(time, "monotonic", clock)
    events: list[Event] = []
    result = fit(clip, tiny(list_models()[0], clip), seconds=0.5, on_event=events.append)
    progress = [event.progress for event in events if isinstance(event, RoundDone)]
    assert progress == sorted(progress)
    assert progress[-1] == 1
    # The clock is read twice to ten times a step, and up to half of the budget is held in reserve. A step may
    # begin just before the end, nothing else may.
    assert 0.5 / (20 * reading_seconds) < result.num_steps <= 0.5 / reading_seconds + 1
    assert result.seconds < 0.5 + 10 * reading_seconds


def test_the_shortest_budget_is_a_step(clip: MemoryClip) -> None:
    """There is a network, and it has learned something, however little time there is."""
    result = fit(clip, tiny(list_models()[0], clip), seconds=1e-9)
    assert result.num_steps == 1
    assert math.isfinite(result.train_psnr_db)


class _Sabotage(Reconstruct):
    """Ruins the network once, after some batches, as a diverging step would."""

    def __init__(self, run_model: list[torch.nn.Module], at: int) -> None:
        self.run_model, self.at, self.seen = run_model, at, 0

    def weight(self, index_N: Tensor) -> Tensor | None:
        self.seen += 1
        if self.seen == self.at:
            for parameter in self.run_model[0].parameters():
                parameter.data.mul_(float("nan"))
        return None


def test_collapse_rolls_back_and_lowers_the_rate(clip: MemoryClip, monkeypatch: pytest.MonkeyPatch) -> None:
    models: list[torch.nn.Module] = []
    build = learner_module.build_model

    def remember(*args: object) -> torch.nn.Module:
        models.append(build(*args))  # type: ignore[arg-type]
        return models[0]

    monkeypatch.setattr(learner_module, "build_model", remember)
    events: list[Event] = []
    result = fit(
        clip, tiny(list_models()[0], clip, epochs=6), _Sabotage(models, at=10), on_event=events.append
    )
    collapses = [event for event in events if isinstance(event, Collapsed)]
    assert [event.rate_scale for event in collapses] == [0.5]
    assert math.isnan(collapses[0].psnr_db)
    assert result.num_collapses == 1
    assert all(bool(value.isfinite().all()) for value in weights_of(result).values())
    assert result.num_epochs == 6


def test_a_step_that_harms_is_undone_where_a_round_is_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    # The PSNR of a round is that of before its updates: harm shows a round later, after the copy.
    clip = moving_shapes(num_frames=1, height=32, width=64)
    update, steps = Learner.update, count()

    def harm(self: Learner, *args: Any) -> Any:
        done = update(self, *args)
        if next(steps) == 40:
            for parameter in self.model.parameters():
                parameter.data.mul_(-3)
        return done

    monkeypatch.setattr(Learner, "update", harm)
    result = fit(clip, tiny("nerv", clip, epochs=60))
    assert result.num_collapses == 2
    assert result.num_steps == 60


def test_fit_that_always_collapses_ends_in_an_error(clip: MemoryClip) -> None:
    preset = tiny(
        list_models()[0],
        clip,
        "fit.optimizer=adam",
        "fit.learning_rate=1.0",
        "fit.collapse_db=0.001",
        epochs=60,
    )
    with pytest.raises(FitError, match="collapsed 7 times"):
        fit(clip, preset)


def test_presets_that_say_that_weights_are_not_averaged_are_read() -> None:
    name = f"{list_models()[0]}-tiny"
    assert load_preset(name, ["fit.ema_decay=0.0"]) == load_preset(name)
    with pytest.raises(UsageError, match=r"fit\.ema_decay: no such setting"):
        load_preset(name, ["fit.ema_decay=0.9"])


def test_a_size_may_follow_the_recipe_of_another_paper() -> None:
    own, other = (load_preset(name, ["fit.recipe=paper"]).fit for name in ("nerv-s", "nerv-1.5m-bunny"))
    assert (own.recipe, own.batch_size, own.learning_rate) == ("paper", 1, 5e-4)
    assert (other.recipe, other.batch_size, other.learning_rate) == ("paper", 2, 1e-3)
    assert load_preset("nerv-1.5m-bunny").fit.optimizer == "muon"


def test_unknown_recipe_and_key_are_refused() -> None:
    name = f"{list_models()[0]}-tiny"
    with pytest.raises(UsageError, match="unknown recipe 'best'"):
        load_preset(name, ["fit.recipe=best"])
    with pytest.raises(UsageError, match=r"fit\.epoch: no such setting; .*did you mean 'epochs'\?"):
        load_preset(name, ["fit.epoch=3"])
    with pytest.raises(UsageError, match=r"fit\.epochs"):
        load_preset(name, ["fit.epochs=0"])
    with pytest.raises(UsageError, match=r"section\.key=value"):
        load_preset(name, ["epochs"])
