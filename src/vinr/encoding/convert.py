"""Published checkpoints to .vinr files.

::

    checkpoint ─ safe loader ─> codes, min, scale ─> float32 tensors ─> quantise, code ─> one file
                                      └─> architecture, frame size ─────────────────────────┘

The tensors are quantised anew: the file stores symbol × step, a checkpoint min + code × scale with pairs of
their own for thousands of fibres. Steps so fine that decoded frames hardly change are the simple way.
"""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from os import PathLike, fspath
from pathlib import Path
from typing import Final

import torch
from pydantic import ValidationError

from vinr.compress import pack_tensors, quantized
from vinr.config import Preset, load_preset
from vinr.decoding.integrity import refused_by_default
from vinr.encoding.hnerv_checkpoint import PublishedNetwork, read_published
from vinr.encoding.segment import FittedSegment
from vinr.errors import FitError, InputError, UsageError
from vinr.files import check_suffix, check_target
from vinr.models import StoredTensor, VideoModel, get_model, validate_architecture
from vinr.settings import checked_arguments, describe_validation
from vinr.units import parse_rate
from vinr.video.spec import Query, VideoSpec

# Measured (docs/convert.md): frames then differ by less than a tenth of an 8-bit step; 12 bits, which are a
# sixth cheaper, come close to half a step.
BITS: Final = 14
COMPRESS: Final = (
    f"compress.weight_bits={BITS}",
    f"compress.bias_bits={BITS}",
    f"compress.latent_bits={BITS}",
)
SECTIONS: Final = ("architecture.", "compress.")


@dataclass(frozen=True)
class ConvertReport:
    """What a conversion wrote: ``path``, of ``num_bytes``, from a checkpoint of ``checkpoint_bytes``.

    It holds a network of ``model`` with ``num_parameters``, at ``bits_per_parameter``, that gives
    ``num_frames`` frames of ``height`` × ``width`` at ``fps``. ``largest_difference`` of the decoded frames
    from those of the checkpoint, before rounding to 8 bits, in 8-bit steps (0 … 255), is measured on
    ``num_compared`` frames. ``refused``: why readers refuse the file unless ``--max-memory`` allows more;
    empty if they do not.
    """

    path: str
    num_bytes: int
    checkpoint_bytes: int
    model: str
    num_parameters: int
    bits_per_parameter: float
    num_frames: int
    height: int
    width: int
    fps: float
    largest_difference: float
    num_compared: int
    refused: str = ""


@checked_arguments()
def convert(
    checkpoint: str | PathLike[str],
    output: str | PathLike[str],
    *,
    fps: Fraction | float | str = 30,
    name: str | None = None,
    overrides: Sequence[str] = (),
    force: bool = False,
) -> ConvertReport:
    """Write the network of a published quantised checkpoint as a .vinr file.

    Parameters
    ----------
    checkpoint
        A file of ``torch.save``. It is loaded as tensors and dictionaries; code in it never runs.
    output
        The .vinr file. It appears whole or not at all.
    fps
        Frames per second, which checkpoints do not state.
    name
        Name of the clip; the checkpoint's file name without its suffix if None.
    force
        Replace an existing output.
    overrides
        ``architecture.key=value`` for what shapes do not tell, such as ``architecture.activation=relu``, and
        ``compress.key=value``.

    Raises
    ------
    InputError
        If the checkpoint cannot be read safely, or holds something else.
    UsageError, OutputError
        If an option is not allowed, or the output cannot be written.
    """
    source, target = Path(fspath(checkpoint)), Path(fspath(output))
    check_suffix(target, ".vinr", "output")
    check_target(target, force=force)
    rate = parse_rate(fps)
    try:
        published = read_published(_load(source))
        preset = _settings(published, overrides)
        spec = VideoSpec(published.num_frames, published.height, published.width, rate)
        model = _build(preset, published, spec)
        packed = pack_tensors(model.stored(), preset.compress)
        segment = FittedSegment.coded(preset, model, packed, spec)
        file = segment.alone(source.stem if name is None else name, spec)
        difference, num_compared = _largest_difference(model, quantized(model.stored(), preset.compress))
    except ValidationError as error:
        raise UsageError(f"clip {describe_validation(error)}") from None
    except (InputError, FitError) as error:
        # Whatever does not fit comes from the checkpoint, not from an option: its path goes in front.
        raise InputError(f"{source}: {error}") from None
    num_bytes = file.write(target, force=force)
    return ConvertReport(
        path=str(target),
        num_bytes=num_bytes,
        checkpoint_bytes=source.stat().st_size,
        model=preset.model,
        num_parameters=segment.num_parameters,
        bits_per_parameter=8 * num_bytes / segment.num_parameters,
        num_frames=spec.num_frames,
        height=spec.height,
        width=spec.width,
        fps=spec.fps,
        largest_difference=difference,
        num_compared=num_compared,
        refused=refused_by_default(target),
    )


