"""Frames that are made of others: mixes of neighbours, fillings, masks; and PSNR where it matters."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clips import MemoryClip, moving_shapes
from random_files import random_network
from vinr.config import load_preset
from vinr.models import HybridModel, get_model, list_models
from vinr.quality.clip import psnr_per_frame_db
from vinr.tasks.frames import FilledFrames, FittedFrames, MaskedFrames, plain_fit, psnr_of_frames_db
from vinr.tasks.neighbours import MixedFrames, find_neighbours, mix_latents
from vinr.tasks.noise import Noise, NoisyFrames
from vinr.video.spec import Query, VideoSpec, to_levels

SIZE = (3, 12, 20)
NUM_FRAMES = 6


@pytest.fixture
def clip() -> MemoryClip:
    return moving_shapes(num_frames=NUM_FRAMES, height=SIZE[1], width=SIZE[2])


@pytest.fixture
def mask_T1HW() -> Tensor:
    """A box in frame 1, all of frame 2, nothing elsewhere."""
    mask = torch.zeros(NUM_FRAMES, 1, *SIZE[1:], dtype=torch.bool)
    mask[1, :, 3:7, 5:9] = mask[2] = True
    return mask


# -- neighbours ----------------------------------------------------------------------------------------------


def neighbours_by_search(spans: list[int], trained: list[int], frame: int) -> tuple[int, int, float]:
    """Return what stands in the text of :func:`find_neighbours`, found one frame at a time."""
    first = 0
    for length in spans:
        if frame < first + length:
            break
        first += length
    near = [one for one in trained if first <= one < first + length] or trained
    before = max((one for one in near if one <= frame), default=near[0])
    after = min((one for one in near if one >= frame), default=near[-1])
    if before == after or not before <= frame <= after:
        return before, after, 0.0
    return before, after, (frame - before) / (after - before)


@settings(max_examples=60)
@given(st.data())
def test_neighbours_are_those_of_a_search(data: st.DataObject) -> None:
    spans = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    total = sum(spans)
    trained = sorted(data.draw(st.sets(st.integers(0, total - 1), min_size=1)))
    near = find_neighbours(spans, torch.tensor(trained))
    assert near.share_T.dtype == torch.float64
    assert near.before_T.dtype == near.after_T.dtype == torch.int64
    for frame in range(total):
        before, after, share = neighbours_by_search(spans, trained, frame)
        found = near.of(torch.tensor([frame]))
        assert (int(found.before_T), int(found.after_T)) == (before, after)
        assert float(found.share_T) == share
        # A trained frame is both its neighbours.
        assert (before == after == frame) == (frame in trained)


def test_neighbours_of_the_picture_in_the_source() -> None:
    near = find_neighbours([7], torch.tensor([0, 3, 5]))
    assert near.before_T.tolist() == [0, 0, 0, 3, 3, 5, 5]
    assert near.after_T.tolist() == [0, 3, 3, 3, 5, 5, 5]
    assert near.share_T.tolist() == [0, 1 / 3, 2 / 3, 0, 0.5, 0, 0]
    # Frame 4 is as near to one as to the other: the earlier one counts.
    assert near.nearest_T.tolist() == [0, 0, 3, 3, 3, 5, 5]


def test_a_clip_of_which_nothing_was_trained_lies_between_the_others() -> None:
    near = find_neighbours([2, 3, 2], torch.tensor([1, 5]))
    assert near.before_T[2:5].tolist() == [1, 1, 1]
    assert near.after_T[2:5].tolist() == [5, 5, 5]
    assert near.share_T[2:5].tolist() == [0.25, 0.5, 0.75]
    # Clips that have trained frames keep to these.
    assert near.after_T[:2].tolist() == [1, 1]
    assert near.before_T[5:].tolist() == [5, 5]


def test_frames_between_are_mixed_and_trained_ones_stay(clip: MemoryClip) -> None:
    mixed = MixedFrames(clip, find_neighbours([NUM_FRAMES], torch.tensor([0, 4])))
    assert mixed.spec == clip.spec
    every = mixed.frames(torch.arange(NUM_FRAMES))
    first, last = clip.rgb_NCHW[0].double(), clip.rgb_NCHW[4].double()
    for index in range(5):
        expected = first + (last - first) * index / 4
        assert (every[index].double() - expected).abs().max() <= 0.5 + 1e-4
    assert torch.equal(every[0], clip.rgb_NCHW[0])
    assert torch.equal(every[4], clip.rgb_NCHW[4])
    assert torch.equal(every[5], clip.rgb_NCHW[4])  # beyond the last trained one


@pytest.mark.parametrize("name", [name for name in list_models() if issubclass(get_model(name), HybridModel)])
def test_latents_between_are_mixes_of_those_that_were_trained(name: str) -> None:
    model = random_network(name, VideoSpec(5, 16, 24))
    assert isinstance(model, HybridModel)
    assert model.latents is not None
    before = {key: value.detach().clone() for key, value in model.latents.per_frame.items()}
    mix_latents(model, find_neighbours([5], torch.tensor([0, 2, 4])))
    for key, value in model.latents.per_frame.items():
        assert torch.equal(value[::2], before[key][::2])
        assert torch.allclose(value[1], (before[key][0] + before[key][2]) / 2)
        assert torch.allclose(value[3], (before[key][2] + before[key][4]) / 2)


def test_models_without_latents_are_left_as_they_are() -> None:
    model = random_network("nerv", VideoSpec(3, 16, 24))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    mix_latents(model, find_neighbours([3], torch.tensor([0, 2])))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# -- masks ---------------------------------------------------------------------------------------------------


def test_masked_pixels_are_black_in_all_colours(clip: MemoryClip, mask_T1HW: Tensor) -> None:
    index_N = torch.tensor([2, 1, 0, 1])
    found = MaskedFrames(clip, mask_T1HW).frames(index_N)
    mask_NCHW = mask_T1HW[index_N].expand_as(found)
    assert not found[mask_NCHW].any()
    assert torch.equal(found[~mask_NCHW], clip.rgb_NCHW[index_N][~mask_NCHW])
    assert bool(clip.rgb_NCHW[index_N].any())  # nothing is written into the source


def test_a_filling_is_inside_and_the_video_outside(clip: MemoryClip, mask_T1HW: Tensor) -> None:
    inside = MemoryClip(255 - clip.rgb_NCHW)
    filled = FilledFrames(clip, inside, mask_T1HW)
    assert filled.spec == clip.spec
    index_N = torch.tensor([0, 1, 2])
    found = filled.frames(index_N)
    assert torch.equal(found[0], clip.rgb_NCHW[0])
    assert torch.equal(found[2], inside.rgb_NCHW[2])
    assert torch.equal(found[1, :, 3:7, 5:9], inside.rgb_NCHW[1, :, 3:7, 5:9])
    assert int((found[1] != clip.rgb_NCHW[1]).any(0).sum()) <= 16


# -- networks without a file ---------------------------------------------------------------------------------


def test_fitted_frames_are_computed_one_by_one() -> None:
    video = VideoSpec(4, 16, 24)
    model = random_network("hnerv", video)
    shapes: list[int] = []
    model.register_forward_hook(lambda module, inputs, output: shapes.append(len(output)))
    frames = FittedFrames(model, video).frames(torch.tensor([3, 0, 0]))
    assert shapes == [1, 1, 1]
    assert frames.dtype == torch.uint8
    assert not frames.requires_grad
    with torch.no_grad():
        assert torch.equal(frames[0], to_levels(model(Query.of_frames(torch.tensor([3]))), 8)[0])
    assert torch.equal(frames[1], frames[2])


def test_a_plain_fit_has_no_phases_and_else_the_same_settings() -> None:
    preset = load_preset("hnerv-tiny", ['fit.phases=[{share = 0.5, quantization = "qat"}]'])
    plain = plain_fit(preset)
    assert preset.fit.phases
    assert plain.fit.phases == ()
    assert plain.fit.model_dump(exclude={"phases"}) == preset.fit.model_dump(exclude={"phases"})
    assert plain.model_dump(exclude={"fit"}) == preset.model_dump(exclude={"fit"})


# -- how close they are --------------------------------------------------------------------------------------


def test_psnr_is_that_of_the_frames_asked_for(clip: MemoryClip) -> None:
    other = NoisyFrames(clip, Noise("gaussian", 0.1))
    index_N = torch.tensor([4, 1])
    found = psnr_of_frames_db(other, clip, index_N)
    noisy_NCHW, clean_NCHW = (source.frames(index_N).double() / 255 for source in (other, clip))
    expected = psnr_per_frame_db(noisy_NCHW, clean_NCHW)
    assert found == pytest.approx(expected.tolist(), abs=1e-4)
    # Noise of deviation 0.1 has an error of 0.01, somewhat less where it is clipped.
    assert all(19 < value < 22 for value in found)


def test_psnr_of_what_is_masked_leaves_out_frames_without_a_mask(clip: MemoryClip, mask_T1HW: Tensor) -> None:
    changed = clip.rgb_NCHW.clone()
    changed[0] = 255 - changed[0]
    changed[1, :, 3:7, 5:9] ^= 1  # by one step, in each of the masked pixels
    changed[1, :, 0, 0] ^= 255
    every = torch.arange(NUM_FRAMES)
    inside = psnr_of_frames_db(MemoryClip(changed), clip, every, mask_T1HW)
    assert inside == pytest.approx([20 * math.log10(255), 90], abs=1e-3)
    outside = psnr_of_frames_db(MemoryClip(changed), clip, every, ~mask_T1HW)
    assert len(outside) == NUM_FRAMES - 1  # all of frame 2 is masked
    assert outside[0] < 15
    assert outside[1] < 40
    assert outside[2:] == pytest.approx([90] * 3)
