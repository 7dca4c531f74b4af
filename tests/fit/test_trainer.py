"""The public trainer: stepped by hand, with one's own loss and schedule, continued with phases."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import vinr
from clips import MemoryClip, moving_shapes
from vinr.config import Preset, load_preset
from vinr.errors import InputError, UsageError
from vinr.fit import Precision, RoundDone, fit
from vinr.fit.phases import SHARE_SLACK
from vinr.video.spec import VideoSpec

EPOCHS, STEPS_PER_EPOCH = 3, 3


@pytest.fixture(scope="module")
def clip() -> MemoryClip:
    return moving_shapes(num_frames=6, height=16, width=32)


def preset_of(*overrides: str) -> Preset:
    return load_preset(
        "hnerv-tiny", [f"fit.epochs={EPOCHS}", "fit.batch_size=2", "fit.phases=[]", *overrides]
    )


def weights_of(trainer: vinr.Trainer) -> Tensor:
    return torch.cat([value.detach().flatten() for value in trainer.model.parameters()])


def run_out(trainer: vinr.Trainer) -> Tensor:
    """Return the weights at the end of the budget."""
    for _ in trainer.rounds():
        pass
    return weights_of(trainer)


def stored_of(trainer: vinr.Trainer) -> Tensor:
    """Return all that a file would hold."""
    return torch.cat([item.value.detach().flatten() for item in trainer.finish().model.stored().values()])


def test_steps_end_rounds_and_come_to_what_fit_does(clip: MemoryClip) -> None:
    trainer = vinr.Trainer(clip, preset_of())
    events = []
    while not trainer.is_done:
        trainer.model.eval()  # as a program that measures in between leaves it
        events.append(trainer.step())
    expected = [None, None, RoundDone] * EPOCHS
    assert [event if event is None else type(event) for event in events] == expected
    assert trainer.progress() == 1
    whole = fit(clip, preset_of())
    values = [item.value.detach().flatten() for item in whole.model.stored().values()]
    assert torch.equal(stored_of(trainer), torch.cat(values))


def test_a_loss_and_a_schedule_of_ones_own_take_effect(clip: MemoryClip) -> None:
    shapes, progress_seen = [], []

    def absolute(prediction_NCHW: Tensor, target_NCHW: Tensor) -> Tensor:
        shapes.append((prediction_NCHW.shape, target_NCHW.shape))
        return (prediction_NCHW - target_NCHW).abs().mean((1, 2, 3))

    def falling(progress: float) -> float:
        progress_seen.append(progress)
        return 1 - progress

    own = run_out(vinr.Trainer(clip, preset_of(), loss=absolute, schedule=falling))
    assert shapes == [((2, 3, 16, 32), (2, 3, 16, 32))] * (EPOCHS * STEPS_PER_EPOCH)
    assert progress_seen == [number / 9 for number in range(9)]
    named = run_out(vinr.Trainer(clip, preset_of("fit.loss={l1 = 1.0}"), schedule=falling))
    assert torch.equal(own, named)
    assert not torch.equal(own, run_out(vinr.Trainer(clip, preset_of(), schedule=falling)))


def test_a_rate_of_zero_leaves_the_weights(clip: MemoryClip) -> None:
    trainer = vinr.Trainer(
        clip, preset_of("fit.weight_decay=0", "fit.optimizer=adam"), schedule=lambda _: 0.0
    )
    before = weights_of(trainer).clone()
    assert torch.equal(run_out(trainer), before)


def test_a_state_stays_what_it_was_and_goes_on_bit_for_bit(clip: MemoryClip) -> None:
    trainer = vinr.Trainer(clip, preset_of())
    for _ in range(4):  # one step into the second round
        trainer.step()
    state = trainer.state()
    assert state.epochs_done == pytest.approx(4 / STEPS_PER_EPOCH)
    expected = run_out(trainer)
    for _ in range(2):
        other = vinr.Trainer(clip, preset_of())
        other.load(state)
        assert torch.equal(run_out(other), expected)


def doubled(prediction_NCHW: Tensor, target_NCHW: Tensor) -> Tensor:
    return 2 * (prediction_NCHW - target_NCHW).abs().mean((1, 2, 3))


@pytest.mark.parametrize(
    ("overrides", "options", "difference"),
    [
        (["fit.seed=7"], {}, r"fit\.seed 7 was 1"),
        (["fit.epochs=4"], {}, r"fit\.epochs 4 was 3"),
        (["compress.weight_bits=4"], {}, r"compress\.weight_bits 4 was"),
        ([], {"loss": doubled}, 'own_loss "doubled" was not there'),
        ([], {"seconds": 60.0}, r"seconds 60\.0 was not there"),
    ],
    ids=["seed", "epochs", "bits", "loss", "time"],
)
def test_a_state_of_another_fit_is_refused_with_what_differs(
    clip: MemoryClip, overrides: list[str], options: dict[str, Any], difference: str
) -> None:
    state = vinr.Trainer(clip, preset_of()).state()
    with pytest.raises(UsageError, match=rf"another video or other settings \({difference}"):
        vinr.Trainer(clip, preset_of(*overrides), **options).load(state)


def test_a_state_of_other_frames_or_arithmetic_is_refused(clip: MemoryClip) -> None:
    state = vinr.Trainer(clip, preset_of()).state()
    other = MemoryClip(255 - clip.rgb_NCHW)
    with pytest.raises(UsageError, match="the frames differ"):
        vinr.Trainer(other, preset_of()).load(state)
    state = vinr.Trainer(clip, preset_of(), precision=Precision("fp32")).state()
    with pytest.raises(UsageError, match="was fitted in fp32, this trainer computes in bf16"):
        vinr.Trainer(clip, preset_of(), precision=Precision("bf16")).load(state)


def test_a_state_goes_with_the_phases_that_were_appended(clip: MemoryClip) -> None:
    one, other = vinr.Trainer(clip, preset_of()), vinr.Trainer(clip, preset_of())
    plain = one.state()
    for trainer in (one, other):
        trainer.continue_with([(1, {"sparsity": 0.2})])
    with pytest.raises(UsageError, match=r"fit\.epochs 4 was 3"):
        other.load(plain)
    run_out(one)
    other.load(one.state())
    assert torch.equal(stored_of(other), stored_of(one))
    entered = vinr.Trainer(clip, preset_of())
    entered.continue_with([(1, {"sparsity": 0.2})])
    early = entered.state()
    run_out(entered)
    with pytest.raises(UsageError, match="is of the plain fit, the fit has come to phase 0"):
        entered.load(early)


@pytest.mark.parametrize(
    ("model", "settings"),
    [("hnerv", []), ("dnerv_diverse", []), ("dnerv_diverse", ["architecture.keyframe_group=2"])],
    ids=["no keyframes", "images", "groups"],
)
@pytest.mark.parametrize(
    "name", ["model.", "optimizer.", "coding.", "random.cpu", "round.mse"], ids=lambda name: name.strip(".")
)
def test_a_refused_state_changes_nothing(
    clip: MemoryClip, model: str, settings: list[str], name: str
) -> None:
    """A state of a phase: to try it, the plain fit has to be left, of keyframes too."""
    phases = "fit.phases=[{share = 0.5, quantization = 'entropy'}]"
    preset = load_preset(f"{model}-tiny", ["fit.epochs=2", "fit.batch_size=2", phases, *settings])
    one, other, expected = (vinr.Trainer(clip, preset) for _ in range(3))
    run_out(one)
    other.step()
    expected.step()
    assert (one.model.keyframes is None) == (model == "hnerv")
    state = one.state()
    tensors = dict(state.good.tensors)
    found = next(key for key in tensors if key.startswith(name))
    tensors[found] = torch.zeros(1, 2, 3)
    damaged = replace(state, good=replace(state.good, tensors=tensors))
    with pytest.raises(InputError, match="the kept state has"):
        other.load(damaged)
    assert torch.equal(run_out(other), run_out(expected))
    assert torch.equal(stored_of(other), stored_of(expected))


def test_phases_that_are_appended_are_those_of_a_preset(clip: MemoryClip) -> None:
    trainer = vinr.Trainer(clip, preset_of())
    run_out(trainer)
    trainer.continue_with([(2, {"sparsity": 0.2}), (1, {"quantization": "entropy"})])
    assert not trainer.is_done
    run_out(trainer)
    shares = [length / 6 + SHARE_SLACK for length in (2, 1)]
    phases = f'[{{share={shares[0]}, sparsity=0.2}}, {{share={shares[1]}, quantization="entropy"}}]'
    at_once = vinr.Trainer(clip, preset_of("fit.epochs=6", f"fit.phases={phases}"))
    run_out(at_once)
    assert trainer.steps_done == at_once.steps_done == 6 * STEPS_PER_EPOCH
    # The plain fit's schedule knows nothing of what is appended: its end is that of the shorter fit.
    assert trainer.learner.part == at_once.learner.part == 1
    once, twice = vinr.Trainer(clip, preset_of()), vinr.Trainer(clip, preset_of())
    for other in (once, twice):
        run_out(other)
    once.continue_with([(2, {"sparsity": 0.2}), (1, {"quantization": "entropy"})])
    run_out(once)
    assert torch.equal(stored_of(once), stored_of(trainer))
    twice.continue_with([(2, {"sparsity": 0.2})])
    run_out(twice)
    twice.continue_with([(1, {"quantization": "entropy"})])
    run_out(twice)
    assert twice.steps_done == 6 * STEPS_PER_EPOCH
    assert [phase.share for phase in twice.settings.phases] == pytest.approx(shares)


def test_what_cannot_be_appended_is_refused(clip: MemoryClip) -> None:
    trainer = vinr.Trainer(clip, preset_of())
    with pytest.raises(UsageError, match="phase 0: sparseness: no such setting; there are share, "):
        trainer.continue_with([(1, {"sparseness": 0.2})])
    for length in (0, -1, -EPOCHS, 1.5, "1", math.nan):
        with pytest.raises(UsageError, match=r"phase 1: lasts .* give a whole number of at least 1"):
            trainer.continue_with([(1, {}), (length, {})])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="phase 0: its share follows"):
        trainer.continue_with([(1, {"share": 0.5})])
    by_time = vinr.Trainer(clip, preset_of(), seconds=5)
    with pytest.raises(UsageError, match="by time"):
        by_time.continue_with([(1, {})])


def test_an_unfinished_fit_may_be_finished(clip: MemoryClip) -> None:
    trainer = vinr.Trainer(clip, preset_of())
    trainer.step()
    result = trainer.finish()
    assert result.num_steps == 1
    assert result.train_psnr_db == -math.inf  # no round has ended
    assert all(bool(item.value.isfinite().all()) for item in result.model.stored().values())


def test_nothing_is_trained_after_the_end(clip: MemoryClip) -> None:
    trainer = vinr.Trainer(clip, preset_of())
    state = trainer.state()
    run_out(trainer)
    with pytest.raises(UsageError, match="budget of the fit is used up"):
        trainer.step()
    assert trainer.steps_done == EPOCHS * STEPS_PER_EPOCH
    result = trainer.finish()
    assert trainer.finish() is result
    calls = (
        trainer.step,
        trainer.state,
        lambda: trainer.load(state),
        lambda: trainer.continue_with([(1, {})]),
    )
    for call in calls:
        with pytest.raises(UsageError, match="the fit is finished"):
            call()


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (0.5, "a float"),
        (None, "a NoneType"),
        (torch.tensor(0.5), r"a tensor \(\) of torch.float32"),
        (torch.zeros(7), r"a tensor \(7,\)"),
        (torch.zeros(2, dtype=torch.int64), r"a tensor \(2,\) of torch.int64"),
        (torch.zeros(2, 3, 16, 32), r"a tensor \(2, 3, 16, 32\)"),
        (torch.zeros(2), "values without gradient"),
    ],
    ids=str,
)
def test_losses_that_return_anything_else_are_refused(clip: MemoryClip, value: Any, problem: str) -> None:
    def fixed(prediction_NCHW: Tensor, target_NCHW: Tensor) -> Any:
        return value

    trainer = vinr.Trainer(clip, preset_of(), loss=fixed)
    with pytest.raises(UsageError, match=f"loss fixed returns {problem}.*; return one float per frame"):
        trainer.step()


@pytest.mark.parametrize("multiplier", [-0.1, math.nan, math.inf, None, "1", 1j])
def test_schedules_that_return_no_rate_are_refused(clip: MemoryClip, multiplier: Any) -> None:
    trainer = vinr.Trainer(clip, preset_of(), schedule=lambda _: multiplier)
    before = weights_of(trainer).clone()
    with pytest.raises(UsageError, match=r"the schedule returns .* at progress 0;"):
        trainer.step()
    assert torch.equal(weights_of(trainer), before)


@pytest.mark.parametrize(
    "arguments",
    [{"device": "nonsense"}, {"device": "cuda:99"}, {"seconds": 0}, {"seconds": -1.0}, {"seconds": math.nan}],
    ids=str,
)
def test_trainers_are_not_made_of_values_that_are_not_allowed(
    clip: MemoryClip, arguments: dict[str, Any]
) -> None:
    with pytest.raises(UsageError):
        vinr.Trainer(clip, preset_of(), **arguments)


@dataclass(frozen=True)
class Liar:
    """A source whose frames are not what its spec says."""

    spec: VideoSpec
    rgb: Any

    def frames(self, index_N: Tensor) -> Any:
        return self.rgb


def test_frames_that_are_not_those_of_the_spec_are_refused(clip: MemoryClip) -> None:
    rgb_NCHW = clip.rgb_NCHW
    for rgb in (rgb_NCHW / 255, rgb_NCHW[:5], rgb_NCHW[..., :8], rgb_NCHW[:, :1], rgb_NCHW.numpy(), None):
        with pytest.raises(InputError, match=r"the source returns frames as .*; its spec promises"):
            vinr.Trainer(Liar(clip.spec, rgb), preset_of())


def test_what_is_no_source_preset_or_state_is_a_type_error(clip: MemoryClip) -> None:
    with pytest.raises(TypeError, match="takes a FrameSource and a Preset"):
        vinr.Trainer(clip, "hnerv-tiny")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="takes a FrameSource and a Preset"):
        vinr.Trainer(clip.rgb_NCHW, preset_of())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"give what state\(\) returned"):
        vinr.Trainer(clip, preset_of()).load({})  # type: ignore[arg-type]
