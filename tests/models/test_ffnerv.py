from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from clips import MemoryClip, moving_shapes
from golden_tensors import DTYPES, Golden, record_outputs
from model_checks import (
    TWO_STAGES,
    check_patches_are_refused,
    check_refused,
    check_solved,
    check_stages,
    golden_settings,
    golden_video,
    preset_model,
    preset_on_meta,
)
from vinr.config import load_preset
from vinr.fit import Event, RoundDone, fit
from vinr.models.cost import describe_size
from vinr.models.ffnerv import FFNeRV, FFNeRVConfig, tanh_floor
from vinr.models.layers.flow import Evaluation, FlowGuide, FrameBuffer, flow_stage
from vinr.models.layers.grids import TemporalGrids
from vinr.models.layers.warp import warp
from vinr.sizing.solve import solve_size
from vinr.state.tensorfile import read_tensors
from vinr.video.spec import BitDepth, Query, VideoSpec

FIXTURES = pytest.mark.parametrize("name", ["ffnerv", "ffnerv_compact"])


def own_name(name: str) -> str:
    """Return our name of a golden weight: stages count from 0."""
    name = re.sub(r"decoder\.stage(\d+)", lambda m: f"network.blocks.{int(m[1]) - 1}", name)
    name = name.replace("temporal_grid", "network.grids")
    return name.replace("flow_head.conv", "network.heads.flow").replace(
        "frame_head.conv", "network.heads.frame"
    )


def build(golden: Golden, dtype: torch.dtype, **settings: object) -> FFNeRV:
    bits = golden.config["bits"]
    same = ("strides", "widths", "grid_frames", "block", "activation", "output")
    config = FFNeRVConfig(
        **golden_settings(golden, *same, neighbours="neighbour_offsets"),
        weight_bits=None if bits == 32 else bits,
        **settings,
    )
    model = FFNeRV(config, golden_video(golden))
    model.load_state_dict({own_name(name): value for name, value in golden.below("weight").items()})
    return model.to(dtype)


def frames(model: FFNeRV, index: Sequence[int]) -> Tensor:
    with torch.no_grad():
        return model(Query.of_frames(torch.tensor(index)))


# -- golden tensors ------------------------------------------------------------------------------------------


@FIXTURES
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_stage_matches(name: str, dtype: torch.dtype) -> None:
    golden = Golden(name)
    model = build(golden, dtype, warp_align_corners=False)
    network, time_N = model.network, golden["input/frame_index"].double()
    modules = {f"decoder.stage{n + 1}": block for n, block in enumerate(network.blocks)}
    recorded = record_outputs(
        modules | {"temporal_features": network.grids, "flows_and_logits": network.heads.flow}
    )
    own = model.evaluate(time_N)
    seen = dict(recorded)  # before neighbours are evaluated
    seen["independent_frame_and_blend_logits"] = torch.cat([own.rgb_NCHW, own.blend_NCHW], 1)
    num_near, size = len(model.config.neighbours), own.rgb_NCHW.shape[-2:]
    near_NACHW = model.guide.evaluate_neighbours(
        time_N.tolist(), own, lambda time: model.evaluate(torch.tensor([time], dtype=torch.float64))
    )
    flow_NCHW = torch.nn.functional.interpolate(
        own.flow_NCHW[:1, : 2 * num_near], size, mode="bilinear", align_corners=False
    )
    _, scale = flow_stage(model.config.strides)
    flow_ACHW = scale * flow_NCHW.view(num_near, 2, *size)
    seen["warped_neighbours"] = warp(near_NACHW[0], flow_ACHW, align_corners=False)
    check_stages(golden, seen)
    golden.check("output/independent_frames", own.rgb_NCHW)
    final_NCHW, aggregated_NCHW = model.guide.combine(own, near_NACHW)
    golden.check("output/aggregated_frames", aggregated_NCHW)
    golden.check("output/frames", final_NCHW)


