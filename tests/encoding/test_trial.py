"""An encode is tried before it begins: what is refused leaves nothing, what is kept is gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import vinr
from command_line import TINY, Run, refused
from vinr.encoding import foresee, segment_work
from vinr.encoding.plan import plan_encode
from vinr.encoding.trial import Costs, guess_costs, try_costs
from vinr.fit import Event, Noted, RoundDone, StageBegun, StepDone
from vinr.fit.precision import Precision
from vinr.models import list_models
from vinr.state.folder import partial_folder
from vinr.video.spec import VideoSpec

CLIP = VideoSpec(6, 32, 48)


# With latents; without; with keyframes, clips, groups of frames. The others are slow only by their number.
DIFFERENT = ("hnerv", "nerv", "dnerv_diverse")


@pytest.mark.parametrize(
    "model",
    [pytest.param(name, marks=() if name in DIFFERENT else pytest.mark.slow) for name in list_models()],
)
def test_every_model_can_be_tried_on_one_frame(model: str) -> None:
    preset = plan_encode([CLIP], preset=f"{model}-tiny", epochs=1).presets[0]
    frame_1CHW = torch.zeros(1, 3, 32, 48, dtype=torch.uint8)
    costs = try_costs(preset, CLIP, frame_1CHW, torch.device("cpu"), Precision("fp32"))
    assert min(costs.build, costs.step, costs.code, costs.frame) > 0
    assert costs.freeze >= 0
    assert costs.steps_per_epoch >= 1


def test_costs_are_guessed_from_operations() -> None:
    small, large = (
        guess_costs(
            plan_encode([spec], model="nerv", num_parameters=50_000, epochs=1).presets[0],
            spec,
            multiply_rate=lambda: 1e9,
        )
        for spec in (VideoSpec(8, 64, 96), VideoSpec(8, 128, 192))
    )
    assert large.frame > 2 * small.frame
    assert small.step == pytest.approx(3 * 2 * small.frame)
    assert small.steps_per_epoch == 4


def slow_costs(*_: object, **__: object) -> Costs:
    """A network whose frames take a minute each."""
    return Costs(build=0.1, step=1.0, freeze=0.0, code=1.0, frame=60.0, steps_per_epoch=4)


def test_a_time_too_short_is_refused_before_anything_is_written(
    run: Run, tiny_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foresee, "try_costs", slow_costs)
    refused(
        run("encode", tiny_video, tmp_path / "a.vinr", "--preset", TINY, "--time", "20s", "--device", "cpu"),
        "20 s are too short for this video",
        "give --time 11m or more",
    )
    assert list(tmp_path.iterdir()) == []


def test_what_no_machine_can_do_is_refused_without_a_trial(
    run: Run, tiny_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foresee, "guess_costs", slow_costs)
    monkeypatch.delattr(foresee, "try_costs")
    options = ("--preset", TINY, "--device", "cpu")
    refused(run("encode", tiny_video, tmp_path / "a.vinr", "--time", "20s", *options), "are too short")


def test_the_fit_leaves_what_was_tried_unspent(
    tiny_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an hour for everything, decoding 8 frames is to take 59 minutes: no more than a minute is fitted."""
    seen: dict[str, object] = {}

    def cut_short(*arguments: object, **options: object) -> object:
        seen.update(options)
        raise KeyboardInterrupt

    frame = 59 * 60 / (1.2 * 8)
    costs = Costs(build=0.0, step=0.5, freeze=0.0, code=0.0, frame=frame, steps_per_epoch=4)
    monkeypatch.setattr(foresee, "try_costs", lambda *_, **__: costs)
    monkeypatch.setattr(foresee, "slowdown", lambda *_: 1.0)
    monkeypatch.setattr(segment_work, "fit", cut_short)
    with pytest.raises(KeyboardInterrupt):
        vinr.encode(tiny_video, tmp_path / "a.vinr", preset=TINY, time="1h", device="cpu")
    reserve = seen["reserve"]
    after = costs.step + foresee.CLOSING_SECONDS  # the last step, and the end of the process
    assert isinstance(reserve, vinr.fit.Reserve)
    assert reserve.of(3600, costs.step * 4) == pytest.approx(min(59 * 60 + after, 0.95 * 3600))
    assert reserve.seconds == pytest.approx(59 * 60 + after)
    assert isinstance(seen["seconds"], float)
    assert 3000 < seen["seconds"] <= 3600


def test_stages_are_named_and_steps_told(tiny_video: Path, tmp_path: Path) -> None:
    stages: list[str] = []
    steps: list[StepDone] = []
    rounds: list[RoundDone] = []

    def on_event(event: object) -> None:
        if isinstance(event, StageBegun):
            stages.append(event.name)
        if isinstance(event, RoundDone):
            rounds.append(event)
        if isinstance(event, StepDone):
            steps.append(event)

    vinr.encode(
        tiny_video,
        tmp_path / "a.vinr",
        preset=TINY,
        epochs=2,
        device="cpu",
        reference=True,
        on_event=on_event,
    )
    assert stages == ["reading", "fitting", "coding", "measuring", "comparing"]
    assert [step.epochs_done for step in steps] == [number / 4 for number in range(1, 9)]
    assert [step.progress for step in steps] == [number / 8 for number in range(1, 9)]
    # A round ends with an epoch, and where a phase begins.
    assert [event.steps_done for event in rounds] == [4, 6, 8]
    assert all(event.loss and event.learning_rate for event in rounds)
    assert [(event.phase, event.bpp is None) for event in rounds] == [(-1, True), (-1, True), (0, False)]


def test_a_resumed_default_keeps_the_time_that_was_chosen(
    tiny_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that has become slower would choose another time, and the state belongs to the first."""
    output = tmp_path / "a.vinr"
    fast = Costs(build=0.0, step=0.01, freeze=0.0, code=0.1, frame=0.01, steps_per_epoch=4)
    monkeypatch.setattr(foresee, "try_costs", lambda *_, **__: fast)
    steps: list[StepDone] = []

    def interrupt(event: Event) -> None:
        if isinstance(event, StepDone):
            steps.append(event)
        if len(steps) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vinr.encode(tiny_video, output, preset=TINY, device="cpu", on_event=interrupt)
    job = json.loads((partial_folder(output) / "job.json").read_text(encoding="utf-8"))
    chosen = job["decided_seconds"]
    assert chosen == 30
    notes: list[str] = []
    monkeypatch.setattr(foresee, "try_costs", slow_costs)

    def note(event: object) -> None:
        if isinstance(event, Noted):
            notes.append(event.text)
        if isinstance(event, StageBegun) and event.name == "fitting":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vinr.encode(tiny_video, output, preset=TINY, device="cpu", resume=True, on_event=note)
    assert ", 30 s" in notes[0]
