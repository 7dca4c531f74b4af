"""Keyframes: frames that a network is given as coded images, or learns as latents, and their maps.

Coded images lie in a section of their own.

::

    fitting   frames ──> code ──> coded images ──┬──> file
                                                 └──> read: pixels as every decoder will see them
    decoding  file ──> attach ──> read ──> KeyframeEncoder ──> maps at every scale

Axes: K keyframes, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vinr.models.base import StoringModule
from vinr.models.layers.blocks import UpsampleBlock
from vinr.sharing import LruCache
from vinr.video.depth import with_depth
from vinr.video.spec import FrameSource, PatchGrid, VideoSpec
from vinr.video.stills import Chroma, decode_still, encode_still

# Decoded keyframes kept in memory.
CACHED = 4
INITIAL_LATENT_STD = 0.1


class Keyframes:
    """The keyframes of a network, numbered from 0 in the order of ``frame_numbers``.

    A network is fitted to what the images decode to, so that nothing changes when it is read from a file.

    Parameters
    ----------
    frame_numbers
        Frames of ``video`` that are keyframes.
    quality, chroma
        See :func:`vinr.video.stills.encode_still`.

    ``generation`` counts how often other images have come in place of those before.
    """

    def __init__(
        self, frame_numbers: Sequence[int], video: VideoSpec, *, quality: int, chroma: Chroma
    ) -> None:
        self.frame_numbers = tuple(frame_numbers)
        self._video, self._quality, self._chroma = video, quality, chroma
        self._coded: tuple[bytes, ...] = ()
        self._load: Callable[[int], bytes] | None = None
        self._decoded: LruCache[int, Tensor] = LruCache(CACHED)
        self.generation = 0

    def __len__(self) -> int:
        return len(self.frame_numbers)

    @property
    def coded(self) -> tuple[bytes, ...]:
        """The images made by :meth:`code`; none of a network that was read from a file."""
        return self._coded

    @property
    def num_bytes(self) -> int:
        """Bytes of the images made by :meth:`code`."""
        return sum(map(len, self._coded))

    def code(self, source: FrameSource) -> None:
        """Code the keyframes of ``source``, and read those from now on, all of them kept in memory."""
        images = []
        for number in self.frame_numbers:
            # Coded as 8 bits: 10-bit frames lose their last two, which fitted and decoded frames keep.
            rgb_CHW = with_depth(source.frames(torch.tensor([number]))[0], 8)
            images.append(encode_still(rgb_CHW, quality=self._quality, chroma=self._chroma))
        self._coded = tuple(images)
        self.attach(self._coded.__getitem__)
        self._decoded = LruCache(len(images))

    def attach(self, load: Callable[[int], bytes]) -> None:
        """Read coded images by ``load`` (number → bytes) from now on, when they are needed."""
        self._load, self._decoded = load, LruCache(CACHED)
        self.generation += 1

    def read(self, number: int) -> Tensor:
        """Return keyframe ``number`` as uint8 rgb_CHW, on the CPU.

        Raises
        ------
        BitstreamError
            If the image is damaged or of another size than the video.
        """
        load = self._load
        if load is None:
            raise ValueError("the network has no keyframes yet: code them, or attach those of a file")
        height, width = self._video.height, self._video.width
        return self._decoded.get(number, lambda: decode_still(load(number), height=height, width=width))


# -- maps of keyframes ---------------------------------------------------------------------------------------


class KeyframeEncoder(nn.Module):
    """Keyframes to features at every scale of the decoder; part of what is stored.

    3×3 convolution at full size, then one convolution per scale whose kernel is its stride, GELU after each.
    """

    def __init__(self, strides: Sequence[int], channels: int) -> None:
        super().__init__()
        self.input_conv = nn.Conv2d(3, channels, 3, padding=1)
        self.stages = nn.ModuleList(
            nn.Conv2d(channels, channels, stride, stride) for stride in reversed(strides)
        )

    def forward(self, rgb_KCHW: Tensor) -> list[Tensor]:
        """Return the maps, coarse to fine; the last one is the keyframe itself."""
        maps = [rgb_KCHW]
        feature_KCHW = F.gelu(self.input_conv(rgb_KCHW))
        for stage in self.stages:
            feature_KCHW = F.gelu(stage(feature_KCHW))
            maps.insert(0, feature_KCHW)
        return maps


class LearnedKeyframes(StoringModule):
    """A small latent per keyframe instead of an image, and what enlarges it to the maps of every scale.

    Parameters
    ----------
    num_keyframes, latent_channels, tiles, size
        Shape of the latents: a frame has ``tiles``, each of ``size`` (rows, columns).
    channels, kernel, with_rgb
        Channels of the maps, kernel of the convolutions between them, and whether there is one of colours.
    """

    latent: nn.Parameter

    def __init__(
        self,
        num_keyframes: int,
        latent_channels: int,
        *,
        tiles: PatchGrid,
        size: tuple[int, int],
        strides: Sequence[int],
        channels: int,
        kernel: int,
        with_rgb: bool,
    ) -> None:
        super().__init__()
        self.size = size
        # Tiles lie side by side, as they do in the frame.
        rows, cols = tiles.rows * size[0], tiles.cols * size[1]
        latent_KCHW = nn.Parameter(torch.empty(num_keyframes, latent_channels, rows, cols))
        self.register_stored("latent", latent_KCHW, role="keyframe", rows_per_step=1)
        # Nothing but its keyframes tells one video from another, so they start out different.
        nn.init.normal_(latent_KCHW, std=INITIAL_LATENT_STD)
        self.stem = nn.Conv2d(latent_channels, channels, 1)
        self.blocks = nn.ModuleList(
            UpsampleBlock(channels, channels, stride=stride, kernel=kernel, activation="gelu")
            for stride in strides[:-1]
        )
        self.rgb = None
        if with_rgb:
            wide_conv = nn.Conv2d(channels, 3 * strides[-1] ** 2, kernel, padding=kernel // 2)
            self.rgb = nn.Sequential(wide_conv, nn.PixelShuffle(strides[-1]))

    @property
    def num_latents(self) -> int:
        """Parameters of all latents."""
        return self.latent.numel()

    def forward(self, places: Sequence[tuple[int, int, int]]) -> list[Tensor]:
        """Return the maps of tiles (keyframe, row, column), coarse to fine; colours last ``with_rgb``."""
        height, width = self.size
        tiles = []
        for number, row, col in places:
            rows, cols = slice(row * height, (row + 1) * height), slice(col * width, (col + 1) * width)
            tiles.append(self.latent[number, :, rows, cols])
        maps: list[Tensor] = [F.gelu(self.stem(torch.stack(tiles)))]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return maps if self.rgb is None else [*maps, self.rgb(maps[-1])]
