"""How fast files are decoded: what runs the network, writing y4m, the first frame, a part of the frames.

Speed does not depend on what a network learned: a file of random numbers will do. Plain is float32, one frame
per call, maps stored channel by channel, direct convolutions.

Axes: none are handled here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Final, final

import torch
from torch import Tensor
from torch.nn import functional

import vinr
from benchmarks.speed.turns import Clock
from vinr.compress import pack_tensors
from vinr.config import Preset
from vinr.decoding.playback import decode
from vinr.decoding.settings import DecodeSettings
from vinr.encoding.segment import FittedSegment
from vinr.fit.draws import Draws
from vinr.models import HybridModel, Latents, get_model, validate_architecture
from vinr.models.base import FrozenLatents
from vinr.quality.clip import mean_frame_psnr_db
from vinr.video.spec import FrameSource, VideoSpec

PLAIN: Final = "plain"
WAYS: Final[Mapping[str, DecodeSettings]] = {
    PLAIN: DecodeSettings(convolution="direct", precision="fp32", channels_last=False, batch=1),
    "plain, batch 2": DecodeSettings(convolution="direct", precision="fp32", channels_last=False, batch=2),
    "plain, batch 4": DecodeSettings(convolution="direct", precision="fp32", channels_last=False, batch=4),
    "channels last": DecodeSettings(precision="fp32", channels_last=True, batch=1),
    "channels last, batch 4": DecodeSettings(precision="fp32", channels_last=True, batch=4),
    "default": DecodeSettings(),
    "default, batch 2": DecodeSettings(batch=2),
    "default, batch 4": DecodeSettings(batch=4),
    "compiled": DecodeSettings(compile=True),
    "ONNX Runtime": DecodeSettings(backend="onnx"),
}
ON_GPU: Final[Mapping[str, DecodeSettings]] = {
    PLAIN: WAYS[PLAIN],
    "plain, batch 4": WAYS["plain, batch 4"],
    "channels last, batch 4": WAYS["channels last, batch 4"],
    "bf16, batch 4": DecodeSettings(precision="bf16", batch=4),
    "fp16, batch 4": DecodeSettings(precision="fp16", batch=4),
    "default": DecodeSettings(),
    "compiled": DecodeSettings(compile=True),
}
# A quarter of the frames is what random access is asked for.
STRIDE: Final = 4
# How exact a way of decoding is shows in the first few.
FRAMES_SCORED: Final = 8


def ways_for(device: torch.device, *, compiled: bool = True, onnx: bool = True) -> dict[str, DecodeSettings]:
    """Return the ways of decoding on ``device``, plain first; ONNX Runtime's only where it is installed."""
    ways = ON_GPU if device.type == "cuda" else WAYS
    has_onnx = onnx and all(find_spec(name) is not None for name in ("onnx", "onnxruntime"))
    return {
        name: way
        for name, way in ways.items()
        if (compiled or not way.compile) and (has_onnx or way.backend != "onnx")
    }


def random_file(preset: Preset, video: VideoSpec, path: Path) -> Path:
    """Write a file of random numbers for the frames of ``video``; return its path."""
    cls = get_model(preset.model)
    with Draws(0).as_global():
        model = cls(validate_architecture(cls, preset.architecture), video, with_encoder=False).eval()
        if isinstance(model, HybridModel):
            shapes = model.per_frame_shapes()
            latents = {name: torch.randn(video.num_frames, *shape) for name, shape in shapes.items()}
            model.attach_latents(FrozenLatents(Latents(latents)))
        if model.keyframes is not None:
            model.keyframes.code(_Noise(video))
    segment = FittedSegment.coded(preset, model, pack_tensors(model.stored(), preset.compress), video)
    segment.alone("random", video).write(path, force=True)
    return path


@final
class _Noise:
    """Frames of coarse noise, all the same, which are coded quickly; a :class:`FrameSource`."""

    def __init__(self, spec: VideoSpec) -> None:
        self.spec = spec
        coarse_1CHW = torch.randint(255, (1, 3, 8, 8)).float()
        size = [spec.height, spec.width]
        self._rgb_1CHW = functional.interpolate(coarse_1CHW, size=size, mode="bilinear").byte()

    def frames(self, index_N: Tensor) -> Tensor:
        """Return uint8 rgb_NCHW."""
        return self._rgb_1CHW.expand(len(index_N), -1, -1, -1)


