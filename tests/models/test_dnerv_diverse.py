from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from clips import MemoryClip, moving_shapes
from golden_tensors import DTYPES, Golden, record_outputs
from vinr.config import FitSettings, load_preset, presets_of
from vinr.errors import UsageError
from vinr.fit.batches import Batches
from vinr.models import validate_architecture
from vinr.models.cost import count_macs, measure_first_frame
from vinr.models.dnerv_diverse import DNeRVDiverse, DNeRVDiverseConfig
from vinr.models.layers.clips import Clip, ClipLayout, TemporalMap, stretch_in_time
from vinr.models.layers.warp import WarpFusion
from vinr.models.nerv import NeRV, NeRVConfig
from vinr.sizing.solve import solve_size
from vinr.video.patches import all_patches, cut, cut_at
from vinr.video.spec import PatchGrid, Query, VideoSpec

UVG_SPANS = (600,) * 5 + (300, 600)
# Preset: F, numbers, and published: keyframe bits, bits of a number after coding (of 8), all bits (10⁶), bpp.
PUBLISHED = {
    "uvg-xs": (107, 8_017_893, 88.39, 0.883, 145.0, 0.0189),
    "uvg-s": (166, 15_955_472, 88.39, 0.881, 200.9, 0.0262),
    "uvg-m": (213, 24_197_711, 123.2, 0.880, 293.6, 0.0383),
    "uvg-l": (291, 41_660_324, 175.1, 0.877, 467.3, 0.0609),
    "uvg-xl": (382, 67_953_362, 254.7, 0.875, 730.3, 0.0952),
    "ucf101-s": (198, 21_388_894, 481.6, 0.882, 632.7, 0.0559),
    "ucf101-m": (281, 39_144_463, 481.6, 0.891, 758.7, 0.0671),
    "ucf101-l": (361, 61_302_972, 481.6, 0.891, 918.3, 0.0812),
}

# -- golden tensors ------------------------------------------------------------------------------------------


def own_name(name: str, num_stages: int) -> str:
    """Return our name of a golden weight: scales and layers count from 0, layers of a head skip its GELU."""
    name = name.replace("keyframe_encoder.", "pyramid.").replace("rgb_head.", "decoder.head.convs.")
    name = name.replace(f"scale{num_stages + 1}.", "decoder.head.keys.")
    name = re.sub(r"scale(\d)\.flow_head", r"scale\1.keys.flow_head", name)
    name = re.sub(r"scale(\d)", lambda m: f"decoder.stages.{int(m[1]) - 1}", name)
    name = re.sub(r"pyramid\.stage(\d)\.conv", lambda m: f"pyramid.stages.{int(m[1]) - 1}", name)
    name = name.replace("decoder_block.conv", "upsample.conv").replace("decoder_block.", "")
    name = re.sub(r"(flow_head|convs)\.conv(\d)", lambda m: f"{m[1]}.{2 * int(m[2]) - 2}", name)
    return re.sub(r"stem\.linear(\d)", lambda m: f"stem.{2 * int(m[1]) - 2}", name)


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden("dnerv_diverse")


def build_golden(golden: Golden, dtype: torch.dtype) -> DNeRVDiverse:
    given = golden.config
    names = (
        "strides",
        "widths",
        "clip_length",
        "stem_hidden",
        "key_channels",
        "base",
        "levels",
        "mean",
        "std",
    )
    config = DNeRVDiverseConfig(**{name: given[name] for name in names})
    model = DNeRVDiverse(config, VideoSpec(given["num_frames"], given["height"], given["width"]))
    own = model.state_dict()
    stages = len(given["strides"])
    weights = {own_name(name, stages): value for name, value in golden.below("weight").items()}
    assert weights.keys() == own.keys()
    # Kernels of 1×k×k are 2-D here, and the temporal map has an axis for the channel.
    model.load_state_dict({name: value.reshape(own[name].shape) for name, value in weights.items()})
    return model.to(dtype)


