"""What does `--psnr` cost in bytes, and how is a fitted network best coded more coarsely?

48 frames of two clips, 90 rows high, 16 epochs of vinr's recipe. "spare" is how much lower the PSNR that is
asked for lies than that of the encode without a target, whose network it has. Below each the same bytes asked
for as `--size`, which chooses a smaller network. PSNR is that of the decoded file, mean of frames.

The second table codes the network of the encode without a target in other ways, without training: its steps
times a factor, or its values drawn towards zero before they are rounded, by a share of a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

import vinr
from benchmarks import _record
from vinr.compress import pack_tensors
from vinr.compress.pipeline import PackedTensors
from vinr.encoding.segment import FittedSegment
from vinr.encoding.segment_work import SegmentWork
from vinr.fit import FitResult
from vinr.models import StoredTensor
from vinr.quality.clip import compare
from vinr.video.samples import sample_clip
from vinr.video.source import FrameTensor

CLIPS = ("bikes", "bigbuckbunny")
FRAMES, ROWS, EPOCHS = 48, "90p", 16
SPARE_DB = (0.0, 1.0, 3.0)
FACTORS = (0.7, 1.0, 1.02, 1.1, 1.5, 2.0, 3.0)
DRAWS = (0.02, 0.1, 0.2, 0.49)


def encode(clip: str, asked: str, **target: Any) -> dict[str, Any]:
    """Encode once; return what it came to."""
    with TemporaryDirectory() as folder:
        report = vinr.encode(
            str(sample_clip(f"{clip}.mp4")),
            Path(folder) / "a.vinr",
            resize=ROWS,
            frames=(0, FRAMES),
            epochs=EPOCHS,
            device="cpu",
            overrides=["compress.audio=false"],
            **target,
        )
    row = {"clip": clip, "asked for": asked, "parameters": report.num_parameters}
    row |= {"bytes": report.num_bytes, "PSNR dB": report.psnr_db}
    print(row, flush=True)
    return row


def drawn(value: Tensor, step: Tensor, share: float) -> Tensor:
    """Return values nearer to zero by ``share`` of their step, which is one, or one per first index."""
    distance = (share * step).to(value)
    distance = distance.view(-1, *[1] * (value.ndim - 1)) if value.ndim else distance[0]
    return value.sign() * (value.abs() - distance).clamp_min(0)


def coded_otherwise(work: SegmentWork, result: FitResult, frames: FrameTensor) -> Iterator[dict[str, Any]]:
    """Yield a row for each way of coding a fitted network."""
    stored = result.model.stored()

    def measured(way: str, tensors: dict[str, StoredTensor], steps: dict[str, Tensor]) -> dict[str, Any]:
        packed: PackedTensors = pack_tensors(tensors, work.preset.compress, steps=steps)
        segment = FittedSegment.of(work.preset, result, packed, frames.spec)
        with segment.open(frames.spec, "cpu") as decoder:
            return {"coded": way, "bytes": packed.num_bytes, "PSNR dB": compare(decoder, frames).psnr_db}

    for factor in FACTORS:
        yield measured(
            f"steps × {factor:g}", stored, {name: factor * step for name, step in result.steps.items()}
        )
    for share in DRAWS:
        tensors = dict(stored)
        for name, step in result.steps.items():
            value = drawn(stored[name].value.detach(), step, share)
            tensors[name] = replace(stored[name], value=value)
        yield measured(f"values drawn by {share:g} of a step", tensors, dict(result.steps))


@contextmanager
def recoded(rows: list[dict[str, Any]], clip: str) -> Iterator[None]:
    """Add to ``rows`` how the networks that are fitted in the body are coded otherwise."""
    coded = SegmentWork.code

    def watched(self: SegmentWork, result: FitResult, frames: FrameTensor, *others: Any) -> FittedSegment:
        rows.extend({"clip": clip, **row} for row in coded_otherwise(self, result, frames))
        return coded(self, result, frames, *others)

    with patch.object(SegmentWork, "code", watched):
        yield


def main() -> None:
    """Encode all and write both tables."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    ways: list[dict[str, Any]] = []
    for clip in CLIPS:
        with recoded(ways, clip):
            usual = encode(clip, "nothing")
        rows.append(usual)
        for spare in SPARE_DB:
            psnr = round(usual["PSNR dB"] - spare, 2)
            rows.append(encode(clip, f"{psnr:g} dB ({spare:g} dB spare)", psnr=psnr))
            if spare:
                size = rows[-1]["bytes"]
                rows.append(encode(clip, f"{size:,} bytes", size=size))
    settings = {"frames": FRAMES, "rows": ROWS, "epochs": EPOCHS}
    text = f"{__doc__}\n{_record.table(rows)}\n\n{_record.table(ways)}"
    _record.write("quality-target", "python -m benchmarks.quality_target", settings, [*rows, *ways], text)


if __name__ == "__main__":
    main()
