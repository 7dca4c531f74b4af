"""The choice of arithmetic: what is set is obeyed, what is automatic follows from the hardware alone."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from clips import MemoryClip, moving_shapes
from vinr.config import Preset, load_preset
from vinr.errors import UsageError
from vinr.fit import Event, Resumed, RoundDone, fit
from vinr.fit import precision as precision_module
from vinr.fit.precision import Precision, keep_precision, resolve_precision


def pretend_cpu(
    monkeypatch: pytest.MonkeyPatch, capability: str, *, avx512_bf16: bool = False, amx: bool = False
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)


def pretend_gpus(monkeypatch: pytest.MonkeyPatch, *, with_bf16: set[int]) -> None:
    """GPUs of which some have bfloat16; GPU 0 is the current one."""
    current = [0]

    class Chosen(nullcontext[None]):
        def __init__(self, device: torch.device) -> None:
            super().__init__()
            self.index = device.index or 0

        def __enter__(self) -> None:
            current.append(self.index)

        def __exit__(self, *error: object) -> None:
            current.pop()

    monkeypatch.setattr(torch.cuda, "device", Chosen)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: current[-1] in with_bf16)


@pytest.mark.parametrize("device", ["cpu", "cuda", torch.device("cuda", 1)])
def test_fp32_is_obeyed(device: str | torch.device) -> None:
    assert resolve_precision("fp32", device) == Precision("fp32")
    assert Precision("fp32").dtype is None


def test_bf16_is_obeyed_on_the_cpu() -> None:
    chosen = resolve_precision("bf16", "cpu")
    assert (chosen.dtype, str(chosen)) == (torch.bfloat16, "bf16 (as set)")


def test_unknown_name_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown precision 'fp16'; there are auto, fp32, bf16"):
        resolve_precision("fp16", "cpu")


@pytest.mark.parametrize(
    ("capability", "avx512_bf16", "amx", "name"),
    [
        ("AVX512", True, False, "bf16"),
        ("AVX512", False, True, "bf16"),
        ("AVX512", False, False, "fp32"),
        ("AVX2", True, True, "fp32"),  # PyTorch was told not to use them
        ("DEFAULT", False, False, "fp32"),
    ],
)
def test_auto_follows_the_features_of_the_cpu(
    capability: str, avx512_bf16: bool, amx: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_cpu(monkeypatch, capability, avx512_bf16=avx512_bf16, amx=amx)
    chosen = resolve_precision("auto", "cpu")
    assert chosen.name == name
    assert str(chosen) == ("bf16 (auto: this CPU has bf16 instructions)" if name == "bf16" else "fp32")


def test_a_torch_without_the_questions_stays_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_cpu(monkeypatch, "AVX512")
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert resolve_precision("auto", "cpu").name == "fp32"


def test_the_gpu_that_is_used_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpus(monkeypatch, with_bf16={1})
    assert str(resolve_precision("auto", "cuda:1")) == "bf16 (auto: this GPU has bf16 instructions)"
    assert resolve_precision("bf16", torch.device("cuda", 1)).name == "bf16"
    assert resolve_precision("auto", "cuda:0").name == resolve_precision("auto", "cuda").name == "fp32"
    with pytest.raises(UsageError, match="no bfloat16"):
        resolve_precision("bf16", "cuda:0")


def test_other_devices_stay_in_fp32() -> None:
    assert resolve_precision("auto", "meta").name == "fp32"


def test_a_fit_keeps_the_arithmetic_it_was_begun_in(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Precision("fp32")
    assert keep_precision("fp32", here, "cpu") is here
    kept = keep_precision("bf16", here, "cpu")
    assert (kept.name, str(kept)) == ("bf16", "bf16 (as when the fit began; this machine would choose fp32)")
    assert keep_precision("fp32", Precision("bf16", "as set"), "cpu").dtype is None
    pretend_gpus(monkeypatch, with_bf16=set())
    with pytest.raises(UsageError, match="no bfloat16"):
        keep_precision("bf16", here, "cuda:0")


# -- fits ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip() -> MemoryClip:
    return moving_shapes(num_frames=4, height=16, width=32)


@pytest.fixture(scope="module")
def preset() -> Preset:
    return load_preset("nerv-tiny", ["fit.epochs=3", "fit.precision=auto"])


def test_the_arithmetic_is_decided_once(
    clip: MemoryClip, preset: Preset, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def changing() -> bool:
        asked.append(1)
        return len(asked) % 2 == 1

    monkeypatch.setattr(precision_module, "cpu_has_bf16", changing)
    assert fit(clip, preset).precision == "bf16"
    assert len(asked) == 1


@pytest.mark.parametrize("first", [True, False])
def test_a_resumed_fit_keeps_its_arithmetic(
    first: bool, clip: MemoryClip, preset: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, RoundDone):
            raise KeyboardInterrupt

    path = tmp_path / "fit.safetensors"
    monkeypatch.setattr(precision_module, "cpu_has_bf16", lambda: first)
    whole = fit(clip, preset)
    with pytest.raises(KeyboardInterrupt):
        fit(clip, preset, checkpoint=path, on_event=stop)
    monkeypatch.setattr(precision_module, "cpu_has_bf16", lambda: not first)
    events: list[Event] = []
    resumed = fit(clip, preset, checkpoint=path, resume=True, on_event=events.append)
    assert events[0] == Resumed(1.0)
    assert resumed.precision == whole.precision == ("bf16" if first else "fp32")
    for name, item in resumed.model.stored().items():
        assert torch.equal(item.value, whole.model.stored()[name].value), name
