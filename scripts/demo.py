"""The demo: one real clip through the whole of vinr, with every figure measured on the decoded file."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import torch

import vinr
from vinr.comparison.report import side_by_side
from vinr.decoding.playback import edit_of
from vinr.video.samples import sample_clip
from vinr.video.source import open_video

# A quarter of the papers' 640×1280 in each direction: as much as two CPU cores fit in about three minutes.
CROP, RESIZE = "640x1280", "160x320"
SHOWN_FRAMES = (10, 65, 120)


def run(*arguments: str) -> None:
    """Run a vinr command and show it."""
    print("$ vinr " + " ".join(arguments), flush=True)
    subprocess.run([sys.executable, "-m", "vinr", *arguments], check=True)
    print(flush=True)


def main(folder: Path) -> None:
    """Encode, decode, measure, draw."""
    folder.mkdir(parents=True, exist_ok=True)
    clip, file = str(folder / "bigbuckbunny.mp4"), str(folder / "bunny.vinr")
    shutil.copyfile(sample_clip("bigbuckbunny.mp4"), clip)
    run("encode", clip, file, "--crop", CROP, "--resize", RESIZE, "--force")
    run("info", file)
    run("decode", file, str(folder / "bunny.mp4"), "--force")
    run("decode", file, str(folder / "bunny.y4m"), "--force")
    run("eval", file, clip)
    with vinr.open(file) as decoder, open_video(clip, edit=edit_of(decoder.clip)) as reader:
        shown_N = torch.tensor(SHOWN_FRAMES)
        side_by_side(
            reader.read().frames(shown_N),
            decoder.frames(shown_N),
            folder / "bunny.png",
            captions=[f"frame {index}" for index in SHOWN_FRAMES],
            force=True,
        )
    for path in sorted(folder.iterdir()):
        print(f"{path}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
