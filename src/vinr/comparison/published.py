"""Published points of codecs that are not run here (HM, VTM, learned codecs), from CSV files.

A file has a head line and a line for each point, quoted as CSV is::

    codec,clip,bpp,psnr_db,ms_ssim,domain,source
    HiNeRV,Beauty,0.0130,33.87,0.9041,rgb,"HiNeRV supplement, original implementation"

``psnr_db`` is the mean over frames; ``domain`` says of which samples: ``rgb`` (the default, also where the
column is left out) or ``yuv611``. PSNR or MS-SSIM may be left empty, not both. Lines that start with # are
comments. Every point names its source.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from vinr.comparison.rd import RDCurve, RDPoint
from vinr.errors import InputError, UsageError, plural

Domain = Literal["rgb", "yuv611"]

REQUIRED: Final = ("codec", "clip", "bpp", "psnr_db", "ms_ssim", "source")
OPTIONAL: Final = ("domain",)
SUFFIX: Final = ".csv"


@dataclass(frozen=True)
class PublishedPoint:
    """A line of such a file."""

    codec: str
    clip: str
    bpp: float
    psnr_db: float | None
    ms_ssim: float | None
    source: str
    domain: Domain = "rgb"

    def rd_point(self) -> RDPoint:
        """Return the point for a curve; PSNR goes where its domain belongs."""
        return RDPoint(
            setting="",
            bpp=self.bpp,
            psnr_db=self.psnr_db if self.domain == "rgb" else None,
            yuv_psnr_db=self.psnr_db if self.domain == "yuv611" else None,
            ms_ssim=self.ms_ssim,
        )


def read_published(path: Path) -> list[PublishedPoint]:
    """Return the points of a CSV file, in its order.

    Raises
    ------
    InputError
        Naming the line, if something is missing or no number.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets write a byte order mark
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not text in UTF-8: {error.reason}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    # Comments become empty lines, so that the numbers of lines stay those of the file.
    reader = csv.reader(("" if line.startswith("#") else line for line in text.splitlines()), strict=True)
    try:
        rows = [(f"{path}: line {reader.line_num}", fields) for fields in reader if fields]
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: is not CSV: {error}") from None
    names = list(map(str.strip, rows[0][1])) if rows else []
    _check_head(path, names)
    if len(rows) < 2:
        raise InputError(f"{path}: holds no points below its head line")
    return [_point(names, fields, where) for where, fields in rows[1:]]


def published_curves(text: str) -> list[RDCurve]:
    """Return the curves of one clip from ``FILE.csv#CLIP``; the clip may be left out where there is but one.

    Raises
    ------
    UsageError
        If the clip is not there, or must be chosen.
    InputError
        As :func:`read_published`.
    """
    file, _, clip = text.partition("#")
    by_clip: dict[str, dict[str, list[PublishedPoint]]] = {}  # then by codec, in the order of the file
    for point in read_published(Path(file)):
        by_clip.setdefault(point.clip, {}).setdefault(point.codec, []).append(point)
    clips = sorted(by_clip)
    if not clip and len(clips) > 1:
        raise UsageError(f"{file}: choose a clip, such as {file}#{clips[0]}; it has {', '.join(clips)}")
    by_codec = by_clip.get(clip or clips[0])
    if by_codec is None:
        raise UsageError(f"{file}: has no clip {clip!r}; it has {', '.join(clips)}")
    curves = []
    for codec, codec_points in by_codec.items():
        sources = dict.fromkeys(point.source for point in codec_points)  # each once, in their order
        rd_points = tuple(map(PublishedPoint.rd_point, codec_points))
        curves.append(RDCurve(codec, "published", rd_points, "; ".join(sources)))
    return curves


def _check_head(path: Path, names: Sequence[str]) -> None:
    known = set(names)
    if not set(REQUIRED) <= known <= {*REQUIRED, *OPTIONAL} or len(known) != len(names):
        raise InputError(
            f"{path}: the head line has columns {', '.join(names) or 'none'}; it must have "
            f"{', '.join(REQUIRED)} and may have {', '.join(OPTIONAL)}"
        )


def _point(names: Sequence[str], values: Sequence[str], where: str) -> PublishedPoint:
    if len(values) != len(names):
        raise InputError(
            f"{where}: has {plural(len(values), 'field')}, the head line {len(names)}; "
            f"quote texts that hold commas"
        )
    fields = dict(zip(names, map(str.strip, values), strict=True))
    for name in ("codec", "clip", "source"):
        if not fields[name]:
            raise InputError(f"{where}: {name} is empty; every point names its {name}")
    domain = fields.get("domain") or "rgb"
    if domain not in get_args(Domain):
        raise InputError(f"{where}: domain {domain!r}: give {' or '.join(get_args(Domain))}")
    # Limits that no codec reaches, but a mistaken column or unit does, such as kbit/s for bpp.
    psnr_db = _number(fields["psnr_db"], f"{where}: psnr_db", 0, 100)
    ms_ssim = _number(fields["ms_ssim"], f"{where}: ms_ssim", 0, 1)
    bpp = _number(fields["bpp"], f"{where}: bpp", 0, 100)
    if bpp is None or (psnr_db is None and ms_ssim is None):
        raise InputError(f"{where}: give bpp, and psnr_db or ms_ssim")
    return PublishedPoint(
        fields["codec"],
        fields["clip"],
        bpp,
        psnr_db,
        ms_ssim,
        fields["source"],
        "yuv611" if domain == "yuv611" else "rgb",
    )


def _number(text: str, where: str, low: float, high: float) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan  # compares with nothing, so that it is refused below
    if not low < value <= high:
        raise InputError(f"{where} {text!r}: give a number above {low}, at most {high}")
    return value
