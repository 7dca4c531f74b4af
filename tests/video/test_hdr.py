"""HDR metadata: of a display and of light levels, from file to file; what changes by frame is named."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from video.video_clips import MASTER, copy_frames, picture, tags_in, write_clip
from vinr.video.hdr import LIGHT, MASTERING, dynamic_kinds, hdr_of, with_hdr
from vinr.video.picture import side_data_of
from vinr.video.source import open_video
from vinr.video.spec import ColorTags, Hdr

PQ = ColorTags(9, 16, 9, 1)
# Display P3 with D65, 0.005 to 1000 cd/m².
DISPLAY = (13250, 34500, 7500, 3000, 34000, 16000, 15635, 16450, 10_000_000, 50)
METADATA = Hdr(DISPLAY, (1000, 400))


def write_hdr10(path: Path) -> Path:
    """Write what phones and discs hold: H.265 of 10 bits, PQ, BT.2020."""
    parameters = f"log-level=none:master-display={MASTER}:max-cll=1000,400"
    options = {"x265-params": parameters}
    return write_clip(path, 3, codec="libx265", pixel_format="yuv420p10le", options=options, tags=PQ)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize("codec", ["x264", "x265", "av1"])
def test_hdr_video_stays_so(tmp_path: Path, suffix: str, codec: str) -> None:
    source = write_hdr10(tmp_path / "in.mp4")
    with open_video(source) as reader:
        color = reader.spec.color
        assert (color.matrix, color.tags, color.hdr) == ("bt2020", PQ, METADATA)
    assert copy_frames(source, tmp_path / f"a{suffix}", codec) == ()
    assert tags_in(tmp_path / f"a{suffix}") == PQ
    with open_video(tmp_path / f"a{suffix}") as reader:
        assert (reader.spec.color.matrix, reader.spec.color.hdr) == ("bt2020", METADATA)


def test_hlg_needs_no_metadata(tmp_path: Path) -> None:
    tags = ColorTags(9, 18, 9, 1)
    source = write_clip(
        tmp_path / "in.mov", 2, codec="libx265", options={"x265-params": "log-level=none"}, tags=tags
    )
    copy_frames(source, tmp_path / "a.mp4", "x265")
    with open_video(tmp_path / "a.mp4") as reader:
        assert (reader.spec.color.tags, reader.spec.color.hdr) == (tags, Hdr())


# -- side data -----------------------------------------------------------------------------------------------


def mastering(numbers: Sequence[Fraction | int], known: tuple[int, int] = (1, 1)) -> dict[str, bytes]:
    parts = [part for number in map(Fraction, numbers) for part in (number.numerator, number.denominator)]
    return {"MASTERING_DISPLAY_METADATA": MASTERING.pack(*parts, *known)}


#          red                      green               blue                white             luminance
NUMBERS = [0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.329, 0.005, 1000]
RATIONALS = [Fraction(number).limit_denominator(10_000) for number in NUMBERS]


def test_side_data_is_put_in_the_order_of_h265() -> None:
    assert hdr_of(mastering(RATIONALS)) == Hdr(DISPLAY)
    assert hdr_of({"CONTENT_LIGHT_LEVEL": LIGHT.pack(1000, 400)}) == Hdr(light=(1000, 400))
    assert hdr_of({}) == Hdr()


@pytest.mark.parametrize(
    "data",
    [
        mastering(RATIONALS, (0, 1)),
        mastering(RATIONALS, (1, 0)),
        mastering([*RATIONALS[:8], 0, 0]),
        mastering([*RATIONALS[:8], 2000, 1000]),
        mastering([2, *RATIONALS[1:]]),
        mastering([-1, *RATIONALS[1:]]),
        {"MASTERING_DISPLAY_METADATA": struct.pack("22i", *[0] * 20, 1, 1)},
        {"MASTERING_DISPLAY_METADATA": bytes(12)},
        {"CONTENT_LIGHT_LEVEL": bytes(8)},
        {"CONTENT_LIGHT_LEVEL": bytes(3)},
    ],
)
def test_side_data_without_meaning_is_left_out(data: dict[str, bytes]) -> None:
    assert hdr_of(data) == Hdr()


@given(st.integers(1, 2**32 - 1), st.integers(0, 2**16 - 1), st.integers(0, 2**16 - 1))
def test_encoders_are_told_whole_numbers(highest: int, light: int, mean: int) -> None:
    hdr = Hdr((*DISPLAY[:8], highest, 0), (light, mean))
    options = with_hdr("libx265", {"x265-params": "log-level=none"}, hdr)
    coordinates = MASTER.removesuffix("L(10000000,50)")
    expected = f"log-level=none:master-display={coordinates}L({highest},0):max-cll={light},{mean}"
    assert options == {"x265-params": expected}


def test_what_encoders_cannot_state_is_not_told() -> None:
    assert with_hdr("ffv1", {"slices": "1"}, METADATA) == {"slices": "1"}
    huge = Hdr((*[2**32 - 1] * 8, 1, 0), (2**20, 1))
    assert with_hdr("libx264", {"crf": "10"}, huge) == {"crf": "10"}


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_hdr_is_read_beside_side_data_that_pyav_does_not_know(tmp_path: Path) -> None:
    """A PNG with EXIF, which PyAV has no name for."""
    image, content = Image.fromarray(picture(32, 48, 0)), io.BytesIO()
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(content, "PNG", exif=exif)
    display = struct.pack(">8H2I", *DISPLAY[4:6], *DISPLAY[:4], *DISPLAY[6:])
    light = struct.pack(">2I", 10_000_000, 4_000_000)
    chunks = chunk(b"cICP", bytes((9, 16, 0, 1))) + chunk(b"mDCV", display) + chunk(b"cLLI", light)
    head = 8 + len(chunk(b"IHDR", bytes(13)))
    data = content.getvalue()
    path = tmp_path / "a.png"
    path.write_bytes(data[:head] + chunks + data[head:])
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        with pytest.raises(ValueError, match="is not a valid Type"):
            frame.side_data.get("DISPLAYMATRIX")
        assert "DISPLAYMATRIX" in side_data_of(frame)
    with open_video(path) as reader:
        assert (reader.spec.height, reader.spec.width) == (48, 32)
        assert reader.spec.color.tags == ColorTags(9, 16, 0, 2)
        assert reader.spec.color.hdr == METADATA


# -- dynamic metadata ----------------------------------------------------------------------------------------


def bits(*fields: tuple[int, int]) -> bytes:
    """Numbers of so many bits each, filled up to whole bytes."""
    text = "".join(f"{number:0{size}b}" for number, size in fields)
    return int(text + "0" * (-len(text) % 8), 2).to_bytes(-(-len(text) // 8))


#                 country    provider    HDR10+   application 4, version 1
HDR10_PLUS = bits((0xB5, 8), (0x3C, 16), (1, 16), (4, 8), (1, 8),
                  # one window; a display of 400 cd/m², no peaks; three maxima, their mean
                  (1, 2), (400, 27), (0, 1), (1000, 17), (1000, 17), (1000, 17), (500, 17),
                  # no percentiles, bright pixels; no peaks, tone mapping, saturation
                  (0, 4), (10, 10), (0, 1), (0, 1), (0, 1))  # fmt: skip


def escaped(data: bytes) -> bytes:
    """Return the bytes of a NAL unit without anything that looks like a start code."""
    out = bytearray()
    for value in data:
        if out[-2:] == b"\0\0" and value <= 3:
            out.append(3)
        out.append(value)
    return bytes(out)


def test_hdr10_plus_is_left_out_with_a_note(tmp_path: Path) -> None:
    stream = write_hdr10(tmp_path / "in.hevc").read_bytes()
    # A message of kind 4 in a NAL unit of kind 39, before each unit of a picture (kinds 0 to 31).
    message = b"\0\0\1\x4e\1" + escaped(bytes((4, len(HDR10_PLUS))) + HDR10_PLUS + b"\x80")
    with_messages = b""
    for unit in stream.split(b"\0\0\1")[1:]:
        with_messages += (message if unit[0] >> 1 & 63 < 32 else b"") + b"\0\0\1" + unit
    path = tmp_path / "plus.hevc"
    path.write_bytes(with_messages)
    with open_video(path) as reader:
        assert any("its HDR10+ metadata is left out" in note for note in reader.notes)
        assert reader.spec.color.hdr == METADATA
        assert len(reader.read().rgb_NCHW) == 3


def test_kinds_of_dynamic_metadata_are_named_once() -> None:
    kinds = {"DOVI_METADATA": b"", "DOVI_RPU_BUFFER": b"", "DYNAMIC_HDR_PLUS": b""}
    assert dynamic_kinds(kinds) == ("HDR10+", "Dolby Vision")
    assert dynamic_kinds({"SEI_UNREGISTERED": b""}) == ()


def test_ffv1_says_that_it_keeps_no_metadata(tmp_path: Path) -> None:
    (note,) = copy_frames(write_hdr10(tmp_path / "in.mp4"), tmp_path / "a.mkv", "ffv1")
    assert note == "ffv1 cannot store HDR metadata (display, light levels): it is left out"
