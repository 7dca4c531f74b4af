"""Kept states: exact at every step, finite, checked when they are read, and of one fit alone."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vinr
from clips import MemoryClip, moving_shapes
from vinr.config import FitSettings, Preset, load_preset
from vinr.errors import FitError, InputError, OutputError, UsageError
from vinr.fit import Collapsed, Event, FitResult, NotKept, Resumed, RoundDone, Trainer, fit
from vinr.fit import keeper as keeper_module
from vinr.fit.checkpoint import FitValues, all_finite, read_fit_state
from vinr.fit.fingerprint import fingerprint_of
from vinr.fit.optimizers import build_optimizer, moments_of
from vinr.fit.task import Reconstruct
from vinr.state.interruption import raised
from vinr.state.tensorfile import read_state, read_tensors, write_tensors
from vinr.video.spec import VideoSpec

pytestmark = pytest.mark.usefixtures("usual_signals")
PHASES = 'fit.phases=[{share = 0.3, sparsity = 0.2}, {share = 0.4, quantization = "entropy", fix_from = 0.3}]'
STEPS = 24  # 8 epochs of 3


@pytest.fixture(scope="module")
def clip() -> MemoryClip:
    return moving_shapes(num_frames=6, height=16, width=32)


@pytest.fixture(scope="module")
def whole_weights(clip: MemoryClip) -> dict[str, Tensor]:
    """What a fit that nothing interrupts ends with."""
    return weights_of(fit(clip, preset_of()))


def preset_of(model: str = "hnerv", *overrides: str) -> Preset:
    return load_preset(f"{model}-tiny", ["fit.epochs=8", "fit.batch_size=2", PHASES, *overrides])


def weights_of(result: FitResult) -> dict[str, Tensor]:
    return {name: item.value.detach() for name, item in result.model.stored().items()}


class During(Reconstruct):
    """Does something while step number ``step`` is computed, once."""

    def __init__(self, step: int, action: Callable[[], None]) -> None:
        self.step, self.action, self.seen = step, action, 0

    def weight(self, index_N: Tensor) -> Tensor | None:
        self.seen += 1
        if self.seen == self.step:
            self.action()
        return None


def interrupt() -> None:
    signal.raise_signal(signal.SIGTERM)


def interrupted_at(step: int, clip: MemoryClip, preset: Preset, path: Path) -> None:
    """Leave the state of a fit that was asked to stop in the middle of ``step``."""
    with pytest.raises(KeyboardInterrupt), raised():
        fit(clip, preset, During(step, interrupt), checkpoint=path)


# -- interruption --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["hnerv", "ffnerv"])
def test_a_fit_goes_on_from_any_step_bit_for_bit(model: str, clip: MemoryClip, tmp_path: Path) -> None:
    preset = preset_of(model)
    whole = fit(clip, preset)
    assert whole.num_steps == STEPS
    # Models differ in what they store, not in when.
    for step in (1, 8, 17, 24) if model == "hnerv" else (17,):
        path = tmp_path / f"{step}.safetensors"
        interrupted_at(step, clip, preset, path)
        events: list[Event] = []
        resumed = fit(clip, preset, checkpoint=path, resume=True, on_event=events.append)
        assert events[0] == Resumed(step / 3)  # the step was finished, and nothing is lost
        assert resumed.num_steps == STEPS
        assert resumed.train_psnr_db == whole.train_psnr_db
        for name, value in weights_of(resumed).items():
            assert torch.equal(value, weights_of(whole)[name]), (step, name)
        for name, value in resumed.steps.items():
            assert torch.equal(value, whole.steps[name]), (step, name)


@pytest.mark.parametrize("target", ["target_bytes = 4000", "target_psnr_db = 20.0"])
def test_rate_control_goes_on(target: str, clip: MemoryClip, tmp_path: Path) -> None:
    preset = preset_of("hnerv", f'fit.phases=[{{share = 0.5, quantization = "entropy", {target}}}]')
    whole = fit(clip, preset)
    interrupted_at(17, clip, preset, tmp_path / "s")
    resumed = fit(clip, preset, checkpoint=tmp_path / "s", resume=True)
    for name, value in weights_of(resumed).items():
        assert torch.equal(value, weights_of(whole)[name]), name


def test_a_collapse_after_a_resume_goes_back_to_the_same_place(clip: MemoryClip, tmp_path: Path) -> None:
    """The round that was interrupted collapses: both fits go back to its start."""
    preset = preset_of()

    def run(path: Path | None) -> tuple[FitResult, list[Event]]:
        events: list[Event] = []
        # The second fit begins with step 8.
        task = During(2 if path else 9, lambda: poison("model"))
        result = fit(clip, preset, task, checkpoint=path, resume=path is not None, on_event=events.append)
        return result, events

    whole, events = run(None)
    path = tmp_path / "s"
    interrupted_at(7, clip, preset, path)
    resumed, later = run(path)
    assert [type(e) for e in events].count(Collapsed) == [type(e) for e in later].count(Collapsed) == 1
    for name, value in weights_of(resumed).items():
        assert torch.equal(value, weights_of(whole)[name]), name


def test_the_state_of_a_finished_fit_is_kept(clip: MemoryClip, tmp_path: Path) -> None:
    preset, path = preset_of(), tmp_path / "s"
    whole = fit(clip, preset, checkpoint=path)
    events: list[Event] = []
    again = fit(clip, preset, checkpoint=path, resume=True, on_event=events.append)
    assert events == [Resumed(8.0)]  # no step is done
    for name, value in weights_of(again).items():
        assert torch.equal(value, weights_of(whole)[name]), name


def test_a_finished_fit_by_time_is_finished(clip: MemoryClip, tmp_path: Path) -> None:
    """With more time for the fit than at first, since less was reserved, nothing is fitted all the same."""
    preset, path = preset_of(), tmp_path / "s"
    fingerprint = fingerprint_of(clip, preset, Reconstruct(), 60.0)
    first = fit(clip, preset, checkpoint=path, seconds=1e-6, fingerprint=fingerprint)
    again = fit(clip, preset, checkpoint=path, seconds=60, fingerprint=fingerprint, resume=True)
    assert (first.num_steps, again.num_steps) == (1, 1)


def test_nothing_is_kept_of_nothing(clip: MemoryClip, tmp_path: Path) -> None:
    path = tmp_path / "s"

    class Early(Reconstruct):
        def training_frames(self, spec: VideoSpec) -> Tensor:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(clip, preset_of(), Early(), checkpoint=path)

    def stop() -> None:
        raise KeyboardInterrupt  # in the middle of the first step, as in a program that handles no signals

    with pytest.raises(KeyboardInterrupt):
        fit(clip, preset_of(), During(1, stop), checkpoint=path)
    assert not path.exists()


@pytest.mark.parametrize("error", [RuntimeError("mine"), SystemExit(0), MemoryError(), OSError("pipe")])
def test_what_else_ends_a_fit_loses_nothing(
    clip: MemoryClip, tmp_path: Path, whole_weights: dict[str, Tensor], error: BaseException
) -> None:
    """An error of the caller's on_event, or what its own handler of signals raises."""
    preset, path = preset_of(), tmp_path / "s"

    def on_event(event: Event) -> None:
        if isinstance(event, RoundDone) and event.epochs_done == 3:
            raise error

    with pytest.raises(type(error)):
        fit(clip, preset, checkpoint=path, on_event=on_event)
    assert read_fit_state(path).epochs_done == 3
    resumed = fit(clip, preset, checkpoint=path, resume=True)
    for name, value in weights_of(resumed).items():
        assert torch.equal(value, whole_weights[name]), name


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_callers_may_have_turned_gradients_off(
    tiny_video: Path,
    tmp_path: Path,
    clip: MemoryClip,
    whole_weights: dict[str, Tensor],
    off: Callable[[], AbstractContextManager[None]],
) -> None:
    def encoded(name: str) -> bytes:
        options = {"preset": "hnerv-tiny", "epochs": 1, "frames": (0, 2), "device": "cpu"}
        vinr.encode(tiny_video, tmp_path / name, **options)
        return (tmp_path / name).read_bytes()

    with off():
        content, result = encoded("off.vinr"), fit(clip, preset_of())
    assert content == encoded("on.vinr")
    for name, value in weights_of(result).items():
        assert torch.equal(value, whole_weights[name]), name


