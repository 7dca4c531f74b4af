"""A fitted network as a file: written, decoded and scored as any reader of the file will see it.

Axes: N frames of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from vinr.bench.work import Values
from vinr.compress import ComponentSize, pack_tensors
from vinr.config import Preset
from vinr.decoding.file import open_clip
from vinr.device import exact_float32
from vinr.encoding.segment import FittedSegment
from vinr.fit import FitResult
from vinr.models import VideoModel
from vinr.quality.clip import ClipQuality, bits_per_pixel, compare, psnr_per_frame_db
from vinr.quality.record import Quality
from vinr.video.spec import FrameSource, Query, to_unit

# Parts of a file in the terms of T-NeRV's study of bytes: what role belongs to which.
PARTS: Final = {
    "weight": "decoder",
    "bias": "decoder",
    "grid": "grids",
    "latent": "embeddings",
    "keyframe": "keyframes",
}


@dataclass(frozen=True)
class WrittenNetwork:
    """A written file: its bytes (all of them), and the quality of its frames.

    ``spans``: the quality of each clip of the network. ``components``: bytes of each tensor;
    ``keyframe_bytes`` those of images.
    """

    num_bytes: int
    num_parameters: int
    quality: ClipQuality
    spans: tuple[Quality, ...]
    components: tuple[ComponentSize, ...]
    keyframe_bytes: int

    def values(self, num_pixels: int) -> Values:
        """Return what tables show of the file; shares are percent of all its bytes."""
        # Bits per parameter count the whole file: headers, tables and images are paid for, too.
        values: Values = {
            "num_bytes": self.num_bytes,
            "bpp": bits_per_pixel(self.num_bytes, num_pixels),
            "bits_per_parameter": 8 * self.num_bytes / self.num_parameters,
            "psnr_db": self.quality.psnr_db,
            "ms_ssim": self.quality.ms_ssim,
            "ms_ssim_window": self.quality.ms_ssim_window,
        }
        # Parts that a model lacks are 0 rather than missing, so that all rows of a table have a number.
        part_bytes = dict.fromkeys(PARTS.values(), 0)
        part_bytes["keyframes"] = self.keyframe_bytes
        for component in self.components:
            part_bytes[PARTS[component.role]] += component.num_bytes
        for part, num_bytes in part_bytes.items():
            values[f"{part}_bytes"] = num_bytes
            values[f"{part}_percent"] = 100 * num_bytes / self.num_bytes
        return values


def write_network(
    frames: FrameSource,
    preset: Preset,
    result: FitResult,
    *,
    path: Path | None = None,
    device: str = "cpu",
) -> WrittenNetwork:
    """Write the fitted network (to ``path``, else in memory), decode it, and score it."""
    packed = pack_tensors(result.model.stored(), preset.compress, steps=result.steps)
    segment = FittedSegment.of(preset, result, packed, frames.spec)
    writer = segment.alone("segment", frames.spec)
    if path is not None:
        writer.write(path, force=True)
    # The score is that of the decoded bytes: what the fit reached does not count.
    with open_clip(path or writer.to_bytes(), device=device) as decoder:
        quality = compare(decoder, frames)
        num_bytes = decoder.file.num_bytes
    return WrittenNetwork(
        num_bytes=num_bytes,
        num_parameters=segment.num_parameters,
        quality=quality,
        spans=segment.measured(quality).qualities,
        components=packed.components,
        keyframe_bytes=sum(map(len, segment.keyframes)),
    )


def float_psnr_db(model: VideoModel, frames: FrameSource) -> float:
    """Return the mean of frame PSNRs of the unquantised model, float output, as the papers report it."""
    device = next(model.parameters()).device
    psnr_db = []
    with torch.inference_mode(), exact_float32(device):
        # One frame at a time takes least memory, and the mean of frame PSNRs is the same.
        for index in range(frames.spec.num_frames):
            index_N = torch.tensor([index])
            target_NCHW = to_unit(frames.frames(index_N).to(device))
            prediction_NCHW = model(Query.of_frames(index_N.to(device)))
            psnr_db.append(psnr_per_frame_db(prediction_NCHW, target_NCHW))
    return float(torch.cat(psnr_db).mean())
