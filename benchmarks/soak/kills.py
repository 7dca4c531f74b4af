"""Kills commands at each file operation and at random moments: is the output whole, and at last the same?

Each kill is a trial with a name, such as "encode/old/operation-12" or "decode to mp4/new/moment-3", which
decides everything about it: ``--only NAME`` repeats it. A trial kills the command (SIGKILL, SIGTERM, SIGHUP
or SIGINT), looks at the output, which must be absent, old or whole, runs the command again in the way one
goes on with it, and compares the bytes with those of a run that was left alone; nothing else may then lie
beside the output. Some trials kill the second run too. Some try, on a copy, to go on from the state with
another clip or other settings: that must be refused, or give what those settings give.

State is kept as often as can be rather than every two minutes, so that short fits have some.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _commands import (
    COMMANDS,
    Command,
    Inputs,
    Run,
    arguments_of,
    content,
    left_over,
    prepare,
    put_old,
    run,
    state_of,
)
from _operations import count_operations
from _soak import (
    append_row,
    in_parallel,
    keep_state_often,
    kept,
    loaded,
    quote,
    read_rows,
    report_findings,
    rows_to_report,
)

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
# Moments lie within so many times the processor time of a run that was left alone.
LATEST = 1.05
KILLED_AGAIN, OTHER_SETTINGS = 0.3, 0.3
# A real process imports before it works, for so many seconds at least.
IMPORT_SECONDS = 2.0
WHOLE = ("absent", "old", "whole")


@dataclass(frozen=True)
class Reference:
    """A command left alone: what it wrote, its time and file operations, and if the bytes repeat."""

    files: dict[str, bytes]
    seconds: float
    operations: tuple[str, ...]
    repeatable: bool
    others: tuple[dict[str, bytes], ...] = ()


@dataclass(frozen=True)
class Trial:
    """One kill; ``how`` is operation, moment, or process (a moment of ``python -m vinr``)."""

    command: Command
    old: bool
    how: str
    number: int

    @property
    def name(self) -> str:
        """What ``--only`` takes."""
        return f"{self.command.name}/{'old' if self.old else 'new'}/{self.how}-{self.number}"

    def random(self, seed: int) -> random.Random:
        """Return the trial's own random numbers."""
        return random.Random(f"{seed}/{self.name}")


@dataclass(frozen=True)
class Bench:
    """Inputs, references and options that trials share."""

    inputs: Inputs
    references: dict[tuple[str, bool], Reference]
    work: Path
    seed: int

    def folder(self, name: str) -> Path:
        """Return a new folder of this name."""
        folder = self.work / name.replace("/", "_").replace(" ", "_")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder


# -- commands left alone -------------------------------------------------------------------------------------


def measure_reference(command: Command, old: bool, inputs: Inputs, work: Path) -> Reference:
    """Run a command without a kill, and where there is no old output a second time, and its others."""
    name = f"reference-{command.name}-{'old' if old else 'new'}"
    return kept(work, name, lambda: _measured(command, old, Bench(inputs, {}, work, 0)))


def _measured(command: Command, old: bool, bench: Bench) -> Reference:
    runs = [_alone(command, old, bench) for _ in range(1 if old else 2)]
    files, seconds, operations = runs[-1]
    others = () if old else tuple(_other(command, other, bench) for other in command.others)
    return Reference(files, seconds, operations, files == runs[0][0], others)


def _alone(command: Command, old: bool, bench: Bench) -> tuple[dict[str, bytes], float, tuple[str, ...]]:
    """Return what a command writes, its processor seconds, and its file operations."""
    folder, listed = bench.folder("alone"), bench.work / "operations"
    if old:
        put_old(command, folder)
    listed.unlink(missing_ok=True)
    ended = run(
        arguments_of(command, bench.inputs, folder / command.output, old=old),
        bench.work / "log",
        before=lambda: _list_operations(folder, listed),
    )
    if ended.ended.status:
        raise RuntimeError(f"{command.name}: ends with {ended.ended.status}: {ended.said}")
    if left := left_over(command, folder):
        raise RuntimeError(f"{command.name}: leaves {left} without any kill")
    operations = tuple(listed.read_text(encoding="utf-8").splitlines())
    return content(command, folder), ended.ended.main_seconds, operations


