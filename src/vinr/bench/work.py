"""A job of a recipe: one experiment on one clip, and the frames and networks that experiments ask for.

Axes: N frames of a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from vinr.bench.base_fits import BaseFit, base_fit
from vinr.bench.datasets import comes_with_vinr, find_clip, find_clips
from vinr.bench.recipe import Kind, Scale, Setup, Size
from vinr.config import Preset, default_model
from vinr.encoding.plan import choose_preset
from vinr.errors import UsageError
from vinr.fit import Event
from vinr.tasks.frames import plain_fit
from vinr.video.reading import ReadOptions
from vinr.video.source import FrameTensor, VideoReader, open_video
from vinr.video.spec import FrameSource, VideoSpec

Value = float | int | str | None | list[float] | list[list[float]] | list[dict[str, float]]
Values = dict[str, Value]
"""What an experiment measured, by name; a curve is a list of points."""

# What recipes start from: the smaller scales are on Bunny, area-averaged, near-pristine.
DEFAULTS: Final[dict[Scale, Setup]] = {
    "full": Setup(clips=("bunny",)),
    "mini": Setup(clips=("bunny",), resize=(160, 320)),
    "tiny": Setup(clips=("bunny",), resize=(32, 64), frames=(0, 8), epochs=1),
}
# The papers' crop of Bunny, for the smaller scales where a recipe names none.
BUNNY_CROP: Final[Size] = (640, 1280)
# Hexadecimal digits, 40 bits: enough to tell the jobs of a folder apart, and short in a file name.
KEY_LENGTH: Final = 10
SHOWN_SUFFIX: Final = ".shown"

# Rows share the small clips that were read last; reading a large one anew costs little beside its fit.
MAX_KEPT_BYTES: Final = 64 * 2**20
KEPT_CLIPS: Final = 4
# As the papers have them.
EIGHT_BITS: Final = ReadOptions(bit_depth=8)


@lru_cache(KEPT_CLIPS)
def _small_clip(
    path: Path, changed_ns: int, crop: Size | None, resize: Size | None, frames: tuple[int, int] | None
) -> FrameTensor:
    """Read a clip; ``changed_ns`` tells a file from another one that took its place."""
    with open_video(path, crop=crop, resize=resize, frames=frames, options=EIGHT_BITS) as reader:
        return reader.read()


@dataclass(frozen=True)
class Job:
    """One experiment on one clip; rows of any recipe that need the same one share it."""

    kind: Kind
    setup: Setup
    clip: str
    shown: tuple[float, ...] = ()
    """Where in the clip, from 0 to 1, the frames lie that are kept for pictures."""

    @property
    def reads_data(self) -> bool:
        """Whether the job reads anything from the folder of data."""
        return not comes_with_vinr(self.clip) or self.setup.published is not None

    @property
    def label(self) -> str:
        """Name of the job among those of its row: the clip, and the seed where the row has several."""
        return self.clip if self.setup.seeds is None else f"{self.clip}, seed {self.setup.seeds[0]}"

    @property
    def key(self) -> str:
        """A file name that tells this job from all others."""
        setup = self.setup.model_dump(mode="json", exclude_none=True)
        # Left out where empty: jobs without pictures, and their results, keep their keys.
        text = json.dumps([self.kind, self.clip, setup, *([self.shown] if self.shown else [])])
        what = self.setup.anchor or self.setup.preset or self.setup.model or "network"
        slug = re.sub(r"[^\w.-]|_", "-", f"{self.clip}-{what}")
        return f"{self.kind}-{slug}-{_digest(text)}"

    def result_name(self, device: str) -> str:
        """Return the name, without suffix, of results made on ``device``.

        Speed and rounding depend on the kind of device, so results of several kinds lie side by side.
        """
        return self.key if device == "cpu" else f"{self.key}-{device.partition(':')[0]}"


OnPanels = Callable[["Work", Mapping[str, FrameSource], Tensor | None], None]
"""Takes frame sources of a finished experiment, by name, and which frames they have; all if None."""


@dataclass(frozen=True)
class Work:
    """What an experiment needs: its job, the clip, and a folder for what can be used again."""

    job: Job
    data: Path | None
    folder: Path
    device: str
    on_event: Callable[[Event], None]
    on_panels: OnPanels | None = None

    @property
    def setup(self) -> Setup:
        """Settings of the job."""
        return self.job.setup

    @cached_property
    def path(self) -> Path:
        """The video of the clip."""
        return find_clip(self.job.clip, self.data)

    def open(self, path: Path | None = None) -> VideoReader:
        """Return a reader of the clip (or of another video) with the job's crop, resize and frame range."""
        setup = self.setup
        crop, resize, frames = setup.crop, setup.resize, setup.frames
        return open_video(path or self.path, crop=crop, resize=resize, frames=frames, options=EIGHT_BITS)

    @cached_property
    def frames(self) -> FrameTensor:
        """The clip's frames."""
        return self._read(self.path)

    def all_frames(self) -> list[FrameTensor]:
        """Return the frames of each clip that the job's name stands for (``dataset/*``, ``bunny+bikes``)."""
        return list(map(self._read, find_clips(self.job.clip, self.data)))

    def _read(self, path: Path) -> FrameTensor:
        """Return the frames of a video; rows of a recipe share the last small ones that were read."""
        setup = self.setup
        with self.open(path) as reader:
            spec = reader.spec
            # 8-bit RGB takes three bytes per pixel.
            if 3 * spec.num_pixels > MAX_KEPT_BYTES:
                return reader.read()
        return _small_clip(path, path.stat().st_mtime_ns, setup.crop, setup.resize, setup.frames)

    def preset(
        self, spec: VideoSpec | None = None, *, name: str | None = None, params: int | None = None
    ) -> Preset:
        """Return the job's preset (or ``name``, or of ``params``), complete for ``spec`` (the clip's)."""
        setup = self.setup
        name = name or setup.preset
        own = [] if setup.epochs is None else [f"fit.epochs={setup.epochs}"]
        own += map("fit.seed={}".format, setup.seeds or ())
        if name is None and setup.model is None and setup.params is None:
            raise UsageError(
                f"a row of kind {self.job.kind} names no model, preset or params; give one of them"
            )
        return choose_preset(
            spec or self.frames.spec,
            model=None if name else setup.model or default_model(),
            preset=name,
            num_parameters=params or setup.params,
            overrides=[*setup.overrides, *own],
        )

    @property
    def needs_base(self) -> bool:
        """Whether this job goes on from a plain fit that rows share."""
        return self.setup.tune is not None

    def base(self) -> BaseFit:
        """Return the plain fit that this job goes on from, fitted now or by another job of the same."""
        preset = plain_fit(self.preset())
        return base_fit(self.frames, preset, self.base_path(), device=self.device, on_event=self.on_event)

    def base_path(self) -> Path:
        """Return where the plain fit lies that this job goes on from."""
        with self.open() as reader:
            spec = reader.spec  # the frames themselves are not needed
        preset = plain_fit(self.preset(spec))
        # What the plain fit depends on; how a file is written of it is none of that.
        fit = preset.model_dump(mode="json", exclude={"compress", "name", "source", "paper"})
        frames = [self.job.clip, [*spec.span_lengths, spec.height, spec.width]]
        text = json.dumps([version("vinr"), fit, *frames, self.device])
        return self.folder / f"base-{preset.model}-{_digest(text)}.tensors"

    def phases(self) -> list[tuple[int, dict[str, Any]]]:
        """Return the phases that follow the plain fit: epochs and settings of each."""
        return [(tuning.epochs, tuning.phase) for tuning in self.setup.tune or ()]

    def checkpoint(self) -> Path:
        """Return where a fit of this job keeps its state."""
        return self.folder / f"{self.job.result_name(self.device)}.checkpoint"

    def file(self, suffix: str = "") -> Path:
        """Return where this job writes its .vinr file."""
        return self.folder / f"{self.job.result_name(self.device)}{suffix}.vinr"

    def forget(self) -> None:
        """Remove the result on this device and what was kept beside it; other devices have their own."""
        name = self.job.result_name(self.device)
        paths = [self.folder / f"{name}{suffix}" for suffix in (".json", SHOWN_SUFFIX, ".checkpoint")]
        paths.append(self.file())
        paths += [self.file(file_suffix(bits)) for bits in self.setup.bits or ()]
        for path in paths:
            path.unlink(missing_ok=True)

    def keep_shown(self, panels: Mapping[str, FrameSource], index_N: Tensor | None = None) -> None:
        """Offer frames to who draws pictures of jobs, if anyone does; ``index_N``: those there are."""
        if self.on_panels is not None:
            self.on_panels(self, panels, index_N)


def file_suffix(bits: int | None) -> str:
    """Return what tells the file of so many bits per parameter from others of its job."""
    return "" if bits is None else f"-{bits}bit"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]