@FIXTURES
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("align", "output"), [(False, "output/frames"), (True, "output/frames_corner_aligned_warp")]
)
def test_decoded_frames_match(name: str, dtype: torch.dtype, align: bool, output: str) -> None:
    golden = Golden(name)
    model = build(golden, dtype, warp_align_corners=align)
    index = golden["input/frame_index"].tolist()
    golden.check(output, frames(model, index))
    golden.check(output, model(Query.of_frames(torch.tensor(index))))


@FIXTURES
def test_half_precision_neighbours_match(name: str) -> None:
    golden = Golden(name)
    model = build(golden, torch.float64, warp_align_corners=False)
    time_N = golden["input/frame_index"].double()
    own = model.evaluate(time_N)
    near_NACHW = model.guide.evaluate_neighbours(
        time_N.tolist(), own, lambda time: model.evaluate(torch.tensor([time], dtype=torch.float64))
    )
    final_NCHW, _ = model.guide.combine(own, near_NACHW.half())
    golden.check("output/frames_half_precision_buffer", final_NCHW)


def test_quantised_numbers_match() -> None:
    golden = Golden("ffnerv_compact")
    bits = golden.config["bits"]
    for key, codes in golden.below("quantised_codes").items():
        value = tanh_floor(golden[f"weight/{key}"].double(), bits) * (2 ** (bits - 1) - 1)
        assert torch.equal(value, codes.double()), key


def test_the_cut_has_the_gradient_of_tanh() -> None:
    value = torch.tensor([-2.0, -0.3, 0.0, 0.7], dtype=torch.float64, requires_grad=True)
    tanh_floor(value, 4).sum().backward()
    assert value.grad is not None
    assert torch.allclose(value.grad, 1 - torch.tanh(value.detach()) ** 2)


# -- sizes ---------------------------------------------------------------------------------------------------

LAYERS = {
    "12.4m-720p": [
        359_424, 718_848, 1_437_696, 2_875_392,
        5_479_500, 539_520, 332_160, 332_160, 332_160, 485, 1_164,
    ],
    "11.3m-1080p": [
        1_036_800, 2_073_600, 4_156_800, 748_224, 2_987_712, 83_328, 147_840, 20_928, 37_056, 5_280, 9_312,
        125, 1_164,
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("size", "total", "gmacs"), [("12.4m-720p", 12_408_509, 103.6), ("11.3m-1080p", 11_308_169, 36.8)]
)
def test_layers_of_the_published_sizes(size: str, total: int, gmacs: float) -> None:
    model = preset_on_meta(f"ffnerv-{size}")
    layers: dict[str, int] = {}
    for name, item in model.stored().items():
        layer = re.sub(r"\.(weight|bias)$", "", name)
        layers[layer] = layers.get(layer, 0) + item.value.numel()
    assert list(layers.values()) == LAYERS[size]
    assert model.num_stored() == total
    assert {item.role for name, item in model.stored().items() if "grids" in name} == {"grid"}
    assert describe_size(FFNeRV, model.config, model.video).macs / 1e9 == pytest.approx(gmacs, abs=0.05)


def test_macs_count_a_frame_once() -> None:
    config = FFNeRVConfig(strides=(2, 2), widths=(4, 4, 4), grid_frames=(2,))
    alone = FFNeRVConfig(strides=(2, 2), widths=(4, 4, 4), grid_frames=(2,), neighbours=())
    video = VideoSpec(9, 16, 16)
    with_heads = describe_size(FFNeRV, config, video).macs
    # Two blend logits at full size, and twelve maps at half of it.
    assert with_heads - describe_size(FFNeRV, alone, video).macs == 2 * 4 * 256 + 12 * 4 * 64


def test_flows_are_predicted_at_a_quarter() -> None:
    assert flow_stage((5, 2, 2, 2, 2)) == (3, 4)
    assert flow_stage((5, 3, 2, 2, 2)) == (3, 4)
    assert flow_stage((5, 4, 2, 2)) == (2, 4)
    assert flow_stage((5, 4, 3, 2)) == (3, 2)
    assert flow_stage((5,)) == (1, 1)


@pytest.mark.parametrize("block", ["conv", "compact"])
@pytest.mark.parametrize(
    ("num_frames", "height", "width"), [(600, 720, 1280), (60, 1080, 1920), (300, 333, 500)]
)
def test_solved_sizes(block: str, num_frames: int, height: int, width: int) -> None:
    video = VideoSpec(num_frames, height, width)
    for target in (700_000, 5_000_000):
        model = check_solved(FFNeRV, video, target, tolerance=0.02, settings={"block": block})
        assert model.config.block == block


def test_a_solved_size_is_near_the_published_one() -> None:
    config = solve_size(FFNeRV, VideoSpec(600, 720, 1280), 12_408_509, {"strides": (5, 2, 2, 2, 2)})
    assert abs(config.widths[0] - 156) <= 8
    assert config.widths[3:] == (96, 96, 96)
    assert all(
        abs(ours / theirs - 1) < 0.1
        for ours, theirs in zip(config.grid_frames, (64, 128, 256, 512), strict=True)
    )


# -- grids ---------------------------------------------------------------------------------------------------


def test_grids_are_read_between_their_maps() -> None:
    grids = TemporalGrids(8, (4, 3), channels=1, size=(1, 1)).double()
    with torch.no_grad():
        grids.level1.copy_(torch.tensor([10.0, 20.0, 40.0, 80.0]).view(4, 1, 1, 1))
        grids.level2.copy_(torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1))
    read_NF = grids(torch.tensor([0.0, 1.0, 2.0, 3.0, 6.0, 7.0, 2.5])).flatten(1)
    assert read_NF[:, 0].tolist() == [10, 15, 20, 30, 80, 80, 25]
    expected = [1, 1.375, 1.75, 2.125, 3, 3, 1.9375]
    assert read_NF[:, 1].tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("maps", [1, 7, 29, 64, 512])
