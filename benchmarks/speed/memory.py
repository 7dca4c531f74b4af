"""Peak memory of fitting a step and of decoding a frame, each in a process of its own.

Run as a program it does one of them and prints the bytes: ``python -m benchmarks.speed.memory``, with a JSON
document on its standard input.
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.speed.steps import Stepper
from vinr.config import Preset
from vinr.decoding.file import open_clip
from vinr.decoding.settings import DecodeSettings
from vinr.errors import VinrError
from vinr.fit.draws import Draws
from vinr.video.source import FrameTensor
from vinr.video.spec import VideoSpec

STATUS: Final = Path("/proc/self/status")
KIB: Final = 1024


def peak_bytes() -> int:
    """Return the most memory this process had so far.

    Linux's ru_maxrss of a new program begins with that of the one that started it, so the kernel's own
    figure for the program is taken where there is one.
    """
    if STATUS.exists() and (match := re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text(encoding="utf-8"))):
        return int(match[1]) * KIB
    unit = 1 if sys.platform == "darwin" else KIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def step_memory(preset: Preset, spec: VideoSpec, device: torch.device, *, num_steps: int = 2) -> int:
    """Return the bytes that fitting takes at most, frames of the clip included, interpreter and torch not."""
    size = [spec.num_frames, spec.height, spec.width]
    work = {"preset": preset.model_dump(mode="json"), "size": size, "steps": num_steps}
    return _in_a_process(work, device)


def decode_memory(path: Path, settings: DecodeSettings, device: torch.device) -> int:
    """Return the bytes that decoding two batches of a file takes at most, interpreter and torch not."""
    return _in_a_process({"path": str(path.resolve()), "settings": settings.model_dump(mode="json")}, device)


def _in_a_process(work: dict[str, Any], device: torch.device) -> int:
    work |= {"device": str(device), "threads": torch.get_num_threads()}
    command = [sys.executable, "-m", __name__]
    # The folder that holds benchmarks/, since the module is found from there.
    folder = Path(__file__).parent.parent.parent
    run = subprocess.run(
        command, input=json.dumps(work), capture_output=True, text=True, check=False, cwd=folder
    )
    if run.returncode:
        lines = run.stderr.strip().splitlines() or ["no message"]
        raise VinrError(f"the process that measures memory ended with {run.returncode}: {lines[-1]}")
    return int(run.stdout)


def _fit(work: dict[str, Any], device: torch.device) -> None:
    preset = Preset.model_validate(work["preset"])
    num_frames, height, width = work["size"]
    with Draws(0).as_global():
        rgb_NCHW = torch.randint(255, (num_frames, 3, height, width), dtype=torch.uint8)
    Stepper(FrameTensor(rgb_NCHW, VideoSpec(num_frames, height, width)), preset, device).steps(work["steps"])


def _decode(work: dict[str, Any], device: torch.device) -> None:
    settings = DecodeSettings.model_validate(work["settings"])
    with open_clip(work["path"], device=str(device), settings=settings) as decoder:
        for _ in decoder.play(range(min(len(decoder), 2 * max(settings.batch, 1)))):
            pass


def main() -> None:
    """Do the work on standard input and print what it took."""
    work = json.load(sys.stdin)
    device = torch.device(work["device"])
    torch.set_num_threads(work["threads"])
    before = peak_bytes()
    (_fit if "preset" in work else _decode)(work, device)
    is_gpu = device.type == "cuda"
    print(torch.cuda.max_memory_allocated(device) if is_gpu else peak_bytes() - before)


if __name__ == "__main__":
    main()
