"""Small synthetic clips for tests."""

from __future__ import annotations

from pathlib import Path

import av

from vinr.testing import MemoryClip, moving_shapes
from vinr.video.encoders import safe_options

__all__ = ["MemoryClip", "moving_shapes", "write_clip"]


def write_clip(path: Path, clip: MemoryClip, *, codec: str = "ffv1", pixel_format: str = "bgr0") -> Path:
    """Write ``clip`` with PyAV; ffv1 in bgr0 keeps every value. The same bytes each time."""
    with av.open(str(path), "w") as container:
        options = safe_options(codec, {"threads": "1"}, width=clip.spec.width)
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = clip.spec.width, clip.spec.height, pixel_format
        for rgb_CHW in clip.rgb_NCHW:
            frame = av.VideoFrame.from_ndarray(rgb_CHW.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
