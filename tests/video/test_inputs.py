"""Every kind of input: read, written and read again; or refused by one line. What is promised: docs/inputs.md."""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange

from command_line import Run
from video.input_kinds import (
    NUM_FRAMES,
    STEP,
    UNTAGGED,
    Kind,
    animated,
    changed,
    clip,
    content,
    cut,
    deep_images,
    exact,
    float_images,
    folder_of,
    greens,
    held,
    joined,
    mixed_sizes,
    only_sound,
    raw,
    remuxed,
    see_through,
    tagged,
    turned_photos,
    two_pictures,
    with_sound,
)
from vinr.errors import VinrError
from vinr.video.sink import open_sink
from vinr.video.source import open_video

MILLISECOND: Final = 0.0015  # with its rounding
PQ, HLG = (9, 16, 9, 1), (9, 18, 9, 1)
LOSSLESS: Final = {"pixels": exact(), "tolerance": 0.0}
B_FRAMES: Final = {"bf": "2", "x264-params": "b-adapt=0:scenecut=0"}
GROUPS: Final = {"g": "10", "x264-params": "scenecut=0"}
ODD: Final = {"height": 37, "width": 51}
JOINED: Final = clip("part.ts", num_frames=NUM_FRAMES)

KINDS: Final = (
    # containers and codecs
    Kind("mp4, H.264", clip("a.mp4")),
    Kind("mkv, H.265", clip("a.mkv", "libx265", options={"x265-params": "log-level=none"})),
    Kind("webm, VP9", clip("a.webm", "libvpx-vp9")),
    Kind("webm, VP8", clip("a.webm", "libvpx")),
    Kind("ivf, AV1", clip("a.ivf", "libsvtav1")),
    Kind("obu, AV1", clip("a.obu", "libsvtav1")),
    Kind("mov, ProRes", clip("a.mov", "prores_ks", "yuv422p10le"), bit_depth=10),
    Kind("mov, PNG", clip("a.mov", "png", "rgb24"), **LOSSLESS),
    Kind("mov, Animation", clip("a.mov", "qtrle", "rgb24"), **LOSSLESS),
    Kind("mov, uncompressed 4:2:2", clip("a.mov", "rawvideo", "uyvy422")),
    Kind("avi, MPEG-4 with B-frames", clip("a.avi", "mpeg4", options={"bf": "2"})),
    Kind("avi, H.264 with B-frames", clip("a.avi", options=B_FRAMES)),
    Kind("avi, Motion-JPEG", clip("a.avi", "mjpeg", "yuvj420p")),
    Kind("avi, uncompressed RGB", clip("a.avi", "rawvideo", "bgr24"), **LOSSLESS),
    Kind("avi, Cinepak", clip("a.avi", "cinepak", "rgb24")),
    Kind("transport stream, H.264", clip("a.ts")),
    Kind("transport stream, MPEG-2", clip("a.m2ts", "mpeg2video")),
    Kind("program stream, MPEG-2", clip("a.mpg", "mpeg2video")),
    Kind("DVD, MPEG-2", clip("a.vob", "mpeg2video")),
    Kind("mxf, MPEG-2", clip("a.mxf", "mpeg2video")),
    Kind("flv, H.264", clip("a.flv")),
    Kind("flv, Sorenson", clip("a.flv", "flv")),
    Kind("wmv, WMV 2", clip("a.wmv", "wmv2")),
    Kind("asf, MS-MPEG-4", clip("a.asf", "msmpeg4")),
    Kind("3gp, MPEG-4", clip("a.3gp", "mpeg4")),
    Kind("nut, FFV1", clip("a.nut", "ffv1", "bgr0"), **LOSSLESS),
    Kind("ogg, VP8", clip("a.ogg", "libvpx")),
    Kind("raw H.264", clip("a.h264", options=B_FRAMES)),
    Kind("raw H.265", clip("a.hevc", "libx265", options={"x265-params": "log-level=none"})),
    Kind("raw MPEG-2", clip("a.m2v", "mpeg2video")),
    Kind("y4m 4:2:0", clip("a.y4m", "rawvideo")),
    Kind("y4m 4:4:4", clip("a.y4m", "rawvideo", "yuv444p")),
    # pictures
    Kind("odd size, 4:2:0", clip("a.mkv", "ffv1", **ODD), size=(37, 51)),
    Kind("4:2:2", clip("a.mkv", "ffv1", "yuv422p")),
    Kind("4:1:1", clip("a.mkv", "ffv1", "yuv411p")),
    Kind("4:1:0", clip("a.mkv", "ffv1", "yuv410p"), tolerance=3.0),
    Kind("4:4:0", clip("a.mkv", "ffv1", "yuv440p")),
    Kind("grey", clip("a.mkv", "ffv1", "gray")),
    Kind("grey PNG in mov", clip("a.mov", "png", "gray")),
    Kind("opaque alpha", clip("a.mkv", "ffv1", "yuva420p")),
    Kind("transparent", see_through, note="transparen", **LOSSLESS),
    Kind("full range", tagged("a.mkv", "ffv1", "yuv420p", (2, 2, 1, 2)), tags=(2, 2, 1, 2)),
    Kind("10-bit 4:2:0", clip("a.mkv", "ffv1", "yuv420p10le"), bit_depth=10),
    Kind("10-bit H.264", clip("a.mkv", "libx264", "yuv420p10le"), bit_depth=10),
    Kind("10-bit RGB", clip("a.mkv", "ffv1", "gbrp10le"), bit_depth=10),
    Kind("10-bit grey", clip("a.mkv", "ffv1", "gray10le"), bit_depth=10),
    Kind("12-bit 4:2:0", clip("a.mkv", "ffv1", "yuv420p12le"), bit_depth=10, note="12"),
    Kind("16-bit RGB", clip("a.mkv", "ffv1", "rgb48le"), bit_depth=10, note="16"),
    Kind("untagged HD", tagged("a.mkv", "ffv1", "yuv420p", UNTAGGED, size=(720, 1280)), size=(720, 1280), tags=UNTAGGED),
    Kind("BT.709", tagged("a.mkv", "libx264", "yuv420p", (1, 1, 1, 1)), tags=(1, 1, 1, 1)),
    Kind("BT.601, 525 lines", tagged("a.mp4", "libx264", "yuv420p", (6, 6, 6, 1)), tags=(6, 6, 6, 1)),
    Kind("BT.601, 625 lines", tagged("a.mp4", "libx264", "yuv420p", (5, 6, 5, 1)), tags=(5, 6, 5, 1)),
    Kind("HDR, PQ", tagged("a.mkv", "ffv1", "yuv420p10le", PQ), tags=PQ, bit_depth=10, tolerance=3.0),
    Kind("HDR, HLG", tagged("a.mkv", "ffv1", "yuv420p10le", HLG), tags=HLG, bit_depth=10, tolerance=3.0),
    Kind("wide pixels", tagged("a.mkv", "libx264", "yuv420p", UNTAGGED, aspect=Fraction(16, 11)), aspect=Fraction(16, 11)),
    Kind("narrow pixels", tagged("a.mp4", "libx264", "yuv420p", UNTAGGED, aspect=Fraction(8, 9)), aspect=Fraction(8, 9)),
    # times
    Kind("one frame", clip("a.mp4", num_frames=1), num_frames=1),
    Kind("variable rate", clip("a.mkv", "ffv1", pts=[0, 1, 2, 5, 6, 20, 21, 22]), times=[0, 0.04, 0.08, 0.2, 0.24, 0.8, 0.84, 0.88]),
    Kind("a pause before the last frames", clip("a.mkv", "ffv1", pts=[0, 1, 2, 3, 500, 501, 502, 503]), times=[0, 0.04, 0.08, 0.12, 20, 20.04, 20.08, 20.12], duration=20.16),
    Kind("a frame an hour", clip("a.mkv", "ffv1", pts=[90_000 * n + n * n for n in range(8)]), times=[3600 * n + n * n / 25 for n in range(8)]),
    Kind("held last frame", held("a.mkv", 4.0), duration=4.28),
    Kind("B-frames without times", remuxed("a.mp4", clip("s.h264", options=B_FRAMES))),
    Kind("joined transport streams", joined("a.ts", JOINED, JOINED), num_frames=16, times=[n / 25 for n in range(16)]),
    Kind("begins between keyframes", cut("a.ts", clip("s.ts", num_frames=40, options=GROUPS), first=0.4), num_frames=0, note="drop|left out|begin"),
    # animations and stills
    Kind("GIF", animated("a.gif", [80] * 8), times=[0.08 * n for n in range(8)], tolerance=16.0, pixels=exact()),
    Kind("GIF, held last frame", animated("a.gif", [200] * 5 + [4000]), num_frames=6, times=[0.2 * n for n in range(6)], duration=5.0, tolerance=16.0, pixels=exact(6)),
    Kind("GIF, comment at the end", changed("a.gif", animated("s.gif", [80] * 8), b"\0;", b"\0!\xfe\x02hi\0;"), times=[0.08 * n for n in range(8)], tolerance=16.0, pixels=exact()),
    Kind("APNG", clip("a.apng", "apng", "rgb24"), **LOSSLESS),
    Kind("animated WebP", animated("a.webp", [200] * 8, lossless=True), times=[0.2 * n for n in range(8)], **LOSSLESS),
    Kind("animated AVIF", animated("a.avif", [200] * 8, quality=95, subsampling="4:4:4"), times=[0.2 * n for n in range(8)], tolerance=4.0, pixels=exact()),
    # folders and raw samples
    Kind("folder", folder_of([f"{n:03d}.png" for n in range(8)]), times=[n / 30 for n in range(8)], **LOSSLESS),
    Kind("folder without leading zeros", folder_of([f"shot{n}.png" for n in range(5, 13)]), times=[n / 30 for n in range(8)], **LOSSLESS),
    Kind("folder with a gap", folder_of([f"{n}.png" for n in (1, 2, 3, 5, 6, 7, 8, 9)]), times=[n / 30 for n in range(8)], note="4|gap|missing", **LOSSLESS),
    Kind("16-bit images", deep_images, times=[n / 30 for n in range(8)], bit_depth=10, pixels=greens, note="more than 8 bits"),
    Kind("photos lying on their side", turned_photos, times=[n / 30 for n in range(8)], tolerance=3.0, pixels=exact()),
    Kind("raw 4:2:0", raw("c_64x48_25fps_420_8bit.yuv"), tolerance=3.0, pixels=exact()),
    Kind("raw 10 bits", raw("c_64x48_25_10b.yuv", "yuv420p10le"), bit_depth=10, tolerance=3.0, pixels=exact()),
    Kind("raw NV12", raw("c_64x48_25_nv12.yuv", "nv12"), tolerance=3.0, pixels=exact()),
    Kind("raw 4:4:4", raw("c_64x48_25_444p_8bit.yuv", "yuv444p"), pixels=exact()),
    # sound and choice
    Kind("AAC", with_sound("a.mp4", "aac"), num_tracks=1),
    Kind("MP3", with_sound("a.mp4", "libmp3lame"), num_tracks=1),
    Kind("Opus", with_sound("a.mkv", "libopus"), num_tracks=1),
    Kind("FLAC", with_sound("a.mkv", "flac"), num_tracks=1),
    Kind("AC-3 in a transport stream", with_sound("a.ts", "ac3"), num_tracks=1),
    Kind("stereo PCM in mov", with_sound("a.mov", "pcm_s16le"), num_tracks=1),
    Kind("G.711 in mov", with_sound("a.mov", "pcm_alaw", rate=8000, layout="mono"), num_tracks=1, keeps_packets=False),
    Kind("MS ADPCM in avi", with_sound("a.avi", "adpcm_ms", video_codec="mjpeg"), num_tracks=1, keeps_packets=False),
    Kind("two tracks", with_sound("a.mkv", "flac", "flac", titles=("Main", "Kommentar"), default=1), num_tracks=2),
    Kind("sound 3 s before the picture", with_sound("a.mkv", "flac", offset=-3.0), num_tracks=1, sound_offset=-3.0),
    Kind("sound 2 s late", with_sound("a.mkv", "flac", offset=2.0), num_tracks=1, sound_offset=2.0),
    Kind("two pictures", two_pictures, note="2 video streams"),
    # refused
    Kind("empty", content("a.mp4", b""), refused="empty"),
    Kind("text", content("a.mp4", b"no video\n" * 40), refused="not a (readable )?video"),
    Kind("playlist", content("a.m3u8", b"#EXTM3U\n#EXTINF:1,\na.ts\n"), refused="playlist|not a readable"),
    Kind("sound alone", only_sound, refused="no video stream"),
    Kind("cut short", cut("a.mp4", clip("s.mp4", container_options={"movflags": "+faststart"}), last=0.8), refused="cut short"),
    Kind("encrypted", changed("a.mp4", clip("s.mp4"), b"avc1", b"encv"), refused="encrypted|cannot be decoded|not a readable"),
    Kind("images of two sizes", mixed_sizes, refused="48x64.*|64x48"),
    Kind("images of floats", float_images, refused="no whole numbers"),
    Kind("empty folder", lambda folder: folder, refused="no images"),
    Kind("raw without a size", raw("clip.yuv"), refused="size"),
    Kind("raw of another size", raw("c_66x48_25fps.yuv"), refused="bytes"),
    Kind("YCgCo", tagged("a.mkv", "libx264", "yuv444p", (1, 1, 8, 2)), refused="YCgCo"),
    Kind("size changes", joined("a.h264", clip("s.h264"), clip("s.h264", height=64)), refused="64x64"),
    Kind("not there", lambda folder: folder / "a.mp4", refused="no such file"),
)  # fmt: skip
READ: Final = tuple(kind for kind in KINDS if kind.refused is None)
THROUGH_A_FILE: Final = (
    "mp4, H.264",
    "HDR, PQ",
    "wide pixels",
    "held last frame",
    "sound 3 s before the picture",
    "G.711 in mov",
)


