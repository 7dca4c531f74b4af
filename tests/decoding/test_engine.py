"""Decoding in order: the same frames whatever runs the network, what is noted, and memory given back."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vinr
from random_files import random_file, random_network
from vinr import device
from vinr.bitstream import Container
from vinr.config import default_model
from vinr.decoding import engine
from vinr.decoding.engine import Engine
from vinr.decoding.networks import Layout, NetworkLoader, to_uint8
from vinr.decoding.settings import DecodeSettings, load_decode_settings
from vinr.device import use_transforms
from vinr.models import VideoModel, get_model, list_models
from vinr.video.spec import Query, VideoSpec

pytestmark = pytest.mark.numeric

# Large enough that the last convolutions are computed after a transform.
VIDEO = VideoSpec(5, 48, 64)
LENGTHS = (3, 2)
PLACES = [(number, index) for number, length in enumerate(LENGTHS) for index in range(length)]


@pytest.fixture(scope="module")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip in two networks, of 3 and 2 frames."""
    return random_file(tmp_path_factory.mktemp("engine") / "clip.vinr", VIDEO, lengths=LENGTHS)


def played(path: Path, **settings: Any) -> Tensor:
    with vinr.open(path, device="cpu", settings=DecodeSettings(**settings) if settings else None) as video:
        return torch.cat(list(video.play()))


def plain_frame(model: VideoModel, index: int) -> Tensor:
    with torch.inference_mode():
        rgb_NCHW: Tensor = model(Query.of_frames(torch.tensor([index])))
    return rgb_NCHW


# -- layers --------------------------------------------------------------------------------------------------


@pytest.fixture
def transforms(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of what was convolved after a transform, from 3×3 on also where direct ones are as fast."""
    monkeypatch.setitem(device.MIN_KERNEL, torch.backends.cpu.get_cpu_capability(), 3)
    calls = []
    original = torch._nnpack_spatial_convolution

    def counted(feature_NCHW: Tensor, *rest: Any) -> Tensor:
        calls.append(tuple(feature_NCHW.shape))
        return original(feature_NCHW, *rest)

    monkeypatch.setattr(torch, "_nnpack_spatial_convolution", counted)
    return calls


@pytest.mark.parametrize("kernel", [3, 5, 7, 9, 11])
@pytest.mark.parametrize("bias", [True, False])
def test_convolution_after_a_transform_is_the_direct_one(
    transforms: list[tuple[int, ...]], kernel: int, bias: bool
) -> None:
    conv = nn.Conv2d(7, 13, kernel, padding=kernel // 2, bias=bias)
    feature_NCHW = torch.randn(2, 7, 45, 61)
    with torch.inference_mode():
        expected = conv.double()(feature_NCHW.double())
        use_transforms(conv.float())
        found = conv(feature_NCHW)
    assert transforms == [(2, 7, 45, 61)]
    # Measured over 250 shapes: at most 7e-6 of the largest value (Winograd of one input channel).
    assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.Conv2d(4, 4, 3, padding=1, stride=2),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="replicate"),
        nn.Conv2d(4, 4, (5, 1), padding=(2, 0)),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 13, padding=6),
    ],
    ids=str,
)
def test_other_convolutions_stay_as_they_are(transforms: list[tuple[int, ...]], conv: nn.Conv2d) -> None:
    feature_NCHW = torch.randn(1, 4, 64, 64)
    expected = conv(feature_NCHW)
    assert not use_transforms(conv)
    assert torch.equal(conv(feature_NCHW), expected)
    assert transforms == []


def test_small_maps_and_half_precision_are_convolved_directly(transforms: list[tuple[int, ...]]) -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1)
    small_NCHW, large_NCHW = torch.randn(1, 4, 40, 50), torch.randn(1, 4, 64, 64)
    with torch.inference_mode():
        expected = conv(small_NCHW)
        use_transforms(conv)
        assert torch.equal(conv(small_NCHW), expected)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert conv(large_NCHW).dtype == torch.bfloat16
    assert transforms == []


@pytest.mark.parametrize("scale", [2, 3, 5])
def test_depth_to_space_is_the_same_bit_for_bit(scale: int) -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.PixelShuffle(scale))
    feature_NCHW = torch.randn(2, 4 * scale**2, 7, 9)
    expected = model[1](feature_NCHW)
    use_transforms(model)
    assert type(model[1]) is not nn.PixelShuffle
    assert torch.equal(model[1](feature_NCHW), expected)
    by_pixel_NCHW = feature_NCHW.to(memory_format=torch.channels_last)
    assert torch.equal(model[1](by_pixel_NCHW), expected)
    assert model[1](by_pixel_NCHW).is_contiguous(memory_format=torch.channels_last)


def test_nothing_changes_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.nnpack, "is_available", lambda: False)
    conv = nn.Conv2d(1, 1, 3, padding=1)
    assert not use_transforms(conv)
    assert type(conv) is nn.Conv2d


def test_wider_vectors_convolve_3x3_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert not use_transforms(nn.Conv2d(1, 1, 3, padding=1))
    assert use_transforms(nn.Conv2d(1, 1, 5, padding=2))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert not use_transforms(nn.Conv2d(1, 1, 5, padding=2))


@pytest.mark.parametrize("name", list_models())
def test_every_model_shows_the_same_frames(transforms: list[tuple[int, ...]], name: str) -> None:
    plain, fast = random_network(name, VIDEO), random_network(name, VIDEO)
    use_transforms(fast)
    assert fast.stored().keys() == plain.stored().keys()
    # Measured: at most 1e-4 of 255. Some models have no such convolution of so large a map.
    expected, found = plain_frame(plain, 2), plain_frame(fast, 2)
    assert (found - expected).abs().max() <= 1e-3 / 255
    assert transforms or torch.equal(found, expected)


# -- playing -------------------------------------------------------------------------------------------------


def test_playing_shows_the_frames_of_random_access(
    large_file: Path, transforms: list[tuple[int, ...]]
) -> None:
    with vinr.open(large_file, device="cpu") as video:
        alone = torch.stack([video[index] for index in (4, 3, 2, 1, 0)]).flip(0)
        batches = list(video.play())
        assert video.notes == ()
    assert transforms
    assert all(batch.dtype == torch.uint8 and batch.device.type == "cpu" for batch in batches)
    assert torch.equal(torch.cat(batches), alone)


@pytest.mark.parametrize("name", list_models())
def test_every_model_plays_the_frames_of_random_access(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a CPU's kernels let layers be, they are the same for one frame and for many."""
    path = random_file(tmp_path / "clip.vinr", VideoSpec(3, VIDEO.height, VIDEO.width), name=name)
    for kernels in {torch.backends.cpu.get_cpu_capability(), "DEFAULT", "AVX2", "AVX512"}:
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda kernels=kernels: kernels)
        with vinr.open(path, device="cpu") as video:
            alone = torch.stack([video[index] for index in range(len(video))])
            assert torch.equal(video[1:3], alone[1:3]), kernels
            assert torch.equal(torch.cat(list(video.play())), alone), kernels


