"""Files of every released format version decode to the same symbols, by both decoders."""

from __future__ import annotations

import hashlib
import json
from fractions import Fraction
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress import reference_decoder as reference
from vinr.bitstream import Container, Header, SectionKind
from vinr.compress import decode_times, unpack_fixed
from vinr.models import StoredTensor

pytestmark = pytest.mark.numeric

FOLDER = Path(__file__).parent.parent / "golden"
FILES = sorted(FOLDER.glob("*.vinr"))


def record_of(path: Path) -> dict[str, Any]:
    return json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


def digest(symbols: list[int], step_codes: list[int]) -> str:
    both = np.array(symbols, dtype="<i4").tobytes() + np.array(step_codes, dtype="<i4").tobytes()
    return hashlib.sha256(both).hexdigest()


def read_symbols(container: Container, number: int, tensors: dict[str, Any]) -> reference.Weights:
    """Decode a network with the decoder written from the document; latents become symbols of all frames."""
    shapes = {name: (tuple(t["shape"][t["per_frame"] :]), t["per_frame"]) for name, t in tensors.items()}
    weights = reference.decode_weights(container.read(SectionKind.WEIGHTS, number), shapes)
    network = container.header.networks[number]
    for chunk in range(network.num_chunks):
        num_frames = min(network.frames_per_chunk, network.num_frames - chunk * network.frames_per_chunk)
        part = reference.decode_chunk(
            container.read_part(SectionKind.CHUNKS, number, chunk), weights, num_frames
        )
        for name, symbols in part.items():
            weights.symbols.setdefault(name, []).extend(symbols)
    return weights


def test_there_is_a_golden_file() -> None:
    assert [path.stem for path in FILES] == ["v1", "v2"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_container(path: Path) -> None:
    record = record_of(path)
    with Container.open(path) as container:
        container.verify()
        assert container.format_version == int(path.stem.removeprefix("v"))
        # Keys that are newer than the file have their defaults.
        assert container.header == Header.model_validate_json(json.dumps(record["header"]))
        times = decode_times(container.read(SectionKind.TIMES, 0), 7, Fraction(30000, 1001))
        assert list(times.pts or ()) == record["pts"]
        assert times.time_base == Fraction(1, 90000)
        assert hashlib.sha256(container.read(SectionKind.AUDIO, 1)).hexdigest() == record["audio"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_symbols_and_values(path: Path) -> None:
    record = record_of(path)
    with Container.open(path) as container:
        for number, network in enumerate(record["networks"]):
            weights = read_symbols(container, number, network["tensors"])
            expected = {
                name: StoredTensor(torch.empty(t["shape"], device="meta"), t["role"], t["per_frame"])
                for name, t in network["tensors"].items()
            }
            values, chunks = unpack_fixed(
                container.read(SectionKind.WEIGHTS, number),
                expected,
                container.header.networks[number].frames_per_chunk,
            )
            decoded = {name: item.value for name, item in values.items()}
            decoded |= read_latents(container, number, chunks)
            assert decoded.keys() == network["digests"].keys()
            for name, expected_digest in network["digests"].items():
                symbols, codes = weights.symbols[name], weights.step_codes[name]
                assert len(symbols) == prod(network["tensors"][name]["shape"])
                assert digest(symbols, codes) == expected_digest
                steps = np.array([reference.step(code) for code in codes], dtype=np.float32)
                rows = np.array(symbols, dtype=np.float32).reshape(steps.shape[0], -1) * steps[:, None]
                assert np.array_equal(rows.ravel(), decoded[name].numpy().ravel())


def read_latents(container: Container, number: int, chunks: Any) -> dict[str, torch.Tensor]:
    network = container.header.networks[number]
    parts = [
        chunks.decode(
            container.read_part(SectionKind.CHUNKS, number, chunk),
            min(network.frames_per_chunk, network.num_frames - chunk * network.frames_per_chunk),
        )
        for chunk in range(network.num_chunks)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in (parts[0] if parts else ())}


def test_every_kind_of_model_occurs() -> None:
    """So that a change to any of them is noticed here."""
    with Container.open(FOLDER / "v1.vinr") as container:
        record = record_of(FOLDER / "v1.vinr")
        seen = []
        read_model = reference.read_model

        def remember(data: reference.Bytes) -> reference.Model:
            seen.append(read_model(data))
            return seen[-1]

        reference.read_model = remember
        try:
            for number, network in enumerate(record["networks"]):
                read_symbols(container, number, network["tensors"])
        finally:
            reference.read_model = read_model
    assert {model.kind for model in seen if model.size > 1} == {0, 1, 2}
    assert any(model.size == 1 for model in seen)
    assert any(model.shift for model in seen)
