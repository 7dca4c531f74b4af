"""vinr on a GPU, without one: a pretended GPU refuses what CUDA refuses (see ``pretended_gpu.py``)."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook

import vinr
from clips import moving_shapes
from pretended_gpu import GPU, MixedDevicesError, place, pretended_gpu
from vinr.compress import pack_tensors
from vinr.config import Preset, default_model, load_preset
from vinr.decoding import onnx_graph
from vinr.decoding.settings import DecodeSettings
from vinr.device import exact_float32, resolve_device
from vinr.encoding.segment import FittedSegment
from vinr.fit import Event, FitResult, fit
from vinr.fit.trainer import Trainer
from vinr.models import VideoModel, list_models
from vinr.tasks import Noise
from vinr.tasks.denoising import measure_denoising
from vinr.tasks.frames import FittedFrames
from vinr.tasks.inpainting_scores import measure_inpainting
from vinr.tasks.interpolation import measure_interpolation
from vinr.video.source import FrameTensor
from vinr.video.spec import Query, VideoSpec

NUM_FRAMES: Final = 4
# One step an epoch, and an optimiser of few operations; the default model keeps its own.
QUICK: Final = ("fit.epochs=1", "fit.batch_size=4", "fit.optimizer=adam")
# The three boosted models share one decoder, whose blocks are all alike.
FEWER_BLOCKS: Final = "architecture.depths=[1, 1, 1]"
PHASES: Final = (
    '[{share = 0.3, sparsity = 0.2, quantization = "qat"},'
    ' {share = 0.3, quantization = "entropy", target_bytes = 3000}]'
)
ALL_PHASES: Final = (
    '[{share = 0.2, sparsity = 0.2, quantization = "qat"}, {share = 0.2, quantization = "noise_ste"},'
    ' {share = 0.2, quantization = "entropy", prior = "factorized"},'
    ' {share = 0.2, quantization = "entropy", target_bytes = 3000}]'
)

# -- the pretended GPU itself --------------------------------------------------------------------------------

REFUSED: Final[dict[str, Callable[[Tensor, Tensor, Tensor], object]]] = {
    "sum": lambda on_gpu, on_cpu, index: on_gpu + on_cpu,
    "cat": lambda on_gpu, on_cpu, index: torch.cat([on_gpu, on_cpu]),
    "product": lambda on_gpu, on_cpu, index: F.linear(on_cpu, on_gpu),
    "index": lambda on_gpu, on_cpu, index: on_cpu[index],
    "value": lambda on_gpu, on_cpu, index: on_gpu.index_put_((index,), on_cpu[:2]),
    "in place": lambda on_gpu, on_cpu, index: on_cpu.mul_(on_gpu),
    "numpy": lambda on_gpu, on_cpu, index: on_gpu.numpy(),
    "generator": lambda on_gpu, on_cpu, index: on_gpu.uniform_(generator=torch.Generator()),
    "gradient": lambda on_gpu, on_cpu, index: on_gpu.requires_grad_().sigmoid().backward(on_cpu),  # type: ignore[no-untyped-call]
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cuda_refuses_is_refused(name: str) -> None:
    with pretended_gpu():
        on_cpu = torch.ones(4, 4)
        on_gpu, index = on_cpu.to("cuda"), torch.tensor([0, 2], device="cuda")
        with pytest.raises(MixedDevicesError):
            REFUSED[name](on_gpu, on_cpu, index)


def test_what_cuda_allows_is_allowed() -> None:
    with pretended_gpu() as gpu:
        layer = torch.nn.Linear(4, 4).to("cuda")
        on_cpu = torch.ones(4, 4)
        on_gpu = on_cpu.to(layer.weight).uniform_(generator=torch.Generator("cuda"))
        out = layer(on_gpu)[torch.tensor([1, 2])] * torch.tensor(2.0) + 1
        out.square().mean().backward()
        on_gpu.copy_(on_cpu)
        assert layer.weight.grad is not None
        assert (out.device, layer.weight.grad.device, on_cpu.device) == (GPU, GPU, torch.device("cpu"))
        assert out.cpu().device.type == out.detach().cpu().numpy().device == "cpu"
        assert sum(gpu.waits.values()) > 3
    assert out.device.type == "cpu"


# -- models --------------------------------------------------------------------------------------------------


def clip(*span_lengths: int) -> FrameTensor:
    spec = VideoSpec(NUM_FRAMES, 32, 64, span_lengths=span_lengths)
    return FrameTensor(moving_shapes(num_frames=NUM_FRAMES, height=32, width=64).rgb_NCHW, spec)


def tiny(model: str, *overrides: str) -> Preset:
    blocks = [FEWER_BLOCKS] if model.endswith("_boost") else []
    return load_preset(f"{model}-tiny", [*QUICK, *blocks, *overrides])


def some_or_slow(*usual: str) -> list[Any]:
    """The default model and ``usual``, and the others with -m slow: for what hardly depends on the model."""
    chosen = {default_model(), *usual}
    return [pytest.param(name, marks=() if name in chosen else pytest.mark.slow) for name in list_models()]


def fit_interrupted(frames: FrameTensor, preset: Preset, checkpoint: Path, *, after: int) -> FitResult:
    """Fit on the GPU, interrupted at the end of round ``after`` and then resumed."""
    events: list[Event] = []

    def interrupt(event: Event) -> None:
        events.append(event)
        if len(events) == after:
            raise KeyboardInterrupt

    device = resolve_device("cuda")
    with pytest.raises(KeyboardInterrupt):
        fit(frames, preset, device=device, checkpoint=checkpoint, on_event=interrupt)
    return fit(frames, preset, device=device, checkpoint=checkpoint, resume=True)


def written(preset: Preset, result: FitResult, frames: FrameTensor) -> bytes:
    assert {place(parameter) for parameter in result.model.parameters()} == {"cuda"}
    packed = pack_tensors(result.model.stored(), preset.compress, steps=result.steps)
    return FittedSegment.of(preset, result, packed, frames.spec).alone("clip", frames.spec).to_bytes()


def check_decoding(file: bytes, *settings: DecodeSettings) -> None:
    """Decode single frames, one between frames, and the whole clip, as it is and as ``settings`` say."""
    with vinr.open(file, device="cuda") as video:
        assert place(torch.cat([video[3:], video.frames(torch.tensor([1.5]))])) == "cpu"
    for chosen in settings:
        with vinr.open(file, device="cuda", settings=chosen) as video:
            shown = torch.cat(list(video.play()))
            assert shown.numpy().shape == (NUM_FRAMES, 3, 32, 64)


@pytest.mark.parametrize("model", list_models())
def test_models_are_fitted_resumed_written_and_decoded(model: str, tmp_path: Path) -> None:
    frames, preset = clip(2, 2), tiny(model, f"fit.phases={PHASES}", "fit.epochs=3")
    with pretended_gpu(bf16=True):
        result = fit_interrupted(frames, preset, tmp_path / "fit", after=2)
        file = written(preset, result, frames)
        check_decoding(file, DecodeSettings(precision="fp32", batch=3))


@pytest.mark.parametrize("model", some_or_slow("ffnerv", "tnerv"))
def test_tasks(model: str) -> None:
    frames, mask = clip(), torch.zeros(NUM_FRAMES, 1, 32, 64, dtype=torch.bool)
    mask[:, :, 8:16, 8:24] = mask[2] = True
    with pretended_gpu():
        measure_inpainting(frames, mask, tiny(model), device="cuda")
        measure_interpolation(frames, tiny(model), device="cuda")


@pytest.mark.parametrize("model", some_or_slow())
def test_denoising(model: str) -> None:
    with pretended_gpu():
        measure_denoising(clip(), tiny(model), Noise("gaussian", 0.1), device="cuda")


@pytest.mark.parametrize("model", some_or_slow())
def test_decoding_in_half_precision(model: str) -> None:
    frames, preset = clip(2, 2), tiny(model)
    with pretended_gpu(bf16=True):
        file = written(preset, fit(frames, preset, device="cuda"), frames)
        check_decoding(file, DecodeSettings(precision="bf16", batch=3))


@pytest.mark.slow  # about two minutes
@pytest.mark.parametrize("model", list_models())
def test_all_phases_and_settings(model: str, tmp_path: Path) -> None:
    frames, preset = clip(2, 2), tiny(model, f"fit.phases={ALL_PHASES}", "fit.epochs=10")
    with pretended_gpu(bf16=True):
        file = written(preset, fit_interrupted(frames, preset, tmp_path / "fit", after=7), frames)
        check_decoding(
            file, DecodeSettings(), DecodeSettings(precision="fp32"), DecodeSettings(compile=False)
        )


# -- arithmetic ----------------------------------------------------------------------------------------------


def test_float32_is_float32_in_convolutions() -> None:
    """cuDNN rounds unless told otherwise. Fits and decoders tell it, and put the setting back."""
    conv, seen = torch.backends.cudnn.conv, set()
    before = conv.fp32_precision
    preset = tiny(default_model(), "fit.precision=fp32")

    def note(module: torch.nn.Module, inputs: object, output: object) -> None:
        # Networks without values, whose cost is counted before they are loaded, compute nothing.
        if isinstance(output, Tensor) and not output.is_meta:
            seen.add(conv.fp32_precision)

    hook = register_module_forward_hook(note)
    try:
        with pretended_gpu(bf16=True):
            result = fit(clip(), preset, device="cuda")
            check_decoding(written(preset, result, clip()), DecodeSettings(precision="fp32"))
            assert FittedFrames(result.model, clip().spec).frames(torch.tensor([0])).ndim == 4
    finally:
        hook.remove()
    assert seen == {"ieee"}
    assert conv.fp32_precision == before


def test_the_setting_of_convolutions_is_put_back_by_the_last_user() -> None:
    conv = torch.backends.cudnn.conv
    before = conv.fp32_precision
    first, second = exact_float32(GPU), exact_float32(GPU)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert conv.fp32_precision == "ieee"
    second.__exit__(None, None, None)
    assert conv.fp32_precision == before
    with exact_float32(torch.device("cpu")):
        assert conv.fp32_precision == before


# -- ONNX, data loading --------------------------------------------------------------------------------------


def test_onnx_gets_its_network_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing a graph makes tensors on the CPU. The tracer itself is left out: it sees no pretence."""

    def export(model: VideoModel, skeleton: VideoModel, name: str) -> bytes:
        assert {place(value) for value in model.state_dict().values()} == {"cpu"}
        model(Query.of_frames(torch.tensor([0])))
        return b""

    monkeypatch.setattr(onnx_graph, "export_graph", export)
    monkeypatch.setattr(onnx_graph, "OnnxRunner", lambda model, graph: model)
    preset = tiny(default_model())
    with pretended_gpu():
        file = written(preset, fit(clip(), preset, device="cuda"), clip())
        check_decoding(file, DecodeSettings(backend="onnx", batch=3))


