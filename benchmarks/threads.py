"""What does a second thread bring, and what does waiting cost? A training step of the usual network.

"cpu s" is the time that all threads computed for a step, "s" what passed. With OMP_WAIT_POLICY=PASSIVE, which
the command line sets, threads that wait give the CPU away; without it they compute while they wait. The
machine's two cores had other work for about ten processes meanwhile: the case that the setting is for.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

from benchmarks import _record

SIZES = ((64, 96), (90, 160), (180, 320))
WAYS = ((1, "active"), (2, "active"), (2, "passive"))
SECONDS = 4.0


def measure(threads: int, height: int, width: int) -> dict[str, Any]:
    """Return the time of a step in this process."""
    import torch

    from vinr.encoding.plan import plan_encode
    from vinr.fit import Trainer
    from vinr.video.source import FrameTensor
    from vinr.video.spec import VideoSpec

    torch.set_num_threads(threads)
    spec = VideoSpec(48, height, width)
    frames = FrameTensor(torch.zeros(48, 3, height, width, dtype=torch.uint8), spec)
    trainer = Trainer(frames, plan_encode([spec]).presets[0])
    batch, count = trainer.batches.of_epoch(0)[0], 0
    with trainer.computing():
        trainer.train_on(batch)
        wall, cpu = time.monotonic(), time.process_time()
        while time.monotonic() - wall < SECONDS:
            trainer.train_on(batch)
            count += 1
        return {"s": (time.monotonic() - wall) / count, "cpu s": (time.process_time() - cpu) / count}


def write(rows: list[dict[str, Any]]) -> None:
    """Write the page."""
    _record.write("threads", "python -m benchmarks.threads", {}, rows, f"{__doc__}\n{_record.table(rows)}")


def main() -> None:
    """Measure each size in each way, in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=3, type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(*given.one)))
        return
    rows = []
    for height, width in SIZES:
        for threads, waiting in WAYS:
            wait = {"OMP_WAIT_POLICY": "PASSIVE"} if waiting == "passive" else {}
            command = [
                sys.executable,
                "-m",
                "benchmarks.threads",
                "--one",
                *map(str, (threads, height, width)),
            ]
            kept = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
            printed = subprocess.run(command, env=kept | wait, capture_output=True, check=True).stdout
            rows.append({"size": f"{width}×{height}", "threads": threads, "waiting": waiting})
            rows[-1] |= json.loads(printed)
    write(rows)


if __name__ == "__main__":
    main()
