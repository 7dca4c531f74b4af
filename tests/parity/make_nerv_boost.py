"""Golden tensors of NeRV-Boost, by an implementation of its own.

There are none of the authors' implementation. These are made from the paper (X. Zhang et al., "Boosting
Neural Representations for Videos with a Conditional Decoder", CVPR 2024) in plain functions of PyTorch;
nothing is taken from ``vinr``. The same functions compute E-NeRV-Boost: before anything is written they have
to arrive at every value of ``enerv_boost.safetensors``, which comes from the authors' implementation::

    python tests/parity/make_nerv_boost.py

Axes: N frames, C channels, H rows, W columns, F features, P cells of the first grid.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

FOLDER = Path(__file__).parent
SEED = 1307
CONFIG: dict[str, Any] = {
    "num_frames": 8,
    "height": 48,
    "width": 72,
    "base": 1.25,
    "levels": 8,
    "stem_hidden": 20,
    "stem_height": 4,
    "stem_width": 6,
    "stem_channels": 15,
    "decoder_strides": [3, 2, 2],
    "blocks_per_stage": [2, 1, 2],
    "kernel_min": 3,
    "kernel_max": 3,
    "kernel_cap": 3,
    "expansion": 1.0,
    "reduction": 2.0,
    "lower_width": 6,
    "condition_channels": 8,
    "activation": "sin",
    "output": "tanh",
    "widths": [15, 15, 7, 6],
    "frames": [1, 6],
}
# Stage maps of more numbers are kept of the first listed frame only.
LARGEST_MAP = 24_000
# Weights: normal, of this deviation times 1 / √(inputs), by what their names hold.
GAINS = {"sft_block": 0.9, "head": 1.6, "": 1.2}
BIAS_DEVIATION = 0.2

Weights = Mapping[str, Tensor]
Network = Callable[[Weights, Mapping[str, Any], Tensor, dict[str, Tensor]], Tensor]


# -- the boosted decoder -------------------------------------------------------------------------------------


def conv(weights: Weights, name: str, value_NCHW: Tensor) -> Tensor:
    """Return the convolution ``name``, with its bias and as much padding as keeps rows and columns."""
    kernel = weights[f"{name}.weight"]
    return F.conv2d(value_NCHW, kernel, weights[f"{name}.bias"], padding=kernel.shape[-1] // 2)


def encode_time(config: Mapping[str, Any], frame_N: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the sines, then the cosines, of base^l · π · t as (N, 2 · levels, 1, 1); t = (i + 1) / T."""
    time_N1 = ((frame_N + 1).to(dtype) / config["num_frames"])[:, None]
    angle_NF = time_N1 * frequencies(config, dtype)
    return torch.cat([angle_NF.sin(), angle_NF.cos()], 1)[:, :, None, None]


def frequencies(config: Mapping[str, Any], dtype: torch.dtype) -> Tensor:
    return torch.tensor([config["base"] ** level * math.pi for level in range(config["levels"])], dtype=dtype)


def mlp(weights: Weights, name: str, value_NF11: Tensor) -> Tensor:
    """Return the chain of 1×1 convolutions ``name``, the sine after each."""
    number = 1
    while f"{name}.conv{number}.weight" in weights:
        value_NF11 = torch.sin(conv(weights, f"{name}.conv{number}", value_NF11))
        number += 1
    return value_NF11


def sft(weights: Weights, name: str, value_NCHW: Tensor, condition_NF11: Tensor) -> Tensor:
    """Return x · (1 + scale) + shift, both from the condition by two layers with a ReLU between."""
    found = [
        conv(weights, f"{name}.{part}.conv2", F.relu(conv(weights, f"{name}.{part}.conv1", condition_NF11)))
        for part in ("scale", "shift")
    ]
    return value_NCHW * (1 + found[0]) + found[1]


def sft_block(weights: Weights, name: str, value_NCHW: Tensor, condition_NF11: Tensor) -> Tensor:
    branch_NCHW = sft(weights, f"{name}.sft1", value_NCHW, condition_NF11)
    branch_NCHW = F.gelu(conv(weights, f"{name}.conv1", branch_NCHW))
    branch_NCHW = sft(weights, f"{name}.sft2", branch_NCHW, condition_NF11)
    return value_NCHW + conv(weights, f"{name}.conv2", branch_NCHW)


def boosted_block(
    weights: Weights, name: str, value_NCHW: Tensor, condition_NF11: Tensor, stride: int
) -> Tensor:
    """Return a block: convolution, depth to space, sine, SFT block; E-NeRV's first stage convolves twice."""
    if f"{name}.conv1.weight" in weights:
        value_NCHW = F.pixel_shuffle(conv(weights, f"{name}.conv1", value_NCHW), stride)
        value_NCHW = conv(weights, f"{name}.conv2", value_NCHW)
    else:
        value_NCHW = F.pixel_shuffle(conv(weights, f"{name}.conv", value_NCHW), stride)
    return sft_block(weights, f"{name}.sft_block", torch.sin(value_NCHW), condition_NF11)


