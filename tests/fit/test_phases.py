"""Phases that prepare a network for coding: what they change, that they end in the file, that they resume."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from clips import MemoryClip, moving_shapes
from fit.test_loop import interrupt_after, tiny, weights_of
from vinr.compress import pack_tensors, quantized
from vinr.config import FitSettings, Phase, Schedule
from vinr.encoding.segment import FittedSegment
from vinr.errors import UsageError
from vinr.fit import Event, FitResult, RoundDone, fit
from vinr.fit.phases import moment_at, schedule_of
from vinr.kernels import arrange_layers
from vinr.models import HybridModel, get_model, list_models
from vinr.video.spec import Query, to_levels

ENTROPY = '{share = 0.4, quantization = "entropy", rate_weight = 0.2, fix_from = 0.3}'
EVERYTHING = (
    "fit.phases=["
    "{share = 0.2, sparsity = 0.1},"
    '{share = 0.2, sparsity = 0.3, quantization = "noise"},'
    f"{ENTROPY}]"
)


@pytest.fixture(scope="module")
def clip() -> MemoryClip:
    return moving_shapes(num_frames=6, height=32, width=48)


# -- where a fit is ------------------------------------------------------------------------------------------


def test_parts_follow_one_another() -> None:
    phases = [Phase(share=0.25), Phase(share=0.5)]
    found = [moment_at(progress, phases) for progress in (0.0, 0.2, 0.25, 0.4, 0.5, 0.9, 1.0)]
    assert [moment.number for moment in found] == [-1, -1, 0, 0, 1, 1, 1]
    assert [moment.progress for moment in found] == pytest.approx([0, 0.8, 0, 0.6, 0, 0.8, 1])


@given(st.lists(st.floats(0.01, 1), max_size=4), st.floats(0, 1))
def test_every_moment_lies_in_one_part(parts: list[float], progress: float) -> None:
    total = max(sum(parts), 1.0)
    moment = moment_at(progress, [Phase(share=part / total * 0.999) for part in parts])
    assert -1 <= moment.number < len(parts)
    assert 0 <= moment.progress <= 1


def test_a_fit_may_have_phases_only() -> None:
    assert moment_at(0.0, [Phase(share=1.0)]).number == 0


def test_a_schedule_spans_the_phases_that_have_none() -> None:
    own = Schedule(warmup=0.1)
    phases = [Phase(share=0.25), Phase(share=0.25, schedule=own), Phase(share=0.25)]
    settings = FitSettings(phases=tuple(phases))
    found = [moment_at(progress, phases) for progress in (0.0, 0.25, 0.375, 0.5, 0.75, 0.875)]
    assert [moment.number for moment in found] == [-1, 0, 0, 1, 2, 2]
    assert [moment.schedule_progress for moment in found] == pytest.approx([0, 0.5, 0.75, 0, 0.5, 0.75])
    assert [schedule_of(part, settings) for part in (-1, 0, 1, 2)] == [settings.schedule] * 2 + [own] * 2


def test_shares_beyond_the_whole_are_refused() -> None:
    with pytest.raises(ValidationError, match="add up to more than 1"):
        FitSettings(phases=(Phase(share=0.7), Phase(share=0.4)))


# -- what they do --------------------------------------------------------------------------------------------


def decoded_and_direct(
    result: FitResult, preset_model: str, clip: MemoryClip
) -> tuple[torch.Tensor, torch.Tensor]:
    preset = tiny(preset_model, clip)
    stored = result.model.stored()
    packed = pack_tensors(stored, preset.compress, steps=result.steps)
    segment = FittedSegment.of(preset, result, packed, clip.spec)
    with segment.open(clip.spec, "cpu") as decoder:
        decoded = decoder[:]
    result.model.restore(quantized(stored, preset.compress, steps=result.steps))
    # As a decoder arranges layers: convolutions round differently in another layout, or after a transform.
    result.model.to(memory_format=torch.contiguous_format)
    arrange_layers(result.model)
    with torch.inference_mode():
        frames = [result.model(Query.of_frames(torch.tensor([index]))) for index in range(len(decoded))]
    return decoded, to_levels(torch.cat(frames), 8)


@pytest.mark.parametrize("model", list_models())
def test_every_model_goes_through_phases_into_a_file(model: str, clip: MemoryClip) -> None:
    """Learned steps, grids and latents included; the file shows what the fitted model shows."""
    preset = tiny(model, clip, f"fit.phases=[{ENTROPY}]", "fit.loss={l2=1.0}", epochs=10)
    events: list[Event] = []
    result = fit(clip, preset, on_event=events.append)
    assert result.num_epochs == 10
    rounds = [event.psnr_db for event in events if isinstance(event, RoundDone)]
    assert min(rounds[-3:]) > rounds[0] + 0.2
    assert {item.role for name, item in result.model.stored().items() if name not in result.steps} <= {"bias"}
    decoded, direct = decoded_and_direct(result, model, clip)
    assert torch.equal(decoded, direct)


def test_a_stronger_rate_gives_a_smaller_file(clip: MemoryClip) -> None:
    sizes = []
    for weight in (0.0, 1.0):
        phase = f'{{share = 0.8, quantization = "entropy", rate_weight = {weight}}}'
        preset = tiny("nerv", clip, f"fit.phases=[{phase}]", epochs=12)
        result = fit(clip, preset)
        packed = pack_tensors(result.model.stored(), preset.compress, steps=result.steps)
        sizes.append(len(packed.fixed))
    assert sizes[0] > 1.3 * sizes[1]


def test_the_rate_may_be_weighed_in_bits_a_pixel(clip: MemoryClip) -> None:
    phase = (
        '{share = 0.5, quantization = "entropy", rate_unit = "bpp", rate_weight = 0.01, prior = "factorized"}'
    )
    result = fit(clip, tiny("nerv", clip, f"fit.phases=[{phase}]"))
    assert result.steps


def test_pruned_weights_stay_zero_to_the_end(clip: MemoryClip) -> None:
    result = fit(clip, tiny("hnerv", clip, EVERYTHING, epochs=10))
    stored = result.model.stored()
    total = sum(item.value.numel() for item in stored.values())
    zeros = sum(int((item.value == 0).sum()) for item in stored.values() if item.role == "weight")
    assert zeros >= int(0.3 * total)


def test_only_latents_learn_where_that_is_asked(clip: MemoryClip) -> None:
    """Two fits that differ in the phase's rate alone: decoders agree to the bit, latents do not."""
    slow, fast = (
        fit(clip, tiny("hnerv", clip, f'fit.phases=[{{share=0.5, trains="latents", learning_rate={rate}}}]'))
        for rate in (1e-6, 1.0)
    )
    for name, item in fast.model.stored().items():
        same = torch.equal(item.value, slow.model.stored()[name].value)
        assert same == (item.role != "latent"), name