def test_a_grid_of_as_many_maps_as_frames_is_a_table(maps: int) -> None:
    grids = TemporalGrids(maps, (maps,), channels=2, size=(1, 2))
    assert torch.allclose(grids(torch.arange(maps)), grids.level1, atol=1e-5)


# -- warping -------------------------------------------------------------------------------------------------


def test_zero_flow_is_the_identity() -> None:
    frame_NCHW = torch.rand(2, 3, 7, 9, dtype=torch.float64)
    zero_NCHW = torch.zeros(2, 2, 7, 9, dtype=torch.float64)
    assert torch.allclose(warp(frame_NCHW, zero_NCHW), frame_NCHW, atol=1e-12)
    off = warp(frame_NCHW, zero_NCHW, align_corners=False)
    assert not torch.allclose(off, frame_NCHW, atol=1e-2)
    assert torch.allclose(off[..., 3, 4], frame_NCHW[..., 3, 4])  # the centre alone stays


def test_flow_counts_pixels_and_edges_repeat() -> None:
    frame_NCHW = torch.rand(1, 3, 5, 6, dtype=torch.float64)
    flow_NCHW = torch.zeros(1, 2, 5, 6, dtype=torch.float64)
    flow_NCHW[:, 0], flow_NCHW[:, 1] = 2, -1
    moved = warp(frame_NCHW, flow_NCHW)
    row_H, col_W = torch.arange(5).sub(1).clamp(0), torch.arange(6).add(2).clamp(max=5)
    assert torch.allclose(moved, frame_NCHW[:, :, row_H][..., col_W], atol=1e-12)


def test_a_single_row_and_column_can_be_warped() -> None:
    frame_NCHW = torch.rand(1, 3, 1, 1)
    assert torch.allclose(warp(frame_NCHW, torch.ones(1, 2, 1, 1)), frame_NCHW)


# -- neighbours while decoding -------------------------------------------------------------------------------


@pytest.fixture
def clip() -> MemoryClip:
    return moving_shapes(num_frames=9, height=24, width=36)


