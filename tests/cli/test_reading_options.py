"""Options that say how an input is read, through whole commands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command_line import Run
from video.video_clips import picture
from vinr.cli import app
from vinr.config import default_model

HEIGHT, WIDTH, COUNT = 32, 48, 4
FIT = ("--preset", f"{default_model()}-tiny", "--epochs", 1, "--device", "cpu")
RAW = ("--raw-size", f"{HEIGHT}x{WIDTH}", "--pix-fmt", "rgb24", "--rate", "23.976")


@pytest.fixture(scope="module")
def raw_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw video whose name says nothing."""
    path = tmp_path_factory.mktemp("raw") / "camera.bin"
    path.write_bytes(np.stack([picture(HEIGHT, WIDTH, index) for index in range(COUNT)]).tobytes())
    return path


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Numbered images, of which one is missing."""
    folder = tmp_path_factory.mktemp("images")
    for number in (8, 9, 11, 12):
        Image.fromarray(picture(HEIGHT, WIDTH, number)).save(folder / f"f{number}.png")
    return folder


def clip_of(run: Run, file: Path) -> dict[str, object]:
    status, out, err = run("info", file, "--json")
    assert status == 0, err
    (clip,) = json.loads(out)["clips"]
    return dict(clip)


def test_raw_video_of_any_name(run: Run, raw_clip: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.vinr"
    status, _, err = run("encode", raw_clip, file, *FIT, *RAW)
    assert status == 0, err
    clip = clip_of(run, file)
    assert (clip["num_frames"], clip["height"], clip["width"]) == (COUNT, HEIGHT, WIDTH)
    assert clip["fps"] == pytest.approx(24_000 / 1001)
    status, out, err = run("eval", file, raw_clip, "--json", *RAW)
    assert status == 0, err
    assert json.loads(out)["psnr_db"] == pytest.approx(clip["psnr_db"], abs=0.01)
    status, _, err = run(
        "compare", raw_clip, tmp_path / "a.html", "--vinr", file, "--anchors", "vp9:40", *RAW
    )
    assert status == 0, err
    status, _, err = run("inpaint", raw_clip, tmp_path / "a.mkv", "--mask", "boxes:8", *FIT, *RAW)
    assert status == 0, err


def test_folder_at_a_rate_of_its_own(run: Run, image_folder: Path, tmp_path: Path) -> None:
    status, _, err = run("encode", image_folder, tmp_path / "a.vinr", *FIT, "--rate", "10")
    assert status == 0
    assert err.count("the numbering has gaps (f9.png is followed by f11.png)") == 1
    assert clip_of(run, tmp_path / "a.vinr")["fps"] == 10


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--rate", "25"), ["its own times count", "leave --rate out"]),
        (("--rate", "soon"), ["rate 'soon'", "29.97"]),
        (("--pix-fmt", "yuv420p"), ["is not raw video, unless --raw-size says so; leave --pix-fmt out"]),
        (("--pix-fmt", "yuv", "--raw-size", "8x8", "--rate", "1"), ["pixel format 'yuv'", "yuv420p10le"]),
        (("--raw-size", "48"), ["size '48'", "height x width"]),
        (("--raw-size", "32x48"), ["needs size and rate", "--rate"]),
        (("--stream", "1"), ["no video stream 1", "numbered from 0"]),
    ],
)
def test_what_does_not_fit_is_one_line(
    run: Run, tiny_video: Path, tmp_path: Path, options: Sequence[str], words: Sequence[str]
) -> None:
    status, out, err = run("encode", tiny_video, tmp_path / "a.vinr", *FIT, *options)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert all(word in err for word in words), err
    assert list(tmp_path.iterdir()) == []


def test_interrupted_encode_of_a_pipe_promises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vinr.encoding.kept.find_kept", lambda folder: "12 epochs")
    assert "Continue with" in app.describe_saved(["a.mkv", "o.vinr"])
    assert app.describe_saved(["a.mkv", "-", "o.vinr"]) == (
        "saved: 12 epochs, which cannot be continued: a pipe is read once"
    )
