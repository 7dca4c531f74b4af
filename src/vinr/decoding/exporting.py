"""Networks of a file for other programs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vinr.decoding.decoder import VideoDecoder
from vinr.errors import UsageError
from vinr.files import atomic_files, atomic_path

# One number, as in part_%02d.onnx, and no other per cent sign.
PATTERN: Final = re.compile(r"[^%]*%(0[1-9]\d?)?d[^%]*")


@dataclass(frozen=True)
class ExportedGraph:
    """An ONNX file: it gives ``num_frames`` frames of the clip, from ``first_frame`` on.

    Its input ``frame`` is ``first_input`` for the first of them.
    """

    path: str
    num_bytes: int
    first_frame: int
    num_frames: int
    first_input: int


def export_onnx(
    file: str, output: str, *, force: bool = False, max_memory: int | str | None = None
) -> tuple[ExportedGraph, ...]:
    """Write each network of a clip as an ONNX file: frame number and latents in, colours out.

    Parameters
    ----------
    file
        The file; ``FILE.vinr#name`` chooses a clip.
    output
        Name of the ONNX file; of a clip of several networks (segments) a pattern such as ``part_%02d.onnx``.
    force
        Replace existing files.
    max_memory
        See :class:`vinr.decoding.decoder.VideoDecoder`.

    Raises
    ------
    UsageError
        If there are several networks and no pattern, packages are missing, or the model is no such graph.
    BitstreamError, OutputError
        If the file is damaged, or an output cannot be written.
    """
    with VideoDecoder(file, device="cpu", max_memory=max_memory) as decoder:
        spans = decoder.network_spans
        exported = []
        with _paths(output, len(spans), force=force) as paths:
            for (place, temporary), span in zip(paths, spans, strict=True):
                graph = decoder.network_graph(span.network)
                temporary.write_bytes(graph)
                exported.append(
                    ExportedGraph(str(place), len(graph), span.first, span.num_frames, span.offset)
                )
    return tuple(exported)


@contextmanager
def _paths(output: str, num_networks: int, *, force: bool) -> Iterator[list[tuple[Path, Path]]]:
    """Give the path for each network, and where to write it: all appear when the body ends well, or none."""
    path = Path(output)
    if PATTERN.fullmatch(path.name):
        names = [path.name % number for number in range(num_networks)]
        with atomic_files(path, range(num_networks), force=force) as folder:
            yield [(path.with_name(name), folder / name) for name in names]
        return
    if num_networks > 1:
        raise UsageError(
            f"the clip has {num_networks} networks, one a segment: give a pattern such as part_%02d.onnx, "
            f"not {output!r}"
        )
    with atomic_path(path, force=force) as temporary:
        yield [(path, temporary)]
