"""A clip as a notebook shows it: a strip of its frames, and the facts."""

from __future__ import annotations

from base64 import b64encode
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING, Final

from PIL import Image

from vinr.errors import format_frame

if TYPE_CHECKING:
    from vinr.decoding.decoder import VideoDecoder

STRIP_FRAMES: Final = 6
STRIP_HEIGHT: Final = 96


def html_of(video: VideoDecoder) -> str:
    """Return one image of a few frames, from first to last, and a line below; frames are decoded for it."""
    last = len(video) - 1
    count = min(STRIP_FRAMES, len(video))
    numbers = [round(last * place / max(count - 1, 1)) for place in range(count)]
    images = [_small(video, number) for number in numbers]
    strip = Image.new("RGB", (sum(image.width for image in images), STRIP_HEIGHT))
    left = 0
    for image in images:
        strip.paste(image, (left, 0))
        left += image.width
    file = BytesIO()
    strip.save(file, format="PNG")
    data, shown = b64encode(file.getvalue()).decode(), ", ".join(map(str, numbers))
    return (
        f'<figure><img alt="frames {shown}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(describe(video))}; frames {shown}</figcaption></figure>"
    )


def describe(video: VideoDecoder) -> str:
    """Return a line: name, frames, size, rate, duration, bytes of the file, and its models."""
    models = ", ".join(dict.fromkeys(network.model for network in video.file.header.networks))
    return (
        f"{video.clip.name}: {len(video)} frames of {format_frame(video.spec.height, video.spec.width)}, "
        f"{video.fps:.5g} fps, {video.duration:.3f} s, {models}, file of {video.file.num_bytes:,} bytes"
    )


def _small(video: VideoDecoder, number: int) -> Image.Image:
    frame_CHW = video[number]
    levels = frame_CHW if video.spec.bit_depth == 8 else frame_CHW.int() >> 2
    image = Image.fromarray(levels.byte().permute(1, 2, 0).contiguous().numpy())
    aspect = float(video.spec.pixel_aspect) * video.spec.width / video.spec.height
    return image.resize((max(round(STRIP_HEIGHT * aspect), 1), STRIP_HEIGHT))