def _load(path: Path) -> object:
    """Return what ``path`` holds, if that is nothing but tensors, dictionaries and plain values."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be opened ({error.strerror or error}); check the path") from None
    try:
        if zipfile.is_zipfile(BytesIO(content)):
            with zipfile.ZipFile(BytesIO(content)) as archive:
                inflated = sum(item.file_size for item in archive.infolist())
            # torch.save does not compress; an archive that would inflate was not made by it.
            if inflated > len(content):
                raise InputError(
                    "a compressed archive, which torch.save does not write; give the file as saved"
                )
        with warnings.catch_warnings():
            # What the loader thinks of a strange file ends in the one line below.
            warnings.simplefilter("ignore")
            return torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception:
        # The loader meets damaged and hostile files with exceptions of many kinds.
        raise InputError(
            "not a file of torch.save, or one that holds more than tensors and dictionaries, which could run "
            "code when it is loaded; give a quantised checkpoint"
        ) from None


def _settings(published: PublishedNetwork, overrides: Sequence[str]) -> Preset:
    """Return the settings of the file: shapes decide, then ``overrides``, then defaults."""
    for item in overrides:
        if not item.strip().startswith(SECTIONS):
            raise UsageError(
                f"setting {item!r}: a checkpoint is fitted already; only architecture.* and "
                f"compress.* can be set"
            )
        key = item.partition("=")[0].strip().removeprefix("architecture.")
        # Shapes are facts: another value could only fail when the tensors are loaded.
        if key in published.architecture:
            raise UsageError(
                f"setting {item!r}: the checkpoint's shapes say {published.architecture[key]}; leave it out"
            )
    preset = load_preset(published.model, [*COMPRESS, *overrides])
    return preset.model_copy(update={"architecture": {**preset.architecture, **published.architecture}})


def _build(preset: Preset, published: PublishedNetwork, spec: VideoSpec) -> VideoModel:
    """Return the network with the values of the checkpoint."""
    cls = get_model(preset.model)
    model = cls.to_restore(validate_architecture(cls, preset.architecture), spec)
    try:
        model.restore(published.stored)
    except ValueError as error:
        raise UsageError(f"the settings do not fit the checkpoint: {error}") from None
    return model.eval()


def _largest_difference(model: VideoModel, coded: dict[str, StoredTensor]) -> tuple[float, int]:
    """Return the largest difference that coding makes to frames, of 255, and on how many it was measured.

    Frames are spread over the video, the first and the last among them. ``model`` becomes the coded one.
    """
    last = model.video.num_frames - 1
    chosen = sorted({0, last // 2, last})

    def frames() -> list[torch.Tensor]:
        return [model(Query.of_frames(torch.tensor([index]))) for index in chosen]

    with torch.inference_mode():
        # One network, twice: restoring overwrites its values, and the memory of a second one is saved.
        before = frames()
        model.restore(coded)
        largest = float((torch.cat(before) - torch.cat(frames())).abs().max())
    if not math.isfinite(largest):
        raise InputError("the checkpoint decodes to values that are not finite")
    return 255 * largest, len(chosen)
