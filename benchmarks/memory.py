"""Peak memory of one process: decoding a 1080p frame with every model, and fitting HiNeRV-S patch by patch.

Decoding: networks of about 3 M numbers for 600 frames of 1080×1920, one frame, float32, on the CPU.
Fitting: HiNeRV-S for UVG with its paper's patches, one step (frames of a clip, 3.7 GB for 600, come on top):
all 144 patches of the batch at once, or a few at a time (`fit.micro_batch`). Each figure is the peak of a
process of its own, less what the process takes before (interpreter, torch, vinr).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch

import _record
from vinr.config import load_preset
from vinr.decoding.networks import to_uint8
from vinr.models import HybridModel, Latents, get_model, list_models, validate_architecture
from vinr.sizing.solve import solve_size
from vinr.video.source import FrameTensor
from vinr.video.spec import Query, VideoSpec
from vinr.video.stills import encode_still

HEIGHT, WIDTH, NUM_FRAMES, NUM_PARAMETERS = 1080, 1920, 600, 3_000_000
FIT_PRESET, FIT_FRAMES = "hinerv-s-uvg", 4
MICRO_BATCHES = (0, 16)


def peak_bytes() -> int:
    """Return the largest resident size of this process so far (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class RandomLatents:
    """Latents of the right shapes."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self._shapes = shapes

    def read(self, index_N: torch.Tensor) -> Latents:
        """Return noise."""
        return Latents({name: torch.randn(len(index_N), *shape) for name, shape in self._shapes.items()})


def decode_one(name: str) -> dict[str, Any]:
    """Decode one frame of model ``name`` as a file's decoder does."""
    cls = get_model(name)
    video = VideoSpec(NUM_FRAMES, HEIGHT, WIDTH)
    before = peak_bytes()
    model = cls(solve_size(cls, video, NUM_PARAMETERS, {}), video, with_encoder=False).eval()
    if isinstance(model, HybridModel):
        model.attach_latents(RandomLatents(model.per_frame_shapes()))
    if model.keyframes is not None:
        noise_CHW = torch.randint(255, (3, HEIGHT, WIDTH), dtype=torch.uint8)
        coded = encode_still(noise_CHW, quality=10)
        model.keyframes.attach(lambda _: coded)
    started = time.perf_counter()
    with torch.inference_mode():
        to_uint8(model(Query.of_frames(torch.tensor([NUM_FRAMES // 2]))))
    seconds = time.perf_counter() - started
    return {
        "model": name,
        "numbers": model.num_stored(),
        "peak GB": (peak_bytes() - before) / 1e9,
        "first frame s": seconds,
    }


def fit_step(micro_batch: int) -> dict[str, Any]:
    """Fit one step with the paper's recipe, ``micro_batch`` patches at a time (0: all)."""
    from vinr.fit import Trainer

    overrides = ["fit.recipe=paper", "fit.precision=fp32", f"fit.micro_batch={micro_batch}"]
    preset = load_preset(FIT_PRESET, overrides)
    before = peak_bytes()
    rgb_NCHW = torch.randint(255, (FIT_FRAMES, 3, HEIGHT, WIDTH), dtype=torch.uint8)
    frames = FrameTensor(rgb_NCHW, VideoSpec(FIT_FRAMES, HEIGHT, WIDTH))
    cls = get_model(preset.model)
    validate_architecture(cls, preset.architecture)
    trainer = Trainer(frames, preset)
    started = time.perf_counter()
    trainer.train_on(trainer.batches.of_epoch(0)[0])
    seconds = time.perf_counter() - started
    return {
        "preset": FIT_PRESET,
        "patches at a time": micro_batch or preset.fit.patches[0] * preset.fit.patches[1],
        "numbers": trainer.model.num_stored(),
        "peak GB": (peak_bytes() - before) / 1e9,
        "s/step": seconds,
    }


def in_a_process(*arguments: str) -> dict[str, Any]:
    """Run this script again for one figure."""
    run = [sys.executable, __file__, *arguments]
    found: dict[str, Any] = json.loads(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    print(found, flush=True)
    return found


def main() -> None:
    """Measure everything, or one thing for the caller."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decode", help=argparse.SUPPRESS)
    parser.add_argument("--fit", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.decode or given.fit is not None:
        print(json.dumps(decode_one(given.decode) if given.decode else fit_step(given.fit)))
        return
    decoded = [in_a_process("--decode", name) for name in list_models()]
    fitted = [in_a_process("--fit", str(size)) for size in MICRO_BATCHES]
    text = f"{__doc__}\n{_record.table(decoded)}\n\n{_record.table(fitted)}"
    settings = {"height": HEIGHT, "width": WIDTH, "num_frames": NUM_FRAMES}
    _record.write("memory", "python benchmarks/memory.py", settings, [*decoded, *fitted], text)


if __name__ == "__main__":
    main()
