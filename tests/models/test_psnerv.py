from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from vinr.config import load_preset
from vinr.errors import UsageError
from vinr.models import validate_architecture
from vinr.models.cost import count_macs
from vinr.models.nerv import NeRV, NeRVConfig
from vinr.models.psnerv import PSNeRV, PSNeRVConfig
from vinr.sizing.solve import solve_size
from vinr.video.patches import cut_at
from vinr.video.spec import PatchGrid, Query, VideoSpec

# Sizes that HiNeRV's comparison states, and what the widths come to: C0, lowest width, numbers, GMAC a frame.
BUDGETS = {
    "0.9m-bunny": (0.90, 7, 32, 916_257, 9.1),
    "1.7m-bunny": (1.68, 16, 48, 1_704_323, 21.0),
    "3.3m-bunny": (3.35, 33, 72, 3_326_599, 48.7),
    "3m-1080p": (3.24, 32, 64, 3_275_107, 87.0),
    "7m-1080p": (6.57, 65, 64, 6_613_519, 98.5),
    "13m-1080p": (13.07, 119, 64, 13_133_425, 119.9),
}


@pytest.mark.parametrize("size", BUDGETS)
def test_budgets(size: str) -> None:
    stated, first, lower, total, gmacs = BUDGETS[size]
    preset = load_preset(f"psnerv-{size}")
    video = VideoSpec(preset.paper.num_frames, preset.paper.height, preset.paper.width)
    config = validate_architecture(PSNeRV, preset.architecture)
    widths = [first, first]
    while len(widths) < 4:
        widths.append(max(widths[-1] // 2, lower))
    assert config.widths == tuple(widths)
    stages = zip(widths, widths[1:], config.strides, strict=False)
    blocks = sum(9 * a * b * s**2 + b * s**2 + 2 * b * (128 + 1) for a, b, s in stages)
    stem = (480 * 512 + 512) + (512 + 1) * 144 * first
    style = 480 * 128 + 128 + 128 * 128 + 128
    assert stem + style + blocks + 3 * widths[-1] + 3 == total
    model = PSNeRV.on_meta(config, video)
    assert model.num_stored() == total
    assert total / 1e6 == pytest.approx(stated, rel=0.02)
    assert model.coded_size() == (video.height, video.width)
    assert count_macs(PSNeRV, config, video) / 1e9 == pytest.approx(gmacs, abs=0.06)


def small(video: VideoSpec, **settings: Any) -> PSNeRV:
    plain = {"strides": (3, 2), "widths": (6, 5, 4), "stem_widths": (16,), "style_width": 8, "levels": 8}
    torch.manual_seed(3)
    return PSNeRV(PSNeRVConfig(**(plain | settings)), video).double()


def frame_at(model: PSNeRV, time: float) -> Tensor:
    with torch.no_grad():
        return model(Query.of_frames(torch.tensor([time], dtype=torch.float64)))[0]


def patch_query(time_N: list[float], row_N: list[int], col_N: list[int], grid: PatchGrid) -> Query:
    return Query(torch.tensor(time_N, dtype=torch.float64), torch.tensor(row_N), torch.tensor(col_N), grid)


def test_frames_are_their_patches() -> None:
    video = VideoSpec(5, 34, 70)
    model = small(video, patch_rows=2, patch_cols=3)
    assert model.coded_size() == (36, 72)
    frame_CHW = frame_at(model, 3)
    assert frame_CHW.shape == (3, 34, 70)
    for row in range(2):
        for col in range(3):
            with torch.no_grad():
                patch_CHW = model(patch_query([3.0], [row], [col], PatchGrid(2, 3)))[0]
            assert patch_CHW.shape == (3, 18, 24)
            part_CHW = frame_CHW[:, 18 * row : 18 * row + 18, 24 * col : 24 * col + 24]
            difference = patch_CHW[:, : part_CHW.shape[1], : part_CHW.shape[2]] - part_CHW
            assert difference.abs().max() < 1e-12


def test_patches_of_many_frames_in_one_batch() -> None:
    model = small(VideoSpec(5, 36, 72), patch_rows=2, patch_cols=3)
    with torch.no_grad():
        patches = model(patch_query([4.0, 0.0, 4.0], [1, 0, 0], [2, 1, 0], PatchGrid(2, 3)))
    assert (patches[0] - frame_at(model, 4)[:, 18:, 48:]).abs().max() < 1e-12
    assert (patches[1] - frame_at(model, 0)[:, :18, 24:48]).abs().max() < 1e-12
    assert (patches[2] - frame_at(model, 4)[:, :18, :24]).abs().max() < 1e-12


def test_frames_are_joined_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a network that gives back the patches of given frames, decoding gives back the frames."""
    model = small(VideoSpec(4, 18, 24), patch_rows=3, patch_cols=2)
    frames_NCHW = torch.rand(4, 3, *model.coded_size())
    monkeypatch.setattr(model, "decode_patches", lambda query: cut_at(frames_NCHW, query))
    index_N = torch.tensor([2, 0, 3])
    assert torch.equal(model(Query.of_frames(index_N)), frames_NCHW[index_N])


def test_each_patch_has_its_own_place() -> None:
    model = small(VideoSpec(5, 24, 24), patch_rows=2, patch_cols=2)
    frame_CHW = frame_at(model, 1)
    patches = [frame_CHW[:, r : r + 12, c : c + 12] for r in (0, 12) for c in (0, 12)]
    for number, patch in enumerate(patches):
        for other in patches[:number]:
            assert (patch - other).abs().max() > 1e-4


@pytest.mark.parametrize("style_input", ["patch", "time"])
def test_time_changes_every_patch(style_input: str) -> None:
    model = small(VideoSpec(5, 24, 24), patch_rows=2, patch_cols=2, style_input=style_input)
    change_CHW = (frame_at(model, 1) - frame_at(model, 2)).abs()
    assert min(change_CHW[:, r : r + 12, c : c + 12].max() for r in (0, 12) for c in (0, 12)) > 1e-4
    between_CHW = frame_at(model, 1.5)
    assert (between_CHW - frame_at(model, 1)).abs().max() > 1e-4


def test_style_reaches_the_frame() -> None:
    model = small(VideoSpec(2, 24, 24), patch_rows=2, patch_cols=2)
    before = frame_at(model, 0)
    with torch.no_grad():
        model.blocks[1].modulation.linear.bias += 0.5
    assert (frame_at(model, 0) - before).abs().max() > 1e-3


def test_without_modulation_and_patches_it_is_nerv() -> None:
    video = VideoSpec(4, 24, 36)
    model = small(video, patch_rows=1, patch_cols=1, modulation=False)
    config = NeRVConfig(
        strides=(3, 2),
        widths=(6, 5, 4),
        stem_widths=(16,),
        levels=8,
        encoding_order="interleaved",
        head_kernel=1,
        output="sigmoid",
    )
    nerv = NeRV(config, video).double()
    # Row and column widen the first layer's input, from 16 numbers to 48; all else is equal.
    extra = 2 * 16 * 16
    assert model.num_stored() == nerv.num_stored() + extra
    values = {name: item.value for name, item in model.stored().items()}
    with torch.no_grad():
        values["stem.0.weight"][:, 16:] = 0
    values["stem.0.weight"] = values["stem.0.weight"][:, :16]
    nerv.load_state_dict(values)
    # Times are the middles of the frames here, their beginnings there.
    expected = nerv(Query.of_frames(torch.tensor([2.5], dtype=torch.float64)))[0]
    assert (frame_at(model, 2) - expected).abs().max() < 1e-12


def test_patches_of_another_grid_are_refused() -> None:
    model = small(VideoSpec(2, 24, 24), patch_rows=2, patch_cols=2)
    with pytest.raises(ValueError, match=r"patches of PatchGrid\(rows=2, cols=2\), not of"):
        model(patch_query([0.0], [0], [0], PatchGrid(4, 4)))


def test_training_takes_the_models_own_patches() -> None:
    model = small(VideoSpec(2, 24, 24), patch_rows=2, patch_cols=3)
    model.check_patches(PatchGrid(2, 3))
    model.check_patches(PatchGrid(1, 1))
    with pytest.raises(
        UsageError, match=r"has 2×3 patches, not 3×2: set fit.patches to \[2, 3\] or \[1, 1\]"
    ):
        model.check_patches(PatchGrid(3, 2))


def test_a_stem_grid_that_does_not_cover_the_patch_is_refused() -> None:
    with pytest.raises(UsageError, match="2×2 is too small for 24×12 pixels, which need 4×2"):
        small(VideoSpec(2, 48, 24), patch_rows=2, patch_cols=2, stem_height=2, stem_width=2)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"widths": (4, 4)}, "2 strides need 3 widths"),
        ({"patch_rows": 0}, "greater than or equal to 1"),
        ({"patch_cols": 100}, "64"),
        ({"stem_widths": (8,) * 5}, "at most 4"),
        ({"style_input": "place"}, "patch"),
        ({"base": 4.0}, "exceeds 1e30"),
    ],
)
def test_configurations_that_are_refused(change: dict[str, Any], complaint: str) -> None:
    good = {"strides": (2, 2), "widths": (4, 4, 4)}
    with pytest.raises(ValidationError, match=complaint):
        PSNeRVConfig.model_validate(good | change)


@pytest.mark.parametrize(
    ("height", "width", "num_parameters"),
    [(640, 1280, 60_000), (1080, 1920, 3_000_000), (406, 720, 13_000_000), (90, 51, 40_000), (1, 9, 6_000)],
)
def test_any_size_is_solved(height: int, width: int, num_parameters: int) -> None:
    video = VideoSpec(60, height, width)
    model = PSNeRV.on_meta(solve_size(PSNeRV, video, num_parameters, {}), video)
    assert abs(model.num_stored() / num_parameters - 1) < 0.01
    assert model.patch_grid == PatchGrid(1, 1) if height == 1 else model.patch_grid.rows > 1