def test_quality_lost_to_rounding_is_no_collapse(clip: MemoryClip) -> None:
    phase = '{share = 0.2, quantization = "entropy", initial_bits = 1.0}'
    seen: list[object] = []
    result = fit(clip, tiny("hnerv", clip, f"fit.phases=[{phase}]", epochs=30), on_event=seen.append)
    assert result.num_collapses == 0
    psnr_db = [event.psnr_db for event in seen if isinstance(event, RoundDone)]
    assert psnr_db[24] < psnr_db[23] - 4


@pytest.mark.parametrize("model", ["hnerv", pytest.param("ffnerv", marks=pytest.mark.slow)])
def test_a_fit_resumes_in_any_phase(model: str, clip: MemoryClip, tmp_path: Path) -> None:
    preset = tiny(model, clip, EVERYTHING, epochs=10)
    whole = fit(clip, preset)
    expected = weights_of(whole)
    # Models differ in what they store, not in when.
    for rounds in (2, 5) if model == "hnerv" else (7,):
        checkpoint = tmp_path / f"{rounds}.safetensors"
        with pytest.raises(KeyboardInterrupt):
            fit(clip, preset, on_event=interrupt_after(rounds), checkpoint=checkpoint)
        resumed = fit(clip, preset, checkpoint=checkpoint, resume=True)
        for name, value in weights_of(resumed).items():
            assert torch.equal(value, expected[name]), (rounds, name)
        for name, step in resumed.steps.items():
            assert torch.equal(step, whole.steps[name]), (rounds, name)


@pytest.mark.parametrize(
    "model", [name for name in list_models() if not issubclass(get_model(name), HybridModel)]
)
def test_models_without_latents_cannot_train_them_alone(model: str, clip: MemoryClip) -> None:
    phases = 'fit.phases=[{share = 0.2}, {share = 0.2, trains = "latents"}]'
    seen: list[object] = []
    message = rf'^fit.phases\[1\] has trains = "latents", and {model} has no latents; take trains = "all", '
    with pytest.raises(UsageError, match=message):
        fit(clip, tiny(model, clip, phases), on_event=seen.append)
    assert not seen
