"""What there is: models and presets, with their sizes next to the paper's figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from warnings import warn

from vinr.config import load_preset, presets_of
from vinr.errors import UsageError, visible
from vinr.models import built_in_models, describe_model, get_model, list_models, validate_architecture
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


OnNote = Callable[[str], None]
"""Takes a line about what is left out: one broken package is no reason to list nothing."""


def list_model_entries(on_note: OnNote = warn) -> list[ModelEntry]:
    """Return every model there is; ``on_note`` is told of those of packages that cannot be used."""
    entries = []
    for name in list_models():
        with _noted(name, on_note):
            sizes = tuple(preset.removeprefix(f"{name}-") for preset in presets_of(name))
            entries.append(ModelEntry(name, describe_model(name), sizes))
    return entries


def list_preset_entries(model: str | None = None, on_note: OnNote = warn) -> list[PresetEntry]:
    """Return every preset (of ``model``) whose source states the video it was made for.

    ``on_note`` is told of those of packages that cannot be used.

    Raises
    ------
    UsageError
        If there is no such model, or ``model`` is of a package that cannot be used.
    """
    if model is not None:
        presets_of(model)
    entries = []
    for name in list_models() if model is None else [model]:
        with _noted(name, on_note):
            for preset in presets_of(name):
                with _noted(name, on_note):
                    entries.append(_describe(preset))
    return entries


@contextmanager
def _noted(model: str, on_note: OnNote) -> Iterator[None]:
    """Turn what the body raises into a note, if ``model`` is one of a package: whatever that may be."""
    try:
        yield
    except Exception as error:
        if model in built_in_models():
            raise
        text = str(error) if isinstance(error, UsageError) else f"{type(error).__name__}: {error}"
        on_note(visible(f"model {model!r} is left out: {text}"))


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
