from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from clips import MemoryClip, moving_shapes
from golden_tensors import DTYPES, Golden, record_outputs
from model_checks import (
    TWO_STAGES,
    check_latent_share,
    check_patches_are_refused,
    check_refused,
    check_solved,
    check_stages,
    count,
    golden_settings,
    golden_video,
    preset_model,
    preset_on_meta,
    published_widths,
    smallest_size,
)
from vinr.config import load_preset
from vinr.models import validate_architecture
from vinr.models.base import Latents
from vinr.models.cost import describe_size
from vinr.models.dnerv import DNeRV, DNeRVConfig, frame_differences
from vinr.video.spec import Query, VideoSpec

UVG = VideoSpec(600, 960, 1920)
RELEASED = DNeRVConfig(
    strides=(5, 4, 4, 3, 2),
    widths=(92, 76, 63, 52, 43, 35),
    difference_strides=(4, 3, 2),
    fuse_after=3,
)


def own_name(name: str) -> str:
    """Return our name of a golden weight: stages count from 0, a stage holds its only block itself."""
    name = re.sub(r"(content|difference)_encoder", r"encoder.\1", name)
    name = re.sub(r"stage(\d+)", lambda m: str(int(m[1]) - 1), name)
    name = name.replace(".block1", "").replace("decoder.stem.conv", "stem").replace("head.conv", "head")
    name = re.sub(r"difference_branch\.(\d+)", lambda m: f"difference_branch.{int(m[1]) + 1}", name)
    name = name.replace("difference_branch.stem.conv", "difference_branch.0")
    name = re.sub(r"(candidate|gate)\.(content|difference)_conv", r"\1_\2", name)
    return name.replace("decoder.", "blocks.")


def own_names(weights: dict[str, Tensor], config: DNeRVConfig) -> dict[str, Tensor]:
    """Return golden weights under our names; each encoder's projection follows its stages."""
    ends = {"content": len(config.strides), "difference": len(config.difference_strides)}
    named = {}
    for name, value in weights.items():
        own = own_name(name)
        for stream, end in ends.items():
            own = own.replace(f"encoder.{stream}.projection", f"encoder.{stream}.{end}")
        named[own] = value
    return named


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden("dnerv_diff")


def build(golden: Golden, dtype: torch.dtype) -> DNeRV:
    given = golden.config
    same = ("widths", "content_channels", "difference_channels", "difference_strides", "difference_kernel")
    same += ("fuse_after", "fusion_kernel", "encoder_width", "activation", "output")
    config = DNeRVConfig(
        **golden_settings(golden, *same, strides="decoder_strides"),
        kernel_min=given["kernels"][0],
        kernel_max=max(given["kernels"]),
    )
    assert config.difference_stride == given["difference_stride"]
    model = DNeRV(config, golden_video(golden))
    model.load_state_dict(own_names(golden.below("weight"), config))
    return model.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_stage_matches(golden: Golden, dtype: torch.dtype) -> None:
    model = build(golden, dtype)
    seen = record_outputs(
        {f"decoder.stage{n}": block for n, block in enumerate(model.blocks, 1)}
        | {"decoder.stem": model.stem, "head": model.head, "fusion": model.fusion}
        | {f"difference_branch.stage{n}": stage for n, stage in enumerate(model.difference_branch) if n}
        | {"difference_branch.stem": model.difference_branch[0]}
    )
    video, index_N = golden["input/video"].to(dtype), golden["input/frame_index"]
    before_NCHW, frame_NCHW, after_NCHW = video[model.with_neighbours(index_N)].chunk(3)
    difference_NCHW = frame_differences(before_NCHW, frame_NCHW, after_NCHW)
    latents = model.encoder(frame_NCHW, difference_NCHW)
    frames = model.decode(Query.of_frames(index_N), latents)
    seen["frame_differences"] = difference_NCHW
    seen |= {f"{name}_embedding": value for name, value in latents.per_frame.items()}
    check_stages(golden, seen)
    golden.check("output/frames", frames)


