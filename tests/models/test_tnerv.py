from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from clips import MemoryClip, moving_shapes
from golden_tensors import record_outputs
from vinr.config import load_preset
from vinr.models import FrozenLatents, Latents, validate_architecture
from vinr.models.cost import describe_size
from vinr.models.layers.grids import grid_frames_for
from vinr.models.layers.modulation import PlainNorm
from vinr.models.tnerv import GRID_SHARES, FittingParts, TNeRV, TNeRVConfig
from vinr.sizing.solve import solve_size
from vinr.video.spec import PatchGrid, Query, VideoSpec

PUBLISHED = ["12.4m-720p", "3m-960x1920", "9.3m-1080p"]


def on_meta(size: str, **changes: Any) -> TNeRV:
    preset = load_preset(f"tnerv-{size}")
    video = VideoSpec(preset.paper.num_frames, preset.paper.height, preset.paper.width)
    return TNeRV.on_meta(validate_architecture(TNeRV, preset.architecture | changes), video)


def numbers(model: TNeRV, pattern: str) -> int:
    found = [item.value.numel() for name, item in model.stored().items() if re.match(pattern, name)]
    return sum(found)


# -- sizes ---------------------------------------------------------------------------------------------------


def test_layers_of_the_largest_network() -> None:
    model = on_meta("12.4m-720p")
    assert numbers(model, r"pre\.") == 722_106
    assert numbers(model, r"temporal\.") == 139_904
    convs = [numbers(model, rf"blocks\.{n}\.conv\.") for n in range(5)]
    assert convs == [4_834_752, 666_400, 466_990, 321_345, 225_060]
    modulations = [numbers(model, rf"blocks\.{n}\.norm\.") for n in range(5)]
    assert modulations == [59_598, 49_536, 41_280, 34_572, 28_638]
    assert [numbers(model, r"heads\.flow\."), numbers(model, r"heads\.frame\.")] == [1_620, 470]
    assert numbers(model, r"(?!grids)") == 7_592_271


@pytest.mark.parametrize(
    ("size", "decoder", "grids", "embeddings", "total"),
    [
        ("12.4m-720p", 7_592_271, 1_935_360, 3_024_000, 12_551_631),
        ("3m-960x1920", 1_743_779, 630_784, 614_400, 2_988_963),
        ("9.3m-1080p", 4_455_521, 2_580_480, 2_246_400, 9_282_401),
    ],
)
def test_parts_of_the_published_networks(
    size: str, decoder: int, grids: int, embeddings: int, total: int
) -> None:
    model = on_meta(size)
    assert numbers(model, r"grids\.") == grids
    assert numbers(model, r"(?!grids)") == decoder
    shapes = model.per_frame_shapes()
    assert 600 * torch.Size(shapes["embedding"]).numel() == embeddings
    assert model.num_stored() == total
    assert {item.role for name, item in model.stored().items() if name.startswith("grids.")} == {"grid"}


# Totals in millions of the other readings, for the three published networks.
READINGS = {
    ("sep5", 5, "out"): (12.516, 2.973, 9.258),
    ("bott3", 5, "in"): (12.476, 2.981, 9.234),
    ("hnerv", 3, "in"): (12.460, 3.136, 9.468),
    ("two3", 3, "out"): (12.377, 2.958, 9.025),
}


@pytest.mark.parametrize(("plan", "kernel", "position"), READINGS)
def test_totals_of_other_readings(plan: str, kernel: int, position: str) -> None:
    found = [
        on_meta(size, conv_plan=plan, pre_kernel=kernel, adain_pos=position).num_stored() / 1e6
        for size in PUBLISHED
    ]
    assert found == pytest.approx(READINGS[plan, kernel, position], abs=6e-4)


@pytest.mark.parametrize(
    ("size", "frames", "augmentation"),
    [("12.4m-720p", 18.94, 2.93), ("3m-960x1920", 9.10, 0.87), ("9.3m-1080p", 9.13, 2.27)],
)
def test_encoder_parameters(size: str, frames: float, augmentation: float) -> None:
    bare = on_meta(size)
    sizes = []
    for mode in ("off", "add"):
        config = TNeRVConfig.model_validate(bare.config.model_dump() | {"aug_mode": mode})
        sizes.append(describe_size(TNeRV, config, bare.video).encoder / 1e6)
    assert sizes[0] == pytest.approx(frames, abs=0.006)
    assert sizes[1] - sizes[0] == pytest.approx(augmentation, abs=0.006)


