"""What a file costs beside its coded symbols, and what 8 bits cost in quality.

Bunny, centre-crop 640×1280, area-averaged to 160×320, all 132 frames, default model and recipe.
The float model is measured with float output; the file is decoded to 8-bit frames by the ordinary decoder.
What a file costs beside its symbols hardly depends on how long a network was fitted: a large one
(``--params``) needs few epochs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import _record
from vinr.bench.written import float_psnr_db
from vinr.compress import pack_tensors
from vinr.config import load_preset
from vinr.decoding.file import open_clip
from vinr.encoding.assembly import FinishedSegment, assemble
from vinr.encoding.plan import choose_preset
from vinr.encoding.segment import FittedSegment
from vinr.encoding.splitting import split_segments
from vinr.fit import fit
from vinr.quality.clip import bits_per_pixel, compare
from vinr.video.samples import sample_clip
from vinr.video.source import open_video

BITS = (8, 7, 6, 5, 4)


def main() -> None:
    """Fit once, write at several bit depths, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--preset", default="hnerv-0.19m-bunny4")
    parser.add_argument("--params", type=int, help="numbers stored, instead of the preset's size")
    parser.add_argument("--bits", type=int, nargs="*", default=BITS)
    given = parser.parse_args()
    epochs, name = given.epochs, given.preset
    overrides = [f"fit.epochs={epochs}", "fit.phases=[]", "compress.audio=false"]
    rows = []
    with open_video(sample_clip("bigbuckbunny.mp4"), crop=(640, 1280), resize=(160, 320)) as reader:
        frames = reader.read()
        preset = load_preset(name, overrides)
        if given.params:
            preset = choose_preset(
                frames.spec,
                model=preset.model,
                preset=None,
                num_parameters=given.params,
                overrides=overrides,
            )
        result = fit(frames, preset)
        float_db = float_psnr_db(result.model, frames)
        for scales in ("tensor", "channel"):
            for bits in given.bits:
                update = {"weight_bits": bits, "latent_bits": bits, "weight_scales": scales}
                packed = pack_tensors(result.model.stored(), preset.compress.model_copy(update=update))
                segment = FittedSegment.of(preset, result, packed, frames.spec)
                with TemporaryDirectory() as folder, segment.open(frames.spec, "cpu") as decoder:
                    segment = segment.measured(compare(decoder, frames))
                    path = Path(folder) / "file.vinr"
                    (job,) = split_segments([frames.spec], None)
                    finished = FinishedSegment.of(segment, job, None)
                    num_bytes = assemble([reader], [finished], [None]).write(path)
                    with open_clip(path) as written:
                        front = written.file.container.header_bytes + written.file.container.index_bytes
                ideal_bytes = packed.ideal_bits / 8
                side_bytes = sum(component.side_bytes for component in packed.components)
                rows.append(
                    {
                        "scales": scales,
                        "bits": bits,
                        "file bytes": num_bytes,
                        "bpp": bits_per_pixel(num_bytes, frames.spec.num_pixels),
                        "PSNR dB": segment.psnr_db,
                        "below float dB": float_db - segment.psnr_db,
                        "header, index, tables %": 100 * (front + side_bytes) / num_bytes,
                        "over ideal + header %": 100 * (num_bytes / (ideal_bytes + front) - 1),
                    }
                )
                print(rows[-1], flush=True)
    text = f"{__doc__}\nFloat model: {float_db:.3f} dB after {epochs} epochs.\n\n{_record.table(rows)}"
    size = f" --params {given.params}" if given.params else ""
    command = f"python benchmarks/file_bytes.py --epochs {epochs} --preset {name}{size}"
    title = f"file-bytes-{given.params}" if given.params else "file-bytes"
    settings = {"epochs": epochs, "preset": name, "params": given.params, "float_psnr_db": float_db}
    _record.write(title, command, settings, rows, text)


if __name__ == "__main__":
    main()
