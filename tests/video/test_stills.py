"""Coded images: close to the picture, the same bytes each time, and nothing hostile decoded."""

from __future__ import annotations

import hashlib
import zlib
from io import BytesIO

import pytest
import torch
from PIL import Image
from torch import Tensor

from clips import moving_shapes
from vinr.errors import BitstreamError
from vinr.video.stills import BOXES, MAX_BOX_BYTES, decode_still, encode_still, image_file


@pytest.fixture(scope="module")
def picture() -> Tensor:
    return moving_shapes(num_frames=2, height=37, width=52).rgb_NCHW[1]


def psnr_db(first: Tensor, second: Tensor) -> float:
    mse = (first.double() - second.double()).square().mean() / 255**2
    return float(-10 * torch.log10(mse))


@pytest.mark.parametrize("chroma", ["4:2:0", "4:4:4"])
def test_round_trip(picture: Tensor, chroma: str) -> None:
    qualities = []
    sizes = []
    for quality in (20, 60, 95):
        coded = encode_still(picture, quality=quality, chroma=chroma)
        decoded = decode_still(coded, height=37, width=52)
        assert decoded.shape == picture.shape
        assert decoded.dtype == torch.uint8
        qualities.append(psnr_db(decoded, picture))
        sizes.append(len(coded))
    assert qualities == sorted(qualities)
    assert sizes == sorted(sizes)
    assert qualities[-1] > 35


def test_full_colour_resolution_is_closer(picture: Tensor) -> None:
    psnr = {
        chroma: psnr_db(
            decode_still(encode_still(picture, quality=80, chroma=chroma), height=37, width=52), picture
        )
        for chroma in ("4:2:0", "4:4:4")
    }
    assert psnr["4:4:4"] > psnr["4:2:0"] + 0.3


def test_same_picture_same_bytes(picture: Tensor) -> None:
    assert encode_still(picture, quality=50) == encode_still(picture.clone(), quality=50)


def png(height: int, width: int) -> bytes:
    out = BytesIO()
    Image.new("RGB", (width, height)).save(out, "PNG")
    return out.getvalue()


def test_refused(picture: Tensor) -> None:
    coded = encode_still(picture, quality=50)
    with pytest.raises(BitstreamError, match="a keyframe has 37×52 pixels, the clip 36×52"):
        decode_still(coded, height=36, width=52)
    for bad in (b"", b"no image", png(37, 52), coded[: len(coded) // 2], coded[:40]):
        with pytest.raises(BitstreamError, match="not a readable AVIF image"):
            decode_still(bad, height=37, width=52)


def test_bombs(picture: Tensor) -> None:
    """An image that claims to be large is refused by what it states, wherever the damage sits."""
    coded = bytearray(image_file(encode_still(picture, quality=50), height=37, width=52))
    size_box = coded.index(b"ispe") + 8
    coded[size_box : size_box + 8] = (16_000).to_bytes(4, "big") * 2
    with pytest.raises(BitstreamError, match="a keyframe"):
        decode_still(bytes(coded), height=37, width=52)


def test_damage_ends_in_the_named_error(picture: Tensor) -> None:
    """Bytes that a checksum would not catch: the decoder reports it, or gives a picture of the right size."""
    coded = encode_still(picture, quality=50)
    generator = torch.Generator().manual_seed(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(coded)
        place = int(torch.randint(len(coded), (1,), generator=generator))
        damaged[place] ^= 1 << int(torch.randint(8, (1,), generator=generator))
        try:
            assert decode_still(bytes(damaged), height=37, width=52).shape == (3, 37, 52)
        except BitstreamError:
            refused += 1
    assert refused > 10


def test_what_is_no_image_is_said_without_the_name_of_an_object() -> None:
    with pytest.raises(BitstreamError, match=r"not a readable AVIF image$"):
        decode_still(b"no image", height=8, width=8)


def test_boxes_are_stored_by_reference(picture: Tensor) -> None:
    coded = encode_still(picture, quality=50)
    image = image_file(coded, height=37, width=52)
    assert image[4:8] == b"ftyp"
    assert len(coded) < len(image) - 200
    # What is not shortened, as in files of before, is read as well.
    assert image_file(image, height=37, width=52) == image
    assert torch.equal(decode_still(image, height=37, width=52), decode_still(coded, height=37, width=52))


def test_an_image_of_several_blocks() -> None:
    generator = torch.Generator().manual_seed(1)
    noise = torch.randint(0, 256, (3, 200, 320), dtype=torch.uint8, generator=generator)
    coded = encode_still(noise, quality=100, chroma="4:4:4")
    assert len(coded) > 2 * 0xFFFF
    assert decode_still(coded, height=200, width=320).shape == (3, 200, 320)


def test_the_dictionary_never_changes() -> None:
    """It is part of the format: files could not be read with another one."""
    digest = hashlib.sha256(BOXES).hexdigest()
    assert digest == "b9ee21de3667cfe0997268fbbc17044570d7ec918e18e706cba29dc3cb5d428b"


@pytest.mark.parametrize("what", ["bomb", "cut", "more"])
def test_hostile_streams_are_refused(picture: Tensor, what: str) -> None:
    coded = encode_still(picture, quality=50)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, BOXES)
    bomb = deflate.compress(bytes(100 * MAX_BOX_BYTES)) + deflate.flush()
    stream = {"bomb": bomb, "cut": coded[:-1], "more": coded + b"!"}[what]
    with pytest.raises(BitstreamError, match=r"not a readable AVIF image$"):
        decode_still(stream, height=37, width=52)
