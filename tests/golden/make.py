"""Writes the golden file of the format's version and the digests of what it holds.

``v1`` was made once with vinr 0.1.0, ``v2`` with the first vinr that wrote version 2, both with constriction
0.5.0 and zlib 1.2.13, and are kept: files of every released version must go on decoding to the same symbols.
Run again only for a new format version, under a new name::

    python tests/golden/make.py v3

``v1`` lacks what is marked as new in version 2, and is otherwise the same.
"""

from __future__ import annotations

import hashlib
import json
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from vinr.bitstream import (
    Clip,
    Color,
    ContainerWriter,
    EditRecord,
    Hdr,
    Header,
    Network,
    Quality,
    SectionKind,
    Tags,
)
from vinr.compress import encode_times, pack_tensors
from vinr.compress.quantize import quantize
from vinr.config import CompressSettings
from vinr.models import StoredTensor
from vinr.video.spec import Timeline

FOLDER = Path(__file__).parent


def noise(shape: tuple[int, ...], spread: float, seed: int) -> torch.Tensor:
    """Return bell-shaped values from integer arithmetic, the same with every version of every library."""
    state = seed
    values = []
    for _ in range(int(np.prod(shape))):
        total = 0
        for _ in range(6):
            state = (1103515245 * state + 12345) % 2**31
            total += state >> 15
        values.append((total - 6 * 2**15) * spread / 2**16)
    return torch.tensor(values, dtype=torch.float64).reshape(shape).float()


def first_network() -> dict[str, StoredTensor]:
    """Return weights by channel, grouped vectors, a constant, and two kinds of latents."""
    peaks = torch.sign(noise((7, 600), 1, 5)) + noise((7, 600), 0.01, 6)
    return {
        "stem.weight": StoredTensor(noise((12, 30), 0.5, 1), "weight"),
        "stem.bias": StoredTensor(noise((12,), 0.1, 2), "bias"),
        "head.weight": StoredTensor(noise((3, 12, 3, 3), 0.2, 3), "weight"),
        "head.bias": StoredTensor(noise((3,), 0.1, 4), "bias"),
        "norm": StoredTensor(torch.ones(12), "bias"),
        "latents.peaks": StoredTensor(peaks, "latent", True),
        "latents.frame": StoredTensor(noise((7, 4, 2, 3), 1.0, 7), "latent", True),
    }


def second_network() -> dict[str, StoredTensor]:
    """Return a grid large enough for blocks of several sizes, and a vector of 16 bits."""
    return {
        "grid": StoredTensor(noise((6, 20, 30), 1.0, 8), "grid"),
        "vector": StoredTensor(noise((40,), 1.0, 9), "bias"),
    }


SETTINGS = (
    CompressSettings(weight_bits=6, weight_scales="channel"),
    CompressSettings(grid_bits=5, bias_bits=16),
)


def digest(stored: dict[str, StoredTensor], settings: CompressSettings) -> dict[str, str]:
    """Return name → SHA-256 of the symbols (int32) and step codes (int32) that the file must decode to."""
    bits = {
        "weight": settings.weight_bits,
        "bias": settings.bias_bits,
        "grid": settings.grid_bits,
        "latent": 8,
    }
    found = {}
    for name, item in stored.items():
        by_channel = settings.weight_scales == "channel" and item.role == "weight"
        coded = quantize(item.value, bits[item.role], name=name, by_channel=by_channel)
        codes = np.array(coded.step_codes, dtype="<i4")
        found[name] = hashlib.sha256(coded.symbols.astype("<i4").tobytes() + codes.tobytes()).hexdigest()
    return found


def main(name: str) -> None:
    networks = (first_network(), second_network())
    packed = [pack_tensors(stored, own, 3) for stored, own in zip(networks, SETTINGS, strict=True)]
    pts = (0, 3003, 6006, 9010, 12012, 15015, 18018)
    header = Header(
        created_by="vinr 0.1.0",
        clips=(
            Clip(
                name="first clip",
                num_frames=7,
                height=180,
                width=320,
                frame_rate=(30000, 1001),
                # New in version 2: from here to the edit, but for matrix, range and bit_depth of the colour.
                bit_depth=10,
                pixel_aspect=(16, 11),
                last_seconds=(7, 5),
                color=Color(
                    matrix="bt2020",
                    range="full",
                    bit_depth=10,
                    tags=Tags(primaries=9, transfer=16, matrix=9, range=2),
                    hdr=Hdr(
                        mastering=(13250, 34500, 7500, 3000, 34000, 16000, 15635, 16450, 10**7, 50),
                        light=(1000, 400),
                    ),
                ),
                edit=EditRecord(
                    crop=(720, 1280),
                    resize=(180, 320),
                    first_frame=3,
                    stop_frame=10,
                    stream=1,  # new in version 2, and so is the next
                    deinterlaced=True,
                ),
                has_times=True,
                quality=Quality(psnr_db=31.25, pooled_psnr_db=31.125, ms_ssim=0.9375, ms_ssim_window=11),
            ),
            Clip(
                name="zweiter",
                num_frames=2,
                height=36,
                width=64,
                audio_start=(-1001, 30000),  # new in version 2
                has_audio=True,
            ),
        ),
        networks=(
            Network(model="some", architecture={"width": 12}, spans=((0, 0, 7),), frames_per_chunk=3),
            Network(model="other", architecture={"levels": [6, 1.5]}, spans=((1, 0, 2),)),
        ),
    )
    writer = ContainerWriter(header)
    writer.add(SectionKind.WEIGHTS, 0, packed[0].fixed)
    writer.add_array(SectionKind.CHUNKS, 0, packed[0].chunks)
    writer.add(SectionKind.WEIGHTS, 1, packed[1].fixed)
    writer.add(
        SectionKind.TIMES, 0, encode_times(Timeline(7, Fraction(30000, 1001), Fraction(1, 90000), pts))
    )
    writer.add(SectionKind.AUDIO, 1, bytes(range(256)))
    writer.write(FOLDER / f"{name}.vinr")
    record = {
        "header": json.loads(header.model_dump_json()),
        "pts": pts,
        "audio": hashlib.sha256(bytes(range(256))).hexdigest(),
        "networks": [
            {
                "tensors": {
                    tensor: {"role": item.role, "shape": list(item.value.shape), "per_frame": item.per_frame}
                    for tensor, item in stored.items()
                },
                "digests": digest(stored, own),
            }
            for stored, own in zip(networks, SETTINGS, strict=True)
        ],
    }
    (FOLDER / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
