"""The quantised checkpoint of HNeRV that its authors publish: its layout, and the network it holds.

::

    document  "embed"  {quant (T, d, h, w), min, scale}             embeddings of all frames
              "model"  name ─> {quant, min, scale}                  decoder and head, no encoder

``quant`` are uint8 codes; ``min`` and ``scale`` are single numbers (float32), or have size 1 along one axis
and the size of ``quant`` along the others (float16): value = min + scale · code, in float32. The
architecture is not stated; all of it but the activation and the last step follows from the shapes.

Axes: T frames, d channels and h × w cells of an embedding; convolution weights are (out, in, k, k).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from operator import itemgetter
from typing import Any, Final

import torch
from torch import Tensor

from vinr.errors import InputError, plural
from vinr.models.base import StoredTensor, plain_stored
from vinr.models.hnerv import HNeRV, HNeRVConfig
from vinr.video.spec import VideoSpec

MODEL: Final = HNeRV.__module__.rpartition(".")[2]
EMBEDDING: Final = "latents.embedding"
# Theirs to ours; group 1 is the number of the block, where there is one, group "kind" weight or bias.
NAMES: Final = (
    (re.compile(r"decoder\.0\.conv\.downconv\.(?P<kind>weight|bias)"), "stem.conv"),
    (re.compile(r"decoder\.([1-9]\d{0,2})\.conv\.upconv\.0\.(?P<kind>weight|bias)"), "blocks.{}.conv"),
    (re.compile(r"head_layer\.(?P<kind>weight|bias)"), "head"),
)
# What data-parallel training and earlier versions of the code put into names.
PREFIX, INFIX = "module.", "blocks.0."
LAYOUT: Final = "a quantised checkpoint has 'embed' and 'model', each tensor as quant, min and scale"


@dataclass(frozen=True)
class PublishedNetwork:
    """A network of a checkpoint: architecture, size of its video, and float32 tensors as a model stores them.

    ``architecture`` holds what follows from the shapes; all else has the defaults of ``model``.
    """

    model: str
    architecture: dict[str, Any]
    num_frames: int
    height: int
    width: int
    stored: dict[str, StoredTensor] = field(repr=False)


def read_published(document: object) -> PublishedNetwork:
    """Return the network of a loaded checkpoint; nothing in ``document`` is trusted.

    Raises
    ------
    InputError
        Naming the first thing that is missing, unknown, or of a shape that does not fit the others.
    """
    if isinstance(document, Mapping) and "state_dict" in document:
        raise InputError(
            "a training checkpoint, which holds no embeddings; give the quantised one saved beside it"
        )
    embed, model = _parts(document, ("embed", "model"), "the checkpoint")
    if not isinstance(model, Mapping):
        raise InputError(f"'model' is a {type(model).__name__}; {LAYOUT}")
    tensors, stored = {}, {}
    for name, entry in model.items():
        stored_name = _stored_name(name)
        tensors[stored_name] = dequantise(entry, name=str(name))
        stored[stored_name] = plain_stored(tensors[stored_name])
    if len(tensors) != len(model):
        raise InputError(f"'model' has {len(model)} tensors under {len(tensors)} names; {LAYOUT}")
    embedding_Tdhw = dequantise(embed, name="embed")
    if embedding_Tdhw.ndim != 4 or not embedding_Tdhw.numel():
        raise InputError(
            f"embed has shape {tuple(embedding_Tdhw.shape)}, not (frames, channels, rows, columns)"
        )
    num_frames, channels, rows, columns = embedding_Tdhw.shape
    architecture = _architecture(tensors)
    if channels != architecture["embedding_channels"]:
        raise InputError(
            f"embed has {plural(channels, 'channel')}, the first layer takes "
            f"{architecture['embedding_channels']}"
        )
    # The checkpoint says nothing of padding: a frame is its embedding, enlarged by all strides.
    scale = math.prod(architecture["strides"])
    stored[EMBEDDING] = StoredTensor(embedding_Tdhw, "latent", per_frame=True)
    return PublishedNetwork(
        model=MODEL,
        architecture=architecture,
        num_frames=num_frames,
        height=rows * scale,
        width=columns * scale,
        stored=stored,
    )


def dequantise(entry: object, *, name: str) -> Tensor:
    """Return the float32 values of one ``{quant, min, scale}``.

    Raises
    ------
    InputError
        If parts are missing, of another type, do not fit each other, or give values that are not finite.
    """
    quant, low, scale = _parts(entry, ("quant", "min", "scale"), name)
    for part, what in ((quant, "quant"), (low, "min"), (scale, "scale")):
        if not (isinstance(part, Tensor) and _is_plain(part)):
            raise InputError(f"{name}: {what} is no plain tensor; {LAYOUT}")
    if quant.dtype != torch.uint8 or {low.dtype, scale.dtype} - {torch.float16, torch.float32}:
        raise InputError(
            f"{name}: quant, min, scale are {quant.dtype}, {low.dtype}, {scale.dtype}; "
            "codes must be uint8, the others float16 or float32"
        )
    if not (_spreads(low, quant) and _spreads(scale, quant)):
        shapes = f"{tuple(quant.shape)}, {tuple(low.shape)}, {tuple(scale.shape)}"
        raise InputError(f"{name}: quant, min, scale have shapes {shapes}, which do not fit each other")
    value: Tensor = low.float() + scale.float() * quant.float()
    if not bool(value.isfinite().all()):
        raise InputError(f"{name}: not all values are finite; the checkpoint cannot be decoded")
    return value


def _parts(value: object, names: Sequence[str], what: str) -> list[Any]:
    if not isinstance(value, Mapping) or set(value) != set(names):
        content = sorted(map(str, value))[:5] if isinstance(value, Mapping) else type(value).__name__
        raise InputError(f"{what} holds {content}, not {list(names)}; {LAYOUT}")
    return list(itemgetter(*names)(value))


def _is_plain(value: Tensor) -> bool:
    """Return whether a tensor stores each of its elements.

    One that repeats few may claim any shape, and arithmetic would then fill all memory.
    """
    if value.layout != torch.strided or value.device.type != "cpu":
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _spreads(part: Tensor, quant: Tensor) -> bool:
    """Return whether ``part`` is one number, or one for each fibre of ``quant`` along some axes."""
    if part.ndim == 0:
        return True
    if part.ndim != quant.ndim:
        return False
    return all(side in (1, whole) for side, whole in zip(part.shape, quant.shape, strict=True))


def _stored_name(name: object) -> str:
    """Return our name of a tensor of theirs."""
    plain = str(name).removeprefix(PREFIX).replace(INFIX, "")
    for pattern, stored_name in NAMES:
        if match := pattern.fullmatch(plain):
            # They count blocks from 1.
            number = match[1] if pattern.groups > 1 else "1"
            return f"{stored_name.format(int(number) - 1)}.{match['kind']}"
    raise InputError(f"tensor {str(name)[:80]!r} belongs to no published decoder: {LAYOUT}")


def _architecture(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the architecture whose tensors have exactly these names and shapes."""
    shapes, weights = {}, {}
    for name, value in tensors.items():
        shapes[name] = tuple(value.shape)
        if name.endswith(".weight"):
            weights[name.removesuffix(".weight")] = shapes[name]
    # All layers but stem and head are blocks.
    num_blocks = len(weights) - 2
    layers = ["stem.conv", *map("blocks.{}.conv".format, range(num_blocks)), "head"]
    if num_blocks < 1 or set(layers) != weights.keys():
        raise InputError(f"a layer is missing; there are {', '.join(sorted(weights)[:12])}")
    if set(map(len, weights.values())) != {4}:
        raise InputError("weights must be those of convolutions, (out, in, k, k)")
    convs = [weights[layer] for layer in layers]
    for candidate in _candidates(convs):
        if _shapes_of(candidate) == shapes:
            return candidate
    raise InputError(f"no decoder has weights of these shapes together: {', '.join(map(str, convs[:10]))}")


