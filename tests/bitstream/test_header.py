"""The header's schema: what it holds, what it leaves out, what it refuses."""

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bitstream.crafting import deflate, header
from vinr.bitstream import Clip, Color, EditRecord, Hdr, Header, Network, Quality, Tags
from vinr.bitstream.header import pack_header, unpack_header
from vinr.errors import BitstreamError

PLAIN: dict[str, Any] = {
    "created_by": "vinr test",
    "clips": [{"name": "clip", "num_frames": 4, "height": 36, "width": 64}],
    "networks": [{"model": "some", "spans": [[0, 0, 4]]}],
}

names = st.text(st.characters(categories=["L", "N", "P"], exclude_characters="/\\"), min_size=1, max_size=40)
plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
edits = st.builds(
    EditRecord,
    crop=st.none() | st.just((1080, 1920)),
    first_frame=st.integers(0, 2**40),
    stream=st.none() | st.integers(0, 2**16),
    deinterlaced=st.booleans(),
)
sei_numbers = st.integers(0, 2**32 - 1)
colors = st.builds(
    Color,
    matrix=st.sampled_from(["bt601", "bt709", "bt2020", "fcc", "smpte240m"]),
    bit_depth=st.sampled_from([8, 10]),
    tags=st.none() | st.builds(Tags, matrix=st.integers(0, 255), range=st.integers(0, 2)),
    hdr=st.none() | st.builds(Hdr, mastering=st.none() | st.tuples(*[sei_numbers] * 10)),
)
qualities = st.builds(Quality, psnr_db=st.floats(-100, 200), ms_ssim=st.none() | st.floats(-1, 1))
clips = st.builds(
    Clip,
    name=names,
    num_frames=st.integers(1, 1000),
    height=st.just(1080),
    width=st.just(1920),
    frame_rate=st.tuples(st.integers(1, 2**31 - 1), st.integers(1, 2**31 - 1)),
    pixel_aspect=st.tuples(st.integers(500, 2000), st.integers(500, 2000)),
    last_seconds=st.none() | st.tuples(st.integers(1, 2**31 - 1), st.integers(1, 2**31 - 1)),
    audio_start=st.tuples(st.integers(-(2**53), 2**53), st.integers(1, 2**31 - 1)),
    color=colors,
    edit=st.none() | edits,
    quality=st.none() | qualities,
)


@settings(max_examples=40)
@given(
    st.lists(clips, min_size=1, max_size=4, unique_by=lambda clip: clip.name),
    st.sampled_from([8, 10]),
    st.dictionaries(names, plain_values),
)
def test_round_trip(clips: list[Clip], bit_depth: int, architecture: dict[str, Any]) -> None:
    clips = [clip.model_copy(update={"bit_depth": bit_depth}) for clip in clips]  # as of one network
    spans = tuple((number, 0, clip.num_frames) for number, clip in enumerate(clips))
    network = Network(model="some", architecture=architecture, spans=spans, frames_per_chunk=2)
    given_header = Header(created_by="vinr test", clips=tuple(clips), networks=(network,))
    assert unpack_header(pack_header(given_header)) == given_header


def test_defaults_are_left_out() -> None:
    plain = zlib.decompress(pack_header(unpack_header(deflate(json.dumps(PLAIN).encode()))), -15)
    assert json.loads(plain) == PLAIN
    assert b" " not in plain.replace(b"vinr test", b"")


def test_the_arithmetic_of_the_fit_is_fp32_unless_stated() -> None:
    header = unpack_header(deflate(json.dumps(PLAIN).encode()))
    assert header.networks[0].precision == "fp32"
    half = {**PLAIN, "networks": [{**PLAIN["networks"][0], "precision": "bf16"}]}
    read = unpack_header(deflate(json.dumps(half).encode()))
    assert read.networks[0].precision == "bf16"
    assert json.loads(zlib.decompress(pack_header(read), -15)) == half