def test_a_fit_that_failed_by_itself_is_not_kept(clip: MemoryClip, tmp_path: Path) -> None:
    path = tmp_path / "s"

    def fail() -> None:
        raise FitError("collapsed")

    with pytest.raises(FitError):
        fit(clip, preset_of(), During(8, fail), checkpoint=path)
    assert not path.exists()


def test_a_step_that_was_torn_apart_is_not_kept(
    clip: MemoryClip, tmp_path: Path, whole_weights: dict[str, Tensor]
) -> None:
    preset, path = preset_of(), tmp_path / "s"

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(clip, preset, During(8, stop), checkpoint=path)
    assert read_fit_state(path).epochs_done == 2
    resumed = fit(clip, preset, checkpoint=path, resume=True)
    for name, value in weights_of(resumed).items():
        assert torch.equal(value, whole_weights[name]), name


def test_a_second_signal_does_not_break_the_state(
    clip: MemoryClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset, path = preset_of(), tmp_path / "s"

    def write(*arguments: Any) -> None:
        interrupt()
        interrupt()
        write_fit_state(*arguments)
        interrupt()

    write_fit_state = keeper_module.write_fit_state
    monkeypatch.setattr(keeper_module, "write_fit_state", write)
    interrupted_at(5, clip, preset, path)
    assert read_fit_state(path).epochs_done == pytest.approx(5 / 3)


def test_a_state_that_cannot_be_written_costs_a_warning(
    clip: MemoryClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: the fit goes on, tries again, and ends; what an earlier state holds stays."""
    preset, path = preset_of(), tmp_path / "s"
    monkeypatch.setattr(keeper_module, "CHECKPOINT_SECONDS", 0.0)
    left = [2]

    def write(*arguments: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OutputError("s: cannot be written: No space left on device")
        write_fit_state(*arguments)

    write_fit_state = keeper_module.write_fit_state
    monkeypatch.setattr(keeper_module, "write_fit_state", write)
    events: list[Event] = []
    result = fit(clip, preset, checkpoint=path, on_event=events.append)
    assert result.num_steps == STEPS
    warnings = [event for event in events if isinstance(event, NotKept)]
    assert "No space left" in warnings[0].reason
    assert len(warnings) >= STEPS - 2
    assert read_fit_state(path).epochs_done == pytest.approx(2 / 3)


# -- numbers that are not finite -----------------------------------------------------------------------------


def poison(part: str) -> None:
    """Make a number of the newest run NaN."""
    for name, value in runs[-1].learner.tensors().items():
        if name.startswith(part) and value.is_floating_point() and value.numel() > 1:
            value.data[(0,) * value.dim()] = math.nan  # behind the back of autograd
            return
    raise AssertionError(f"nothing to poison in {part}")


runs: list[Trainer] = []


@pytest.fixture(autouse=True)
def _runs_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Trainer.__init__

    def note(self: Trainer, *arguments: Any, **options: Any) -> None:
        runs[:] = [self]
        original(self, *arguments, **options)

    monkeypatch.setattr(Trainer, "__init__", note)


def some_or_slow() -> list[Any]:
    """Steps of each phase, first and last of their rounds; those between with -m slow."""
    usual = [*((step, "model") for step in (9, 17, 24)), (16, "optimizer")]
    every = [(step, part) for part in ("model", "optimizer") for step in (3, 9, 12, 15, 16, 17, 20, 23, 24)]
    return [pytest.param(*one, marks=() if one in usual else pytest.mark.slow) for one in every]


@pytest.mark.parametrize(("step", "part"), some_or_slow())
def test_a_nan_after_any_step_is_one_collapse(
    step: int, part: str, clip: MemoryClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, count = Trainer.train_on, [0]

    def poisoned(self: Trainer, batch: Any) -> Tensor:
        mse = original(self, batch)
        count[0] += 1
        if count[0] == step:
            poison(part)
        return mse

    monkeypatch.setattr(Trainer, "train_on", poisoned)
    events: list[Event] = []
    result = fit(clip, preset_of(), on_event=events.append)
    assert result.num_collapses == 1
    collapse = next(event for event in events if isinstance(event, Collapsed))
    assert math.isnan(collapse.psnr_db)
    assert collapse.epochs_lost <= 1
    assert result.num_steps == STEPS
    assert all(bool(value.isfinite().all()) for value in weights_of(result).values())


def test_an_interrupted_round_with_nan_is_repeated(
    clip: MemoryClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"

    def poison_and_stop() -> None:
        poison("model")
        interrupt()

    with pytest.raises(KeyboardInterrupt), raised():
        fit(clip, preset_of(), During(8, poison_and_stop), checkpoint=path)
    state = read_fit_state(path)
    assert state.now is None
    assert state.epochs_done == 2


def test_finite_is_told_from_not_finite() -> None:
    good = {"a": torch.full((3,), 3e38), "b": torch.tensor([]), "c": torch.ones(2, dtype=torch.uint8)}
    assert all_finite(good)
    assert all_finite({})
    for bad in (math.nan, math.inf, -math.inf):
        assert not all_finite({**good, "d": torch.tensor([1.0, bad])})
        assert not all_finite({**good, "d": torch.tensor(bad, dtype=torch.bfloat16)})


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(clip: MemoryClip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state inside the second round of the last phase of a fit."""
    path = tmp_path_factory.mktemp("kept") / "fit.safetensors"
    interrupted_at(20, clip, preset_of("hnerv"), path)
    assert read_fit_state(path).now is not None
    return path


def resume(path: Path, clip: MemoryClip) -> None:
    fit(clip, preset_of("hnerv"), checkpoint=path, resume=True)


def test_every_damaged_byte_is_noticed(kept: Path, clip: MemoryClip, tmp_path: Path) -> None:
    content, path = kept.read_bytes(), tmp_path / "s"
    places = [*range(0, 400, 13), *range(400, len(content), max(len(content) // 60, 1)), len(content) - 1]
    for place in places:
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(InputError, match="not a readable state"):
            read_fit_state(path)
    for cut in (0, 7, 500, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(InputError, match="not a readable state"):
            resume(path, clip)


def change(*keys: str | int, to: Any) -> Callable[[dict[str, Any], dict[str, Tensor]], None]:
    def apply(values: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        node: Any = values
        for key in keys[:-1]:
            node = node[key]
        if to is None:
            del node[keys[-1]]
        else:
            node[keys[-1]] = to

    return apply


def tensor(name: str, new: Callable[[Tensor], Tensor | None]) -> Callable[..., None]:
    def apply(values: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
        found = next(key for key in sorted(tensors) if key.startswith(name))
        value = new(tensors.pop(found))
        if value is not None:
            tensors[found] = value

    return apply


FORGERIES = {
    "no kind": change("kind", to=None),
    "other kind": change("kind", to="segment"),
    "no fingerprint": change("fingerprint", to=None),
    "fingerprint of text": change("fingerprint", to="x"),
    "no good": change("good", to=None),
    "unknown key": change("good", "speed", to=3),
    "steps that never were": change("now", "steps_done", to=10**9),
    "negative steps": change("now", "steps_done", to=-1),
    "steps as text": change("now", "steps_done", to="20"),
    "steps of another round": change("good", "steps_done", to=3),
    "unknown phase": change("now", "part", to=7),
    "no phase": change("now", "part", to=-2),
    "infinite time": change("now", "seconds_done", to=math.inf),
    "rate of zero": change("now", "rate_scale", to=0.0),
    "collapses as list": change("now", "num_collapses", to=[1]),
    "no control": change("now", "control", to=None),
    "control of text": change("now", "control", to="x"),
    "groups too many": change("now", "optimizer_steps", to=[1, 2, 3, 4]),
    "precision unknown": change("precision", to="fp16"),
    "tensor missing": tensor("now.model.", lambda value: None),
    "tensor of other shape": tensor("now.model.", lambda value: value.reshape(-1)[:1].clone()),
    "tensor of other type": tensor("good.model.", lambda value: value.double()),
    "moment missing": tensor("now.optimizer.5.exp_avg", lambda value: None),
    "moment of other shape": tensor("now.optimizer.", lambda value: torch.zeros(3)),
    "coding missing": tensor("now.coding.", lambda value: None),
    "random state missing": tensor("now.random.cpu", lambda value: None),
    "random state short": tensor("now.random.cpu", lambda value: value[:9].clone()),
    "random state of zeros": tensor("now.random.cpu", torch.zeros_like),
    "error missing": tensor("now.round.mse", lambda value: None),
    "not a number": tensor("now.model.", lambda value: value * math.nan),
    "infinite": tensor("good.coding.", lambda value: value + math.inf),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_foreign_values_are_refused_in_a_line(
    name: str, kept: Path, clip: MemoryClip, tmp_path: Path
) -> None:
    """Files whose checksums are right, and whose content is not a state of this fit."""
    tensors, values = read_tensors(kept)
    FORGERIES[name](values, tensors)
    path = tmp_path / "s"
    write_tensors(path, tensors, values)
    with pytest.raises(InputError, match=r"s: .*start anew") as refused:
        resume(path, clip)
    assert len(str(refused.value).splitlines()) == 1


def test_files_of_other_kinds_and_versions_are_refused(kept: Path, tmp_path: Path) -> None:
    import safetensors.torch

    path = tmp_path / "s"
    safetensors.torch.save_file({"a": torch.ones(2)}, path)
    with pytest.raises(InputError, match="another kind of file"):
        read_state(path, FitValues)
    safetensors.torch.save_file({"a": torch.ones(2)}, path, metadata={"vinr": json.dumps({})})
    with pytest.raises(InputError, match="version '1'; this vinr reads 2"):
        read_state(path, FitValues)
    write_tensors(path, {}, {"kind": "fit"})
    with pytest.raises(InputError, match="fingerprint: Field required"):
        read_state(path, FitValues)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("fit.epochs=9", "fit.epochs 9 was 8"),
        ("fit.seed=5", "fit.seed 5 was 1"),
        ("fit.learning_rate=0.5", "fit.learning_rate 0.5 was"),
        ("compress.weight_bits=7", "compress.weight_bits 7 was 8"),
        ("architecture.reduction=3.0", r"architecture\.\S+ 3.0 was"),
        ("fit.precision=fp32", 'fit.precision "fp32" was "auto"'),
    ],
)
def test_the_setting_that_differs_is_named(override: str, words: str, kept: Path, clip: MemoryClip) -> None:
    with pytest.raises(UsageError, match=words):
        fit(clip, preset_of("hnerv", override), checkpoint=kept, resume=True)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "adan", "muon"])
def test_moments_are_those_that_a_step_leaves(optimizer: str) -> None:
    extra = {"betas": (0.98, 0.92, 0.99)} if optimizer == "adan" else {}
    settings = FitSettings.model_validate({"optimizer": optimizer, **extra})
    layers = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    rule = build_optimizer(layers.named_parameters(), settings)
    expected = moments_of(rule)
    layers(torch.ones(1, 3)).sum().backward()
    rule.step()
    found = rule.state_dict()["state"]
    assert found.keys() == expected.keys()
    for number, slots in found.items():
        assert {name: (value.shape, value.dtype) for name, value in slots.items()} == {
            name: (value.shape, value.dtype) for name, value in expected[number].items()
        }
