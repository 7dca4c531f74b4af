"""An independent writer and decoder of the layout in which HNeRV's authors publish quantised networks."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vinr.models.base import FrozenLatents, Latents
from vinr.models.hnerv import HNeRV, HNeRVConfig
from vinr.video.spec import VideoSpec

# Of a frame's 255 steps: what 14 bits may cost before rounding.
NEAR = 0.1
# An axis has pairs of its own where 1 / its size < 0.02.
LEAST_AXIS = 51

Entry = dict[str, Tensor]


def published_entry(value: Tensor, bits: int) -> Entry:
    """Quantise as published: the grouping of least mean error, whole tensor first, fibres in fp16."""
    levels = 2**bits - 1
    groupings = [(value.min(), (value.max() - value.min()) / levels)]
    for axis in range(value.ndim):
        if value.shape[axis] >= LEAST_AXIS:
            low, high = value.amin(axis, keepdim=True), value.amax(axis, keepdim=True)
            groupings.append((low.half(), ((high - low) / levels).half()))
    entries = []
    for low, scale in groupings:
        code = ((value - low.float()) / scale.float()).nan_to_num(0.0).round().clamp(0, levels)
        error = float((low.float() + scale.float() * code - value).abs().mean())
        entries.append((error, {"quant": code.to(torch.uint8), "min": low, "scale": scale}))
    return min(entries, key=lambda pair: pair[0])[1]


def their_name(name: str) -> str:
    """Return the published name of one of our tensors."""
    layer, kind = name.rsplit(".", 1)
    if layer == "stem.conv":
        return f"decoder.0.conv.downconv.{kind}"
    if layer == "head":
        return f"head_layer.{kind}"
    return f"decoder.{int(layer.split('.')[1]) + 1}.conv.upconv.0.{kind}"


def published_document(model: HNeRV) -> dict[str, Any]:
    stored = {name: item.value.detach() for name, item in model.stored().items()}
    embedding_Tdhw = stored.pop("latents.embedding")
    entries = OrderedDict((their_name(name), published_entry(value, 8)) for name, value in stored.items())
    return {"embed": published_entry(embedding_Tdhw, 6), "model": entries}


def frames_of(document: Mapping[str, Any], strides: list[int], activation: Callable[..., Tensor]) -> Tensor:
    """Decode all frames of a checkpoint with nothing but its own numbers; float rgb_NCHW."""

    def values(entry: Entry) -> Tensor:
        return entry["min"].float() + entry["scale"].float() * entry["quant"].float()

    tensors = {name: values(entry) for name, entry in document["model"].items()}

    def layer(name: str, feature_NCHW: Tensor) -> Tensor:
        weight = tensors[f"{name}.weight"]
        return F.conv2d(feature_NCHW, weight, tensors[f"{name}.bias"], padding=weight.shape[-1] // 2)

    feature_NCHW = activation(layer("decoder.0.conv.downconv", values(document["embed"])))
    for number, stride in enumerate(strides, start=1):
        out_NCHW = layer(f"decoder.{number}.conv.upconv.0", feature_NCHW)
        feature_NCHW = activation(F.pixel_shuffle(out_NCHW, stride))
    return 0.5 * torch.tanh(layer("head_layer", feature_NCHW)) + 0.5


def random_model(config: HNeRVConfig, *, num_frames: int = 3, grid: tuple[int, int] = (2, 3)) -> HNeRV:
    """Return a decoder that was never fitted, with embeddings."""
    scale = math.prod(config.strides)
    model = HNeRV(config, VideoSpec(num_frames, grid[0] * scale, grid[1] * scale), with_encoder=False)
    embedding_Tdhw = 3 * torch.randn(num_frames, config.embedding_channels, *grid)
    model.attach_latents(FrozenLatents(Latents({"embedding": embedding_Tdhw})))
    return model


SMALL = HNeRVConfig(strides=(3, 2), widths=(6, 5, 4), embedding_channels=3)
