"""What a comparison will do, refused here where it cannot: nothing has been encoded yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from vinr.comparison.anchors import Anchor, parse_anchor
from vinr.comparison.published import SUFFIX as PUBLISHED_SUFFIX
from vinr.comparison.published import published_curves
from vinr.comparison.rd import RDCurve
from vinr.config import default_model
from vinr.decoding.decoder import VideoDecoder
from vinr.decoding.file import open_clip
from vinr.decoding.playback import edit_of
from vinr.encoding.plan import Target, default_parameters, plan_encode
from vinr.errors import BitstreamError, InputError, OutputError, UsageError
from vinr.units import format_count
from vinr.video.edit import Edit
from vinr.video.spec import VideoSpec

DEFAULT_ANCHORS: Final = ("x264-medium", "x265-medium", "x265-medium-nob", "av1-6", "vp9-1")
# A BD-rate needs four points. The first size tried is a quarter of the default; each next one is twice that.
NUM_SIZES: Final = 4
FIRST_SIZE: Final = 0.25
MAX_DOUBLINGS: Final = 8
MAX_BPP: Final = 24

Sweep = tuple[Anchor, tuple[int, ...]]


@dataclass(frozen=True)
class Budget:
    """How every network is fitted; ``overrides`` as for an encode."""

    epochs: int | None
    seconds: float | None
    seed: int | None
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class FitJob:
    """A network to fit: a model with a size, or a preset, which may have its own. ``curve`` is its model."""

    model: str | None
    preset: str | None
    params: int | None = None
    bpp: float | None = None
    curve: str = ""

    @property
    def setting(self) -> str:
        """What tells this point from others of its curve."""
        parts = [self.preset] if self.preset else []
        parts += [f"{format_count(self.params)} numbers"] if self.params else []
        parts += [f"{self.bpp:g} bpp asked for"] if self.bpp else []
        return ", ".join(parts)

    @property
    def file_name(self) -> str:
        """Name of its file."""
        size = [str(self.params) if self.params else "", f"{self.bpp:g}bpp" if self.bpp else ""]
        return "-".join([self.preset or self.model or "", *filter(None, size)]) + ".vinr"


def read_anchors(texts: Sequence[str]) -> tuple[list[Sweep], list[RDCurve]]:
    """Return codecs to run with the qualities to run them at, and published curves.

    Raises
    ------
    UsageError, InputError
        If one is unknown or cannot be read.
    """
    sweeps, published = [], []
    for text in texts:
        if text.partition("#")[0].lower().endswith(PUBLISHED_SUFFIX):
            published += published_curves(text)
        else:
            sweeps.append(parse_anchor(text))
    names = [anchor.name for anchor, _ in sweeps] + [curve.name for curve in published]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UsageError(f"anchor {twice[0]!r} is given twice; give each once, with all its values")
    return sweeps, published


def plan_fits(
    models: Sequence[str],
    presets: Sequence[str],
    params: Sequence[int],
    bpp: Sequence[float],
    spec: VideoSpec,
    budget: Budget,
) -> list[FitJob]:
    """Return the networks to fit, small ones first, each known to suit a video of ``spec``.

    Raises
    ------
    UsageError
        If a name is unknown, a size cannot be reached, or settings contradict each other.
    """
    wrong = [value for value in bpp if not 0 < value <= MAX_BPP]
    if wrong:
        raise UsageError(f"bpp {wrong[0]:g}: give bits a pixel above 0, at most {MAX_BPP}, such as 0.05")
    jobs: list[FitJob] = []
    for model, preset in [*((name, None) for name in models), *((None, name) for name in presets)]:
        sizes = [FitJob(model, preset, params=count) for count in sorted(params)]
        sizes += [FitJob(model, preset, bpp=value) for value in sorted(bpp)]
        if sizes or preset is not None:
            jobs += [_checked(job, spec, budget) for job in sizes or [FitJob(None, preset)]]
        else:
            jobs += _ladder(model or default_model(), spec, budget)
    if not jobs:
        return plan_fits([default_model()], [], params, bpp, spec, budget)
    names = [job.file_name for job in jobs]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UsageError(f"{twice[0]} would be fitted twice; give each model, preset and size once")
    return jobs


def _ladder(model: str, spec: VideoSpec, budget: Budget) -> list[FitJob]:
    """Return four sizes around the default one, or the smallest four that the model has."""
    found: list[FitJob] = []
    refusal: UsageError | None = None
    size = FIRST_SIZE * default_parameters(spec.num_pixels)
    for _ in range(MAX_DOUBLINGS):
        try:
            found.append(_checked(FitJob(model, None, params=round(size)), spec, budget))
        except UsageError as error:
            refusal = error
        if len(found) == NUM_SIZES:
            break
        size *= 2
    if not found and refusal is not None:
        raise refusal
    return found


def _checked(job: FitJob, spec: VideoSpec, budget: Budget) -> FitJob:
    """Return ``job`` with the name of its model, having planned it as an encode will."""
    plan = plan_encode(
        [spec],
        model=job.model,
        preset=job.preset,
        num_parameters=job.params,
        epochs=budget.epochs,
        seconds=budget.seconds,
        target=Target(None if job.bpp is None else int(job.bpp * spec.num_pixels / 8)),
        seed=budget.seed,
        overrides=budget.overrides,
    )
    return replace(job, curve=plan.presets[0].model)


def open_file(file: str, device: str) -> VideoDecoder:
    """Return the decoder of a file; errors name it, as there may be many.

    Raises
    ------
    BitstreamError, UsageError
        If it cannot be read, or holds several clips and none is chosen.
    """
    try:
        return open_clip(file, device=device)
    except BitstreamError as error:
        text = str(error)
        raise BitstreamError(text if file in text else f"{file}: {text}") from error


def common_edit(decoders: Sequence[VideoDecoder], files: Sequence[str], asked: Edit) -> Edit:
    """Return the edit of all ``files``; without any, ``asked``.

    Raises
    ------
    UsageError
        If files differ in it or hold several clips, or an edit is asked for beside files.
    """
    if not files:
        return asked
    if asked != Edit():
        raise UsageError("crop, resize and frame range are those of the .vinr files; leave them out")
    first = edit_of(decoders[0].clip)
    for file, decoder in zip(files, decoders, strict=True):
        num_clips = len(decoder.file.header.clips)
        if num_clips > 1:
            raise UsageError(f"{file}: holds {num_clips} clips; compare files of one clip")
        if edit_of(decoder.clip) != first:
            raise UsageError(
                f"{file}: was cropped, resized or cut otherwise than {files[0]}; compare them apart"
            )
    return first


def check_sizes(decoders: Sequence[VideoDecoder], files: Sequence[str], spec: VideoSpec) -> None:
    """Raise :class:`InputError` if a file does not have the frames of the video."""
    wanted = (spec.num_frames, spec.height, spec.width)
    for file, decoder in zip(files, decoders, strict=True):
        got = (decoder.spec.num_frames, decoder.spec.height, decoder.spec.width)
        if got != wanted:
            raise InputError(
                f"{file}: has {got[0]} frames of {got[1]}x{got[2]}, the video {wanted[0]} of "
                f"{wanted[1]}x{wanted[2]}; give the video it was made from"
            )


def check_folder(folder: Path, jobs: Sequence[FitJob], *, force: bool) -> None:
    """Raise :class:`OutputError` if files that shall be fitted are there already, without ``force``."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(
            f"{folder}: exists and is no folder; the fitted files go there, choose another page"
        )
    held = [job.file_name for job in jobs if (folder / job.file_name).exists()]
    if held and not force:
        raise OutputError(
            f"{folder / held[0]}: exists already; compare it with --vinr, or overwrite it with --force"
        )
    begun = [job.file_name for job in jobs if (folder / f"{job.file_name}.partial").exists()]
    if begun and not force:
        raise OutputError(
            f"{folder / begun[0]}: was interrupted while it was fitted; start anew with --force"
        )