def change(path: str, value: object) -> dict[str, Any]:
    tree = json.loads(json.dumps(PLAIN))
    node: Any = tree
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parents:
        node = node[part]
    node[last] = value
    return tree


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("more", 1, "more: Extra inputs"),
        ("created_by", "", "created_by"),
        ("created_by", 3, "created_by: Input should be a valid string"),
        ("clips", [], "clips"),
        ("networks", [], "networks"),
        ("clips.0.name", "x" * 256, "at most 255"),
        ("clips.0.name", "", "at least 1"),
        ("clips.0.name", "../../etc/passwd", "no slashes"),
        ("clips.0.name", "a\\b", "no slashes"),
        ("clips.0.name", "bell\a", "no control characters"),
        ("clips.0.num_frames", 0, "clips.0.num_frames"),
        ("clips.0.num_frames", 10**7 + 1, "clips.0.num_frames"),
        ("clips.0.num_frames", "4", "valid integer"),
        ("clips.0.num_frames", 4.0, "valid integer"),
        ("clips.0.num_frames", True, "valid integer"),
        ("clips.0.height", 0, "clips.0.height"),
        ("clips.0.width", 2**60, "ends|integer|clips.0.width"),
        ("clips.0.width", 16_385, "clips.0.width"),
        ("clips.0.frame_rate", [0, 1], "clips.0.frame_rate.0"),
        ("clips.0.frame_rate", [30], "clips.0.frame_rate"),
        ("clips.0.frame_rate", [30, 1, 1], "clips.0.frame_rate"),
        ("clips.0.frame_rate", [2**31, 1], "clips.0.frame_rate.0"),
        ("clips.0.color", {"matrix": "ycgco"}, "clips.0.color.matrix"),
        ("clips.0.color", {"bit_depth": 9}, "clips.0.color.bit_depth"),
        ("clips.0.color", {"tags": {"matrix": 256}}, "clips.0.color.tags.matrix"),
        ("clips.0.color", {"tags": {"range": 3}}, "clips.0.color.tags.range"),
        ("clips.0.color", {"hdr": {"mastering": [1] * 9}}, "clips.0.color.hdr.mastering"),
        ("clips.0.color", {"hdr": {"mastering": [1] * 11}}, "clips.0.color.hdr.mastering"),
        ("clips.0.color", {"hdr": {"mastering": [2**32] * 10}}, "clips.0.color.hdr.mastering"),
        ("clips.0.color", {"hdr": {"light": [-1, 1]}}, "clips.0.color.hdr.light.0"),
        ("clips.0.bit_depth", 12, "clips.0.bit_depth"),
        ("clips.0.pixel_aspect", [1, 0], "clips.0.pixel_aspect.1"),
        ("clips.0.pixel_aspect", [65, 1], "at most 64 to 1"),
        ("clips.0.pixel_aspect", [1, 65], "at most 64 to 1"),
        ("clips.0.last_seconds", [0, 1], "clips.0.last_seconds.0"),
        ("clips.0.audio_start", [1, 0], "clips.0.audio_start.1"),
        ("clips.0.audio_start", [2**53 + 1, 1], "clips.0.audio_start|integer"),
        ("clips.0.edit", {"stream": -1}, "clips.0.edit.stream"),
        ("clips.0.edit", {"deinterlaced": 1}, "clips.0.edit.deinterlaced"),
        ("clips.0.edit", {"crop": [0, 5]}, "clips.0.edit.crop"),
        ("clips.0.edit", {"first_frame": 5, "stop_frame": 5}, "the range of frames 5:5 is empty"),
        ("clips.0.has_audio", 1, "clips.0.has_audio"),
        ("clips.0.quality", {"psnr_db": "high"}, "clips.0.quality.psnr_db"),
        ("clips.0.quality", {"psnr_db": 1e9}, "clips.0.quality.psnr_db"),
        ("networks.0.model", "", "networks.0.model"),
        ("networks.0.architecture", [], "networks.0.architecture"),
        ("networks.0.architecture", {"width": 2**53 + 1}, "integer outside"),
        ("networks.0.architecture", {"width": "x" * 1025}, "a text of 1025 characters"),
        ("networks.0.frames_per_chunk", -1, "networks.0.frames_per_chunk"),
        ("networks.0.spans", [], "networks.0.spans"),
    ],
)
def test_refused(path: str, value: object, reason: str) -> None:
    assert unpack_header(deflate(json.dumps(PLAIN).encode())).num_frames == 4
    with pytest.raises(BitstreamError, match=reason) as caught:
        unpack_header(deflate(json.dumps(change(path, value)).encode()))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_too_many_pixels_and_frames() -> None:
    with pytest.raises(ValidationError, match="16384 × 16384 pixels"):
        Clip(name="huge", num_frames=1, height=16_384, width=16_384)
    long = [Clip(name=name, num_frames=6 * 10**6, height=2, width=2) for name in ("a", "b")]
    spans = ((0, 0, 6 * 10**6), (1, 0, 6 * 10**6))
    with pytest.raises(ValidationError, match="12,000,000 frames"):
        header(clips=tuple(long), networks=(Network(model="some", spans=spans),))


