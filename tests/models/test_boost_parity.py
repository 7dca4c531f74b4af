"""The boosted models against golden tensors; NeRV-Boost's are made by ``parity/make_nerv_boost.py``."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from golden_tensors import DTYPES, Golden, record_outputs
from model_checks import check_stages, golden_settings, golden_video
from vinr.models import VideoModel
from vinr.models.base import Latents
from vinr.models.enerv_boost import ENeRVBoost
from vinr.models.hnerv_boost import HNeRVBoost
from vinr.models.nerv_boost import NeRVBoost
from vinr.video.spec import Query


def own_names(weights: dict[str, Tensor], depths: list[int], stems: int) -> dict[str, Tensor]:
    """Return golden weights under our names and, where ours are linear layers, without their 1 × 1 kernels.

    Blocks are numbered through after ``stems`` stem blocks; in a chain every other layer is linear.
    """

    def number(found: re.Match[str]) -> str:
        stage, block = int(found[1]) - 1, int(found[2]) - 1
        return f"decoder.blocks.{stems + sum(depths[:stage]) + block}"

    named = {}
    for name, value in weights.items():
        name = re.sub(r"decoder\.stage(\d+)\.block(\d+)", number, name)
        name = name.replace("decoder.stem", "decoder.blocks.0").replace("head.conv", "decoder.head")
        name = re.sub(r"(blocks\.\d+)\.(conv\d?\.)", r"\1.upsample.\2", name)
        name = re.sub(r"transformer(\d)", lambda m: f"transformers.{int(m[1]) - 1}", name)
        name = name.replace("feed_forward.", "").replace("to_conv", "to_channels")
        chain = r"(stem|condition|time_content|spatial_tokens|to_channels|scale|shift)\.conv(\d)"
        name = re.sub(chain, lambda m: f"{m[1]}.{2 * int(m[2]) - 2}", name)
        name = re.sub(r"^condition", "decoder.condition", name)
        name = re.sub(r"encoder\.stage(\d+)", lambda m: f"encoder.stages.{int(m[1]) - 1}", name)
        name = re.sub(r"(stages\.\d+)\.block(\d+)", lambda m: f"{m[1]}.blocks.{int(m[2]) - 1}", name)
        linear = re.search(r"(stem|condition|scale|shift|time_content|spatial_tokens|to_channels)\.\d", name)
        named[name] = value.flatten(1) if linear and value.ndim == 4 else value
    return named


def build(golden: Golden, cls: type[VideoModel], dtype: torch.dtype, settings: dict[str, Any]) -> VideoModel:
    given = golden.config
    same = ("widths", "kernel_min", "condition_channels", "base", "levels", "activation", "output")
    config = cls.Config(
        **golden_settings(golden, *same, strides="decoder_strides", depths="blocks_per_stage"),
        kernel_max=min(given["kernel_max"], given["kernel_cap"]),
        head_kernel=golden.kernel("head.conv"),
        **settings,
    )
    model = cls(config, golden_video(golden))
    stems = 1 if cls is HNeRVBoost else 0
    model.load_state_dict(own_names(golden.below("weight"), given["blocks_per_stage"], stems))
    return model.to(dtype)


def recorded(golden: Golden, model: VideoModel) -> dict[str, Tensor]:
    """Return where what the parts of a network put out will appear, by the names of golden stages."""
    decoder, stems = model.decoder, 1 if isinstance(model, HNeRVBoost) else 0
    modules: dict[str, nn.Module] = {"condition": decoder.condition, "head": decoder.head}
    named = [("stem", decoder.blocks[0])] if stems else []
    for stage, count in enumerate(golden.config["blocks_per_stage"]):
        first = stems + sum(golden.config["blocks_per_stage"][:stage])
        named += [(f"stage{stage + 1}.block{n + 1}", decoder.blocks[first + n]) for n in range(count)]
    for name, block in named:
        modules |= {
            f"decoder.{name}": block,
            f"decoder.{name}.activation": block.upsample,
            f"decoder.{name}.conv": getattr(block.upsample, "conv", block),
        }
    if isinstance(model, HNeRVBoost):
        modules |= {f"encoder.stage{n}": stage for n, stage in enumerate(model.encoder.stages, 1)}
    if isinstance(model, ENeRVBoost):
        modules |= {f"transformer{n}": transformer for n, transformer in enumerate(model.transformers, 1)}
        modules["time_content"] = model.time_content
    return record_outputs({name: module for name, module in modules.items() if name in golden.stages})


def check(golden: Golden, seen: dict[str, Tensor], frames: Tensor) -> None:
    check_stages(
        golden,
        # Maps of one pixel are vectors here.
        {name: value.reshape(-1, *golden[f"stage/{name}"].shape[1:]) for name, value in seen.items()},
    )
    golden.check("output/frames", frames)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_stage_of_hnerv_boost_matches(dtype: torch.dtype) -> None:
    golden = Golden("hnerv_boost")
    given = golden.config
    settings = {name: given[name] for name in ("encoder_strides", "encoder_width", "embedding_channels")}
    model = build(golden, HNeRVBoost, dtype, settings)
    seen = recorded(golden, model)
    index_N = golden["input/frame_index"]
    seen["embedding"] = model.encoder(golden["input/frames"].to(dtype))
    frames = model.decode(Query.of_frames(index_N), Latents({"embedding": seen["embedding"]}))
    seen["position_encoding"] = model.encoding(index_N).to(dtype)
    check(golden, seen, frames)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_stage_of_enerv_boost_matches(dtype: torch.dtype) -> None:
    golden = Golden("enerv_boost")
    given = golden.config
    same = ("token_width", "feed_forward_width", "heads", "head_channels", "stem_height", "stem_width")
    settings = {name: given[name] for name in same} | {"content_width": 2 * given["token_width"]}
    model = build(golden, ENeRVBoost, dtype, settings)
    seen = recorded(golden, model)
    model.decoder.register_forward_pre_hook(lambda _module, inputs: seen.__setitem__("to_conv", inputs[0]))
    index_N = golden["input/frame_index"]
    frames = model(Query.of_frames(index_N))
    seen["position_encoding"] = model.encoding(index_N).to(dtype)
    check(golden, seen, frames)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_stage_of_nerv_boost_matches(dtype: torch.dtype) -> None:
    golden = Golden("nerv_boost")
    given = golden.config
    settings = {name: given[name] for name in ("stem_height", "stem_width")}
    model = build(golden, NeRVBoost, dtype, settings | {"stem_widths": [given["stem_hidden"]]})
    seen = recorded(golden, model)
    model.decoder.register_forward_pre_hook(lambda _module, inputs: seen.__setitem__("stem", inputs[0]))
    index_N = golden["input/frame_index"]
    frames = model(Query.of_frames(index_N))
    seen["position_encoding"] = model.encoding(index_N).to(dtype)
    check(golden, seen, frames)
