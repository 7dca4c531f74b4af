"""What there is: models and presets, with their sizes next to the paper's figures."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache

from vinr.config import list_presets, load_preset
from vinr.errors import UsageError
from vinr.models import describe_model, get_model, list_models, validate_architecture
from vinr.models.cost import describe_size
from vinr.video.spec import VideoSpec


@dataclass(frozen=True)
class ModelEntry:
    """A model: its name, the paper it implements, and the sizes that presets give."""

    name: str
    paper: str
    sizes: tuple[str, ...]


@dataclass(frozen=True)
class PresetEntry:
    """A preset for the video of its source; operations are multiply-accumulates."""

    name: str
    source: str
    height: int
    width: int
    num_frames: int
    stored_parameters: int
    encoder_parameters: int
    macs_per_pixel: float
    paper_parameters: int
    paper_gmacs: float | None
    paper_psnr_db: float | None


def list_model_entries() -> list[ModelEntry]:
    """Return every model there is."""
    presets = list_presets()
    entries = []
    for name in list_models():
        # The hyphen keeps dnerv from having the sizes of dnerv_diverse.
        start = f"{name}-"
        sizes = tuple(preset.removeprefix(start) for preset in presets if preset.startswith(start))
        entries.append(ModelEntry(name, describe_model(name), sizes))
    return entries


def list_preset_entries(model: str | None = None) -> list[PresetEntry]:
    """Return every preset (of ``model``) whose source states the video it was made for.

    Raises
    ------
    UsageError
        If there is no such model.
    """
    if model is not None and model not in list_models():
        raise UsageError(f"unknown model {model!r}; there are {', '.join(list_models())}")
    start = "" if model is None else f"{model}-"
    return [_describe(name) for name in list_presets() if name.startswith(start)]


# Presets belong to the installed package: they do not change while it runs.
@cache
def _describe(name: str) -> PresetEntry:
    preset = load_preset(name)
    paper = preset.paper
    if paper is None:
        raise UsageError(f"preset {preset.name} does not state the video it is for; add a paper table to it")
    cls = get_model(preset.model)
    # The frame rate changes neither parameters nor operations: any will do.
    spec = VideoSpec(paper.num_frames, paper.height, paper.width, Fraction(30))
    size = describe_size(cls, validate_architecture(cls, preset.architecture), spec)
    return PresetEntry(
        name=preset.name,
        source=preset.source,
        height=paper.height,
        width=paper.width,
        num_frames=paper.num_frames,
        stored_parameters=size.stored,
        encoder_parameters=size.encoder,
        macs_per_pixel=size.macs / (paper.height * paper.width),
        paper_parameters=paper.parameters,
        paper_gmacs=paper.gmacs,
        paper_psnr_db=paper.psnr_db,
    )