def by_clip(value_NCHW: Tensor, length: int) -> Tensor:
    """Return (B, C, D, H, W) as golden tensors have it."""
    return value_NCHW.unflatten(0, (-1, length)).transpose(1, 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_stage_matches(golden: Golden, dtype: torch.dtype) -> None:
    model = build_golden(golden, dtype)
    length = golden.config["clip_length"]
    stages = {f"scale{number}": stage for number, stage in enumerate(model.decoder.stages, start=1)}
    modules = {f"{name}.decoder_block": stage for name, stage in stages.items()}
    modules |= {f"{name}.flows": stage.keys.flow_head for name, stage in stages.items()}
    modules |= {f"{name}.fused_keyframe_features": stage.keys for name, stage in stages.items()}
    modules[f"scale{len(stages) + 1}.flows"] = model.decoder.head.keys.flow_head
    modules["rgb_head"] = model.decoder
    seen = record_outputs(modules | {"stem": model.stem})
    model.decoder.stages[0].register_forward_pre_hook(
        lambda _module, inputs: seen.__setitem__("normalised_input", inputs[0])
    )
    clips = [model.layout.clip(number) for number in golden["input/clip_index"].tolist()]
    time_NF = torch.cat([model.encode_clip_times(clip, 0.0) for clip in clips])
    distance_N = torch.tensor([clip.distances() for clip in clips], dtype=torch.float64)
    assert torch.equal(distance_N, golden["input/backward_distance"])
    keyframe_KCHW = golden["input/keyframes_normalised"].transpose(1, 2).flatten(0, 1)
    maps = model.pyramid(keyframe_KCHW.to(dtype))
    shift_B = torch.zeros(len(clips), dtype=dtype)
    rgb_NCHW = model.decode_clips(time_NF.to(dtype), maps, distance_N.flatten().to(dtype), shift_B)
    found = {name: by_clip(value, length) for name, value in seen.items() if name != "stem"}
    for name, value in found.items():
        if "fused" in name:
            found[name] = value[:1, :6]
    found["stem"] = seen["stem"].unflatten(0, (-1, length)).transpose(1, 2)
    found["position_encoding"] = time_NF.unflatten(0, (-1, length)).transpose(1, 2).to(dtype)
    found["keyframe_features.scale1"] = by_clip(maps[0], 2)[:1, :6]
    assert {f"stage/{name}" for name in found} == {key for key in golden.tensors if key.startswith("stage/")}
    for name, value in found.items():
        golden.check(f"stage/{name}", value)
    golden.check("output/clips", by_clip(rgb_NCHW, length))


def test_frames_asked_for_match(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way from coded frames: which clip, which keyframes, normalisation."""
    model = build_golden(golden, torch.float32)
    mean, std = (torch.tensor(golden.config[name]).view(1, 3, 1, 1, 1) for name in ("mean", "std"))
    raw_B3KHW = (golden["input/keyframes_normalised"] * std + mean) * 255
    rgb_B3KHW = raw_B3KHW.round()
    assert (rgb_B3KHW - raw_B3KHW).abs().max() < 1e-3
    coded = [model.layout.clip(number).keyframes for number in golden["input/clip_index"].tolist()]
    images: dict[int, Tensor] = {}
    for keys, rgb_3KHW in zip(coded, rgb_B3KHW, strict=True):
        for place, key in enumerate(keys):
            assert torch.equal(images.setdefault(key, rgb_3KHW[:, place]), rgb_3KHW[:, place])
    monkeypatch.setattr(model.keyframes, "read", lambda number: images[number].to(torch.uint8))
    real_BD = golden["input/frame_mask"].bool()
    rgb_NCHW = decoded(model, (golden["input/frame_number_one_based"] - 1)[real_BD].tolist())
    expected_NCHW = golden["output/clips"].transpose(1, 2)[real_BD]
    assert (rgb_NCHW - expected_NCHW).abs().max() <= 10 * golden.spread["output/clips"]


# -- sizes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes(size: str) -> None:
    first, total, keyframe_megabits, ratio, megabits, bpp = PUBLISHED[size]
    preset = load_preset(f"dnerv_diverse-{size}")
    config = validate_architecture(DNeRVDiverse, preset.architecture)
    widths = [first, 2 * first]
    for stride in config.strides[1:]:
        widths.append(max(round(widths[-1] / stride), 32))
    assert config.widths == tuple(widths)
    paper = preset.paper
    video = VideoSpec(paper.num_frames, paper.height, paper.width)
    model = DNeRVDiverse.on_meta(config, video)
    assert model.num_stored() == total
    assert model.stem_grid == (4, 5)
    assert model.coded_size() == (paper.height, paper.width)
    # The published bits are those of this many numbers, up to the digits printed; of UCF101 M it is F = 280.
    if size != "ucf101-m":
        bits = total * 8 * ratio / 1e6 + keyframe_megabits
        assert bits == pytest.approx(megabits, abs=0.0005 * 8 * total / 1e6 + 0.1)
        assert bits * 1e6 / video.num_pixels == pytest.approx(bpp, abs=1e-4)


def test_parts_of_a_published_size() -> None:
    config = validate_architecture(DNeRVDiverse, load_preset("dnerv_diverse-uvg-m").architecture)
    model = DNeRVDiverse.on_meta(config, VideoSpec(3900, 1024, 1920))
    parts: dict[str, int] = {}
    for name, value in model.named_parameters():
        part = next(word for word in (*PARTS, "") if word in name)
        parts[part] = parts.get(part, 0) + value.numel()
    assert parts == PARTS


# Of UVG M, by what their names contain.
PARTS = {
    "stem": 2_431_652,
    "pyramid": 133_184,
    "flow_head": 89_458,
    "fusion_conv": 139_750,
    "temporal_map": 59_760,
    "upsample": 21_343_400,
    "head.convs": 507,
}


def test_the_baseline_is_nerv() -> None:
    for first, millions in ((465, 87.97), (510, 105.29), (562, 127.19)):
        widths = [first, 2 * first]
        for _ in range(4):
            widths.append(round(widths[-1] / 2))
        config = NeRVConfig(strides=(4, 2, 2, 2, 2), widths=widths, stem_widths=(512,), levels=240)
        assert NeRV.on_meta(config, VideoSpec(1, 256, 320)).num_stored() / 1e6 == pytest.approx(
            millions, abs=0.006
        )


@pytest.mark.parametrize("size", ["uvg-s", "ucf101-l"])
def test_published_recipes(size: str) -> None:
    published = load_preset(f"dnerv_diverse-{size}", ["fit.recipe=paper"]).fit
    common = load_preset("dnerv_diverse", ["fit.recipe=paper"]).fit
    assert published.loss == ({"l1": 0.7, "ssim": 0.3} if size == "uvg-s" else {"l2": 1.0, "ssim": 0.03})
    assert published.epochs == (1600 if size == "uvg-s" else 800)
    assert published.patches == ((4, 6) if size == "uvg-s" else (1, 1))
    for name in ("optimizer", "learning_rate", "betas", "weight_decay", "schedule", "precision", "seed"):
        assert getattr(published, name) == getattr(common, name)


def test_a_frame_costs_its_share_of_the_clip() -> None:
    config = DNeRVDiverseConfig(strides=(2, 2), widths=(4, 6, 5), clip_length=4, levels=8)
    # The only frame of a video costs a whole clip.
    alone, shared = (count_macs(DNeRVDiverse, config, VideoSpec(count, 16, 24)) for count in (1, 40))
    assert alone == 4 * shared
    tiled = config.model_copy(update={"tile_rows": 2, "tile_cols": 3})
    assert count_macs(DNeRVDiverse, tiled, VideoSpec(40, 32, 72)) == 6 * shared


@pytest.mark.parametrize(
    ("height", "width", "num_parameters", "tiles"),
    [
        (32, 64, 20_000, (1, 1)),
        (720, 1280, 1_500_000, (3, 4)),
        (1920, 1080, 60_000, (6, 5)),
        pytest.param(160, 320, 20_000, (1, 1), marks=pytest.mark.slow),
        pytest.param(1080, 1920, 3_000_000, (5, 6), marks=pytest.mark.slow),
        pytest.param(2160, 3840, 20_000_000, (9, 12), marks=pytest.mark.slow),
    ],
)
def test_any_size_is_solved(height: int, width: int, num_parameters: int, tiles: tuple[int, int]) -> None:
    video = VideoSpec(132, height, width)
    config = solve_size(DNeRVDiverse, video, num_parameters, {})
    model = DNeRVDiverse.on_meta(config, video)
    assert abs(model.num_stored() / num_parameters - 1) < 0.01
    assert (config.tile_rows, config.tile_cols) == tiles
    padded = [length // count for length, count in zip(model.coded_size(), tiles, strict=True)]
    assert sorted(padded) <= [256, 330]
    assert all(length >= 1 for length in config.widths)


def test_large_networks_get_the_published_parts() -> None:
    config = DNeRVDiverse.configure(VideoSpec(600, 1024, 1920), width=213.0, settings={})
    published = validate_architecture(DNeRVDiverse, load_preset("dnerv_diverse-uvg-m").architecture)
    kept = ("stem_hidden", "key_channels", "levels", "tile_rows", "tile_cols")
    assert all(getattr(config, name) == getattr(published, name) for name in kept)
    given = {"strides": (4, 2, 2, 2, 2), "tile_rows": 4, "tile_cols": 6, "keyframe_quality": 40}
    given |= {"keyframe_group": 1}
    assert DNeRVDiverse.configure(VideoSpec(600, 1024, 1920), width=213.0, settings=given) == published


def test_learned_keyframes_stay_within_their_share() -> None:
    for num_frames in (8, 300, 5000):
        video = VideoSpec(num_frames, 160, 320)
        config = DNeRVDiverse.configure(video, width=30.0, settings={"keyframes": "learned"})
        model = DNeRVDiverse.on_meta(config, video)
        share = model.pyramid.latent.numel() / model.num_stored()
        assert share <= 0.35 or config.learned_channels == 1
        assert config.learned_channels <= 16
    given = {"keyframes": "learned", "learned_channels": 9}
    assert DNeRVDiverse.configure(video, width=30.0, settings=given).learned_channels == 9


@pytest.mark.parametrize(
    ("video", "settings", "group"),
    [
        # 3, 18, 24, 39 keyframes; 3 in each of 16 spans; 5 in clips of 4 frames.
        (VideoSpec(16, 64, 64), {}, 3),
        (VideoSpec(132, 64, 64), {}, 18),
        (VideoSpec(180, 64, 64), {}, 12),
        (VideoSpec(300, 64, 64), {}, 20),
        (VideoSpec(256, 64, 64, span_lengths=(16,) * 16), {}, 16),
        (VideoSpec(16, 64, 64), {"clip_length": 4}, 5),
        (VideoSpec(16, 3, 5), {}, 3),
        (VideoSpec(16, 64, 64), {"keyframe_chroma": "4:2:0", "keyframe_quality": 70}, 3),
        (VideoSpec(16, 64, 64), {"keyframe_group": 5}, 5),
        (VideoSpec(16, 64, 64), {"keyframe_group": 1}, 1),
        # What groups cannot hold, or do not save.
        (VideoSpec(16, 64, 64), {"keyframe_chroma": "4:4:4"}, 1),
        (VideoSpec(16, 64, 64), {"keyframe_quality": 71}, 1),
        (VideoSpec(16, 64, 64), {"keyframes": "none"}, 1),
        (VideoSpec(1, 64, 64), {}, 1),
        (VideoSpec(16, 9000, 64), {}, 1),
    ],
)
def test_new_networks_have_groups_where_they_save_bytes(
    video: VideoSpec, settings: dict[str, Any], group: int
) -> None:
    config = DNeRVDiverse.configure(video, width=8.0, settings=settings)
    assert config.keyframe_group == group


def test_published_sizes_and_older_files_have_images() -> None:
    for name in presets_of("dnerv_diverse"):
        config = validate_architecture(DNeRVDiverse, load_preset(name).architecture)
        assert config.keyframe_group == 1, name
    model = small(VideoSpec(9, 16, 24))
    assert (model.keyframes.group, model.keyframes.num_parts, model.keyframes.chroma) == (1, 3, "4:4:4")


def test_groups_cost_memory_and_work_for_all_their_keyframes() -> None:
    video = VideoSpec(300, 64, 64)
    small = DNeRVDiverse.configure(video, width=8.0, settings={"keyframe_group": 1})
    costs = {}
    for group in (1, 16, 64):
        model = DNeRVDiverse.on_meta(small.model_copy(update={"keyframe_group": group}), video)
        costs[group] = measure_first_frame(model, lambda rgb_NCHW: rgb_NCHW)
    # Kept: 4 images, or two groups, of which there are no more than the 39 keyframes.
    for group, kept in ((16, 32), (64, 39)):
        assert costs[group].num_bytes - costs[1].num_bytes >= 3 * 64 * 64 * (kept - 4)
        assert costs[group].operations > costs[1].operations
    assert costs[64].num_bytes > costs[16].num_bytes


def test_a_size_is_not_looked_for_where_settings_contradict_each_other() -> None:
    both = {"keyframe_group": 8, "keyframe_chroma": "4:4:4"}
    with pytest.raises(UsageError, match=r"^architecture: keyframes in groups of 8 have colours of 4:2:0: "):
        solve_size(DNeRVDiverse, VideoSpec(16, 64, 64), 20_000, both)


def test_groups_are_decoded_like_images() -> None:
    """A network sees the same keyframes by number, whatever they are coded as: only their pixels differ."""
    images, groups = build(keyframe_quality=80), build(keyframe_group=3, keyframe_quality=80)
    assert (images.keyframes.num_parts, groups.keyframes.num_parts) == (4, 2)
    assert (decoded(images, [0, 5, 9]) - decoded(groups, [0, 5, 9])).abs().mean() < 0.02
    numbers = range(len(images.keyframes))
    groups.keyframes.read = images.keyframes.read  # type: ignore[method-assign]
    groups.keyframes.generation += 1
    assert torch.equal(decoded(images, list(numbers)), decoded(groups, list(numbers)))


# -- clips ---------------------------------------------------------------------------------------------------


def test_numbers_of_keyframes() -> None:
    for length, count in ((600, 76), (300, 39), (1, 1), (2, 2), (9, 2), (10, 3)):
        assert ClipLayout([length], 8).num_keyframes == len(set(ClipLayout([length], 8).keyframes)) == count
    assert ClipLayout(UVG_SPANS, 8).num_keyframes == 495
    assert list(ClipLayout([19, 1, 9], 8).keyframes) == [0, 8, 16, 18, 19, 20, 28]


def test_clips_of_a_video() -> None:
    layout = ClipLayout([3, 19], 8)
    assert layout.clip(0) == Clip(3, 0, 8, (0, 1))
    assert [layout.clip(number).keyframes for number in (1, 2, 3)] == [(2, 3), (3, 4), (4, 5)]
    last = layout.clip(3)
    assert last.times() == [16, 17, *[18] * 6]
    assert last.distances() == [0, 0.5, *[1.0] * 6]
    assert last.times(0.25) == [16.25, 17.25, *[18] * 6]
    assert layout.clip(2).distances() == [number / 8 for number in range(8)]
    assert layout.clip(2).distances(0.5)[0] == 1 / 16


def test_a_lone_last_frame_is_both_keyframes() -> None:
    layout = ClipLayout([9], 4)
    assert layout.clip(2) == Clip(9, 8, 4, (2, 2))
    assert layout.clip(2).distances() == [0.0] * 4


def test_frames_of_a_clip_share_a_number() -> None:
    layout = ClipLayout([3, 19, 8], 8)
    expected = [0] * 3 + [1] * 8 + [2] * 8 + [3] * 3 + [4] * 8
    assert layout.group_of(torch.arange(30)).tolist() == expected
    for index, number in enumerate(expected):
        found, place, shift = layout.locate(float(index))
        assert (found, shift) == (number, 0.0)
        assert layout.clip(found).times()[place] == index - [0, 3, 22][(index >= 3) + (index >= 22)]


def test_times_stay_in_their_video() -> None:
    layout = ClipLayout([3, 19], 8)
    assert layout.locate(1.25) == (0, 1, 0.25)
    assert layout.locate(2.5) == (0, 2, 0.0)  # not on the way to the next video
    assert layout.locate(3.5) == (1, 0, 0.5)
    assert layout.locate(-1.0) == (0, 0, 0.0)
    assert layout.locate(99.0) == (3, 2, 0.0)


def test_batches_hold_whole_clips() -> None:
    model = small(VideoSpec(19, 8, 8, span_lengths=(12, 7)))
    frame_N = torch.arange(19)
    batches = Batches(frame_N, model.group_of(frame_N), FitSettings(batch_size=2), (8, 8))
    found = [sorted(sample_N.tolist()) for batch in batches.of_epoch(0) for sample_N, _ in batch]
    clips = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15], [16, 17, 18]]
    assert all(any(sorted(a + b) == batch for a in clips for b in clips if a != b) for batch in found)


# -- layers --------------------------------------------------------------------------------------------------


def test_no_flow_leaves_maps_in_place() -> None:
    fusion = WarpFusion(6, flow=True).double()
    nn.init.zeros_(fusion.flow_head[2].weight)
    nn.init.zeros_(fusion.flow_head[2].bias)
    map_B2CHW = torch.rand(2, 2, 5, 7, 9, dtype=torch.float64)
    feature_NCHW, distance_N = (
        torch.rand(8, 6, 7, 9, dtype=torch.float64),
        torch.tensor([0, 0.25, 0.5, 1] * 2),
    )
    plain = WarpFusion(6, flow=False)
    mixed_NCHW = plain(feature_NCHW, map_B2CHW, distance_N)
    assert (fusion(feature_NCHW, map_B2CHW, distance_N) - mixed_NCHW).abs().max() < 1e-12
    assert torch.equal(mixed_NCHW[[0, 4]], map_B2CHW[:, 0])
    assert torch.equal(mixed_NCHW[[3, 7]], map_B2CHW[:, 1])
    assert torch.allclose(mixed_NCHW[5], 0.75 * map_B2CHW[1, 0] + 0.25 * map_B2CHW[1, 1])


def test_flows_count_pixels_right_and_down() -> None:
    fusion = WarpFusion(6, flow=True).double()
    nn.init.zeros_(fusion.flow_head[2].weight)
    with torch.no_grad():  # (dx, dy) to the start, then to the end keyframe
        fusion.flow_head[2].bias.copy_(torch.tensor([2.0, 0.0, 0.0, 1.0]))
    map_B2CHW = torch.rand(1, 2, 5, 7, 9, dtype=torch.float64)
    feature_NCHW = torch.rand(2, 6, 7, 9, dtype=torch.float64)
    found_NCHW = fusion(feature_NCHW, map_B2CHW, torch.tensor([0.0, 1.0]))
    assert (found_NCHW[0, ..., :-2] - map_B2CHW[0, 0, ..., 2:]).abs().max() < 1e-12
    assert (found_NCHW[1, :, :-1] - map_B2CHW[0, 1, :, 1:]).abs().max() < 1e-12
    assert (found_NCHW[0, ..., -1] - map_B2CHW[0, 0, ..., -1]).abs().max() < 1e-12


def test_at_the_start_only_the_start_keyframe_counts() -> None:
    fusion = WarpFusion(6, flow=True)
    map_B2CHW = torch.rand(1, 2, 5, 7, 9, requires_grad=True)
    fusion(torch.rand(3, 6, 7, 9), map_B2CHW, torch.zeros(3)).sum().backward()
    assert map_B2CHW.grad[:, 0].abs().max() > 0
    assert map_B2CHW.grad[:, 1].abs().max() == 0


def test_temporal_maps_mix_frames_of_one_channel() -> None:
    layer = TemporalMap(3, 4)
    feature_NCHW = torch.randn(8, 3, 5, 6)
    found_NCHW = layer(feature_NCHW)
    # As the grouped convolution over channels times frames that it is.
    stacked = feature_NCHW.view(2, 4, 3, 5, 6).transpose(1, 2).reshape(2, 12, 5, 6)
    weight = layer.weight.reshape(12, 4, 1, 1)
    expected = stacked + F.conv2d(stacked, weight, layer.bias, groups=3)
    expected_NCHW = expected.view(2, 3, 4, 5, 6).transpose(1, 2).flatten(0, 1)
    assert torch.allclose(found_NCHW, expected_NCHW, atol=1e-6)
    changed_NCHW = feature_NCHW.clone()
    changed_NCHW[1, 0, 2, 3] += 1
    change_NCHW = (layer(changed_NCHW) - found_NCHW).abs()
    assert bool((change_NCHW[:4, 0, 2, 3] > 0).all())
    change_NCHW[:4, 0, 2, 3] = 0
    assert change_NCHW.max() == 0


def test_maps_are_stretched_as_images_are() -> None:
    map_B2CHW = torch.rand(2, 2, 3, 1, 1)
    line_BC2 = map_B2CHW[..., 0, 0].transpose(1, 2)
    expected_BCD = F.interpolate(line_BC2, size=8, mode="linear", align_corners=False)
    found_NCHW = stretch_in_time(map_B2CHW, 8, torch.zeros(2))
    assert torch.allclose(found_NCHW[..., 0, 0].view(2, 8, 3).transpose(1, 2), expected_BCD)
    later_NCHW = stretch_in_time(map_B2CHW, 8, torch.ones(2))
    assert torch.allclose(later_NCHW.view(2, 8, 3)[:, :-1], found_NCHW.view(2, 8, 3)[:, 1:])


def test_maps_have_the_sizes_of_the_stages() -> None:
    model = DNeRVDiverse.on_meta(DNeRVDiverseConfig(widths=(8, 16, 8, 8, 8, 8)), VideoSpec(8, 256, 320))
    maps = model.encode_keyframes(torch.empty(2, 3, 256, 320, device="meta"))
    sizes = [(4, 5), (16, 20), (32, 40), (64, 80), (128, 160), (256, 320)]
    assert [tuple(item.shape[2:]) for item in maps] == sizes
    assert [item.shape[1] for item in maps] == [64] * 5 + [3]
    seen = record_outputs({str(number): stage for number, stage in enumerate(model.decoder.stages)})
    model(Query.of_frames(torch.tensor([0])))
    assert [tuple(item.shape[2:]) for item in seen.values()] == sizes[1:]


def test_initial_values() -> None:
    model = small(VideoSpec(4, 8, 8))
    for stage in model.decoder.stages:
        for conv in (stage.fusion_conv, stage.upsample.conv):
            fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(conv.weight)
            bound = (6 / (fan_in + fan_out)) ** 0.5
            assert 0.8 * bound < conv.weight.abs().max() <= bound
            assert conv.bias.abs().max() == 0
        assert 0.4 < stage.temporal_map.weight.abs().max() <= 0.5
        assert stage.keys.flow_head[2].bias.abs().max() > 0


# -- the network ---------------------------------------------------------------------------------------------


def small(video: VideoSpec, clip: MemoryClip | None = None, **settings: Any) -> DNeRVDiverse:
    """Return a float64 network with clips of 4 frames, and the keyframes of ``clip``."""
    plain = {
        "strides": (2, 2),
        "widths": (4, 6, 5),
        "clip_length": 4,
        "stem_hidden": 16,
        "key_channels": 6,
        "levels": 8,
    }
    torch.manual_seed(3)
    model = DNeRVDiverse(DNeRVDiverseConfig(**(plain | settings)), video).double()
    if clip is not None and model.keyframes is not None:
        model.keyframes.code(clip)
    return model


def build(num_frames: int = 10, height: int = 16, width: int = 24, **settings: Any) -> DNeRVDiverse:
    clip = moving_shapes(num_frames=num_frames, height=height, width=width)
    return small(clip.spec, clip, **settings)


def decoded(model: DNeRVDiverse, times: list[float]) -> Tensor:
    with torch.no_grad():
        return model(Query.of_frames(torch.tensor(times, dtype=torch.float64)))


@pytest.mark.parametrize("keyframes", ["coded", "learned", "none"])
def test_frames_do_not_depend_on_what_else_is_asked_for(keyframes: str) -> None:
    model = build(keyframes=keyframes, tile_rows=2, tile_cols=2)
    everything = decoded(copy.deepcopy(model), list(range(10)))
    for chosen in ([3], [9, 0], [4, 4, 8, 1]):
        assert torch.equal(decoded(copy.deepcopy(model), chosen), everything[chosen])
        assert torch.equal(decoded(model, chosen), everything[chosen])
    with torch.inference_mode():
        assert torch.equal(model(Query.of_frames(torch.tensor([7])))[0], everything[7])
    # While fitting, clips are one batch: equal up to the order of sums.
    fitted = model(Query.of_frames(torch.tensor([9, 2, 3])))
    assert fitted.requires_grad
    assert (fitted - everything[[9, 2, 3]]).abs().max() < 1e-12


def test_a_clip_is_decoded_once_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(tile_rows=2)
    calls: list[tuple[int, int]] = []
    decode = model.decode_parts

    def counted(parts: Any, images: Any) -> Tensor:
        calls.extend((part.number, part.row) for part in parts)
        return decode(parts, images)

    monkeypatch.setattr(model, "decode_parts", counted)
    for index in range(10):
        decoded(model, [index])
    assert calls == [(clip, row) for clip in range(3) for row in range(2)]


def test_few_decoded_clips_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vinr.models.layers.clips.CACHED_BYTES", 0)
    model = build(20, tile_rows=2)
    expected = decoded(model, list(range(20)))
    assert len(model.decoded_parts) == 2  # the tiles of one clip
    assert torch.equal(decoded(model, [0, 19]), expected[[0, 19]])


def test_frames_are_decoded_anew_when_anything_changed(tmp_path: Path) -> None:
    model = build()
    before = decoded(model, [1])
    with torch.no_grad():
        model.decoder.head.convs[2].bias += 0.1
    shifted = decoded(model, [1])
    assert (shifted - before).abs().max() > 0.01
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    model(Query.of_frames(torch.tensor([1]))).sum().backward()
    optimizer.step()
    stepped = decoded(model, [1])
    assert (stepped - shifted).abs().max() > 1e-3
    images = model.keyframes.coded
    model.keyframes.code(MemoryClip(255 - moving_shapes(num_frames=10, height=16, width=24).rgb_NCHW))
    inverted = decoded(model, [1])
    assert (inverted - stepped).abs().max() > 1e-4
    model.keyframes.attach(images.__getitem__)
    assert torch.equal(decoded(model, [1]), stepped)
    assert decoded(model.float(), [1]).dtype == torch.float32


def test_videos_do_not_see_each_others_keyframes() -> None:
    clip = moving_shapes(num_frames=13, height=16, width=24)
    video = VideoSpec(13, 16, 24, span_lengths=(7, 6))
    other_rgb = clip.rgb_NCHW.clone()
    other_rgb[7:] = 255 - other_rgb[7:]
    one, two = (decoded(small(video, given), list(range(13))) for given in (clip, MemoryClip(other_rgb)))
    assert torch.equal(one[:7], two[:7])
    assert (one[7:] - two[7:]).abs().amax((1, 2, 3)).min() > 1e-4


def test_only_keyframes_tell_videos_apart() -> None:
    rgb_NCHW = moving_shapes(num_frames=6, height=16, width=24).rgb_NCHW.repeat(2, 1, 1, 1)
    frames = decoded(small(VideoSpec(12, 16, 24, span_lengths=(6, 6)), MemoryClip(rgb_NCHW)), list(range(12)))
    assert torch.equal(frames[:6], frames[6:])


def test_times_between_frames() -> None:
    model = build()
    exact = decoded(model, [1.0, 2.0])
    between = decoded(model, [1.5])[0]
    assert min((between - frame).abs().max() for frame in exact) > 1e-4
    assert torch.equal(decoded(model, [9.25])[0], decoded(model, [9])[0])
    # As a network whose clips start that much later would have it.
    seen: list[tuple[Any, ...]] = []
    model.decoder.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs))
    model.stem.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs))
    fresh = copy.deepcopy(model)
    assert torch.equal(decoded(fresh, [1.5])[0], between)
    time_NF, (_, _, distance_N, shift_B) = seen[0][0], seen[1]
    assert distance_N.tolist() == [0.125, 0.375, 0.625, 0.875]
    assert shift_B.tolist() == [0.5]
    clip = model.layout.clip(0)
    assert torch.equal(time_NF, model.encode_clip_times(clip, 0.5))
    assert not torch.equal(time_NF, model.encode_clip_times(clip, 0.0))


def test_padding_repeats_edges_and_is_cut() -> None:
    clip = moving_shapes(num_frames=3, height=13, width=22)
    model = small(clip.spec, clip, tile_rows=2, tile_cols=3)
    assert model.coded_size() == (16, 24)
    tiles: list[Tensor] = []
    model.pyramid.register_forward_pre_hook(lambda _module, inputs: tiles.append(inputs[0][:1]))
    assert decoded(model, [1]).shape == (1, 3, 13, 22)
    rgb_CHW = model.keyframes.read(0).double() / 255
    whole_CHW = F.pad(rgb_CHW.unsqueeze(0), (0, 2, 0, 3), mode="replicate")
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (UVG_MEAN, UVG_STD))
    expected = cut((whole_CHW - mean) / std, PatchGrid(2, 3))
    assert (torch.cat(tiles) - expected).abs().max() < 1e-12


UVG_MEAN, UVG_STD = (0.4519, 0.4505, 0.4519), (0.2434, 0.2547, 0.2958)


def test_tiles_are_put_together_without_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a network that gives back the tiles of given frames, decoding gives back the frames."""
    model = build(6, 24, 32, tile_rows=3, tile_cols=4)
    frames_NCHW = torch.rand(6, 3, 24, 32)

    def give_back(parts: Any, images: Any) -> Tensor:
        tiles = []
        for part in parts:
            time_D = torch.tensor(model.layout.clip(part.number).times())
            row_D, col_D = torch.full((4,), part.row), torch.full((4,), part.col)
            tiles.append(cut_at(frames_NCHW, Query(time_D, row_D, col_D, model.tile_grid)))
        return torch.cat(tiles)

    monkeypatch.setattr(model, "decode_parts", give_back)
    assert torch.equal(decoded(model, [5, 0, 3]), frames_NCHW[[5, 0, 3]])
    assert torch.equal(model(Query.of_frames(torch.tensor([5, 0, 3]))), frames_NCHW[[5, 0, 3]])


def test_tiles_asked_for_are_those_of_frames() -> None:
    model = build(6, 16, 24, tile_rows=2, tile_cols=3)
    index_N = torch.tensor([1, 5])
    query = all_patches(index_N, PatchGrid(2, 3))
    with torch.no_grad():
        tiles_PCHW = model(query)
    assert torch.equal(tiles_PCHW, cut(decoded(model, [1, 5]), PatchGrid(2, 3)))
    assert (model(query) - tiles_PCHW).abs().max() < 1e-12
    model.check_patches(PatchGrid(2, 3))
    model.check_patches(PatchGrid(1, 1))


def test_tiles_have_one_network_and_their_own_keyframes() -> None:
    clip = moving_shapes(num_frames=4, height=16, width=24)
    model = small(clip.spec, clip, tile_cols=2)
    left_CHW, right_CHW = decoded(model, [1])[0].split(12, dim=-1)
    assert (left_CHW - right_CHW).abs().max() > 1e-3
    # An image made of the same tile twice gives the same tile twice.
    image_CHW = torch.cat([model.keyframes.read(0)[..., :12]] * 2, -1)
    model.keyframes.read = lambda number: image_CHW  # type: ignore[method-assign]
    model.keyframes.generation += 1
    left_CHW, right_CHW = decoded(model, [1])[0].split(12, dim=-1)
    assert torch.equal(left_CHW, right_CHW)


@pytest.mark.parametrize("num_frames", [1, 2, 5])
def test_short_videos(num_frames: int) -> None:
    model = build(num_frames)
    frames = decoded(model, list(range(num_frames)))
    assert frames.shape == (num_frames, 3, 16, 24)
    assert bool(frames.isfinite().all())
    model(Query.of_frames(torch.arange(num_frames))).sum().backward()
    assert model.stem[0].weight.grad.abs().max() > 0


def test_frames_beyond_the_end_are_not_fitted() -> None:
    model = build(9)
    model(Query.of_frames(torch.tensor([8]))).square().sum().backward()
    gradient = model.decoder.stages[-1].temporal_map.weight.grad
    assert gradient[:, 0].abs().max() > 0
    assert gradient[:, 1:].abs().max() == 0
    assert model.decoder.stages[-1].temporal_map.bias.grad.view(-1, 4)[:, 1:].abs().max() == 0


def test_colours_beyond_the_range_have_no_gradient() -> None:
    model = build(4)
    with torch.no_grad():
        model.decoder.head.convs[2].bias += 100
    rgb_NCHW = model(Query.of_frames(torch.arange(4)))
    assert rgb_NCHW.min() == rgb_NCHW.max() == 1
    rgb_NCHW.sum().backward()
    assert model.decoder.head.convs[2].bias.grad.abs().max() == 0


# -- switches ------------------------------------------------------------------------------------------------

LEARNED = {"keyframes": "learned"}
# Settings, those they are compared with, and what only the latter have.
SWITCHES = [
    ({"flow": False}, {}, "flow_head"),
    ({"temporal_map": False}, {}, "temporal_map"),
    ({"fusion": "concat"}, {}, "fusion_conv"),
    ({"scales": "coarsest"}, {}, "stages.1.keys"),
    ({"rgb_skip": False}, {}, "head.keys"),
    ({"keyframes": "none"}, {}, "keys"),
    ({"keyframes": "none"}, {}, "pyramid"),
    (LEARNED, {}, "input_conv"),
    (LEARNED | {"rgb_skip": False}, LEARNED, "pyramid.rgb"),
    (LEARNED | {"rgb_skip": False, "scales": "coarsest"}, LEARNED, "pyramid.blocks"),
]


@pytest.mark.parametrize(("change", "usual", "absent"), SWITCHES)
def test_switches_leave_out_what_they_say(change: dict[str, Any], usual: dict[str, Any], absent: str) -> None:
    clip = moving_shapes(num_frames=6, height=16, width=24)
    model = small(clip.spec, clip, **change)
    assert any(absent in name for name in small(clip.spec, **usual).stored())
    assert not any(absent in name for name in model.stored())
    rgb_NCHW = model(Query.of_frames(torch.arange(6)))
    F.mse_loss(rgb_NCHW, clip.rgb_NCHW / 255).backward()
    without = [name for name, value in model.named_parameters() if not value.grad.abs().max() > 0]
    assert without == []
    assert (model.keyframes is None) == ("keyframes" in change)


def test_without_flow_and_keyframes_in_the_features_the_head_still_sees_them() -> None:
    model = build(4, scales="coarsest", flow=False)
    before = decoded(model, [1])
    rgb_CHW = model.keyframes.read(0)
    model.keyframes.read = lambda number: rgb_CHW.flip(2)  # type: ignore[method-assign]
    model.keyframes.generation += 1
    assert (decoded(model, [1]) - before).abs().max() > 1e-3


def test_learned_keyframes_are_stored_as_keyframes() -> None:
    clip = moving_shapes(num_frames=10, height=13, width=22)
    model = small(clip.spec, keyframes="learned", tile_rows=2, tile_cols=2, learned_channels=3).float()
    roles = {name: item.role for name, item in model.stored().items()}
    assert [name for name, role in roles.items() if role == "keyframe"] == ["pyramid.latent"]
    assert model.pyramid.latent.shape == (4, 3, 2 * 2, 2 * 3)
    assert model.keyframes is None
    # A clip's keyframes are fitted by its frames alone.
    model(Query.of_frames(torch.tensor([1]))).sum().backward()
    touched = model.pyramid.latent.grad.abs().amax((1, 2, 3)) > 0
    assert touched.tolist() == [True, True, False, False]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    errors = []
    for _ in range(30):
        error = F.mse_loss(model(Query.of_frames(torch.arange(10))), clip.rgb_NCHW / 255)
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.5 * errors[0]


def test_each_tile_has_its_own_learned_latent() -> None:
    model = build(5, keyframes="learned", tile_cols=2)
    model(all_patches(torch.tensor([0]), PatchGrid(1, 2)))[1].sum().backward()
    left, right = model.pyramid.latent.grad.split(3, dim=3)
    assert left.abs().max() == 0
    assert right.abs().max() > 0


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"widths": (4, 4)}, "2 strides need 3 widths"),
        ({"strides": (16, 16, 16), "widths": (4,) * 4}, "multiply to more than 1024"),
        ({"clip_length": 1}, "greater than or equal to 2"),
        ({"clip_length": 33}, "less than or equal to 32"),
        ({"tile_rows": 0}, "greater than or equal to 1"),
        ({"tile_cols": 65}, "less than or equal to 64"),
        ({"base": 2.0}, "exceeds 1e30"),
        ({"std": (0.1, 0.0, 0.1)}, "greater than or equal to 0.01"),
        ({"mean": (0.5, 0.5)}, "mean"),
        ({"keyframe_quality": 101}, "less than or equal to 100"),
        ({"keyframe_chroma": "4:2:2"}, "4:2:0"),
        ({"keyframe_group": 0}, "greater than or equal to 1"),
        ({"keyframe_group": 65}, "less than or equal to 64"),
        ({"keyframe_group": 2, "keyframe_chroma": "4:4:4"}, "groups of 2 have colours of 4:2:0: leave"),
        ({"keyframes": "raw"}, "coded"),
        ({"learned_kernel": 2}, "odd"),
        ({"flow_loss": 1.0}, "flow_loss"),
    ],
)
def test_configurations_that_are_refused(change: dict[str, Any], complaint: str) -> None:
    good = {"strides": (2, 2), "widths": (4, 4, 4)}
    with pytest.raises(ValidationError, match=complaint):
        DNeRVDiverseConfig.model_validate(good | change)


def test_keyframes_must_be_there() -> None:
    model = small(VideoSpec(4, 16, 24))
    with pytest.raises(ValueError, match="no keyframes yet"):
        decoded(model, [0])
    assert decoded(small(VideoSpec(4, 16, 24), keyframes="none"), [0]).shape == (1, 3, 16, 24)


def test_other_patches_are_refused() -> None:
    model = build(tile_rows=2, tile_cols=2)
    with pytest.raises(ValueError, match=r"tiles of PatchGrid\(rows=2, cols=2\), not of"):
        model(all_patches(torch.tensor([0]), PatchGrid(4, 4)))
    with pytest.raises(UsageError, match=r"tiles of \[2, 2\], not 4×4: set fit.patches to \[2, 2\] or"):
        model.check_patches(PatchGrid(4, 4))


def test_a_grid_too_large_is_refused() -> None:
    config = DNeRVDiverseConfig(strides=(2,), widths=(4, 4))
    with pytest.raises(UsageError, match="more than 4096 cells; take larger strides"):
        DNeRVDiverse.on_meta(config, VideoSpec(1, 256, 256))
