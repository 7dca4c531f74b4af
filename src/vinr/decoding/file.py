"""A .vinr file: header, sections, networks, and the clips they show.

::

    path, bytes ─> VinrFile ─┬─> header, sections, verify()
                             ├─> networks: each loaded once, shared by all clips ─┐
                             └─> clip(name) ──────────────────────────────────────┴─> VideoDecoder: frames
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from os import PathLike, fspath
from os.path import abspath, isfile
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Self

from vinr.bitstream import Container, Header, SectionSize, Span
from vinr.decoding.decoder import VideoDecoder
from vinr.decoding.networks import NetworkLoader, parse_memory
from vinr.device import resolve_device
from vinr.errors import BitstreamError, UsageError, did_you_mean, visible

if TYPE_CHECKING:
    from vinr.decoding.integrity import VerifyReport
    from vinr.decoding.settings import DecodeSettings

FileLike = str | PathLike[str] | bytes | BinaryIO


class Piece(NamedTuple):
    """Frames ``span`` of a clip; in ``network`` they are numbered from ``offset`` on."""

    network: int
    offset: int
    span: Span


def list_pieces(header: Header) -> Iterator[Piece]:
    """Yield the pieces of all clips, network by network."""
    # network    |-- span 0 --|---- span 1 ----|      a span may belong to any clip
    # offset     0            num_frames of span 0
    for number, network in enumerate(header.networks):
        offset = 0
        for span in network.spans:
            yield Piece(number, offset, span)
            offset += span.num_frames


class VinrFile:
    """A .vinr file; a context manager. Get one from :meth:`open`.

    Threads may share it, and so may processes that are forked after it was opened by its path or as bytes.
    Pickled, it opens the same path or bytes again.

    Attributes
    ----------
    header
        Clips and networks as the file describes them (docs/format.md, 2).
    container
        Reads single sections and checks their checksums; it knows the bytes of header and index.
    networks
        Loads networks when frames need them and keeps the last two, for all clips together.
    clip_name
        The clip that ``FILE.vinr#name`` chose; None where nothing was chosen.
    source
        What opens the file again, in another process too: absolute path or bytes; None for a file object.
    """

    def __init__(
        self,
        container: Container,
        *,
        clip_name: str | None = None,
        device: str = "auto",
        max_memory: int | str | None = None,
    ) -> None:
        self.container, self.header = container, container.header
        self.networks = NetworkLoader(container, resolve_device(device), parse_memory(max_memory))
        self.clip_name = clip_name
        if clip_name is not None:
            self._find_clip(clip_name)
        self._options: dict[str, Any] = {"clip": clip_name, "device": device, "max_memory": max_memory}
        self.source: str | bytes | None = None
        self._label: FileLike = b""  # as messages call it

    @classmethod
    def open(
        cls,
        source: FileLike,
        *,
        clip: str | None = None,
        device: str = "auto",
        max_memory: int | str | None = None,
    ) -> Self:
        """Open a file and read its header and index.

        Parameters
        ----------
        source
            Path, bytes, or a seekable binary file. A path may end in ``#name`` to choose a clip.
        clip
            Name of the chosen clip; a ``#`` in the path then belongs to the path.
        device
            ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        max_memory
            Bytes that a network may take, as a number or ``"4GB"``; by default what docs/format.md (8) allows
            files of that size. The limit on work is multiplied by as much as this exceeds the default.

        Raises
        ------
        BitstreamError
            If header or index are damaged or hostile, or the format is newer.
        InputError
            If the file cannot be opened.
        UsageError
            If there is no such clip or device, or ``max_memory`` is no size.
        """
        resolve_device(device), parse_memory(max_memory)  # refuse these before a file is opened
        lasting: str | bytes | None = None
        if isinstance(source, (bytes, bytearray, memoryview)):
            source = lasting = bytes(source)
        elif isinstance(source, (str, PathLike)):
            source = fspath(source)
            if clip is None:
                source, clip = split_clip(source)
            lasting = abspath(source)
        try:
            container = Container.open(source)
        except BitstreamError as error:
            raise _named(error, source) from None
        try:
            file = cls(container, clip_name=clip, device=device, max_memory=max_memory)
        except BaseException:
            container.close()
            raise
        file.source, file._label = lasting, source
        return file

    def __repr__(self) -> str:
        clips = ", ".join(self.clip_names[:3]) + (", …" if len(self.clip_names) > 3 else "")
        return f"<VinrFile {name_of(self.source or b'')}, {self.num_bytes:,} bytes: {clips}>"

    # -- what is there -------------------------------------------------------------------------------------

    @property
    def format_version(self) -> int:
        """Format version."""
        return self.container.format_version

    @property
    def num_bytes(self) -> int:
        """Size of the file in bytes."""
        return self.container.num_bytes

    @property
    def bytes_read(self) -> int:
        """Bytes read so far."""
        return self.container.bytes_read

    @property
    def sections(self) -> tuple[SectionSize, ...]:
        """Kind, owner, number of parts and bytes of each section, in the order of the file."""
        return self.container.section_sizes()

    @property
    def clip_names(self) -> tuple[str, ...]:
        """Names of the clips, in the order of the header."""
        return tuple(clip.name for clip in self.header.clips)

    # -- clips ---------------------------------------------------------------------------------------------

    def clip(
        self,
        name: str | None = None,
        *,
        settings: DecodeSettings | None = None,
        constant_rate: bool = False,
    ) -> VideoDecoder:
        """Return the decoder of a clip; it lasts as long as this file is open.

        Parameters
        ----------
        name
            The clip; without a name the one chosen by ``#name``, or the only one.
        settings
            How frames are computed; None: in float32, one at a time, and as fast as possible when played.
        constant_rate
            Ignore the presentation times of the file: frames follow each other at the nominal rate.

        Raises
        ------
        BitstreamError
            If the presentation times of the clip are damaged.
        UsageError
            If there is no such clip, a name is needed, or ``settings`` do not suit the device.
        """
        return VideoDecoder(self, self.clip_number(name), settings=settings, constant_rate=constant_rate)

    def clip_number(self, name: str | None = None) -> int:
        """Return the place of a clip in the header; ``name`` as for :meth:`clip`.

        Raises
        ------
        UsageError
            If there is no such clip, or a name is needed.
        """
        name = self.clip_name if name is None else name
        if name is not None:
            return self._find_clip(name)
        if len(self.header.clips) > 1:
            first = self.header.clips[0].name
            raise UsageError(f"the file holds {len(self.header.clips)} clips; name one: FILE.vinr#{first}, …")
        return 0

    def _find_clip(self, name: str) -> int:
        if name not in self.clip_names:
            held = f"it holds {', '.join(self.clip_names[:20])}{did_you_mean(name, self.clip_names)}"
            raise UsageError(f"no clip {name!r} in the file; {held}")
        return self.clip_names.index(name)

    def pieces(self, clip: int) -> list[Piece]:
        """Return which networks show which frames of clip number ``clip``, in the order of its frames."""
        pieces = [piece for piece in list_pieces(self.header) if piece.span.clip == clip]
        return sorted(pieces, key=lambda piece: piece.span.first_frame)

    # -- checks --------------------------------------------------------------------------------------------

    def verify(self) -> VerifyReport:
        """Read each byte once, check all checksums, decode a frame of each network; see :func:`vinr.verify`.

        Where ``#name`` chose a clip, its sections and networks alone are checked.

        Raises
        ------
        LimitError
            If a network asks for more than a file of its size may.
        InputError
            If the file is closed.
        """
        from vinr.decoding.integrity import inspect_file  # decoding does without it

        self.container.check_open()
        return inspect_file(self)

    # -- resources -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the file, for all its clips; a read of another thread is still finished."""
        self.container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close()
        self.name_error(error)

    def name_error(self, error: BaseException | None) -> None:
        """Raise ``error`` with the name of this file where it says that a file is damaged, and not which."""
        if isinstance(error, BitstreamError) and (named := _named(error, self._label)) is not error:
            raise named from error

    def __reduce__(self) -> tuple[Any, ...]:
        self.container.check_open()
        if self.source is None:
            raise TypeError(
                "a decoder of a file object cannot be pickled; open the file by its path or as bytes"
            )
        return partial(VinrFile.open, self.source, **self._options), ()