def _other(command: Command, arguments: tuple[str, ...], bench: Bench) -> dict[str, bytes]:
    changed = replace(command, arguments=arguments)
    return _alone(changed, False, bench)[0]


def _list_operations(folder: Path, listed: Path) -> None:
    file = open(listed, "a", buffering=1, encoding="utf-8")  # noqa: SIM115 - until the child ends
    count_operations(folder, lambda text: print(text, file=file))


# -- a trial -------------------------------------------------------------------------------------------------


def do_trial(trial: Trial, bench: Bench) -> dict[str, Any]:
    """Kill, look, go on, look again; return what happened."""
    rng = trial.random(bench.seed)
    folder = bench.folder(trial.name)
    try:
        return _in_folder(trial, bench, rng, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".log").unlink(missing_ok=True)


def _in_folder(trial: Trial, bench: Bench, rng: random.Random, folder: Path) -> dict[str, Any]:
    command, reference = trial.command, bench.references[trial.command.name, trial.old]
    number = rng.choice(SIGNALS)
    if trial.how == "operation" and rng.random() < 0.5:
        number = signal.SIGKILL
    log = folder.with_suffix(".log")
    if trial.old:
        put_old(command, folder)
    first = _killed(trial, bench, rng, folder, number)
    after, left = state_of(command, folder, reference.files), left_over(command, folder)
    problems = _problems_of_kill(first, after, number)
    if command.keeps_state and reference.others and rng.random() < OTHER_SETTINGS:
        problems += _try_others(trial, bench, rng, folder)
    again = [*arguments_of(command, bench.inputs, folder / command.output, old=trial.old)]
    again += [part for part in command.again if part not in again]
    kills = 1
    if rng.random() < KILLED_AGAIN:
        kills += 1
        kill = (rng.uniform(0, reference.seconds), rng.choice(SIGNALS))
        second = run(again, log, kill=kill)
        problems += _problems_of_kill(second, state_of(command, folder, reference.files), kill[1])
    before = state_of(command, folder, reference.files)
    last = run(again, log, real=trial.how == "process")
    problems += _problems_of_last(last, before, trial, bench, folder)
    return {
        "name": trial.name,
        "command": command.name,
        "start": "old output" if trial.old else "no output",
        "how": trial.how,
        "signal": signal.Signals(number).name,
        "killed": first.ended.status != 0,
        "status": first.ended.status,
        "after": after,
        "left": left,
        "kills": kills,
        "resumed": "resumed after" in last.said,
        "last status": last.ended.status,
        "same": content(command, folder) == reference.files,
        "left at last": left_over(command, folder),
        "problems": problems,
    }


def _killed(trial: Trial, bench: Bench, rng: random.Random, folder: Path, number: int) -> Run:
    reference = bench.references[trial.command.name, trial.old]
    arguments = arguments_of(trial.command, bench.inputs, folder / trial.command.output, old=trial.old)
    log = folder.with_suffix(".log")
    if trial.how == "operation":
        before = partial(count_operations, folder, lambda _: None, stop=trial.number, number=number)
        return run(arguments, log, before=before)
    real = trial.how == "process"
    moment = rng.uniform(0, LATEST * reference.seconds + (IMPORT_SECONDS if real else 0.0))
    return run(arguments, log, kill=(moment, number), real=real)


def _problems_of_kill(ended: Run, after: str, number: int) -> list[str]:
    problems = []
    if after not in WHOLE:
        problems.append(f"the output is {after} after {signal.Signals(number).name}")
    if ended.has_traceback and "KeyboardInterrupt" not in ended.said.splitlines()[-1]:
        problems.append(f"traceback when killed: {ended.said.splitlines()[-1]}")
    if ended.ended.timed_out:
        problems.append(f"still runs after {signal.Signals(number).name}")
    if ended.ended.status == 0 and after != "whole":
        problems.append(f"exit status 0, but the output is {after}")
    return problems


