"""What a comparison has finished, kept until its page is whole, so that the same command continues it.

::

    PAGE.html.partial/  network-KEY   a network that is being fitted, or is: its file, its time
                        point-KEY     a measured point with its crops
    PAGE-files/         NAME.vinr     the fitted networks; NAME.vinr.partial is the state of one at work

KEY is a hash of everything that the result depends on: the frames, the settings, the versions. What other
frames or settings would give has another key, so that nothing is taken for what it is not.

Axes: C colour channels, H rows, W columns.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, final

import torch
from pydantic import Field
from torch import Tensor

from vinr.codecs.anchors import Anchor
from vinr.codecs.streams import library_versions
from vinr.comparison.plan import FitJob
from vinr.comparison.rd import RDPoint
from vinr.errors import InputError, OutputError, plural
from vinr.fit.fingerprint import hash_frames
from vinr.settings import StoredValues
from vinr.state.folder import is_expected
from vinr.state.tensorfile import read_state, write_tensors
from vinr.temporaries import waited_lock
from vinr.video.color import Upsampling
from vinr.video.source import VideoReader

Work = Mapping[str, Any]
"""Everything that a result depends on beside the frames, as JSON values."""

Crops = dict[int, Tensor]
"""uint8 rgb_CHW by frame number."""

DIGEST_BYTES: Final = 32
# Of the digest, in hexadecimal, in the name of a file.
KEY_LENGTH: Final = 32


class _Values(StoredValues):
    fingerprint: str = Field(description="hash of what it is of")


class KeptPoint(_Values):
    """The values of a kept point; its crops are the tensors."""

    kind: Literal["point"] = Field(default="point", description="what the file holds")
    point: RDPoint = Field(description="what was measured; its setting is left out")


class KeptNetwork(_Values):
    """What is known of a network that was begun, and of its file once that is whole."""

    kind: Literal["network"] = Field(default="network", description="what the file holds")
    replaces: str | None = Field(description="hash of the file that may be overwritten; none: there was none")
    seconds: float | None = Field(
        default=None, ge=0, description="time spent so far; none: unknown, for the process was killed"
    )
    file: str | None = Field(default=None, description="hash of the fitted file; none: not whole yet")
    num_parameters: Annotated[int, Field(ge=0)] = Field(default=0, description="parameters stored")
    num_epochs: float = Field(default=0.0, ge=0, description="passes over all frames")

    def allows(self, path: Path) -> bool:
        """Return whether ``path``, the file of this network, may be used or written: nobody else wrote it."""
        return not path.exists() or hash_file(path) in (self.file, self.replaces) or is_expected(path)


Kind = TypeVar("Kind", bound=_Values)


@final
class KeptWork:
    """Keeps and finds results in ``folder``.

    ``video`` describes the frames; it is called once, and only if something is to be found or kept.
    ``on_note`` takes a line where a result cannot be kept, or what was kept is damaged: it is then made anew.
    """

    def __init__(
        self, folder: Path, video: Callable[[], Mapping[str, Any]], on_note: Callable[[str], None]
    ) -> None:
        self._folder = folder
        self._make_video, self._video = video, dict[str, Any]()
        self.note = on_note

    def find_point(self, work: Work) -> tuple[RDPoint, Crops] | None:
        """Return the point of ``work`` with its crops, if it was kept; the setting is left out."""
        kept = self._find(work, "point", KeptPoint)
        if kept is None:
            return None
        tensors, values = kept
        return values.point, {int(name): crop_CHW for name, crop_CHW in tensors.items()}

    def keep_point(self, work: Work, point: RDPoint, crops: Crops) -> None:
        """Keep a measured point."""
        # A setting may be a file's name, with bytes that are no text.
        values = KeptPoint(fingerprint=self._fingerprint(work), point=replace(point, setting=""))
        self._keep("point", values, {str(number): crop_CHW for number, crop_CHW in crops.items()})

    def find_network(self, work: Work) -> KeptNetwork | None:
        """Return what was kept of the network of ``work``."""
        kept = self._find(work, "network", KeptNetwork)
        return None if kept is None else kept[1]

    def keep_network(self, work: Work, **values: Any) -> KeptNetwork:
        """Keep what is known of the network of ``work``, and return it; ``values`` as in its class."""
        network = KeptNetwork(fingerprint=self._fingerprint(work), **values)
        self._keep("network", network, {})
        return network

    @contextmanager
    def locked(self, work: Work) -> Iterator[None]:
        """Wait until no other process fits the network of ``work``, and let none begin to in the body."""
        name = self._path("network", self._fingerprint(work)).name
        with waited_lock(self._folder / f".{name}.0.lock"):
            yield

    def video(self) -> Mapping[str, Any]:
        """Return what describes the frames."""
        if not self._video:
            self._video = dict(self._make_video())
        return self._video

    def _find(self, work: Work, kind: str, schema: type[Kind]) -> tuple[dict[str, Tensor], Kind] | None:
        # A fingerprint needs every frame of the video, so it waits until there is something to find.
        if not any(self._folder.glob(f"{kind}-*.safetensors")):
            return None
        fingerprint = self._fingerprint(work)
        path = self._path(kind, fingerprint)
        if not path.exists():
            return None
        try:
            tensors, values = read_state(path, schema)
        except InputError as error:
            self.note(f"{error}; it is made anew")
            return None
        # The name of the file has half of the fingerprint, the file all of it.
        return (tensors, values) if values.fingerprint == fingerprint else None

    def _keep(self, kind: str, values: _Values, tensors: Mapping[str, Tensor]) -> None:
        path = self._path(kind, values.fingerprint)
        # A full disk costs a second measurement after an interruption, not the comparison.
        try:
            write_tensors(path, tensors, values.model_dump(mode="json"))
        except OutputError as error:
            self.note(f"the state could not be saved: {error}; the comparison continues")

    def _fingerprint(self, work: Work) -> str:
        text = json.dumps({**self.video(), **work}, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).hexdigest()

    def _path(self, kind: str, fingerprint: str) -> Path:
        return self._folder / f"{kind}-{fingerprint[:KEY_LENGTH]}.safetensors"


def describe_video(reader: VideoReader) -> dict[str, Any]:
    """Return what a result depends on of the video: every frame, when they are shown, their colours."""
    spec, timeline = reader.spec, reader.timeline
    return {
        "program": f"vinr {version('vinr')}",
        "frames": hash_frames(reader),
        "size": [spec.num_frames, spec.height, spec.width],
        "rate": str(spec.frame_rate),
        "color": str(spec.color),
        "times": None if timeline.pts is None else [str(timeline.time_base), *timeline.pts],
    }


def work_of_codec(anchor: Anchor, quality: int, *, width: int, upsampling: Upsampling) -> Work:
    """Return the work of measuring a codec at one quality on frames of ``width`` pixels."""
    return {
        "codec": anchor.name,
        "encoder": anchor.encoder,
        "quality": quality,
        # As they are encoded: of even width.
        "options": anchor.options(quality, width=width + width % 2),
        "chroma": anchor.chroma,
        "upsampling": upsampling,
        "versions": library_versions(anchor),
        "threads": torch.get_num_threads(),
    }


def work_of_fit(job: FitJob, *, overrides: tuple[str, ...], device: str) -> Work:
    """Return the work of fitting a network that was planned."""
    assert job.plan is not None
    return {
        "presets": [preset.model_dump(mode="json") for preset in job.plan.presets],
        "seconds": job.plan.seconds,
        "bpp": job.bpp,
        "overrides": list(overrides),
        "setting": job.setting,
        "device": device,
    }


def work_of_file(digest: str, encode_seconds: float | None, *, device: str) -> Work:
    """Return the work of measuring a .vinr file whose hash is ``digest``."""
    return {"file": digest, "encode_seconds": encode_seconds, "device": device}


def hash_bytes(content: bytes) -> str:
    """Return the hash that :func:`hash_file` would give a file of ``content``."""
    return hashlib.sha256(content).hexdigest()


def hash_file(path: Path) -> str:
    """Return a hash of the content of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def kept_in_words(folder: Path) -> str:
    """Return what a comparison has kept in ``folder``, for whoever interrupted it; empty if nothing."""
    words = []
    for kind in ("point", "network"):
        count = len([*folder.glob(f"{kind}-*.safetensors")])
        if count:
            words.append(plural(count, kind))
    return " and ".join(words)