def _named(error: BitstreamError, source: FileLike) -> BitstreamError:
    """Return ``error`` with the path of the file, where it has one and is not named yet."""
    if not isinstance(source, (str, PathLike)) or str(error).startswith(visible(fspath(source))):
        return error
    return type(error)(f"{fspath(source)}: {error}")


def open_clip(
    file: FileLike,
    *,
    clip: str | None = None,
    device: str = "auto",
    settings: DecodeSettings | None = None,
    max_memory: int | str | None = None,
) -> VideoDecoder:
    """Open one clip of a .vinr file for decoding; closing the decoder closes the file.

    Parameters
    ----------
    file, clip, device, max_memory
        As for :meth:`VinrFile.open`; where the file holds several clips, one has to be named.
    settings
        As for :meth:`VinrFile.clip`.

    Raises
    ------
    BitstreamError, InputError, UsageError
        As from :meth:`VinrFile.open` and :meth:`VinrFile.clip`.
    """
    opened = VinrFile.open(file, clip=clip, device=device, max_memory=max_memory)
    try:
        return VideoDecoder(opened, opened.clip_number(), settings=settings, owns_file=True)
    except BaseException:
        opened.close()
        raise


def name_of(file: FileLike) -> str:
    """Return what messages and reports call a file."""
    if isinstance(file, (bytes, bytearray, memoryview)):
        return "bytes"
    if isinstance(file, (str, PathLike)):
        return fspath(file)
    name = getattr(file, "name", None)  # a file in memory has none, one of a descriptor a number
    return name if isinstance(name, str) else "file"


def content_of(file: FileLike) -> bytes:
    """Return all bytes of a file that is no path."""
    if isinstance(file, (bytes, bytearray, memoryview)):
        return bytes(file)
    assert not isinstance(file, (str, PathLike))
    file.seek(0)
    return file.read()


def split_clip(text: str) -> tuple[str, str | None]:
    """Return path and clip of ``FILE.vinr#name``; a name may hold ``#``, and so may the folders of a file."""
    # Of several marks, as in sets.vinr#1/clip.vinr#name, the first one with a file before it; without a
    # file the first one.
    mark = None
    for match in re.finditer(r"\.vinr#", text, re.IGNORECASE):
        is_behind_file = isfile(text[: match.end() - 1])
        if mark is None or is_behind_file:
            mark = match.end() - 1
        if is_behind_file:
            break
    if mark is None or (isfile(text) and not isfile(text[:mark])):
        return text, None
    return text[:mark], text[mark + 1 :]
