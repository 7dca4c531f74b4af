"""Raw video: nothing but samples, whose size, rate and format stand in the name or are given.

::

    Bosphorus_1920x1080_120fps_420_10bit_YUV.yuv
              ───┬───── ──┬─── ─┬─ ──┬──
              columns,   rate  chroma depth, in words of any order before and behind the size
              rows
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np
from av.video.format import VideoFormat
from numpy.typing import NDArray

from vinr.errors import InputError, UsageError, argument, quoted
from vinr.units import parse_rate
from vinr.video.reading import ReadOptions

# libav's name of it.
RAW_DEMUXER: Final = "rawvideo"
# Always raw; and those that are where the name states a size: .rgb and .raw are photographs, too.
SUFFIX: Final = ".yuv"
DOUBTFUL_SUFFIXES: Final = frozenset(
    {".bgr", ".bgra", ".gray", ".grey", ".i420", ".nv12", ".nv16", ".nv21", ".p010", ".raw", ".rgb", ".rgba"}
    | {".uyvy", ".y", ".y8", ".yuv420p", ".yuv422p", ".yuv444p", ".yuyv", ".yv12"}
)
SIZE: Final = re.compile(r"(?<!\d)(\d{1,5})[x×](\d{1,5})(?!\d)", re.IGNORECASE)
WORD: Final = re.compile(r"\d+\.\d+[^\W_]*|[^\W_]+")
NAMED_RATE: Final = re.compile(r"(\d{1,4}(?:\.\d{1,3})?)(?:fps|hz)")
RATE: Final = re.compile(r"p?(\d{1,4}(?:\.\d{1,3})?)[pi]?")
DEPTHS: Final = "8|9|10|12|14|16"
# 10bit, 10b, 10bpp, 10bpc; p10, p10le; bit10.
DEPTH: Final = re.compile(
    rf"(?P<a>{DEPTHS})(?:bits?|b|bpp|bpc)(?P<b>le|be)?|p(?P<c>9|10|12|14|16)(?P<d>le|be)?|bit(?P<e>{DEPTHS})"
)
# 420, yuv420, yuv420p, 420p, p420, i420, 420p10, 420p10le, 42010bit.
CHROMA: Final = re.compile(
    rf"(?:yuv|ycbcr|[ip])?(?P<chroma>400|420|422|444)"
    rf"(?:p(?P<a>{DEPTHS})?|p?(?P<b>{DEPTHS})(?:bits?|b))?(?P<order>le|be)?"
)
GREY: Final = re.compile(rf"(?:gr[ae]y|y)(?P<depth>{DEPTHS})?(?P<order>le|be)?|y800")
# Other names that people use: libav's own.
FORMATS: Final = {
    "iyuv": "yuv420p",
    "i010": "yuv420p10le",
    "uyvy": "uyvy422",
    "yuyv": "yuyv422",
    "yuy2": "yuyv422",
    "yvyu": "yvyu422",
    "rgb": "rgb24",
    "bgr": "bgr24",
}
# In libav's names of formats.
FLOATS: Final = re.compile(r"f(16|32)")
# libav has no name for planar 4:2:0 with Cr before Cb; its decoder swaps them for this tag.
SWAPPED: Final = "yv12"
SWAPPED_TAG: Final = "YV12"
# What a file may be whose size does not fit its name.
COMMON: Final = ("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "gray")
# Samples that are looked at to see whether they are what they are taken for.
MAX_PROBED: Final = 1 << 22


@dataclass(frozen=True)
class Samples:
    """What is known of the samples of raw video; None where nothing is.

    ``layout`` is a pixel format of libav other than planar Y'CbCr and grey, or ``yv12``.
    """

    chroma: str | None = None
    depth: int | None = None
    order: str | None = None
    layout: str | None = None

    def pixel_format(self) -> str:
        """Return libav's name; 8-bit 4:2:0 where nothing is known, ``yuv420p`` for ``yv12``."""
        if self.layout not in (None, SWAPPED):
            return str(self.layout)
        name = "gray" if self.chroma == "400" else f"yuv{self.chroma or 420}p"
        return name if self.depth in (None, 8) else f"{name}{self.depth}{self.order or 'le'}"

    def __str__(self) -> str:
        if self.layout is not None:
            return self.pixel_format()
        chroma = "grey" if self.chroma == "400" else ":".join(self.chroma or "420")
        return f"{self.depth or 8}-bit {chroma}"


@dataclass(frozen=True)
class RawVideo:
    """How libav reads a file of raw video; ``notes`` are lines for the user."""

    options: dict[str, str]
    codec_tag: str | None
    notes: tuple[str, ...]


def is_raw(name: str, options: ReadOptions) -> bool:
    """Return whether a file is raw video, by its name and what is said of it."""
    stem, suffix = Path(name).stem, Path(name).suffix.lower()
    if options.raw_size is not None or suffix == SUFFIX:
        return True
    is_likely = options.pixel_format is not None or suffix in DOUBTFUL_SUFFIXES
    return is_likely and SIZE.search(stem) is not None


