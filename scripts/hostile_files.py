"""Try `info`, `verify` and the first frame on hostile files of less than 10 kB; print CPU seconds and memory.

Fails where one takes more than 10 CPU seconds or 1 GB, the reader's own start included (docs/format.md, 8).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from bombs import bombs

MAX_SECONDS, MAX_GB, MAX_FILE = 10.0, 1.0, 10_000
FIRST_FRAME = "import sys, vinr\nwith vinr.open(sys.argv[1] + sys.argv[2], device='cpu') as video: video[0]"


def tried(command: list[str]) -> tuple[float, float, str]:
    """Return CPU seconds, peak memory in GB, and the last line said."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    said = process.stdout.read().decode().strip().splitlines() or ["-"]
    _, _, usage = os.wait4(process.pid, 0)
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9, said[-1]


def main() -> None:
    """Try all, or those whose name holds a word."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("word", nargs="?", default="")
    word = parser.parse_args().word
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for name, content in bombs().items():
            if word not in name:
                continue
            path = Path(folder) / "bomb.vinr"
            path.write_bytes(content)
            first = f"#{'0'}" if "clips" in name else ""
            commands = {
                "info": [sys.executable, "-m", "vinr", "info", str(path)],
                "verify": [sys.executable, "-m", "vinr", "verify", str(path), "--device", "cpu"],
                "first frame": [sys.executable, "-c", FIRST_FRAME, str(path), first],
            }
            for what, command in commands.items():
                seconds, gigabytes, said = tried(command)
                bad = seconds > MAX_SECONDS or gigabytes > MAX_GB or len(content) > MAX_FILE
                failed |= bad
                print(
                    f"{'FAILED ' if bad else ''}{name} ({len(content)} bytes), {what}: {seconds:.1f} CPU s, "
                    f"{gigabytes:.2f} GB: {said[:150]}",
                    flush=True,
                )
    sys.exit(failed)


if __name__ == "__main__":
    main()