@pytest.mark.parametrize(
    "spans",
    [
        [[(0, 0, 5), (1, 0, 1)]],
        [[(1, 0, 1), (0, 3, 2), (0, 0, 3)]],
        [[(0, 2, 3)], [(0, 0, 2), (1, 0, 1)]],
    ],
)
def test_spans_that_tile(spans: list[list[tuple[int, int, int]]]) -> None:
    networks = tuple(Network(model="some", spans=tuple(one)) for one in spans)
    assert [network.num_frames for network in header(networks=networks).networks] == [
        sum(span[2] for span in one) for one in spans
    ]


@pytest.mark.parametrize(
    "spans",
    [
        [(0, 0, 5)],  # clip 1 is not covered
        [(1, 0, 1)],
        [(0, 0, 4), (1, 0, 1)],  # its end is missing
        [(0, 1, 4), (1, 0, 1)],  # its start is missing
        [(0, 0, 2), (0, 3, 2), (1, 0, 1)],  # a gap
        [(0, 0, 3), (0, 2, 3), (1, 0, 1)],  # an overlap
        [(0, 0, 5), (0, 0, 5), (1, 0, 1)],  # twice
        [(0, 0, 6), (1, 0, 1)],  # too long
        [(0, 0, 5), (1, 0, 1), (2, 0, 1)],  # no such clip
        [(0, 0, 5), (1, 0, 1), (-1, 0, 1)],
        [(0, 0, 5), (0, 5, 0), (1, 0, 1)],  # empty
        [(0, 0, 5), (1, 0, 2), (1, 2, -1)],
        [(0, 0, 2**62), (1, 0, 1)],
        [(0, -1, 6), (1, 0, 1)],
    ],
)
def test_spans(spans: list[tuple[int, int, int]]) -> None:
    with pytest.raises(ValidationError, match="span"):
        header(networks=(Network(model="some", spans=tuple(spans)),))


def test_clips_of_one_network_have_one_bit_depth() -> None:
    two = (
        Clip(name="a", num_frames=1, height=2, width=4),
        Clip(name="b", num_frames=1, height=2, width=4, bit_depth=10),
    )
    network = Network(model="some", spans=((0, 0, 1), (1, 0, 1)))
    with pytest.raises(ValidationError, match="different bit depths"):
        header(clips=two, networks=(network,))


def test_clips_of_one_network_have_one_size() -> None:
    two = (
        Clip(name="a", num_frames=1, height=2, width=4),
        Clip(name="b", num_frames=1, height=4, width=2),
    )
    spans = ((0, 0, 1), (1, 0, 1))
    with pytest.raises(ValidationError, match="different sizes"):
        header(clips=two, networks=(Network(model="some", spans=spans),))


def test_same_name_twice() -> None:
    clip = Clip(name="same", num_frames=1, height=2, width=2)
    with pytest.raises(ValidationError, match="same name"):
        header(clips=(clip, clip), networks=(Network(model="some", spans=((0, 0, 1), (1, 0, 1))),))


def test_architecture_must_be_json() -> None:
    for value in (float("nan"), float("inf"), b"bytes", {1, 2}, object()):
        with pytest.raises(ValidationError):
            Network(model="some", architecture={"width": value}, spans=((0, 0, 1),)) and header(
                networks=(Network(model="some", architecture={"width": value}, spans=((0, 0, 5), (1, 0, 1))),)
            )


def test_many_segments_fit() -> None:
    clip = Clip(name="long", num_frames=108_000, height=1080, width=1920)
    networks = tuple(
        Network(model="some", architecture={"width": 64, "strides": [5, 3, 2]}, spans=((0, first, 300),))
        for first in range(0, 108_000, 300)
    )
    packed = pack_header(Header(created_by="vinr test", clips=(clip,), networks=networks))
    assert len(packed) < 6 * len(networks)
    with pytest.raises(ValueError, match="use fewer networks"):
        pack_header(
            header(
                networks=(
                    Network(
                        model="some",
                        architecture={f"key {number}": "x" * 1000 for number in range(1100)},
                        spans=((0, 0, 5), (1, 0, 1)),
                    ),
                )
            )
        )