def test_times_may_be_chosen_repeated_and_between_frames(large_file: Path) -> None:
    with vinr.open(large_file, device="cpu") as video:
        times = [4, 0, 0.5, 2, 3]
        found = torch.cat(list(video.play(times)))
        assert torch.equal(found, video.frames(torch.tensor(times, dtype=torch.float64)))


def test_batches_hold_frames_of_one_network(large_file: Path) -> None:
    with vinr.open(large_file, device="cpu", settings=DecodeSettings(batch=2)) as video:
        assert [len(batch) for batch in video.play()] == [2, 1, 2]


@pytest.mark.parametrize(
    "settings",
    [{"batch": 3}, {"channels_last": True}, {"convolution": "direct"}, {"precision": "fp32"}],
    ids=str,
)
def test_float32_shows_the_same_frames_however_it_is_computed(
    large_file: Path, settings: dict[str, Any]
) -> None:
    expected, found = played(large_file, convolution="direct"), played(large_file, **settings)
    difference = (found.int() - expected.int()).abs()
    assert difference.max() <= 1
    # Values that lie on the edge between two levels: one in ten thousand where arithmetic is 1e-4 levels off.
    assert float((difference > 0).float().mean()) < 1e-3


def test_direct_convolution_is_the_plain_network(large_file: Path, transforms: list[tuple[int, ...]]) -> None:
    found = played(large_file, convolution="direct")
    assert transforms == []
    with Container.open(large_file) as container:
        networks, plain = NetworkLoader(container, torch.device("cpu")), Layout(torch.device("cpu"))
        frames = [plain_frame(networks.model(network, plain), index) for network, index in PLACES]
    assert torch.equal(found, to_uint8(torch.cat(frames)))


def test_bfloat16_is_near_and_settings_hold_for_random_access(large_file: Path) -> None:
    settings = DecodeSettings(precision="bf16")
    with vinr.open(large_file, device="cpu", settings=settings) as video:
        found, alone = torch.cat(list(video.play())), video[3]
    difference = (found.int() - played(large_file).int()).abs().float()
    assert torch.equal(alone, found[3])
    assert 0 < difference.mean() < 1.5  # measured: 0.3 levels


