"""What an encode will do: model, size, budget and segments, chosen where the user left them open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch

from vinr.config import Phase, Preset, Schedule, load_preset, preset_asked_for
from vinr.encoding.splitting import Job, count_pixels, join_clips, split_segments
from vinr.errors import UsageError, argument, format_frame, override, plural
from vinr.fit.losses import build_loss
from vinr.models import get_model, validate_architecture
from vinr.sizing.solve import solve_size
from vinr.units import SegmentLength, format_count, format_seconds, format_size
from vinr.video.spec import VideoSpec

# Two known points fix the default size: 0.19 M parameters suit 132 frames of 160×320, the papers' 1.5 M suit
# 132 frames of 640×1280. Larger videos have more redundancy, so the exponent is below one.
REFERENCE_PARAMETERS = 190_000
REFERENCE_PIXELS = 132 * 160 * 320
SIZE_EXPONENT = 0.745
PARAMETERS_LIMITS = (20_000, 30_000_000)

# Three minutes suit 132 frames of 160×320 on two CPU cores; the time rises with the root of the pixels, so
# that longer and larger videos take longer, but not unreasonably.
REFERENCE_SECONDS = 180.0
TIME_EXPONENT = 0.5
SECONDS_LIMITS = (30.0, 6 * 3600.0)

QualityName = Literal["low", "medium", "high"]
# Of what is chosen: how many times the usual parameters, and the usual time.
QUALITIES: Final[dict[QualityName, tuple[float, float]]] = {
    "low": (0.5, 0.5),
    "medium": (1.0, 1.0),
    "high": (2.0, 4.0),
}

# Bits that a parameter takes where steps are learned: symbols all rounded until the end, or fixed one after
# another. Parameters of a target size are solved for with them.
BITS_PER_PARAMETER, FIXED_BITS_PER_PARAMETER = 4.3, 3.6
# With fewer, steps that large at once would undo what was fitted: they grow slowly, and symbols are rounded.
# Of HNeRV with 20,000 parameters 0.8 bits ended as a collapse, 1.6 did not.
LEAST_FIXED_BITS = 1.5
# Prologue and the texts of a header; what a clip and a network add to it.
FRONT_BYTES, CLIP_BYTES, NETWORK_BYTES = 60, 120, 110
# Phase appended when a target is set and the recipe has no entropy phase. Its learning rates are high: steps
# and parameters have to move far.
TARGET_PHASE = Phase(share=0.35, quantization="entropy", rate_moves="steps", schedule=Schedule(warmup=0.05))
# Settings of tensors whose steps follow from a number of bits.
IDLE_WITH_LEARNED_STEPS = {"compress.weight_bits", "compress.grid_bits", "compress.latent_bits"}


@dataclass(frozen=True)
class Target:
    """Target of a file: its size in bytes, ``other_bytes`` of which are no networks; or a PSNR in dB."""

    num_bytes: int | None = None
    psnr_db: float | None = None
    other_bytes: int = 0

    def network_bytes(self, jobs: Sequence[Job], specs: Sequence[VideoSpec]) -> list[int] | None:
        """Return the bytes that each network may take, None if the size is free.

        Raises
        ------
        UsageError
            If nothing is left for them.
        """
        if self.num_bytes is None:
            return None
        # | prologue, header, index | times, audio | network 0 | network 1 | …       networks share what is
        # |---------- front --------|--- other ----|---------- left ---------|       left by their pixels
        front = FRONT_BYTES + CLIP_BYTES * len(specs) + NETWORK_BYTES * len(jobs)
        left = self.num_bytes - self.other_bytes - front
        if left < NETWORK_BYTES * len(jobs):
            message = (
                f"a file of {self.num_bytes:,} bytes leaves {left:,} for the network; give a larger size"
            )
            if self.other_bytes:
                message += (
                    f" (audio and times take {self.other_bytes:,}; "
                    f"{override('compress.audio=false')} leaves the audio out)"
                )
            raise UsageError(message)
        return [int(left * job.share) for job in jobs]


NO_TARGET = Target()


@dataclass(frozen=True)
class EncodePlan:
    """The networks of a file, each with its preset; ``seconds`` for all of them, or None to count epochs.

    ``time_is_chosen``: the time is a default.
    """

    jobs: tuple[Job, ...]
    presets: tuple[Preset, ...]
    seconds: float | None
    time_is_chosen: bool
    network_bytes: tuple[int, ...] | None = None

    def __str__(self) -> str:
        preset = self.presets[0]
        name = "" if preset.name == preset.model else f" ({preset.name})"
        hint = f" (chosen; see {argument('time')}, {argument('epochs')})" if self.time_is_chosen else ""
        segments = f", {len(self.jobs)} networks" if len(self.jobs) > 1 else ""
        return f"model {preset.model}{name}, recipe {preset.fit.recipe}, {self.length}{hint}{segments}"

    @property
    def length(self) -> str:
        """How long everything, or a fit, takes: ``180 s`` or ``7 epochs``."""
        if self.seconds is None:
            return plural(self.presets[0].fit.epochs, "epoch")
        return format_seconds(self.seconds)

    def in_full(self, specs: Sequence[VideoSpec], other_bytes: int = 0) -> str:
        """Return a line with sizes: of the network, of the file, of the frames.

        ``other_bytes`` of the file are no networks.
        """
        first, num_frames = specs[0], sum(spec.num_frames for spec in specs)
        num_parameters = count_parameters(self, specs)
        sides = {(spec.height, spec.width) for spec in specs}
        size = format_frame(first.height, first.width) if len(sides) == 1 else "several sizes"
        if self.network_bytes is None:
            num_bytes = other_bytes + round(num_parameters * bits_per_parameter(self.presets[0]) / 8)
            about = f"about {format_size(num_bytes)}"
        else:
            about = f"at most {format_size(sum(self.network_bytes) + other_bytes)}"
        audio = f" with {format_size(other_bytes)} of audio and times" if other_bytes else ""
        return (
            f"{self}: {format_count(num_parameters)} parameters, {about}{audio}, "
            f"{plural(num_frames, 'frame')} of {size}"
        )


def count_parameters(plan: EncodePlan, specs: Sequence[VideoSpec]) -> int:
    """Return the parameters that all networks of ``plan`` store."""
    counts: dict[tuple[VideoSpec, int], int] = {}  # segments of one size share a preset
    total = 0
    for job, preset in zip(plan.jobs, plan.presets, strict=True):
        spec = job.spec(specs)
        key = spec, id(preset)
        if key not in counts:
            counts[key] = _num_stored(preset, spec)
        total += counts[key]
    return total


def _num_stored(preset: Preset, spec: VideoSpec) -> int:
    cls = get_model(preset.model)
    return cls.on_meta(validate_architecture(cls, preset.architecture), spec).num_stored()


def bits_per_parameter(preset: Preset) -> float:
    """Return how many bits a parameter takes in a file, about: fewer where steps are learned for a rate."""
    learning = [phase for phase in preset.fit.phases if phase.quantization == "entropy"]
    if not learning:
        return float(preset.compress.weight_bits)
    return BITS_PER_PARAMETER if learning[-1].fix_from is None else FIXED_BITS_PER_PARAMETER


def default_parameters(num_pixels: int) -> int:
    """Return how many parameters suit a video of ``num_pixels`` (frames × rows × columns)."""
    count = REFERENCE_PARAMETERS * (num_pixels / REFERENCE_PIXELS) ** SIZE_EXPONENT
    low, high = PARAMETERS_LIMITS
    return int(min(max(count, low), high))


def default_seconds(num_pixels: int) -> float:
    """Return how long an encode of ``num_pixels`` (frames × rows × columns) takes by default, in seconds."""
    low, high = SECONDS_LIMITS
    seconds = float(REFERENCE_SECONDS * (num_pixels / REFERENCE_PIXELS) ** TIME_EXPONENT)
    return min(max(seconds, low), high)


def plan_encode(
    specs: Sequence[VideoSpec],
    *,
    model: str | None = None,
    preset: str | None = None,
    num_parameters: int | None = None,
    epochs: int | None = None,
    seconds: float | None = None,
    segment: SegmentLength | None = None,
    cuts: Sequence[Sequence[int]] | None = None,
    target: Target = NO_TARGET,
    quality: QualityName = "medium",
    seed: int | None = None,
    overrides: Sequence[str] = (),
) -> EncodePlan:
    """Plan the encode of clips of ``specs`` into one file.

    The length is that of ``epochs``, ``fit.epochs`` or a recipe by name, which has epochs; else ``seconds``;
    else a time suited to the size of the video. ``num_parameters`` are those of the whole file; ``quality``
    makes what is chosen of both smaller or larger. ``segment`` and ``cuts`` are those of
    :func:`split_segments`.

    Raises
    ------
    UsageError
        If names or keys are unknown, values contradict each other, or the size cannot be reached.
    """
    fixed = {"params": num_parameters, "preset": preset, "size or psnr": target.num_bytes or target.psnr_db}
    if quality != "medium" and (names := [name for name, value in fixed.items() if value is not None]):
        raise UsageError(
            f"{argument('quality', quality)} chooses the size of the network, and so does {names[0]}; "
            "give one of them"
        )
    if epochs is not None and seconds is not None:
        raise UsageError("both a number of epochs and a time are given; give one of them")
    keys = {item.partition("=")[0].strip() for item in overrides}
    chosen = seconds is None and epochs is None and not keys & {"fit.epochs", "fit.recipe"}
    if chosen:
        seconds = QUALITIES[quality][1] * default_seconds(count_pixels(specs))
    extra = []
    if seed is not None:
        extra.append(f"fit.seed={seed}")
    if epochs is not None:
        extra.append(f"fit.epochs={epochs}")
    first = load_preset(preset_asked_for(model, preset), overrides)
    join = get_model(first.model).joins_clips if first.fit.join_clips is None else first.fit.join_clips
    if join and segment is not None:
        raise UsageError(
            f"{argument('segment')} cuts clips apart, but {first.model} joins them in one network; "
            f"leave it out, or set {override('fit.join_clips=false')}"
        )
    jobs = split_segments(specs, segment, cuts)
    if join:
        jobs = join_clips(jobs, specs)
    network_bytes = target.network_bytes(jobs, specs)
    presets = []
    # Segments are equally long but for a frame: few sizes are solved for, however many segments there are.
    solved: dict[object, Preset] = {}
    for number, job in enumerate(jobs):
        num_bytes = None if network_bytes is None else network_bytes[number]
        count = None if num_parameters is None else max(round(num_parameters * job.share), 1)
        # Where bytes alone are fixed, as many parameters as will fill them; a preset fixes its own number.
        if count is None and num_bytes is not None and preset is None:
            # A recipe that learns no steps gets a phase that does.
            count = round(8 * num_bytes / min(bits_per_parameter(first), BITS_PER_PARAMETER))
        spec = job.spec(specs)
        if quality != "medium":
            count = round(QUALITIES[quality][0] * default_parameters(spec.num_pixels))
        if (spec, count) not in solved:
            solved[spec, count] = choose_preset(
                spec, model=model, preset=preset, num_parameters=count, overrides=[*overrides, *extra]
            )
        presets.append(_with_target(solved[spec, count], spec, num_bytes, target.psnr_db))
    _refuse_other_steps(keys, presets[0])
    if "fit.phases" in keys and target.psnr_db is not None:
        _refuse_fixing(first)
    planned_bytes = None if network_bytes is None else tuple(network_bytes)
    return EncodePlan(tuple(jobs), tuple(presets), seconds, chosen, planned_bytes)


def _refuse_other_steps(keys: set[str], preset: Preset) -> None:
    """Refuse settings ``keys`` for other steps than the network is trained with."""
    idle = sorted(keys & IDLE_WITH_LEARNED_STEPS)
    if idle and any(phase.quantization == "entropy" for phase in preset.fit.phases):
        raise UsageError(
            f"{idle[0]} changes nothing where steps are learned (fit.phases, quantization = entropy); "
            f"leave it out, or set {override('fit.phases=[]')}"
        )


def _refuse_fixing(preset: Preset) -> None:
    """Refuse phases that are given and fix symbols, where a quality is asked for."""
    if any(phase.fix_from is not None for phase in preset.fit.phases):
        raise UsageError(
            f"fit.phases fixes symbols (fix_from), and {argument('psnr')} gives up what is to spare by "
            "larger steps, which they do not bear; leave fix_from out"
        )


def _with_target(preset: Preset, spec: VideoSpec, num_bytes: int | None, psnr_db: float | None) -> Preset:
    """Return ``preset`` with a target for its last phase, added where none learns steps."""
    if num_bytes is None and psnr_db is None:
        return preset
    phases = preset.fit.phases
    if not phases or phases[-1].quantization != "entropy":
        # |-- a --|--- b ---|      ─>   |- a -|-- b --|- target -|      shares add up to the same
        room = 1 - TARGET_PHASE.share
        shrunk = [phase.model_copy(update={"share": room * phase.share}) for phase in phases]
        phases = (*shrunk, TARGET_PHASE)
    last = phases[-1]
    target: dict[str, object] = {"target_bytes": num_bytes, "target_psnr_db": psnr_db}
    has_bits = num_bytes is not None and 8 * num_bytes >= LEAST_FIXED_BITS * _num_stored(preset, spec)
    if not has_bits:
        # What is to spare of a quality is given up by larger steps: fixed symbols do not bear them.
        target["fix_from"] = None
    if psnr_db is not None:
        if last.rate_unit != "relative":  # the unit in which a weight is a loss of quality
            target |= {"rate_unit": "relative", "rate_weight": TARGET_PHASE.rate_weight}
    elif last.fix_from is None or not has_bits:
        # To meet a size, steps and parameters may have to move far; a quality is met on the way to the end,
        # and learning rates that start again would cost some of it.
        target["schedule"] = last.schedule or TARGET_PHASE.schedule
    fit = preset.fit.model_copy(update={"phases": (*phases[:-1], last.model_copy(update=target))})
    return preset.model_copy(update={"fit": fit})


def choose_preset(
    spec: VideoSpec,
    *,
    model: str | None,
    preset: str | Path | None,
    num_parameters: int | None,
    overrides: Sequence[str],
) -> Preset:
    """Return a preset with a complete architecture for a video of ``spec``.

    Raises
    ------
    UsageError
        If names or keys are unknown, or the size cannot be reached.
    """
    chosen = load_preset(preset_asked_for(model, preset), overrides)
    architecture = dict(chosen.architecture)
    cls = get_model(chosen.model)
    required = {name for name, field in cls.Config.model_fields.items() if field.is_required()}
    complete = required <= architecture.keys()
    if complete and num_parameters is not None:
        raise UsageError(
            f"{chosen.name} fixes the size; give {argument('params')} with "
            f"{argument('model')}, or the preset alone"
        )
    if complete:
        config = validate_architecture(cls, architecture)
    else:
        config = solve_size(cls, spec, num_parameters or default_parameters(spec.num_pixels), architecture)
    build_loss(chosen.fit.loss).check_size(spec.height, spec.width)
    return chosen.model_copy(update={"architecture": config.model_dump(mode="json", exclude_defaults=True)})


def describe_threads(device: torch.device) -> str:
    """Return the device in words, with the number of threads on a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return plural(torch.get_num_threads(), "CPU thread")
