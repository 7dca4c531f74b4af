"""What the gallery fits and shows, read from gallery.toml.

::

    gallery ─> section ─> network      each with tables all, full, reduced, mini, tiny; later ones win
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError, model_validator

from vinr.bench.recipe import Layers, Scale, Setup, laid_over, parse_toml
from vinr.errors import UsageError
from vinr.settings import Settings, describe_validation

SETTINGS: Final = Path(__file__).with_name("gallery.toml")

GalleryKind = Literal["encode", "interpolate", "inpaint"]
Place = Annotated[float, Field(ge=0, le=1)]

DIFFERENCE: Final = "difference"
# What jobs of each kind keep; the difference is that of the second from the first.
KEPT: Final[dict[GalleryKind, tuple[str, ...]]] = {
    "encode": ("original", "decoded"),
    "interpolate": ("original", "interpolated", "nearest"),
    "inpaint": ("original", "filled", "seen"),
}


class Figure(Settings):
    """A column of a section's table: a value that its kind of experiment measures."""

    title: str = Field(description="what is measured, with its unit")
    digits: int = Field(2, ge=0, le=6, description="decimals shown")


class Network(Layers):
    """A network: a picture with a row for each frame shown, and a row of the section's figures."""

    label: str = Field(description="name of the network, as people write it")


class Section(Layers):
    """Networks whose frames are shown in the same way."""

    name: str = Field(pattern=r"[a-z-]+", description="first part of its pictures' names")
    title: str = Field(description="heading")
    text: str = Field(description="what the panels are")
    kind: GalleryKind = Field(description="kind of experiment")
    shown: tuple[Place, ...] = Field(
        min_length=1, description="frames shown: 0 the first of the clip (interpolate: held out), 1 the last"
    )
    panels: dict[str, str] = Field(min_length=1, description="what stands side by side, and its caption")
    scored: tuple[str, ...] = Field((), description="panels whose captions have the PSNR of the frame")
    figures: dict[str, Figure] = Field(description="columns of the table, by name of the measured value")
    optional: bool = Field(False, description="left out where its clip is missing, which is an error else")
    networks: tuple[Network, ...] = Field(min_length=1, description="in the order of the page")

    @model_validator(mode="after")
    def _check(self) -> Section:
        known = (*KEPT[self.kind], DIFFERENCE)
        drawn = [caption for caption in self.panels.values() if not caption.isascii()]
        if drawn:
            raise ValueError(f"section {self.name}: caption {drawn[0]!r} has letters that pictures have not")
        unknown = [name for name in (*self.panels, *self.scored) if name not in known]
        if unknown:
            raise ValueError(f"section {self.name}: no panel is called {unknown[0]!r}; there are {known}")
        return self

    @property
    def compared(self) -> str:
        """The panel that the difference is of."""
        return KEPT[self.kind][1]


class GallerySettings(Layers):
    """The whole gallery."""

    title: str = Field(description="heading")
    text: str = Field(description="what the page shows")
    notes: dict[Scale, str] = Field(default={}, description="by scale, what to know of it")
    sections: tuple[Section, ...] = Field(min_length=1, description="in the order of the page")
    credits: dict[str, str] = Field(description="by data set: whose the frames are, and their licence")

    @model_validator(mode="after")
    def _check(self) -> GallerySettings:
        names = [section.name for section in self.sections]
        if len(set(names)) != len(names):
            raise ValueError(f"two sections have one name: {names}")
        return self

    def setup(self, section: Section, network: Network, scale: Scale) -> Setup:
        """Return what is run for ``network`` at ``scale``."""
        return laid_over(*self.of(scale), *section.of(scale), *network.of(scale))


def load_gallery() -> GallerySettings:
    """Return the gallery of gallery.toml."""
    return parse_gallery(parse_toml(SETTINGS.name, SETTINGS.read_bytes()))


def parse_gallery(tree: Mapping[str, Any]) -> GallerySettings:
    """Return the gallery that a TOML document describes.

    Raises
    ------
    UsageError
        If a key is unknown or missing, or a value not allowed.
    """
    try:
        return GallerySettings.model_validate(tree)
    except ValidationError as error:
        raise UsageError(f"gallery.toml: {describe_validation(error)}") from None
