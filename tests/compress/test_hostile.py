"""Sections whose checksum would fit but whose content is meant to hurt: refused, with little memory."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator

import pytest
import torch

from compress.tensors import SMALL, as_expected, network, random_walk
from vinr.bitstream import pack_varint, pack_zigzag
from vinr.compress import network_sizes, pack_tensors, unpack_fixed
from vinr.compress.unpack import open_fixed
from vinr.config import CompressSettings
from vinr.errors import BitstreamError
from vinr.models import StoredTensor

MAX_MEMORY = 64 * 2**20
STORED = network(SMALL, num_frames=6) | {
    "grid": StoredTensor(random_walk(5, 2, 20).reshape(10, 20), "grid", rows_per_step=2),
    "latents.slow": StoredTensor(random_walk(6, 50), "latent", per_frame=True),
}
PACKED = pack_tensors(STORED, CompressSettings(weight_scales="channel"), 2)
STEP, STEP_VALUE = b"\x00\x28", 2.0**-13


@pytest.fixture(autouse=True)
def _cheap() -> Iterator[None]:
    tracemalloc.start()
    yield
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MAX_MEMORY


def meta(*shape: int, per_frame: bool = False, rows_per_step: int = 0) -> StoredTensor:
    value = torch.empty(shape, device="meta")
    return StoredTensor(value, "latent" if per_frame else "weight", per_frame, rows_per_step)


def model(size: int = 10, layout: int = 0, centre: int = 0, scale: int = 20, form: int = 0x50) -> bytes:
    return pack_zigzag(0) + pack_varint(size) + bytes([layout]) + pack_varint(centre) + bytes([scale, form])


BELL = model(layout=0x10, form=0)


def constant(symbol: int) -> bytes:
    return pack_zigzag(symbol) + b"\1"


def refused(
    payload: bytes, expected: dict[str, StoredTensor], reason: str, frames_per_chunk: int = 0
) -> None:
    with pytest.raises(BitstreamError, match=reason) as caught:
        unpack_fixed(payload, expected, frames_per_chunk)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_what_is_allowed() -> None:
    tensors, _ = unpack_fixed(b"\0" + model() + STEP, {"a": meta(30)}, 0)
    assert tensors["a"].value.shape == (30,)
    unpack_fixed(b"\0" + model() + STEP + b"\2" + STEP, {"a": meta(30), "b": meta(2, 3)}, 0)
    unpack_fixed(b"\0" + model(layout=0x10, form=0) + STEP, {"a": meta(6, 2, per_frame=True)}, 1)
    unpack_fixed(b"\1" + model() + b"\0" + model() + bytes(4), {"a": meta(5, 6)}, 0)
    unpack_fixed(b"\1" + model() + b"\1" + STEP, {"a": meta(6, rows_per_step=2)}, 0)
    unpack_fixed(b"\1" + BELL + b"\0" + BELL + STEP, {"a": meta(6, per_frame=True)}, 1)


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        (pack_zigzag(0) + pack_varint(2**62), "above 131072"),
        (pack_zigzag(0) + pack_varint(2**17 + 1), "above 131072"),
        (pack_zigzag(2**60) + pack_varint(2), "above"),
        (pack_zigzag(0) + pack_varint(0), "0 symbols"),
        (model(size=4097), "layout 0x00"),
        (model(size=2**17, layout=4), "layout 0x04"),
        (model(layout=6), "layout 0x06"),
        (model(layout=0x30), "layout 0x30"),
        (model(centre=10), "above 9"),
        (model(centre=2**60), "above 9"),
        (model(scale=128), "scale 128"),
        (model(form=3), "form 0x03"),
        (model(layout=0x10, form=0x50), "form 0x50"),
    ],
)
def test_model_definitions(definition: bytes, reason: str) -> None:
    refused(b"\0" + definition + STEP + bytes(20), {"a": meta(30)}, reason)


@pytest.mark.parametrize(
    ("payload", "tensor", "reason"),
    [
        (b"\2" + STEP, meta(3), "uses model 0, 0 are defined"),
        (pack_varint(2**62) + STEP, meta(3), "uses model"),
        (pack_varint(2**62 + 1) + STEP, meta(3, 3), "uses model"),
        (b"\0" + model() + b"\xff\xff", meta(3), "step code 65535"),
        (b"\0" + model() + b"\x00\x40", meta(3), "step code 16384"),
        (b"\1" + model() + b"\0" + model(), meta(3), "no channels"),
        (b"\1" + model() + b"\5", meta(3, 3), "uses model 4, 1 are defined"),
        (b"\1" + model() + b"\0" + pack_zigzag(1023) + model()[1:], meta(3, 3), "10 steps from 1023"),
        (b"\1" + model() + b"\0" + pack_zigzag(-1) + model()[1:], meta(3, 3), "10 steps from -1"),
        (b"\0" + model() + STEP, meta(6, 2, per_frame=True), "adaptive model for a"),
        (b"\1" + model() + b"\0" + BELL + STEP, meta(6, 2, per_frame=True), "adaptive model for a"),
        (b"\1" + BELL + b"\0" + model() + STEP, meta(6, 2, per_frame=True), "adaptive model for a"),
        (b"\1" + BELL + b"\3" + STEP, meta(6, 2, per_frame=True), "uses model 2, 1 are defined"),
        (b"\1" + BELL + b"\0" + BELL, meta(6, 2, per_frame=True), "cut short"),
        (b"\1" + BELL + b"\1" + b"\xff\xff", meta(6, 2, rows_per_step=3), "step code 65535"),
    ],
)
def test_records(payload: bytes, tensor: StoredTensor, reason: str) -> None:
    refused(payload, {"a": tensor}, reason, frames_per_chunk=int(tensor.per_frame))


def test_truncated_records() -> None:
    side_bytes = sum(component.num_bytes for component in PACKED.components)
    assert side_bytes > 0
    records = b"\1" + model() + b"\0" + model() + b"\2" + STEP
    expected = {"a": meta(3, 3), "b": meta(4)}
    unpack_fixed(records, expected, 0)
    for end in range(len(records)):
        refused(records[:end], expected, "cut short")


def test_element_budget() -> None:
    shapes = [(10**6, 10**6), (2**20 + 8192 * 17 + 1,), (2**20, 2**20, 2**20)]
    for shape in shapes:
        payload = b"\0" + model() + STEP + bytes(8)
        assert len(payload) == 17
        refused(
            payload,
            {"a": meta(*shape)},
            f"WEIGHTS of 17 bytes would hold {torch.Size(shape).numel()} ",
        )
    payload = b"\0" + pack_zigzag(0) + b"\1" + STEP
    _, chunks = unpack_fixed(payload, {"a": meta(1, 1000, 1000, per_frame=True)}, 1)
    chunks.decode(b"", 1)
    with pytest.raises(BitstreamError, match="a chunk of latents of 0 bytes would hold 2000000 values"):
        chunks.decode(b"", 2)


@pytest.mark.parametrize(
    ("first", "difference", "num_steps", "is_allowed"),
    [
        (0, 2**24, 2, True),
        (2**24 - 3, 1, 4, True),
        (-(2**24), 1, 1000, True),
        (2**24 - 3, 1, 5, False),
        (-(2**24), -1, 2, False),
        # Sums that come back to 0 where 32 bits wrap.
        (2**24, 2**24, 256, False),
        (0, 2**24, 257, False),
        (-(2**24), -(2**24), 2**19, False),
    ],
)
def test_sums_of_differences(first: int, difference: int, num_steps: int, is_allowed: bool) -> None:
    payload = b"\1" + constant(difference) + b"\0" + constant(first) + STEP
    grid, latents = {"a": meta(2 * num_steps, rows_per_step=2)}, {"a": meta(1, 2, per_frame=True)}
    _, chunks = unpack_fixed(payload, latents, num_steps)
    if is_allowed:
        value = unpack_fixed(payload, grid, 0)[0]["a"].value
        assert value[-1].item() == (first + (num_steps - 1) * difference) * STEP_VALUE
        assert torch.equal(chunks.decode(b"", num_steps)["a"].ravel(), value)
        return
    reason = "differences that add up to more than ±16777216"
    refused(payload, grid, f"section WEIGHTS has {reason}")
    with pytest.raises(BitstreamError, match=f"a chunk of latents has {reason}"):
        chunks.decode(b"", num_steps)


def test_histograms_with_levels_outside() -> None:
    definition = pack_zigzag(0) + pack_varint(200) + b"\x20"
    rng = random.Random(0)
    reasons = set()
    for _ in range(50):
        with pytest.raises(BitstreamError, match=r"histogram with levels outside|not a stream") as caught:
            unpack_fixed(b"\0" + definition + STEP + rng.randbytes(100), {"a": meta(30)}, 0)
        reasons.add(str(caught.value))
    assert any("levels outside" in reason for reason in reasons)


def test_garbage() -> None:
    """Any bytes decode to something or are refused; nothing else happens."""
    expected = as_expected(STORED)
    predicted = [r.tensor.name for r in open_fixed(PACKED.fixed, expected)[0].records if r.is_predicted]
    assert predicted == ["grid", "latents.slow"]
    rng = random.Random(0)
    num_refused = 0
    for attempt in range(300):
        damaged = bytearray(PACKED.fixed)
        if attempt % 3 == 0:
            damaged = bytearray(rng.randbytes(rng.randint(0, 300)))
        for _ in range(rng.randint(1, 4)):
            if damaged:
                damaged[rng.randrange(min(len(damaged), 120))] = rng.randrange(256)
        chunk = rng.randbytes(rng.randint(0, 60))
        try:
            _, chunks = unpack_fixed(bytes(damaged), expected, 2)
            chunks.decode(chunk, 2)
        except BitstreamError:
            num_refused += 1
            continue
        assert sum(size.num_bytes for size in network_sizes(bytes(damaged), expected)) == len(damaged)
    assert 100 < num_refused < 300


def test_every_truncation_of_a_network_is_refused_or_decodes() -> None:
    expected = as_expected(STORED)
    for end in range(0, len(PACKED.fixed), 7):
        try:
            tensors, _ = unpack_fixed(PACKED.fixed[:end], expected, 2)
        except BitstreamError:
            continue
        assert all(torch.isfinite(item.value).all() for item in tensors.values())
