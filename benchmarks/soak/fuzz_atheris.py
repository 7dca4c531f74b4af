"""Coverage-guided fuzzing of what reads untrusted bytes, below the checksums.

Targets: the text of a header, an index, sections TIMES, WEIGHTS and CHUNKS, and the state of an interrupted
encode. Each may raise errors of ``vinr.errors`` and nothing else; an input may take 5 seconds and 300 MB.

Needs atheris, which is not a dependency of the project (see README.md). Without it, ``--plain`` changes the
same inputs at random, blind.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

from _soak import append_row, keep_state_often, kept, quote, read_rows, report, table_of

Target = Callable[[bytes], None]
TARGETS = ("header", "index", "times", "weights", "chunks", "state")
MODELS = ("hnerv", "hinerv", "ffnerv", "dnerv_diverse")
PACKAGES = [
    "vinr.bitstream",
    "vinr.compress",
    "vinr.state.tensorfile",
    "vinr.encoding.segment",
    "vinr.settings",
]
NUM_FRAMES, HEIGHT, WIDTH = 4, 32, 64
SECONDS, MEMORY_MB = 5, 300
# Import of PyTorch, atheris' tables, and what the first input of each kind loads.
BASE_MB = 1200


# -- targets -------------------------------------------------------------------------------------------------


def make_target(name: str, folder: Path) -> tuple[Target, list[bytes]]:
    """Return a function that reads bytes, and inputs that it takes."""
    makers: dict[str, Callable[[Path], tuple[Target, list[bytes]]]] = {
        "header": _header,
        "index": _index,
        "times": _times,
        "weights": _weights,
        "chunks": _chunks,
        "state": _state,
    }
    return makers[name](folder)


def _parts(work: Path) -> list[Any]:
    """Return small files of a few models, in parts."""
    from _files import seeds, take_apart

    files = kept(work, "corpus", lambda: seeds(work, MODELS))
    return [take_apart(data) for data in files.values()]


def _header(work: Path) -> tuple[Target, list[bytes]]:
    from vinr.bitstream.header import unpack_header
    from vinr.bitstream.index import deflate

    texts = [json.dumps(parts.header, separators=(",", ":")).encode() for parts in _parts(work)]
    return lambda data: _discard(unpack_header(deflate(data))), texts


def _index(work: Path) -> tuple[Target, list[bytes]]:
    from vinr.bitstream.index import unpack_index

    found = [parts.index() for parts in _parts(work)]
    # The size of the file is an input too: the first bytes.
    inputs = [len(index).to_bytes(3, "little") + index for index in found]
    return lambda data: _discard(unpack_index(data[3:], 0, int.from_bytes(data[:3], "little"))), inputs


def _times(work: Path) -> tuple[Target, list[bytes]]:
    from vinr.compress import decode_times, encode_times
    from vinr.video.spec import Timeline

    rate = Fraction(30)
    timelines = [Timeline(4, rate, Fraction(1, 90), pts) for pts in ((0, 1, 3, 6), (0, 3, 6, 9))]
    return lambda data: _discard(decode_times(data, 4, rate)), [encode_times(line) for line in timelines]


def _skeletons(work: Path) -> list[tuple[Any, int, bytes, list[bytes]]]:
    """Return for each model what its file must hold, frames a chunk, and sections WEIGHTS and CHUNKS."""
    import torch

    from vinr.bitstream import SectionKind
    from vinr.models import StoredTensor, get_model, validate_architecture
    from vinr.video.spec import VideoSpec

    found = []
    for parts in _parts(work):
        network = parts.header["networks"][0]
        cls = get_model(network["model"])
        config = validate_architecture(cls, network["architecture"])
        skeleton = cls.on_meta(config, VideoSpec(NUM_FRAMES, HEIGHT, WIDTH))
        expected = {name: item for name, item in skeleton.stored().items() if not item.per_frame}
        for name, shape in skeleton.per_frame_shapes().items():
            value = torch.empty((1, *shape), device="meta")
            expected[f"latents.{name}"] = StoredTensor(value, "latent", per_frame=True)
        sections = {kind: payloads for kind, _, payloads in parts.sections}
        weights, chunks = sections[SectionKind.WEIGHTS][0], sections.get(SectionKind.CHUNKS, [])
        found.append((expected, network.get("frames_per_chunk", 0), weights, chunks))
    return found


def _weights(work: Path) -> tuple[Target, list[bytes]]:
    from vinr.compress import unpack_fixed

    networks = _skeletons(work)

    def read(data: bytes) -> None:
        expected, frames_per_chunk, _, _ = networks[data[0] % len(networks) if data else 0]
        unpack_fixed(data[1:], expected, frames_per_chunk)

    return read, [bytes([number]) + weights for number, (_, _, weights, _) in enumerate(networks)]


def _chunks(work: Path) -> tuple[Target, list[bytes]]:
    from vinr.compress import unpack_fixed

    networks = [network for network in _skeletons(work) if network[3]]
    decoders = [unpack_fixed(weights, expected, frames)[1] for expected, frames, weights, _ in networks]

    def read(data: bytes) -> None:
        if len(data) > 2:
            decoders[data[0] % len(decoders)].decode(data[2:], data[1] % NUM_FRAMES + 1)

    return read, [
        bytes([number, 3]) + chunk for number, network in enumerate(networks) for chunk in network[3]
    ]


def _state(work: Path) -> tuple[Target, list[bytes]]:
    """Going on with an encode: the first bytes say what is changed in a good state, and how.

    What is changed is written as a state is written, so that a checksum fits. Behind "raw" the bytes are the
    whole file.
    """
    import vinr
    from clips import moving_shapes, write_clip
    from vinr.errors import VinrError
    from vinr.state.tensorfile import read_tensors, write_tensors

    folder = work / "state"
    folder.mkdir(exist_ok=True)
    clip = write_clip(folder / "a.mkv", moving_shapes(num_frames=4, height=HEIGHT, width=WIDTH))
    out = folder / "o.vinr"
    partial = folder / "o.vinr.partial"
    keep_state_often()
    states = _states_of(clip, out, partial)

    def read(data: bytes) -> None:
        out.unlink(missing_ok=True)
        partial.mkdir(exist_ok=True)
        for path in partial.iterdir():
            path.unlink()
        rng = random.Random(data)
        name = sorted(states)[data[0] % len(states) if data else 0]
        path = partial / name
        path.write_bytes(states[name])
        if data[1:2] > b"\xc0":
            path.write_bytes(data[2:])
        else:
            tensors, values = read_tensors(path)
            tensors, values = _changed_state(dict(tensors), values, rng)
            write_tensors(path, tensors, values)
        try:
            vinr.encode(clip, out, preset="nerv-tiny", epochs=2, device="cpu", resume=True)
        except VinrError:
            return

    raw = [bytes([number, 0xFF]) + states[name] for number, name in enumerate(sorted(states))]
    return read, [*raw, *(bytes([number % len(states), 0, number]) for number in range(20))]


def _states_of(clip: Path, out: Path, partial: Path) -> dict[str, bytes]:
    """Return the states that an encode keeps, by name: of an unfinished fit, and of a finished segment."""
    import vinr

    found: dict[str, bytes] = {}

    def look(_: object) -> None:
        found.update({path.name: path.read_bytes() for path in partial.glob("*.safetensors")})

    real = os.unlink
    try:
        out.unlink(missing_ok=True)
        # The segment is there until all is written: the last file operations see it.
        os.unlink = lambda path, *args, **more: (look(path), real(path, *args, **more))[1]
        vinr.encode(clip, out, preset="nerv-tiny", epochs=2, device="cpu", on_event=look, force=True)
    finally:
        os.unlink = real
    if not found:
        raise RuntimeError("an encode keeps no state that ends in .safetensors")
    return found


def _changed_state(tensors: dict[str, Any], values: Any, rng: random.Random) -> tuple[dict[str, Any], Any]:
    """Return a state with a value or a tensor changed: shape, type, numbers, name, or not there."""
    import torch
    from _mutations import tree_changed

    if rng.random() < 0.6:
        tree_changed(values, rng)
        return tensors, values
    name = rng.choice(sorted(tensors))
    value = tensors.pop(name)
    match rng.randrange(6):
        case 0:
            tensors[name] = value.flatten()[: rng.randrange(value.numel() + 1)]
        case 1:
            tensors[name] = value.to(rng.choice((torch.float64, torch.uint8, torch.int64, torch.float16)))
        case 2:
            tensors[name] = torch.full_like(value, rng.choice((0, 1, 255)))
        case 3 if value.is_floating_point():
            tensors[name] = value * rng.choice((float("nan"), float("inf"), -1e30))
        case 4:
            tensors[name + rng.choice((".", "x", "0"))] = value
        case _:
            pass
    return tensors, values


def _discard(_: object) -> None:
    """Take a value that only had to be made."""


# -- running -------------------------------------------------------------------------------------------------


def guarded(target: Target) -> Target:
    """Return ``target`` without the errors it may raise."""
    from vinr.errors import VinrError

    def run(data: bytes) -> None:
        with suppress(VinrError):
            target(data)

    return run


def fuzz(given: argparse.Namespace) -> None:
    """Run one target in this process; libFuzzer ends it."""
    import atheris

    # Before anything of vinr is loaded.
    with atheris.instrument_imports(include=PACKAGES) if not given.plain else nullcontext():
        target, inputs = make_target(given.target, given.work)
    corpus = given.work / f"corpus-{given.target}"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(inputs):
        (corpus / f"given-{number}").write_bytes(data)
    options = [
        f"-runs={given.count}",
        f"-max_total_time={int(given.seconds)}",
        f"-seed={given.seed + 1}",
        f"-timeout={SECONDS}",
        f"-rss_limit_mb={BASE_MB + MEMORY_MB}",
        f"-artifact_prefix={given.rows}/{given.target}-",
        "-print_final_stats=1",
        f"-max_len={max(4096, *(2 * len(data) for data in inputs))}",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], guarded(target))
    atheris.Fuzz()


def plain(given: argparse.Namespace) -> None:
    """Run one target on inputs changed at random; print what libFuzzer would."""
    from _mutations import bytes_changed

    target, inputs = make_target(given.target, given.work)
    run = guarded(target)
    target(inputs[0])  # the first is good
    started, count = time.monotonic(), 0
    while count < given.count and time.monotonic() - started < given.seconds:
        rng = random.Random(f"{given.seed}/{given.target}/{count}")
        data = bytes_changed(rng.choice(inputs), rng)
        try:
            run(data)
        except BaseException:
            (given.rows / f"{given.target}-crash-{count}").write_bytes(data)
            raise
        count += 1
    print(f"stat::number_of_executed_units: {count}")


def run_one(given: argparse.Namespace, name: str) -> None:
    """Run a target in a process of its own, again after each finding, and add a row."""
    started, count, findings, number = time.monotonic(), 0, [], 0
    while count < given.count and time.monotonic() - started < given.seconds and len(findings) < given.most:
        left = given.seconds - (time.monotonic() - started)
        arguments = ["--target", name, "--count", str(given.count - count), "--seconds", str(left)]
        arguments += [
            "--seed",
            str(given.seed + number),
            "--work",
            str(given.work),
            "--rows",
            str(given.rows),
        ]
        arguments += ["--plain"] if given.plain else []
        found = subprocess.run(
            [sys.executable, __file__, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        said = found.stdout + found.stderr
        units = re.findall(r"number_of_executed_units: (\d+)|^#(\d+)\s", said, flags=re.MULTILINE)
        count += max((int(one or other) for one, other in units), default=0)
        number += 1
        if found.returncode == 0:
            break
        findings.append(_finding(said))
        print(f"{name}: {findings[-1]}", flush=True)
    row = {"target": name, "runs": count, "seconds": time.monotonic() - started, "findings": len(findings)}
    append_row(
        given.rows / "targets.jsonl", row | {"seed": given.seed, "plain": given.plain, "what": findings}
    )


def _finding(said: str) -> str:
    """Return the exception, or what libFuzzer says, and where it came from."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[A-Za-z_.]+(Error|Exception|Exit|Interrupt)\b", line)]
    summary = [
        line for line in lines if "SUMMARY" in line or line.startswith("ALARM") or "out-of-memory" in line
    ]
    places = [line for line in lines if line.startswith('File "') and "/vinr/" in line]
    where = places[-1].partition("/vinr/")[2] if places else ""
    return quote((errors or summary or lines[-1:] or ["nothing was said"])[-1], 120) + f" ({where})"