def small(clip: MemoryClip, *, with_encoder: bool = True, **settings: Any) -> FFNeRV:
    config = FFNeRVConfig(strides=(3, 2, 2), widths=(8, 8, 6, 6), grid_frames=(3, 7), **settings)
    return FFNeRV(config, clip.spec, with_encoder=with_encoder)


@pytest.fixture
def counted() -> Iterator[list[float]]:
    """Times of the frames that networks evaluate."""
    times: list[float] = []
    handle = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: times.extend(inputs[0].tolist()) if isinstance(module, TemporalGrids) else None
    )
    yield times
    handle.remove()


def test_playing_in_order_evaluates_each_frame_once(clip: MemoryClip, counted: list[float]) -> None:
    model = small(clip)
    for index in range(9):
        frames(model, [index])
        assert len(model.guide.ring) <= 6
    assert sorted(counted) == list(range(9))


@pytest.mark.parametrize("oob", ["zero", "clamp"])
def test_random_access_gives_the_bits_of_playing_in_order(clip: MemoryClip, oob: str) -> None:
    model = small(clip, oob=oob)
    in_order = torch.cat([frames(model, [index]) for index in range(9)])
    for chosen in ([8, 0, 4, 4, 1], [3], [7, 6, 5]):
        assert torch.equal(frames(model, chosen), in_order[chosen])
    fresh = small(clip, oob=oob, with_encoder=False)
    fresh.restore(model.stored())
    for index in (5, 0, 8):
        assert torch.equal(frames(fresh, [index])[0], in_order[index])


def test_changed_weights_are_noticed(clip: MemoryClip) -> None:
    model = small(clip)
    before = frames(model, [4])
    with torch.no_grad():
        model.network.heads.frame.bias.add_(0.5)
    after = frames(model, [4])
    assert not torch.allclose(before, after)
    assert torch.allclose(after, model(Query.of_frames(torch.tensor([4]))), atol=1e-6)
    other = small(clip, with_encoder=False)
    frames(other, [4])
    other.restore(model.stored())
    assert torch.equal(frames(other, [4]), after)


def test_weights_made_without_version_counting_are_not_cached(clip: MemoryClip, counted: list[float]) -> None:
    with torch.inference_mode():
        model = small(clip, with_encoder=False)
        model(Query.of_frames(torch.tensor([4])))
        first = list(counted)
        model(Query.of_frames(torch.tensor([4])))
    assert len(counted) > len(first)


@pytest.mark.parametrize("oob", ["zero", "clamp"])
@pytest.mark.parametrize("num_frames", [1, 2, 3])
def test_short_clips(num_frames: int, oob: str) -> None:
    short = moving_shapes(num_frames=num_frames, height=24, width=36)
    model = small(short, oob=oob)
    decoded = frames(model, range(num_frames))
    assert decoded.shape == (num_frames, 3, 24, 36)
    query = Query.of_frames(torch.arange(num_frames))
    assert torch.allclose(decoded, model(query), atol=1e-6)
    outputs = model.training_outputs(query, short)
    assert [rgb.shape for _, rgb in outputs] == [decoded.shape] * 3


def test_missing_neighbours() -> None:
    zero = FlowGuide(4, (-2, -1, 1, 2), 4, True, "zero")
    assert zero.neighbour_times(0.0) == [None, None, 1, 2]
    assert zero.neighbour_times(2.0) == [0, 1, 3, None]
    clamp = FlowGuide(4, (-2, -1, 1, 2), 4, True, "clamp")
    assert clamp.neighbour_times(0.0) == [0, 0, 1, 2]
    assert clamp.neighbour_times(3.0) == [1, 2, 3, 3]


def test_without_neighbours_the_independent_frame_is_the_frame(clip: MemoryClip) -> None:
    model = small(clip, neighbours=())
    assert model.buffer is None
    assert [name for name in model.stored() if "flow" in name] == []
    expected = model.evaluate(torch.tensor([3.0])).rgb_NCHW
    assert torch.equal(frames(model, [3]), expected)
    outputs = model.training_outputs(Query.of_frames(torch.tensor([3])), clip)
    assert [share for share, _ in outputs] == [1.0]
    assert torch.equal(outputs[0][1], expected)


