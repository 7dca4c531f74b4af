"""All models at equal numbers stored, fitted for as many epochs, with its paper's recipe and with vinr's.

Bunny, centre-crop 640×1280, area-averaged to 160×320, all 132 frames. Quality is that of the decoded file
(8 bits a weight, 12 a bias). Every run writes a row of its own, so that an interrupted comparison goes on
where it stopped and several processes share the work. `--speed` then times steps and decoding, all runs in
turns, and `--report` writes tables and plot.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

import _record
from _stages import bunny, claim
from vinr.compress import pack_tensors
from vinr.config import Preset, load_preset
from vinr.encoding.plan import choose_preset
from vinr.encoding.segment import FittedSegment
from vinr.fit import fit
from vinr.models import VideoModel, list_models
from vinr.quality.clip import compare
from vinr.video.source import FrameTensor
from vinr.video.spec import Query

NAME = "model-comparison"
RECIPES = ("vinr", "paper")
SIZES = (200_000, 400_000)
# Networks are compared as plain fits, written with 8 bits: what compression adds has a page of its own.
PLAIN = ["fit.phases=[]", 'fit.schedule.decay="cosine"']
# Timing: medians of so many rounds of so many steps and frames, after one step and one frame to warm up.
ROUNDS, STEPS, DECODED = 3, 2, 4
# What the figures do and do not say; the page ends with it.
NOTES = """## Read with care

- Eight and three epochs are a small part of the 300 that the papers fit: this compares how fast models
  learn, not where they end. Expected from the papers: HiNeRV first, NeRV last.
- HiNeRV learns more slowly at first and passes the others later: after 16 epochs of vinr's recipe at
  200,000 numbers it is at 30.98 dB, HNeRV at 29.76 dB (docs/results/compression-stage.md starts from
  these two). Earlier rows, with a momentum of 0.95 and a warm-up of 5 %, had HNeRV first after 8 epochs
  too (28.10 against 27.86 dB): of learning rate (3e-3 to 2e-2), vectors' rate (1e-3 to 1e-2), clipping,
  warm-up, Adam's and Muon's memory, two made a difference after 4 epochs: momentum 0.9 (+0.43 dB, for
  HNeRV +0.45) and a warm-up of 20 % (+0.33 dB). At 400,000 numbers three epochs are too few for it.
- NeRV is last with vinr's recipe but for models that have hardly begun: D-NeRV takes 17 steps an epoch
  (clips of 8 frames), and FFNeRV's and D-NeRV's published recipes spend the first fifth of so few steps
  warming up.
- Not run: the published recipes of the boosted HNeRV and NeRV at 400,000 numbers.
- D-NeRV's bytes hold 18 keyframes as images, about 95 kB of them.
- Published recipes adapted to small frames: HiNeRV on 2×4 patches (of 80×80, as for 720p), the boosted
  models with a 5×5 window in MS-SSIM, D-NeRV one clip a step instead of 32.
- vinr's recipe is the plain fit, with the cosine decay it had when these rows were made; its phase of
  learned steps has a page of its own.
- Seconds and frames a second are medians of three rounds on one thread while up to three other processes
  shared the two cores: their ratios hold, quiet figures are about a third to a half (of seconds) of
  these.
