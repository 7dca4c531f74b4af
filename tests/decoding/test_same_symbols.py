"""A file holds the same numbers wherever it is read; a clip encoded again gives the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vinr

EXPORT = """
import sys
import torch
import vinr
torch.set_num_threads(int(sys.argv[3]))
vinr.export(sys.argv[1], safetensors=sys.argv[2], force=True)
print(torch.backends.cpu.get_cpu_capability())
"""
# Kernels to compute with; a CPU without them takes the best that it has.
KERNELS = {
    "no AVX": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
}


@pytest.fixture(scope="module")
def learned_file(tmp_path_factory: pytest.TempPathFactory, tiny_video: Path) -> Path:
    """A file of vinr's own network with learned steps, and so with several kinds of symbols and models."""
    path = tmp_path_factory.mktemp("file") / "learned.vinr"
    vinr.encode(tiny_video, path, model="vinr", params="12k", epochs=4, device="cpu")
    return path


@pytest.mark.parametrize(("kernels", "threads"), [("no AVX", 1), ("AVX2", 2)])
def test_numbers_are_the_same_on_every_cpu(
    kernels: str, threads: int, learned_file: Path, tmp_path: Path
) -> None:
    here, there = tmp_path / "here.safetensors", tmp_path / "there.safetensors"
    vinr.export(learned_file, safetensors=here)
    command = [sys.executable, "-c", EXPORT, str(learned_file), str(there), str(threads)]
    environment = os.environ | KERNELS[kernels]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert kernels != "no AVX" or told.strip() == "DEFAULT"
    expected, numbers = load_file(here), load_file(there)
    assert numbers.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(numbers[name], value), name


def test_a_clip_encoded_again_gives_the_same_bytes(
    learned_file: Path, tiny_video: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again.vinr"
    vinr.encode(tiny_video, again, model="vinr", params="12k", epochs=4, device="cpu")
    assert again.read_bytes() == learned_file.read_bytes()
