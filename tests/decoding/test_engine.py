"""Decoding in order: the same frames whatever runs the network, what is noted, and memory given back."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vinr
from kernel_checks import count_transforms
from pretended_gpu import pretended_gpu
from random_files import random_file
from vinr import device
from vinr.bitstream import Container
from vinr.config import default_model
from vinr.decoding.engine import MAX_BATCH, choose_batch_size, choose_precision
from vinr.decoding.networks import Layout, NetworkLoader
from vinr.decoding.settings import DecodeSettings, load_decode_settings
from vinr.models import VideoModel, get_model, list_models
from vinr.video.spec import Query, VideoSpec, to_levels

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


@pytest.fixture
def transforms(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of what was convolved after a transform, from 3×3 on also where direct ones are as fast."""
    return count_transforms(monkeypatch)


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
    assert torch.equal(found, to_levels(torch.cat(frames), 8))


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
        assert calls == list(device.KEEPING_MALLOC.items())
        frames.close()  # as an error or Ctrl-C does
    assert calls[len(device.KEEPING_MALLOC) :] == [*device.DEFAULT_MALLOC.items(), (0, 0)]


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


@pytest.mark.parametrize(
    ("error", "chosen"), [(0.02, "fp16"), (0.3, "fp32"), (float("nan"), "fp32"), (float("inf"), "fp32")]
)
def test_half_precision_is_chosen_where_it_shows_no_loss(error: float, chosen: str) -> None:
    exact_NCHW = torch.full((1, 3, 4, 4), 0.5)
    precision, note = choose_precision(exact_NCHW, exact_NCHW + error / 255)
    assert precision == chosen
    assert note.startswith(f"precision {chosen}: fp16 moves the first frame by {error:.3f} levels")


@pytest.mark.parametrize(("free_bytes", "size"), [(100, 1), (10_000, 5), (10**9, MAX_BATCH)])
def test_batches_on_gpus_take_half_of_the_free_memory(free_bytes: int, size: int) -> None:
    assert choose_batch_size(free_bytes, 1000) == size


def test_batches_on_gpus_follow_the_first_frame(large_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame is measured, then batches are as large as memory allows, or as the settings say."""

    def lengths(**settings: Any) -> list[int]:
        with vinr.open(large_file, device="cuda", settings=DecodeSettings(**settings)) as video:
            return [len(batch) for batch in video.play([0, 1, 2, 0, 1, 2])]

    with pretended_gpu():
        frame_bytes = torch.cuda.max_memory_allocated()
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (6 * frame_bytes, 10**12))
        assert lengths(precision="fp32") == [1, 3, 2]
        assert lengths(precision="fp32", batch=4) == [4, 2]


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