"""
# What a published recipe needs at a quarter of its frame size: patches of 80×80 pixels, as for 720p, and an
# MS-SSIM whose window fits 160 rows.
BOOST = "fit.loss={l1 = 42, ms_ssim5 = 18, frequency = 1}"
ADAPTED = {
    "hinerv": ["fit.patches=[2, 4]"],
    "dnerv_diverse": ["fit.batch_size=1"],
    "enerv_boost": [BOOST],
    "hnerv_boost": [BOOST],
    "nerv_boost": [BOOST],
}


def overrides_of(model: str, recipe: str, epochs: int) -> list[str]:
    """Return the settings of one run."""
    adapted = ADAPTED.get(model, []) if recipe == "paper" else PLAIN
    return [f"fit.recipe={recipe}", f"fit.epochs={epochs}", *adapted]


def preset_of(frames: FrameTensor, model: str, recipe: str, size: int, epochs: int) -> Preset:
    """Return the preset of one run."""
    overrides = overrides_of(model, recipe, epochs)
    return choose_preset(frames.spec, model=model, preset=None, num_parameters=size, overrides=overrides)


def run(frames: FrameTensor, model: str, recipe: str, size: int, epochs: int) -> dict[str, Any]:
    """Fit, write, decode and score one network."""
    preset = preset_of(frames, model, recipe, size, epochs)
    started = time.perf_counter()
    result = fit(frames, preset)
    seconds = time.perf_counter() - started
    segment = FittedSegment.of(
        preset, result, pack_tensors(result.model.stored(), preset.compress, steps=result.steps), frames.spec
    )
    with segment.open(frames.spec, "cpu") as decoder:
        decoder[0]
        started = time.perf_counter()
        quality = compare(decoder, frames)
        decode_seconds = time.perf_counter() - started
        num_bytes = decoder.file.num_bytes
    return {
        "model": model,
        "recipe": recipe,
        "size": size,
        "stored": segment.num_parameters,
        "epochs": epochs,
        "psnr_db": quality.psnr_db,
        "ms_ssim": quality.ms_ssim,
        "train_psnr_db": result.train_psnr_db,
        "collapses": result.num_collapses,
        "num_bytes": num_bytes,
        "seconds_per_epoch_loaded": seconds / epochs,
        "decode_and_score_seconds_loaded": decode_seconds,
        "threads": torch.get_num_threads(),
        "commit": _record.commit(),
        "architecture": preset.architecture,
    }


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the finished rows, in the order of size, recipe and quality."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*-*.json"))]
    rows = [json.loads(text) for text in texts if text]
    return sorted(rows, key=lambda row: (row["size"], row["recipe"], -row["psnr_db"]))


def measure_speed(frames: FrameTensor, rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Time training steps and decoding of every row's network, in turns; return medians by row."""
    from vinr.fit import Trainer

    step_seconds: dict[str, list[float]] = {}
    frame_seconds: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for row in rows:
            preset = load_preset(row["model"], overrides_of(row["model"], row["recipe"], row["epochs"]))
            preset = preset.model_copy(update={"architecture": row["architecture"]})
            trainer = Trainer(frames, preset)
            batches = trainer.batches.of_epoch(0)
            trainer.train_on(batches[0])
            started = time.perf_counter()
            for batch in batches[1 : 1 + STEPS]:
                trainer.train_on(batch)
            key = key_of(row)
            step_seconds.setdefault(key, []).append(
                (time.perf_counter() - started) / STEPS * trainer.steps_per_epoch
            )
            model = trainer.model
            model.freeze(frames)
            frame_seconds.setdefault(key, []).append(decode_seconds(model.eval()))
    return {
        key: {"seconds_per_epoch": median(step_seconds[key]), "decode_fps": 1 / median(frame_seconds[key])}
        for key in step_seconds
    }


def decode_seconds(model: VideoModel) -> float:
    """Return the seconds a frame takes, one after another, without the file around it."""
    with torch.inference_mode():
        model(Query.of_frames(torch.tensor([0])))
        started = time.perf_counter()
        for index in range(8, 8 + DECODED):
            model(Query.of_frames(torch.tensor([index])))
    return (time.perf_counter() - started) / DECODED


def key_of(row: dict[str, Any]) -> str:
    """Return the name of a row."""
    return f"{row['model']} {row['size']} {row['recipe']}"


def shown(row: dict[str, Any]) -> dict[str, str]:
    """Return a row as the tables show it."""
    return {
        "model": row["model"],
        "stored": f"{row['stored']:,}",
        "PSNR dB": f"{row['psnr_db']:.2f}",
        "MS-SSIM": f"{row['ms_ssim']:.4f}",
        "bytes": f"{row['num_bytes']:,}",
        "s/epoch": f"{row['seconds_per_epoch']:.1f}" if "seconds_per_epoch" in row else "–",
        "decode fps": f"{row['decode_fps']:.1f}" if "decode_fps" in row else "–",
    }


