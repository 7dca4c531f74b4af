"""All that is measured of one network: steps of two recipes, time to quality, decoding, memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final, final

import torch

from vinr.bench.speed_decode import PLAIN, first_frame, frame_works, psnr_changes_db, ways_for, whole_file
from vinr.bench.speed_fit import Curve, Stepper, fit_curve, level_rows, step_macs
from vinr.bench.speed_limits import MATMUL, limit_works
from vinr.bench.speed_memory import decode_memory, step_memory
from vinr.bench.speed_settings import SpeedSettings
from vinr.bench.speed_turns import Clock, Spread, ratios, take_turns
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
# As the papers run it on processors, whatever a preset says.
PAPER_SETTINGS: Final = (
    "fit.recipe=paper",
    "fit.precision=fp32",
    "fit.channels_last=false",
    "fit.convolution=direct",
    "fit.keep_memory=false",
)
# Where a preset names no size: Bunny reduced.
CLIP_SIZE: Final = (160, 320)
LARGEST_BATCH: Final = 4


@dataclass(frozen=True)
class Subject:
    """A network to measure: its frames, and a preset for each recipe, without what prepares for a file."""

    name: str
    frames: FrameTensor
    recipes: dict[str, Preset]

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
        recipes = {}
        for recipe in RECIPES:
            extra = PAPER_SETTINGS if recipe == "paper" else (f"fit.recipe={recipe}",)
            preset = plain_fit(
                choose_preset(
                    frames.spec, model=None, preset=name, num_parameters=None, overrides=[*extra, *overrides]
                )
            )
            resolve_precision(preset.fit.precision, device)
            recipes[recipe] = preset
        return cls(name, frames, recipes)


def _read(source: str | None, size: tuple[int, int], num_frames: int | None) -> FrameTensor:
    """Return the clip, cut from the centre to the shape of ``size`` and resized to it."""
    path = source or str(sample_clip())
    with open_video(path) as reader:
        (rows, columns), count = reader.original, reader.spec.num_frames
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
        """Return all that is measured, as plain values."""
        self._note("steps by turns")
        steps = self._steps()
        found: dict[str, Any] = {"preset": self._subject.name, **self._size(), "steps": steps}
        epoch_seconds = {recipe: steps[recipe]["epoch_seconds"] for recipe in RECIPES}
        curves = self._curves(epoch_seconds, {r: steps[r]["steps_per_epoch"] for r in RECIPES})
        found["quality"] = self._quality(curves, epoch_seconds)
        with temporary_folder("vinr-bench-") as folder:
            path = self._file(curves[-1], folder)
            self._note("decoding by turns")
            found["decoding"] = self._decoding(path)
            found["whole_file"] = whole_file(path, folder, self._device, turns=1)
            found["first_frame"] = first_frame(path, self._device)
            found["memory"] = self._memory(path) if self._settings.memory else {}
        return found

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
            "processor_time": self._clock.is_processor_time,
        }

    # -- steps ---------------------------------------------------------------------------------------------

    def _steps(self) -> dict[str, Any]:
        """Return limits, and for each recipe the seconds of a step and what it achieves of them."""
        settings, frames = self._settings, self._subject.frames
        steppers = {
            recipe: Stepper(frames, preset, self._device) for recipe, preset in self._subject.recipes.items()
        }
        limits = limit_works(self._device, self._clock, seconds=settings.limit_seconds)
        works = limits | {r: stepper.work(settings.steps, self._clock) for r, stepper in steppers.items()}
        take_turns(works, turns=1)  # sets things up
        taken = take_turns(works, turns=settings.turns)
        per_epoch = {r: [s * steppers[r].steps_per_epoch for s in taken[r]] for r in RECIPES}
        return {
            "limits": {name: asdict(Spread.of(taken[name])) for name in limits},
            "vinr_over_paper": asdict(ratios(per_epoch["vinr"], per_epoch["paper"])),
            **{r: self._recipe(r, steppers[r].steps_per_epoch, taken) for r in RECIPES},
        }

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

    def _curves(self, epoch_seconds: dict[str, float], steps_per_epoch: dict[str, int]) -> list[Curve]:
        """Return the fit of the paper's recipe, then vinr's in shares of its time, the longest last."""
        whole = self._settings.epochs * epoch_seconds["paper"]
        plans = [("paper", "paper's recipe", self._settings.epochs * steps_per_epoch["paper"])]
        for share in sorted(self._settings.budgets):
            count = int(share * whole / epoch_seconds["vinr"] * steps_per_epoch["vinr"])
            plans.append(("vinr", f"vinr's recipe in {share:.3g} of the time", max(count, 1)))
        return [
            fit_curve(
                self._subject.frames,
                _lasting(self._subject.recipes[recipe], count, steps_per_epoch[recipe]),
                self._device,
                label=label,
                num_steps=count,
                on_event=self._on_event,
            )
            for recipe, label, count in plans
        ]

    def _quality(self, curves: Sequence[Curve], epoch_seconds: dict[str, float]) -> dict[str, Any]:
        paper, *others = curves
        rows = []
        for curve in curves:
            values = {key: value for key, value in vars(curve).items() if key != "result"}
            values |= {"epochs": list(curve.epochs), "psnr_db": list(curve.psnr_db)}
            seconds = curve.epochs[-1] * epoch_seconds[curve.recipe]
            rows.append({**values, "seconds": seconds, "final_psnr_db": curve.psnr_db[-1]})
        levels = level_rows(
            paper,
            others,
            paper_epoch_seconds=epoch_seconds["paper"],
            vinr_epoch_seconds=epoch_seconds["vinr"],
        )
        return {
            "fits": rows,
            "levels": [{**asdict(level), "times_as_fast": level.times_as_fast} for level in levels],
        }

    # -- decoding ------------------------------------------------------------------------------------------

    def _file(self, curve: Curve, folder: Path) -> Path:
        """Write the network of ``curve``."""
        preset, model = self._subject.recipes[curve.recipe], curve.result.model
        packed = pack_tensors(model.stored(), preset.compress, steps=curve.result.steps)
        path = folder / "fitted.vinr"
        FittedSegment.coded(preset, model, packed, self._spec).alone("clip", self._spec).write(path)
        return path

    def _decoding(self, path: Path) -> list[dict[str, Any]]:
        """Return frames a second for each way of decoding, and what that is of the limits, all by turns."""
        settings, device = self._settings, self._device
        ways = ways_for(device, compiled=settings.compile, onnx=settings.onnx)
        limits = limit_works(device, self._clock, seconds=settings.limit_seconds)
        frames, open_files = frame_works(path, device, ways, self._clock, frames=settings.frames)
        with open_files:
            take_turns(frames, turns=1)  # compiles, exports
            taken = take_turns({**limits, **frames}, turns=settings.turns)
        changes_db = psnr_changes_db(path, device, ways, self._subject.frames)
        return [
            {"way": name, "psnr_change_db": changes_db[name], **self._way(name, way, taken)}
            for name, way in ways.items()
        ]

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
        found = {
            f"fitting, {recipe}'s recipe": step_memory(preset, self._spec, self._device)
            for recipe, preset in self._subject.recipes.items()
        }
        plain = DecodeSettings(convolution="direct", precision="fp32")
        for name, settings in {"plain": plain, "default": DecodeSettings()}.items():
            found[f"decoding, {name}"] = decode_memory(path, settings, self._device)
        together = DecodeSettings(batch=LARGEST_BATCH)
        found[f"decoding, batch {LARGEST_BATCH}"] = decode_memory(path, together, self._device)
        return found


def _lasting(preset: Preset, num_steps: int, steps_per_epoch: int) -> Preset:
    """Return ``preset`` with the epochs that ``num_steps`` come to, for what depends on them."""
    epochs = max(round(num_steps / steps_per_epoch), 1)
    return preset.model_copy(update={"fit": preset.fit.model_copy(update={"epochs": epochs})})


def _shares(macs: int, seconds: Sequence[float], limits: Sequence[float]) -> list[float]:
    """Return what ``macs`` in ``seconds`` are of each turn's limit in GMAC/s."""
    return [macs / own / 1e9 / limit for own, limit in zip(seconds, limits, strict=True)]
