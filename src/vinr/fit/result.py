"""What a fit came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from vinr.fit.precision import PrecisionName
from vinr.models import VideoModel


@dataclass(frozen=True)
class FitResult:
    """A fitted model, frozen (no source needed) and in evaluation mode, with how the fit went.

    ``steps``: learned quantisation steps by stored name, as :func:`vinr.compress.pack_tensors` takes them;
    the model's values are not rounded to them yet. ``encoder``: where it was to be kept, and had not been
    dropped before the fit was resumed. ``precision``: the arithmetic of the fit.
    """

    model: VideoModel
    train_psnr_db: float
    num_epochs: float
    num_steps: int
    num_collapses: int
    seconds: float
    steps: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    encoder: nn.Module | None = field(default=None, repr=False)
    precision: PrecisionName = "fp32"