def frame_works(
    path: Path, device: torch.device, ways: Mapping[str, DecodeSettings], clock: Clock, *, frames: int
) -> tuple[dict[str, Callable[[], float]], ExitStack]:
    """Return what decodes ``frames`` frames in each of ``ways`` and returns the seconds of one.

    Each call goes on where the last one ended. Leaving the stack closes the files.

    Raises
    ------
    UsageError
        If a way is not possible on ``device``.
    """
    works: dict[str, Callable[[], float]] = {}
    with ExitStack() as stack:
        for name, way in ways.items():
            decoder = stack.enter_context(vinr.open(path, device=str(device), settings=way))
            works[name] = _FrameWork(decoder, name == PLAIN, max(way.batch, 1), frames, clock)
        return works, stack.pop_all()


@final
class _FrameWork:
    """Decodes a few frames per call."""

    def __init__(
        self, decoder: vinr.VideoDecoder, one_by_one: bool, batch: int, frames: int, clock: Clock
    ) -> None:
        self._decoder, self._one_by_one, self._batch = decoder, one_by_one, batch
        self._frames, self._clock, self._next = frames, clock, 0

    def __call__(self) -> float:
        """Return seconds per frame, after a batch that finds the memory; plain ones as random access does."""
        decoder, count = self._decoder, len(self._decoder)
        # The clip is played round and round:  next … next + batch │ … + frames
        #                                      not counted         │ counted
        indices = [(self._next + offset) % count for offset in range(self._batch + self._frames)]
        self._next = (self._next + self._frames) % count
        one_by_one = (decoder[index : index + 1] for index in indices)
        batches = one_by_one if self._one_by_one else decoder.play(indices)
        left = len(indices) - len(next(batches))
        if not left:  # a device that takes all of them at once
            return self._clock.of(lambda: list(decoder.play(indices))) / len(indices)
        return self._clock.of(lambda: list(batches)) / left


def psnr_changes_db(
    path: Path, device: torch.device, ways: Mapping[str, DecodeSettings], original: FrameSource
) -> dict[str, float]:
    """Return by how many dB each way's mean PSNR of the first frames differs from that of the first way."""
    index_N = torch.arange(min(original.spec.num_frames, FRAMES_SCORED))
    original_NCHW = original.frames(index_N).double() / 255
    psnr_db = {}
    for name, way in ways.items():
        with vinr.open(path, device=str(device), settings=way) as decoder:
            rgb_NCHW = torch.cat(list(decoder.play(index_N.tolist())))
        psnr_db[name] = mean_frame_psnr_db(rgb_NCHW.double() / 255, original_NCHW)
    first_db = psnr_db[next(iter(ways))]
    return {name: way_db - first_db for name, way_db in psnr_db.items()}


def whole_file(path: Path, folder: Path, device: torch.device, *, turns: int = 3) -> dict[str, float]:
    """Compare decoding alone with writing y4m, and with every fourth frame; medians of ``turns``."""

    def play(step: int) -> None:
        with vinr.open(path, device=str(device)) as video:
            for _ in video.play(range(0, len(video), step)):
                pass

    def write() -> None:
        decode(str(path), str(folder / "decoded.y4m"), device=str(device), force=True)

    rows = []
    for _ in range(turns):
        alone, quarter = _both(device, lambda: play(1)), _both(device, lambda: play(STRIDE))
        written = _both(device, write)
        rows.append((alone, quarter, written))
    return {
        "a quarter of the frames / all": median(quarter[0] / alone[0] for alone, quarter, _ in rows),
        "y4m rate / network rate, wall-clock time": median(a[1] / w[1] for a, _, w in rows),
        "CPU time of network / of all for y4m": median(a[0] / w[0] for a, _, w in rows),
    }


def first_frame(path: Path, device: torch.device) -> dict[str, float]:
    """Measure opening a file and showing a frame, against showing another; seconds."""
    with vinr.open(path, device=str(device)) as video:
        first = _both(device, lambda: video[0])
        others = [_both(device, partial(video.__getitem__, index)) for index in range(1, min(len(video), 4))]
    again = min(other[0] for other in others)
    return {"first frame s": first[0], "one forward pass s": again, "beyond it s": first[0] - again}


def _both(device: torch.device, work: Callable[[], object]) -> tuple[float, float]:
    """Return CPU time (on a GPU wall-clock time) and wall-clock time of ``work``, in seconds."""
    if device.type == "cuda":
        taken = Clock(device).of(work)
        return taken, taken
    started = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - started[0], time.perf_counter() - started[1]