@pytest.mark.parametrize(
    ("size", "rows", "columns"),
    [
        ("12.4m-720p", [9, 45, 90, 180, 360, 720], [16, 80, 160, 320, 640, 1280]),
        ("3m-960x1920", [8, 40, 120, 240, 480, 960], [16, 80, 240, 480, 960, 1920]),
        ("9.3m-1080p", [9, 45, 135, 270, 540, 1080], [16, 80, 240, 480, 960, 1920]),
    ],
)
def test_map_sizes(size: str, rows: list[int], columns: list[int]) -> None:
    model = on_meta(size)
    seen = record_outputs({"0": model.pre} | {str(n + 1): block for n, block in enumerate(model.blocks)})
    shapes = model.per_frame_shapes()
    latents = Latents({name: torch.empty(1, *shape, device="meta") for name, shape in shapes.items()})
    with torch.no_grad():
        model.evaluate(torch.zeros(1, dtype=torch.float64), latents)
    expected = list(zip(model.config.widths, rows, columns, strict=True))
    assert [tuple(seen[str(n)].shape[1:]) for n in range(6)] == expected
    assert model.num_coarse == 3


@pytest.mark.parametrize(("plan", "first"), [("sep5", 228), ("bott3", 229)])
def test_solved_widths_with_the_published_latents(plan: str, first: int) -> None:
    given = {
        "strides": (5, 2, 2, 2, 2),
        "embedding_channels": 35,
        "grid_channels": 30,
        "grid_frames": (64, 128, 256),
        "conv_plan": plan,
    }
    config = solve_size(TNeRV, VideoSpec(600, 720, 1280), 12_400_000, given)
    assert abs(config.widths[0] - first) <= 1
    assert all(abs(w - config.widths[0] / 1.2**n) <= 1.5 for n, w in enumerate(config.widths))
    assert abs(TNeRV.on_meta(config, VideoSpec(600, 720, 1280)).num_stored() / 12_400_000 - 1) <= 0.002


def test_free_sizes_are_split_as_published() -> None:
    video = VideoSpec(600, 720, 1280)
    config = solve_size(TNeRV, video, 12_400_000, {"strides": (5, 2, 2, 2, 2)})
    model = TNeRV.on_meta(config, video)
    size = describe_size(TNeRV, config, video)
    assert size.latents / size.stored == pytest.approx(0.24, abs=0.03)
    assert numbers(model, r"grids\.") / size.stored == pytest.approx(0.16, abs=0.03)
    long_video = VideoSpec(5000, 720, 1280)
    config = solve_size(TNeRV, long_video, 12_400_000, {})
    assert describe_size(TNeRV, config, long_video).latents <= 0.3 * 12_400_000


@pytest.mark.parametrize("settings", [{"embedding_channels": 0}, {"grid_channels": 0}, {"adain": "off"}])
@pytest.mark.parametrize(
    "video", [VideoSpec(60, 1080, 1920), VideoSpec(300, 144, 176)], ids=["large", "small"]
)
def test_solved_sizes_without_some_parts(settings: dict[str, Any], video: VideoSpec) -> None:
    config = solve_size(TNeRV, video, 1_500_000, settings)
    assert abs(TNeRV.on_meta(config, video).num_stored() - 1_500_000) <= 30_000


def test_grids_of_other_lengths() -> None:
    found = {count: grid_frames_for(count, GRID_SHARES, even=True) for count in (600, 300, 150, 60, 2, 1)}
    assert found == {
        600: (64, 128, 256),
        300: (32, 64, 128),
        150: (16, 32, 64),
        60: (8, 14, 26),
        2: (2,),
        1: (1,),
    }


# -- ablations -----------------------------------------------------------------------------------------------

ARMS = ["e1", "e2", "e3", "e4", "e5", "d1", "d2", "d2b", "d3"]


@pytest.mark.parametrize("arm", ARMS)
def test_ablations_are_as_large_as_the_whole_network(arm: str) -> None:
    whole, other = on_meta("5.5m-720p-300f"), on_meta(f"5.5m-720p-300f-{arm}")
    assert abs(other.num_stored() / whole.num_stored() - 1) < 0.001
    names = set(other.stored())
    assert bool(other.per_frame_shapes()) == (arm != "e2")
    assert any(name.startswith("grids.") for name in names) == (arm != "e1")
    assert any(name.startswith("heads.flow.") for name in names) == (arm != "d1")
    assert any(name.startswith("temporal.") for name in names) == (not arm.startswith("d2"))
    assert any(".norm." in name for name in names) == (not arm.startswith("d2"))
    changed = {
        key
        for key, value in other.config.model_dump().items()
        if value != whole.config.model_dump()[key] and key != "widths"
    }
    expected = {
        "e1": {"embedding_channels", "grid_channels", "grid_frames"},
        "e2": {"embedding_channels", "grid_channels"},
        "e3": {"aug_mode"},
        "e4": {"encoder_widths", "encoder_depths"},
        "e5": {"aug_mode", "encoder_widths", "encoder_depths"},
        "d1": {"neighbours"},
        "d2": {"adain"},
        "d2b": {"adain"},
        "d3": {"conv_plan"},
    }
    assert changed == expected[arm]


