"""A file in which reading past the end is the result, and the verdicts on the end of a file.

Files are untrusted: a reader makes at most :data:`MAX_READS` reads, of at most :data:`MAX_READ` bytes each.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import BinaryIO, Final

# Enough for hours of video; the rest of a longer file is left to libav.
MAX_READS: Final = 1 << 21
MAX_READ: Final = 1 << 20
# Bytes of a file; a header that states more is damaged, and its number would only clutter a message.
LARGEST: Final = 1 << 60


class Verdict(Enum):
    """How sure a container is of its end."""

    WHOLE = "its end is there"
    OPEN = "it says nothing about its end"
    DOUBTFUL = "it states more than is there, or lacks an end mark that is usually there"
    MISSING = "an element is incomplete"


@dataclass(frozen=True)
class End:
    """A verdict, and for the two bad ones its reason in a few words."""

    verdict: Verdict
    reason: str = ""


WHOLE: Final = End(Verdict.WHOLE)
OPEN: Final = End(Verdict.OPEN)


def doubtful(reason: str) -> End:
    """Return the doubtful end of this reason."""
    return End(Verdict.DOUBTFUL, reason)


class CutError(Exception):
    """An element passes the end of the file."""


class TooLongError(Exception):
    """A file has more elements than are checked."""


class BoundedFile:
    """A file that raises :class:`CutError` where a read passes its end."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._num_reads = 0
        self.size = size

    def read(self, place: int, count: int) -> bytes:
        """Return ``count`` bytes at ``place``."""
        self.need(place + count)
        self._num_reads += 1
        if self._num_reads > MAX_READS:
            raise TooLongError
        self._stream.seek(place)
        return self._stream.read(count)

    def number(self, place: int, count: int, *, little: bool = False) -> int:
        """Return an unsigned integer of ``count`` bytes."""
        return int.from_bytes(self.read(place, count), "little" if little else "big")

    def need(self, end: int) -> None:
        """Raise :class:`CutError` unless the file reaches to byte ``end``."""
        if end > self.size:
            stated = f"at least {end:,}" if end < LARGEST else "far more"
            raise CutError(f"it has {self.size:,} of {stated} bytes")
