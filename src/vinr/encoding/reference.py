"""What x264 needs for the quality that an encode has reached: an honest line at its end.

::

    the frames that were fitted ── x264 medium at some CRFs ──> bytes and PSNR of each
                                   ─> between the two CRFs that enclose the PSNR: bytes

PSNR is that of RGB, mean of frames, of x264's decoded frames as of the network's. x264 is tuned for it, codes
4:2:0 as players expect, and runs on one thread (:mod:`vinr.codecs.anchors`).
"""

from __future__ import annotations

import math
import time as clock
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import av

from vinr.codecs.anchors import X264
from vinr.codecs.runs import choose_upsampling, decode_anchor, encode_anchor
from vinr.errors import VinrError
from vinr.quality.clip import compare
from vinr.temporaries import temporary_folder
from vinr.video.spec import FrameSource

# Near this PSNR at this CRF the search begins; it goes on in these steps, one dB being about one CRF.
FIRST_PSNR_DB, FIRST_CRF, CRF_STRIDE = 33, 30, 4
# A search takes about so many encodes.
USUAL_TRIALS: Final = 5
# Before, it is not known how long an encode takes.
CHECKED_SECONDS: Final = 0.5


@dataclass(frozen=True)
class X264Point:
    """What x264 medium wrote at ``crf``: bytes of the video alone, and their PSNR."""

    crf: int
    num_bytes: int
    psnr_db: float


@dataclass(frozen=True)
class X264Reference:
    """What x264 medium needs at the PSNR of an encode: ``num_bytes``, between two whole CRFs.

    ``crf`` is the larger CRF whose PSNR is not below ``psnr_db``; of several clips, those of the first. Where
    even the coarsest CRF is better than the encode, ``psnr_db`` is that of it.
    """

    num_bytes: int
    crf: int
    psnr_db: float


class NoReferenceError(Exception):
    """There is no reference, for the reason that it states."""


def find_reference(
    source: FrameSource, psnr_db: float, *, seconds: float, now: Callable[[], float] = clock.monotonic
) -> X264Reference:
    """Return what x264 medium needs for ``source`` at ``psnr_db``.

    Raises
    ------
    NoReferenceError
        If x264 is missing, cannot code such frames, cannot reach the PSNR, or would take more than
        ``seconds``.
    """
    if X264.encoder not in av.codecs_available:
        raise NoReferenceError("this PyAV has no x264")
    if source.spec.bit_depth != 8:
        raise NoReferenceError(f"frames of {source.spec.bit_depth} bits are not compared")
    search = CrfSearch(source, psnr_db, now() + seconds, now)
    try:
        return search.run()
    except VinrError as error:
        raise NoReferenceError(str(error)) from error


class CrfSearch:
    """Looks for two neighbouring CRFs that enclose a PSNR."""

    def __init__(
        self, source: FrameSource, psnr_db: float, deadline: float, now: Callable[[], float]
    ) -> None:
        self._source, self._psnr_db, self._deadline, self._now = source, psnr_db, deadline, now
        self._anchor, self._upsampling = X264(), choose_upsampling(source)
        self._points: dict[int, X264Point] = {}

    def run(self) -> X264Reference:
        low, high = self._enclose()
        if low == high:
            return X264Reference(self._points[low].num_bytes, low, self._points[low].psnr_db)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._is_good(middle) else (low, middle)
        good, bad = self._points[low], self._points[high]
        # Bytes fall by a constant factor per dB.
        part = (good.psnr_db - self._psnr_db) / max(good.psnr_db - bad.psnr_db, 1e-9)
        logs = math.log(good.num_bytes), math.log(bad.num_bytes)
        num_bytes = round(math.exp(logs[0] + min(part, 1.0) * (logs[1] - logs[0])))
        return X264Reference(num_bytes, low, self._psnr_db)

    def _enclose(self) -> tuple[int, int]:
        """Return a CRF that is good enough, and a higher one that is not; twice the coarsest if that is."""
        most = self._anchor.max_quality
        guess = min(max(round(FIRST_CRF + FIRST_PSNR_DB - self._psnr_db), 1), most - 1)
        if self._is_good(guess):
            low, high = guess, min(guess + CRF_STRIDE, most)
            while self._is_good(high):
                if high == most:
                    return most, most
                low, high = high, min(high + CRF_STRIDE, most)
            return low, high
        low, high = max(guess - CRF_STRIDE, 0), guess
        while not self._is_good(low):
            if low == 0:
                raise NoReferenceError("x264 does not reach that with 4:2:0")
            low, high = max(low - CRF_STRIDE, 0), low
        return low, high

    def _is_good(self, crf: int) -> bool:
        if crf not in self._points:
            self._points[crf] = self.measure(crf)
        return self._points[crf].psnr_db >= self._psnr_db

    def measure(self, crf: int) -> X264Point:
        """Return what x264 comes to at ``crf``."""
        began, trials = self._now(), 1 if self._points else USUAL_TRIALS

        def check(done: int, total: int) -> None:
            # Encoding is about half of a trial; the first one tells how long all will take.
            passed = self._now() - began
            expected = 2 * trials * passed * total / done
            is_known = done == total or passed > CHECKED_SECONDS
            if is_known and began + expected > self._deadline:
                raise NoReferenceError(f"it would take about {math.ceil(expected)} s")

        with temporary_folder("vinr-x264-") as folder:
            path = folder / f"reference{self._anchor.suffix}"
            encoded = encode_anchor(self._anchor, self._source, path, quality=crf, on_frame=check)
            decoded = decode_anchor(path, self._source.spec, upsampling=self._upsampling)
            return X264Point(crf, encoded.num_bytes, compare(decoded, self._source).psnr_db)
