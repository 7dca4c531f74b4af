"""Symbols that are fixed one after another: which, at what, and what becomes of the others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

import vinr
from clips import MemoryClip, moving_shapes
from fit.test_coding_noise import network, values_of
from fit.test_loop import tiny
from vinr.compress import pack_tensors
from vinr.config import CompressSettings, Phase
from vinr.fit import fit
from vinr.fit.coding_noise import CodingNoise
from vinr.fit.draws import Draws
from vinr.fit.fixing import FIXED_BY, Fixing

START = 0.2


@pytest.fixture(scope="module")
def clip() -> MemoryClip:
    return moving_shapes(num_frames=6, height=32, width=48)


def numbers(count: int = 2000) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(3))


def test_all_are_fixed_in_the_end_each_once() -> None:
    fixing, step_E = Fixing(2000, START, Draws(1)), torch.full((2000,), 0.25)
    shares, before_E = [], torch.zeros(2000, dtype=torch.bool)
    fixed_E = torch.zeros(2000)
    for progress in (START, 0.4, 0.6, 0.8, FIXED_BY, 1.0):
        # What is not fixed moves on; what is, stays.
        trained_E = fixing(numbers() + progress, step_E, progress)
        assert torch.equal(trained_E[before_E], fixed_E[before_E])
        shares.append(float(fixing.is_fixed_E.float().mean()))
        before_E, fixed_E = fixing.is_fixed_E.clone(), trained_E
    expected = [(progress - START) / (FIXED_BY - START) for progress in (START, 0.4, 0.6, 0.8)]
    assert shares == pytest.approx([*expected, 1, 1], abs=0.05)
    assert torch.equal(fixed_E, (fixed_E / 0.25).round() * 0.25)


def test_what_is_not_fixed_is_not_rounded_and_learns_alone() -> None:
    fixing = Fixing(2000, START, Draws(1))
    value_E = numbers().requires_grad_()
    trained_E = fixing(value_E, torch.full((2000,), 0.25), 0.5)
    free_E = ~fixing.is_fixed_E
    assert 0 < free_E.sum() < 2000
    assert torch.equal(trained_E[free_E], value_E[free_E])
    trained_E.sum().backward()
    assert value_E.grad is not None
    assert torch.equal(value_E.grad != 0, free_E)


def test_steps_stay_from_then_on() -> None:
    stored = network()
    phase = Phase(share=1, quantization="entropy", rate_moves="steps", fix_from=START)
    coding = CodingNoise(stored, phase, CompressSettings(), Draws(1))
    for progress, learns in ((0.1, True), (START, False)):
        coding.zero_grad()
        values, num_bits = coding(values_of(stored), progress)
        assert num_bits is not None
        total = num_bits + torch.stack([value.square().sum() for value in values.values()]).sum()
        total.backward()
        assert coding.log_step is not None
        assert (coding.log_step.grad is not None and bool(coding.log_step.grad.any())) == learns


@pytest.mark.parametrize("model", ["hnerv", "vinr"])
def test_the_file_holds_what_was_fixed(model: str, clip: MemoryClip) -> None:
    phase = '{share = 0.6, quantization = "entropy", rate_moves = "steps", fix_from = 0.2}'
    result = fit(clip, tiny(model, clip, f"fit.phases=[{phase}]", epochs=15))
    assert result.steps
    stored = result.model.stored()
    for name, step in result.steps.items():
        value = stored[name].value.detach()
        code = value / step.view(-1, *[1] * (value.ndim - 1))
        assert torch.allclose(code, code.round(), atol=1e-3), name


def test_a_size_is_met_before_steps_stay(clip: MemoryClip) -> None:
    """Steps that were learned for another size are made larger or smaller at once."""
    sizes = []
    for target in (5000, 7000):
        phase = (
            '{share = 0.6, quantization = "entropy", rate_moves = "steps", fix_from = 0.2, '
            f"target_bytes = {target}}}"
        )
        preset = tiny("hnerv", clip, f"fit.phases=[{phase}]", epochs=40)
        result = fit(clip, preset)
        sizes.append(pack_tensors(result.model.stored(), preset.compress, steps=result.steps).file_bytes)
    assert sizes == [pytest.approx(5000, rel=0.04), pytest.approx(7000, rel=0.04)]


def test_a_size_is_met_in_the_file(tmp_path: Path, tiny_video: Path) -> None:
    path = tmp_path / "a.vinr"
    phase = '{share = 0.5, quantization = "entropy", rate_moves = "steps", fix_from = 0.2}'
    vinr.encode(
        tiny_video, path, model="vinr", params="12k", size=6000, epochs=6, overrides=[f"fit.phases=[{phase}]"]
    )
    assert 0.97 * 6000 < path.stat().st_size <= 6000


def test_a_size_far_beyond_the_network_is_left_unused(tmp_path: Path, tiny_video: Path) -> None:
    path = tmp_path / "a.vinr"
    phase = '{share = 0.5, quantization = "entropy", rate_moves = "steps", fix_from = 0.2}'
    given = {"model": "vinr", "params": "12k", "epochs": 6, "overrides": [f"fit.phases=[{phase}]"]}
    report = vinr.encode(tiny_video, path, size="5MB", **given)  # type: ignore[arg-type]
    assert 6 < 8 * path.stat().st_size / report.num_parameters < 11


@pytest.mark.parametrize(
    "settings",
    [
        {"quantization": "qat"},
        {"quantization": "entropy", "fix_from": 1},
        {"quantization": "entropy", "target_psnr_db": 30.0},
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="fix_from"):
        Phase.model_validate({"share": 0.5, "fix_from": 0.5, **settings})
