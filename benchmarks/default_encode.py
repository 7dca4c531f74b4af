"""What `vinr encode` with defaults gives, from the outside: seconds, bytes, and quality of the decoded file.

Bunny, centre-crop 640×1280, area-averaged to 160×320, all 132 frames. The clock runs from the
start of the command to its end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import _record
from vinr.video.samples import sample_clip

EDIT = ["--crop", "640x1280", "--resize", "160x320"]


def vinr(*arguments: str) -> tuple[str, float]:
    """Run a command; return what it printed and how many seconds it took."""
    started = time.perf_counter()
    run = [sys.executable, "-m", "vinr", *arguments]
    printed = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    return printed, time.perf_counter() - started


def main() -> None:
    """Encode and evaluate a few times, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1)
    runs = parser.parse_args().runs
    clip = str(sample_clip("bigbuckbunny.mp4"))
    rows = []
    for number in range(runs):
        with TemporaryDirectory() as folder:
            file = Path(folder) / "bunny.vinr"
            printed, seconds = vinr(
                "encode", clip, str(file), *EDIT, "--json", "--set", "compress.audio=false"
            )
            report = json.loads(printed)
            evaluation = json.loads(vinr("eval", str(file), clip, "--json")[0])
            rows.append(
                {
                    "run": number + 1,
                    "seconds": seconds,
                    "epochs": report["num_epochs"],
                    "stored": report["num_parameters"],
                    "file bytes": file.stat().st_size,
                    "bpp": evaluation["bpp"],
                    "PSNR dB": evaluation["psnr_db"],
                    "MS-SSIM (5)": evaluation["ms_ssim"],
                    "decode fps": evaluation["decode_fps"],
                }
            )
            print(rows[-1], flush=True)
    text = f"{__doc__}\n{_record.table(rows)}"
    _record.write(
        "default-encode", f"python benchmarks/default_encode.py --runs {runs}", {"runs": runs}, rows, text
    )


if __name__ == "__main__":
    main()