def _problems_of_last(last: Run, before: str, trial: Trial, bench: Bench, folder: Path) -> list[str]:
    command, reference = trial.command, bench.references[trial.command.name, trial.old]
    problems = []
    refused = last.ended.status == 2 and "exists already" in last.said and before == "whole"
    if last.ended.status and not refused:
        problems.append(f"going on ends with {last.ended.status}: {quote(last.said[-300:])}")
    if last.has_traceback:
        problems.append(f"traceback when going on: {last.said.splitlines()[-1]}")
    after = state_of(command, folder, reference.files)
    if after != "whole" and (reference.repeatable or after != "whole, other bytes"):
        problems.append(f"at last the output is {after}")
    if left := left_over(command, folder):
        kinds = sorted({"a temporary" if name.endswith(".part") else name for name in left})
        state = ", which was whole before" if refused else ""
        problems.append(f"left beside the output{state}: {', '.join(kinds)}")
    return problems


def _try_others(trial: Trial, bench: Bench, rng: random.Random, folder: Path) -> list[str]:
    """Go on with another clip or other settings in a copy; it must be refused, or give what those give."""
    command, reference = trial.command, bench.references[trial.command.name, False]
    number = rng.randrange(len(command.others))
    copy = bench.folder(f"{trial.name}-copy")
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    try:
        out = copy / command.output
        out.unlink(missing_ok=True)
        changed = replace(command, arguments=command.others[number])
        arguments = [*arguments_of(changed, bench.inputs, out, old=False), "--resume"]
        ended = run(arguments, copy.with_suffix(".log"))
        problems = []
        if ended.has_traceback or ended.ended.status not in (0, 2):
            said = quote(ended.said[-300:])
            problems.append(f"going on with other settings ends with {ended.ended.status}: {said}")
        if ended.ended.status == 0 and content(command, copy) != reference.others[number]:
            problems.append("going on with another clip or other settings takes what was fitted before")
        return problems
    finally:
        copy.with_suffix(".log").unlink(missing_ok=True)
        shutil.rmtree(copy)


# -- identical commands --------------------------------------------------------------------------------------


def do_identical(number: int, bench: Bench, *, real: bool) -> dict[str, Any]:
    """Run the first command once more without a kill; return whether its bytes are those of the others."""
    command = COMMANDS[0]
    name = f"identical/{'process' if real else 'fork'}-{number}"
    folder = bench.folder(name)
    ended = run(
        arguments_of(command, bench.inputs, folder / command.output, old=False),
        folder.with_suffix(".log"),
        real=real,
    )
    same = content(command, folder) == bench.references[command.name, False].files
    problems = [f"ends with {ended.ended.status}: {quote(ended.said)}"] if ended.ended.status else []
    problems += [] if same else ["other bytes from the same command"]
    shutil.rmtree(folder)
    folder.with_suffix(".log").unlink(missing_ok=True)
    return {
        "name": name,
        "command": command.name,
        "start": "no output",
        "how": "identical",
        "killed": False,
        "same": same,
        "problems": problems,
    }


# -- all of them ---------------------------------------------------------------------------------------------