def _candidates(convs: Sequence[tuple[int, ...]]) -> Iterator[dict[str, Any]]:
    """Yield architectures with as many blocks as there are between stem and head of ``convs``.

    A block turns in channels to out = s² · (in channels of the next layer); where a stage has several
    blocks, all but its first have s = 1.
    """
    # stem (·, d, ·, ·) ─> block (s² · w1, w0, k, k) ─> block (s² · w2, w1, k, k) ─> … ─> head (3, wn, k, k)
    widths, strides, kernels = [convs[1][1]], [], []
    for (out, _, kernel, _), (_, after, _, _) in pairwise(convs[1:]):
        widths.append(after)
        strides.append(math.isqrt(out // max(after, 1)))
        kernels.append(kernel)
    for blocks in range(1, len(strides) + 1):
        # Every ``blocks``-th convolution begins a stage: it upsamples, and has the stage's width.
        if len(strides) % blocks == 0:
            yield {
                "strides": strides[::blocks],
                "widths": [widths[0], *widths[blocks::blocks]],
                "kernel_min": kernels[0],
                "kernel_max": max(kernels),
                "head_kernel": convs[-1][2],
                "embedding_channels": convs[0][1],
                "blocks_per_stage": blocks,
            }


def _shapes_of(architecture: Mapping[str, Any]) -> dict[str, tuple[int, ...]] | None:
    """Return name → shape of all fixed tensors of an architecture; None where there can be none such."""
    try:
        config = HNeRVConfig.model_validate(architecture)
    except ValueError:
        return None
    scale = math.prod(config.strides)
    skeleton = HNeRV.on_meta(config, VideoSpec(1, scale, scale))
    return {name: tuple(item.value.shape) for name, item in skeleton.stored().items() if not item.per_frame}
