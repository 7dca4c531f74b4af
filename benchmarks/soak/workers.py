"""Kills workers, drivers and the head of a cluster at random moments, and compares the bytes at last.

Each trial encodes one clip in segments on two workers, as `python -m vinr encode --workers 2` does. At a
random moment SIGKILL ends one worker, all workers, or the driver; of some trials the head of a cluster that
was started for it, with all its processes. After a driver or a head the command is repeated with --resume.
Right is what ends with the bytes of the encode that one process does alone, and leaves nothing beside its
output.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from _soak import append_row, read_rows, report_findings, rows_to_report
from ray.util import get_node_ip_address

from clips import moving_shapes, write_clip

KINDS = ("worker", "workers", "driver", "driver", "worker", "driver", "workers", "driver", "worker", "head")
NUM_SEGMENTS, FRAMES = 4, 6
OPTIONS = (
    *("--preset", "nerv-tiny", "--epochs", "12", "--device", "cpu", "--segment", f"{FRAMES}f"),
    *("--set", "fit.phases=[]", "--set", "fit.precision=fp32"),
)
LIMIT_SECONDS = 600.0
EXTRA_SHARE = 1.05


def vinr(*arguments: str | Path) -> list[str]:
    """Return the command line of a run of vinr."""
    return [sys.executable, "-m", "vinr", *map(str, arguments)]


def descendants(root: int) -> dict[int, str]:
    """Return the processes below ``root``, with their titles."""
    parents, titles = {}, {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = (entry / "status").read_text(encoding="utf-8")
            titles[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        parents[int(entry.name)] = int(status.partition("PPid:")[2].split()[0])
    found, last = set[int](), {root}
    while last:
        last = {number for number, parent in parents.items() if parent in last}
        found |= last
    return {number: titles[number] for number in found}


def workers_of(root: int) -> list[int]:
    """Return the processes below ``root`` that are at a job."""
    return [number for number, title in descendants(root).items() if title.startswith("ray::_perform")]


def kill(processes: Sequence[int]) -> int:
    """Kill processes; return how many there were."""
    count = 0
    for number in processes:
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            continue
        count += 1
    return count


class Head:
    """A cluster of one node, with a port of its own."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        # Drivers look for the head at the address of this machine, also where they are told 127.0.0.1.
        self.host = get_node_ip_address()
        command = [
            str(Path(sys.executable).with_name("ray")),
            "start",
            "--head",
            "--block",
            f"--port={self.port}",
            "--num-cpus=2",
        ]
        command += [
            "--include-dashboard=false",
            f"--node-ip-address={self.host}",
            "--object-store-memory=100000000",
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    @property
    def address(self) -> str:
        """What --ray takes."""
        return f"{self.host}:{self.port}"

    def wait(self) -> None:
        """Wait until the cluster answers."""
        for _ in range(600):
            with socket.socket() as trial:
                if trial.connect_ex((self.host, self.port)) == 0:
                    time.sleep(3)  # for the rest of the node
                    return
            time.sleep(0.2)

    def end(self) -> None:
        """Kill every process of the cluster."""
        kill([self.process.pid, *descendants(self.process.pid)])
        self.process.wait()


def whole(folder: Path, video: Path) -> tuple[bytes, float]:
    """Return what one process writes alone, and the seconds that two workers take."""
    alone, together = folder / "alone.vinr", folder / "together.vinr"
    if not alone.exists():
        subprocess.run(vinr("encode", video, alone, *OPTIONS), check=True, capture_output=True)
    started = time.monotonic()
    subprocess.run(
        vinr("encode", video, together, *OPTIONS, "--workers", "2", "-y"), check=True, capture_output=True
    )
    return alone.read_bytes(), time.monotonic() - started


def strike(kind: str, driver: subprocess.Popen[bytes], head: Head | None) -> int:
    """Kill what ``kind`` says; return how many processes that were, 0 if the driver has ended already."""
    if driver.poll() is not None:
        return 0
    if kind == "driver":
        return kill([driver.pid])
    if head is not None:
        head.end()
        return 1
    at_work = sorted(workers_of(driver.pid))
    return kill(at_work[:1] if kind == "worker" else at_work)


def ended(driver: subprocess.Popen[bytes]) -> int:
    """Return the exit status of a driver, which is killed if it does not end."""
    try:
        return driver.wait(timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        driver.kill()
        return driver.wait()


def trial(
    number: int, seed: int, folder: Path, video: Path, expected: bytes, seconds: float
) -> dict[str, Any]:
    """Run one trial and return what came of it."""
    draws = random.Random(f"{seed} {number}")
    kind, moment = KINDS[number % len(KINDS)], draws.uniform(0.0, EXTRA_SHARE) * seconds
    own = folder / f"trial-{number}"
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir()
    output, head = own / "clip.vinr", Head() if kind == "head" else None
    where = ["--workers", "2"]
    if head is not None:
        head.wait()
        where += ["--ray", head.address]
    resumed = False
    with open(own / "log", "wb") as log:
        driver = subprocess.Popen(vinr("encode", video, output, *OPTIONS, *where), stdout=log, stderr=log)
        with suppress(subprocess.TimeoutExpired):
            driver.wait(timeout=moment)
        kept = sorted(path.name for path in own.glob("*.partial/*.safetensors"))
        killed = strike(kind, driver, head)
        status = ended(driver)
        if killed and kind in ("driver", "head") and not output.exists():
            resumed = True
            again = vinr("encode", video, output, *OPTIONS, "--workers", "2", "--resume")
            status = subprocess.run(again, stdout=log, stderr=log, timeout=LIMIT_SECONDS).returncode
    if head is not None and head.process.poll() is None:
        head.end()
    left = sorted(path.name for path in own.iterdir() if path.name not in ("clip.vinr", "log"))
    same = output.exists() and output.read_bytes() == expected
    problems = []
    if not same:
        words = (own / "log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        problems.append(f"{kind}: status {status}, other bytes or none; {words[-1] if words else ''}")
    elif left:
        problems.append(f"{kind}: left beside the output: {left}")
    if not problems:
        shutil.rmtree(own)
    return {
        "name": f"{number} {kind} at {moment:.2f} s",
        "kind": kind,
        "moment": moment,
        "killed": killed,
        "kept": kept,
        "resumed": resumed,
        "same": same,
        "problems": problems,
    }


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each kind of kill."""
    table = []
    for kind in sorted(set(KINDS)):
        own = [row for row in rows if row["kind"] == kind]
        table.append(
            {
                "killed": kind,
                "trials": len(own),
                "hit something": sum(bool(row["killed"]) for row in own),
                "state was kept": sum(bool(row["kept"]) for row in own),
                "resumed": sum(row["resumed"] for row in own),
                "same bytes at last": sum(row["same"] for row in own),
                "with problems": sum(bool(row["problems"]) for row in own),
            }
        )
    return table


def write_report(given: argparse.Namespace) -> None:
    """Write docs/results/soak/workers.*."""
    rows = rows_to_report(given.rows)
    findings = [(problem, f"`{row['name']}`") for row in rows for problem in row["problems"]]
    report_findings(
        "workers",
        {"seed": given.seed, "options": " ".join(OPTIONS), "segments": NUM_SEGMENTS},
        summary(rows),
        findings,
        about=__doc__ or "",
        facts=f"{len(rows)} trials, seed {given.seed}. Kills that hit nothing came before or after the jobs.",
        title="Problems",
    )


def run_all(given: argparse.Namespace) -> None:
    """Run the trials that have no row yet."""
    given.work.mkdir(parents=True, exist_ok=True)
    video = given.work / "clip.mkv"
    if not video.exists():
        write_clip(video, moving_shapes(num_frames=FRAMES * NUM_SEGMENTS, height=24, width=40))
    done, started = len(read_rows(given.rows)), time.monotonic()
    expected, seconds = whole(given.work, video)
    print(f"two workers take {seconds:.1f} s", flush=True)
    for number in range(done, given.trials):
        if given.seconds is not None and time.monotonic() - started > given.seconds:
            break
        row = trial(number, given.seed, given.work, video, expected, seconds)
        append_row(given.rows, row)
        print(row["name"], "same" if row["same"] else row["problems"], flush=True)


def main() -> None:
    """Run what is not there yet, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, help="start no trial after so long; a later run goes on")
    parser.add_argument("--work", type=Path, default=Path("/tmp/vinr-soak/workers"), help="folder for files")
    parser.add_argument("--rows", type=Path, default=Path("workers.jsonl"), help="what was found so far")
    parser.add_argument("--report", action="store_true", help="write the results from the rows there are")
    given = parser.parse_args()
    write_report(given) if given.report else run_all(given)


if __name__ == "__main__":
    main()
