"""What hostile files of less than 10 kB cost: `vinr info`, `vinr verify` and the first frame.

The files are those of `tests/bombs.py`: feature maps, work, frames, times, spans, clips, networks, chunks,
parameters and keyframes, each driven as far as a file of such a size can be. CPU seconds and peak memory are
those of the whole command, the start of Python and PyTorch included. Limits: 10 CPU seconds and 1 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "tests")]

import _record  # noqa: E402
from bombs import bombs  # noqa: E402

MAX_SECONDS: Final = 10.0
MAX_GB: Final = 1.0
MAX_FILE: Final = 10_000
SHOWN: Final = 110
FIRST_FRAME: Final = (
    "import sys, vinr\n"
    "try:\n"
    "    with vinr.open(sys.argv[1], device='cpu') as video: print(tuple(video[0].shape))\n"
    "except vinr.VinrError as error:\n"
    "    sys.exit(str(error))\n"
)


def run(command: list[str]) -> tuple[float, float, str]:
    """Return CPU seconds, peak memory in GB, and the last line printed."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    lines = process.stdout.read().decode().strip().splitlines() or ["-"]
    _, _, usage = os.wait4(process.pid, 0)
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9, lines[-1]


def try_file(name: str, content: bytes, folder: Path) -> list[dict[str, Any]]:
    """Return a row for each command."""
    path = folder / "bomb.vinr"
    path.write_bytes(content)
    first = f"{path}#0" if "clips" in name else str(path)
    commands = {
        "info": [sys.executable, "-m", "vinr", "info", str(path)],
        "verify": [sys.executable, "-m", "vinr", "verify", str(path), "--device", "cpu"],
        "first frame": [sys.executable, "-c", FIRST_FRAME, first],
    }
    rows = []
    for what, command in commands.items():
        seconds, gigabytes, line = run(command)
        row = {
            "file": name,
            "bytes": len(content),
            "command": what,
            "CPU s": round(seconds, 1),
            "GB": round(gigabytes, 2),
            "last line": line.replace(str(path), "bomb.vinr"),
        }
        print(f"{'TOO MUCH ' if is_too_much(row) else ''}{row}", flush=True)
        rows.append(row)
    return rows


def is_too_much(row: dict[str, Any]) -> bool:
    """Return whether a command took more than it may, or the file is too large to count."""
    return bool(row["CPU s"] > MAX_SECONDS or row["GB"] > MAX_GB or row["bytes"] >= MAX_FILE)


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the table."""
    line = " ".join(row["last line"].split()).replace("|", "\\|")
    return row | {
        "CPU s": f"{row['CPU s']:.1f}",
        "GB": f"{row['GB']:.2f}",
        "last line": line if len(line) <= SHOWN else line[: SHOWN - 1] + "…",
    }


def report(rows: list[dict[str, Any]]) -> None:
    """Write the results."""
    failed = sum(map(is_too_much, rows))
    text = f"{__doc__}\nToo much: {failed} of {len(rows)}.\n\n{_record.table([shown(row) for row in rows])}"
    settings = {"max_seconds": MAX_SECONDS, "max_gb": MAX_GB, "max_file_bytes": MAX_FILE}
    _record.write("soak/hostile-files", "python benchmarks/soak/hostile_files.py", settings, rows, text)


def main() -> None:
    """Try all files, but for those in the file of rows, and write the results; or try one and write none."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, default=Path("hostile-files.rows.json"), help="finished rows")
    parser.add_argument("--only", help="the file whose name is this; nothing is kept")
    given = parser.parse_args()
    files = bombs()
    with tempfile.TemporaryDirectory() as folder:
        if given.only is not None:
            rows = try_file(given.only, files[given.only], Path(folder))
            sys.exit(any(map(is_too_much, rows)))
        rows = json.loads(given.rows.read_text(encoding="utf-8")) if given.rows.exists() else []
        finished = {row["file"] for row in rows}
        for name in (name for name in files if name not in finished):
            rows += try_file(name, files[name], Path(folder))
            given.rows.write_text(json.dumps(rows), encoding="utf-8")
    order = list(files)
    report(sorted(rows, key=lambda row: order.index(row["file"])))
    sys.exit(any(map(is_too_much, rows)))


if __name__ == "__main__":
    main()
