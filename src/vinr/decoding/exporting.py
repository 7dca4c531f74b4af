"""Networks of a file for other programs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Final

from vinr.decoding.file import FileLike, VinrFile
from vinr.decoding.networks import Layout
from vinr.errors import UsageError
from vinr.files import atomic_files, atomic_path
from vinr.settings import checked_arguments

# One number, as in part_%02d.onnx, and no other per cent sign.
PATTERN: Final = re.compile(r"[^%]*%(0[1-9]\d?)?d[^%]*")


@dataclass(frozen=True)
class ExportedGraph:
    """An ONNX file ``path`` of ``num_bytes``: it gives ``num_frames`` frames of the clip, from
    ``first_frame`` on.

    Its input ``frame`` is ``first_input`` for the first of them.
    """

    path: str
    num_bytes: int
    first_frame: int
    num_frames: int
    first_input: int


@checked_arguments()
def export(
    file: FileLike,
    onnx: str | PathLike[str],
    *,
    clip: str | None = None,
    force: bool = False,
    max_memory: int | str | None = None,
) -> tuple[ExportedGraph, ...]:
    """Write each network of a clip as an ONNX file: frame number and latents in, colours out.

    Parameters
    ----------
    file
        Path, bytes, or a seekable binary file; a path ``FILE.vinr#name`` chooses a clip.
    clip
        Name of the clip, where the file holds several and the path does not name one.
    onnx
        Name of the ONNX file; of a clip of several networks (segments) a pattern such as ``part_%02d.onnx``.
    force
        Replace existing files.
    max_memory
        As for :meth:`VinrFile.open`.

    Raises
    ------
    UsageError
        If there are several networks and no pattern, packages are missing, or the model is no such graph.
    BitstreamError, OutputError
        If the file is damaged, or an output cannot be written.
    """
    from vinr.decoding.onnx_graph import export_graph  # needs packages of an extra

    with VinrFile.open(file, clip=clip, device="cpu", max_memory=max_memory) as opened:
        networks, pieces = opened.networks, opened.pieces(opened.clip_number())
        exported = []
        with _paths(fspath(onnx), len(pieces), force=force) as paths:
            for (path, temporary), (network, offset, span) in zip(paths, pieces, strict=True):
                model = networks.model(network, Layout(networks.device))
                graph = export_graph(model, networks.skeleton(network), networks.name(network))
                temporary.write_bytes(graph)
                exported.append(
                    ExportedGraph(str(path), len(graph), span.first_frame, span.num_frames, offset)
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
            f"the clip has {num_networks} networks, one per segment: give a pattern such as part_%02d.onnx, "
            f"not {output!r}"
        )
    with atomic_path(path, force=force) as temporary:
        yield [(path, temporary)]