def decode(
    weights: Weights,
    config: Mapping[str, Any],
    value_NCHW: Tensor,
    encoded_NF11: Tensor,
    seen: dict[str, Tensor],
) -> Tensor:
    """Return rgb_NCHW in 0 … 1 from the first map; ``seen`` gets what is there after each part."""
    seen["position_encoding"] = encoded_NF11
    condition_NF11 = seen["condition"] = mlp(weights, "condition", encoded_NF11)
    stages = zip(config["decoder_strides"], config["blocks_per_stage"], strict=True)
    for stage, (stride, count) in enumerate(stages, 1):
        for block in range(1, count + 1):
            name = f"decoder.stage{stage}.block{block}"
            step = stride if block == 1 else 1
            value_NCHW = seen[name] = boosted_block(weights, name, value_NCHW, condition_NF11, step)
    seen["head"] = conv(weights, "head.conv", value_NCHW)
    return (torch.tanh(seen["head"]) + 1) / 2


# -- the networks before it ----------------------------------------------------------------------------------


def nerv_boost(
    weights: Weights, config: Mapping[str, Any], frame_N: Tensor, seen: dict[str, Tensor]
) -> Tensor:
    """Return the frames of NeRV-Boost; its stem fills the first map channel by channel."""
    encoded_NF11 = encode_time(config, frame_N, weights["head.conv.weight"].dtype)
    grid = config["stem_height"], config["stem_width"]
    seen["stem"] = mlp(weights, "stem", encoded_NF11).reshape(len(frame_N), config["stem_channels"], *grid)
    return decode(weights, config, seen["stem"], encoded_NF11, seen)


def enerv_boost(
    weights: Weights, config: Mapping[str, Any], frame_N: Tensor, seen: dict[str, Tensor]
) -> Tensor:
    """Return the frames of E-NeRV-Boost: tokens of space, times those of time, between two transformers."""
    dtype = weights["head.conv.weight"].dtype
    height, width = config["stem_height"], config["stem_width"]
    row_P, col_P = (
        part.flatten() for part in torch.meshgrid(*map(torch.arange, (height, width)), indexing="ij")
    )
    angles = [
        (part / count)[:, None] for part, count in ((row_P.to(dtype), height), (col_P.to(dtype), width))
    ]
    waves = [angle * frequencies(config, dtype) for angle in angles]
    grid_PF = torch.cat([wave for angle in waves for wave in (angle.sin(), angle.cos())], 1)
    token_PF = mlp(weights, "spatial_tokens", grid_PF[:, :, None, None]).flatten(1)
    encoded_NF11 = encode_time(config, frame_N, dtype)
    seen["transformer1"] = transformer(weights, config, 1, token_PF[None])
    seen["time_content"] = mlp(weights, "time_content", encoded_NF11)
    joined_NPF = seen["transformer1"] * seen["time_content"].flatten(1)[:, None]
    seen["transformer2"] = transformer(weights, config, 2, joined_NPF)
    first_NCHW = seen["transformer2"].transpose(1, 2).reshape(len(frame_N), -1, height, width)
    seen["to_conv"] = mlp(weights, "to_conv", first_NCHW)
    return decode(weights, config, seen["to_conv"], encoded_NF11, seen)


def transformer(weights: Weights, config: Mapping[str, Any], number: int, token_NPF: Tensor) -> Tensor:
    """Return tokens after attention and two layers with a GELU between, each added to its input."""
    name, heads, channels = f"transformer{number}", config["heads"][number - 1], config["head_channels"]
    rows = F.linear(token_NPF, weights[f"{name}.attention.query_key_value.weight"])
    query, key, value = rows.unflatten(2, (3, heads, channels)).permute(2, 0, 3, 1, 4)
    mixed = torch.softmax(query @ key.transpose(2, 3) / math.sqrt(channels), 3) @ value
    token_NPF = token_NPF + linear(weights, f"{name}.attention.output", mixed.transpose(1, 2).flatten(2))
    hidden_NPF = F.gelu(linear(weights, f"{name}.feed_forward.linear1", token_NPF))
    return token_NPF + linear(weights, f"{name}.feed_forward.linear2", hidden_NPF)


def linear(weights: Weights, name: str, value: Tensor) -> Tensor:
    return F.linear(value, weights[f"{name}.weight"], weights[f"{name}.bias"])


