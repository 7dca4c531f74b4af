"""Keyframes: frames that a network is given as coded images, or learns as latents, and their maps.

Coded keyframes lie in a section of their own. A part of it is an image, or a group of keyframes that follow
one another, coded as one stream.

::

    fitting   frames ──> code ──> coded parts ──┬──> file
                                                └──> read: pixels as every decoder will see them
    decoding  file ──> attach ──> read ──> KeyframeEncoder ──> maps at every scale

    keyframes   0 … g-1 │ g … 2g-1 │ 2g …      g: ``group``; reading one decodes its part
    part           0    │    1     │  2

Axes: T keyframes of a part, K keyframes, C channels, H rows, W columns.
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

# Decoded parts kept in memory: images, or groups. A clip needs two keyframes that follow one another.
CACHED_IMAGES = 4
CACHED_GROUPS = 2
INITIAL_LATENT_STD = 0.1


class Keyframes:
    """The keyframes of a network, numbered from 0 in the order of ``frame_numbers``.

    A network is fitted to what the coded keyframes decode to, so that nothing changes when it is read from a
    file.

    Parameters
    ----------
    frame_numbers
        Frames of ``video`` that are keyframes.
    group
        Keyframes of a part; the last part may have fewer. 1: each is an image, else parts are streams.
    quality, chroma
        See :func:`vinr.video.stills.encode_still`; groups have colours of 4:2:0.

    ``generation`` counts how often other keyframes have come in place of those before.
    """

    def __init__(
        self,
        frame_numbers: Sequence[int],
        video: VideoSpec,
        *,
        quality: int,
        chroma: Chroma = "4:2:0",
        group: int = 1,
    ) -> None:
        if group > 1 and chroma != "4:2:0":
            raise ValueError(f"keyframes in groups have colours of 4:2:0, not {chroma}")
        self.frame_numbers, self.group = tuple(frame_numbers), group
        self._video, self._quality, self.chroma = video, quality, chroma
        self._coded: tuple[bytes, ...] = ()
        self._load: Callable[[int], bytes] | None = None
        self._max_kept = CACHED_IMAGES if group == 1 else CACHED_GROUPS
        self._decoded: LruCache[int, Tensor] = LruCache(self._max_kept)
        self.generation = 0

    def __len__(self) -> int:
        return len(self.frame_numbers)

    @property
    def num_parts(self) -> int:
        """Parts that the keyframes are coded as."""
        return -(-len(self) // self.group)

    @property
    def decoded_together(self) -> int:
        """Most keyframes that reading one of them decodes."""
        return min(self.group, len(self))

    @property
    def max_kept(self) -> int:
        """Most decoded keyframes that are kept of a file."""
        return min(self._max_kept * self.group, len(self))

    @property
    def coded(self) -> tuple[bytes, ...]:
        """The parts made by :meth:`code`; none of a network that was read from a file."""
        return self._coded

    @property
    def num_bytes(self) -> int:
        """Bytes of the parts made by :meth:`code`."""
        return sum(map(len, self._coded))

    def of_part(self, part: int) -> range:
        """Return the numbers of the keyframes that are coded as part number ``part``."""
        return range(part * self.group, min((part + 1) * self.group, len(self)))

    def code(self, source: FrameSource) -> None:
        """Code the keyframes of ``source``, and read those from now on, all of them kept in memory.

        Raises
        ------
        UsageError
            If frames of their size cannot be coded in groups.
        """
        coded = []
        for part in range(self.num_parts):
            frames = []
            for number in self.of_part(part):
                # Coded as 8 bits: 10-bit frames lose their last two, which fitted and decoded frames keep.
                rgb_CHW = source.frames(torch.tensor([self.frame_numbers[number]]))[0]
                frames.append(with_depth(rgb_CHW, 8))
            coded.append(self._encode(frames))
        self._coded = tuple(coded)
        self.attach(self._coded.__getitem__)
        self._decoded = LruCache(len(coded))

    def _encode(self, frames: Sequence[Tensor]) -> bytes:
        if self.group == 1:
            return encode_still(frames[0], quality=self._quality, chroma=self.chroma)
        from vinr.video.sequences import encode_sequence  # images need no libav

        return encode_sequence(frames, quality=self._quality)

    def attach(self, load: Callable[[int], bytes]) -> None:
        """Read coded parts by ``load`` (number of the part → bytes) from now on, when they are needed."""
        self._load, self._decoded = load, LruCache(self._max_kept)
        self.generation += 1

    def read(self, number: int) -> Tensor:
        """Return keyframe ``number`` as uint8 rgb_CHW, on the CPU.

        Raises
        ------
        BitstreamError
            If its part is damaged, or has keyframes of another size than the video, or not as many as it
            should.
        """
        load = self._load
        if load is None:
            raise ValueError("the network has no keyframes yet: code them, or attach those of a file")
        part, place = divmod(number, self.group)
        return self._decoded.get(part, lambda: self._decode(part, load(part)))[place]

    def _decode(self, part: int, coded: bytes) -> Tensor:
        """Return the keyframes of a part as uint8 rgb_TCHW."""
        height, width = self._video.height, self._video.width
        if self.group == 1:
            return decode_still(coded, height=height, width=width).unsqueeze(0)
        from vinr.video.sequences import decode_sequence  # images need no libav

        return decode_sequence(coded, num_frames=len(self.of_part(part)), height=height, width=width)


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
