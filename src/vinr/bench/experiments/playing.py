"""How fast frames come: of the network alone, of its file, and of a part of the file's frames."""

from __future__ import annotations

import time
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from typing import Final

import torch

from vinr.bench.experiments.curves import anchor_points
from vinr.bench.work import Values, Work
from vinr.bench.written import write_network
from vinr.decoding.file import open_clip
from vinr.fit import fit
from vinr.models import VideoModel
from vinr.video.spec import Query

# Every frame, every second, every fourth.
STRIDES: Final = {"all": 1, "half": 2, "quarter": 4}
# The first frames of a network find memory and choose algorithms.
WARM_UP_FRAMES: Final = 2


def decode_experiment(work: Work) -> Values:
    """Measure frames per second of the network and of its file; a codec is measured by the same clock.

    Weights do not change the speed, so few epochs will do.
    """
    num_frames = work.frames.spec.num_frames
    if work.setup.anchor is not None:
        points = anchor_points(work.setup.anchor, work.frames)
        fps = fmean(map(itemgetter("decode_fps"), points))
        return {"file_fps": fps, "all_seconds": num_frames / fps, "points": points}
    preset = work.preset()
    result = fit(work.frames, preset, device=work.device, on_event=work.on_event)
    path = work.file()
    network = write_network(work.frames, preset, result, path=path, device=work.device)
    seconds = {f"{name}_seconds": _play_seconds(path, work.device, step) for name, step in STRIDES.items()}
    return {
        "network_fps": _network_fps(result.model, num_frames),
        "file_fps": num_frames / seconds["all_seconds"],
        **seconds,
        "num_parameters": network.num_parameters,
        "num_bytes": network.num_bytes,
        "psnr_db": network.quality.psnr_db,
    }


def _play_seconds(path: Path, device: str, step: int) -> float:
    """Return the seconds that every ``step``-th frame of a file takes, weights read and the network warm."""
    with open_clip(path, device=device) as decoder:
        next(decoder.play([0]))
        started = time.perf_counter()
        for _ in decoder.play(range(0, decoder.spec.num_frames, step)):
            pass
        return time.perf_counter() - started


def _network_fps(model: VideoModel, num_frames: int) -> float:
    """Return frames per second of the network, one after another, without the file around it."""
    device = next(model.parameters()).device

    def run(count: int) -> float:
        started = time.perf_counter()
        for index in range(count):
            model(Query.of_frames(torch.tensor([index], device=device)))
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # kernels run behind the loop that starts them
        return time.perf_counter() - started

    with torch.inference_mode():
        run(min(WARM_UP_FRAMES, num_frames))
        return num_frames / run(num_frames)
