"""Measures anchors: encodes a frame source into a temporary file, decodes that, measures both."""

from __future__ import annotations

from collections.abc import Callable

from vinr.codecs.anchors import Anchor
from vinr.codecs.runs import decode_anchor, encode_anchor
from vinr.comparison.rd import RDPoint
from vinr.decoding.streams import StreamClock
from vinr.quality.clip import compare
from vinr.temporaries import temporary_folder
from vinr.video.color import Upsampling
from vinr.video.spec import FrameSource, FrameStream


def measure_anchor(
    anchor: Anchor,
    quality: int,
    reference: FrameSource,
    *,
    upsampling: Upsampling,
    watch: Callable[[FrameStream], FrameStream] = lambda stream: stream,
    on_frame: Callable[[int, int], None] | None = None,
) -> RDPoint:
    """Encode ``reference``, decode it twice (once on the clock, once to measure), and return the point.

    The clock runs while frames are decoded and brought to 8-bit RGB as any player does; the measured frames
    are converted with exact arithmetic, ``upsampling``, and YUV-PSNR is that of the decoder's own planes.

    Parameters
    ----------
    watch
        Wraps the decoded stream, to keep crops of it.
    on_frame
        Called with frames done and frames in all, first while encoding, then while measuring.

    Raises
    ------
    UsageError, OutputError
        As :func:`encode_anchor`.
    """
    spec = reference.spec
    with temporary_folder("vinr-anchor-") as folder:
        path = folder / f"anchor{anchor.suffix}"
        encoded = encode_anchor(anchor, reference, path, quality=quality, on_frame=on_frame)
        # Decoded twice, since exact conversion is slower than a player's, and would count as decoding.
        clock = StreamClock()
        for _ in clock.watch(decode_anchor(path, spec)):
            pass
        decoded = decode_anchor(path, spec, upsampling=upsampling, planes=anchor.chroma == "4:2:0")
        measured = compare(watch(decoded), reference, yuv=True, on_frame=on_frame)
    return RDPoint.measured(
        anchor.setting(quality, width=spec.width),
        measured,
        num_bytes=encoded.num_bytes,
        num_pixels=spec.num_pixels,
        decode_fps=spec.num_frames / clock.seconds,
        encode_seconds=encoded.encode_seconds,
        options={"encoder": anchor.encoder, "chroma": anchor.chroma, **encoded.options},
    )