@pytest.fixture
def clip() -> MemoryClip:
    return moving_shapes(num_frames=7, height=24, width=36)


def small(clip: MemoryClip, *, with_encoder: bool = True, **settings: Any) -> TNeRV:
    defaults: dict[str, Any] = {
        "strides": (3, 2, 2),
        "widths": (10, 8, 7, 6),
        "embedding_channels": 3,
        "grid_channels": 2,
        "grid_frames": (2, 4),
        "time_levels": 6,
        "time_widths": (12, 8),
        "aug_widths": (8,),
        "encoder_widths": (6, 6),
        "encoder_depths": (1, 1, 1),
    }
    return TNeRV(TNeRVConfig(**defaults | settings), clip.spec, with_encoder=with_encoder)


def frames(model: TNeRV, index: Sequence[int]) -> Tensor:
    with torch.no_grad():
        return model(Query.of_frames(torch.tensor(index)))


SWITCHES = [
    {"aug_mode": "scale"},
    {"aug_mode": "concat"},
    {"aug_mode": "off"},
    {"pre_kernel": 1},
    {"adain_pos": "out"},
    {"adain_gain": "1+gamma", "adain_act": "none"},
    {"adain": "norm"},
    {"adain": "off"},
    {"conv_plan": "bott3"},
    {"conv_plan": "hnerv"},
    {"conv_plan": "two3", "adain_pos": "out"},
    {"conv_plan": "regular5"},
    {"warp_align_corners": False},
    {"oob": "clamp"},
    {"neighbours": ()},
    {"neighbours": (-1, 3)},
    {"embedding_channels": 0},
    {"grid_channels": 0, "grid_frames": ()},
    {"output": "sigmoid"},
]


@pytest.mark.parametrize("settings", SWITCHES, ids=str)
def test_every_switch_fits_freezes_and_decodes(settings: dict[str, Any], clip: MemoryClip) -> None:
    model = small(clip, **settings)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    target_NCHW = clip.rgb_NCHW / 255
    errors = []
    for _ in range(4):
        outputs = model.training_outputs(Query.of_frames(torch.arange(7)), clip)
        loss = sum(share * F.mse_loss(rgb_NCHW, target_NCHW) for share, rgb_NCHW in outputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(loss.item())
    assert errors[-1] < errors[0]
    assert not [key for key, item in model.stored().items() if item.value.grad is None]
    expected = model(Query.of_frames(torch.arange(7)), clip).detach()
    model.freeze(clip)
    assert torch.allclose(frames(model, range(7)), expected, atol=1e-5)
    fresh = small(clip, with_encoder=False, **settings)
    fresh.restore(model.stored())
    for index in (4, 0, 6):
        assert torch.equal(frames(fresh, [index]), frames(model, [index]))


# -- encoder and neighbours ----------------------------------------------------------------------------------


def test_the_embedding_is_frame_plus_time(clip: MemoryClip) -> None:
    model = small(clip)
    index_N = torch.tensor([5, 1])
    encoder = model.encoder
    assert isinstance(encoder, FittingParts)
    frame_NCHW = encoder.frames(clip.frames(index_N) / 255)
    time_NCHW = encoder.last(encoder.hidden(model.encoding(index_N).float())).view(2, 3, 2, 3)
    found = model.encode(clip, index_N).per_frame["embedding"]
    assert torch.allclose(found, frame_NCHW + time_NCHW, atol=1e-6)
    encoder.mode = "scale"
    found = model.encode(clip, index_N).per_frame["embedding"]
    assert torch.allclose(found, frame_NCHW * (1 + time_NCHW), atol=1e-6)


def test_decoding_in_order_reads_each_embedding_once(clip: MemoryClip) -> None:
    model = small(clip)
    model.freeze(clip)
    stored = model.stored()
    store = FrozenLatents(Latents({"embedding": stored["latents.embedding"].value.detach()}))
    evaluated: list[float] = []

    class Recorder:
        def read(self, index_N: Tensor) -> Latents:
            return store.read(index_N)

    fresh = small(clip, with_encoder=False)
    fresh.restore({name: item for name, item in stored.items() if not item.per_frame})
    fresh.attach_latents(Recorder())
    fresh.grids.register_forward_pre_hook(lambda _, inputs: evaluated.extend(inputs[0].tolist()))
    in_order = torch.cat([frames(fresh, [index]) for index in range(7)])
    assert sorted(evaluated) == list(range(7))
    for index in (6, 2, 0):
        fresh.attach_latents(Recorder())
        assert torch.equal(frames(fresh, [index])[0], in_order[index])


def test_other_latents_are_noticed(clip: MemoryClip) -> None:
    model = small(clip, with_encoder=False)
    stores = [FrozenLatents(Latents({"embedding": torch.randn(7, 3, 2, 3)})) for _ in range(2)]
    results = []
    for store, _ in itertools.product(stores, range(2)):
        model.attach_latents(store)
        results.append(frames(model, [3]))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[2], results[3])
    assert not torch.allclose(results[0], results[2], atol=1e-4)