def describe_raw(path: Path, name: str, options: ReadOptions) -> RawVideo:
    """Return size, rate and format of the raw video ``path``, which the user knows as ``name``.

    Raises
    ------
    InputError
        If its name does not say them, says two different things, or the file is of another size.
    UsageError
        If there is no such pixel format.
    """
    height, width, rate = _size_and_rate(name, options)
    num_bytes = path.stat().st_size
    if options.pixel_format is not None:
        samples, doubt = _given(options.pixel_format), ""
    else:
        samples = _of_words(name)
        samples, doubt = _settle(samples, path, num_bytes, height, width)
    pixel_format = _check(samples.pixel_format(), name)
    frame_bytes = _frame_bytes(pixel_format, height, width)
    if min(height, width) < 1 or num_bytes == 0 or num_bytes % frame_bytes:
        frames = f"whole {width}x{height} {pixel_format} frames of {frame_bytes} bytes"
        raise InputError(f"{name}: {num_bytes} bytes are not {frames}{_fitting(num_bytes, height, width)}")
    if options.pixel_format is None:
        _refuse_too_large(path, name, samples, num_bytes, frame_bytes)
    notes = [f"{name}: read as {doubt}; {argument('pix_fmt')} chooses another format"] if doubt else []
    if options.raw_size is not None and height > width:
        notes.append(
            f"{name}: read as {height} rows of {width} pixels; {argument('raw_size')} is height x width"
        )
    is_swapped = samples.layout == SWAPPED
    return RawVideo(
        {"video_size": f"{width}x{height}", "pixel_format": pixel_format, "framerate": str(rate)},
        SWAPPED_TAG if is_swapped else None,
        tuple(notes),
    )


# -- size and rate -------------------------------------------------------------------------------------------


def _size_and_rate(name: str, options: ReadOptions) -> tuple[int, int, Fraction]:
    """Return rows, columns and frames per second."""
    stem = Path(name).stem
    sizes = {(int(rows), int(cols)) for cols, rows in SIZE.findall(stem)}
    if options.raw_size is None and len(sizes) > 1:
        raise InputError(f"{name}: its name states {len(sizes)} sizes; {argument('raw_size')} chooses")
    size = options.raw_size or next(iter(sizes), None)
    rate = options.rate or _rate_of(stem)
    if size is None or rate is None:
        missing = "size and rate in its name, such as clip_1920x1080_120fps.yuv"
        given = f"{argument('raw_size')} (height x width) and {argument('rate')}"
        raise InputError(f"{name}: raw video needs {missing}, or {given}")
    return *size, rate


def _rate_of(stem: str) -> Fraction | None:
    """Return the rate that a name states: a number with fps or Hz, or else one right behind the size."""
    found = NAMED_RATE.search(" ".join(_words(stem)))
    if found is None:
        size = SIZE.search(stem)
        for word in _words(stem[size.end() :]) if size is not None else ():
            # clip_352x288_420_30: words of the format may stand between.
            if _says(word) is None:
                found = RATE.fullmatch(word)
                break
    is_rate = found is not None and float(found[1]) > 0
    return parse_rate(found[1]) if is_rate and found is not None else None


def _words(text: str) -> list[str]:
    # 10_bit and 10-bit are one word.
    joined = re.sub(rf"(?<![\d.])({DEPTHS})[-_ ]bits?(?![^\W_])", r"\1bit", SIZE.sub(" ", text.lower()))
    return WORD.findall(joined)


# -- format --------------------------------------------------------------------------------------------------


def _says(word: str) -> Samples | None:
    """Return what a word says of samples, None if it says nothing."""
    if match := DEPTH.fullmatch(word):
        depth = match["a"] or match["c"] or match["e"]
        return Samples(depth=int(depth), order=match["b"] or match["d"])
    if match := CHROMA.fullmatch(word):
        depth = match["a"] or match["b"]
        # yuv420p is libav's name of 8 bits; 420p and yuv420 are not.
        is_full = depth is None and re.fullmatch(r"yuv\d{3}p", word) is not None
        return Samples(match["chroma"], 8 if is_full else int(depth) if depth else None, match["order"])
    if match := GREY.fullmatch(word):
        depth = match["depth"] or ("8" if word == "y800" else None)
        return Samples("400", int(depth) if depth else None, match["order"])
    if word == SWAPPED:
        return Samples("420", 8, layout=SWAPPED)
    name = FORMATS.get(word, word)
    if CHROMA.fullmatch(name) and name != word:
        return _says(name)
    return _of_format(name)


def _of_format(name: str) -> Samples | None:
    """Return what the name of a pixel format of libav says, without or with its byte order."""
    # Names without a digit, such as cuda, may be words by chance.
    if not re.search(r"\d|^(rgb|bgr)a$", name):
        return None
    try:
        layout = VideoFormat(name, 64, 64)
    except ValueError:
        return None
    bits = {component.bits for component in layout.components}
    depth = bits.pop() if len(bits) == 1 else None
    shape = layout.chroma_width(64), layout.chroma_height(64)
    chroma = {(32, 32): "420", (32, 64): "422", (64, 64): "444"}.get(shape)
    return Samples(None if layout.is_rgb else chroma, depth, layout=layout.name)