def test_released_network() -> None:
    model = DNeRV.on_meta(RELEASED, UVG)
    assert model.per_frame_shapes() == {"content": (16, 2, 4), "difference": (2, 40, 80)}
    assert sum(item.value.numel() for item in model.stored().values()) == 3_405_368
    assert count(model.fusion) == 97_552
    size = describe_size(DNeRV, RELEASED, UVG)
    assert size.latents == 76_800 + 3_840_000
    assert size.stored == 3_405_368 + size.latents
    shapes = [tuple(block.conv.weight.shape) for block in model.blocks]
    assert shapes[:3] == [(76 * 25, 92, 1, 1), (63 * 16, 76, 3, 3), (52 * 16, 63, 5, 5)]
    assert model.difference_branch[0].weight.shape == (63, 2, 1, 1)
    assert model.difference_branch[1].conv.weight.shape == (52 * 16, 63, 3, 3)


def test_the_released_preset_is_the_released_network() -> None:
    config = validate_architecture(DNeRV, load_preset("dnerv-released-960x1920").architecture)
    assert config == RELEASED
    for before, after in pairwise(config.widths):
        assert after == before // 1.2


def test_maps_of_the_released_network() -> None:
    model = DNeRV.on_meta(RELEASED, UVG)
    seen = record_outputs({str(n): block for n, block in enumerate(model.blocks)})
    latents = {
        name: torch.empty(1, *shape, device="meta") for name, shape in model.per_frame_shapes().items()
    }
    model.decode(Query.of_frames(torch.tensor([0])), Latents(latents))
    assert [tuple(value.shape[1:]) for value in seen.values()] == [
        (76, 10, 20), (63, 40, 80), (52, 160, 320), (43, 480, 960), (35, 960, 1920)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("size", "per_frame", "millions"),
    [
        ("3m-960x1920", {"content": (16, 2, 4), "difference": (2, 10, 20)}, 3.007),
        ("12.4m-720p", {"content": (16, 9, 16), "difference": (2, 45, 80)}, 12.45),
        ("5m-720p", {"content": (16, 9, 16), "difference": (2, 45, 80)}, 5.0),
    ],
)
def test_sizes_count_both_embeddings(
    size: str, per_frame: dict[str, tuple[int, ...]], millions: float
) -> None:
    model = preset_on_meta(f"dnerv-{size}")
    config = model.config
    assert model.per_frame_shapes() == per_frame
    assert model.num_stored() / 1e6 == pytest.approx(millions, rel=1e-3)
    assert config.widths == published_widths(config.widths[0], len(config.strides), reduction=1.2, lower=12)


def test_differences_have_the_released_channel_order() -> None:
    before, frame, after = (torch.full((1, 3, 1, 1), value) for value in (0.0, 1.0, 3.0))
    scale = torch.tensor([1.0, 10.0, 100.0]).view(1, 3, 1, 1)
    found = frame_differences(before * scale, frame * scale, after * scale)
    assert found.flatten().tolist() == [1, 2, 10, 20, 100, 200]


def read_differences(clip: MemoryClip, *, spans: tuple[int, ...] = ()) -> Tensor:
    """Return the differences of all frames of ``clip`` as the encoder gets them."""
    config = DNeRVConfig(strides=(2,), widths=(4, 4), difference_strides=(2,), encoder_width=4)
    spec = clip.spec
    model = DNeRV(config, VideoSpec(spec.num_frames, spec.height, spec.width, span_lengths=spans))
    seen: list[Tensor] = []
    model.encoder.difference.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    model.encode(clip, torch.arange(spec.num_frames))
    return seen[0]


def test_the_ends_of_a_clip_differ_from_themselves_by_nothing() -> None:
    clip = moving_shapes(num_frames=4, height=8, width=8)
    difference_N6HW = read_differences(clip)
    step = (clip.rgb_NCHW[1:].float() - clip.rgb_NCHW[:-1].float()) / 255
    assert difference_N6HW[0, ::2].abs().max() == 0
    assert difference_N6HW[-1, 1::2].abs().max() == 0
    assert torch.allclose(difference_N6HW[1:, ::2], step, atol=1e-6)
    assert torch.allclose(difference_N6HW[:-1, 1::2], step, atol=1e-6)


def test_differences_do_not_cross_clips() -> None:
    clip = moving_shapes(num_frames=5, height=8, width=8)
    difference_N6HW = read_differences(clip, spans=(2, 3))
    assert difference_N6HW[1, 1::2].abs().max() == 0
    assert difference_N6HW[2, ::2].abs().max() == 0
    assert difference_N6HW[2, 1::2].abs().max() > 0


