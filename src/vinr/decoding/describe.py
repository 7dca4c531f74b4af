"""What a file holds, and where its bytes go: by component and by layer.

::

    header ─────────────> clips, networks
    sections ───────────> bytes by component ─────────────┐
    WEIGHTS, CHUNKS ────> symbols, priced by their tables ┴─> bytes and ideal bits of each stored tensor
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Final

from vinr.bitstream import Clip, EditRecord, Hdr, Quality, SectionKind
from vinr.compress import network_sizes
from vinr.decoding.byte_plot import ByteBar, plot_bytes
from vinr.decoding.file import FileLike, VinrFile, name_of
from vinr.errors import UsageError, argument
from vinr.files import check_target
from vinr.models import list_models
from vinr.settings import checked_arguments
from vinr.units import format_count
from vinr.video.spec import ColorTags
from vinr.video.tag_names import describe_tags

SIDE: Final = "steps and tables"
NOT_READ: Final = "networks not read"
# The header has luminance in 0.0001 cd/m².
LUMINANCE: Final = 10_000
# Parameters that are read: so many for any file, and more per byte of it. Building a network, and opening a
# chunk, takes as long as reading so many (docs/format.md, section 8).
PARAMETERS: Final = 2**25
PARAMETERS_PER_BYTE: Final = 2**8
PARAMETERS_PER_NETWORK: Final = 2**18
PARAMETERS_PER_CHUNK: Final = 2**10


@dataclass(frozen=True)
class ClipInfo:
    """One clip of a file; quality as measured when it was encoded.

    ``pixel_aspect`` is the width of a pixel over its height, ``colors`` and ``hdr`` what the original said of
    its colours, as text, empty where it said nothing. ``last_seconds`` is how long the last frame is held,
    None for as long as any other; audio begins ``audio_start`` seconds after the first frame. With
    ``has_times`` the frames are not evenly spaced, and ``fps`` is their mean rate.
    """

    name: str
    num_frames: int
    height: int
    width: int
    fps: float
    bit_depth: int
    pixel_aspect: str
    colors: str
    hdr: str
    last_seconds: float | None
    has_audio: bool
    audio_start: float
    edit: str
    psnr_db: float | None
    ms_ssim: float | None
    ms_ssim_window: int | None
    has_times: bool = False


@dataclass(frozen=True)
class LayerInfo:
    """One stored tensor of a network; a per-frame tensor with its slices of all frames.

    ``num_bytes`` is its share of the sections, ``side_bytes`` of them are steps, models and tables.
    ``ideal_bits`` is what its parameters cost at least under the tables that code them.
    """

    name: str
    role: str
    num_elements: int
    num_bytes: int
    side_bytes: int
    bits_per_parameter: float
    ideal_bits: float


@dataclass(frozen=True)
class NetworkInfo:
    """One network of a file; its bytes and bits are those of its tensors, without keyframe images.

    ``precision`` is the arithmetic it was fitted in, fp32 or bf16.
    """

    model: str
    num_parameters: int
    num_frames: int
    num_bytes: int
    bits_per_parameter: float
    ideal_bits: float
    precision: str
    layers: tuple[LayerInfo, ...] = field(repr=False)


@dataclass(frozen=True)
class FileInfo:
    """What a file holds. ``bytes_by_component`` adds up to ``num_bytes``, the size of the file.

    ``format_version`` is the version of the file format, ``created_by`` the program that wrote the file,
    ``clips`` describe its clips in order.

    ``networks`` are the first of ``num_networks``: as many as the budget of work for a file of this size
    allows, up to one whose model is not installed (``missing_model``, else empty). The component ``networks
    not read`` has the bytes of the others.
    """

    num_bytes: int
    format_version: int
    created_by: str
    clips: tuple[ClipInfo, ...]
    networks: tuple[NetworkInfo, ...]
    bytes_by_component: dict[str, int] = field(default_factory=dict)
    num_networks: int = 0
    missing_model: str = ""


@checked_arguments()
def info(
    file: FileLike,
    *,
    plot: str | PathLike[str] | None = None,
    force: bool = False,
    max_memory: int | str | None = None,
) -> FileInfo:
    """Return what a .vinr file holds and how many bytes each part takes.

    Parameters
    ----------
    file
        Path, bytes, or a seekable binary file; all its clips are described.
    plot
        A .png to draw the bytes to, by component and by layer.
    force
        Replace an existing ``plot``.
    max_memory
        As for :meth:`VinrFile.open`; with it all networks are read.

    Raises
    ------
    BitstreamError, InputError, UsageError
        If the file is damaged or not there.
    OutputError
        If the figure cannot be written.
    """
    if plot is not None:
        check_target(Path(plot), force=force)
    with VinrFile.open(file, device="cpu", max_memory=max_memory) as opened:
        report = _describe_file(opened)
    if plot is not None and not report.networks:
        reason = "no network of the file can be read here"
        raise UsageError(
            f"{name_of(file)}: {reason}: there are no layers to draw; leave {argument('plot')} out"
        )
    if plot is not None:
        models: Counter[str] = Counter()
        for network in report.networks:
            models[network.model] += network.num_parameters
        count = format_count(models.total())
        title = f"{Path(name_of(file)).name} ({', '.join(models)}, {count} parameters)"
        plot_bytes(report.bytes_by_component, layer_bars(report), Path(plot), title=title, force=force)
    return report


def _describe_file(file: VinrFile) -> FileInfo:
    models = [network.model for network in file.header.networks]
    missing = next((model for model in models if model not in list_models()), "")
    stop = models.index(missing) if missing else len(models)
    networks = tuple(map(partial(_describe_network, file), _affordable(file, stop)))
    # Every byte counts once:
    #
    #   header, index      as they are
    #   WEIGHTS, CHUNKS    by role of their tensors, what is no symbol as SIDE; whole where not read
    #   other sections     by their kind
    sizes = Counter({"header": file.container.header_bytes, "index": file.container.index_bytes})
    for section in file.sections:
        if section.kind not in (SectionKind.WEIGHTS, SectionKind.CHUNKS):
            sizes[section.kind.name.lower() if section.kind else "other"] += section.num_bytes
        elif section.owner >= len(networks):
            sizes[NOT_READ] += section.num_bytes
    for network in networks:
        for layer in network.layers:
            sizes[layer.role] += layer.num_bytes - layer.side_bytes
            sizes[SIDE] += layer.side_bytes
    return FileInfo(
        num_bytes=file.num_bytes,
        format_version=file.format_version,
        created_by=file.header.created_by,
        clips=tuple(map(_describe_clip, file.header.clips)),
        networks=networks,
        bytes_by_component={name: size for name, size in sizes.items() if size},
        num_networks=len(file.header.networks),
        missing_model=missing,
    )


def _affordable(file: VinrFile, stop: int) -> Iterator[int]:
    """Yield networks below ``stop``, in order, until reading them takes more than a file of its size may."""
    is_trusted = file.networks.max_memory is not None
    budget = PARAMETERS + PARAMETERS_PER_BYTE * file.num_bytes
    for number, network in enumerate(file.header.networks[:stop]):
        if not is_trusted:
            # Counted from the header alone, before any of it is done: a small file may describe much.
            budget -= file.networks.skeleton(number).num_stored()
            budget -= PARAMETERS_PER_NETWORK + PARAMETERS_PER_CHUNK * network.num_chunks
            if budget < 0:
                return
        yield number


def layer_bars(info: FileInfo) -> list[ByteBar]:
    """Return the layers of a file in order: weight and bias of a layer together, over all networks."""
    members: dict[str, list[ByteBar]] = {}
    for network in info.networks:
        for layer in network.layers:
            # blocks.0.conv.weight, blocks.0.conv.bias ─> blocks.0.conv;   latents.embedding ─> itself
            parent, _, kind = layer.name.rpartition(".")
            name = parent if parent and kind in ("weight", "bias") else layer.name
            parts = {layer.role: layer.num_bytes - layer.side_bytes, SIDE: layer.side_bytes}
            bar = ByteBar(name, parts, layer.num_elements, layer.ideal_bits)
            members.setdefault(name, []).append(bar)
    return [ByteBar.joined(name, bars) for name, bars in members.items()]


def _describe_network(file: VinrFile, number: int) -> NetworkInfo:
    parts = file.networks.parts(number)
    num_parameters = parts.skeleton.num_stored()
    layers, num_bytes, ideal_bits = [], 0, 0.0
    for size in network_sizes(parts.payload, parts.expected, parts.chunks):
        layer = LayerInfo(
            name=size.name,
            role=size.role,
            num_elements=size.num_elements,
            num_bytes=size.num_bytes,
            side_bytes=size.side_bytes,
            bits_per_parameter=8 * size.num_bytes / max(size.num_elements, 1),
            ideal_bits=size.ideal_bits,
        )
        layers.append(layer)
        num_bytes += layer.num_bytes
        ideal_bits += layer.ideal_bits
    return NetworkInfo(
        model=file.header.networks[number].model,
        num_parameters=num_parameters,
        num_frames=parts.skeleton.video.num_frames,
        num_bytes=num_bytes,
        bits_per_parameter=8 * num_bytes / num_parameters,
        ideal_bits=ideal_bits,
        precision=file.header.networks[number].precision,
        layers=tuple(layers),
    )


def _describe_clip(clip: Clip) -> ClipInfo:
    quality = clip.quality or Quality()
    return ClipInfo(
        name=clip.name,
        num_frames=clip.num_frames,
        height=clip.height,
        width=clip.width,
        fps=clip.frame_rate[0] / clip.frame_rate[1],
        bit_depth=clip.bit_depth,
        pixel_aspect="{}:{}".format(*clip.pixel_aspect),
        colors=describe_tags(ColorTags(**clip.color.tags.model_dump())) if clip.color.tags else "",
        hdr=_describe_hdr(clip.color.hdr) if clip.color.hdr else "",
        last_seconds=clip.last_seconds and clip.last_seconds[0] / clip.last_seconds[1],
        has_audio=clip.has_audio,
        audio_start=clip.audio_start[0] / clip.audio_start[1],
        edit=_describe_edit(clip.edit) if clip.edit else "",
        psnr_db=quality.psnr_db,
        ms_ssim=quality.ms_ssim,
        ms_ssim_window=quality.ms_ssim_window,
        has_times=clip.has_times,
    )


def _describe_hdr(hdr: Hdr) -> str:
    parts = []
    if hdr.mastering is not None:
        highest, lowest = hdr.mastering[-2:]
        parts.append(f"display of {lowest / LUMINANCE:g} to {highest / LUMINANCE:g} cd/m²")
    if hdr.light is not None:
        parts.append(f"pixels up to {hdr.light[0]} cd/m², frames up to {hdr.light[1]}")
    return ", ".join(parts)


def _describe_edit(edit: EditRecord) -> str:
    parts = [] if edit.stream is None else [f"video stream {edit.stream}"]
    if edit.deinterlaced:
        parts.append("deinterlaced")
    if edit.crop:
        parts.append(f"crop {edit.crop[1]}:{edit.crop[0]}")
    if edit.resize:
        parts.append(f"resize {edit.resize[1]}:{edit.resize[0]}")
    if edit.first_frame:
        parts.append(f"from frame {edit.first_frame}")
    return ", ".join(parts)
