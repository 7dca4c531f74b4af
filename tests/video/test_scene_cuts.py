"""Where scenes begin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vinr
from clips import MemoryClip, moving_shapes, write_clip
from vinr.errors import UsageError
from vinr.fit import Noted
from vinr.video.scene_cuts import find_cuts
from vinr.video.source import open_video


def scene(num_frames: int, shade: int) -> Tensor:
    """Return frames in which things move, as dark as ``shade`` of 256."""
    frames_NCHW = moving_shapes(num_frames=num_frames, height=32, width=48).rgb_NCHW
    return (frames_NCHW.int() * shade // 256 + shade // 2).clamp(0, 255).to(torch.uint8)


def clip_of(folder: Path, *scenes: Tensor) -> Path:
    return write_clip(folder / "clip.mkv", MemoryClip(torch.cat(scenes)))


def cuts_of(path: Path) -> list[int]:
    with open_video(path) as reader:
        return find_cuts(reader)


def test_scenes_begin_where_the_picture_changes_at_once(tmp_path: Path) -> None:
    assert cuts_of(clip_of(tmp_path, scene(19, 60), scene(7, 200), scene(12, 90))) == [19, 26]


def test_motion_is_no_cut(tmp_path: Path) -> None:
    assert cuts_of(clip_of(tmp_path, scene(30, 256))) == []


def test_a_flash_is_no_cut(tmp_path: Path) -> None:
    frames_NCHW = scene(20, 120)
    frames_NCHW[9] = 255
    assert cuts_of(clip_of(tmp_path, frames_NCHW)) == []


def test_a_fade_is_no_cut(tmp_path: Path) -> None:
    first_NCHW, second_NCHW = scene(24, 60).float(), scene(24, 200).float()
    weight_N111 = torch.linspace(0, 1, 24).view(-1, 1, 1, 1)
    faded_NCHW = (first_NCHW * (1 - weight_N111) + second_NCHW * weight_N111).to(torch.uint8)
    assert cuts_of(clip_of(tmp_path, faded_NCHW)) == []


def test_segments_end_at_the_cuts_of_the_video(tmp_path: Path) -> None:
    video = clip_of(tmp_path, scene(7, 60), scene(9, 200))
    events: list[object] = []
    settings: dict[str, Any] = {
        "preset": "nerv-tiny",
        "epochs": 1,
        "device": "cpu",
        "on_event": events.append,
    }
    settings["overrides"] = ["fit.phases=[]"]
    vinr.encode(video, tmp_path / "clip.vinr", segment="9f", scene_cuts=True, **settings)
    with vinr.open(tmp_path / "clip.vinr") as decoder:
        networks = decoder.file.header.networks
    assert [(span.first_frame, span.num_frames) for network in networks for span in network.spans] == [
        (0, 7),
        (7, 9),
    ]
    assert any(isinstance(event, Noted) and "2 networks" in event.text for event in events)


def test_cuts_without_a_length_are_refused(tmp_path: Path) -> None:
    video = clip_of(tmp_path, scene(7, 60))
    with pytest.raises(UsageError, match=r"scene_cuts=True ends segments at cuts; .* such as segment='10s'"):
        vinr.encode(video, tmp_path / "clip.vinr", epochs=1, scene_cuts=True)
