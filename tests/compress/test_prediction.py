"""Prediction over time: the same numbers by both decoders, chunks alone, and only where it saves bytes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress import reference_decoder as reference
from compress.tensors import as_expected, assert_same, network, random_walk, unpack
from vinr.compress import PackedTensors, network_sizes, pack_tensors, prediction, quantized, unpack_fixed
from vinr.compress.entropy import accumulate, differences
from vinr.compress.unpack import Record, open_fixed
from vinr.config import CompressSettings, load_preset
from vinr.encoding.segment import FittedSegment
from vinr.errors import BitstreamError
from vinr.models import StoredTensor, get_model, list_models, validate_architecture
from vinr.video.spec import VideoSpec

DEFAULT = CompressSettings()
# Recorded from this writer when prediction was added; the second decoder reads the same symbols from it.
PINNED_FIXED = (
    "0109080006153e008f02fc0103113e38752e01170d10064b0800a302f30113113a08"
    "922ed374e0f652b3dbb02635be2a67c79dc37b2c576c2ff5"
)
PINNED_CHUNKS = (
    "ef29fa106968d88c0548df7c3f0e5b7d",
    "e863a8d8aa498760e3482238e54be842",
    "d0d41058ecacfb70e20e4c7f",
)


def records_of(packed: PackedTensors, stored: dict[str, StoredTensor]) -> dict[str, Record]:
    layout, _, _ = open_fixed(packed.fixed, as_expected(stored))
    return {record.tensor.name: record for record in layout.records}


def is_predicted(packed: PackedTensors, stored: dict[str, StoredTensor]) -> dict[str, bool]:
    return {name: r.is_predicted for name, r in records_of(packed, stored).items() if r.tensor.is_over_time}


def latents(value: torch.Tensor) -> dict[str, StoredTensor]:
    return {"latents.frame": StoredTensor(value, "latent", per_frame=True)}


def read_by_reference(
    packed: PackedTensors, stored: dict[str, StoredTensor]
) -> dict[str, tuple[list[int], list[int]]]:
    """Return name → symbols and step codes of all tensors, by the decoder written from the document."""
    shapes = {name: (tuple(i.value.shape[i.per_frame :]), i.per_frame) for name, i in stored.items()}
    rows = {name: item.rows_per_step for name, item in stored.items()}
    weights = reference.decode_weights(packed.fixed, shapes, rows)
    num_frames = max([item.value.shape[0] for item in stored.values() if item.per_frame], default=0)
    size = packed.frames_per_chunk
    for number, payload in enumerate(packed.chunks):
        part = reference.decode_chunk(payload, weights, min(size, num_frames - number * size))
        for name, symbols in part.items():
            weights.symbols.setdefault(name, []).extend(symbols)
    return {name: (weights.symbols[name], weights.step_codes[name]) for name in stored}


def assert_both_decoders_agree(
    stored: dict[str, StoredTensor], coding: CompressSettings, packed: PackedTensors
) -> None:
    expected = quantized(stored, coding)
    assert_same(unpack(packed, stored), expected)
    for name, (symbols, codes) in read_by_reference(packed, stored).items():
        steps = np.array([reference.step(code) for code in codes], dtype=np.float32)
        rows = np.array(symbols, dtype=np.float32).reshape(steps.shape[0], -1) * steps[:, None]
        assert np.array_equal(rows.ravel(), expected[name].value.numpy().ravel()), name


# -- differences and sums ------------------------------------------------------------------------------------


@given(st.integers(1, 5), st.lists(st.integers(0, 4), max_size=3), st.integers(0, 9))
def test_sums_undo_differences(num_steps: int, shape: list[int], seed: int) -> None:
    symbols = np.random.default_rng(seed).integers(-(2**20), 2**20, (num_steps, *shape), dtype=np.int32)
    parts = differences(symbols)
    assert [part.shape[0] for part in parts] == [symbols[0].size, symbols[1:].size]
    assert np.array_equal(accumulate(parts, num_steps, "a tensor").reshape(symbols.shape), symbols)


def test_sums_are_bounded_but_reach_the_bound() -> None:
    first, step = np.array([2**24 - 2], dtype=np.int32), np.array([1, 1], dtype=np.int32)
    assert accumulate((first, step), 3, "it").tolist() == [2**24 - 2, 2**24 - 1, 2**24]
    assert accumulate((-first, -step), 3, "it").tolist() == [2 - 2**24, 1 - 2**24, -(2**24)]
    for sign in (1, -1):
        with pytest.raises(BitstreamError, match="it has differences that add up to more than ±16777216"):
            accumulate((sign * first, sign * np.array([1, 2], dtype=np.int32)), 3, "it")


# -- what is written and read --------------------------------------------------------------------------------


@settings(max_examples=15)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["grid", "keyframe", "latent"]),
            st.integers(1, 7),
            st.integers(1, 3),
            st.integers(1, 9),
            st.sampled_from([0.0, 1e-3, 0.05, 3.0]),
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([None, 1, 2, 3, 16, 100]),
    st.sampled_from([CompressSettings(), CompressSettings(grid_bits=10, latent_bits=3)]),
)
def test_any_tensors_over_time_come_back(
    kinds: list, frames_per_chunk: int | None, coding: CompressSettings
) -> None:
    stored = network({"stem": (5, 4)})
    for number, (role, num_steps, rows, columns, pace) in enumerate(kinds):
        if role == "latent":
            value = random_walk(6, rows, columns, pace=pace, seed=number)
            stored[f"latents.{number}"] = StoredTensor(value, "latent", per_frame=True)
        else:
            value = random_walk(num_steps, rows, 4 * columns, pace=pace, seed=number).flatten(0, 1)
            stored[f"tensor{number}"] = StoredTensor(value, role, rows_per_step=rows)
    assert_both_decoders_agree(stored, coding, pack_tensors(stored, coding, frames_per_chunk))


def test_a_chunk_is_decoded_alone() -> None:
    stored = latents(random_walk(21, 4, 10))
    packed = pack_tensors(stored, DEFAULT, 5)
    assert is_predicted(packed, stored) == {"latents.frame": True}
    _, chunks = unpack_fixed(packed.fixed, as_expected(stored), 5)
    expected = quantized(stored, DEFAULT)["latents.frame"].value
    for number in (3, 0, 4, 1, 2):
        frames = slice(5 * number, 5 * number + 5)
        count = min(5, 21 - frames.start)
        assert torch.equal(chunks.decode(packed.chunks[number], count)["latents.frame"], expected[frames])


def test_frame_alone_equals_the_full_decode() -> None:
    """From the bytes of a file to pixels: the model is not fitted, but its latents change slowly."""
    preset = load_preset("hnerv-tiny")
    spec = VideoSpec(num_frames=19, height=32, width=64)
    cls = get_model(preset.model)
    model = cls(validate_architecture(cls, preset.architecture), spec)
    shapes = model.per_frame_shapes()
    values = {name: random_walk(19, *shape) for name, shape in shapes.items()}
    stored = {name: item for name, item in model.stored().items() if not item.per_frame}
    stored |= {f"latents.{name}": StoredTensor(value, "latent", True) for name, value in values.items()}
    packed = pack_tensors(stored, DEFAULT)
    assert packed.frames_per_chunk == 16
    assert all(is_predicted(packed, stored).values())
    segment = FittedSegment.coded(preset, model, packed, spec)
    with segment.open(spec, "cpu") as full:
        frames = full[:]
    for index in (18, 0, 7, 15, 16, 3):
        with segment.open(spec, "cpu") as alone:
            assert torch.equal(alone[index], frames[index])


def test_bytes_are_pinned() -> None:
    time = torch.arange(12, dtype=torch.float32).reshape(12, 1)
    start = torch.tensor([90.0, -130, 25, 7, -60, 110, 0, -15])
    stored = {"grid": StoredTensor((start + time % 5).reshape(24, 4), "grid", rows_per_step=2)}
    stored |= latents((start - time * time)[:8])
    packed = pack_tensors(stored, DEFAULT, 3)
    assert is_predicted(packed, stored) == {"grid": True, "latents.frame": True}
    assert packed.fixed.hex() == PINNED_FIXED
    assert tuple(chunk.hex() for chunk in packed.chunks) == PINNED_CHUNKS
    assert_both_decoders_agree(stored, DEFAULT, packed)


def test_sizes_are_those_of_the_tables() -> None:
    stored = latents(random_walk(21, 40)) | {
        "grid": StoredTensor(random_walk(9, 6, 30).flatten(0, 1), "grid", rows_per_step=6)
    }
    packed = pack_tensors(stored, DEFAULT, 8)
    assert all(is_predicted(packed, stored).values())
    chunks = list(zip((8, 8, 5), packed.chunks, strict=True))
    read = network_sizes(packed.fixed, as_expected(stored), chunks)
    assert read == packed.components
    assert sum(component.num_bytes for component in read) == packed.num_bytes
    ideal_bits = {component.name: component.ideal_bits for component in read}
    record_bytes = sum(record.num_bytes for record in records_of(packed, stored).values())
    # Neither has a histogram, so all that is in the streams are the tensors' symbols.
    surplus_bits = {
        "grid": 8 * (len(packed.fixed) - record_bytes) - ideal_bits["grid"],
        "latents.frame": sum(8 * len(chunk) for chunk in packed.chunks) - ideal_bits["latents.frame"],
    }
    assert -8 < surplus_bits["grid"] < 9
    assert -24 < surplus_bits["latents.frame"] < 27


# -- what is chosen ------------------------------------------------------------------------------------------


def test_prediction_is_chosen_where_it_pays() -> None:
    slow, fast = random_walk(40, 30), torch.randn(40, 30)
    stored = {
        "slow": StoredTensor(slow, "grid", rows_per_step=1),
        "fast": StoredTensor(fast, "grid", rows_per_step=1),
        "still": StoredTensor(torch.ones(40, 30), "keyframe", rows_per_step=1),
        "timeless": StoredTensor(slow, "grid"),
        "latents.fast": StoredTensor(fast, "latent", per_frame=True),
        "latents.slow": StoredTensor(slow, "latent", per_frame=True),
    }
    packed = pack_tensors(stored, DEFAULT)
    assert is_predicted(packed, stored) == {
        "slow": True,
        "fast": False,
        "still": False,
        "latents.fast": False,
        "latents.slow": True,
    }
    sizes = {component.name: component.num_bytes for component in packed.components}
    assert sizes["slow"] < 0.7 * sizes["timeless"]
    assert sizes["latents.slow"] < 0.8 * sizes["latents.fast"]


def without_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vinr.compress.pipeline.predict_tensor", lambda symbol_S, num_steps: None)
    monkeypatch.setattr(prediction, "code_predicted", lambda symbol_TS, frames_per_chunk: None)


@pytest.mark.parametrize(("noise", "frames_per_chunk"), [(0.0, None), (0.2, 4), (0.4, None), (0.7, 4)])
def test_files_never_grow(
    monkeypatch: pytest.MonkeyPatch, noise: float, frames_per_chunk: int | None
) -> None:
    """However fast they change, in tensors large and small, alone and with others that share their models."""
    cases = []
    for num_steps, size in ((3, 8), (12, 30), (40, 110)):
        walk = (1 - noise) * random_walk(num_steps, size) + noise * torch.randn(num_steps, size)
        grids = {f"grid{n}": StoredTensor(walk.roll(n, 1), "grid", rows_per_step=1) for n in range(2)}
        cases.append(network({"stem": (9, 4)}) | grids | latents(walk))
    packed = [pack_tensors(stored, DEFAULT, frames_per_chunk) for stored in cases]
    is_chosen = [any(is_predicted(*pair).values()) for pair in zip(packed, cases, strict=True)]
    assert is_chosen[-1] == (noise <= 0.4)
    without_prediction(monkeypatch)
    for stored, coded, is_smaller in zip(cases, packed, is_chosen, strict=True):
        plain = pack_tensors(stored, DEFAULT, frames_per_chunk)
        assert coded.file_bytes < plain.file_bytes if is_smaller else coded == plain


@pytest.mark.parametrize(
    ("stem", "num_frames", "slice_elements", "frames_per_chunk"),
    [
        (8, 132, 128, 16),
        (8, 5, 128, 8),
        # More than four slices of so many elements would be too much for an empty chunk.
        (8, 20, 1000, 4),
        # Hardly anything of such a network is saved, and a frame is found faster in a chunk of its own.
        (60_000, 16, 10, 1),
    ],
)
def test_chunks_grow_for_prediction(
    monkeypatch: pytest.MonkeyPatch, stem: int, num_frames: int, slice_elements: int, frames_per_chunk: int
) -> None:
    monkeypatch.setattr(prediction, "BUDGET", 4096)
    stored = {"stem": StoredTensor(torch.randn(stem), "weight")}
    stored |= latents(random_walk(num_frames, slice_elements))
    packed = pack_tensors(stored, DEFAULT)
    assert packed.frames_per_chunk == frames_per_chunk
    assert is_predicted(packed, stored) == {"latents.frame": frames_per_chunk > 1}


def test_differences_that_no_model_holds_are_left_out() -> None:
    """Learned steps allow more symbols than a quantiser chooses."""
    ends = torch.tensor([0.0, 100_000]).repeat(20).reshape(40, 1) + random_walk(40, 50)
    stored = {"grid": StoredTensor(ends, "grid", rows_per_step=1)} | latents(ends)
    steps = {"grid": torch.ones(1), "latents.frame": torch.ones(1)}
    packed = pack_tensors(stored, DEFAULT, 4, steps=steps)
    assert not any(is_predicted(packed, stored).values())
    assert_same(unpack(packed, stored), quantized(stored, DEFAULT, steps=steps))


def test_what_readers_would_refuse_is_not_predicted() -> None:
    still = {"grid": StoredTensor(torch.randn(1, 8).repeat(2**18, 1), "grid", rows_per_step=1)}
    packed = pack_tensors(still, DEFAULT)
    assert is_predicted(packed, still) == {"grid": False}
    assert_same(unpack(packed, still), quantized(still, DEFAULT))


# -- what runs over time -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list_models())
def test_models_say_how_many_rows_make_a_step(name: str) -> None:
    preset = load_preset(f"{name}-tiny")
    cls = get_model(preset.model)
    spec = VideoSpec(num_frames=16, height=32, width=64)
    model = cls.on_meta(validate_architecture(cls, preset.architecture), spec)
    for tensor, item in model.stored().items():
        is_over_time = item.role in ("grid", "keyframe")
        assert (item.rows_per_step > 0) == is_over_time, tensor
        if is_over_time:
            assert item.value.shape[0] // item.rows_per_step <= spec.num_frames + 1, tensor


def test_steps_are_whole() -> None:
    for shape, per_frame, rows_per_step in (((7, 2), False, 2), ((4, 2), True, 2)):
        with pytest.raises(ValueError, match="has no steps of 2 rows"):
            StoredTensor(torch.zeros(shape), "grid", per_frame, rows_per_step)


def test_a_tensor_over_time_has_one_quantisation_step() -> None:
    stored = {"grid": StoredTensor(torch.randn(4, 3), "grid", rows_per_step=1)}
    with pytest.raises(ValueError, match="grid runs over time and has 4 quantisation steps"):
        pack_tensors(stored, DEFAULT, steps={"grid": torch.ones(4)})
