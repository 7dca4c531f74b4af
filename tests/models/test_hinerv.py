"""HiNeRV: golden tensors, patches equal to whole frames, published sizes and costs, grids."""

from __future__ import annotations

import math
import re
import tomllib
from importlib import resources
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from golden_tensors import DTYPES, Golden, record_outputs
from vinr.config import load_preset
from vinr.errors import UsageError
from vinr.fit.losses import build_loss
from vinr.models import validate_architecture
from vinr.models.cost import count_macs
from vinr.models.hinerv import HiNeRV, HiNeRVConfig
from vinr.models.layers.grids import LevelGrid
from vinr.models.layers.windows import Paddings, window_paddings
from vinr.sizing.solve import solve_size
from vinr.video.patches import all_patches, join
from vinr.video.spec import PatchGrid, Query, VideoSpec

BUNNY, UVG = VideoSpec(132, 720, 1280), VideoSpec(600, 1080, 1920)
MCL_JCV = VideoSpec(150, 1080, 1920)


# -- golden tensors ------------------------------------------------------------------------------------------


def own_name(name: str) -> str:
    """Return our name of a golden weight: stages and blocks count from 0, stem and head are one layer."""
    name = re.sub(r"stage(\d+)", lambda m: f"stages.{int(m[1]) - 1}", name)
    name = re.sub(r"block(\d+)", lambda m: f"blocks.{int(m[1]) - 1}", name)
    return name.replace("stem.conv", "stem").replace("head.linear", "head")


def build(golden: Golden, dtype: torch.dtype) -> HiNeRV:
    given_ = golden.config
    config = HiNeRVConfig(**{key: given_[key] for key in HiNeRVConfig.model_fields.keys() & given_.keys()})
    model = HiNeRV(config, VideoSpec(given_["num_frames"], given_["height"], given_["width"]))
    model.load_state_dict({own_name(name): value for name, value in golden.below("weight").items()})
    return model.to(dtype)


def patch_query(golden: Golden, patch_index: Tensor) -> Query:
    grid = PatchGrid(*(golden.config[s] // p for s, p in zip(("height", "width"), golden.config["patch"])))  # noqa: B905
    frame_N, row_N, col_N = patch_index.unbind(1)
    return Query(frame_N.double(), row_N, col_N, grid)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["hinerv", "hinerv_b"])
def test_every_stage_matches(name: str, dtype: torch.dtype) -> None:
    golden = Golden(name)
    model = build(golden, dtype)
    modules = {"stem": model.stem}
    for number, stage in enumerate(model.stages, 1):
        modules |= {f"stage{number}": stage, f"stage{number}.local_tile": stage.local_encoding}
        if f"stage{number}.upsampled" in golden.stages:
            modules[f"stage{number}.upsampled"] = stage.upsample
    seen = record_outputs(modules)
    model.stem.register_forward_pre_hook(lambda _, inputs: seen.__setitem__("base_encoding", inputs[0]))
    frames = model(Query.of_frames(golden["input/frame_index"]))
    assert {f"stage/{key}" for key in seen} == {key for key in golden.tensors if key.startswith("stage/")}
    for key, value in seen.items():
        golden.check(f"stage/{key}", value)
    golden.check("output/frames", frames)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["hinerv", "hinerv_a", "hinerv_b"])
def test_frames_and_patches_match(name: str, dtype: torch.dtype) -> None:
    golden = Golden(name)
    model = build(golden, dtype)
    trained = "input/training_step.patch_index"
    key = trained if trained in golden.tensors else "input/patch_index"
    golden.check("output/frames", model(Query.of_frames(golden["input/frame_index"])))
    golden.check("output/patches", model(patch_query(golden, golden[key])))


def check_close(
    golden: Golden, name: str, value: Tensor, *, absolute: float = 0, relative: float = 0
) -> None:
    """Compare where MS-SSIM plays a part: its window is float32 in the reference, see the limits' README."""
    if value.dtype == torch.float32:
        golden.check(name, value)
        return
    assert value.shape == golden[name].shape
    torch.testing.assert_close(value.detach(), golden[name].double(), atol=absolute, rtol=relative)


