"""Frames between the frames of a finished file, and what can be said of them.

Nobody knows the true frames between. But mixing neighbours is measured on frames that are known, from those
on both sides of them, and at half of that distance it can hardly be worse::

    frame    i - 1    i    i + ½   i + 1
             ├─ mix ──┼────────────┤        is e off frame i
                      ├─ mix ──────┤        is then at most e off the true frame
                           m                the network's, d off this mix: at least d - e off the true frame

so that a network's frame with d > 2 e is worse than the mix. That of a perfect network has d of at most e.
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

# Places that are looked at, spread over the clip: four frames are decoded for each.
MAX_PLACES: Final = 6
# A level of 8 bits, root of the mean square: what is less is no difference to the eye.
LEVEL: Final = 1 / 255
# 1 would change nothing; 16 turns 24 frames a second into 384.
FACTORS = range(2, 17)


@dataclass(frozen=True)
class BetweenFrames:
    """New frames beside mixed ones, at ``num_places`` places of a clip; PSNR in dB, the mean over places.

    ``from_mix_psnr_db`` is that of the network's frame against the mix of both neighbours by time: no
    quality, since the true frame is not known. ``mix_psnr_db`` is that of mixing at twice the distance, where
    the true frame is known: a frame of the file, from the one before and the one behind. ``num_behind``:
    places where the network's frame is more than twice as far from the mix as mixing at twice the distance
    was off, so worse than the mix.
    """

    num_places: int
    num_behind: int
    from_mix_psnr_db: float
    mix_psnr_db: float

    @property
    def behind(self) -> str | None:
        """A line, if the network is behind mixed frames at half of the places or more, or probably is."""
        advice = "mixing neighbours comes closer to the frames between; fit longer or try another model"
        if 2 * self.num_behind >= self.num_places:
            places = f"at {self.num_behind} of {self.num_places} places looked at"
            return f"the network is behind a way without one {places}: {advice}"
        # A perfect network is as far from the mix as this is off the truth, not farther.
        if self.from_mix_psnr_db < self.mix_psnr_db:
            return f"the network is probably behind a way without one: {advice}"
        return None


def look_between(decoder: VideoDecoder, factor: int) -> BetweenFrames | None:
    """Compare new frames with mixed ones; None if the clip has fewer than three frames.

    Parameters
    ----------
    factor
        Of the rate; of the new frames between two that nearest to the middle is looked at.
    """
    num_inner = len(decoder) - 2
    if num_inner < 1:
        return None
    share = Fraction(factor // 2, factor)
    num_places, num_behind = min(num_inner, MAX_PLACES), 0
    from_mix_db, mix_db = list[float](), list[float]()
    for place in range(num_places):
        # The middles of equal parts: neither the first nor the last frames stand for all.
        frame = 1 + (2 * place + 1) * num_inner // (2 * num_places)
        times = (frame - 1, frame, frame + share, frame + 1)
        played_CHW = torch.cat([to_unit(batch) for batch in decoder.play(times)]).cpu()
        before_CHW, frame_CHW, network_CHW, after_CHW = played_CHW
        from_mix = _mse(network_CHW, torch.lerp(frame_CHW, after_CHW, float(share)))
        mix = _mse(frame_CHW, torch.lerp(before_CHW, after_CHW, 0.5))
        num_behind += from_mix**0.5 > 2 * max(mix**0.5, LEVEL)
        from_mix_db.append(_psnr_db(from_mix))
        mix_db.append(_psnr_db(mix))
    return BetweenFrames(num_places, num_behind, fmean(from_mix_db), fmean(mix_db))


def _mse(first_CHW: Tensor, second_CHW: Tensor) -> float:
    return float((first_CHW - second_CHW).square().mean())


def _psnr_db(mse: float) -> float:
    return float(psnr_from_mse_db(torch.tensor(mse)))


@dataclass(frozen=True)
class InterpolateReport(DecodeReport):
    """What an interpolation wrote.

    ``between`` compares some of the new frames with mixed ones, None where the clip has fewer than three; if
    they are worse than these, ``notes`` say so.
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
    crf: int | None = None,
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
    file, output, clip, bit_depth, codec, crf, device, force, max_memory, on_frame
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
        crf=crf,
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
