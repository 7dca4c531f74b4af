"""The frames of a job that the gallery shows, kept in a file beside the job's result.

Axes: N frames shown, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from vinr.bench.work import SHOWN_SUFFIX, Work
from vinr.state.tensorfile import read_tensors, write_tensors
from vinr.video.spec import FrameSource

INDEX: Final = "index_N"


@dataclass(frozen=True, eq=False)
class ShownFrames:
    """Frames kept for pictures: ``rgb_NCHW``, uint8, by name.

    ``index_N``: their numbers in the video that the job's frames are taken from; ``num_frames``: how many
    are taken.
    """

    num_frames: int
    index_N: Tensor
    rgb_NCHW: Mapping[str, Tensor]

    @classmethod
    def read(cls, path: Path) -> ShownFrames:
        """Return what :func:`keep_frames` wrote.

        Raises
        ------
        InputError
            If it cannot be read.
        """
        tensors, values = read_tensors(path)
        return cls(values["num_frames"], tensors.pop(INDEX), tensors)


def keep_frames(work: Work, panels: Mapping[str, FrameSource], index_N: Tensor | None) -> None:
    """Write the frames that the job of ``work`` shows, of each panel; ``index_N``: those there are."""
    num_frames = work.frames.spec.num_frames
    if index_N is None:
        index_N = torch.arange(num_frames)
    # Places run from 0, the first of the frames there are, to 1, the last.
    rows = [round(place * (len(index_N) - 1)) for place in work.job.shown]
    shown_N = index_N[rows]
    kept = {name: source.frames(shown_N) for name, source in panels.items()}
    first, _ = work.setup.frames or (0, None)
    path = work.folder / (work.job.result_name(work.device) + SHOWN_SUFFIX)
    write_tensors(path, {INDEX: first + shown_N, **kept}, {"num_frames": num_frames})