def report(rows: list[dict[str, Any]], speed: dict[str, dict[str, float]], command: str) -> None:
    """Write tables, and PSNR by model as a picture."""
    parts = [__doc__ or ""]
    full = [{**row, **speed.get(key_of(row), {})} for row in rows]
    for size, epochs, recipe in sorted({(row["size"], row["epochs"], row["recipe"]) for row in full}):
        own = [row for row in full if (row["size"], row["epochs"], row["recipe"]) == (size, epochs, recipe)]
        title = f"## {size:,} numbers, {epochs} epochs, recipe {recipe}"
        parts.append(f"{title}\n\n{_record.table([shown(row) for row in own])}")
    draw(full)
    parts.append(f"![PSNR by model and recipe]({NAME}.png)")
    parts.append(NOTES)
    settings = {"rounds": ROUNDS, "steps": STEPS, "decoded": DECODED}
    _record.write(NAME, command, settings, full, "\n\n".join(parts))


def draw(rows: list[dict[str, Any]]) -> None:
    """Draw PSNR as bars: a group for each model, sorted by the best."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = [(size, recipe) for size in SIZES for recipe in RECIPES]
    least = {size: min(row["epochs"] for row in rows if row["size"] == size) for size in SIZES}
    rows = [row for row in rows if row["epochs"] == least[row["size"]]]
    found = {(row["model"], row["size"], row["recipe"]): row["psnr_db"] for row in rows}
    models = sorted(
        {row["model"] for row in rows}, key=lambda model: -found.get((model, SIZES[0], "vinr"), 0)
    )
    figure, axes = pyplot.subplots(figsize=(11, 4.5), layout="constrained")
    colors = {"vinr": ("#1b6ca8", "#63a7d8"), "paper": ("#b5651d", "#e0a96d")}
    for number, (size, recipe) in enumerate(kinds):
        places = [place + 0.2 * (number - 1.5) for place in range(len(models))]
        heights = [found.get((model, size, recipe), float("nan")) for model in models]
        color = colors[recipe][SIZES.index(size)]
        axes.bar(
            places,
            heights,
            width=0.19,
            color=color,
            label=f"{size / 1e6:.1f} M, {least[size]} epochs, {recipe}",
        )
    axes.set_xticks(range(len(models)), models, rotation=30, ha="right")
    axes.set_ylim(bottom=min(found.values()) - 1)
    axes.set_ylabel("PSNR of the decoded file, dB")
    axes.set_title("Bunny 160×320, 132 frames: recipes of vinr and of the papers")
    axes.grid(axis="y", alpha=0.3)
    figure.legend(ncols=4, frameon=False, loc="outside lower center")
    figure.savefig(_record.RESULTS / f"{NAME}.png", dpi=120)


def main() -> None:
    """Run what is asked for and not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--models", nargs="*", default=list_models())
    parser.add_argument("--recipes", nargs="*", default=RECIPES)
    parser.add_argument("--sizes", nargs="*", type=int, default=SIZES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=Path, default=Path(f"{NAME}.rows"))
    parser.add_argument("--speed", action="store_true", help="time the rows there are")
    parser.add_argument("--report", action="store_true", help="write the results from the rows there are")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.rows.mkdir(exist_ok=True)
    frames = bunny()
    speed_file = given.rows / "speed.json"
    if given.speed:
        speed_file.write_text(
            json.dumps(measure_speed(frames, read_rows(given.rows)), indent=2) + "\n", encoding="utf-8"
        )
    if given.report:
        speed = json.loads(speed_file.read_text(encoding="utf-8")) if speed_file.exists() else {}
        report(read_rows(given.rows), speed, "python benchmarks/model_comparison.py")
    if given.speed or given.report:
        return
    for size in given.sizes:
        for recipe in given.recipes:
            for model in given.models:
                path = given.rows / f"{model}-{size}-{recipe}-{given.epochs}.json"
                if not claim(path):
                    continue
                row = run(frames, model, recipe, size, given.epochs)
                path.write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")
                print(f"{model:12} {recipe:6} {size:7,} {row['psnr_db']:6.2f} dB", flush=True)


if __name__ == "__main__":
    main()
