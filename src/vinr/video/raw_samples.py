"""What words of a name say of raw samples: their depth, chroma and layout, and libav's name for them."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from av.video.format import VideoFormat

from vinr.errors import InputError, UsageError, argument, quoted

# Of files that may hold any layout; other suffixes are words, too.
SUFFIX: Final = ".yuv"
SIZE: Final = re.compile(r"(?<!\d)(\d{1,5})[x×](\d{1,5})(?!\d)", re.IGNORECASE)
WORD: Final = re.compile(r"\d+\.\d+[^\W_]*|[^\W_]+")
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
    "411": "yuv411p",
    "yuv411": "yuv411p",
    "yuv440": "yuv440p",
    "rgb": "rgb24",
    "bgr": "bgr24",
}
# Layouts that are no words by chance, most of which cannot be read: none is to be taken for 4:2:0.
LAYOUTS: Final = re.compile(
    r"v210|v216|v308|v408|v410|r210|r10k|y41p|vyuy|ayuv|vuya|yv16|yv24|yvu9|yuv9|(?:yuv)?420sp"
    r"|bayer(?:rggb|bggr|grbg|gbrg)?|rggb|bggr|grbg|gbrg|xrgb|xbgr|rgbx|bgrx"
)
# In libav's names of formats.
FLOATS: Final = re.compile(r"f(16|32)")
# libav has no name for planar 4:2:0 with Cr before Cb; its decoder swaps them for this tag.
SWAPPED: Final = "yv12"
SWAPPED_TAG: Final = "YV12"


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


def words_of(text: str) -> list[str]:
    """Return the words of a name in small letters, without its size; ``10_bit`` and ``10-bit`` are one."""
    joined = re.sub(rf"(?<![\d.])({DEPTHS})[-_ ]bits?(?![^\W_])", r"\1bit", SIZE.sub(" ", text.lower()))
    return WORD.findall(joined)


def samples_of_word(word: str) -> Samples | None:
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
    if LAYOUTS.fullmatch(word):
        return Samples(layout=word)
    if word == SWAPPED:
        return Samples("420", 8, layout=SWAPPED)
    name = FORMATS.get(word, word)
    if CHROMA.fullmatch(name) and name != word:
        return samples_of_word(name)
    return _samples_of_format(name)


def _samples_of_format(name: str) -> Samples | None:
    """Return what the name of a pixel format of libav says, without or with its byte order."""
    # Names without a digit, such as cuda, may be words by chance.
    if not re.search(r"\d|^((rgb|bgr)a|a(rgb|bgr)|gbra?p)$", name):
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


def samples_of_name(name: str) -> Samples:
    """Return what the words of a name say together."""
    path = Path(name)
    words = [*words_of(path.stem), *([] if path.suffix.lower() == SUFFIX else words_of(path.suffix))]
    said = [samples for samples in map(samples_of_word, words) if samples is not None]
    values = {}
    for field in fields(Samples):
        found = {getattr(samples, field.name) for samples in said} - {None}
        if len(found) > 1:
            two = " and ".join(sorted(map(str, found)))
            problem = f"its name says both {two}"
            raise InputError(f"{name}: {problem}; {argument('pix_fmt')} chooses, such as yuv420p10le")
        values[field.name] = next(iter(found), None)
    return Samples(**values)


def samples_of_option(text: str) -> Samples:
    """Return the format that a user names."""
    samples = samples_of_word(text.strip().lower())
    if samples is None or not is_readable(samples.pixel_format()):
        examples = "yuv420p, yuv420p10le, yuv422p, nv12, p010le, gray"
        raise UsageError(f"pixel format {quoted(text)}: give one that libav reads raw, such as {examples}")
    return samples


def is_readable(pixel_format: str) -> bool:
    """Return whether libav reads the format: integers of at most 16 bits, each in whole bytes."""
    try:
        layout = VideoFormat(pixel_format, 64, 64)
    except ValueError:
        return False
    bits = max((component.bits for component in layout.components), default=0)
    if not 8 <= bits <= 16 or layout.has_palette or FLOATS.search(pixel_format):
        return False
    return bytes_of_frame(pixel_format, 64, 64) * 8 == layout.padded_bits_per_pixel * 64 * 64


def check_readable(pixel_format: str, name: str) -> str:
    """Return ``pixel_format``, which the file name ``name`` states; InputError if it cannot be read."""
    if not is_readable(pixel_format):
        problem = f"by its name {pixel_format}, which cannot be read"
        way = f"convert it, or give {argument('pix_fmt')} if it is something else"
        raise InputError(f"{name}: {problem}; {way}")
    return pixel_format


def bytes_of_frame(pixel_format: str, height: int, width: int) -> int:
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
