"""Draw a short clip with sound, for the tutorial: a bright square crosses slowly changing colours.

python examples/make_clip.py clip.mp4
"""

from __future__ import annotations

import sys
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

NUM_FRAMES, HEIGHT, WIDTH, RATE = 24, 96, 160, 24
SAMPLE_RATE, TONE_HZ, LEVEL = 48_000, 440, 0.1


def picture(index: int) -> NDArray[np.uint8]:
    """Return frame ``index``, RGB of shape (HEIGHT, WIDTH, 3)."""
    share = index / NUM_FRAMES
    row_HW, column_HW = np.mgrid[0:HEIGHT, 0:WIDTH] / [[[HEIGHT]], [[WIDTH]]]
    waves_HW = 0.5 + 0.5 * np.sin(2 * np.pi * (2 * column_HW + share))
    rgb_HWC = np.stack([row_HW, waves_HW, 1 - column_HW * (1 - share)], axis=-1)
    top, left = round((HEIGHT - 24) * share), round((WIDTH - 24) * share)
    rgb_HWC[top : top + 24, left : left + 24] = 0.95
    return np.round(255 * rgb_HWC).astype(np.uint8)


def tone() -> NDArray[np.float32]:
    """Return the sound, of shape (1, samples)."""
    seconds = np.arange(SAMPLE_RATE * NUM_FRAMES // RATE) / SAMPLE_RATE
    return (LEVEL * np.sin(2 * np.pi * TONE_HZ * seconds)).astype(np.float32)[None]


def write(path: Path) -> None:
    """Write the clip as H.264 with AAC."""
    with av.open(str(path), "w") as container:
        # One thread: the same file each time on one machine.
        options = {"crf": "18", "threads": "1"}
        video = container.add_stream("libx264", rate=RATE, options=options)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for index in range(NUM_FRAMES):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture(index), format="rgb24")))
        container.mux(video.encode())
        samples = av.AudioFrame.from_ndarray(tone(), format="fltp", layout="mono")
        samples.sample_rate = SAMPLE_RATE
        container.mux(audio.encode(samples))
        container.mux(audio.encode())


if __name__ == "__main__":
    write(Path(sys.argv[1]))
