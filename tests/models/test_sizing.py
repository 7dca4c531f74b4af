from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from model_checks import preset_model, preset_on_meta, published_first_width, published_widths, smallest_size
from vinr.config import load_preset
from vinr.errors import UsageError
from vinr.models import HybridModel, Latents, VideoModel, get_model, list_models, validate_architecture
from vinr.models.cost import count_macs, describe_size
from vinr.sizing.solve import solve_size
from vinr.sizing.strides import choose_strides, taper
from vinr.video.spec import Query, VideoSpec

LARGEST_DIAL = 4096.0

EVERY_MODEL = pytest.mark.parametrize("name", list_models())


def padding(height: int, width: int, strides: tuple[int, ...]) -> float:
    multiple = math.prod(strides)
    padded = (-(-height // multiple) * multiple) * (-(-width // multiple) * multiple)
    return padded / (height * width) - 1


@pytest.mark.parametrize(
    ("height", "width", "strides"),
    [
        (640, 1280, (5, 4, 4, 2, 2)),
        (160, 320, (5, 4, 2, 2)),
        (480, 960, (5, 4, 3, 2, 2)),
        (960, 1920, (5, 4, 4, 3, 2)),
        (1280, 640, (5, 4, 4, 2, 2)),
        (32, 64, (4, 2, 2)),
    ],
)
def test_published_frame_sizes_get_published_strides(
    height: int, width: int, strides: tuple[int, ...]
) -> None:
    assert choose_strides(height, width) == strides


def test_nerv_gets_its_published_strides() -> None:
    assert choose_strides(640, 1280, target_grid=(8, 16)) == (5, 4, 2, 2)
    assert choose_strides(720, 1280, target_grid=(8, 16)) == (5, 4, 2, 2)
    # Where cells are dear, a thin video gets fewer of them and more padding.
    assert choose_strides(33, 320, target_grid=(8, 16)) == (2,)
    assert choose_strides(33, 320, target_grid=(8, 16), grid_cost=0.016) == (3, 2, 2)


@pytest.mark.parametrize(
    ("height", "width"),
    [
        (720, 1280), (1080, 1920), (272, 640), (144, 176), (1280, 720), (1920, 1080), (288, 352), (480, 640),
        (2160, 3840), (1440, 2560), (360, 640), (240, 432), (540, 960), (500, 333), (1079, 1919), (512, 512),
    ],
)  # fmt: skip
def test_usual_frame_sizes_need_little_padding(height: int, width: int) -> None:
    strides = choose_strides(height, width)
    cells = -(-height // math.prod(strides)) * -(-width // math.prod(strides))
    assert padding(height, width, strides) <= 0.06
    assert cells <= 150


@settings(max_examples=60)
@given(st.integers(1, 4400), st.integers(1, 4400))
def test_strides_of_any_frame_size(height: int, width: int) -> None:
    strides = choose_strides(height, width)
    assert list(strides) == sorted(strides, reverse=True)
    assert set(strides) <= {2, 3, 4, 5}
    assert strides[-1] == 2
    assert len(strides) <= 6
    multiple = math.prod(strides)
    assert multiple <= 1024
    assert -(-height // multiple) * -(-width // multiple) <= 4096
    if min(height, width) >= 64:
        assert padding(height, width, strides) <= 0.14
    assert choose_strides(width, height) == strides


def test_widths_taper_and_round_one_after_another() -> None:
    assert taper(32.0, 5, reduction=1.2, lower=12) == (32, 27, 22, 19, 15)
    assert taper(10.0, 4, reduction=2.0, lower=4) == (10, 5, 4, 4)
    assert taper(9000.0, 2, reduction=1.2, lower=1) == (4096, 4096)
    dials = [1 + number / 7 for number in range(300)]
    totals = [sum(taper(dial, 5, reduction=1.2, lower=4)) for dial in dials]
    assert totals == sorted(totals)


def test_published_rules_round_half_to_even() -> None:
    # 27 / 1.2 = 22.5 and 15 / 1.2 = 12.5 in float64.
    assert published_widths(27, 1, reduction=1.2, lower=1) == (27, 22)
    assert published_widths(15, 2, reduction=1.2, lower=12) == (15, 12, 12)
    # The positive root is 68.693.
    first = published_first_width(
        1.5e6, 16_896, strides=(5, 4, 4, 2, 2), kernels=(1, 3, 5, 5, 5), reduction=1.2, stem_inputs=144
    )
    assert first == 68


VIDEOS = st.builds(
    VideoSpec,
    num_frames=st.sampled_from([1, 2, 17, 132, 600, 5000]),
    height=st.one_of(st.sampled_from([16, 160, 640, 720, 1080]), st.integers(16, 1200)),
    width=st.one_of(st.sampled_from([16, 320, 1280, 1920]), st.integers(16, 2000)),
)


FACTORS = st.floats(1.0, 4.0) | st.floats(1.0, 300.0)


@EVERY_MODEL
@settings(max_examples=2)
@given(video=VIDEOS, factor=FACTORS)
def test_any_size_is_hit(name: str, video: VideoSpec, factor: float) -> None:
    check_hit(name, video, factor)


@pytest.mark.slow
@EVERY_MODEL
@settings(max_examples=20)
@given(video=VIDEOS, factor=FACTORS)
def test_any_of_more_sizes_is_hit(name: str, video: VideoSpec, factor: float) -> None:
    check_hit(name, video, factor)


def check_hit(name: str, video: VideoSpec, factor: float) -> None:
    model_class = get_model(name)
    smallest = smallest_size(model_class, video)
    target = min(round(smallest * factor), stored_at(model_class, video, LARGEST_DIAL))
    config = solve_size(model_class, video, target, {})
    total = model_class.on_meta(config, video).num_stored()
    assert abs(total - target) <= max(0.02 * target, 64)


def stored_at(model_class: type[VideoModel], video: VideoSpec, dial: float) -> int:
    config = model_class.configure(video, width=dial, settings={})
    return model_class.on_meta(config, video).num_stored()


# A grid of single pixels, thin frames, those where padding would rather be saved than cells, and large ones.
@EVERY_MODEL
@pytest.mark.parametrize(
    ("height", "width"),
    [
        (1, 9),
        pytest.param(16, 2000, marks=pytest.mark.slow),
        pytest.param(640, 25, marks=pytest.mark.slow),
        pytest.param(2000, 16, marks=pytest.mark.slow),
        pytest.param(8192, 8192, marks=pytest.mark.slow),
    ],
)
def test_extreme_frames_get_a_network(name: str, height: int, width: int) -> None:
    model_class, video = get_model(name), VideoSpec(1, height, width)
    target = stored_at(model_class, video, 9.0)
    model = model_class.on_meta(solve_size(model_class, video, target, {}), video)
    assert abs(model.num_stored() / target - 1) <= 0.02
    assert all(coded >= given for coded, given in zip(model.coded_size(), (height, width), strict=True))


USUAL = (("hnerv", 33.7, 0.997), ("nerv", 33.7, 0.997), ("ffnerv", 33.7, 0.997), ("hinerv", 33.7, 0.997))


# Targets between two turns of the dial: the rest is made up for by steps of single numbers.
@pytest.mark.parametrize(
    ("name", "dial", "part"),
    [
        pytest.param(name, *one, marks=() if (name, *one) in USUAL else pytest.mark.slow)
        for name in list_models()
        for one in ((33.7, 0.997), (21.3, 1.004), (110.6, 0.9985))
    ],
)
def test_solved_widths_keep_the_profile(name: str, dial: float, part: float) -> None:
    model_class, video = get_model(name), VideoSpec(132, 640, 1280)
    near = model_class.configure(video, width=dial, settings={})
    target = round(part * model_class.on_meta(near, video).num_stored())
    found = solve_size(model_class, video, target, {})
    assert abs(model_class.on_meta(found, video).num_stored() / target - 1) <= 0.002
    widths = zip(found.model_dump()["widths"], near.model_dump()["widths"], strict=True)
    # One for what the dial itself moves between the two, two for the steps.
    assert max(abs(ours - theirs) for ours, theirs in widths) <= 3


@EVERY_MODEL
def test_the_dial_only_raises_the_size(name: str) -> None:
    video = VideoSpec(64, 180, 320)
    totals = [stored_at(get_model(name), video, 0.25 * 2.0**step) for step in range(12)]
    assert totals == sorted(totals)
    assert totals[-1] > 20 * totals[0]


@EVERY_MODEL
def test_sizes_that_cannot_be_reached_are_refused(name: str) -> None:
    model_class, video = get_model(name), VideoSpec(132, 640, 1280)
    smallest = smallest_size(model_class, video)
    with pytest.raises(UsageError, match=f"too few: the smallest .* stores {smallest:,}"):
        solve_size(model_class, video, smallest // 2, {})
    with pytest.raises(UsageError, match="too many: the largest"):
        solve_size(model_class, video, 10**13, {})


@EVERY_MODEL
def test_settings_that_are_wrong_are_named(name: str) -> None:
    model_class, video = get_model(name), VideoSpec(4, 64, 64)
    with pytest.raises(UsageError, match=r"architecture\.no_such_setting: no such setting; there are"):
        solve_size(model_class, video, 100_000, {"no_such_setting": 1})


def test_given_settings_are_kept() -> None:
    video = VideoSpec(132, 720, 1280)
    given = {"strides": [5, 2, 2, 2, 2], "embedding_channels": 16, "kernel_max": 3}
    config = solve_size(get_model("hnerv"), video, 1_500_000, given)
    assert config.model_dump(include=set(given)) == {**given, "strides": (5, 2, 2, 2, 2)}
    with pytest.raises(UsageError, match=r"architecture\.strides: .*tuple.*got 5"):
        solve_size(get_model("hnerv"), video, 1_500_000, {"strides": 5})
    with pytest.raises(UsageError, match="1 strides need 2 widths"):
        solve_size(get_model("hnerv"), video, 1_500_000, {"strides": (2,), "widths": (4, 4, 4)})
    fixed = {"strides": (5, 4, 4, 2, 2), "widths": (12,) * 6, "embedding_channels": 4}
    with pytest.raises(UsageError, match="too many"):
        solve_size(get_model("hnerv"), video, 1_500_000, fixed)
    with pytest.raises(UsageError, match="too few"):
        solve_size(get_model("hnerv"), video, 10_000, fixed)


def test_a_solved_size_is_near_the_published_widths() -> None:
    video = VideoSpec(132, 640, 1280)
    config = solve_size(get_model("hnerv"), video, 1_505_172, {})
    published = (68, 57, 48, 40, 33, 28)
    widths = config.model_dump()["widths"]
    assert max(abs(ours - theirs) for ours, theirs in zip(widths, published, strict=True)) <= 2


def test_the_report_of_a_size_adds_up() -> None:
    model_class, video = get_model("hnerv"), VideoSpec(10, 60, 90)
    config = solve_size(model_class, video, 40_000, {})
    size = describe_size(model_class, config, video)
    model = model_class.on_meta(config, video, with_encoder=True)
    decoder = sum(item.value.numel() for item in model.stored().values())
    assert size.stored == decoder + size.latents == model.num_stored()
    assert size.encoder == sum(value.numel() for value in model.encoder.parameters())
    assert size.macs == count_macs(model_class, config, video)
    assert size.macs_per_pixel == size.macs / (60 * 90)


# -- networks without values ---------------------------------------------------------------------------------


@EVERY_MODEL
def test_networks_without_values_have_the_same_shapes(name: str) -> None:
    video = VideoSpec(5, 32, 64)
    real = preset_model(f"{name}-tiny", video)
    empty = type(real).on_meta(real.config, video, with_encoder=True)
    shapes = [{key: value.shape for key, value in model.state_dict().items()} for model in (real, empty)]
    assert shapes[0] == shapes[1]
    assert all(value.is_meta for value in empty.parameters())
    assert [value.requires_grad for value in empty.parameters()] == [
        value.requires_grad for value in real.parameters()
    ]


class EmptyLatents:
    """Latents of the right shapes, without values."""

    def __init__(self, model: VideoModel) -> None:
        self.shapes = model.per_frame_shapes()

    def read(self, index_N: Tensor) -> Latents:
        return Latents(
            {name: torch.empty(len(index_N), *shape, device="meta") for name, shape in self.shapes.items()}
        )


@EVERY_MODEL
def test_operations_are_those_that_torch_counts(name: str) -> None:
    video = VideoSpec(5, 40, 72)
    config = validate_architecture(get_model(name), load_preset(f"{name}-tiny").architecture)
    model = preset_on_meta(f"{name}-tiny", video)
    if isinstance(model, HybridModel):
        model.attach_latents(EmptyLatents(model))
    group_N = model.group_of(torch.arange(video.num_frames))
    together_N = (group_N == group_N[0]).nonzero()[:, 0]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(Query.of_frames(together_N))
    expected = counter.get_total_flops() // 2 // len(together_N)
    assert count_macs(get_model(name), config, video) == expected > 0
