from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from clips import moving_shapes
from golden_tensors import DTYPES, Golden, record_outputs
from model_checks import (
    check_gradients,
    check_latent_share,
    check_refused,
    check_stages,
    frame_macs,
    golden_settings,
    golden_video,
    preset_on_meta,
    published_first_width,
    published_widths,
)
from vinr.config import load_preset
from vinr.models import validate_architecture
from vinr.models.base import FrozenLatents, Latents
from vinr.models.cost import describe_size
from vinr.models.hnerv import HNeRV, HNeRVConfig
from vinr.video.spec import Query, VideoSpec

BUNNY = VideoSpec(132, 640, 1280)
STRIDES = (5, 4, 4, 2, 2)


def own_name(name: str) -> str:
    """Return our name of a golden weight: stages and blocks count from 0, the decoder has no prefix.

    Decoders of the golden networks have one block a stage.
    """
    name = re.sub(r"encoder\.stage(\d+)", lambda m: f"encoder.stages.{int(m[1]) - 1}", name)
    name = re.sub(r"\.block(\d+)", lambda m: f".blocks.{int(m[1]) - 1}", name)
    name = re.sub(r"decoder\.stage(\d+)", lambda m: f"blocks.{int(m[1]) - 1}", name)
    return name.replace("decoder.stem", "stem").replace("head.conv", "head")


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden("hnerv")


def build(golden: Golden, dtype: torch.dtype) -> HNeRV:
    same = ("encoder_strides", "widths", "embedding_channels", "encoder_width", "kernel_min", "kernel_max")
    same += ("blocks_per_stage", "activation", "output")
    config = HNeRVConfig(**golden_settings(golden, *same, strides="decoder_strides"))
    model = HNeRV(config, golden_video(golden))
    model.load_state_dict({own_name(name): value for name, value in golden.below("weight").items()})
    return model.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_stage_matches(golden: Golden, dtype: torch.dtype) -> None:
    model = build(golden, dtype)
    seen = record_outputs(
        {f"encoder.stage{n}": stage for n, stage in enumerate(model.encoder.stages[:-1], 1)}
        | {f"decoder.stage{n}": block for n, block in enumerate(model.blocks, 1)}
        | {"decoder.stem": model.stem, "head": model.head}
    )
    seen["embedding"] = model.encoder(golden["input/frames"].to(dtype))
    query = Query.of_frames(golden["input/frame_index"])
    frames = model.decode(query, Latents({"embedding": seen["embedding"]}))
    check_stages(golden, seen)
    golden.check("output/frames", frames)


@pytest.mark.parametrize("dtype", DTYPES)
def test_training_step_matches(golden: Golden, dtype: torch.dtype) -> None:
    model = build(golden, dtype)
    rows = [golden.config["frames"].index(frame) for frame in golden.config["train_frames"]]
    frames = golden["input/frames"][rows].to(dtype)
    query = Query.of_frames(golden["input/frame_index"][rows])
    loss = F.mse_loss(model.decode(query, Latents({"embedding": model.encoder(frames)})), frames)
    loss.backward()
    golden.check("loss/l2", loss)
    check_gradients(golden, model, own_name)


# Supplement Table 17 and the architecture: weights and biases of each layer, by size.
LAYERS = {
    "0.35m-bunny": [(512, 32), (21600, 675), (85536, 352), (158400, 288), (27000, 60), (18000, 48), (324, 3)],
    "0.75m-bunny": [
        (768, 48), (48000, 1000), (190080, 528), (369600, 448), (64400, 92), (43700, 76), (513, 3)
    ],
    "1.5m-bunny": [
        (1088, 68), (96900, 1425), (393984, 768), (768000, 640), (132000, 132), (92400, 112), (756, 3)
    ],
    "3m-bunny": [
        (1552, 97), (196425, 2025), (793152, 1088), (1550400, 912), (273600, 192), (192000, 160), (1080, 3)
    ],
}  # fmt: skip
TOTALS = {"0.35m-bunny": 329726, "0.75m-bunny": 736152, "1.5m-bunny": 1505172, "3m-bunny": 3029582}


@pytest.mark.parametrize("size", LAYERS)
def test_layers_of_the_bunny_sizes(size: str) -> None:
    model = preset_on_meta(f"hnerv-{size}", BUNNY)
    convs = [model.stem.conv, *(block.conv for block in model.blocks), model.head]
    assert [(conv.weight.numel(), conv.bias.numel()) for conv in convs] == LAYERS[size]
    assert model.per_frame_shapes() == {"embedding": (16, 2, 4)}
    assert model.num_stored() == TOTALS[size]