@pytest.mark.parametrize("dtype", DTYPES)
def test_training_step_on_patches_matches(dtype: torch.dtype) -> None:
    golden = Golden("hinerv_a")
    model = build(golden, dtype)
    patches = model(patch_query(golden, golden["input/training_step.patch_index"]))
    target = golden["input/training_step.patches"].to(dtype)
    parts = {"l1_per_patch": "l1", "one_minus_ms_ssim_5x5_per_patch": "ms_ssim5"}
    for key, loss in parts.items():
        each = [
            build_loss({loss: 1.0})(patches[i : i + 1], target[i : i + 1]).total for i in range(len(target))
        ]
        check_close(golden, f"loss/{key}", torch.stack(each), absolute=1e-5 if loss == "ms_ssim5" else 1e-9)
    total = build_loss({"l1": 0.7, "ms_ssim5": 0.3})(patches, target).total
    total.backward()
    check_close(golden, "loss/total", total, absolute=0.3e-5)
    gradients = {name: value.grad for name, value in model.named_parameters()}
    norms = golden.below("gradient_norm")
    assert {own_name(name) for name in norms} == gradients.keys()
    for name in norms:
        check_close(golden, f"gradient_norm/{name}", gradients[own_name(name)].norm(), relative=3e-5)
    everything = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    check_close(golden, "gradient_norm_all", everything, relative=3e-5)


# -- patches -------------------------------------------------------------------------------------------------


def randomised(config: HiNeRVConfig, video: VideoSpec, *, dtype: torch.dtype = torch.float64) -> HiNeRV:
    """Return a network whose every number matters; fresh grids and biases are nearly 0 and hide mistakes."""
    model = HiNeRV(config, video).to(dtype)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(0.2 * torch.randn(value.shape, generator=generator, dtype=torch.float64))
    return model