# -- the network to draw -------------------------------------------------------------------------------------


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the kernels of NeRV-Boost by name; each has a bias of its first length."""
    encoded, condition = 2 * config["levels"], config["condition_channels"]
    first = config["stem_channels"] * config["stem_height"] * config["stem_width"]
    found = {
        "stem.conv1": (config["stem_hidden"], encoded, 1, 1),
        "stem.conv2": (first, config["stem_hidden"], 1, 1),
        "condition.conv1": (2 * condition, encoded, 1, 1),
        "condition.conv2": (condition, 2 * condition, 1, 1),
    }
    kernel = min(config["kernel_max"], config["kernel_cap"])
    for stage, (stride, count) in enumerate(
        zip(config["decoder_strides"], config["blocks_per_stage"], strict=True), 1
    ):
        before, after = config["widths"][stage - 1 : stage + 1]
        for block in range(1, count + 1):
            inputs, step = (before, stride) if block == 1 else (after, 1)
            name = f"decoder.stage{stage}.block{block}"
            size = min(config["kernel_min"] + 2 * (stage - 1), kernel)
            found[f"{name}.conv"] = (after * step**2, inputs, size, size)
            found |= {f"{name}.sft_block.conv{n}": (after, after, 3, 3) for n in (1, 2)}
            for part in (f"{name}.sft_block.sft{n}.{half}" for n in (1, 2) for half in ("scale", "shift")):
                found[f"{part}.conv1"] = (condition, condition, 1, 1)
                found[f"{part}.conv2"] = (after, condition, 1, 1)
    return found | {"head.conv": (3, config["widths"][-1], 1, 1)}


def draw(config: Mapping[str, Any], seed: int) -> dict[str, Tensor]:
    """Return random float32 weights, large enough that each matters."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes(config).items():
        gain = next(value for part, value in GAINS.items() if part in name)
        kernel = torch.randn(shape, generator=generator) * gain / math.sqrt(math.prod(shape[1:]))
        weights[f"{name}.weight"] = kernel
        weights[f"{name}.bias"] = BIAS_DEVIATION * torch.randn(shape[0], generator=generator)
    return weights


def run(
    network: Network, weights: Weights, config: Mapping[str, Any], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Return outputs and stages, under their names in the file, computed in ``dtype``."""
    seen: dict[str, Tensor] = {}
    own = {name: value.to(dtype) for name, value in weights.items()}
    frames = network(own, config, torch.tensor(config["frames"]), seen)
    return {"output/frames": frames} | {f"stage/{name}": value for name, value in seen.items()}


# -- files ---------------------------------------------------------------------------------------------------


def check_on(network: Network, path: Path) -> None:
    """Raise ValueError unless ``network`` arrives at every value of the golden file at ``path``."""
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
        golden = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    weights = {name.removeprefix("weight/"): v for name, v in golden.items() if name.startswith("weight/")}
    found = run(network, weights, config, torch.float64)
    expected = {name for name in golden if name.partition("/")[0] in ("output", "stage")}
    if found.keys() != expected:
        raise ValueError(f"{path.name}: computed {sorted(found)}, the file has {sorted(expected)}")
    for name in sorted(expected):
        value, wanted = found[name][: len(golden[name])], golden[name].double()
        limit = (1e-9 if golden[name].dtype == torch.float64 else 1.2e-7) * max(1, float(wanted.abs().max()))
        error = float((value - wanted).abs().max())
        if value.shape != wanted.shape or not error <= limit:
            raise ValueError(f"{path.name}: {name} is {error:.1e} off, allowed {limit:.1e}")


def make(path: Path, config: Mapping[str, Any], seed: int) -> None:
    """Write the golden tensors of NeRV-Boost with ``config``."""
    weights, frame_N = draw(config, seed), torch.tensor(config["frames"])
    exact, single = (run(nerv_boost, weights, config, dtype) for dtype in (torch.float64, torch.float32))
    spread = {name: float((single[name] - value).abs().max()) for name, value in exact.items()}
    shortened = [n for n, v in exact.items() if n.startswith("stage/") and v.numel() > LARGEST_MAP]
    tensors = {f"weight/{name}": value for name, value in weights.items()}
    tensors |= {
        "input/frame_index": frame_N,
        "input/time": (frame_N + 1).double() / config["num_frames"],
        "output/frames": exact["output/frames"].contiguous(),
    }
    for name in exact.keys() - {"output/frames"}:
        value = exact[name][:1] if name in shortened else exact[name]
        tensors[name] = value.float().contiguous()
    extra = {
        "first_listed_frame_only": sorted(shortened),
        "smallest_change_when_a_tensor_is_reversed": smallest_effect(weights, config, exact["output/frames"]),
    }
    metadata = {
        "fixture": path.stem,
        "seed": str(seed),
        "source": f"{Path(__file__).name}, version 1: written from the paper, not from its code",
        "torch": torch.__version__.partition("+")[0],
        "num_weights": str(sum(value.numel() for value in weights.values())),
        "config": json.dumps(config),
        "float32_spread": json.dumps(spread),
        "extra": json.dumps(extra),
    }
    save_file(tensors, path, metadata)


def smallest_effect(weights: Weights, config: Mapping[str, Any], frames_NCHW: Tensor) -> float:
    """Return by how much the frames change at least when the numbers of one tensor are reversed."""
    effects = []
    for name, value in weights.items():
        changed = {**weights, name: value.flatten().flip(0).view(value.shape)}
        moved_NCHW = run(nerv_boost, changed, config, torch.float64)["output/frames"]
        effects.append(float((moved_NCHW - frames_NCHW).abs().max()))
    return min(effects)


def main() -> None:
    torch.set_num_threads(1)
    check_on(enerv_boost, FOLDER / "enerv_boost.safetensors")
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER / "nerv_boost.safetensors"
    make(path, CONFIG, SEED)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