def test_macs_of_each_layer() -> None:
    config = HNeRVConfig(strides=STRIDES, widths=(68, 57, 48, 40, 33, 28))
    model = HNeRV.on_meta(config, BUNNY)
    model.attach_latents(FrozenLatents(Latents({"embedding": torch.empty(132, 16, 2, 4)})).to("meta"))
    macs = frame_macs(model)
    layers = ["HNeRV.stem.conv", *(f"HNeRV.blocks.{n}.conv" for n in range(5)), "HNeRV.head"]
    each = [8_704, 775_200, 78_796_800, 2_457_600_000, 6_758_400_000, 18_923_520_000, 619_315_200]
    assert [macs[name] for name in layers] == each
    assert describe_size(HNeRV, config, BUNNY).macs == 28_838_415_904


@pytest.mark.parametrize(
    ("size", "gmacs"),
    [("0.35m-bunny", 5.858), ("0.75m-bunny", 13.888), ("1.5m-bunny", 28.838), ("3m-bunny", 59.336)],
)
def test_macs_of_the_bunny_sizes(size: str, gmacs: float) -> None:
    config = validate_architecture(HNeRV, load_preset(f"hnerv-{size}").architecture)
    assert describe_size(HNeRV, config, BUNNY).macs / 1e9 == pytest.approx(gmacs, abs=5e-4)


@pytest.mark.parametrize(
    ("strides", "parameters"),
    [
        ((5, 4, 4, 2, 2), 306_160),
        ((5, 4, 4, 3, 2), 326_640),
        ((5, 4, 3, 2, 2), 277_488),
        ((5, 2, 2, 2, 2), 207_856),
        ((5, 3, 2, 2, 2), 228_336),
    ],
)
def test_encoder_parameters(strides: tuple[int, ...], parameters: int) -> None:
    config = HNeRVConfig(strides=strides, widths=(12,) * 6)
    assert describe_size(HNeRV, config, BUNNY).encoder == parameters


def test_encoder_macs() -> None:
    model = HNeRV.on_meta(HNeRVConfig(strides=STRIDES, widths=(12,) * 6), BUNNY, with_encoder=True)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.encoder(torch.empty(1, 3, 640, 1280, device="meta"))
    assert counter.get_total_flops() / 2e9 == pytest.approx(1.556, abs=5e-4)


# Reported totals leave out the head (27 C_n + 3 numbers) and include the embeddings.
REPORTED = {
    "3m-960x1920": 2_913_290,
    "3m-960x1920-300f": 2_975_337,
    "3m-480x960": 2_955_470,
    "3m-480x960-300f": 2_999_062,
    "2m-960x1920": 2_011_228,
    "5m-960x1920": 4_906_745,
    "10m-960x1920": 9_986_426,
}


@pytest.mark.parametrize("size", REPORTED)
def test_reported_totals(size: str) -> None:
    model = preset_on_meta(f"hnerv-{size}")
    head = 27 * model.config.widths[-1] + 3
    assert model.num_stored() - head == REPORTED[size]


# Size dial in millions of each preset whose widths come from the published rule.
SOLVED = {
    "0.19m-bunny4": None,  # its C0 is taken over from 0.35m-bunny
    "0.35m-bunny": 0.35, "0.75m-bunny": 0.75, "1.5m-bunny": 1.5, "3m-bunny": 3,
    "2m-960x1920": 2, "3m-960x1920": 3, "3m-960x1920-300f": 3, "5m-960x1920": 5, "10m-960x1920": 10,
    "3m-480x960": 3, "3m-480x960-300f": 3,
    "0.75m-bunny-720p": 0.77, "1.5m-bunny-720p": 1.525, "3m-bunny-720p": 3.05,
    "3m-1080p": 3.05, "5m-1080p": 5.1, "10m-1080p": 10.1, "15m-1080p": 15.1,
    "1.5m-bunny-k13": 1.5, "1.5m-bunny-k17": 1.5, "1.5m-bunny-k33": 1.5,
    "1.5m-bunny-r1": 1.5, "1.5m-bunny-r1.5": 1.5, "1.5m-bunny-r2": 1.5,
    "1.5m-bunny-d8": 1.5, "1.5m-bunny-d32": 1.5, "1.5m-bunny-1x2": 1.5, "1.5m-bunny-4x8": 1.5,
}  # fmt: skip