def moments_of(given: argparse.Namespace) -> list[Trial]:
    """Return the kills at random moments, half of them of encodes."""
    chosen = [command for command in COMMANDS if given.command in ("all", command.name)]
    encodes = [command for command in chosen if command.keeps_state] or chosen
    trials = []
    for number in range(given.moments):
        group = encodes if number % 2 else chosen
        rng = random.Random(f"{given.seed}/{number}")
        how = "process" if rng.random() < given.real else "moment"
        trials.append(Trial(group[number // 2 % len(group)], rng.random() < 0.3, how, number))
    return trials


def is_wanted(command: Command, old: bool, given: argparse.Namespace) -> bool:
    """Return whether trials of this command and start are asked for, here or as a part of others."""
    if given.only:
        return given.only.startswith(f"{command.name}/")
    if given.every and given.command in ("all", command.name):
        return True
    mine = [trial for trial in moments_of(given) if trial.command == command and (trial.old or not old)]
    return bool(mine) or (bool(given.identical) and command == COMMANDS[0] and not old)


def trials_of(given: argparse.Namespace, references: dict[tuple[str, bool], Reference]) -> list[Trial]:
    """Return the kills at operations (every so-many-th), and those at random moments."""
    commands = {command.name: command for command in COMMANDS}
    trials = []
    for (name, old), reference in references.items() if given.every else ():
        numbers = range(1, len(reference.operations) + 1, given.every)
        trials += [Trial(commands[name], old, "operation", number) for number in numbers]
    return trials + moments_of(given)


def run_all(given: argparse.Namespace) -> None:
    """Do the trials that have no row yet, and add their rows."""
    given.work.mkdir(parents=True, exist_ok=True)
    wanted = [command for command in COMMANDS if is_wanted(command, False, given)]
    inputs = prepare(given.work / "inputs", wanted)
    keep_state_often()  # real processes do not
    # Not all: each costs seconds. Trials of only one name, or few moments, need those of few commands.
    starts = [(command, old) for command in wanted for old in (False, True)]
    references = {
        (command.name, old): measure_reference(command, old, inputs, given.work)
        for command, old in starts
        if is_wanted(command, old, given)
    }
    bench = Bench(inputs, references, given.work, given.seed)
    trials = trials_of(given, references)
    if given.only:
        for trial in trials:
            if trial.name == given.only:
                print(json.dumps(do_trial(trial, bench), indent=2))
        return
    done = {row["name"] for row in read_rows(given.rows)}
    waiting = [trial for trial in trials if trial.name not in done]
    number_of_real = int(given.real * given.identical)
    same = list(range(given.identical))
    stop = time.monotonic() + given.seconds if given.seconds else float("inf")

    def work(job: int) -> None:
        for trial in waiting[job :: given.jobs]:
            if time.monotonic() < stop:
                append_row(given.rows, do_trial(trial, bench))
        for number in same[job :: given.jobs]:
            real = number < number_of_real
            if f"identical/{'process' if real else 'fork'}-{number}" not in done and time.monotonic() < stop:
                append_row(given.rows, do_identical(number, bench, real=real))

    with loaded(given.hogs):
        in_parallel(given.jobs, work)


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row of the table for each command and way of killing it."""
    table = []
    for key in dict.fromkeys((row["command"], row["how"]) for row in rows):
        own = [row for row in rows if (row["command"], row["how"]) == key]
        after = Counter(row.get("after", "") for row in own)
        broken = sum(count for state, count in after.items() if state not in (*WHOLE, ""))
        table.append(
            {
                "command": key[0],
                "how": key[1],
                "runs": len(own),
                "killed": sum(row["killed"] for row in own),
                "absent": after["absent"],
                "old": after["old"],
                "whole": after["whole"],
                "broken or other": broken,
                "went on from a checkpoint": sum(row.get("resumed", False) for row in own),
                "same bytes at last": sum(row["same"] for row in own),
                "left beside at last": sum(bool(row.get("left at last")) for row in own),
                "with problems": sum(bool(row["problems"]) for row in own),
            }
        )
    return table


def write_report(given: argparse.Namespace) -> None:
    """Write docs/results/soak/kills.*."""
    rows = rows_to_report(given.rows)
    signals = Counter(row["signal"] for row in rows if row["killed"])
    ended_by = ", ".join(f"{count} {name}" for name, count in signals.items())
    report_findings(
        "kills",
        {"seed": given.seed, "commands": {c.name: " ".join(c.arguments) for c in COMMANDS}},
        summary(rows),
        [(problem, f"`{row['name']}`") for row in rows for problem in row["problems"]],
        about=__doc__ or "",
        facts=f"Signals that ended a command: {ended_by}. Seed {given.seed}.",
        title="Problems",
    )


def main() -> None:
    """Run what is not there yet, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="kill at each so-many-th operation; 0: at none")
    parser.add_argument("--moments", type=int, default=200, help="kills at random moments")
    parser.add_argument("--identical", type=int, default=0, help="encodes without a kill: same bytes?")
    parser.add_argument("--real", type=float, default=0.1, help="share of them run as python -m vinr")
    parser.add_argument("--command", default="all", help="one command by its name")
    parser.add_argument("--only", help="repeat the trial of this name and print what happens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="trials at the same time")
    parser.add_argument("--hogs", type=int, default=0, help="busy processes beside them")
    parser.add_argument("--seconds", type=float, help="start no trial after so long; a later run goes on")
    parser.add_argument("--work", type=Path, default=Path("/tmp/vinr-soak/kills"), help="folder for files")
    parser.add_argument("--rows", type=Path, default=Path("kills.jsonl"), help="what was found so far")
    parser.add_argument("--report", action="store_true", help="write the results from the rows there are")
    given = parser.parse_args()
    torch.set_num_threads(1)
    write_report(given) if given.report else run_all(given)


if __name__ == "__main__":
    main()
