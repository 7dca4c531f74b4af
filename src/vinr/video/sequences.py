"""Several frames as one AV1 stream: keyframes that are coded in groups.

::

    rgb_TCHW ── edges repeated to even sides ── Y'CbCr 4:2:0, full range, BT.601 ── SVT-AV1 ──> units (OBUs)
    rgb_TCHW <── cropped <── the same, back <── dav1d <── as many frames of that size at most <──┘

A group is the units of its frames in the order of the stream, each with its length (AV1 specification, 5.2),
without temporal delimiters: no container, no boxes.

Axes: T frames of a group, C colour channels, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Final, Literal

import av
import numpy as np
import torch
from av.codec.codec import UnknownCodecError
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorRange
from torch import Tensor

from vinr.errors import BitstreamError, UsageError
from vinr.video.color import ColorConverter
from vinr.video.encoders import SVT_AV1, open_encoder, why_refused
from vinr.video.libav import explain
from vinr.video.spec import ColorSpec

DECODER: Final = "libdav1d"
PIXEL_FORMAT: Final = "yuv420p"
COLOR: Final = ColorSpec("bt601", "full")
# What SVT-AV1 takes.
MIN_SIDE: Final = 4
MAX_ROWS, MAX_COLS = 8704, 16384
# Of -1 … 13. 2 saves about 1 % of the bytes and takes three times as long.
PRESET: Final = 4
# One thread. Tuned for squared error, the measure that networks are fitted by.
PARAMETERS: Final = "lp=1:tune=1"
# Frames have no times of their own: what the stream states of its rate is of no meaning.
RATE: Final = 8
MAX_CRF: Final = 63
# Quality on AVIF's scale, and the CRF at which groups of 16 have the mean PSNR that images of 4:4:4 have at
# that quality; straight lines in between. Measured on 48 keyframes of 64×64, three of each of 16 scenes.
# Keyframes of one clip come out 0.5 to 2.3 dB above such images at 160×320, up to 1 dB below at 720×1280.
# Beyond 80 images have colours that 4:2:0 cannot have.
CRF_OF_QUALITY: Final = (
    (0, 63),
    (10, 59),
    (20, 55),
    (30, 49),
    (40, 41),
    (50, 32),
    (60, 25),
    (70, 14),
    (80, 7),
    (100, 1),
)
# Encoders spend more on the first frame of a group, which the others are made from: in smaller groups the
# mean PSNR is higher. So much is added to the CRF for each time that a group of two or more is half of 16;
# less below a CRF of 20. Groups of 2 to 8 then come within 0.7 dB of such images from quality 30 to 80.
FULL_GROUP: Final = 16
CRF_PER_HALVING: Final = 2.0
FULL_OFFSET_FROM: Final = 20

# Units of the AV1 specification, 6.2.2. All that decode to a frame, or show one, are of FRAME_UNITS; decoders
# take a header that repeats none for a first one.
TEMPORAL_DELIMITER: Final = 2
FRAME_HEADER, FRAME, REPEATED_HEADER = 3, 6, 7
FRAME_UNITS: Final = (FRAME_HEADER, FRAME, REPEATED_HEADER)
# Frames that others refer to may be decoded before they are shown: an encoder writes two units for each.
UNITS_PER_FRAME: Final = 2
# Bytes of a length, seven bits each.
MAX_LENGTH_BYTES: Final = 4


def can_be_sequence(height: int, width: int) -> bool:
    """Return whether the encoder is there, and takes frames of that size."""
    rows, cols = coded_size(height, width)
    return rows <= MAX_ROWS and cols <= MAX_COLS and SVT_AV1 in av.codecs_available


def coded_size(height: int, width: int) -> tuple[int, int]:
    """Return the rows and columns that frames have in a stream: even, and at least four."""
    rows, cols = max(height, MIN_SIDE), max(width, MIN_SIDE)
    return rows + rows % 2, cols + cols % 2


def rate_factor(quality: int, num_frames: int = FULL_GROUP) -> int:
    """Return the encoder's CRF for a ``quality`` on AVIF's scale, 0 (smallest) to 100."""
    qualities, factors = zip(*CRF_OF_QUALITY, strict=True)
    factor = float(np.interp(quality, qualities, factors))
    # 2 frames: 3 halvings, 4: 2, 8: 1, 16 and more: none.
    halvings = 0.0 if num_frames == 1 else max(math.log2(FULL_GROUP / num_frames), 0.0)
    factor += CRF_PER_HALVING * halvings * min(factor / FULL_OFFSET_FROM, 1)
    return min(round(factor), MAX_CRF)


def encode_sequence(frames: Sequence[Tensor], *, quality: int) -> bytes:
    """Return uint8 ``frames``, each rgb_CHW, all of one size, as one stream.

    ``quality`` is that of :func:`vinr.video.stills.encode_still`: frames come out about as close.

    Raises
    ------
    UsageError
        If the encoder takes no frames of that size, or is not there.
    """
    height, width = frames[0].shape[1:]
    rows, cols = coded_size(height, width)
    context = _context(SVT_AV1, "w", "set architecture.keyframe_group to 1, or install PyAV's own wheel")
    context.height, context.width, context.pix_fmt = rows, cols, PIXEL_FORMAT
    context.time_base, context.framerate = Fraction(1, RATE), Fraction(RATE)
    context.color_range = int(ColorRange.JPEG)
    context.gop_size = len(frames)
    context.options = {
        "crf": str(rate_factor(quality, len(frames))),
        "preset": str(PRESET),
        "svtav1-params": PARAMETERS,
    }
    converter = ColorConverter(COLOR)
    try:
        open_encoder(context)
        packets = []
        for number, rgb_CHW in enumerate(frames):
            rgb_HWC = rgb_CHW.permute(1, 2, 0).cpu().numpy()
            missing = (0, rows - height), (0, cols - width), (0, 0)
            frame = converter.from_rgb(np.pad(rgb_HWC, missing, mode="edge"), PIXEL_FORMAT)
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            packets += context.encode(frame)
        packets += context.encode(None)
    except av.FFmpegError as error:
        cause = why_refused(SVT_AV1, error, height=height, width=width, frame_rate=Fraction(RATE))
        raise UsageError(
            f"keyframes in groups: SVT-AV1 {cause}; set architecture.keyframe_group to 1"
        ) from error
    assert not context.options, f"{SVT_AV1} does not know {context.options}"
    return _without_delimiters(b"".join(map(bytes, packets)))


def decode_sequence(coded: bytes, *, num_frames: int, height: int, width: int) -> Tensor:
    """Return the frames of a stream as uint8 rgb_TCHW.

    Raises
    ------
    BitstreamError
        If it is damaged, or has another number of frames, or frames of another size.
    UsageError
        If the decoder is not there.
    """
    num_units = sum(kind in FRAME_UNITS for kind, _, _ in _units(coded))
    if not 0 < num_units <= UNITS_PER_FRAME * num_frames:
        raise BitstreamError(f"a group of {num_frames} keyframes has {num_units} coded ones")
    rows, cols = coded_size(height, width)
    context = _context(DECODER, "r", "install PyAV's own wheel")
    context.thread_count = 1
    # Larger frames are refused before there is memory for them.
    context.options = {"max_pixels": str(rows * cols)}
    try:
        frames = [*context.decode(av.Packet(coded)), *context.decode(None)]
    except av.FFmpegError as error:
        if isinstance(error, MemoryError):
            raise  # no damage
        raise BitstreamError(f"a group of keyframes is not a readable AV1 stream: {explain(error)}") from None
    if len(frames) != num_frames:
        raise BitstreamError(f"a group of {num_frames} keyframes shows {len(frames)}")
    for frame in frames:
        if (frame.height, frame.width, frame.format.name) != (rows, cols, PIXEL_FORMAT):
            found = f"{frame.height}×{frame.width} pixels ({frame.format.name})"
            raise BitstreamError(f"a keyframe of a group has {found}, not {rows}×{cols} ({PIXEL_FORMAT})")
    converter = ColorConverter(COLOR)
    rgb_TCHW = torch.empty((num_frames, 3, height, width), dtype=torch.uint8)
    for number, frame in enumerate(frames):
        rgb_HWC = converter.to_rgb(frame, upsampling="bicubic")[:height, :width]
        rgb_TCHW[number] = torch.from_numpy(rgb_HWC).permute(2, 0, 1)
    return rgb_TCHW


def _context(codec: str, mode: Literal["r", "w"], advice: str) -> VideoCodecContext:
    try:
        context = VideoCodecContext.create(codec, mode)
    except UnknownCodecError:
        raise UsageError(f"keyframes in groups need {codec}, which this libav lacks: {advice}") from None
    assert isinstance(context, VideoCodecContext)
    return context


# -- units ---------------------------------------------------------------------------------------------------


def _without_delimiters(stream: bytes) -> bytes:
    """Return ``stream`` without its temporal delimiters, two bytes a frame, which decoders do not need."""
    kept = [stream[start:stop] for kind, start, stop in _units(stream) if kind != TEMPORAL_DELIMITER]
    return b"".join(kept)


def _units(stream: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield kind, start and end of each unit of ``stream``.

    ::

        0 kkkk e 1 0 │ (extension, if e) │ length of the payload, 7 bits a byte, low ones first │ payload

    Raises
    ------
    BitstreamError
        If a unit has no length, or reaches past the end.
    """
    start = 0
    while start < len(stream):
        first = stream[start]
        if first & 0b1000_0011 != 0b10:
            raise BitstreamError("a group of keyframes is not a readable AV1 stream: a unit without length")
        place = start + 1 + (first >> 2 & 1)
        length_bytes = stream[place : place + MAX_LENGTH_BYTES]
        length, stop = 0, 0
        for number, byte in enumerate(length_bytes):
            length |= (byte & 0x7F) << 7 * number
            if byte < 0x80:
                stop = place + number + 1 + length
                break
        if not place < stop <= len(stream):
            raise BitstreamError("a group of keyframes is not a readable AV1 stream: it is cut short")
        yield first >> 3 & 0xF, start, stop
        start = stop
