"""Two processes that fit one network: what one process alone would come to, and never two opinions."""

from __future__ import annotations

import pytest
import torch

from two_ranks import Fitted, on_two, preset_of, step_all, stepped
from vinr.config import FitSettings
from vinr.fit.batches import Batches
from vinr.fit.ranks import Ranks

ENTROPY = 'fit.phases=[{share = 0.3, sparsity = 0.2}, {share = 0.4, quantization = "entropy"}]'
TARGET = 'fit.phases=[{share = 0.6, quantization = "entropy", target_bytes = 4000}]'
# Name of a fit: model, settings, options.
FITS = {
    "whole frames": ("hnerv", [], {}),
    "patches": ("hinerv", ["fit.patches=[2,2]", "fit.batch_size=1"], {}),
    "clipped": ("hnerv", ["fit.gradient_clip=0.01"], {}),
    "neighbours": ("ffnerv", [], {}),
    "neighbours of a hybrid": ("tnerv", ["fit.epochs=2"], {}),
    "entropy": ("hnerv", [ENTROPY], {}),
    "target": ("hnerv", [TARGET], {}),
    "uneven": ("hnerv", ["fit.batch_size=5", "fit.micro_batch=2", "fit.drop_last=false", ENTROPY], {}),
    "clock": ("hnerv", [ENTROPY], {"seconds": 0.4}),
    "collapse": ("hnerv", ["fit.epochs=4"], {"poisoned": 5}),
    "too small": ("hnerv", ["fit.batch_size=1"], {}),
}


@pytest.fixture(scope="module")
def both() -> list[dict[str, Fitted]]:
    """What each of two processes came to, by the name of the fit."""
    fits = {name: (preset_of(model, *settings), options) for name, (model, settings, options) in FITS.items()}
    return on_two(step_all, fits)
