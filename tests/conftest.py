"""What all tests share: one thread, restored random state, the real clip, and a small fitted file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

PARITY = Path(__file__).parent / "parity"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    # Tests are small; threads only get in each other's way, and one thread keeps sums in one order.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _random_state() -> Iterator[None]:
    state = torch.get_rng_state()
    torch.manual_seed(0)
    yield
    torch.set_rng_state(state)


@pytest.fixture(scope="session")
def parity() -> Path:
    """Folder of golden tensors from other implementations."""
    return PARITY