@pytest.mark.parametrize("size", SOLVED)
def test_widths_are_what_the_published_rule_gives(size: str) -> None:
    model = preset_on_meta(f"hnerv-{size}")
    config = model.config
    found = re.search(r"-r(.+)", size)
    reduction = float(found[1]) if found else 1.2
    embedding = torch.Size(model.per_frame_shapes()["embedding"]).numel()
    kernels = [block.conv.kernel_size[0] for block in model.blocks]
    first = config.widths[0]
    if SOLVED[size] is not None:
        first = published_first_width(
            SOLVED[size] * 1e6,
            embedding * model.video.num_frames,
            strides=config.strides,
            kernels=kernels,
            reduction=reduction,
            stem_inputs=9 * config.embedding_channels,
        )
    assert published_widths(first, len(config.strides), reduction=reduction, lower=12) == config.widths


def test_small_bunny_decoder() -> None:
    model = preset_on_meta("hnerv-0.19m-bunny4", VideoSpec(132, 160, 320))
    assert sum(item.value.numel() for item in model.stored().values()) == 175_847


def test_encoder_may_reduce_more_than_the_decoder_enlarges() -> None:
    config = HNeRVConfig(strides=(2, 2), encoder_strides=(4, 3), widths=(6, 5, 4), embedding_channels=3)
    clip = moving_shapes(num_frames=2, height=30, width=40)
    model = HNeRV(config, clip.spec)
    assert model.coded_size() == (36, 48)
    assert model.per_frame_shapes() == {"embedding": (3, 3, 4)}
    assert model.stem.conv.weight.shape == (6 * 9, 3, 1, 1)
    assert model(Query.of_frames(torch.arange(2)), clip).shape == (2, 3, 30, 40)


def test_more_blocks_a_stage_keep_the_size() -> None:
    config = HNeRVConfig(strides=(2, 2), widths=(6, 5, 4), blocks_per_stage=3)
    model = HNeRV.on_meta(config, VideoSpec(2, 8, 8))
    shapes = [tuple(block.conv.weight.shape) for block in model.blocks]
    assert shapes[:3] == [(20, 6, 1, 1), (5, 5, 1, 1), (5, 5, 1, 1)]
    assert shapes[3:] == [(16, 5, 3, 3), (4, 4, 3, 3), (4, 4, 3, 3)]


def test_a_fresh_encoder_block_is_almost_the_identity() -> None:
    model = HNeRV(HNeRVConfig(strides=(2,), widths=(4, 4), embedding_channels=4), VideoSpec(1, 8, 8))
    block = model.encoder.stages[0].blocks[0]
    feature_NCHW = torch.randn(1, 4, 4, 4)
    assert (block(feature_NCHW) - feature_NCHW).abs().max() < 1e-5
    assert block.linear1.bias.abs().max() == 0
    assert block.linear1.weight.abs().max() < 0.15


def test_offset_output_has_no_bounds() -> None:
    config = HNeRVConfig(strides=(2,), widths=(4, 4), output="offset", output_offset=0.25)
    model = HNeRV(config, VideoSpec(1, 8, 8))
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.constant_(model.head.bias, 2.0)
    latents = Latents({"embedding": torch.zeros(1, 16, 4, 4)})
    assert torch.equal(
        model.decode(Query.of_frames(torch.tensor([0])), latents), torch.full((1, 3, 8, 8), 2.25)
    )


def test_latents_are_kept_within_their_share() -> None:
    long_video = VideoSpec(3000, 1080, 1920)
    assert check_latent_share(HNeRV, long_video, width=60.0).embedding_channels < 16
    assert HNeRV.configure(long_video, width=60.0, settings={"embedding_channels": 9}).embedding_channels == 9


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"widths": (4, 4)}, "2 strides need 3 widths"),
        ({"strides": (16, 16, 16), "widths": (4,) * 4}, "multiply to more than 1024"),
        ({"strides": (2,) * 9, "widths": (4,) * 9}, "at most 8"),
        ({"widths": (4, 4, 5000)}, "less than or equal to 4096"),
        ({"kernel_max": 4}, "odd"),
        ({"encoder_strides": (3,)}, "encoder_strides"),
        ({"encoder_strides": (16, 16, 16)}, "multiply to more than 1024"),
        ({"activation": "tanh"}, "activation"),
        ({"depth": 3}, "depth"),
    ],
)
def test_configurations_that_are_refused(change: dict[str, Any], complaint: str) -> None:
    check_refused(HNeRVConfig, change, complaint)


def test_encoding_without_an_encoder_is_refused() -> None:
    clip = moving_shapes(num_frames=1, height=8, width=8)
    model = HNeRV(HNeRVConfig(strides=(2,), widths=(4, 4)), clip.spec, with_encoder=False)
    with pytest.raises(ValueError, match="encoder was dropped"):
        model(Query.of_frames(torch.tensor([0])), clip)