def test_the_table_is_long_enough() -> None:
    assert len(KINDS) >= 60
    assert len({kind.name for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.refused], ids=lambda kind: kind.name)
def test_refused_in_one_line(kind: Kind, tmp_path: Path) -> None:
    path = kind.make(tmp_path)
    with pytest.raises(VinrError, match=kind.refused) as caught, open_video(path) as reader:
        reader.read()
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


@pytest.mark.parametrize("kind", READ, ids=lambda kind: kind.name)
def test_round_trip(kind: Kind, tmp_path: Path) -> None:
    """Read and written without a network: what comes back is what players show of the original."""
    path, output = kind.make(tmp_path), tmp_path / "out.mkv"
    with open_video(path) as reader:
        frames, audio, notes = reader.read(), reader.audio(), reader.notes
        with open_sink(str(output), reader.spec, reader.timeline, audio=audio, codec=_codec(kind)) as sink:
            sink.write(frames.rgb_NCHW)
    if kind.note is None:
        assert notes == ()
    else:
        assert any(_says(note, kind.note) for note in notes), notes
    assert frames.spec.bit_depth == kind.bit_depth
    rgb_NHWC = frames.rgb_NCHW.permute(0, 2, 3, 1).numpy()
    expected = _expected(kind, path)
    _same_pictures(rgb_NHWC, expected, kind)
    _same_output(output, kind, len(expected))
    if kind.num_tracks:
        _same_sound(path, output, kind)


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=() if kind.name in THROUGH_A_FILE else pytest.mark.slow) for kind in READ],
    ids=lambda kind: kind.name,
)
def test_round_trip_through_a_file(kind: Kind, run: Run, tmp_path: Path) -> None:
    path, file, output = kind.make(tmp_path), tmp_path / "a.vinr", tmp_path / "out.mkv"
    for command in (
        ("encode", path, file, "--params", "14k", "--epochs", "1"),
        ("decode", file, output, "--codec", _codec(kind)),
        ("verify", file),
    ):
        status, _, err = run(*command)
        assert status == 0, err
    _same_output(output, kind, len(_expected(kind, path)))
    if kind.num_tracks:
        _same_sound(path, output, kind)


