"""Names for the numbers by which files state their colours (ISO/IEC 23091-2, H.273)."""

from __future__ import annotations

from typing import Final

from vinr.video.spec import ColorTags

PRIMARIES: Final = {
    1: "BT.709",
    4: "BT.470 M",
    5: "BT.470 BG",
    6: "SMPTE 170M",
    7: "SMPTE 240M",
    8: "film",
    9: "BT.2020",
    10: "CIE XYZ",
    11: "DCI-P3",
    12: "Display P3",
    22: "EBU 3213",
}
TRANSFERS: Final = {
    1: "BT.709",
    4: "gamma 2.2",
    5: "gamma 2.8",
    6: "SMPTE 170M",
    7: "SMPTE 240M",
    8: "linear",
    9: "logarithmic (100:1)",
    10: "logarithmic (316:1)",
    11: "xvYCC",
    12: "BT.1361",
    13: "sRGB",
    14: "BT.2020 (10 bits)",
    15: "BT.2020 (12 bits)",
    16: "PQ",
    17: "DCI",
    18: "HLG",
}
MATRICES: Final = {
    0: "RGB",
    1: "BT.709",
    4: "FCC",
    5: "BT.470 BG",
    6: "SMPTE 170M",
    7: "SMPTE 240M",
    8: "YCgCo",
    9: "BT.2020",
    10: "BT.2020 with constant luminance",
    11: "SMPTE 2085",
    12: "derived from the primaries",
    13: "derived from the primaries with constant luminance",
    14: "ICtCp",
    15: "IPT-C2",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}
RANGES: Final = {1: "limited", 2: "full"}
# Transfers with which viewers that know nothing of them show dull pictures.
HDR_TRANSFERS: Final = frozenset({16, 18})
WIDE_PRIMARIES: Final = frozenset({9, 11, 12})


def describe_tags(tags: ColorTags) -> str:
    """Return what is stated, such as ``primaries BT.2020, transfer PQ``; an empty text if nothing is."""
    parts = []
    for label, names, number in (
        ("primaries", PRIMARIES, tags.primaries),
        ("transfer", TRANSFERS, tags.transfer),
        ("matrix", MATRICES, tags.matrix),
        ("range", RANGES, tags.range),
    ):
        if number in names:
            parts.append(f"{label} {names[number]}")
    return ", ".join(parts)


def special_colors(tags: ColorTags | None) -> str:
    """Return the tags without which viewers show other colours, such as ``BT.2020, PQ``; usually none."""
    if tags is None:
        return ""
    primaries = [PRIMARIES[tags.primaries]] if tags.primaries in WIDE_PRIMARIES else []
    transfer = [TRANSFERS[tags.transfer]] if tags.transfer in HDR_TRANSFERS else []
    return ", ".join(primaries + transfer)