def largest_patch_error(model: HiNeRV, grid: PatchGrid) -> float:
    index_N = torch.tensor([model.video.num_frames - 1])
    height, width = model.coded_size()
    with torch.no_grad():
        patches = model(all_patches(index_N, grid))
        joined = join(patches, grid, height=model.video.height, width=model.video.width)
        assert patches.shape[2:] == (height // grid.rows, width // grid.cols)
        return float((joined - model(Query.of_frames(index_N))).abs().max())


# Strides and blocks of every published family, and two more kernels.
FAMILIES = {
    "1080p": {"strides": (5, 3, 2, 2)},
    "720p": {"strides": (5, 2, 2, 2)},
    "xl": {"strides": (5, 3, 2, 2), "depths": (4, 4, 4, 1)},
    "xxl": {"strides": (5, 3, 2, 2), "depths": (5, 5, 5, 1)},
    "a-720p": {"strides": (5, 4, 2, 2)},
    "a-1080p": {"strides": (5, 4, 3, 2)},
    "b-720p": {"strides": (5, 4, 2, 2), "depths": (2, 1, 1, 1), "norm_before_upsampling": False},
    "b-1080p": {"strides": (5, 4, 3, 2), "depths": (2, 1, 1, 1), "norm_before_upsampling": False},
    "kernels": {"strides": (3, 1, 2), "depths": (1, 2, 1), "kernel": 5},
}
# The exact minima of padding for these.
PADDINGS = {
    "1080p": (3, 6, 6, 4, 1), "720p": (3, 7, 6, 4, 1), "xl": (3, 7, 7, 5, 1), "xxl": (4, 9, 9, 6, 1),
    "a-720p": (3, 5, 6, 4, 1), "a-1080p": (3, 5, 5, 4, 1), "b-720p": (3, 4, 3, 2, 1),
    "b-1080p": (2, 3, 2, 2, 1), "kernels": (4, 8, 6, 2),
}  # fmt: skip


def thin(family: str) -> HiNeRVConfig:
    given_ = FAMILIES[family]
    return HiNeRVConfig(**({"widths": (16, 12, 8, 6)[: len(given_["strides"])]} | given_))


@pytest.mark.parametrize("family", FAMILIES)
def test_paddings_are_the_least_ones(family: str) -> None:
    config = thin(family)
    found = window_paddings(config.strides, config.stage_depths, config.kernel, config.stem_kernel)
    assert (found.base, *found.after) == PADDINGS[family]


def some_or_slow() -> list[Any]:
    """Families of small strides; the others, whose patches are large, with -m slow."""
    usual = ("720p", "xl", "b-720p", "kernels")
    return [pytest.param(name, marks=() if name in usual else pytest.mark.slow) for name in FAMILIES]


@pytest.mark.parametrize("family", some_or_slow())
def test_every_patch_equals_its_part_of_the_frame(family: str) -> None:
    config = thin(family)
    multiple = math.prod(config.strides)
    cols = 6 if multiple <= 60 else 2  # large ones have enough rows only: it is a matter of seconds
    # The frame ends inside of the last patches.
    model = randomised(config, VideoSpec(3, 5 * multiple - 3, cols * multiple - multiple // 2))
    assert largest_patch_error(model, PatchGrid(5, cols)) < 1e-12
    assert largest_patch_error(model.float(), PatchGrid(5, cols // 2)) < 1e-5


@pytest.mark.parametrize("family", ["720p", pytest.param("b-1080p", marks=pytest.mark.slow), "kernels"])
def test_any_smaller_padding_shows(family: str) -> None:
    config = thin(family)
    multiple = math.prod(config.strides)
    model = randomised(config, VideoSpec(2, 9 * multiple, multiple))
    least = model.paddings
    smaller = [Paddings(least.base - 1, least.before, least.after)]
    for place in range(len(least.after)):
        after = tuple(padding - (place == stage) for stage, padding in enumerate(least.after))
        smaller.append(Paddings(least.base, least.before, after))
    for paddings in smaller:
        model.paddings = paddings
        # Far corners of a window count little, but a thousand times more than rounding.
        assert largest_patch_error(model, PatchGrid(9, 1)) > 1e-9, paddings


def test_patches_of_different_frames_and_places_in_one_batch() -> None:
    model = randomised(thin("720p"), VideoSpec(4, 200, 240))
    grid = PatchGrid(5, 6)
    time_N, row_N, col_N = torch.tensor([3.0, 0, 1.5]), torch.tensor([4, 0, 2]), torch.tensor([0, 5, 2])
    with torch.no_grad():
        frames = model(Query.of_frames(time_N))
        patches = model(Query(time_N.double(), row_N, col_N, grid))
    for frame, patch, row, col in zip(frames, patches, row_N.tolist(), col_N.tolist(), strict=True):
        expected = frame[:, 40 * row : 40 * row + 40, 40 * col : 40 * col + 40]
        assert (patch - expected).abs().max() < 1e-12


def test_patches_train_every_parameter_as_frames_do() -> None:
    model = randomised(thin("720p"), VideoSpec(2, 120, 160))
    index_N = torch.arange(2)
    target = torch.rand(2, 3, 120, 160, dtype=torch.float64)
    gradients = []
    for query in (Query.of_frames(index_N), all_patches(index_N, PatchGrid(3, 4))):
        rgb_NCHW = model(query)
        rgb_NCHW = rgb_NCHW if len(query) == 2 else join(rgb_NCHW, query.grid, height=120, width=160)
        (rgb_NCHW - target).square().mean().backward()
        gradients.append([value.grad.clone() for value in model.parameters()])
        model.zero_grad()
    for whole, patched in zip(*gradients, strict=True):
        assert whole.abs().max() > 0
        assert (whole - patched).abs().max() < 1e-12


@pytest.mark.parametrize(("rows", "cols"), [(4, 1), (1, 3), (10, 1)])
def test_patches_that_do_not_fit_are_refused(rows: int, cols: int) -> None:
    model = HiNeRV(thin("a-720p"), VideoSpec(1, 400, 320))
    with pytest.raises(UsageError, match=r"rows may be 1, 5, columns 1, 2, 4$"):
        model.check_patches(PatchGrid(rows, cols))
    with pytest.raises(UsageError, match="do not cut a base grid of 5×4 evenly"):
        model(all_patches(torch.tensor([0]), PatchGrid(rows, cols)))


# -- sizes and costs -----------------------------------------------------------------------------------------

# Parameters and 10⁹ multiply-accumulates of every published configuration.
PUBLISHED = {
    "xxs-bunny": (766_691, 22.92), "xs-bunny": (1_585_666, 47.04), "s-bunny": (3_249_819, 95.40),
    "a-xxs-bunny": (760_067, 18.08), "a-xs-bunny": (1_572_418, 37.02), "a-s-bunny": (3_223_323, 74.97),
    "b-xxs-bunny": (787_543, 12.08), "b-xs-bunny": (1_572_527, 23.31), "b-s-bunny": (3_250_395, 47.03),
    "s-uvg": (3_188_933, 180.57), "m-uvg": (6_489_553, 366.31), "l-uvg": (12_818_953, 715.11),
    "xl-uvg": (25_649_557, 1378.64), "xxl-uvg": (50_726_919, 2645.72),
    "a-s-uvg": (3_223_133, 120.28), "a-m-uvg": (6_557_953, 243.54), "a-l-uvg": (12_955_753, 474.83),
    "b-s-uvg": (3_222_643, 76.04), "b-m-uvg": (6_395_595, 147.55), "b-l-uvg": (13_082_963, 298.84),
    "xxs-mcl-jcv": (777_203, 43.50), "xs-mcl-jcv": (1_606_482, 89.14), "s-mcl-jcv": (3_291_451, 180.59),
    "m-mcl-jcv": (6_774_549, 366.39), "l-mcl-jcv": (13_581_665, 715.33),
}  # fmt: skip


def video_of(size: str) -> VideoSpec:
    return {"bunny": BUNNY, "uvg": UVG, "jcv": MCL_JCV}[size.rpartition("-")[2]]


def config_of(size: str) -> HiNeRVConfig:
    config = validate_architecture(HiNeRV, load_preset(f"hinerv-{size}").architecture)
    assert isinstance(config, HiNeRVConfig)
    return config


def macs_by_formula(config: HiNeRVConfig, video: VideoSpec) -> tuple[int, int]:
    """Return the multiply-accumulates of a frame in convolutions and blocks, and of the local encodings."""
    multiple = math.prod(config.strides)
    pixels = -(-video.height // multiple) * -(-video.width // multiple)
    base = sum(config.base_grid_channels << level for level in range(config.base_grid_levels))
    total = pixels * 9 * base * config.widths[0]
    local = 0
    for stage, (before, after) in enumerate(pairwise((config.widths[0], *config.widths))):
        pixels *= config.strides[stage] ** 2
        channels = sum(config.stage_grid_channels[stage] << level for level in range(3))
        local += config.strides[stage] ** 2 * channels * before
        hidden = int(after * config.stage_expansions[stage])
        for width in [before] + [after] * (config.stage_depths[stage] - 1):
            total += pixels * (9 * width + width * hidden + hidden * after)
    return total + pixels * config.widths[-1] * 3, local


def test_every_published_configuration_has_a_preset() -> None:
    text = resources.files("vinr").joinpath("presets", "hinerv.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["sizes"].keys() == {"tiny", "0.19m-bunny4", *PUBLISHED}


@pytest.mark.parametrize("size", PUBLISHED)
def test_parameters_and_macs_are_the_published_ones(size: str) -> None:
    config, video = config_of(size), video_of(size)
    parameters, gmacs = PUBLISHED[size]
    assert HiNeRV.on_meta(config, video).num_stored() == parameters
    network, local = macs_by_formula(config, video)
    assert count_macs(HiNeRV, config, video) == network + local
    assert (network + local) / 1e9 == pytest.approx(gmacs, abs=0.0051)  # the table has two digits


def test_a_shorter_clip_has_smaller_local_grids() -> None:
    assert HiNeRV.on_meta(config_of("s-uvg"), VideoSpec(300, 1080, 1920)).num_stored() == 3_075_533


@pytest.mark.parametrize(
    ("size", "base", "local", "network"),
    [
        ("s-bunny", 368_640, 233_286, 2_647_893),
        ("s-uvg", 345_600, 240_800, 2_602_533),
        ("l-uvg", 1_382_400, 998_220, 10_438_333),
    ],
)
def test_where_the_numbers_are(size: str, base: int, local: int, network: int) -> None:
    stored = HiNeRV.on_meta(config_of(size), video_of(size)).stored()
    counts = {"base": 0, "local": 0, "network": 0}
    for name, item in stored.items():
        part = "base" if name.startswith("base_grid") else "local" if "local_encoding" in name else "network"
        counts[part] += item.value.numel()
        assert (item.role == "grid") == (re.search(r"\.level\d$", name) is not None)
    assert counts == {"base": base, "local": local, "network": network}


def test_layers_of_the_smallest_bunny_size() -> None:
    stored = HiNeRV.on_meta(config_of("xxs-bunny"), BUNNY).stored()
    shapes = {name: tuple(item.value.shape) for name, item in stored.items()}
    expected = {
        "base_grid.level0": (23040, 2),
        "base_grid.level1": (11520, 4),
        "stem.weight": (136, 6, 3, 3),
        "stem.bias": (136,),
        "stages.0.local_encoding.grid.level0": (132, 100),
        "stages.0.local_encoding.grid.level1": (66, 200),
        "stages.0.local_encoding.grid.level2": (33, 400),
        "stages.0.local_encoding.linear.weight": (136, 28),
        "stages.0.local_encoding.linear.bias": (136,),
        "stages.1.blocks.0.depthwise_conv.weight": (136, 1, 3, 3),
        "stages.1.blocks.0.fc1.weight": (272, 136),
        "stages.1.blocks.0.fc2.weight": (68, 272),
        "stages.3.local_encoding.grid.level2": (33, 16),
        "stages.3.blocks.0.fc1.weight": (17, 34),
        "stages.3.blocks.0.fc2.weight": (17, 17),
        "head.weight": (3, 17),
        "head.bias": (3,),
    }
    assert {name: shapes[name] for name in expected} == expected
    assert not any("norm" in name for name in shapes)


# -- any video -----------------------------------------------------------------------------------------------


@pytest.mark.slow  # tests/models/test_sizing.py asks for sizes of every model
@settings(max_examples=3)
@given(st.integers(1, 700), st.integers(16, 1200), st.integers(16, 2000), st.floats(1.05, 60), st.booleans())
def test_any_size_of_any_video_is_met(
    num_frames: int, height: int, width: int, times: float, fixed_blocks: bool
) -> None:
    video = VideoSpec(num_frames, height, width)
    fixed = {"norm_before_upsampling": False, "local_grid_levels": 2} if fixed_blocks else {}
    smallest = HiNeRV.on_meta(HiNeRV.configure(video, width=0.25, settings=fixed), video).num_stored()
    target = int(times * smallest)
    config = solve_size(HiNeRV, video, target, fixed)
    assert abs(HiNeRV.on_meta(config, video).num_stored() - target) <= 0.02 * target
    assert {name: getattr(config, name) for name in fixed} == fixed


def test_usual_videos_get_the_strides_of_variant_a() -> None:
    for video, strides in ((BUNNY, (5, 4, 2, 2)), (UVG, (5, 4, 3, 2))):
        assert HiNeRV.configure(video, width=100, settings={}).strides == strides


def test_grids_take_their_share_and_shrink_for_long_videos() -> None:
    for video in (BUNNY, UVG, VideoSpec(20_000, 360, 640)):
        config = solve_size(HiNeRV, video, 1_500_000, {})
        stored = HiNeRV.on_meta(config, video).stored().values()
        grids = sum(item.value.numel() for item in stored if item.role == "grid")
        assert 0.1 < grids / 1_500_000 < 0.25


@settings(max_examples=12)
@given(st.integers(1, 5), st.integers(1, 41), st.integers(1, 41), st.integers(1, 7))
def test_odd_sizes_and_single_frames_decode(num_frames: int, height: int, width: int, steps: int) -> None:
    config = HiNeRVConfig(strides=(3, 2), widths=(4, 3), base_grid_frames=steps, local_grid_frames=steps)
    model = HiNeRV(config, VideoSpec(num_frames, height, width))
    rgb_NCHW = model(Query.of_frames(torch.arange(num_frames)))
    assert rgb_NCHW.shape == (num_frames, 3, height, width)
    assert model.coded_size() == (-(-height // 6) * 6, -(-width // 6) * 6)


# -- grids ---------------------------------------------------------------------------------------------------


def test_grids_are_read_at_the_middle_of_their_steps() -> None:
    grid = LevelGrid(8, 4, levels=2, channels=1)
    with torch.no_grad():
        grid.level0.copy_(torch.tensor([[0.0], [10], [20], [30]]))
        grid.level1.copy_(torch.tensor([[0.0, 1], [100, 3]]))
    time_N = torch.tensor([0.0, 0.5, 1, 2.5, 3.5, 7, 9], dtype=torch.float64)
    found = grid(time_N, torch.zeros(len(time_N), 1, dtype=torch.int64)).squeeze(1)
    # A step of level 0 covers two frames and lies at 0.5, 2.5, 4.5 or 6.5; those of level 1 at 1.5 and 5.5.
    assert found[:, 0].tolist() == [0, 0, 2.5, 10, 15, 30, 30]
    assert found[:, 1].tolist() == [0, 0, 0, 25, 50, 100, 100]
    assert found[:, 2].tolist() == [1, 1, 1, 1.5, 2, 3, 3]


def test_one_step_a_frame_is_looked_up() -> None:
    grid = LevelGrid(132, 132, levels=1, channels=3)
    found = grid(torch.arange(132, dtype=torch.float64), torch.zeros(132, 1, dtype=torch.int64))
    assert torch.equal(found.squeeze(1), grid.level0)


def test_levels_halve_time_and_never_vanish() -> None:
    shapes = [tuple(value.shape) for value in LevelGrid(125, 125, levels=3, channels=2).parameters()]
    assert shapes == [(125, 2), (62, 4), (31, 8)]
    shapes = [tuple(value.shape) for value in LevelGrid(1, 1, levels=3, channels=2).parameters()]
    assert shapes == [(1, 2), (1, 4), (1, 8)]


def test_the_local_encoding_repeats_over_the_frame_and_changes_with_time() -> None:
    config = HiNeRVConfig(strides=(3, 2), widths=(8, 6), norm_before_upsampling=False)
    model = HiNeRV(config, VideoSpec(5, 24, 36)).double()
    with torch.no_grad():
        for name, value in model.named_parameters():
            # Only the second stage's encoding speaks; its blocks' convolutions look at their own pixel.
            value.normal_() if "stages.1" in name or "head" in name else value.zero_()
        kernel = model.stages[1].blocks[0].depthwise_conv.weight
        kernel[:, :, 0], kernel[:, :, 2], kernel[..., 0], kernel[..., 2] = 0, 0, 0, 0
        rgb_NCHW = model(Query.of_frames(torch.arange(5)))
    tile_NCHW = rgb_NCHW[..., :2, :2]
    assert torch.allclose(rgb_NCHW, tile_NCHW.repeat(1, 1, 12, 18), atol=1e-12)
    assert (tile_NCHW[..., 0, 0] - tile_NCHW[..., 1, 1]).abs().max() > 1e-3
    assert (tile_NCHW[0] - tile_NCHW[4]).abs().max() > 1e-3


def test_fresh_networks_start_as_published() -> None:
    model = HiNeRV(HiNeRVConfig(strides=(2, 2), widths=(16, 8)), VideoSpec(4, 32, 32))
    for name, item in model.stored().items():
        if item.role == "grid":
            assert 9e-4 < item.value.abs().max() <= 1e-3, name
        elif item.role == "bias":
            assert item.value.abs().max() == 0, name
        else:
            bound = item.value[0].numel() ** -0.5
            assert 0.5 * bound < item.value.abs().max() <= bound, name


class _Watch(TorchDispatchMode):
    """Notes the largest tensor of each data type that appears."""

    def __init__(self) -> None:
        super().__init__()
        self.largest: dict[torch.dtype, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self.largest[value.dtype] = max(self.largest.get(value.dtype, 0), value.numel())
        return result


def test_decoding_1080p_keeps_positions_small() -> None:
    config = config_of("s-uvg")
    model = HiNeRV.on_meta(config, UVG)
    with torch.no_grad(), _Watch() as watch:
        model(Query.of_frames(torch.tensor([7])))
    assert watch.largest.pop(torch.float32) <= max(280 * 4 * 90 * 160, 4 * 70 * 540 * 960, 70 * 1080 * 1920)
    # Times are float64, grid positions int64; neither grows with the frame.
    assert watch.largest[torch.float64] <= 16
    assert max(watch.largest.values()) <= 18 * 32


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"widths": (4, 4, 4)}, "2 strides need as many widths, got 3"),
        ({"depths": (1,)}, "2 strides need as many depths, got 1"),
        ({"expansions": (1.0, 2.0, 3.0)}, "2 strides need as many expansions, got 3"),
        ({"strides": (16, 16, 16), "widths": (4,) * 3}, "multiply to more than 1024"),
        ({"strides": (2,) * 9, "widths": (4,) * 9}, "at most 8"),
        ({"widths": (4, 2)}, "greater than or equal to 3"),
        ({"widths": (5000, 4)}, "less than or equal to 4096"),
        ({"depths": (17, 1)}, "less than or equal to 16"),
        ({"expansions": (17.0, 1.0)}, "less than or equal to 16"),
        ({"kernel": 4}, "odd"),
        ({"stem_kernel": 2}, "odd"),
        ({"base_grid_channels": 4096}, "base grid: 8192 channels"),
        ({"local_grid_channels": 1025}, "local grid: 4100 channels"),
        ({"base_grid_levels": 9}, "less than or equal to 8"),
        ({"base_grid_frames": 65_537}, "less than or equal to 65536"),
        ({"local_grid_frames": 0}, "greater than or equal to 1"),
        ({"dropout": 0.1}, "dropout"),
    ],
)
def test_configurations_that_are_refused(change: dict[str, Any], complaint: str) -> None:
    good = {"strides": (2, 2), "widths": (4, 4)}
    with pytest.raises(ValidationError, match=complaint):
        HiNeRVConfig.model_validate(good | change)
