"""Tasks: what they hide stays hidden, exactly; what they hold out gets what its neighbours have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clips import MemoryClip, moving_shapes
from vinr.config import Preset
from vinr.encoding.plan import choose_preset
from vinr.errors import InputError, UsageError
from vinr.fit import Event, Reconstruct, RoundDone, Task, fit
from vinr.fit.losses import build_loss, list_losses
from vinr.models import HybridModel, list_models
from vinr.tasks import Denoise, Inpaint, Interpolate, Noise
from vinr.tasks.neighbours import find_neighbours
from vinr.tasks.noise import NoisyFrames
from vinr.video.source import FrameTensor
from vinr.video.spec import VideoSpec

FRAMES, HEIGHT, WIDTH = 4, 16, 32
EVERY_MODEL = pytest.mark.parametrize("model", list_models())


@pytest.fixture(scope="module")
def clip() -> MemoryClip:
    return moving_shapes(num_frames=FRAMES, height=HEIGHT, width=WIDTH)


@pytest.fixture(scope="module")
def mask() -> Tensor:
    """A box that moves; the third frame is masked altogether."""
    mask_T1HW = torch.zeros(FRAMES, 1, HEIGHT, WIDTH, dtype=torch.bool)
    for index in range(FRAMES):
        mask_T1HW[index, :, 4:9, 3 + index : 12 + index] = True
    mask_T1HW[2] = True
    return mask_T1HW


def tiny(model: str, clip: MemoryClip, *overrides: str) -> Preset:
    settings = ["fit.epochs=2", "fit.loss={l2=1.0}", *overrides]
    return choose_preset(
        clip.spec, model=None, preset=f"{model}-tiny", num_parameters=None, overrides=settings
    )


def hybrid_model() -> str:
    """Return a model that keeps latents of frames."""
    from vinr.models import get_model

    return next(name for name in list_models() if issubclass(get_model(name), HybridModel))


def weights(clip: MemoryClip, preset: Preset, task: Task) -> dict[str, Tensor]:
    return {
        name: item.value.detach().clone() for name, item in fit(clip, preset, task).model.stored().items()
    }


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    assert first.keys() == second.keys()
    return all(torch.equal(value, second[name]) for name, value in first.items())


def spoiled(clip: MemoryClip, where_TCHW: Tensor) -> MemoryClip:
    """Return ``clip`` with other values where ``where_TCHW`` is True."""
    rgb_NCHW = clip.rgb_NCHW
    return MemoryClip(torch.where(where_TCHW, 255 - rgb_NCHW, rgb_NCHW))


def held_out(clip: MemoryClip) -> Tensor:
    """Return which numbers Interpolate(2) holds out."""
    odd_T = torch.arange(clip.spec.num_frames) % 2 == 1
    return odd_T.view(-1, 1, 1, 1).expand_as(clip.rgb_NCHW)


# -- nothing leaks -------------------------------------------------------------------------------------------


@EVERY_MODEL
def test_held_out_frames_change_no_weight(model: str, clip: MemoryClip) -> None:
    preset, task = tiny(model, clip), Interpolate(2)
    other = spoiled(clip, held_out(clip))
    assert not torch.equal(other.rgb_NCHW[1::2], clip.rgb_NCHW[1::2])
    assert same(weights(clip, preset, task), weights(other, preset, task))


@EVERY_MODEL
def test_masked_pixels_change_no_weight(model: str, clip: MemoryClip, mask: Tensor) -> None:
    preset, task = tiny(model, clip), Inpaint(mask)
    other = spoiled(clip, mask.expand_as(clip.rgb_NCHW))
    assert same(weights(clip, preset, task), weights(other, preset, task))


def test_pixels_that_are_seen_do_change_weights(clip: MemoryClip, mask: Tensor) -> None:
    for task, hidden in ((Interpolate(2), held_out(clip)), (Inpaint(mask), mask.expand_as(clip.rgb_NCHW))):
        preset = tiny(hybrid_model(), clip)
        assert not same(weights(clip, preset, task), weights(spoiled(clip, ~hidden), preset, task))
        assert not same(weights(clip, preset, task), weights(clip, preset, Reconstruct()))


@pytest.mark.parametrize("quantization", ["qat", "entropy"])
def test_nothing_leaks_into_phases(quantization: str, clip: MemoryClip, mask: Tensor) -> None:
    phase = f'fit.phases=[{{share=0.5, quantization="{quantization}"}}]'
    preset = tiny(hybrid_model(), clip, phase)
    for task, hidden in ((Interpolate(2), held_out(clip)), (Inpaint(mask), mask.expand_as(clip.rgb_NCHW))):
        assert same(weights(clip, preset, task), weights(spoiled(clip, hidden), preset, task))


@pytest.mark.parametrize("loss", list_losses())
def test_no_loss_sees_through_a_mask(loss: str) -> None:
    size = (2, 3, 180, 180)  # the smallest that every loss takes, and some
    target_NCHW, other_NCHW = torch.rand(size), torch.rand(size)
    weight_N1HW = torch.ones(2, 1, 180, 180)
    weight_N1HW[:, :, 40:100, 60:90] = 0
    prediction_NCHW = torch.rand(size, requires_grad=True)
    measure = build_loss({loss: 1.0})
    value = measure(prediction_NCHW, target_NCHW, weight_N1HW)
    mixed_NCHW = torch.where(weight_N1HW > 0, target_NCHW, other_NCHW)
    assert torch.equal(value.total, measure(prediction_NCHW, mixed_NCHW, weight_N1HW).total)
    value.total.backward()
    assert prediction_NCHW.grad is not None
    assert not prediction_NCHW.grad[..., 40:100, 60:90].any()
    assert prediction_NCHW.grad[..., :40, :].any()
    assert bool(prediction_NCHW.grad.isfinite().all())


# -- what is fitted, and what the others get -----------------------------------------------------------------


def test_frames_of_each_clip_are_held_out() -> None:
    spec = VideoSpec(12, 4, 4, span_lengths=(7, 1, 4))
    task = Interpolate(3)
    assert task.training_frames(spec).tolist() == [0, 3, 6, 7, 8, 11]
    assert task.held_out_frames(spec).tolist() == [1, 2, 4, 5, 9, 10]
    assert task.weight(torch.tensor([0])) is None
    near = task.neighbours(spec)
    assert near.before_T.tolist() == [0, 0, 0, 3, 3, 3, 6, 7, 8, 8, 8, 11]
    assert near.after_T.tolist() == [0, 3, 3, 3, 6, 6, 6, 7, 8, 11, 11, 11]
    expected = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0, 0, 1, 2, 0], dtype=torch.float64) / 3
    assert torch.equal(near.share_T, expected)
    assert near.nearest_T.tolist() == [0, 0, 3, 3, 3, 6, 6, 7, 8, 8, 11, 11]


def test_frames_beyond_the_trained_ones_have_the_last() -> None:
    near = find_neighbours((6, 2), torch.tensor([2, 3]))
    assert near.before_T.tolist() == [2, 2, 2, 3, 3, 3, 3, 3]
    assert near.after_T.tolist() == [2, 2, 2, 3, 3, 3, 3, 3]
    assert not near.share_T.any()


def test_encoders_see_mixes_of_trained_frames(clip: MemoryClip) -> None:
    seen = Interpolate(2).visible(clip).frames(torch.arange(FRAMES))
    assert torch.equal(seen[::2], clip.rgb_NCHW[::2])
    mean = clip.rgb_NCHW[[0, 2]].double().mean(0)
    assert torch.equal(seen[1], mean.round().to(torch.uint8))
    assert torch.equal(seen[3], clip.rgb_NCHW[2])


def test_latents_of_held_out_frames_are_mixed(clip: MemoryClip) -> None:
    result = fit(clip, tiny(hybrid_model(), clip), Interpolate(2))
    assert isinstance(result.model, HybridModel)
    assert result.model.latents is not None
    for value in result.model.latents.per_frame.values():
        assert torch.allclose(value[1], (value[0] + value[2]) / 2)
        assert torch.equal(value[3], value[2])
        assert not torch.equal(value[0], value[2])


def test_frames_masked_altogether_are_not_trained_on(clip: MemoryClip, mask: Tensor) -> None:
    task = Inpaint(mask)
    assert task.training_frames(clip.spec).tolist() == [0, 1, 3]
    result = fit(clip, tiny(hybrid_model(), clip), task)
    assert isinstance(result.model, HybridModel)
    assert result.model.latents is not None
    for value in result.model.latents.per_frame.values():
        assert torch.allclose(value[2], (value[1] + value[3]) / 2)


def test_masked_pixels_are_black_and_weigh_nothing(clip: MemoryClip, mask: Tensor) -> None:
    task, index_N = Inpaint(mask), torch.tensor([3, 0])
    seen = task.visible(clip).frames(index_N)
    inside = mask[index_N].expand_as(seen)
    assert not seen[inside].any()
    assert torch.equal(seen[~inside], clip.rgb_NCHW[index_N][~inside])
    weight_N1HW = task.weight(index_N)
    assert weight_N1HW is not None
    assert torch.equal(weight_N1HW, (~mask[index_N]).float())


def test_the_encoder_is_kept_when_asked_for(clip: MemoryClip) -> None:
    preset = tiny(hybrid_model(), clip, 'fit.phases=[{share=0.5, quantization="qat"}]')
    assert fit(clip, preset).encoder is None
    result = fit(clip, preset, keep_encoder=True)
    assert result.encoder is not None
    assert isinstance(result.model, HybridModel)
    assert result.model.encoder is None


def test_impossible_tasks_are_refused(clip: MemoryClip, mask: Tensor) -> None:
    with pytest.raises(UsageError, match="every 1"):
        Interpolate(1)
    with pytest.raises(UsageError, match="one frame"):
        Interpolate(2).held_out_frames(VideoSpec(2, 4, 4, span_lengths=(1, 1)))
    with pytest.raises(InputError, match="every pixel"):
        Inpaint(torch.ones_like(mask))
    with pytest.raises(InputError, match=r"3 frames of 32×16 \(width × height\), the video 4 of 32×16"):
        fit(clip, tiny(hybrid_model(), clip), Inpaint(mask[:3]))
    with pytest.raises(ValueError, match="bool"):
        Inpaint(mask.float())


def test_checkpoints_of_other_tasks_are_refused(clip: MemoryClip, mask: Tensor, tmp_path: Path) -> None:
    preset, path = tiny(hybrid_model(), clip), tmp_path / "fit.safetensors"
    moved = mask.roll(1, dims=3)
    tasks: list[Task] = [Interpolate(2), Interpolate(3), Inpaint(mask), Inpaint(moved), Reconstruct()]
    assert len({task.describe() for task in tasks}) == len(tasks)
    with pytest.raises(KeyboardInterrupt):
        fit(clip, preset, Inpaint(mask), checkpoint=path, on_event=interrupted())
    with pytest.raises(UsageError, match="other settings"):
        fit(clip, preset, Inpaint(moved), checkpoint=path, resume=True)
    whole = weights(clip, preset, Inpaint(mask))
    resumed = fit(clip, preset, Inpaint(mask), checkpoint=path, resume=True).model.stored()
    assert same(whole, {name: item.value for name, item in resumed.items()})


def interrupted() -> Callable[[Event], None]:
    def watch(event: Event) -> None:
        if isinstance(event, RoundDone):
            raise KeyboardInterrupt

    return watch


# -- noise ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "values"), [("black", {0}), ("white", {255}), ("salt_pepper", {0, 255})])
def test_noise_hits_a_share_of_the_pixels(kind: str, values: set[int]) -> None:
    grey_CHW = torch.full((3, 200, 200), 100, dtype=torch.uint8)
    noisy_CHW = Noise(kind, 0.2).add(grey_CHW, index=3)  # type: ignore[arg-type]
    hit_HW = (noisy_CHW != 100).any(0)
    assert torch.equal(hit_HW, (noisy_CHW != 100).all(0))
    assert set(noisy_CHW[:, hit_HW].unique().tolist()) == values
    assert float(hit_HW.double().mean()) == pytest.approx(0.2, abs=0.01)
    for value in values:
        share = float((noisy_CHW[0] == value).double().mean())
        assert share == pytest.approx(0.2 / len(values), abs=0.01)


def test_gaussian_noise_has_its_deviation() -> None:
    grey_CHW = torch.full((3, 200, 200), 128, dtype=torch.uint8)
    error_CHW = (Noise("gaussian", 0.05).add(grey_CHW, index=0).double() - 128) / 255
    assert float(error_CHW.mean()) == pytest.approx(0, abs=1e-3)
    assert float(error_CHW.std()) == pytest.approx(0.05, rel=0.01)


def test_noise_of_a_frame_is_always_the_same(clip: MemoryClip) -> None:
    source = FrameTensor(clip.rgb_NCHW, clip.spec)
    noisy = NoisyFrames(source, Noise("gaussian", 0.1, seed=7))
    every = noisy.frames(torch.arange(FRAMES))
    assert torch.equal(noisy.frames(torch.tensor([2, 0])), every[[2, 0]])
    error = every.int() - clip.rgb_NCHW.int()
    assert not torch.equal(error[0], error[1])
    assert not torch.equal(NoisyFrames(source, Noise("gaussian", 0.1, seed=8)).frames(torch.arange(4)), every)


def test_denoising_fits_the_noisy_clip(clip: MemoryClip) -> None:
    noise, preset = Noise("salt_pepper", 0.3), tiny(hybrid_model(), clip)
    noisy = MemoryClip(NoisyFrames(clip, noise).frames(torch.arange(FRAMES)))
    assert same(weights(clip, preset, Denoise(noise)), weights(noisy, preset, Reconstruct()))
    assert not same(weights(clip, preset, Denoise(noise)), weights(clip, preset, Reconstruct()))


@pytest.mark.parametrize(("kind", "amount"), [("pink", 0.1), ("black", 0.0), ("gaussian", 1.0)])
def test_unknown_noise_is_refused(kind: str, amount: float) -> None:
    with pytest.raises(UsageError, match=r"noise"):
        Noise(kind, amount)  # type: ignore[arg-type]
