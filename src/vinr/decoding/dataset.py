"""The frames of a .vinr file for a PyTorch ``DataLoader``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from vinr.decoding.decoder import VideoDecoder
from vinr.decoding.file import FileLike, content_of, open_clip
from vinr.sharing import LruCache


class FrameDataset(Dataset[Tensor]):
    """The frames of one clip as a torch ``Dataset`` of rgb_CHW: uint8, of 10-bit clips uint16 (0 … 1023).

    The file is kept in memory as it is; each worker process decodes it by itself, forked or spawned, before
    and after the first frame was decoded here. Threads may share a dataset.

    A GPU is not touched before the first frame is decoded. Once a process has used one, processes forked
    from it cannot: give the ``DataLoader`` ``multiprocessing_context="spawn"`` where ``device`` is a GPU.

    Parameters
    ----------
    file, clip, max_memory
        As for :func:`vinr.open`.
    device
        As for :func:`vinr.open`, but a CPU unless one is named: workers rarely share a GPU well.

    Raises
    ------
    BitstreamError, InputError, UsageError
        As from :func:`vinr.open`.
    """

    def __init__(
        self,
        file: FileLike,
        *,
        clip: str | None = None,
        device: str = "cpu",
        max_memory: int | str | None = None,
    ) -> None:
        with open_clip(file, clip=clip, device="cpu") as decoder:
            self.spec, name, source = decoder.spec, decoder.clip.name, decoder.file.source
        content = Path(source).read_bytes() if isinstance(source, str) else content_of(file)
        # Bytes, not the path: every worker decodes the same file, even if the path is written anew.
        options: dict[str, Any] = {"clip": name, "device": device, "max_memory": max_memory}
        self._open = partial(open_clip, content, **options)
        self._decoders: LruCache[None, VideoDecoder] = LruCache(1)

    def __len__(self) -> int:
        return self.spec.num_frames

    def __getitem__(self, index: int) -> Tensor:
        return self._decoders.get(None, self._open)[index]
