"""Keyframes: frames that a network is given as coded images, in a file of their own section.

::

    fitting   frames ──> code ──> coded images ──┬──> file
                                                 └──> read: pixels as every decoder will see them
    decoding  file ──> attach ──> read
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vinr.sharing import LruCache
from vinr.video.spec import FrameSource, VideoSpec
from vinr.video.stills import Chroma, decode_still, encode_still

CACHED = 4


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
            rgb_CHW = source.frames(torch.tensor([number]))[0]
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
