"""How many bits does vinr's own network need beside HiNeRV, at equal time, and beside x265?

Clips of 80×160 or 160×320 pixels: centre crops, area-averaged. Every network of a budget is fitted for the
same CPU time on one thread: its epochs follow from the CPU time of a step of plain fitting, measured in turn
for all models and sizes ("CPU s" is that of the whole encode). Files are written and decoded; PSNR is that of
their frames as 8-bit RGB, the mean over frames, and once that of the mean error.
"before" is the recipe of networks as it was before vinr's own was begun: all
symbols rounded at every step, squared error as loss. x265 is slow, tune=psnr, 4:4:4, one thread. Rows are
files, so that processes share the work; CPU seconds of rows are those of whatever else ran beside. Decoding
is measured with ``--decoding``, networks in turn (HNeRV in a run of its own, with two others). A row's commit
says what made it. "vinr of more blocks" is vinr's network as it was before its blocks became 3, 2, 1. Rows of
5 CPU-minutes follow from steps that took about 0.74 times as long as those of other rows, on another machine
of the same kind; steps of "vinr" there are HiNeRV's of then times the ratio of the two of now.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

import vinr
from benchmarks import _record
from vinr.bench.datasets import find_clip
from vinr.codecs.anchors import parse_anchor
from vinr.comparison.anchor_runs import measure_anchor
from vinr.comparison.rd import RDCurve, RDPoint, bd_rate
from vinr.encoding.plan import choose_preset
from vinr.errors import UsageError, plural
from vinr.fit import Trainer
from vinr.quality.clip import bits_per_pixel, compare
from vinr.video.source import open_video

NAME = "flagship"
CROPS = {"bunny": (640, 1280), "bikes": (272, 544), "davis/bmx-trees": (208, 416)}
SMALL = (80, 160)
BEFORE = (
    "fit.loss={l2=1.0}",
    'fit.phases=[{share = 0.2, quantization = "entropy", rate_weight = 0.15, rate_moves = "steps", '
    "initial_bits = 4.8}]",
)
HNERV_BEFORE = (
    "fit.loss={l2=1.0}",
    'fit.phases=[{share = 0.35, quantization = "entropy", rate_weight = 0.1, rate_moves = "steps", '
    "initial_bits = 5.3}]",
)
RECIPES: dict[str, tuple[str, tuple[str, ...]]] = {
    "hnerv before": ("hnerv", HNERV_BEFORE),
    "hnerv": ("hnerv", ()),
    "hinerv before": ("hinerv", BEFORE),
    "hinerv": ("hinerv", ()),
    "vinr": ("vinr", ()),
    "vinr of more blocks": ("vinr", ("architecture.depths=[4,3,1]", "architecture.expansions=[2,4,4]")),
}
ANCHOR, NEW = "hinerv before", "vinr"
X265 = "x265-slow-444:20:22:24:26:28:30:32:34:36:38:40:42"
STEPS, TURNS = 12, 5
# Columns of qualities, and what their BD-rates are called.
QUALITIES = {"PSNR dB": "mean PSNR", "of mean error dB": "PSNR of mean error"}


@dataclass(frozen=True)
class Row:
    """A file to make: of ``clip``, ``minutes`` of CPU time for ``recipe`` with ``params`` parameters."""

    clip: str
    minutes: float
    recipe: str
    params: int
    resize: tuple[int, int]

    @property
    def name(self) -> str:
        """Its file, without suffix."""
        name = f"{self.clip}-{self.minutes:g}-{self.recipe}-{self.params}{_of_size(self.resize)}"
        return name.replace("/", "-").replace(" ", "-")


def _of_size(resize: tuple[int, int]) -> str:
    """Return what names of files and steps end in for such frames."""
    return "" if resize == SMALL else f"-{resize[0]}"


def step_seconds(pairs: Sequence[tuple[str, int]], resize: tuple[int, int]) -> dict[str, float]:
    """Return the CPU time of training a frame once for each (recipe, parameters), measured in turn."""
    trainers = {}
    with open_video(find_clip("bunny", None), crop=CROPS["bunny"], resize=resize) as reader:
        frames = reader.read()
    for recipe, params in pairs:
        model, overrides = RECIPES[recipe]
        settings = [*overrides, "fit.phases=[]"]
        preset = choose_preset(
            frames.spec, model=model, preset=None, num_parameters=params, overrides=settings
        )
        trainers[f"{recipe} {params}{_of_size(resize)}"] = Trainer(frames, preset)
    taken: dict[str, list[float]] = {name: [] for name in trainers}
    for turn in range(TURNS + 1):
        for name, trainer in trainers.items():
            batches = trainer.batches.of_epoch(0)
            with trainer.computing():
                started = time.process_time()
                for batch in batches[:STEPS]:
                    trainer.train_on(batch)
            if turn:  # the first one prepares
                seconds = (time.process_time() - started) / STEPS
                taken[name].append(seconds * trainer.steps_per_epoch / frames.spec.num_frames)
    return {name: median(times) for name, times in taken.items()}


def measure(row: Row, frame_seconds: float, data: Path | None, folder: Path) -> dict[str, Any]:
    """Encode, and return what the file came to; ``frame_seconds`` is the time of training a frame once."""
    model, overrides = RECIPES[row.recipe]
    source, crop = find_clip(row.clip, data), CROPS[row.clip]
    with open_video(source, crop=crop, resize=row.resize) as reader:
        frames = reader.read()
    epochs = max(round(60 * row.minutes / (frame_seconds * frames.spec.num_frames)), 1)
    path = folder / f"{row.name}.vinr"
    started = time.process_time()
    report = vinr.encode(
        source,
        path,
        model=model,
        params=row.params,
        epochs=epochs,
        crop=crop,
        resize=row.resize,
        device="cpu",
        threads=1,
        force=True,
        overrides=[*overrides, "compress.audio=false"],
    )
    seconds = time.process_time() - started
    size = path.stat().st_size
    with vinr.open(path, device="cpu") as video:
        quality = compare(video, frames)
        began = time.process_time()
        count = sum(map(len, video.play()))
        rate = count / (time.process_time() - began)
    described = vinr.info(path)
    side = sum(layer.side_bytes for network in described.networks for layer in network.layers)
    return {
        "clip": row.clip,
        "rows": row.resize[0],
        "CPU min": row.minutes,
        "network": row.recipe,
        "parameters": report.num_parameters,
        "epochs": epochs,
        "bytes": size,
        "bits a parameter": round(8 * size / report.num_parameters, 2),
        "side %": round(100 * side / size, 2),
        "PSNR dB": round(quality.psnr_db, 3),
        "of mean error dB": round(quality.pooled_psnr_db, 3),
        "CPU s": round(seconds, 1),
        "decoding frames/CPU s": round(rate, 1),
        "commit": _record.commit(),
    }


def decoding_times(pairs: Sequence[tuple[str, int]], folder: Path) -> list[dict[str, Any]]:
    """Return the CPU time of decoding a frame for each (recipe, parameters), measured in turn."""
    videos = {}
    for recipe, params in pairs:
        model, overrides = RECIPES[recipe]
        path = folder / f"decoding-{recipe}-{params}.vinr".replace(" ", "-")
        # How long a frame takes does not depend on how well it was fitted.
        vinr.encode(
            find_clip("bunny", None),
            path,
            model=model,
            params=params,
            epochs=1,
            crop=CROPS["bunny"],
            resize=SMALL,
            device="cpu",
            threads=1,
            force=True,
            overrides=[*overrides, "fit.phases=[]", "compress.audio=false"],
        )
        videos[recipe, params] = vinr.open(path, device="cpu")
    taken: dict[tuple[str, int], list[float]] = {pair: [] for pair in videos}
    for turn in range(TURNS + 1):
        for pair, video in videos.items():
            began = time.process_time()
            count = sum(map(len, video.play()))
            if turn:  # the first one prepares
                taken[pair].append(1e3 * (time.process_time() - began) / count)
    rows = []
    for (recipe, params), times in taken.items():
        ratios = [own / other for own, other in zip(times, taken[ANCHOR, params], strict=True)]
        rows.append(
            {
                "decoded": recipe,
                "parameters asked": params,
                "ms a frame": round(median(times), 2),
                f"× {ANCHOR}": round(median(ratios), 2),
            }
        )
    return rows


def measure_x265(clip: str, resize: tuple[int, int], data: Path | None) -> list[dict[str, Any]]:
    """Return the points of x265 on ``clip``."""
    anchor, qualities = parse_anchor(X265)
    with open_video(find_clip(clip, data), crop=CROPS[clip], resize=resize) as reader:
        frames = reader.read()
    rows = []
    for value in qualities:
        point = measure_anchor(anchor, value, frames, upsampling="nearest")
        assert point.psnr_db is not None
        assert point.pooled_psnr_db is not None
        assert point.num_bytes is not None
        rows.append(
            {
                "clip": clip,
                "rows": resize[0],
                "network": anchor.name,
                "setting": point.setting,
                "bytes": point.num_bytes,
                "PSNR dB": round(point.psnr_db, 3),
                "of mean error dB": round(point.pooled_psnr_db, 3),
                "pixels": frames.spec.num_pixels,
            }
        )
    return rows


# -- the page ------------------------------------------------------------------------------------------------


def curve_of(name: str, rows: Sequence[dict[str, Any]], num_pixels: int, quality: str) -> RDCurve:
    """Return rows as a curve of their ``quality``."""
    points = []
    for row in rows:
        bpp = bits_per_pixel(row["bytes"], num_pixels)
        points.append(RDPoint(str(row.get("parameters")), bpp, row["bytes"], row[quality]))
    return RDCurve(name, "vinr", tuple(points))


def savings(rows: Sequence[dict[str, Any]], x265: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Return, of each clip and budget, BD-rates of networks against HiNeRV as it was, and against x265."""
    found: dict[tuple[str, int, float], dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        key = row["clip"], row["rows"], row["CPU min"]
        found.setdefault(key, {}).setdefault(row["network"], []).append(row)
    for (clip, height, minutes), networks in sorted(found.items()):
        codec = _alike({"clip": clip, "rows": height}, x265, "clip", "rows")
        if not codec:
            continue
        num_pixels = codec[0]["pixels"]
        for network, points in networks.items():
            line: dict[str, Any] = {"clip": clip, "rows": height, "CPU min": minutes, "network": network}
            for (quality, words), name in product(QUALITIES.items(), (ANCHOR, "x265")):
                anchor = codec if name == "x265" else networks.get(ANCHOR, [])
                curves = [curve_of(name, rows, num_pixels, quality) for rows in (anchor, points)]
                line[f"to {name}, {words} %"] = None if name == network else _percent(*curves)
            if any(value is not None for column, value in line.items() if column.startswith("to ")):
                yield line


def _percent(anchor: RDCurve, test: RDCurve) -> float | None:
    try:
        return round(bd_rate(anchor, test), 1)
    except UsageError:  # fewer than four points, or no quality in common
        return None


def times_bytes(row: dict[str, Any], points: Sequence[dict[str, Any]], quality: str) -> float | None:
    """Return the bytes of ``row`` to those of ``points`` at its ``quality``, on lines of log bytes."""
    known = sorted((each[quality], each["bytes"]) for each in points)
    for (low, small), (high, large) in pairwise(known):
        if low <= row[quality] <= high:
            share = (row[quality] - low) / (high - low)
            return round(float(row["bytes"] / (small ** (1 - share) * large**share)), 2)
    return None


def add_times(rows: Sequence[dict[str, Any]], x265: Sequence[dict[str, Any]]) -> None:
    """Add to rows their bytes to those of x265, and of HiNeRV as it was in that time, at their quality."""
    as_it_was = [row for row in rows if row["network"] == ANCHOR]
    for row in rows:
        others = {
            "x265": _alike(row, x265, "clip", "rows"),
            ANCHOR: _alike(row, as_it_was, "clip", "rows", "CPU min"),
        }
        for (quality, words), (name, points) in product(QUALITIES.items(), others.items()):
            row[f"× {name}, {words}"] = None if name == row["network"] else times_bytes(row, points, quality)


def _alike(row: dict[str, Any], others: Sequence[dict[str, Any]], *keys: str) -> list[dict[str, Any]]:
    return [other for other in others if all(other[key] == row[key] for key in keys)]


def write_report(folder: Path) -> None:
    """Write docs/results/flagship.* from the rows there are."""
    found = _record.rows_in(folder)
    steps = next(row for row in found if "step ms" in row)["step ms"]
    lists = [row for part in found if isinstance(part, list) for row in part]
    x265 = [row for row in lists if "setting" in row]
    decoded = [row for row in lists if "decoded" in row]
    rows = [row for row in found if isinstance(row, dict) and "CPU min" in row]
    order = list(RECIPES)
    rows.sort(
        key=lambda row: (
            row["clip"],
            row["rows"],
            row["CPU min"],
            order.index(row["network"]),
            row["parameters"],
        )
    )
    add_times(rows, x265)
    told = ", ".join(f"{name} {1e3 * seconds:.1f}" for name, seconds in steps.items())
    lines = list(savings(rows, x265))
    key = f"to {ANCHOR}, {QUALITIES['PSNR dB']} %"
    text = f"{__doc__}\n\nTraining a frame once takes, in CPU ms: {told}."
    text += f"\n\n## BD-rates, RGB-PSNR\n\n{_record.table(lines)}"
    for minutes in sorted({line["CPU min"] for line in lines}):
        of_new = [line.get(key) for line in lines if line["network"] == NEW and line["CPU min"] == minutes]
        known = [value for value in of_new if value is not None]
        if known:
            clips = plural(len(known), "clip")
            text += f"\n\nMean of {clips}, {minutes:g} CPU-minutes: **{fmean(known):+.1f} %**."
    shown = [{name: value for name, value in row.items() if name != "pixels"} for row in x265]
    text += f"\n\n## Files\n\n{_record.table(rows)}"
    if decoded:
        text += f"\n\n## Decoding, one thread\n\n{_record.table(decoded)}"
    text += f"\n\n## x265\n\n{_record.table(shown)}"
    _record.write(NAME, f"python -m benchmarks.{NAME}", {"x265": X265}, rows + decoded + x265, text)


def main() -> None:
    """Measure the rows that nobody is at, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    _record.row_options(parser, NAME)
    parser.add_argument("--data", type=Path, help="folder of data sets, for davis/bmx-trees")
    parser.add_argument("--clips", default="bunny")
    parser.add_argument("--minutes", default="5", help="CPU-minutes of each file")
    parser.add_argument("--recipes", default="hinerv before,vinr")
    parser.add_argument("--sizes", default="30000,45000,60000,90000")
    parser.add_argument("--decoding", action="store_true", help="measure decoding alone")
    parser.add_argument("--height", type=int, default=SMALL[0], help="rows of the frames, 80 or 160")
    given = parser.parse_args()
    torch.set_num_threads(1)
    folder: Path = given.rows
    if given.report:
        write_report(folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    recipes, sizes = given.recipes.split(","), list(map(int, given.sizes.split(",")))
    if given.decoding:
        pairs = list(product(recipes, sizes))
        (folder / "decoding.json").write_text(json.dumps(decoding_times(pairs, folder)), encoding="utf-8")
        return
    steps_file = folder / "steps.json"
    steps = json.loads(steps_file.read_text(encoding="utf-8"))["step ms"] if steps_file.exists() else {}
    resize = given.height, 2 * given.height
    ending = _of_size(resize)
    missing = [pair for pair in product(recipes, sizes) if f"{pair[0]} {pair[1]}{ending}" not in steps]
    if missing:
        steps |= step_seconds(missing, resize)
        steps_file.write_text(json.dumps({"step ms": steps}), encoding="utf-8")
    for clip in given.clips.split(","):
        path = folder / f"x265-{clip.replace('/', '-')}{ending}.json"
        if not path.exists():
            path.write_text(json.dumps(measure_x265(clip, resize, given.data)), encoding="utf-8")
        for minutes, params, recipe in product(map(float, given.minutes.split(",")), sizes, recipes):
            row = Row(clip, minutes, recipe, params, resize)
            path = folder / f"{row.name}.json"
            try:
                path.open("x").close()
            except FileExistsError:
                continue
            result = measure(row, steps[f"{recipe} {params}{ending}"], given.data, folder)
            print(result, flush=True)
            path.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