def test_times_between_frames_are_decoded(clip: MemoryClip) -> None:
    model = small(clip)
    model.freeze(clip)
    with torch.no_grad():
        between = model(Query.of_frames(torch.tensor([2.5])))
    assert between.shape == (1, 3, 24, 36)
    low, high = torch.minimum(*frames(model, [2, 3])), torch.maximum(*frames(model, [2, 3]))
    assert bool(((between[0] > low - 0.2) & (between[0] < high + 0.2)).all())


def test_fitting_keeps_no_frames_afterwards(clip: MemoryClip) -> None:
    model = small(clip)
    outputs = model.training_outputs(Query.of_frames(torch.tensor([4, 0])), clip)
    assert [share for share, _ in outputs] == [1.0, 0.1, 0.1]
    assert "encoder.buffer.frames_TCHW" in model.state_dict()
    model.freeze(clip)
    assert model.encoder is None
    assert not [name for name in model.state_dict() if "buffer" in name]
    with pytest.raises(ValueError, match="encoder was dropped"):
        model.training_outputs(Query.of_frames(torch.tensor([4])), clip)


def test_without_embeddings_frames_are_not_read(clip: MemoryClip) -> None:
    class NoFrames(MemoryClip):
        def frames(self, index_N: Tensor) -> Tensor:
            raise AssertionError

    model = small(clip, embedding_channels=0)
    source = NoFrames(clip.rgb_NCHW)
    assert len(model.training_outputs(Query.of_frames(torch.tensor([4, 0])), source)) == 3
    model.freeze(source)
    assert frames(model, [1]).shape == (1, 3, 24, 36)


def test_the_resumed_state_has_the_buffer(clip: MemoryClip) -> None:
    model, other = small(clip), small(clip)
    query = Query.of_frames(torch.tensor([2, 3]))
    model.training_outputs(query, clip)
    with torch.no_grad():
        model.pre.bias.add_(0.1)
    other.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})
    first, second = model.training_outputs(query, clip), other.training_outputs(query, clip)
    for (_, one), (_, two) in zip(first, second, strict=True):
        assert torch.equal(one, two)


def test_plain_norm() -> None:
    feature_NCHW = 3 * torch.randn(2, 5, 6, 7) + 2
    expected = F.instance_norm(feature_NCHW)
    assert torch.allclose(PlainNorm()(feature_NCHW, None), expected, atol=1e-5)
    assert PlainNorm()(feature_NCHW[..., :1, :1], None).abs().max() == 0


# -- settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"widths": (4, 4)}, "2 strides need 3 widths"),
        ({"grid_channels": 0}, "must both be given"),
        ({"grid_frames": ()}, "must both be given"),
        ({"grid_frames": (), "grid_channels": 0, "embedding_channels": 0}, "both 0"),
        ({"encoder_widths": (4, 4)}, "one fewer encoder_widths"),
        ({"encoder_depths": (1,)}, "as many encoder_depths"),
        ({"encoder_depths": (1, 99)}, "less than or equal to 32"),
        ({"neighbours": (0,)}, "must not hold 0"),
        ({"pre_kernel": 7}, "pre_kernel"),
        ({"time_widths": ()}, "at least 1"),
        ({"embedding_channels": 5000}, "4096"),
    ],
)
def test_configurations_that_are_refused(change: dict[str, Any], complaint: str) -> None:
    good = {
        "strides": (2, 2),
        "widths": (4, 4, 4),
        "embedding_channels": 2,
        "grid_channels": 2,
        "grid_frames": (2,),
    }
    with pytest.raises(ValidationError, match=complaint):
        TNeRVConfig.model_validate(good | change)


def test_patches_are_refused(clip: MemoryClip) -> None:
    model = small(clip)
    model.freeze(clip)
    zero_N = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match="whole frames only"):
        model(Query(zero_N.double(), zero_N, zero_N, PatchGrid(2, 2)))
