from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from model_checks import (
    ANY_SIZES,
    check_patches_are_refused,
    check_refused,
    check_solved,
    count,
    preset_on_meta,
)
from vinr.models.cnerv import CNeRV, CNeRVConfig
from vinr.models.enerv import ENeRV, ENeRVConfig
from vinr.video.spec import Query, VideoSpec

SMALL = {"strides": (3, 2), "widths": (6, 9, 4), "stem_channels": 10, "condition_width": 8, "levels": 6}


def test_parts_at_12_million() -> None:
    config = CNeRVConfig(strides=(5, 2, 2, 2, 2), widths=(200, 600, 300, 150, 96, 96))
    model = CNeRV.on_meta(config, VideoSpec(600, 720, 1280))
    stages = model.decoder.stages
    assert count(model.stem) == 584_136
    assert count(model.time_condition) == 37_120
    assert sum(count(stage.modulation) for stage in stages) == 347_268
    assert sum(count(stage.block) for stage in stages) == 11_474_594
    assert count(model.decoder.head) == 291
    assert round(model.num_stored() / 1e6, 3) == 12.443


@pytest.mark.parametrize(
    ("size", "millions", "grid"), [("12.5m", 12.519, (9, 16)), ("3m-960x1920", 2.960, (8, 16))]
)
def test_published_sizes(size: str, millions: float, grid: tuple[int, int]) -> None:
    model = preset_on_meta(f"cnerv-{size}")
    assert round(model.num_stored() / 1e6, 3) == millions
    assert model.stem_grid == grid
    assert model.coded_size() == (model.video.height, model.video.width)


def test_decoder_is_that_of_enerv() -> None:
    strides, widths, video = (3, 2), (6, 9, 4), VideoSpec(4, 18, 24)
    ours = CNeRV(CNeRVConfig(strides=strides, widths=widths), video).decoder
    theirs = ENeRV(ENeRVConfig(strides=strides, widths=widths), video).decoder
    theirs.load_state_dict(ours.state_dict())
    feature_NCHW, condition_NF = torch.randn(2, 6, 3, 4), torch.randn(2, 128)
    assert torch.equal(ours(feature_NCHW, condition_NF), theirs(feature_NCHW, condition_NF))


def test_map_holds_time_rows_and_columns() -> None:
    model = CNeRV(CNeRVConfig(**SMALL, grid_levels=5), VideoSpec(4, 18, 24)).double()
    seen: list[torch.Tensor] = []
    model.stem.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    model(Query.of_frames(torch.tensor([1, 3])))
    map_NCHW = seen[0]
    assert map_NCHW.shape == (2, 12 + 10 + 10, 3, 4)
    time_NCHW, row_NCHW, col_NCHW = map_NCHW.split([12, 10, 10], dim=1)
    assert torch.equal(time_NCHW, time_NCHW[:, :, :1, :1].expand_as(time_NCHW))
    assert torch.equal(row_NCHW, row_NCHW[:1, :, :, :1].expand_as(row_NCHW))
    assert torch.equal(col_NCHW, col_NCHW[:1, :, :1].expand_as(col_NCHW))
    # Level 0 is the sine of π times the share of the way.
    assert time_NCHW[:, 0, 0, 0].tolist() == pytest.approx([2**-0.5, 2**-0.5])
    third = 3**0.5 / 2
    assert row_NCHW[0, 0, :, 0].tolist() == pytest.approx([0, third, third])
    assert col_NCHW[0, 0, 0].tolist() == pytest.approx([0, 2**-0.5, 1, 2**-0.5])


def test_modulation_can_be_left_out() -> None:
    video = VideoSpec(4, 18, 24)
    plain = CNeRV(CNeRVConfig(**SMALL, modulation=False), video)
    full = CNeRV(CNeRVConfig(**SMALL), video)
    modulation = sum(count(stage.modulation) for stage in full.decoder.stages)
    assert full.num_stored() - plain.num_stored() == modulation + count(full.time_condition)
    frames = plain(Query.of_frames(torch.arange(4)))
    assert frames.shape == (4, 3, 18, 24)
    assert (frames[0] - frames[1]).abs().max() > 0


def test_stem_kernel() -> None:
    model = CNeRV(CNeRVConfig(**SMALL, stem_kernel=1), VideoSpec(4, 18, 24))
    assert model.stem[2].weight.shape == (6, 10, 1, 1)
    assert model(Query.of_frames(torch.tensor([0]))).shape == (1, 3, 18, 24)


def test_activation_follows_every_layer_but_the_last() -> None:
    model = CNeRV(CNeRVConfig(**SMALL), VideoSpec(4, 18, 24)).double()
    time_NF = torch.randn(2, 12, dtype=torch.float64)
    first, _, second, _ = model.time_condition
    assert torch.allclose(model.time_condition(time_NF), F.gelu(second(F.gelu(first(time_NF)))))


def test_patches_are_refused() -> None:
    check_patches_are_refused(CNeRV(CNeRVConfig(**SMALL), VideoSpec(1, 8, 8)))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"widths": (4, 4)}, "2 strides need 3 widths"),
        ({"stem_kernel": 2}, "odd"),
        ({"base": 4.0}, "exceeds 1e30"),
        ({"base": 4.0, "levels": 8}, "levels 80 exceeds 1e30"),
        ({"stem_channels": 0}, "greater than or equal to 1"),
        ({"heads": 8}, "heads"),
    ],
)
def test_configurations_that_are_refused(change: dict[str, Any], complaint: str) -> None:
    check_refused(CNeRVConfig, change, complaint)


@ANY_SIZES
def test_any_size_is_solved(height: int, width: int, num_parameters: int) -> None:
    check_solved(CNeRV, VideoSpec(60, height, width), num_parameters, tolerance=0.01)
