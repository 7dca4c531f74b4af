"""Raw video: nothing but samples, whose size, rate and format stand in the name or are given.

::

    Bosphorus_1920x1080_120fps_420_10bit_YUV.yuv
              ───┬───── ──┬─── ─┬─ ──┬──
              columns,   rate  chroma depth, in words of any order before and behind the size
              rows
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vinr.errors import InputError, argument
from vinr.units import parse_rate
from vinr.video.raw_samples import (
    SIZE,
    SUFFIX,
    SWAPPED,
    SWAPPED_TAG,
    Samples,
    bytes_of_frame,
    check_readable,
    samples_of_name,
    samples_of_option,
    samples_of_word,
    words_of,
)
from vinr.video.reading import ReadOptions

# libav's name of it.
RAW_DEMUXER: Final = "rawvideo"
# Raw where the name states a size: .rgb and .raw are photographs, too.
DOUBTFUL_SUFFIXES: Final = frozenset(
    {".bgr", ".bgra", ".gray", ".grey", ".i420", ".nv12", ".nv16", ".nv21", ".p010", ".raw", ".rgb", ".rgba"}
    | {".uyvy", ".y", ".y8", ".yuv420p", ".yuv422p", ".yuv444p", ".yuyv", ".yv12"}
)
# Of public test clips; the file's own length tells whether it is so.
NAMED_SIZES: Final = {
    "sqcif": "128x96",
    "qcif": "176x144",
    "cif": "352x288",
    "4cif": "704x576",
    "720p": "1280x720",
    "1080p": "1920x1080",
    "2160p": "3840x2160",
}
NAMED_SIZE: Final = re.compile(
    rf"(?<![^\W_])({'|'.join(NAMED_SIZES)})(\d{{1,3}}(?:\.\d{{1,3}})?)?(?![^\W_])", re.IGNORECASE
)
NAMED_RATE: Final = re.compile(r"(\d{1,4}(?:\.\d{1,3})?)(?:fps|hz)")
# 30000-1001 and 29_97fps: rates of television with another sign where a name cannot or should not have it.
FRACTION: Final = re.compile(r"(?<!\d)(\d{2,3}000)[-_ ](1001)(?!\d)")
DECIMAL: Final = re.compile(r"(?<!\d)(\d{2,3})[-_ ](\d{2,3})(?=fps|hz)", re.IGNORECASE)
RATE: Final = re.compile(r"p?(\d{1,4}(?:\.\d{1,3})?)[pi]?")
NTSC_DENOMINATOR: Final = 1001
# What a file may be whose size does not fit its name.
COMMON: Final = ("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "gray")
# Samples that are looked at to see whether they are what they are taken for.
MAX_PROBED: Final = 1 << 22


@dataclass(frozen=True)
class RawVideo:
    """How libav reads a file of raw video; ``notes`` are lines for the user."""

    options: dict[str, str]
    codec_tag: str | None
    notes: tuple[str, ...]


def is_raw(name: str, options: ReadOptions) -> bool:
    """Return whether a file is raw video, by its name and what is said of it."""
    stem, suffix = _spelled_out(Path(name).stem), Path(name).suffix.lower()
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
        samples, doubt = samples_of_option(options.pixel_format), ""
    else:
        samples = samples_of_name(name)
        samples, doubt = _settle(samples, path, num_bytes, height, width)
    pixel_format = check_readable(samples.pixel_format(), name)
    frame_bytes = bytes_of_frame(pixel_format, height, width)
    if min(height, width) < 1 or num_bytes == 0 or num_bytes % frame_bytes:
        frames = f"whole {width}x{height} {pixel_format} frames of {frame_bytes} bytes"
        raise InputError(f"{name}: {num_bytes} bytes are not {frames}{_fitting(num_bytes, height, width)}")
    if options.pixel_format is None:
        _refuse_too_large(path, name, samples, num_bytes, frame_bytes)
    notes = [f"{name}: read as {doubt}; {argument('pix_fmt')} chooses another format"] if doubt else []
    if options.raw_size is not None and height > width:
        notes.append(
            f"{name}: read as {width} wide and {height} high; for {height} wide and {width} high write "
            f"{argument('raw_size', f'{height}:{width}')}"
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
    stem = _spelled_out(Path(name).stem)
    sizes = {(int(rows), int(cols)) for cols, rows in SIZE.findall(stem)}
    if options.raw_size is None and len(sizes) > 1:
        raise InputError(f"{name}: its name states {len(sizes)} sizes; {argument('raw_size')} chooses")
    size = options.raw_size or next(iter(sizes), None)
    rate = options.rate or _rate_of(stem)
    if size is None or rate is None:
        ways = [f"{argument('raw_size')} (height x width)"] if size is None else []
        ways += [argument("rate")] if rate is None else []
        needed = "raw video needs size and rate in its name, such as clip_1920x1080_120fps.yuv"
        raise InputError(f"{name}: {needed}; else give {' and '.join(ways)}")
    return *size, rate


def _spelled_out(stem: str) -> str:
    """Return a name with the size that it names, such as cif or 720p, as columns x rows."""
    if SIZE.search(stem):
        return stem
    # crowd_run_1080p50: what follows the p is the rate.
    return NAMED_SIZE.sub(lambda match: f"{NAMED_SIZES[match[1].lower()]} {match[2] or ''}", stem)


def _rate_of(stem: str) -> Fraction | None:
    """Return the rate that a name states: a number with fps or Hz, or else one right behind the size."""
    if found := FRACTION.search(stem):
        return Fraction(int(found[1]), int(found[2]))
    if found := DECIMAL.search(stem):
        rate = parse_rate(f"{found[1]}.{found[2]}")
        if rate.denominator == NTSC_DENOMINATOR:  # not take_12_30fps
            return rate
    found = NAMED_RATE.search(" ".join(words_of(stem)))
    if found is None:
        size = SIZE.search(stem)
        for word in words_of(stem[size.end() :]) if size is not None else ():
            # clip_352x288_420_30: words of the format may stand between.
            if samples_of_word(word) is None:
                found = RATE.fullmatch(word)
                break
    is_rate = found is not None and float(found[1]) > 0
    return parse_rate(found[1]) if is_rate and found is not None else None


# -- what the samples themselves say -------------------------------------------------------------------------


def _settle(samples: Samples, path: Path, num_bytes: int, height: int, width: int) -> tuple[Samples, str]:
    """Return the samples with a depth, and what to say of it if the name does not."""
    if samples.depth is not None or samples.layout is not None:
        return samples, ""
    deep = Samples(samples.chroma, 10)
    if samples.chroma != "400":
        frame_bytes = bytes_of_frame(deep.pixel_format(), height, width)
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
    fitting = [name for name in COMMON if num_bytes % bytes_of_frame(name, height, width) == 0]
    return f"; they would be of {', '.join(fitting)}, which {argument('pix_fmt')} chooses" if fitting else ""
