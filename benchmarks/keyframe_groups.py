"""What keyframes of D-NeRV cost as images and in groups, and how close they are.

48 keyframes of 16 clips that differ (those of the recipe `vinr-diverse`: 16 frames of 64×64 each, from
bmx-trees, bikes, carphone and Bunny), and the 18 of Bunny, centre-crop 640×1280, area-averaged to 160×320,
132 frames. Images are AVIF, groups AV1 streams of so many keyframes that follow one another, the last one of
fewer. PSNR of RGB, mean and lowest of the keyframes, is that of what every reader decodes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

import _record
from vinr.bench.datasets import find_clips
from vinr.bench.experiments.clips import chosen_parts, cut_clips, join
from vinr.models.layers.clips import ClipLayout
from vinr.models.layers.keyframes import Keyframes
from vinr.quality.measures import psnr_from_mse_db
from vinr.video.samples import sample_clip
from vinr.video.source import FrameTensor, open_video
from vinr.video.stills import Chroma

QUALITIES = (20, 30, 40, 50, 60, 70, 80)
CODINGS: tuple[tuple[Chroma, int], ...] = (
    ("4:4:4", 1),
    ("4:2:0", 1),
    ("4:2:0", 2),
    ("4:2:0", 4),
    ("4:2:0", 8),
    ("4:2:0", 16),
    ("4:2:0", 48),
)
CLIP_LENGTH = 8


def diverse(data: Path | None) -> FrameTensor:
    """Return the clips of `vinr-diverse`, one after another."""
    parts = []
    for path in find_clips("davis/bmx-trees+bikes+carphone+bunny", data):
        with open_video(path, resize=(64, 128), frames=(0, 80)) as reader:
            parts.append(cut_clips(reader.read(), (1, 2), 16))
    return join(chosen_parts(parts, 16))


def bunny() -> FrameTensor:
    """Return Bunny at 160×320."""
    with open_video(sample_clip(), crop=(640, 1280), resize=(160, 320)) as reader:
        return reader.read()


def measure(name: str, frames: FrameTensor) -> Iterator[dict[str, Any]]:
    """Yield a row for each coding and quality."""
    numbers = tuple(ClipLayout(frames.spec.span_lengths, CLIP_LENGTH).keyframes)
    for quality in QUALITIES:
        for chroma, group in CODINGS:
            keyframes = Keyframes(numbers, frames.spec, quality=quality, chroma=chroma, group=group)
            keyframes.code(frames)
            found = [
                _psnr(keyframes.read(number), frames.rgb_NCHW[frame]) for number, frame in enumerate(numbers)
            ]
            yield {
                "keyframes": name,
                "quality": quality,
                "coded as": f"images {chroma}" if group == 1 else f"groups of {group}",
                "bytes": keyframes.num_bytes,
                "psnr_db": mean(found),
                "lowest_db": min(found),
            }


def _psnr(shown_CHW: Tensor, original_CHW: Tensor) -> float:
    error_CHW = (shown_CHW.double() - original_CHW.double()) / 255
    return float(psnr_from_mse_db(error_CHW.square().mean()))


def main() -> None:
    """Measure both sets, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of data sets, for bmx-trees")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [*measure("diverse, 48 of 64×64", diverse(given.data)), *measure("Bunny, 18 of 160×320", bunny())]
    shown = [
        {
            **{key: row[key] for key in ("keyframes", "quality", "coded as")},
            "bytes": f"{row['bytes']:,}",
            "PSNR, dB": f"{row['psnr_db']:.2f}",
            "lowest, dB": f"{row['lowest_db']:.2f}",
        }
        for row in rows
    ]
    settings = {"clip_length": CLIP_LENGTH, "qualities": QUALITIES}
    command = "python benchmarks/keyframe_groups.py --data DATA"
    _record.write("keyframe-groups", command, settings, rows, f"{__doc__}\n{_record.table(shown)}")


if __name__ == "__main__":
    main()
