"""The one record of how good frames are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10
from statistics import fmean

from vinr.quality.measures import PSNR_EPSILON


def psnr_of_mse_db(mse: float) -> float:
    """Return −10·log10(mse + 1e-9) in dB of a mean squared error of values in [0, 1]."""
    return -10 * log10(mse + PSNR_EPSILON)


@dataclass(frozen=True)
class Quality:
    """Quality of 8-bit frames against their reference.

    ``psnr_db`` and ``ms_ssim`` are means over frames, ``mse`` is the mean squared error of all of them,
    colours in [0, 1]. MS-SSIM is None, with its window, where the frames are too small for it.
    """

    num_frames: int
    psnr_db: float
    mse: float
    ms_ssim: float | None
    ms_ssim_window: int | None

    @property
    def pooled_psnr_db(self) -> float:
        """PSNR of the mean squared error, dB."""
        return psnr_of_mse_db(self.mse)

    @classmethod
    def of(
        cls, per_frame_mse: Sequence[float], per_frame_ms_ssim: Sequence[float] | None, window: int | None
    ) -> Quality:
        """Return the quality of frames, at least one, from their squared errors and MS-SSIM."""
        return cls(
            num_frames=len(per_frame_mse),
            psnr_db=fmean(map(psnr_of_mse_db, per_frame_mse)),
            mse=fmean(per_frame_mse),
            ms_ssim=None if per_frame_ms_ssim is None else fmean(per_frame_ms_ssim),
            ms_ssim_window=window,
        )

    @classmethod
    def of_all(cls, parts: Sequence[Quality]) -> Quality:
        """Return the quality of the frames of all ``parts`` together; MS-SSIM only where all have it."""
        # Means over frames: each part counts as often as it has frames. A mean of PSNRs is not the PSNR of a
        # mean error, so that both are kept.
        counts, psnr_db, mse, ms_ssim = [], [], [], []
        for part in parts:
            counts.append(part.num_frames)
            psnr_db.append(part.psnr_db)
            mse.append(part.mse)
            if part.ms_ssim is not None:
                ms_ssim.append(part.ms_ssim)
        # Parts of several sizes may have MS-SSIM in part alone: a mean of those is not that of the frames.
        is_whole = len(ms_ssim) == len(parts)
        return cls(
            num_frames=sum(counts),
            psnr_db=fmean(psnr_db, counts),
            mse=fmean(mse, counts),
            ms_ssim=fmean(ms_ssim, counts) if is_whole else None,
            ms_ssim_window=parts[0].ms_ssim_window if is_whole else None,
        )
