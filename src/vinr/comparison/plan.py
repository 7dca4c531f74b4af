"""What a comparison will do, refused here where it cannot: nothing has been encoded yet."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from os import PathLike, fspath
from pathlib import Path
from typing import Final
from warnings import warn

from vinr.codecs.anchors import Anchor, parse_anchor
from vinr.comparison.published import SUFFIX as PUBLISHED_SUFFIX
from vinr.comparison.published import published_curves
from vinr.comparison.rd import RDCurve
from vinr.config import default_model
from vinr.decoding.decoder import VideoDecoder
from vinr.decoding.file import FileLike, content_of, open_clip
from vinr.decoding.playback import edit_of, options_of
from vinr.encoding.plan import EncodePlan, Target, default_parameters, plan_encode
from vinr.errors import BitstreamError, InputError, OutputError, UsageError, argument, format_frame, plural
from vinr.files import exists_as_other
from vinr.sizing.solve import SizeRangeError
from vinr.state.folder import holds_state
from vinr.units import format_count, format_length
from vinr.video.asked_edit import AskedEdit
from vinr.video.edit import Edit
from vinr.video.reading import ReadOptions
from vinr.video.spec import BitDepth, VideoSpec

DEFAULT_ANCHORS: Final = (
    "x264-medium",
    "x265-medium",
    "x265-medium-nob",
    "x265-medium-444",
    "av1-6",
    "vp9-1",
)
# A BD-rate needs four points. The first size tried is a quarter of the default; each next one is twice that.
NUM_SIZES: Final = 4
FIRST_SIZE: Final = 0.25
# Some models cannot be small; the last size tried is 2 ** 7 / 4 = 32 times the default.
MAX_DOUBLINGS: Final = 8
MAX_BPP: Final = 24  # of uncompressed 8-bit RGB

Sweep = tuple[Anchor, tuple[int, ...]]


@dataclass(frozen=True)
class Budget:
    """How every network is fitted; ``overrides`` as for an encode.

    With several ``times``, in seconds, each network is fitted once for each; with none, by ``epochs`` or as
    long as an encode takes.
    """

    epochs: int | None
    times: tuple[float, ...]
    seed: int | None
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class FitJob:
    """A network to fit: a model with a size, or a preset, which may have its own.

    ``seconds`` is the wall-clock time it is given, if it is given one; ``plan`` is how the encode will go
    about it; ``curve`` is its model.
    """

    model: str | None
    preset: str | None
    params: int | None = None
    bpp: float | None = None
    seconds: float | None = None
    plan: EncodePlan | None = field(default=None, repr=False)

    @property
    def curve(self) -> str:
        """The model."""
        return "" if self.plan is None else self.plan.presets[0].model

    @property
    def setting(self) -> str:
        """What tells this point from others of its curve: preset and size, the same for all times."""
        parts = []
        if self.preset:
            parts.append(self.preset)
        if self.params:
            parts.append(f"{format_count(self.params)} parameters")
        if self.bpp:
            parts.append(f"at most {self.bpp:g} bpp")
        return ", ".join(parts)

    @property
    def file_name(self) -> str:
        """Name of its file, which no other model, size or time has."""
        name = self.preset or self.model or ""
        if self.params:
            name += f"-{self.params}"
        if self.bpp:
            name += f"-{self.bpp:g}bpp"
        if self.seconds:
            name += f"-{self.seconds:.15g}s"
        return f"{name}.vinr"


def read_anchors(texts: Sequence[str]) -> tuple[list[Sweep], list[RDCurve]]:
    """Return codecs to run with the qualities to run them at, and published curves.

    Raises
    ------
    UsageError, InputError
        If one is unknown or cannot be read.
    """
    sweeps, published, names = [], [], []
    for text in texts:
        # FILE.csv#CLIP names a table, everything else a codec.
        if text.partition("#")[0].lower().endswith(PUBLISHED_SUFFIX):
            curves = published_curves(text)
            published += curves
            names += [curve.name for curve in curves]
        else:
            anchor, qualities = parse_anchor(text)
            sweeps.append((anchor, qualities))
            names.append(anchor.name)
    # Curves are told apart by their names, in tables and by their crops.
    twice = _first_repeated(names)
    if twice is not None:
        raise UsageError(f"anchor {twice!r} is given twice; give each once, with all its values")
    return sweeps, published


def plan_fits(
    models: Sequence[str],
    presets: Sequence[str],
    params: Sequence[int],
    bpp: Sequence[float],
    spec: VideoSpec,
    budget: Budget,
    on_note: Callable[[str], None] = warn,
) -> list[FitJob]:
    """Return the networks to fit, each known to suit a video of ``spec``: short times first, then small ones.

    A size that one model cannot have is left out, and ``on_note`` told why, where others remain.

    Raises
    ------
    UsageError
        If a name is unknown, something is given twice, no size can be reached, or settings contradict each
        other.
    """
    _check_given_once("model", models)
    _check_given_once("preset", presets)
    _check_given_once("time", list(map(format_length, budget.times)))
    for value in bpp:
        if not 0 < value <= MAX_BPP:
            raise UsageError(f"bpp {value:g}: give bits per pixel above 0, at most {MAX_BPP}, such as 0.05")
    if not models and not presets:
        models = [default_model()]
    jobs: list[FitJob] = []
    refusals: list[SizeRangeError] = []
    named = [*product(models, [None]), *product([None], presets)]
    times: list[float | None] = [*sorted(budget.times)]
    for seconds, (model, preset) in product(times or [None], named):
        timed = FitJob(model, preset, seconds=seconds)
        sizes = [replace(timed, params=count) for count in sorted(params)]
        sizes += [replace(timed, bpp=value) for value in sorted(bpp)]
        # A preset has a size of its own; a bare model without sizes gets four, for its BD-rate.
        if sizes or preset is not None:
            for job in sizes or [timed]:
                try:
                    jobs.append(_checked(job, spec, budget))
                except SizeRangeError as error:
                    refusals.append(error)
        else:
            jobs += _ladder(timed, spec, budget)
    if not jobs and refusals:
        raise refusals[0]
    # A size is refused once for each time, in the same words.
    for refusal in dict.fromkeys(map(str, refusals)):
        on_note(f"left out: {refusal}")
    twice = _first_repeated([job.file_name for job in jobs])
    if twice is not None:
        raise UsageError(f"{twice} would be fitted twice; give each model, preset and size once")
    return jobs


def _first_repeated(names: Sequence[str]) -> str | None:
    for name, count in Counter(names).items():
        if count > 1:
            return name
    return None


def _check_given_once(what: str, names: Sequence[str]) -> None:
    twice = _first_repeated(names)
    if twice is not None:
        raise UsageError(f"{what} {twice!r} is given twice; give each once")


def _ladder(network: FitJob, spec: VideoSpec, budget: Budget) -> list[FitJob]:
    """Return four sizes around the default one, or the smallest four that the model has."""
    jobs: list[FitJob] = []
    refusal: UsageError | None = None
    size = FIRST_SIZE * default_parameters(spec.num_pixels)
    for _ in range(MAX_DOUBLINGS):
        try:
            jobs.append(_checked(replace(network, params=round(size)), spec, budget))
        except UsageError as error:
            refusal = error  # too small for this model, so far as one can tell; larger ones may do
        if len(jobs) == NUM_SIZES:
            break
        size *= 2
    if not jobs and refusal is not None:
        raise refusal
    return jobs


def _checked(job: FitJob, spec: VideoSpec, budget: Budget) -> FitJob:
    """Return ``job`` with its plan, as an encode will make it."""
    plan = plan_encode(
        [spec],
        model=job.model,
        preset=job.preset,
        num_parameters=job.params,
        epochs=budget.epochs,
        seconds=job.seconds,
        # bits per pixel · pixels / 8 = bytes, of all frames
        target=Target(None if job.bpp is None else int(job.bpp * spec.num_pixels / 8)),
        seed=budget.seed,
        overrides=budget.overrides,
    )
    return replace(job, plan=plan)


@dataclass(frozen=True)
class ComparedFile:
    """A .vinr file: what it is called, and its path or its bytes."""

    name: str
    source: str | bytes = field(repr=False)

    @classmethod
    def of(cls, file: FileLike, number: int) -> ComparedFile:
        """Return ``file``; one that has no path is read, and called by its number."""
        if isinstance(file, (str, PathLike)):
            return cls(fspath(file), fspath(file))
        return cls(f"file {number}", content_of(file))


def open_file(file: ComparedFile, device: str) -> VideoDecoder:
    """Return the decoder of a file; errors name it, as there may be many.

    Raises
    ------
    BitstreamError, UsageError
        If it cannot be read, or holds several clips and none is chosen.
    """
    try:
        return open_clip(file.source, device=device)
    except BitstreamError as error:
        # Some of these errors name the file already.
        text = str(error)
        raise BitstreamError(text if file.name in text else f"{file.name}: {text}") from error


# Codecs are compared on frames of so many bits, as in the papers, whatever the video has.
COMPARED_BITS: Final[BitDepth] = 8


def common_edit(decoders: Sequence[VideoDecoder], files: Sequence[str], edit: AskedEdit) -> Edit | AskedEdit:
    """Return the edit of all ``files``; ``edit`` where there are none.

    Raises
    ------
    UsageError
        If files differ in it or hold several clips, or there are both files and an edit.
    """
    if not files:
        return edit
    if edit != AskedEdit():
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


def common_options(
    decoders: Sequence[VideoDecoder], files: Sequence[str], options: ReadOptions
) -> ReadOptions:
    """Return how the video of all ``files`` is read: ``options``, and what was recorded with the files.

    Raises
    ------
    UsageError
        If files were read in different ways.
    """
    chosen = [options_of(decoder.clip, options) for decoder in decoders] or [options]
    for file, other in zip(files, chosen, strict=False):
        if other != chosen[0]:
            raise UsageError(f"{file}: was read otherwise than {files[0]}: another stream, or deinterlaced")
    return chosen[0]


def check_sizes(decoders: Sequence[VideoDecoder], files: Sequence[str], spec: VideoSpec) -> None:
    """Raise :class:`InputError` if a file does not have the frames of the video."""
    for file, decoder in zip(files, decoders, strict=True):
        in_file = decoder.spec
        if (in_file.num_frames, in_file.height, in_file.width) != (spec.num_frames, spec.height, spec.width):
            raise InputError(
                f"{file}: has {plural(in_file.num_frames, 'frame')} of "
                f"{format_frame(in_file.height, in_file.width)}, the video "
                f"{spec.num_frames} of {spec.width}×{spec.height}; give the video it was made from"
            )


def check_folder(folder: Path, jobs: Sequence[FitJob], may_use: Callable[[FitJob], bool]) -> None:
    """Raise :class:`OutputError` if a file that shall be fitted, or its state, is there already.

    ``may_use`` tells of which jobs it may be: of those that an interrupted comparison has begun.
    """
    if exists_as_other(folder, stat.S_ISDIR):
        raise OutputError(
            f"{folder}: exists and is not a folder; the fitted files go there: choose another page"
        )
    for job in jobs:
        path = folder / job.file_name
        # may_use comes last: it may hash all frames of the video.
        if not (path.exists() or holds_state(path)) or may_use(job):
            continue
        if path.exists():
            raise OutputError(
                f"{path}: exists already; compare it with {argument('files')}, or overwrite it with "
                f"{argument('force', True)}"
            )
        raise OutputError(
            f"{path}: its fit was interrupted and belongs to another comparison; start anew with "
            f"{argument('force', True)}"
        )