def test_the_final_frame_is_a_mix() -> None:
    guide = FlowGuide(3, (-1, 1), 1, True, "zero")
    own = Evaluation(
        rgb_NCHW=torch.full((1, 3, 2, 2), 0.5),
        blend_NCHW=torch.zeros(1, 2, 2, 2),
        flow_NCHW=torch.zeros(1, 6, 2, 2),
    )
    near_NACHW = torch.stack([torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2) * 0.8], 1)
    final, aggregated = guide.combine(own, near_NACHW)
    assert torch.allclose(aggregated, torch.full((1, 3, 2, 2), 0.4))
    assert torch.allclose(final, torch.full((1, 3, 2, 2), 0.45))


# -- neighbours while fitting --------------------------------------------------------------------------------


def test_losses_see_three_frames_and_neighbours_from_the_buffer(clip: MemoryClip) -> None:
    model = small(clip)
    query = Query.of_frames(torch.tensor([4, 0]))
    outputs = model.training_outputs(query, clip)
    assert [share for share, _ in outputs] == [1.0, 0.1, 0.1]
    assert torch.equal(outputs[1][1], model.evaluate(query.time_N).rgb_NCHW)
    # The buffer is fresh: within 8 bits the frame is what decoding gives.
    assert (outputs[0][1] - frames(model, [4, 0])).abs().max() < 2 / 255
    buffered = model.buffer.frames_TCHW
    assert buffered.dtype == torch.uint8
    assert buffered.shape == (9, 3, 24, 36)
    kept = buffered.clone()
    with torch.no_grad():
        model.network.heads.frame.bias.add_(1.0)
    model.training_outputs(query, clip)
    changed = (model.buffer.frames_TCHW != kept).flatten(1).any(1)
    assert changed.nonzero().flatten().tolist() == [0, 4]
    assert not model.buffer.frames_TCHW.requires_grad


def test_no_gradient_flows_into_neighbours(clip: MemoryClip) -> None:
    model = small(clip)
    (_, final), *_ = model.training_outputs(Query.of_frames(torch.tensor([8])), clip)
    final.sum().backward()
    touched = model.network.grids.level2.grad.flatten(1).abs().sum(1) > 0
    # Frame 8 of 9 lies beyond the last of seven maps; its neighbours 6 and 7 use map 4 and 5.
    assert touched.nonzero().flatten().tolist() == [6]


def test_the_buffer_is_state_but_not_stored(clip: MemoryClip) -> None:
    model = small(clip)
    assert not [name for name in model.state_dict() if "buffer" in name]
    empty = {name: value.clone() for name, value in model.state_dict().items()}
    model.training_outputs(Query.of_frames(torch.tensor([2])), clip)
    filled = {name: value.clone() for name, value in model.state_dict().items()}
    assert "buffer.frames_TCHW" in filled
    assert not [name for name in model.stored() if "buffer" in name]
    other = small(clip)
    other.load_state_dict(filled)
    assert torch.equal(other.buffer.frames_TCHW, model.buffer.frames_TCHW)
    assert other.buffer.frames_TCHW.data_ptr() != filled["buffer.frames_TCHW"].data_ptr()
    other.load_state_dict(empty)
    assert other.buffer.frames_TCHW is None
    assert small(clip, with_encoder=False).buffer is None


@pytest.mark.parametrize(("bit_depth", "white"), [(8, 255), (10, 1023)])
def test_the_buffer_rounds_to_the_nearest(bit_depth: BitDepth, white: int) -> None:
    buffer = FrameBuffer(bit_depth)
    value = torch.linspace(0, 1, 300).view(1, 3, 10, 10)
    buffer.fill(2, lambda time: Evaluation(value * (1 - 0.5 * time), value[:, :0], value[:, :0]))
    read = buffer.read([0.0, None, 1.0], value.device)
    assert (read[0] - value[0]).abs().max() <= 0.5 / white + 1e-6
    assert read[1].abs().max() == 0
    assert (read[2] - value[0] / 2).abs().max() <= 0.5 / white + 1e-6


