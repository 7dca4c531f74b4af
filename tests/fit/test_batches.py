"""What a step trains on: whole frames as ever, or patches from anywhere."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clips import MemoryClip, moving_shapes
from vinr.config import FitSettings, Preset, load_preset
from vinr.errors import UsageError
from vinr.fit import Event, RoundDone, fit
from vinr.fit.batches import Batches
from vinr.fit.task import Reconstruct
from vinr.models import VideoModel, get_model, list_models
from vinr.video.patches import cut
from vinr.video.spec import PatchGrid


@pytest.fixture(scope="module")
def clip() -> MemoryClip:
    return moving_shapes(num_frames=6, height=30, width=44)


def sampler(clip: MemoryClip, coded_size: tuple[int, int] = (32, 48), **changes: object) -> Batches:
    settings = FitSettings.model_validate(changes)
    frame_N = torch.arange(clip.spec.num_frames)
    return Batches(frame_N, frame_N, settings, coded_size)


def test_whole_frames_come_in_the_order_of_seed_and_epoch(clip: MemoryClip) -> None:
    batches = sampler(clip, batch_size=2, seed=5)
    order = torch.randperm(6, generator=torch.Generator().manual_seed((5 << 24) + 3))
    found = batches.of_epoch(3)
    assert torch.equal(torch.cat([part.sample_N for batch in found for part in batch]), order)
    query = batches.query(found[0][0].sample_N)
    assert query.time_N.tolist() == order[:2].tolist()
    assert query.grid.is_whole_frame
    assert query.row_N.tolist() == query.col_N.tolist() == [0, 0]
    assert torch.equal(batches.target(clip.rgb_NCHW, query), clip.rgb_NCHW[order[:2]] / 255)
    weight = torch.rand(2, 1, 30, 44)
    assert batches.weight(weight, query) is weight


@settings(max_examples=50)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_an_epoch_visits_every_patch_once(
    num_frames: int, batch_size: int, rows: int, cols: int, drop_last: bool
) -> None:
    options = FitSettings(batch_size=batch_size, patches=(rows, cols), drop_last=drop_last)
    frame_N = 10 + 2 * torch.arange(num_frames)  # held-out frames between them
    batches = Batches(frame_N, frame_N, options, (rows, cols))
    found = batches.of_epoch(0)
    assert len(found) == batches.steps_per_epoch
    seen = set()
    samples = [part.sample_N for batch in found for part in batch]
    for sample_N in samples:
        query = batches.query(sample_N)
        seen |= set(zip(query.time_N.tolist(), query.row_N.tolist(), query.col_N.tolist(), strict=True))
    count = sum(len(sample_N) for sample_N in samples)
    assert len(seen) == count
    every = {(time.item(), row, col) for time in frame_N for row in range(rows) for col in range(cols)}
    assert seen <= every
    left_out = len(every) - count
    assert left_out == (
        num_frames % batch_size * rows * cols if drop_last and num_frames >= batch_size else 0
    )


def test_a_batch_mixes_frames_and_places(clip: MemoryClip) -> None:
    batches = sampler(clip, batch_size=2, patches=(2, 3))
    query = batches.query(batches.of_epoch(0)[0][0].sample_N)
    assert len(query) == 12
    assert len(set(query.time_N.tolist())) > 2
    assert len(set(zip(query.row_N.tolist(), query.col_N.tolist(), strict=True))) > 3


def test_frames_that_are_decoded_together_stay_together() -> None:
    frame_N = torch.tensor([0, 1, 2, 4, 5, 7, 8])
    group_N = torch.tensor([0, 0, 0, 1, 1, 1, 2])
    settings = FitSettings(batch_size=2, patches=(1, 2), drop_last=False)
    batches = Batches(frame_N, group_N, settings, (8, 8))
    found = batches.of_epoch(0)
    assert len(found) == batches.steps_per_epoch == 2
    groups = {(0, 1, 2), (4, 5, 7), (8,)}
    seen = []
    for ((sample_N, _),) in found:
        query = batches.query(sample_N)
        for col in (0, 1):
            frames = query.time_N[query.col_N == col].long().tolist()
            while frames:
                group = next(group for group in groups if tuple(frames[: len(group)]) == group)
                seen.append((group, col))
                frames = frames[len(group) :]
    assert sorted(seen) == sorted((group, col) for group in groups for col in (0, 1))


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 5])
def test_parts_of_a_batch_are_the_batch(clip: MemoryClip, micro_batch: int) -> None:
    whole = sampler(clip, batch_size=2, patches=(2, 3), seed=3)
    parts = sampler(clip, batch_size=2, patches=(2, 3), seed=3, micro_batch=micro_batch)
    for batch, cut_batch in zip(whole.of_epoch(2), parts.of_epoch(2), strict=True):
        assert torch.equal(torch.cat([part.sample_N for part in cut_batch]), batch[0].sample_N)
        assert max(len(part.sample_N) for part in cut_batch) == micro_batch


def test_parts_of_a_batch_have_its_gradient(clip: MemoryClip) -> None:
    model = next(model for model in list_models() if takes(model, PatchGrid(2, 3)))
    weights = []
    for micro_batch in (0, 5):
        # Half precision, which auto may choose, moves weights by more than what is compared here.
        preset = preset_of(
            model,
            "fit.patches=[2,3]",
            "fit.batch_size=2",
            "fit.epochs=1",
            "fit.precision=fp32",
            f"fit.micro_batch={micro_batch}",
        )
        weights.append(fit(clip, preset).model.stored())
    for name, item in weights[0].items():
        assert torch.allclose(item.value, weights[1][name].value, atol=2e-4), name


def test_targets_and_weights_are_those_of_the_patches(clip: MemoryClip) -> None:
    batches = sampler(clip, batch_size=2, patches=(2, 3))
    query = batches.query(batches.of_epoch(1)[0][0].sample_N)
    place_N = (query.time_N * 6 + query.row_N * 3 + query.col_N).long()
    every = cut(clip.rgb_NCHW, PatchGrid(2, 3), coded_size=(32, 48))
    assert torch.equal(batches.target(clip.rgb_NCHW, query), every[place_N] / 255)
    weight_T1HW = torch.rand(6, 1, 30, 44)
    every = cut(weight_T1HW, PatchGrid(2, 3), coded_size=(32, 48))
    found = batches.weight(weight_T1HW[query.time_N.long()], query)
    assert found is not None
    assert torch.equal(found, every[place_N])
    assert batches.weight(None, query) is None


def preset_of(model: str, *overrides: str) -> Preset:
    return load_preset(f"{model}-tiny", ["fit.loss={l2=1.0}", "fit.epochs=20", "fit.phases=[]", *overrides])


def takes(model: str, grid: PatchGrid) -> bool:
    preset = preset_of(model)
    cls: type[VideoModel] = get_model(model)
    config = cls.Config.model_validate(preset.architecture)
    try:
        cls.on_meta(config, moving_shapes(num_frames=1, height=30, width=44).spec).check_patches(grid)
    except UsageError:
        return False
    return True


def test_models_learn_from_patches_or_refuse_them(clip: MemoryClip) -> None:
    grid = PatchGrid(2, 3)
    learners = [model for model in list_models() if takes(model, grid)]
    assert learners
    for model in learners:
        events: list[Event] = []
        result = fit(
            clip,
            preset_of(model, "fit.patches=[2,3]", "fit.batch_size=2"),
            on_event=events.append,
        )
        assert result.num_steps == 20 * 3
        first = next(event for event in events if isinstance(event, RoundDone))
        assert result.train_psnr_db > first.psnr_db + 2
    refusing = next(model for model in list_models() if model not in learners)
    with pytest.raises(UsageError, match=r"fit\.patches"):
        fit(clip, preset_of(refusing, "fit.patches=[2,3]"))
    with pytest.raises(UsageError, match="evenly; rows may be"):
        fit(clip, preset_of(learners[0], "fit.patches=[5,1]"))


def test_resumed_patches_equal_the_uninterrupted(clip: MemoryClip) -> None:
    model = next(model for model in list_models() if takes(model, PatchGrid(2, 3)))
    preset = preset_of(model, "fit.patches=[2,3]", "fit.epochs=2")
    first, second = (fit(clip, preset).model.stored() for _ in range(2))
    for name, item in first.items():
        assert torch.equal(item.value, second[name].value), name


def test_hidden_pixels_of_patches_do_not_count(clip: MemoryClip) -> None:
    model = next(model for model in list_models() if takes(model, PatchGrid(2, 3)))

    class Hidden(Reconstruct):
        def weight(self, index_N: torch.Tensor) -> torch.Tensor:
            weight_N1HW = torch.ones(len(index_N), 1, 30, 44)
            weight_N1HW[:, :, 10:20, 10:20] = 0
            return weight_N1HW

    spoiled = clip.rgb_NCHW.clone()
    spoiled[:, :, 10:20, 10:20] = 255 - spoiled[:, :, 10:20, 10:20]
    preset = preset_of(model, "fit.patches=[2,3]", "fit.epochs=2")
    first, second = (fit(c, preset, Hidden()).model.stored() for c in (clip, MemoryClip(spoiled)))
    for name, item in first.items():
        assert torch.equal(item.value, second[name].value), name


@pytest.mark.parametrize("patches", ["[0,1]", "[1,257]", "[2]"])
def test_impossible_patches_are_refused(patches: str) -> None:
    with pytest.raises(UsageError, match=r"fit\.patches"):
        load_preset(f"{list_models()[0]}-tiny", [f"fit.patches={patches}"])