def test_a_dataset_leaves_the_gpu_to_its_workers(tiny_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def touched() -> int:
        raise AssertionError("CUDA was asked for")

    for name in ("device_count", "is_available"):
        monkeypatch.setattr(torch.cuda, name, touched)
    dataset = vinr.FrameDataset(tiny_file, device="cuda")
    assert len(dataset) == 8
    with pretended_gpu():
        worker = pickle.loads(pickle.dumps(dataset))
        assert place(worker[3]) == "cpu"
    with pytest.raises(AssertionError, match="CUDA was asked for"):
        dataset[3]  # this process has no decoder yet


# -- the default model ---------------------------------------------------------------------------------------


def test_a_fit_goes_on_through_all_phases(tmp_path: Path) -> None:
    preset = tiny(default_model(), f"fit.phases={ALL_PHASES}", "fit.epochs=5", "fit.optimizer=muon")
    with pretended_gpu():
        resumed = fit_interrupted(clip(), preset, tmp_path / "fit", after=3)
        whole = fit(clip(), preset, device="cuda")
        check_decoding(written(preset, whole, clip()), DecodeSettings())
    for one, other in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("budget", [{"epochs": 2}, {"time": "0.3s"}, {"epochs": 3, "size": "6kB"}])
def test_encode(
    tiny_video: Path, tmp_path: Path, budget: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # However slow the machine is: the time is not kept to here.
    monkeypatch.setattr("vinr.encoding.foresee.check_time", lambda work, seconds: None)
    with pretended_gpu():
        vinr.encode(tiny_video, tmp_path / "a.vinr", params="12k", device="auto", **budget)


def test_a_step_waits_for_the_gpu_once() -> None:
    with pretended_gpu() as gpu:
        trainer = Trainer(clip(), load_preset(f"{default_model()}-tiny"), device=GPU)
        batches = trainer.batches.of_epoch(0)
        trainer.model.train()
        gpu.waits.clear()
        trainer.train_on(batches[0])
    assert sum(gpu.waits.values()) <= 1, gpu.waits