def _of_words(name: str) -> Samples:
    """Return what the words of a name say together."""
    path = Path(name)
    words = [*_words(path.stem), *([] if path.suffix.lower() == SUFFIX else _words(path.suffix))]
    said = [samples for samples in map(_says, words) if samples is not None]
    values = {}
    for field in fields(Samples):
        found = {getattr(samples, field.name) for samples in said} - {None}
        if len(found) > 1:
            two = " and ".join(sorted(map(str, found)))
            raise InputError(
                f"{name}: its name says both {two}; {argument('pix_fmt')} chooses, such as yuv420p10le"
            )
        values[field.name] = next(iter(found), None)
    return Samples(**values)


def _given(text: str) -> Samples:
    """Return the format that a user names."""
    samples = _says(text.strip().lower())
    if samples is None or not _is_readable(samples.pixel_format()):
        examples = "yuv420p, yuv420p10le, yuv422p, nv12, p010le, gray"
        raise UsageError(f"pixel format {quoted(text)}: give one that libav reads raw, such as {examples}")
    return samples


def _is_readable(pixel_format: str) -> bool:
    """Return whether libav reads the format: integers of at most 16 bits, each in whole bytes."""
    try:
        layout = VideoFormat(pixel_format, 64, 64)
    except ValueError:
        return False
    bits = max((component.bits for component in layout.components), default=0)
    if not 8 <= bits <= 16 or layout.has_palette or FLOATS.search(pixel_format):
        return False
    return _frame_bytes(pixel_format, 64, 64) * 8 == layout.padded_bits_per_pixel * 64 * 64


def _check(pixel_format: str, name: str) -> str:
    if not _is_readable(pixel_format):
        raise InputError(
            f"{name}: by its name {pixel_format}, which cannot be read; {argument('pix_fmt')} chooses"
        )
    return pixel_format


def _frame_bytes(pixel_format: str, height: int, width: int) -> int:
    """Return the bytes of a frame: subsampled components are rounded up."""
    layout = VideoFormat(pixel_format, max(width, 1), max(height, 1))
    num_bytes, is_subsampled = 0, False
    for component in layout.components:
        num_bytes += component.height * component.width * -(-component.bits // 8)
        is_subsampled |= component.width != layout.width
    if layout.is_planar or not is_subsampled:
        return num_bytes
    # Packed 4:2:2 has pairs of pixels: an odd one is filled up.
    return height * -(-width // 2) * 4


# -- what the samples themselves say -------------------------------------------------------------------------


def _settle(samples: Samples, path: Path, num_bytes: int, height: int, width: int) -> tuple[Samples, str]:
    """Return the samples with a depth, and what to say of it if the name does not."""
    if samples.depth is not None or samples.layout is not None:
        return samples, ""
    deep = Samples(samples.chroma, 10)
    if samples.chroma != "400":
        frame_bytes = _frame_bytes(deep.pixel_format(), height, width)
        # Two bytes hold 10 bits: every second one is below 4. Of 8-bit samples, chroma would be near black.
        pairs_N2 = _probe(path, num_bytes, frame_bytes).reshape(-1, 2)
        is_whole = num_bytes > 0 and num_bytes % frame_bytes == 0
        if is_whole and pairs_N2[:, 1].max() < 4 <= pairs_N2[:, 0].max():
            return deep, f"{deep} by its samples, as its name does not say the depth"
    return samples, f"{samples}, as its name does not say the depth"


def _refuse_too_large(path: Path, name: str, samples: Samples, num_bytes: int, frame_bytes: int) -> None:
    """Raise :class:`InputError` if samples are larger than their depth allows: then they are others."""
    if samples.layout is not None or samples.depth in (None, 8, 16):
        return
    order = ">u2" if samples.order == "be" else "<u2"
    values_N = _probe(path, num_bytes, frame_bytes).view(order)
    largest = (1 << int(samples.depth or 8)) - 1
    if values_N.max() > largest:
        problem = f"by its name {samples}, but has samples above {largest}"
        raise InputError(f"{name}: {problem}; {argument('pix_fmt')} chooses, such as yuv420p or p010le")


def _probe(path: Path, num_bytes: int, frame_bytes: int) -> NDArray[np.uint8]:
    """Return bytes of the frame in the middle, an even number."""
    with path.open("rb") as file:
        file.seek(num_bytes // frame_bytes // 2 * frame_bytes if frame_bytes else 0)
        content = file.read(min(frame_bytes, MAX_PROBED))
    return np.frombuffer(content[: len(content) // 2 * 2], np.uint8)


def _fitting(num_bytes: int, height: int, width: int) -> str:
    """Return which common formats the size of the file would fit, for an error."""
    if not (num_bytes and height and width):
        return ""
    fitting = [name for name in COMMON if num_bytes % _frame_bytes(name, height, width) == 0]
    return f"; they would be of {', '.join(fitting)}, which {argument('pix_fmt')} chooses" if fitting else ""
