"""What does `--psnr` cost in bytes, and how is a fitted network best coded more coarsely?

48 frames of two clips, 90 rows high, 16 epochs of vinr's recipe. "spare" is how much lower the PSNR that is
asked for lies than that of the encode without a target, whose network it has. "dearer" lets the rate weigh as
much while the network trains as the PSNR to spare allows, in place of the recipe's 0.1 at most. Below each
about as many bytes asked for as `--size`, which chooses a smaller network. PSNR is that of the decoded file,
mean of frames.

The second table codes the network of the encode without a target in other ways, without training: its steps
times a factor, or its values drawn towards zero before they are rounded, by a share of a step.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
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
DEARER = (
    'fit.phases=[{share=0.35, quantization="entropy", rate_weight=1.2, rate_moves="steps", initial_bits=5.3}]'
)
FACTORS = (0.7, 1.0, 1.02, 1.1, 1.5, 2.0, 3.0)
DRAWS = (0.02, 0.1, 0.2, 0.49)


def encode(clip: str, asked: str, *overrides: str, **target: Any) -> dict[str, Any]:
    """Encode once; return what it came to."""
    with TemporaryDirectory() as folder:
        report = vinr.encode(
            str(sample_clip(f"{clip}.mp4")),
            Path(folder) / "a.vinr",
            resize=ROWS,
            frames=(0, FRAMES),
            epochs=EPOCHS,
            device="cpu",
            overrides=["compress.audio=false", *overrides],
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


class Rows:
    """The rows of a folder, each of which is measured once: an interrupted run goes on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)

    def of(self, name: str, measure: Callable[[], Any]) -> Any:
        """Return what ``measure`` returned for the row ``name``, in this run or an earlier one."""
        path = self._folder / f"{name}.json"
        if not path.exists():
            path.write_text(json.dumps(measure()), encoding="utf-8")
        return json.loads(path.read_text(encoding="utf-8"))


def measure_clip(clip: str, rows: Rows) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of both tables for a clip."""

    def measure_usual() -> dict[str, Any]:
        ways: list[dict[str, Any]] = []
        with recoded(ways, clip):
            usual = encode(clip, "nothing")
        return {"usual": usual, "ways": ways}

    measured = rows.of(f"{clip}-nothing", measure_usual)
    found, usual_db = [measured["usual"]], measured["usual"]["PSNR dB"]
    for spare in SPARE_DB:
        psnr, name = round(usual_db - spare, 2), f"{clip}-{spare:g}"
        asked = partial(encode, clip, f"{psnr:g} dB ({spare:g} dB spare)", psnr=psnr)
        found.append(rows.of(name, asked))
        if spare:
            size = found[-1]["bytes"]
            dearer = partial(encode, clip, f"{psnr:g} dB, dearer", DEARER, psnr=psnr)
            found.append(rows.of(f"{name}-dearer", dearer))
            found.append(rows.of(f"{name}-size", partial(encode, clip, f"{size:,} bytes", size=size)))
    return found, measured["ways"]


def main() -> None:
    """Measure all that is not measured yet and write both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, default=Path("quality-target.rows"), help="folder of the rows")
    given = parser.parse_args()
    torch.set_num_threads(1)
    tables: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for clip in CLIPS:
        for table, rows in zip(tables, measure_clip(clip, Rows(given.rows)), strict=True):
            table.extend(rows)
    settings = {"frames": FRAMES, "rows": ROWS, "epochs": EPOCHS}
    text = f"{__doc__}\n{_record.table(tables[0])}\n\n{_record.table(tables[1])}"
    command = "python -m benchmarks.quality_target"
    _record.write("quality-target", command, settings, [*tables[0], *tables[1]], text)


if __name__ == "__main__":
    main()
