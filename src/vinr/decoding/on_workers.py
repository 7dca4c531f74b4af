"""Frames that are decoded on workers, a block at a time, and come in order.

::

    times ──> blocks ──> workers: open the file, decode ──> blocks in order ──> one writer

Each frame is that of a single process. At most two blocks per worker are on their way.

Axes: N frames of a block, C colour channels, H rows, W columns.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vinr.decoding.decoder import VideoDecoder
from vinr.decoding.file import VinrFile
from vinr.decoding.settings import DecodeSettings
from vinr.scale.pool import OnEvent, open_pool
from vinr.scale.workers import Workers
from vinr.video.spec import VideoSpec

# A block is so long that a network, which is loaded anew for it, counts for little; and so small that the
# blocks on their way fit anywhere.
BLOCK_FRAMES: Final = 64
BLOCK_BYTES: Final = 64 * 2**20
OPEN_FILES: Final = 2


@dataclass(frozen=True)
class OpenedAs:
    """How a worker opens the file and the clip: arguments of :meth:`VinrFile.open` and of ``clip``."""

    file: str
    clip: str | None
    device: str
    max_memory: int | str | None
    settings: DecodeSettings | None


@lru_cache(OPEN_FILES)
def _decoder(opened: OpenedAs, changed_ns: int) -> VideoDecoder:
    """Return a decoder that a worker keeps open; ``changed_ns`` tells a file from one in its place."""
    file = VinrFile.open(opened.file, clip=opened.clip, device=opened.device, max_memory=opened.max_memory)
    return file.clip(settings=opened.settings)


@dataclass(frozen=True)
class Block:
    """Frames at ``times`` of a clip."""

    opened: OpenedAs
    changed_ns: int
    times: tuple[float | Fraction, ...]


def decode_block(block: Block, again: bool, on_event: OnEvent) -> NDArray[Any]:
    """Return the frames of a block in a worker, rgb_NCHW as levels."""
    decoder = _decoder(block.opened, block.changed_ns)
    return torch.cat(list(decoder.play(block.times))).numpy()


def play_on_workers(
    workers: Workers, opened: OpenedAs, spec: VideoSpec, times: Iterable[float | Fraction]
) -> Generator[Tensor]:
    """Yield the frames at ``times``, of a clip of ``spec``, in order: rgb_NCHW, a block at a time.

    Raises
    ------
    UsageError, InputError, BitstreamError
        As from a decoder of this process.
    """
    frame_bytes = (3 if spec.bit_depth == 8 else 6) * spec.height * spec.width
    length = max(min(BLOCK_FRAMES, BLOCK_BYTES // frame_bytes), 1)
    changed_ns = os.stat(opened.file.partition("#")[0]).st_mtime_ns
    blocks, left = [], iter(times)
    while part := tuple(islice(left, length)):
        blocks.append(Block(opened, changed_ns, part))
    with open_pool(workers) as pool:
        ends = pool.run(decode_block, blocks, on_event=lambda number, event: None, in_order=True)
        with closing(ends):
            for ended in ends:
                # What comes from another process may not be written to, which PyTorch would let one do.
                yield torch.from_numpy(np.array(ended.value()))
