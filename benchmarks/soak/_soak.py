"""What the soak scripts share: forked children, other load on the machine, and where results go.

Importing PyTorch takes seconds, so a script imports it once and runs each case in a child that it forks.
One thread: forks of a process whose libraries have threads of their own are not to be trusted.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before PyTorch is loaded

import gc
import json
import pickle
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[1:1] = [str(HERE.parent), *(str(ROOT / "tests" / name) for name in (".", "bitstream", "video"))]

import torch  # noqa: E402

__all__ = [
    "ROOT",
    "Ended",
    "append_row",
    "forked",
    "in_parallel",
    "keep_state_often",
    "kept",
    "loaded",
    "quote",
    "read_rows",
    "report",
    "report_findings",
    "rows_to_report",
    "table_of",
    "wait_for",
]

POLL_SECONDS = 0.002
# Kinds of findings in a report.
MOST_SHOWN, LONGEST_FINDING = 40, 300


@dataclass(frozen=True)
class Ended:
    """How a child ended: exit status (minus the signal that ended it), and processor seconds it took.

    ``main_seconds``: those of its first thread, as they were last seen.
    """

    status: int
    cpu_seconds: float
    main_seconds: float
    timed_out: bool = False


def forked(run: Callable[[], int | None], log: Path | None = None) -> int:
    """Fork a child that returns the status of ``run``; its output goes to ``log``. Return the child's number.

    The child ends without the parent's clean-up; an exception is written to its standard error, status 1.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        gc.freeze()  # what the parent has is not looked through again
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        if log is not None:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
        status = run() or 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def wait_for(child: int, limit_seconds: float, kill: tuple[float, int] | None = None) -> Ended:
    """Wait for a child, and end it after ``limit_seconds``.

    ``kill``: a signal, and the processor seconds of its first thread after which it is sent. Those do not
    depend on how busy the machine is, so that moments are spread over all of what the child does.
    """
    started, waiting, timed_out, used = time.monotonic(), kill, False, 0.0
    while True:
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found:
            seconds = usage.ru_utime + usage.ru_stime
            return Ended(os.waitstatus_to_exitcode(status), seconds, used, timed_out)
        used = max(used, _main_seconds(child))
        if waiting is not None and used >= waiting[0]:
            os.kill(child, waiting[1])
            waiting = None
        if time.monotonic() - started > limit_seconds and not timed_out:
            os.kill(child, signal.SIGKILL)
            timed_out = True
        time.sleep(POLL_SECONDS)


def _main_seconds(process: int) -> float:
    try:
        return int(Path(f"/proc/{process}/schedstat").read_text(encoding="utf-8").split()[0]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0  # it has just ended


def in_parallel(jobs: int, run: Callable[[int], None]) -> None:
    """Call ``run`` with 0 … ``jobs`` − 1, each in a child of its own; in this process where it is one.

    Raises
    ------
    RuntimeError
        If one of them fails.
    """
    if jobs == 1:
        run(0)
        return

    def work(number: int) -> int:
        run(number)
        return 0

    children = [forked(lambda number=number: work(number)) for number in range(jobs)]
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(statuses):
        raise RuntimeError(f"workers ended with {statuses}")


@contextmanager
def loaded(hogs: int) -> Iterator[None]:
    """Keep ``hogs`` processes busy while the body runs; they also end when this process does."""
    parent = os.getpid()

    def burn() -> int:
        while os.getppid() == parent:
            sum(range(100_000))
        return 0

    children = [forked(burn) for _ in range(hogs)]
    try:
        yield
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def quote(text: str, limit: int = 160) -> str:
    """Return the first line of ``text``, not too long, fit for a cell of a table."""
    line = " ".join(text.split())
    return (line if len(line) <= limit else line[: limit - 1] + "…").replace("|", "\\|")


def kept(folder: Path, name: str, make: Callable[[], Any]) -> Any:
    """Return what ``make`` returns, from the file of an earlier call with the same commit where there is one.

    Of a working tree with changes nothing is kept from one start to the next.
    """
    from vinr.bench.record import commit  # vinr is loaded as late as can be: some of it is instrumented

    path = folder / f"{name.replace(' ', '-')}-{commit()}.pickle"
    if path.exists() and "+" not in path.name:
        return pickle.loads(path.read_bytes())
    made = make()
    path.write_bytes(pickle.dumps(made))
    return made


def keep_state_often() -> None:
    """Let fits keep their state as often as they can, rather than every two minutes; forks do so too."""
    found = [
        module
        for name in ("vinr.fit.keeper", "vinr.fit.loop")
        if find_spec(name) is not None and hasattr(module := import_module(name), "CHECKPOINT_SECONDS")
    ]
    if not found:
        raise RuntimeError(
            "nothing in vinr.fit has CHECKPOINT_SECONDS; say here how state is kept more often"
        )
    for module in found:
        module.CHECKPOINT_SECONDS = 0.0


def table_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a Markdown table."""
    import _record

    return _record.table(rows)


def report(
    name: str, command: str, settings: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], text: str
) -> None:
    """Write docs/results/soak/``name``.json and .md, and print the text."""
    import _record

    torch.set_num_threads(1)
    (_record.RESULTS / "soak").mkdir(parents=True, exist_ok=True)
    _record.write(f"soak/{name}", command, settings, rows, text)
    print(text)


def report_findings(
    name: str,
    settings: Mapping[str, Any],
    table: Sequence[Mapping[str, Any]],
    findings: Sequence[tuple[str, str]],
    *,
    about: str,
    facts: str,
    title: str,
) -> None:
    """Write the results of a script: what it does, a table with its sums, what was found and how often.

    Parameters
    ----------
    table
        Rows of texts and counts; the first column names what is counted.
    findings
        What was found, and where: of those that are alike the first is the example.
    about, facts, title
        What the script does; a line on this run; what findings are called.
    """
    first, *others = table[0]
    counted = [key for key in others if not isinstance(table[0][key], str)]
    sums = {key: sum(row[key] for row in table) for key in counted}
    rows = [*table, {first: "all"} | dict.fromkeys(others, "") | sums]
    examples = dict(reversed(findings))
    lines = [
        f"- {count} ×, {quote(what, LONGEST_FINDING)} (such as {examples[what]})"
        for what, count in Counter(what for what, _ in findings).most_common(MOST_SHOWN)
    ]
    verdict = f"{title}: " + ("" if lines else "none.")
    text = "\n\n".join([about, facts, table_of(rows), verdict, "\n".join(lines)])
    report(name, f"python benchmarks/soak/{name.replace('-', '_')}.py", settings, rows, text)


def rows_to_report(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of JSON lines; end the script if there are none."""
    rows = read_rows(path)
    if not rows:
        raise SystemExit(f"{path}: no rows yet")
    return rows


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row to a file of JSON lines; several processes may do so at once."""
    line = json.dumps(row) + "\n"
    with open(path, "a", encoding="utf-8") as file:
        file.write(line)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of JSON lines; none if there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