def write_report(given: argparse.Namespace) -> None:
    """Write docs/results/soak/fuzz-atheris.*."""
    rows = read_rows(given.rows / "targets.jsonl")
    if not rows:
        raise SystemExit(f"{given.rows}: no rows yet")
    keys = ("target", "runs", "seconds", "findings")
    table = [{key: row[key] for key in keys} | {"guided": not row["plain"]} for row in rows]
    table.append(
        {"target": "all"} | {key: sum(row[key] for row in rows) for key in keys[1:]} | {"guided": ""}
    )
    found: Mapping[str, None] = dict.fromkeys(
        f"- {row['target']}: {what}" for row in rows for what in row["what"]
    )
    text = "\n\n".join(
        [__doc__ or "", table_of(table), "Findings: " + ("" if found else "none."), "\n".join(found)]
    )
    settings = {"seconds an input": SECONDS, "MB": MEMORY_MB, "packages": PACKAGES}
    report("fuzz-atheris", "python benchmarks/soak/fuzz_atheris.py", settings, rows, text)


def main() -> None:
    """Run all targets, or one, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--targets", nargs="*", default=TARGETS, choices=TARGETS, help="which, one after another"
    )
    parser.add_argument("--target", choices=TARGETS, help="this one, in this process")
    parser.add_argument("--count", type=int, default=10**9, help="executions of each target")
    parser.add_argument("--seconds", type=float, default=60.0, help="time of each target")
    parser.add_argument("--most", type=int, default=20, help="findings of a target after which it is left")
    parser.add_argument("--plain", action="store_true", help="without atheris")
    parser.add_argument("--only", type=Path, help="give a target this file, and print what happens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("/tmp/vinr-soak/atheris"), help="folder for files")
    parser.add_argument("--rows", type=Path, default=Path("atheris"), help="folder of what was found so far")
    parser.add_argument("--report", action="store_true", help="write the results from the rows there are")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    given.rows.mkdir(parents=True, exist_ok=True)
    if given.report:
        write_report(given)
    elif given.only:
        make_target(given.target, given.work)[0](given.only.read_bytes())
    elif given.target:
        plain(given) if given.plain else fuzz(given)
    else:
        for name in given.targets:
            run_one(given, name)


if __name__ == "__main__":
    main()
