"""Segments that begin with the network of the one before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import vinr
from clips import moving_shapes, write_clip
from vinr.encoding import segment_work
from vinr.errors import UsageError
from vinr.fit import Trainer, fit
from vinr.video.source import FrameTensor

SETTINGS: dict[str, Any] = {"preset": "hnerv-tiny", "epochs": 2, "segment": "4f", "device": "cpu"}
WARM = ["fit.phases=[]", "fit.warm_start=true"]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clip = moving_shapes(num_frames=12, height=24, width=40)
    return write_clip(tmp_path_factory.mktemp("video") / "clip.mkv", clip)


@pytest.fixture(scope="module")
def whole(video: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "clip.vinr"
    vinr.encode(video, path, overrides=WARM, **SETTINGS)
    return path


def test_a_fit_begins_with_what_the_file_holds_of_the_segment_before(
    video: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Any] = []

    def watched(frames: FrameTensor, *arguments: Any, **settings: Any) -> Any:
        begun.append(settings["initial"])
        return fit(frames, *arguments, **settings)

    monkeypatch.setattr(segment_work, "fit", watched)
    vinr.encode(video, tmp_path / "clip.vinr", overrides=WARM, **SETTINGS)
    assert (tmp_path / "clip.vinr").read_bytes() == whole.read_bytes()
    first, *others = begun
    assert first is None
    with vinr.open(whole, device="cpu") as decoder:
        models = [decoder.file.networks.model(number) for number in range(3)]
    for number, initial in enumerate(others):
        stored = {name: item for name, item in models[number].stored().items() if not item.per_frame}
        assert initial.keys() == stored.keys()
        assert all(torch.equal(initial[name], item.value) for name, item in stored.items())


def test_it_is_resumed_to_the_same_bytes(
    video: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, original, left = tmp_path / "clip.vinr", Trainer.train_on, [8]

    def stopped(self: Trainer, batch: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return original(self, batch)

    monkeypatch.setattr(Trainer, "train_on", stopped)
    with pytest.raises(KeyboardInterrupt):
        vinr.encode(video, output, overrides=WARM, **SETTINGS)
    assert len(list((tmp_path / "clip.vinr.partial").glob("*.safetensors"))) == 2
    vinr.encode(video, output, overrides=WARM, resume=True, **SETTINGS)
    assert output.read_bytes() == whole.read_bytes()


def test_a_chain_is_not_fitted_on_workers(video: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra vinr[ray] is not installed")
    with pytest.raises(UsageError, match="each segment waits for the one before it"):
        vinr.encode(video, tmp_path / "clip.vinr", overrides=WARM, workers=2, **SETTINGS)
