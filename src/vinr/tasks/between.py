"""Frames between the frames of a finished file, and how far they are from their neighbours.

Nobody knows the true frames between, so no quality can be stated. But a true one is no farther from either
neighbour than the two are from one another, unless something comes and goes between them. Then::

    a ── d ── b    neighbours, d apart        repeating a, or mixing both, is at most d off the truth
    a ── e ── m    the network's frame        m is at least e - d off it

so that a network's frame with e > 2 d from both neighbours is worse than those that need no network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from os import PathLike
from statistics import fmean
from typing import Final, Literal

import torch
from torch import Tensor

from vinr.decoding.decoder import VideoDecoder
from vinr.decoding.file import FileLike, VinrFile
from vinr.decoding.playback import DecodeReport, decode
from vinr.errors import UsageError
from vinr.quality.measures import psnr_from_mse_db
from vinr.settings import checked_arguments
from vinr.video.spec import to_unit

# Places that are looked at, spread over the clip: three frames are decoded for each.
MAX_PLACES: Final = 6
# Frames that differ by less are the same to the eye: a level of 8 bits, root of the mean square.
LEVEL: Final = 1 / 255


# 1 would change nothing; 16 turns 24 frames a second into 384.
FACTORS = range(2, 17)


@dataclass(frozen=True)
class BetweenFrames:
    """How a network's frames between compare with their neighbours, at ``num_places`` places of a clip.

    PSNR is in dB, the mean over places: ``neighbours_psnr_db`` of both neighbours against one another,
    ``nearest_psnr_db`` of the network's frame against the neighbour that it is more like, ``mean_psnr_db``
    against the mix of both by time. None is a quality: the true frames are not known. ``num_behind``: places
    where the network's frame is more than twice as far from both neighbours as these are apart, so worse than
    a repeated or mixed frame.
    """

    num_places: int
    num_behind: int
    neighbours_psnr_db: float
    nearest_psnr_db: float
    mean_psnr_db: float

    @property
    def behind(self) -> str | None:
        """A line, if at half of the places or more the network is behind repeated or mixed frames."""
        if 2 * self.num_behind < self.num_places:
            return None
        return (
            f"the network is behind ways without one at {self.num_behind} of {self.num_places} places looked "
            "at: its frame is more than twice as far from both neighbours as they are apart, so that "
            "repeating or mixing frames is better; fit longer or try another model"
        )


def look_between(decoder: VideoDecoder, factor: int) -> BetweenFrames | None:
    """Compare frames between with their neighbours; None if the clip has one frame.

    Parameters
    ----------
    factor
        Of the rate; the frame nearest to the middle is looked at.
    """
    num_gaps = len(decoder) - 1
    if num_gaps < 1:
        return None
    share = Fraction(factor // 2, factor)
    rows, num_behind = list[list[float]](), 0
    # The middles of equal parts: neither the first nor the last gap stands for all.
    num_places = min(num_gaps, MAX_PLACES)
    for place in range(num_places):
        before = (2 * place + 1) * num_gaps // (2 * num_places)
        frames = list(decoder.play([before, before + share, before + 1]))
        first_CHW, network_CHW, last_CHW = torch.cat([to_unit(batch) for batch in frames]).cpu()
        mixed_CHW = torch.lerp(first_CHW, last_CHW, float(share))
        apart = _mse(first_CHW, last_CHW)
        near = min(_mse(network_CHW, first_CHW), _mse(network_CHW, last_CHW))
        num_behind += near**0.5 > 2 * max(apart**0.5, LEVEL)
        rows.append([apart, near, _mse(network_CHW, mixed_CHW)])
    columns = zip(*rows, strict=True)
    neighbours_db, nearest_db, mean_db = (fmean(map(_psnr_db, column)) for column in columns)
    return BetweenFrames(num_places, num_behind, neighbours_db, nearest_db, mean_db)


def _mse(first_CHW: Tensor, second_CHW: Tensor) -> float:
    return float((first_CHW - second_CHW).square().mean())


def _psnr_db(mse: float) -> float:
    return float(psnr_from_mse_db(torch.tensor(mse)))


@dataclass(frozen=True)
class InterpolateReport(DecodeReport):
    """What an interpolation wrote.

    ``between`` compares some of the new frames with their neighbours, None where the clip has one frame; if
    they are worse than repeated or mixed frames, ``notes`` say so.
    """

    between: BetweenFrames | None = None


@checked_arguments()
def interpolate(
    file: FileLike,
    output: str | PathLike[str],
    *,
    clip: str | None = None,
    factor: int = 2,
    bit_depth: Literal[8, 10] | None = None,
    codec: str | None = None,
    device: str = "auto",
    force: bool = False,
    max_memory: int | str | None = None,
    on_frame: Callable[[int, int], None] | None = None,
) -> InterpolateReport:
    """Write a .vinr file as a video with ``factor`` − 1 new frames between each two.

    Models of time alone are evaluated at times between frames, models with latents mix those of both
    neighbours. Frames of the file stay the same and the rate is multiplied; the last frame stays the last.

    Parameters
    ----------
    file, output, clip, bit_depth, codec, device, force, max_memory, on_frame
        As for :func:`vinr.decode`.
    factor
        2 to 16.

    Raises
    ------
    UsageError, BitstreamError, OutputError
        If something cannot be used; the output is then not touched.
    """
    if factor not in FACTORS:
        raise UsageError(f"factor {factor}: give a whole number from {FACTORS[0]} to {FACTORS[-1]}")
    written = decode(
        file,
        output,
        clip=clip,
        fps_scale=factor,
        bit_depth=bit_depth,
        codec=codec,
        device=device,
        force=force,
        max_memory=max_memory,
        on_frame=on_frame,
    )
    with VinrFile.open(file, clip=clip, device=device, max_memory=max_memory) as opened:
        between = look_between(opened.clip(), factor)
    notes = written.notes
    if between is not None and between.behind is not None:
        notes = (*notes, between.behind)
    return InterpolateReport(written.path, written.num_frames, notes=notes, between=between)
