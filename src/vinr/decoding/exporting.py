"""Networks of a file for other programs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save
from torch import Tensor

from vinr.decoding.file import FileLike, VinrFile
from vinr.decoding.networks import LATENT_PREFIX, Layout
from vinr.errors import UsageError, argument
from vinr.files import atomic_files, atomic_path
from vinr.models import HybridModel, VideoModel
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


@dataclass(frozen=True)
class ExportedWeights:
    """A safetensors file ``path`` of ``num_bytes``: the ``num_tensors`` tensors of a network.

    The network gives ``num_frames`` frames of the clip, from ``first_frame`` on.
    """

    path: str
    num_bytes: int
    first_frame: int
    num_frames: int
    num_tensors: int


@checked_arguments()
def export(
    file: FileLike,
    onnx: str | PathLike[str] | None = None,
    *,
    safetensors: str | PathLike[str] | None = None,
    clip: str | None = None,
    force: bool = False,
    max_memory: int | str | None = None,
) -> tuple[ExportedGraph | ExportedWeights, ...]:
    """Write each network of a clip as an ONNX graph, as a file of its tensors, or as both.

    A graph takes the number of a frame and its latents and gives colours. Tensors have the names and shapes
    of the model's own, latents those of all frames behind ``latents.``; model and architecture (JSON) stand
    in the file's metadata.

    Parameters
    ----------
    file
        Path, bytes, or a seekable binary file; a path ``FILE.vinr#name`` chooses a clip.
    clip
        Name of the clip, where the file holds several and the path does not name one.
    onnx
        Name of the ONNX file; of a clip of several networks (segments) a pattern such as ``part_%02d.onnx``.
    safetensors
        The same for the file of tensors: ``weights.safetensors``, ``part_%02d.safetensors``.
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
    if onnx is None and safetensors is None:
        raise UsageError(f"nothing is asked for; give {argument('onnx')} or {argument('safetensors')}")
    exported: list[ExportedGraph | ExportedWeights] = []
    with VinrFile.open(file, clip=clip, device="cpu", max_memory=max_memory) as opened:
        if onnx is not None:
            exported += _export_graphs(opened, fspath(onnx), force=force)
        if safetensors is not None:
            exported += _export_weights(opened, fspath(safetensors), force=force)
    return tuple(exported)


def _export_graphs(file: VinrFile, onnx: str, *, force: bool) -> list[ExportedGraph]:
    from vinr.decoding.onnx_graph import export_graph  # needs packages of an extra

    networks, pieces = file.networks, file.pieces(file.clip_number())
    exported = []
    with _paths(onnx, len(pieces), force=force) as paths:
        for (path, temporary), (network, offset, span) in zip(paths, pieces, strict=True):
            model = networks.model(network, Layout(networks.device))
            graph = export_graph(model, networks.skeleton(network), networks.name(network))
            temporary.write_bytes(graph)
            exported.append(ExportedGraph(str(path), len(graph), span.first_frame, span.num_frames, offset))
    return exported


def _export_weights(file: VinrFile, name: str, *, force: bool) -> list[ExportedWeights]:
    networks, pieces = file.networks, file.pieces(file.clip_number())
    exported = []
    with _paths(name, len(pieces), force=force) as paths:
        for (path, temporary), (network, _, span) in zip(paths, pieces, strict=True):
            entry = file.header.networks[network]
            about = {"model": entry.model, "architecture": json.dumps(entry.architecture)}
            tensors = _tensors_of(networks.model(network, Layout(networks.device)))
            temporary.write_bytes(save(tensors, {"format": "pt", **about}))
            num_bytes = temporary.stat().st_size
            exported.append(
                ExportedWeights(str(path), num_bytes, span.first_frame, span.num_frames, len(tensors))
            )
    return exported


def _tensors_of(model: VideoModel) -> dict[str, Tensor]:
    """Return all tensors of a network on the CPU, with the latents of all its frames."""
    tensors = {name: item.value for name, item in model.stored().items() if not item.per_frame}
    if isinstance(model, HybridModel):
        latents = model.latents_at(torch.arange(model.video.num_frames))
        tensors |= {f"{LATENT_PREFIX}{name}": value for name, value in latents.per_frame.items()}
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


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