def test_a_still_video_has_one_difference_embedding() -> None:
    frame = moving_shapes(num_frames=1, height=32, width=64).rgb_NCHW
    clip = MemoryClip(frame.repeat(4, 1, 1, 1))
    model = preset_model("dnerv-tiny", clip.spec)
    difference = model.encode(clip, torch.arange(4)).per_frame["difference"]
    assert torch.allclose(difference, difference[:1].expand_as(difference), atol=1e-6)


def test_between_frames_both_embeddings_are_mixed_and_nothing_is_encoded() -> None:
    clip = moving_shapes(num_frames=3, height=32, width=64)
    model = preset_model("dnerv-tiny", clip.spec)
    model.freeze(clip)
    assert model.encoder is None
    ends = model.latents_at(torch.tensor([0.0, 1.0], dtype=torch.float64)).per_frame
    middle = model.latents_at(torch.tensor([0.5], dtype=torch.float64)).per_frame
    for name in ("content", "difference"):
        assert torch.allclose(middle[name][0], ends[name].mean(0), atol=1e-6)


def test_without_differences_a_closed_gate_leaves_content() -> None:
    model = DNeRV(DNeRVConfig(strides=(2,), widths=(4, 4), difference_strides=(2,)), VideoSpec(1, 8, 8))
    torch.nn.init.constant_(model.fusion.gate_content.bias, -1e4)
    content = torch.randn(1, 4, 8, 8)
    assert torch.equal(model.fusion(content, torch.randn(1, 4, 8, 8)), content)


@pytest.mark.parametrize("fuse_after", [1, 2, 3])
def test_any_stage_can_fuse(fuse_after: int) -> None:
    clip = moving_shapes(num_frames=2, height=32, width=64)
    config = DNeRV.configure(clip.spec, width=9.0, settings={"strides": (4, 2, 2), "fuse_after": fuse_after})
    model = DNeRV(config, clip.spec)
    assert model(Query.of_frames(torch.arange(2)), clip).shape == (2, 3, 32, 64)
    assert model.fusion.gate_content.weight.shape[0] == config.widths[fuse_after]


@pytest.mark.slow  # tests/models/test_sizing.py asks for sizes of every model
@pytest.mark.parametrize("num_frames", [1, 30, 5000])
@pytest.mark.parametrize("size", [(160, 320), (1080, 1920)])
def test_sizes_are_met_within_2_percent(num_frames: int, size: tuple[int, int]) -> None:
    video = VideoSpec(num_frames, *size)
    smallest = smallest_size(DNeRV, video)
    for factor in (1.3, 12):
        check_solved(DNeRV, video, int(factor * smallest), tolerance=0.02)


def test_embeddings_are_kept_within_their_share() -> None:
    for num_frames in (10, 300, 3000):
        video = VideoSpec(num_frames, 1080, 1920)
        check_latent_share(DNeRV, video, width=90.0)
    chosen = DNeRV.configure(video, width=90.0, settings={"difference_channels": 2, "content_channels": 16})
    assert (chosen.content_channels, chosen.difference_channels) == (16, 2)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"widths": (4, 4)}, "2 strides need 3 widths"),
        ({"strides": (16, 16, 16), "widths": (4,) * 4}, "multiply to more than 1024"),
        ({"fuse_after": 3}, "exceeds the 2 stages"),
        ({"fuse_after": 0}, "greater than or equal to 1"),
        ({"difference_strides": (3,)}, "difference_strides"),
        ({"difference_strides": (2, 2, 2)}, "divisor of 4"),
        ({"strides": (16, 2), "fuse_after": 2, "difference_strides": (16, 2)}, "more than 16"),
        ({"difference_strides": (1,)}, "multiple of 2"),
        ({"fusion_kernel": 4}, "odd"),
        ({"difference_channels": 5000}, "less than or equal to 4096"),
        ({"depth": 3}, "depth"),
    ],
)
def test_configurations_that_are_refused(change: dict[str, Any], complaint: str) -> None:
    check_refused(DNeRVConfig, change, complaint, TWO_STAGES | {"difference_strides": (2,)})


def test_patches_and_dropped_encoders_are_refused() -> None:
    clip = moving_shapes(num_frames=1, height=8, width=8)
    config = DNeRVConfig(strides=(2,), widths=(4, 4), difference_strides=(2,))
    with pytest.raises(ValueError, match="encoder was dropped"):
        DNeRV(config, clip.spec, with_encoder=False)(Query.of_frames(torch.tensor([0])), clip)
    check_patches_are_refused(DNeRV(config, clip.spec), clip)
