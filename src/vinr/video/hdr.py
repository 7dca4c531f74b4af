"""HDR metadata of a video: read from libav's side data, written through the encoders' own options.

Mastering display and content light level are the same for a whole video. Dynamic metadata (HDR10+, Dolby
Vision) differs from frame to frame and is not kept.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from av.sidedata.sidedata import Type

from vinr.video.encoders import with_parameter
from vinr.video.spec import Hdr

# AVMasteringDisplayMetadata: ten rational numbers, and whether the first eight and the last two are known.
#   red x, y · green x, y · blue x, y · white x, y · lowest, highest luminance
MASTERING: Final = struct.Struct("20i2i")
# H.265 has green, blue, red, white, highest and lowest luminance.
ORDER: Final = (2, 3, 4, 5, 0, 1, 6, 7, 9, 8)
# AVContentLightMetadata: the highest light level of a pixel, and of a frame's mean.
LIGHT: Final = struct.Struct("2I")
# Units of H.265's messages: coordinates in 1/50000, luminance in 1/10000 cd/m².
COORDINATE: Final = 50_000
LUMINANCE: Final = 10_000


@dataclass(frozen=True)
class Dialect:
    """How an encoder is told the metadata: the option of libav, and two keys in it.

    ``in_units``: whether numbers are coordinates and cd/m² themselves, not H.265's whole numbers.
    """

    option: str
    mastering: str
    light: str
    in_units: bool = False


DIALECTS: Final = {
    "libx264": Dialect("x264-params", "mastering-display", "cll"),
    "libx265": Dialect("x265-params", "master-display", "max-cll"),
    "libsvtav1": Dialect("svtav1-params", "mastering-display", "content-light", in_units=True),
}
DYNAMIC: Final = {
    Type.DYNAMIC_HDR_PLUS.name: "HDR10+",
    Type.DYNAMIC_HDR_VIVID.name: "HDR Vivid",
    Type.DOVI_METADATA.name: "Dolby Vision",
    Type.DOVI_RPU_BUFFER.name: "Dolby Vision",
}


def hdr_of(side_data: Mapping[str, bytes]) -> Hdr:
    """Return the static HDR metadata in a frame's side data; what is incomplete or no number is left out."""
    mastering = _mastering(side_data.get(Type.MASTERING_DISPLAY_METADATA.name, b""))
    light_data = side_data.get(Type.CONTENT_LIGHT_LEVEL.name, b"")
    light = LIGHT.unpack_from(light_data) if len(light_data) >= LIGHT.size else (0, 0)
    return Hdr(mastering, (light[0], light[1]) if any(light) else None)


def dynamic_kinds(side_data: Mapping[str, bytes]) -> tuple[str, ...]:
    """Return the names of the dynamic HDR metadata in a frame's side data."""
    return tuple(dict.fromkeys(name for kind, name in DYNAMIC.items() if kind in side_data))


def _mastering(data: bytes) -> tuple[int, ...] | None:
    if len(data) < MASTERING.size:
        return None
    *parts, has_coordinates, has_luminance = MASTERING.unpack_from(data)
    if not (has_coordinates and has_luminance):
        return None
    values = []
    for place in ORDER:
        numerator, denominator = parts[2 * place : 2 * place + 2]
        if denominator <= 0 or numerator < 0:
            return None
        unit = COORDINATE if place < 8 else LUMINANCE
        values.append(round(Fraction(numerator, denominator) * unit))
    return tuple(values) if _is_writable(values) else None


def _is_writable(mastering: Sequence[int]) -> bool:
    """Return whether encoders take the values: coordinates of 16 bits, luminances of 32, in order."""
    *coordinates, highest, lowest = mastering
    return max(coordinates) <= COORDINATE and lowest < highest < 2**32


def with_hdr(encoder: str, options: Mapping[str, str], hdr: Hdr) -> dict[str, str]:
    """Return libav's ``options`` for ``encoder`` with what makes it state the HDR metadata.

    Encoders that are not in ``DIALECTS`` cannot state it.
    """
    dialect = DIALECTS.get(encoder)
    told = dict(options)
    if dialect is None:
        return told
    if hdr.mastering is not None and _is_writable(hdr.mastering):
        told = with_parameter(told, dialect.option, f"{dialect.mastering}={_text(hdr.mastering, dialect)}")
    if hdr.light is not None and max(hdr.light) < 2**16:
        told = with_parameter(told, dialect.option, f"{dialect.light}={hdr.light[0]},{hdr.light[1]}")
    return told


def _text(mastering: tuple[int, ...], dialect: Dialect) -> str:
    """Return G(x,y)B(x,y)R(x,y)WP(x,y)L(highest,lowest)."""
    values = [str(value) for value in mastering]
    if dialect.in_units:
        values = [f"{value / COORDINATE:.5f}" for value in mastering[:8]]
        values += [f"{value / LUMINANCE:.4f}" for value in mastering[8:]]
    pairs = zip(("G", "B", "R", "WP", "L"), values[::2], values[1::2], strict=True)
    return "".join(f"{name}({first},{second})" for name, first, second in pairs)