@pytest.mark.parametrize("model", ["ffnerv", "tnerv"])
def test_a_resumed_fit_goes_on_with_the_same_neighbours(model: str, clip: MemoryClip, tmp_path: Path) -> None:
    preset = load_preset(f"{model}-tiny", ["fit.epochs=4", "fit.precision=fp32"])
    whole = fit(clip, preset)

    def interrupt(event: Event) -> None:
        if isinstance(event, RoundDone) and event.epochs_done >= 2:
            raise KeyboardInterrupt

    checkpoint = tmp_path / "fit.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(clip, preset, on_event=interrupt, checkpoint=checkpoint)
    assert [name for name in read_tensors(checkpoint)[0] if name.endswith("buffer.frames_TCHW")]
    resumed = fit(clip, preset, checkpoint=checkpoint, resume=True)
    expected = whole.model.stored()
    for name, item in resumed.model.stored().items():
        assert torch.equal(item.value, expected[name].value), name


@pytest.mark.parametrize("model", ["ffnerv", "tnerv"])
def test_half_precision_arithmetic_keeps_flows_exact(model: str, clip: MemoryClip) -> None:
    network = preset_model(f"{model}-tiny", clip.spec)
    query = Query.of_frames(torch.tensor([3]))
    with torch.no_grad():
        exact = network.training_outputs(query, clip)
        with torch.autocast("cpu", torch.bfloat16):
            rough = network.training_outputs(query, clip)
    for (_, one), (_, other) in zip(exact, rough, strict=True):
        assert other.dtype == torch.float32
        assert (one - other).abs().max() < 0.05


# -- settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"widths": (4, 4)}, "2 strides need 3 widths"),
        ({"widths": (5, 4, 4)}, "must split into 2 grids"),
        ({"grid_frames": ()}, "at least 1"),
        ({"grid_frames": (1,) * 9}, "at most 8"),
        ({"grid_frames": (0, 4)}, "greater than or equal to 1"),
        ({"neighbours": (-1, 0, 1)}, "must not hold 0"),
        ({"neighbours": (-9, 9)}, "-8"),
        ({"weight_bits": 16}, "less than or equal to 8"),
        ({"output": "offset"}, "output"),
    ],
)
def test_configurations_that_are_refused(change: dict[str, Any], complaint: str) -> None:
    check_refused(FFNeRVConfig, change, complaint, TWO_STAGES | {"grid_frames": (2, 4)})


def test_patches_are_refused(clip: MemoryClip) -> None:
    check_patches_are_refused(small(clip))


def test_groups_are_as_many_as_fit() -> None:
    config = FFNeRVConfig(strides=(2, 3, 5), widths=(12, 6, 8, 7), grid_frames=(3,), block="compact")
    blocks = FFNeRV.on_meta(config, VideoSpec(8, 30, 30)).network.blocks
    assert [block.grouped_conv.groups for block in blocks[:2]] == [4, 2]
    assert blocks[2].conv.groups == 1


def test_convolutions_are_the_only_cost() -> None:
    model = FFNeRV.on_meta(
        FFNeRVConfig(strides=(5, 2, 2), widths=(8, 16, 8, 8), grid_frames=(3, 5), block="compact"),
        VideoSpec(8, 40, 60),
    )
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(Query.of_frames(torch.tensor([3])))
    grouped = 32 * 2 * 9 * 10 * 15 + 32 * 1 * 9 * 20 * 30
    pointwise = 32 * 32 * (10 * 15 + 20 * 30)
    heads = 12 * 16 * 150 + 5 * 8 * 2400
    assert counter.get_total_flops() // 2 == 400 * 8 * 9 * 6 + grouped + pointwise + heads
