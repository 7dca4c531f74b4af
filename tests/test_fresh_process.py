"""What a file shows does not depend on the process: every model, another process, threads, and arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import vinr
from clips import MemoryClip, moving_shapes
from fresh import run_fresh
from vinr.bitstream import Container
from vinr.compress import pack_tensors, quantized
from vinr.config import load_preset
from vinr.encoding.segment import FittedSegment
from vinr.fit import fit
from vinr.models import VideoModel, list_models
from vinr.video.spec import Query, to_levels

NUM_FRAMES = 5
ORDER = [4, 0, 3, 1, 1]
SCRIPT = """
import json, sys, torch, vinr
found = {}
for threads in (1, 3):
    torch.set_num_threads(threads)
    for path in sys.argv[1:]:
        with vinr.open(path, device="cpu") as video:
            found[f"{threads} {path}"] = [video[index].flatten().tolist() for index in ORDER]
print(json.dumps(found))
""".replace("ORDER", str(ORDER))


@pytest.fixture(scope="module")
def clip() -> MemoryClip:
    return moving_shapes(num_frames=NUM_FRAMES, height=30, width=50)


@pytest.fixture(scope="module")
def fitted(clip: MemoryClip, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, VideoModel]]:
    """Each model, fitted and written: its file, and the network with the numbers that the file holds."""
    folder = tmp_path_factory.mktemp("fresh")
    found = {}
    for name in list_models():
        preset = load_preset(f"{name}-tiny", ["fit.epochs=1", "fit.loss={l2=1.0}"])
        result = fit(clip, preset)
        stored = result.model.stored()
        packed = pack_tensors(stored, preset.compress, steps=result.steps)
        segment = FittedSegment.of(preset, result, packed, clip.spec)
        path = folder / f"{name}.vinr"
        segment.alone("shapes", clip.spec).write(path)
        result.model.restore(quantized(stored, preset.compress, steps=result.steps))
        found[name] = path, result.model
    return found


@pytest.fixture(scope="module")
def elsewhere(fitted: dict[str, tuple[Path, VideoModel]]) -> dict[tuple[int, str], Tensor]:
    """What another process decodes, by number of threads and model; one, since it loads PyTorch anew."""
    found = json.loads(run_fresh(SCRIPT, *(str(path) for path, _ in fitted.values())).stdout)
    return {(int(key[0]), Path(key[2:]).stem): torch.tensor(frames) for key, frames in found.items()}


def decoded_here(model: VideoModel, dtype: torch.dtype = torch.float32) -> Tensor:
    with torch.inference_mode():
        frames = [model.to(dtype)(Query.of_frames(torch.tensor([index]))) for index in ORDER]
    return to_levels(torch.cat(frames), 8).int().flatten(1)


def test_a_fresh_process_shows_the_quantised_network(
    fitted: dict[str, tuple[Path, VideoModel]], elsewhere: dict[tuple[int, str], Tensor]
) -> None:
    for name, (path, model) in fitted.items():
        with vinr.open(path, device="cpu") as video:
            here = torch.stack([video[index] for index in ORDER]).int().flatten(1)
        assert torch.equal(elsewhere[1, name], here), name
        # Some kernels add in another order for another layout of weights, which moves a few levels by one.
        difference = (here - decoded_here(model)).abs()
        assert difference.max() <= 1, name
        assert float((difference > 0).float().mean()) < 1e-3, name


def test_threads_and_precision_change_nothing_that_shows(
    fitted: dict[str, tuple[Path, VideoModel]], elsewhere: dict[tuple[int, str], Tensor]
) -> None:
    """Encodings of time are fixed to the last bit; were they not, frames would differ beyond recognition."""
    for name, (_, model) in fitted.items():
        exact = decoded_here(model, torch.float64)
        model.float()
        assert (elsewhere[3, name] - exact).abs().max() <= 1, name
        assert float((elsewhere[3, name] != exact).float().mean()) < 0.01, name


def test_files_are_whole(fitted: dict[str, tuple[Path, VideoModel]]) -> None:
    for path, _ in fitted.values():
        with Container.open(path) as container:
            container.verify()
        with vinr.open(path, device="cpu") as video:
            assert len(video) == NUM_FRAMES
