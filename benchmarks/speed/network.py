"""All that is measured of one network: steps of two recipes, time to quality, decoding, memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final, final

import torch

from benchmarks.speed.decoding import (
    PLAIN,
    first_frame,
    frame_works,
    psnr_changes_db,
    random_file,
    ways_for,
    whole_file,
)
from benchmarks.speed.limits import MATMUL, limit_works
from benchmarks.speed.memory import decode_memory, step_memory
from benchmarks.speed.quality import Curve, fit_curve, level_rows
from benchmarks.speed.settings import SpeedSettings
from benchmarks.speed.steps import Stepper, step_macs
from benchmarks.speed.turns import Clock, Spread, ratios, take_turns
from vinr.compress import pack_tensors
from vinr.config import Preset, load_preset
from vinr.decoding.settings import DecodeSettings
from vinr.encoding.plan import choose_preset
from vinr.encoding.segment import FittedSegment
from vinr.fit import Event, Noted
from vinr.fit.precision import resolve_precision
from vinr.models import get_model, validate_architecture
from vinr.models.cost import count_macs
from vinr.tasks.frames import plain_fit
from vinr.temporaries import temporary_folder
from vinr.video.samples import sample_clip
from vinr.video.source import FrameTensor, open_video
from vinr.video.spec import VideoSpec

RECIPES: Final = ("paper", "vinr")
# As the papers run it on CPUs, whatever a preset says.
PAPER_SETTINGS: Final = (
    "fit.recipe=paper",
    "fit.precision=fp32",
    "fit.channels_last=false",
    "fit.convolution=direct",
    "fit.keep_memory=false",
)
# Parts of vinr's recipe switched off, and of it switched on in the paper's.
VARIANTS: Final = {
    "vinr, direct convolutions, channels last": ("fit.convolution=direct",),
    "vinr, direct convolutions": ("fit.convolution=direct", "fit.channels_last=false"),
    "vinr, memory not kept": ("fit.keep_memory=false",),
    "vinr, Adam": ("fit.optimizer=adam",),
    "paper, fast convolutions, memory kept": (
        "fit.recipe=paper",
        "fit.precision=fp32",
        "fit.convolution=auto",
        "fit.keep_memory=true",
    ),
}
# Where a preset names no size: Bunny reduced.
CLIP_SIZE: Final = (160, 320)
LARGEST_BATCH: Final = 4


@dataclass(frozen=True)
class Subject:
    """A network to measure: its frames, and a plain fit for each recipe and variant, by name."""

    name: str
    frames: FrameTensor
    recipes: dict[str, Preset]
    variants: dict[str, Preset]

    @classmethod
    def of(
        cls,
        name: str,
        source: str | None,
        size: tuple[int, int] | None,
        overrides: Sequence[str],
        device: torch.device,
    ) -> Subject:
        """Load the preset or model ``name`` and the frames for it."""
        paper = load_preset(name).paper
        stated = CLIP_SIZE if paper is None else (paper.height, paper.width)
        frames = _read(source, size or stated, None if paper is None else paper.num_frames)

        def plain(*extra: str) -> Preset:
            preset = choose_preset(
                frames.spec, model=None, preset=name, num_parameters=None, overrides=[*extra, *overrides]
            )
            resolve_precision(preset.fit.precision, device)
            return plain_fit(preset)

        recipes = {"paper": plain(*PAPER_SETTINGS), "vinr": plain("fit.recipe=vinr")}
        variants = {variant: plain(*changes) for variant, changes in VARIANTS.items()}
        return cls(name, frames, recipes, variants)


def _read(source: str | None, size: tuple[int, int], num_frames: int | None) -> FrameTensor:
    """Return the clip, cut from the centre to the shape of ``size`` and resized to it."""
    path = source or str(sample_clip())
    with open_video(path) as reader:
        (rows, columns), count = reader.original, reader.spec.num_frames
    # The largest part of the frame that has the shape of ``size``:
    #   rows ≥ scale · height and columns ≥ scale · width
    scale = min(rows / size[0], columns / size[1])
    crop = min(round(scale * size[0]), rows), min(round(scale * size[1]), columns)
    frames = (0, count if num_frames is None else min(num_frames, count))
    with open_video(path, crop=crop, resize=None if crop == size else size, frames=frames) as reader:
        return reader.read()


@final
class NetworkBench:
    """Measures one network."""

    def __init__(
        self,
        subject: Subject,
        device: torch.device,
        settings: SpeedSettings,
        on_event: Callable[[Event], None],
    ) -> None:
        self._subject, self._device, self._settings, self._on_event = subject, device, settings, on_event
        self._clock = Clock(device)

    def run(self) -> dict[str, Any]:
        """Return all that is measured, as plain values; parts that are not measured are None."""
        parts = self._settings.parts
        document: dict[str, Any] = {"preset": self._subject.name, **self._size()}
        document |= dict.fromkeys(("steps", "quality", "decoding", "whole_file", "first_frame", "memory"))
        curves: list[Curve] = []
        if "steps" in parts or "quality" in parts:
            self._note("steps, interleaved")
            document["steps"] = self._steps()
        if "quality" in parts:
            curves = self._curves(document["steps"])
            document["quality"] = self._quality(curves, document["steps"])
        with temporary_folder("vinr-bench-") as folder:
            if "decoding" in parts or "memory" in parts:
                path = self._file(curves, folder)
            if "decoding" in parts:
                self._note("decoding, interleaved")
                document["decoding"] = self._decoding(path)
                document["whole_file"] = whole_file(path, folder, self._device, turns=1)
                document["first_frame"] = first_frame(path, self._device)
            if "memory" in parts:
                document["memory"] = self._memory(path)
        return document

    def _note(self, text: str) -> None:
        self._on_event(Noted(f"{self._subject.name}: {text}"))

    @property
    def _spec(self) -> VideoSpec:
        return self._subject.frames.spec

    def _decode_macs(self) -> int:
        preset = self._subject.recipes["vinr"]
        cls = get_model(preset.model)
        return count_macs(cls, validate_architecture(cls, preset.architecture), self._spec)

    def _size(self) -> dict[str, Any]:
        spec = self._spec
        return {
            "num_frames": spec.num_frames,
            "height": spec.height,
            "width": spec.width,
            "decode_macs": self._decode_macs(),
            "cpu_time": self._clock.is_cpu_time,
        }

    # -- steps ---------------------------------------------------------------------------------------------

    def _steps(self) -> dict[str, Any]:
        """Return limits, and for each recipe the seconds per step and what it achieves of them."""
        settings, subject = self._settings, self._subject
        presets = subject.recipes | (subject.variants if settings.variants else {})
        limits = limit_works(self._device, self._clock, seconds=settings.limit_seconds)
        works, steps_per_epoch = dict(limits), {}
        for name, preset in presets.items():
            stepper = Stepper(subject.frames, preset, self._device)
            works[name] = stepper.work(settings.steps, self._clock)
            steps_per_epoch[name] = stepper.steps_per_epoch
        take_turns(works, turns=1)  # sets things up
        taken = take_turns(works, turns=settings.turns)
        steps: dict[str, Any] = {"limits": {name: asdict(Spread.of(taken[name])) for name in limits}}
        for recipe in RECIPES:
            steps[recipe] = self._recipe(recipe, steps_per_epoch[recipe], taken)
        per_epoch = {}
        for name in presets:
            per_epoch[name] = [seconds * steps_per_epoch[name] for seconds in taken[name]]
        steps["vinr_over_paper"] = asdict(ratios(per_epoch["vinr"], per_epoch["paper"]))
        steps["variants"] = {}
        for name in presets:
            if name not in subject.recipes:
                over_paper = ratios(per_epoch[name], per_epoch["paper"])
                seconds = Spread.of(taken[name])
                steps["variants"][name] = {"step_seconds": asdict(seconds), "over_paper": asdict(over_paper)}
        return steps

    def _recipe(self, recipe: str, steps_per_epoch: int, taken: dict[str, list[float]]) -> dict[str, Any]:
        preset = self._subject.recipes[recipe]
        precision = resolve_precision(preset.fit.precision, self._device)
        macs, seconds = step_macs(preset, self._subject.frames), taken[recipe]
        shares = _shares(macs, seconds, taken[MATMUL.format(precision.name)])
        return {
            "step_seconds": asdict(Spread.of(seconds)),
            "epoch_seconds": median(seconds) * steps_per_epoch,
            "steps_per_epoch": steps_per_epoch,
            "step_macs": macs,
            "share_of_matmul": asdict(Spread.of(shares)),
            "precision": str(precision),
            "fit": preset.fit.model_dump(mode="json"),
        }

    # -- quality -------------------------------------------------------------------------------------------

    def _curves(self, steps: Mapping[str, Any]) -> list[Curve]:
        """Return the fit of the paper's recipe, then vinr's in shares of its time, the longest last."""
        paper, vinr = (steps[recipe] for recipe in RECIPES)
        paper_seconds = self._settings.epochs * paper["epoch_seconds"]
        plans = [("paper", "paper's recipe", float(self._settings.epochs))]
        for share in sorted(self._settings.budgets):
            epochs = share * paper_seconds / vinr["epoch_seconds"]
            plans.append(("vinr", f"vinr's recipe in {share:.3g} of the time", epochs))
        curves = []
        for recipe, label, epochs in plans:
            curves.append(
                fit_curve(
                    self._subject.frames,
                    self._subject.recipes[recipe],
                    self._device,
                    label=label,
                    num_steps=max(int(epochs * steps[recipe]["steps_per_epoch"]), 1),
                    on_event=self._on_event,
                )
            )
        return curves

    def _quality(self, curves: Sequence[Curve], steps: Mapping[str, Any]) -> dict[str, Any]:
        fits = []
        for curve in curves:
            seconds = curve.epochs[-1] * steps[curve.recipe]["epoch_seconds"]
            fits.append(
                {
                    "label": curve.label,
                    "recipe": curve.recipe,
                    "epochs": list(curve.epochs),
                    "psnr_db": list(curve.psnr_db),
                    "wall_seconds": curve.wall_seconds,
                    "seconds": seconds,
                    "final_psnr_db": curve.psnr_db[-1],
                }
            )
        paper_seconds, vinr_seconds = (steps[recipe]["epoch_seconds"] for recipe in RECIPES)
        levels = level_rows(
            curves[0], curves[1:], paper_epoch_seconds=paper_seconds, vinr_epoch_seconds=vinr_seconds
        )
        return {
            "fits": fits,
            "levels": [{**asdict(level), "times_as_fast": level.times_as_fast} for level in levels],
        }

    # -- decoding ------------------------------------------------------------------------------------------

    def _file(self, curves: Sequence[Curve], folder: Path) -> Path:
        """Write the network fitted last, or random numbers: speed does not depend on them."""
        path = folder / "network.vinr"
        if not curves:
            return random_file(self._subject.recipes["vinr"], self._spec, path)
        curve = curves[-1]
        preset, model = self._subject.recipes[curve.recipe], curve.result.model
        packed = pack_tensors(model.stored(), preset.compress, steps=curve.result.steps)
        FittedSegment.coded(preset, model, packed, self._spec).alone("clip", self._spec).write(path)
        return path

    def _decoding(self, path: Path) -> list[dict[str, Any]]:
        """Return frames per second for each way of decoding, and its share of the limits, all interleaved."""
        settings, device = self._settings, self._device
        ways = ways_for(device, compiled=settings.compile, onnx=settings.onnx)
        limits = limit_works(device, self._clock, seconds=settings.limit_seconds)
        works, open_files = frame_works(path, device, ways, self._clock, frames=settings.frames)
        with open_files:
            take_turns(works, turns=1)  # compiles, exports
            taken = take_turns({**limits, **works}, turns=settings.turns)
        changes_db = psnr_changes_db(path, device, ways, self._subject.frames)
        rows = []
        for name, way in ways.items():
            rows.append({"way": name, "psnr_change_db": changes_db[name], **self._way(name, way, taken)})
        return rows

    def _way(self, name: str, way: DecodeSettings, taken: Mapping[str, list[float]]) -> dict[str, Any]:
        half = self._device.type == "cuda" and way.precision != "fp32"
        limit = taken[MATMUL.format("bf16" if half else "fp32")]
        shares = _shares(self._decode_macs(), taken[name], limit)
        return {
            "fps": 1 / median(taken[name]),
            "best_fps": 1 / min(taken[name]),
            "times_plain": asdict(ratios(taken[PLAIN], taken[name])),
            "share_of_matmul": asdict(Spread.of(shares)),
        }

    def _memory(self, path: Path) -> dict[str, int]:
        self._note("memory")
        peaks = {}
        for recipe, preset in self._subject.recipes.items():
            peaks[f"fitting, {recipe}'s recipe"] = step_memory(preset, self._spec, self._device)
        plain = DecodeSettings(convolution="direct", precision="fp32")
        batch = DecodeSettings(batch=LARGEST_BATCH)
        for name, settings in (
            ("plain", plain),
            ("default", DecodeSettings()),
            (f"batch {LARGEST_BATCH}", batch),
        ):
            peaks[f"decoding, {name}"] = decode_memory(path, settings, self._device)
        return peaks


def _shares(macs: int, seconds: Sequence[float], limits: Sequence[float]) -> list[float]:
    """Return what ``macs`` in ``seconds`` are of each turn's limit in GMAC/s."""
    return [macs / taken / 1e9 / limit for taken, limit in zip(seconds, limits, strict=True)]
