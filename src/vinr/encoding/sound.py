"""The audio of the clips while they are encoded, in files without names: that of hours takes no memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from io import SEEK_END
from pathlib import Path
from typing import BinaryIO, cast

from vinr.files import as_output_error
from vinr.video.source import VideoReader


@dataclass(frozen=True)
class Sound:
    """The audio of a clip, as the section AUDIO has it; ``start`` as in :class:`vinr.video.spec.Audio`."""

    file: BinaryIO = field(repr=False)
    num_bytes: int
    start: Fraction

    def open(self) -> BinaryIO:
        """Return the file, at its beginning."""
        self.file.seek(0)
        return self.file


@contextmanager
def sounds_of(
    readers: Sequence[VideoReader], folder: Path | None, *, wanted: bool
) -> Iterator[list[Sound | None]]:
    """Yield the audio of each clip, None where it has none or none is ``wanted``.

    It lies in ``folder``, or where the system keeps temporary files, and goes when the body ends, also where
    the process is killed.

    Raises
    ------
    InputError
        If audio cannot be read, or has a codec that can be stored in no way.
    OutputError
        If no file can be made.
    """
    with ExitStack() as opened:
        sounds: list[Sound | None] = []
        for reader in readers if wanted else ():
            with as_output_error(folder or Path(tempfile.gettempdir())):
                file = cast(BinaryIO, opened.enter_context(tempfile.TemporaryFile(dir=folder)))
            start = reader.write_audio(file)
            sounds.append(None if start is None else Sound(file, file.seek(0, SEEK_END), start))
        yield sounds or [None] * len(readers)
