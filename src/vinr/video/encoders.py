"""What works around four faults of libav's encoders; for everything that vinr encodes.

- **x264 with AVX-512 does not write the same file twice.** ``mbtree_propagate_list_internal_avx512`` takes
  eight macroblocks at a time. Where a row is not a multiple of eight (176, 320, 352, 854, 960 pixels), it
  reads past the end of the row and of its buffer, and rate control depends on what lies there: files differ
  from run to run and are up to 10 % larger. With AVX2 they are those of any CPU from SSSE3 on.
- **x265 writes past the end of a block for frames up to 48 pixels wide.** The lookahead's buffer for the CU
  tree has one integer per 16 pixels of width, ``mbtree_propagate_cost`` (AVX, AVX2) writes more than three,
  and the program may abort. The height does not matter. Without the CU tree the buffer is not used.
- **x265 gives one or two frames arbitrary decoding times.** With B-frames it delays frames by two, and takes
  the times of fewer frames from memory that it never wrote. mp4 then refuses them, now and then.
- **SVT-AV1, run as root, makes threads real-time**: its own and the one that opens it, for good (SCHED_FIFO,
  priority 99). Whatever else runs on the machine gets what they leave, and a fit goes on like that for hours.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import torch
from av.video.codeccontext import VideoCodecContext

from vinr.video.libav import explain

# Three blocks of 16 pixels. Under a malloc that guards its blocks nothing is overwritten from 50 pixels on.
MAX_WIDTH_WITHOUT_CU_TREE: Final = 48
SVT_AV1: Final = "libsvtav1"
MAX_SVT_AV1_RATE: Final = 240  # frames per second
# Policies under which a thread runs before all ordinary ones.
REAL_TIME: Final = {getattr(os, name) for name in ("SCHED_FIFO", "SCHED_RR") if hasattr(os, name)}
# So many frames, and no fewer, x265 can put in order with B-frames among them.
MIN_FRAMES_WITH_B_FRAMES: Final = 3


def safe_options(
    encoder: str, options: Mapping[str, str], *, width: int, num_frames: int | None = None
) -> dict[str, str]:
    """Return libav's ``options`` for ``encoder`` with what it needs on this CPU at ``width`` pixels.

    ``num_frames`` is needed where frames go into a file with decoding times.
    """
    if encoder == "libx264" and _has_avx512():
        return with_parameter(options, "x264-params", "asm=avx2")
    safe = dict(options)
    if drops_cu_tree(encoder, width):
        safe = with_parameter(safe, "x265-params", "cutree=0")
    if encoder == "libx265" and num_frames is not None and num_frames < MIN_FRAMES_WITH_B_FRAMES:
        safe = with_parameter(safe, "x265-params", "bframes=0")
    return safe


def open_encoder(context: VideoCodecContext) -> None:
    """Open an encoder; threads of this process that are not real-time stay so, and new ones are not.

    Raises
    ------
    av.FFmpegError
        If the encoder refuses its settings.
    """
    before = _real_time_threads()
    try:
        context.open()
    finally:
        for thread in _real_time_threads() - before:
            # A thread may end while others are looked at.
            with suppress(ProcessLookupError):
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))


def _real_time_threads() -> set[int]:
    """Return the threads of this process that run before all ordinary ones; none where nothing tells."""
    found = set()
    tasks = Path("/proc/self/task")
    for entry in tasks.iterdir() if REAL_TIME and tasks.is_dir() else ():
        with suppress(ProcessLookupError):
            if os.sched_getscheduler(int(entry.name)) in REAL_TIME:
                found.add(int(entry.name))
    return found


def drops_cu_tree(encoder: str, width: int) -> bool:
    """Return whether ``encoder`` does without its CU tree, which costs bits, at ``width`` pixels."""
    return encoder == "libx265" and width <= MAX_WIDTH_WITHOUT_CU_TREE


def why_refused(encoder: str, error: av.FFmpegError, *, height: int, width: int, frame_rate: Fraction) -> str:
    """Return what ``encoder`` refuses, the rate or the size of the frames, as the end of a sentence."""
    if encoder == SVT_AV1 and frame_rate > MAX_SVT_AV1_RATE:
        return f"takes at most {MAX_SVT_AV1_RATE} frames per second, not {float(frame_rate):g}"
    return f"cannot encode frames of {height}x{width}: {explain(error)}"


def _has_avx512() -> bool:
    """Return whether the CPU has AVX-512, which brings AVX2; false on ARM.

    This asks the CPU itself: ``torch.backends.cpu.get_cpu_capability`` follows ATEN_CPU_CAPABILITY, which
    means nothing to x264.
    """
    return torch.cpu._is_avx512_supported()


def with_parameter(options: Mapping[str, str], name: str, parameter: str) -> dict[str, str]:
    """Return ``options`` with one more ``key=value`` in the encoder's own list ``name``."""
    parameters = f"{options[name]}:{parameter}" if name in options else parameter
    return {**options, name: parameters}