# -- what PyAV says of a file --------------------------------------------------------------------------------


def shown(path: Path, stream: int = 0) -> list[np.ndarray[Any, Any]]:
    """Return the frames that can be decoded, in the order of their times, as libav converts them."""
    with av.open(str(path)) as container:
        frames = [frame for frame in container.decode(video=stream) if not frame.is_corrupt]
    return [_as_rgb(frame) for frame in frames]


def _as_rgb(frame: VideoFrame) -> np.ndarray[Any, Any]:
    matrix = frame.colorspace if frame.colorspace in (1, 4, 5, 6, 7, 9) else 5
    full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj") or frame.format.is_rgb
    return frame.reformat(
        format="rgb24",
        src_colorspace=None if frame.format.is_rgb else matrix,
        src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
    ).to_ndarray()


def _expected(kind: Kind, path: Path) -> list[np.ndarray[Any, Any]]:
    return kind.pixels(path) if kind.pixels else shown(path, 1 if kind.name == "two pictures" else 0)


def _codec(kind: Kind) -> str:
    """Return a lossless codec, or one whose stream states the shape of pixels where that matters."""
    return "ffv1" if kind.aspect == 1 else "x264"


def _says(text: str, pattern: str) -> bool:
    return re.search(pattern, text, re.IGNORECASE) is not None


