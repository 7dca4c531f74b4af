"""What fills holes without a network: the surroundings, blurred, or the same pixel of the nearest frame.

A network has to be better than these to be worth its time, so its figures stand beside theirs.

Axes: N frames of a batch, T frames of the video, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from vinr.video.spec import FrameSource, computable, to_levels, to_unit


def fill_from_surroundings(colors_NCHW: Tensor, known_N1HW: Tensor) -> Tensor:
    """Return float colours in which pixels that are not known (bool) are a mean of known ones around them.

    The mean is of the smallest window that holds a known pixel, in windows of 2, 4, 8, … pixels a side, and
    interpolated bilinearly between windows. Known pixels stay; a frame without any becomes black.
    """
    # known    3 3 . . . . 9 9    windows of 2   3 . . 9    windows of 4   3 9
    # filled   3 3 4 4 7 8 9 9    <── spread ──  3 4 8 9    <── spread ──  3 9
    height, width = colors_NCHW.shape[2:]
    weight_N1HW = known_N1HW.to(colors_NCHW)
    colors_NCHW = colors_NCHW * weight_N1HW
    if bool(known_N1HW.all()) or (height, width) == (1, 1):
        return colors_NCHW
    pooled_N1HW = avg_pool2d(weight_N1HW, 2, ceil_mode=True)
    # Half of the smallest share that a window can have: nothing is divided by 0.
    coarse_NCHW = avg_pool2d(colors_NCHW, 2, ceil_mode=True) / pooled_N1HW.clamp(min=0.125)
    coarse_NCHW = fill_from_surroundings(coarse_NCHW, pooled_N1HW > 0)
    spread_NCHW = interpolate(coarse_NCHW, size=(height, width), mode="bilinear", align_corners=False)
    return torch.where(known_N1HW, colors_NCHW, spread_NCHW)


class SurroundingsFrames:
    """Frames whose hidden pixels are blurred from the same frame; a :class:`~vinr.video.spec.FrameSource`.

    Parameters
    ----------
    hidden_T1HW
        Bool, True where a pixel is not to be used.
    """

    def __init__(self, source: FrameSource, hidden_T1HW: Tensor) -> None:
        self._source, self._hidden_T1HW = source, hidden_T1HW
        self.spec = source.spec

    def frames(self, index_N: Tensor) -> Tensor:
        """Return levels rgb_NCHW."""
        rgb_NCHW = self._source.frames(index_N)
        known_N1HW = ~self._hidden_T1HW[index_N.to(self._hidden_T1HW.device)].to(rgb_NCHW.device)
        return to_levels(fill_from_surroundings(to_unit(rgb_NCHW), known_N1HW), self.spec.bit_depth)


class NearestVisibleFrames:
    """Frames whose hidden pixels come from the nearest frame of the clip that shows them, the earlier of two.

    Pixels that are hidden in every frame of a clip come from the surroundings. A
    :class:`~vinr.video.spec.FrameSource`; parameters as for :class:`SurroundingsFrames`.
    """

    def __init__(self, source: FrameSource, hidden_T1HW: Tensor) -> None:
        self._source, self._hidden_T1HW = source, hidden_T1HW
        self._surroundings = SurroundingsFrames(source, hidden_T1HW)
        self.spec = source.spec
        # For each clip its range of frames, and the pixels that one of them shows.
        self._clips: list[tuple[range, Tensor]] = []
        for length, stop in zip(self.spec.span_lengths, accumulate(self.spec.span_lengths), strict=True):
            shown_1HW = ~hidden_T1HW[stop - length : stop].all(0)
            self._clips.append((range(stop - length, stop), shown_1HW))

    def frames(self, index_N: Tensor) -> Tensor:
        """Return levels rgb_NCHW."""
        frames = list(map(self._fill, index_N.tolist()))
        return torch.cat([computable(rgb_1CHW) for rgb_1CHW in frames]).view(frames[0].dtype)

    def _fill(self, number: int) -> Tensor:
        levels_1CHW = self._surroundings.frames(torch.tensor([number]))
        filled_1CHW = computable(levels_1CHW)
        clip, shown_1HW = next(entry for entry in self._clips if number in entry[0])
        left_1HW = self._hidden_T1HW[number] & shown_1HW
        for other in sorted(clip, key=lambda other: (abs(other - number), other)):
            if not bool(left_1HW.any()):
                break
            taken_1HW = left_1HW & ~self._hidden_T1HW[other]
            if bool(taken_1HW.any()):
                other_1CHW = computable(self._source.frames(torch.tensor([other])))
                filled_1CHW = torch.where(taken_1HW.to(other_1CHW.device), other_1CHW, filled_1CHW)
                left_1HW = left_1HW & ~taken_1HW
        return filled_1CHW.view(levels_1CHW.dtype)


def say_behind(network_psnr_db: float, trivial_psnr_db: Mapping[str, float]) -> str | None:
    """Return a line if the best of the trivial ways, PSNR in dB by name, is ahead; else None."""
    name = max(trivial_psnr_db, key=trivial_psnr_db.__getitem__)
    if trivial_psnr_db[name] <= network_psnr_db:
        return None
    return (
        f"the network is behind a way without one: {network_psnr_db:.2f} dB, "
        f"{name} {trivial_psnr_db[name]:.2f} dB"
    )