def test_memory_is_given_back(large_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []

    class Library:
        def __init__(self, name: None) -> None:
            """Stand for the library of the process."""

        def mallopt(self, parameter: int, value: int) -> None:
            calls.append((parameter, value))

        def malloc_trim(self, padding: int) -> None:
            calls.append((0, padding))

    monkeypatch.setattr(device.ctypes, "CDLL", Library)
    with vinr.open(large_file, device="cpu") as video:
        frames = video.play()
        next(frames)
        assert calls == list(device.KEEP.items())
        frames.close()  # as an error or Ctrl-C does
    assert calls[len(device.KEEP) :] == [*device.USUAL.items(), (0, 0)]


# -- settings ------------------------------------------------------------------------------------------------


def test_settings_are_read() -> None:
    chosen = load_decode_settings(["decode.batch=4", "decode.precision=bf16", "decode.channels_last=true"])
    assert chosen == DecodeSettings(batch=4, precision="bf16", channels_last=True)
    assert load_decode_settings(backend="onnx") == DecodeSettings(backend="onnx")
    assert load_decode_settings() == DecodeSettings()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("decode.batch=-1", ["decode.batch", "-1"]),
        ("decode.speed=3", ["decode.speed"]),
        ("decode.backend=tvm", ["decode.backend", "'torch' or 'onnx'"]),
        ("decode.channels_last=maybe", ["decode.channels_last", "maybe"]),
        ("fit.epochs=3", ["fit", "decode.precision"]),
        ("batch=3", ["section.key=value"]),
    ],
)
def test_unusable_settings_are_refused(override: str, words: list[str]) -> None:
    with pytest.raises(vinr.UsageError) as refusal:
        load_decode_settings([override])
    assert all(word in str(refusal.value) for word in words)


def test_half_precision_of_gpus_is_refused_on_processors(large_file: Path) -> None:
    with pytest.raises(vinr.UsageError, match=r"decode\.precision fp16 is for GPUs, this device is cpu"):
        vinr.open(large_file, device="cpu", settings=DecodeSettings(precision="fp16"))


# -- compiling, and choosing by measuring --------------------------------------------------------------------


def failing_compiler(function: Any) -> Any:
    def run(*arguments: Any) -> Tensor:
        raise RuntimeError("no compiler found\nmore lines")

    return run


def test_compiled_networks_show_the_same_frames(large_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function: compiled.append(function) or partial(function))
    assert torch.equal(played(large_file, compile=True), played(large_file, channels_last=True))
    assert len(compiled) == 2  # networks


def test_a_failing_compiler_is_noted_and_done_without(
    large_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", failing_compiler)
    with vinr.open(large_file, device="cpu", settings=DecodeSettings(compile=True)) as video:
        found = torch.cat(list(video.play()))
        assert video.notes == (
            "torch.compile failed, decoding continues without it: RuntimeError: no compiler found",
        )
    assert torch.equal(found, played(large_file, channels_last=True))


@pytest.mark.slow
# A part of torch that torch.compile loads.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_the_real_compiler_shows_the_same_frames_or_is_noted(large_file: Path) -> None:
    with vinr.open(large_file, device="cpu", settings=DecodeSettings(compile=True)) as video:
        found, notes = torch.cat(list(video.play())), video.notes
    assert bool(notes) == (shutil.which("g++") is None)
    assert (found.int() - played(large_file).int()).abs().max() <= 1


def test_an_error_of_the_network_is_none_of_the_compiler(
    large_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", failing_compiler)

    def broken(self: VideoModel, *arguments: Any) -> Tensor:
        raise MemoryError("too large")

    with vinr.open(large_file, device="cpu", settings=DecodeSettings(compile=True)) as video:
        video[0]
        monkeypatch.setattr(get_model(default_model()), "decode", broken)
        with pytest.raises(MemoryError, match="too large"):
            video[4]
        assert len(video.notes) == 1


def engine_on(device: str, notes: list[str] | None = None, **settings: Any) -> Engine:
    """Return an engine that never opens a network."""
    on_note = [].append if notes is None else notes.append
    return Engine(None, torch.device(device), DecodeSettings(**settings), on_note)  # type: ignore[arg-type]


@pytest.mark.parametrize(("error", "chosen"), [(0.02, torch.float16), (0.3, None), (float("nan"), None)])
def test_half_precision_is_chosen_where_it_shows_no_loss(
    error: float, chosen: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    run = engine_on("cuda", notes)
    half = lambda query: torch.full((1, 3, 4, 4), 0.5 + error / 255)  # noqa: E731
    monkeypatch.setattr(engine, "in_half", lambda model, dtype: half)
    query = Query.of_frames(torch.tensor([0]))
    assert run.choose_type(lambda query: torch.full((1, 3, 4, 4), 0.5), query) == chosen  # type: ignore[arg-type]
    assert notes[0].startswith("precision fp16" if chosen else "precision fp32")


@pytest.mark.parametrize(("free", "size"), [(100, 1), (10_000, 5), (10**9, engine.MAX_BATCH)])
def test_batches_on_gpus_take_half_of_the_free_memory(
    free: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**12))
    run = engine_on("cuda")
    assert run.batch_size() == 1  # the first frame is measured
    run.bytes_per_frame = 1000
    assert run.batch_size() == size
    assert engine_on("cuda", batch=3).batch_size() == 3
    assert engine_on("cpu").batch_size() == 1


# -- GPUs ----------------------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_gpu_shows_the_frames_of_the_processor(large_file: Path) -> None:
    expected = played(large_file)
    for settings in (
        None,
        DecodeSettings(precision="fp32"),
        DecodeSettings(batch=1),
        DecodeSettings(batch=3),
    ):
        with vinr.open(large_file, device="cuda", settings=settings) as video:
            found = torch.cat(list(video.play()))
        assert (found.int() - expected.int()).abs().max() <= 1