def _same_pictures(rgb_NHWC: np.ndarray[Any, Any], expected: list[np.ndarray[Any, Any]], kind: Kind) -> None:
    assert len(rgb_NHWC) == len(expected)
    levels = 255 / (1023 if kind.bit_depth == 10 else 255)
    for found_HWC, expected_HWC in zip(rgb_NHWC, expected, strict=True):
        assert found_HWC.shape == expected_HWC.shape
        difference = np.abs(found_HWC * levels - expected_HWC.astype(float)).mean()
        assert difference <= kind.tolerance + (0.5 if kind.bit_depth == 10 else 0)


def _same_output(output: Path, kind: Kind, num_frames: int) -> None:
    with av.open(str(output)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        aspect, duration = stream.sample_aspect_ratio, Fraction(container.duration or 0, av.time_base)
    assert len(frames) == num_frames
    assert num_frames == kind.num_frames or kind.num_frames == 0
    times = [frame.time - frames[0].time for frame in frames]
    expected = kind.times if kind.times is not None else [number * STEP for number in range(num_frames)]
    assert times == pytest.approx([float(time) for time in expected], abs=MILLISECOND)
    assert all(later > earlier for earlier, later in pairwise(times))
    assert (frames[0].height, frames[0].width) == kind.size
    assert (aspect or 1) == kind.aspect
    if kind.duration is not None:
        assert float(duration) == pytest.approx(float(kind.duration), abs=0.002)
    if kind.tags is not None:
        frame = frames[0]
        # FFV1 keeps RGB, which has no matrix.
        found = (frame.color_primaries, frame.color_trc, frame.color_range)
        assert tuple(map(int, found[:2])) == kind.tags[:2]
    deep = max(part.bits for part in frames[0].format.components)
    assert deep == kind.bit_depth


def _same_sound(path: Path, output: Path, kind: Kind) -> None:
    before, after = _sound(path), _sound(output)
    assert len(before) == len(after) == kind.num_tracks
    for old, new in zip(before, after, strict=True):
        if kind.keeps_packets:
            assert new["packets"] == old["packets"]
        assert new["start"] == pytest.approx(old["start"], abs=MILLISECOND)
        assert new["start"] == pytest.approx(kind.sound_offset, abs=0.05)
        assert new["title"] == old["title"]
        assert new["default"] == old["default"] or kind.num_tracks == 1


def _sound(path: Path) -> list[dict[str, Any]]:
    """Return packets, start (seconds after the first frame), title and default flag of each track."""
    tracks = []
    with av.open(str(path)) as container:
        starts = [
            packet.pts * packet.time_base for packet in container.demux(video=0) if packet.pts is not None
        ]
    for number in range(_num_tracks(path)):
        with av.open(str(path)) as container:
            stream = container.streams.audio[number]
            packets = [packet for packet in container.demux(stream) if packet.size]
            tracks.append(
                {
                    "packets": [bytes(packet) for packet in packets],
                    "start": float(packets[0].pts * packets[0].time_base - min(starts)),
                    "title": stream.metadata.get("title"),
                    "default": bool(stream.disposition & av.stream.Disposition.default),
                }
            )
    return tracks


def _num_tracks(path: Path) -> int:
    with av.open(str(path)) as container:
        return len(container.streams.audio)
