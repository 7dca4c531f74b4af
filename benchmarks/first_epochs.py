"""How good is a picture after the first few epochs, and does a smaller network get there sooner?

48 frames of three clips, 90 and 180 rows high, vinr's recipe from start to end in so many epochs, with the
network that is chosen for the clip and, at 180 rows, with one of a quarter of its parameters. PSNR is that of
the decoded file. Seconds are those of the whole encode, on one thread of a machine that had other work: they
compare neighbouring rows roughly, no more.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import vinr
from benchmarks import _record
from vinr.video.samples import sample_clip

CLIPS = ("bikes", "bigbuckbunny", "carphone_pristine")
FRAMES = 48
EPOCHS = {"90p": (1, 2, 4, 8, 16, 32), "180p": (1, 2, 4, 8, 16)}
QUARTER = 0.25


def encode(clip: str, size: str, epochs: int, params: int | None) -> dict[str, Any]:
    """Encode once; return what it came to."""
    source = str(sample_clip(f"{clip}.mp4"))
    with TemporaryDirectory() as folder:
        began = time.perf_counter()
        report = vinr.encode(
            source,
            Path(folder) / "a.vinr",
            resize=size,
            frames=(0, FRAMES),
            epochs=epochs,
            params=params,
            device="cpu",
        )
        seconds = time.perf_counter() - began
    return {
        "clip": clip,
        "rows": size,
        "network": "usual" if params is None else "a quarter",
        "parameters": report.num_parameters,
        "epochs": epochs,
        "steps": epochs * -(-FRAMES // 2),
        "PSNR dB": report.psnr_db,
        "seconds": seconds,
    }


def write(rows: list[dict[str, Any]]) -> None:
    """Write the page."""
    command = "python -m benchmarks.first_epochs"
    _record.write("first-epochs", command, {"frames": FRAMES}, rows, f"{__doc__}\n{_record.table(rows)}")


def main() -> None:
    """Encode all and write the table."""
    torch.set_num_threads(1)
    rows = []
    for size, all_epochs in EPOCHS.items():
        for clip in CLIPS:
            for epochs in all_epochs:
                rows.append(encode(clip, size, epochs, None))
                if size == "180p":
                    params = round(QUARTER * rows[-1]["parameters"])
                    rows.append(encode(clip, size, epochs, params))
    write(rows)


if __name__ == "__main__":
    main()
