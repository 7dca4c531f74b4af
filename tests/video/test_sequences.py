"""Groups of frames as streams: close to the pictures, the same bytes again, and nothing hostile decoded."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from torch import Tensor

from clips import moving_shapes
from vinr.errors import BitstreamError, UsageError
from vinr.video.sequences import (
    FRAME_HEADER,
    REPEATED_HEADER,
    TEMPORAL_DELIMITER,
    can_be_sequence,
    coded_size,
    decode_sequence,
    encode_sequence,
    rate_factor,
)
from vinr.video.stills import decode_still, encode_still

HEIGHT, WIDTH, COUNT = 37, 52, 5


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return moving_shapes(num_frames=COUNT, height=HEIGHT, width=WIDTH).rgb_NCHW


@pytest.fixture(scope="module")
def coded(pictures: Tensor) -> bytes:
    return encode_sequence(list(pictures), quality=50)


def decoded(coded: bytes, count: int = COUNT, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    return decode_sequence(coded, num_frames=count, height=height, width=width)


def psnr_db(first: Tensor, second: Tensor) -> float:
    mse = (first.double() - second.double()).square().mean() / 255**2
    return float(-10 * torch.log10(mse))


def test_round_trip(pictures: Tensor) -> None:
    qualities, sizes = [], []
    for quality in (20, 60, 95):
        stream = encode_sequence(list(pictures), quality=quality)
        shown = decoded(stream)
        assert shown.shape == pictures.shape
        assert shown.dtype == torch.uint8
        qualities.append(psnr_db(shown, pictures))
        sizes.append(len(stream))
    assert qualities == sorted(qualities)
    assert sizes == sorted(sizes)
    assert qualities[-1] > 33


def test_frames_come_in_their_order(pictures: Tensor, coded: bytes) -> None:
    shown = decoded(coded)
    for number in range(COUNT):
        nearest = max(range(COUNT), key=lambda other: psnr_db(shown[number], pictures[other]))
        assert nearest == number


@pytest.mark.parametrize("size", [(1, 1), (3, 70), (4, 4), (33, 64), (64, 65)])
@pytest.mark.parametrize("count", [1, 2, 17])
def test_any_size_and_number(size: tuple[int, int], count: int) -> None:
    grey_TCHW = torch.arange(count).mul(12).add(20).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, *size)
    shown = decoded(encode_sequence(list(grey_TCHW), quality=70), count, *size)
    assert shown.shape == grey_TCHW.shape
    assert (shown.int() - grey_TCHW.int()).abs().max() <= 12


def test_colours_are_kept() -> None:
    """Flat colours, of which nothing is lost but rounding: matrix and range are the same both ways."""
    colours = torch.tensor([[250, 10, 10], [10, 250, 10], [10, 10, 250], [255, 255, 255], [0, 0, 0]])
    flat_TCHW = colours.to(torch.uint8).view(-1, 3, 1, 1).expand(-1, 3, 32, 32)
    shown = decoded(encode_sequence(list(flat_TCHW), quality=95), 5, 32, 32)
    assert (shown.int() - flat_TCHW.int()).abs().max() <= 4


def test_same_pictures_same_bytes(pictures: Tensor, coded: bytes) -> None:
    assert encode_sequence(list(pictures.clone()), quality=50) == coded


def test_fewer_bytes_than_images(pictures: Tensor) -> None:
    """Frames that resemble each other, at the same quality: no worse, in fewer bytes."""
    stream = encode_sequence(list(pictures), quality=50)
    images = [encode_still(picture, quality=50, chroma="4:4:4") for picture in pictures]
    assert len(stream) < sum(map(len, images))
    shown = torch.stack([decode_still(image, height=HEIGHT, width=WIDTH) for image in images])
    assert abs(psnr_db(decoded(stream), pictures) - psnr_db(shown, pictures)) < 3


def test_quality_is_a_rate_factor() -> None:
    factors = [rate_factor(quality) for quality in range(101)]
    assert factors == sorted(factors, reverse=True)
    assert (factors[0], factors[100]) == (63, 1)
    # In smaller groups the first frame, which gets most of the bytes, counts more.
    for quality in (10, 50, 80):
        by_number = [rate_factor(quality, count) for count in (2, 4, 8, 16, 64)]
        assert by_number == sorted(by_number, reverse=True)
        assert by_number[0] > by_number[3] == by_number[4]
        assert rate_factor(quality, 1) == rate_factor(quality)


def test_sizes_that_the_encoder_takes() -> None:
    assert coded_size(1, 37) == (4, 38)
    assert can_be_sequence(1, 1)
    assert can_be_sequence(8703, 2)
    assert not can_be_sequence(8705, 2)
    tall = torch.zeros(3, 8710, 4, dtype=torch.uint8)
    with pytest.raises(UsageError, match=r"cannot encode frames of 8710x4.*keyframe_group to 1"):
        encode_sequence([tall], quality=50)


def test_codecs_that_are_not_there_are_named(
    pictures: Tensor, coded: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vinr.video.sequences.SVT_AV1", "libnone")
    monkeypatch.setattr("vinr.video.sequences.DECODER", "libnone")
    assert not can_be_sequence(HEIGHT, WIDTH)
    with pytest.raises(UsageError, match=r"need libnone, which this libav lacks: set .*keyframe_group to 1"):
        encode_sequence(list(pictures), quality=50)
    with pytest.raises(UsageError, match="need libnone, which this libav lacks: install"):
        decoded(coded)


def test_memory_that_runs_out_is_no_damage(coded: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def decode(self, packet: object) -> None:
            raise av.error.MemoryError(12, "Cannot allocate memory")

    monkeypatch.setattr("vinr.video.sequences._context", lambda *_: Full())
    with pytest.raises(MemoryError):
        decoded(coded)


# -- damage --------------------------------------------------------------------------------------------------


def test_another_number_of_frames_is_refused(coded: bytes) -> None:
    for count in (COUNT - 1, COUNT + 1, 64):
        with pytest.raises(BitstreamError, match=f"a group of {count} keyframes shows {COUNT}"):
            decoded(coded, count)


def test_another_size_is_refused(coded: bytes) -> None:
    for height, width in ((HEIGHT + 20, WIDTH), (HEIGHT, WIDTH + 2), (WIDTH, HEIGHT + 1)):
        with pytest.raises(BitstreamError, match="a keyframe of a group has 38×52 pixels"):
            decoded(coded, height=height, width=width)


def test_larger_frames_are_refused_by_what_they_state() -> None:
    """Before there is memory for them: the decoder is told how many pixels there may be."""
    large = torch.zeros(3, 512, 512, dtype=torch.uint8)
    with pytest.raises(BitstreamError, match="not a readable AV1 stream"):
        decoded(encode_sequence([large], quality=50), 1, 16, 16)


def test_too_many_frames_are_refused_before_they_are_decoded(
    coded: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vinr.video.sequences._context", None)
    with pytest.raises(BitstreamError, match=r"a group of 5 keyframes has \d+ coded ones"):
        decoded(coded * 9)
    # Shown again and again: three bytes a frame, by a header or by one that repeats none.
    for kind in (FRAME_HEADER, REPEATED_HEADER):
        with pytest.raises(BitstreamError, match="a group of 5 keyframes has 1000"):
            decoded(bytes([kind << 3 | 2, 1, 0x88]) * 1000)


@pytest.mark.parametrize(
    "bad",
    [
        b"no stream",
        b"\x12",
        b"\x32\xff\xff\xff\xff\xff\xff",
        b"\x32\x7f",
        b"\x30\x00",
        b"\xb2\x00",
        b"\x36",
    ],
)
def test_what_is_no_stream_is_refused(bad: bytes) -> None:
    with pytest.raises(BitstreamError, match="not a readable AV1 stream"):
        decoded(bad)


def test_nothing_shows_nothing() -> None:
    with pytest.raises(BitstreamError, match="a group of 5 keyframes has 0 coded ones"):
        decoded(b"")


def test_cut_anywhere_it_is_refused(coded: bytes) -> None:
    for stop in range(0, len(coded), 29):
        with pytest.raises(BitstreamError, match=r"AV1 stream|shows|coded ones"):
            decoded(coded[:stop])


def test_damage_ends_in_the_named_error(coded: bytes) -> None:
    """Bytes that a checksum would not catch: the decoder reports it, or gives pictures of the right size."""
    generator = torch.Generator().manual_seed(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(coded)
        place = int(torch.randint(len(coded), (1,), generator=generator))
        damaged[place] ^= 1 << int(torch.randint(8, (1,), generator=generator))
        try:
            assert decoded(bytes(damaged)).shape == (COUNT, 3, HEIGHT, WIDTH)
        except BitstreamError:
            refused += 1
    assert refused > 10


def test_other_samples_are_refused() -> None:
    """Ten bits, which another encoder could write."""
    context = VideoCodecContext.create("libsvtav1", "w")
    context.height, context.width, context.pix_fmt = 64, 64, "yuv420p10le"
    context.time_base, context.framerate = Fraction(1, 8), Fraction(8)
    frame = VideoFrame.from_ndarray(np.zeros((96, 64), np.uint16), format="yuv420p10le")
    frame.pts, frame.time_base = 0, Fraction(1, 8)
    stream = b"".join(map(bytes, [*context.encode(frame), *context.encode(None)]))
    with pytest.raises(BitstreamError, match="a keyframe of a group has 64×64 pixels \\(yuv420p10le\\)"):
        decoded(stream, 1, 64, 64)


def test_temporal_delimiters_are_left_out_and_may_be_there(coded: bytes) -> None:
    delimiter = bytes([TEMPORAL_DELIMITER << 3 | 2, 0])
    assert not coded.startswith(delimiter)
    assert torch.equal(decoded(delimiter + coded), decoded(coded))
