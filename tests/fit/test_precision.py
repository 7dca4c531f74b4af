"""The choice of arithmetic: what is set is obeyed, what is automatic follows the measurement."""

from __future__ import annotations

import time

import pytest
import torch

from vinr.errors import UsageError
from vinr.fit import precision
from vinr.fit.precision import Precision, bf16_speedup, resolve_precision


@pytest.mark.parametrize("device", ["cpu", "cuda", torch.device("cuda", 1)])
def test_fp32_is_obeyed(device: str | torch.device) -> None:
    dtype, reason = resolve_precision("fp32", device)
    assert dtype is None
    assert reason == "fp32: as set"


def test_bf16_is_obeyed_on_the_processor() -> None:
    assert resolve_precision("bf16", "cpu") == Precision(torch.bfloat16, "bf16: as set")


def test_unknown_name_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown precision 'fp16'; there are auto, fp32, bf16"):
        resolve_precision("fp16", "cpu")


@pytest.mark.parametrize("supported", [True, False])
def test_gpu(supported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    chosen = resolve_precision("auto", "cuda")
    assert chosen.dtype == (torch.bfloat16 if supported else None)
    assert "the GPU has" in chosen.reason
    if supported:
        assert resolve_precision("bf16", "cuda").dtype == torch.bfloat16
    else:
        with pytest.raises(UsageError, match="no bfloat16"):
            resolve_precision("bf16", "cuda")


def test_other_devices_stay_in_fp32() -> None:
    assert resolve_precision("auto", "meta").dtype is None


@pytest.mark.parametrize(("speedup", "dtype"), [(1.9, torch.bfloat16), (1.1, None), (0.004, None)])
def test_auto_follows_the_measurement(
    speedup: float, dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def measured(seconds: object) -> float:
        calls.append(seconds)
        return speedup

    monkeypatch.setattr(precision, "bf16_speedup", measured)
    precision._measured_on_cpu.cache_clear()
    try:
        chosen = resolve_precision("auto", "cpu")
        assert chosen.dtype == dtype
        assert f"{speedup:.2g}" in chosen.reason
        assert resolve_precision("auto", "cpu") == chosen
        assert len(calls) == 1
    finally:
        precision._measured_on_cpu.cache_clear()


def test_probing_stops_at_the_first_hopeless_size() -> None:
    asked: list[tuple[str, int]] = []

    def seconds(operation: str, size: int, dtype: torch.dtype) -> float:
        asked.append((operation, size))
        return 1.0 if dtype == torch.float32 or (operation, size) != ("matmul", 128) else 100.0

    assert bf16_speedup(seconds) == 0.01
    assert asked[-1] == ("matmul", 128)
    assert len(asked) == 6


def test_the_verdict_is_that_of_the_largest_probes_together() -> None:
    def seconds(operation: str, size: int, dtype: torch.dtype) -> float:
        if dtype == torch.float32:
            return 3.0
        return {("matmul", 256): 1.0, ("conv", 64): 2.0}.get((operation, size), 6.0)

    assert bf16_speedup(seconds) == 2.0


def test_the_real_probe_is_short_and_decides() -> None:
    precision._measured_on_cpu.cache_clear()
    started = time.perf_counter()
    chosen = resolve_precision("auto", torch.device("cpu"))
    assert time.perf_counter() - started < 2
    assert chosen.dtype in (None, torch.bfloat16)
    assert "measured" in chosen.reason
