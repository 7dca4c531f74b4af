"""What a part of a batch asks of the parameters: its loss, and the gradients of that.

Axes: N samples (frames, or patches of them), C colour channels, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vinr.fit.batches import Batches, BatchPart
from vinr.fit.learner import Learner
from vinr.fit.losses import Loss
from vinr.fit.task import Task


@dataclass(frozen=True)
class Part:
    """What a part of a batch came to, on the device and without gradients.

    ``mse`` and ``loss`` are its share of those of the batch. ``num_bits``: of all parameters, in phases that
    estimate them.
    """

    mse: Tensor
    loss: Tensor
    num_bits: Tensor | None


def add_gradients(
    part: BatchPart, rgb_NCHW: Tensor, *, learner: Learner, batches: Batches, task: Task, loss: Loss
) -> Part:
    """Add the gradients of ``part`` to those of the parameters; ``rgb_NCHW``: all frames, on the device."""
    query = batches.query(part.sample_N.to(learner.device))
    target_NCHW = batches.target(rgb_NCHW, query)
    dtype = learner.precision.dtype
    with torch.autocast(learner.device.type, dtype, enabled=dtype is not None):
        outputs = learner.evaluate(query)
    weight_N1HW = batches.weight(task.weight(query.time_N.long()), query)
    losses, slopes, errors = [], [], []
    for weight, own_NCHW in outputs.frames:
        value = loss(own_NCHW.float(), target_NCHW, weight_N1HW)
        losses.append(weight * value.total)
        slopes.append(weight * value.slope)
        errors.append(value.mse)
    total = torch.stack(losses).sum()
    if outputs.num_bits is not None:
        total = total + learner.price(outputs.num_bits, torch.stack(slopes).sum())
    # Losses are means over their part; gradients add up to those of the mean over the whole batch.
    (part.share * total).backward()  # type: ignore[no-untyped-call]
    num_bits = None if outputs.num_bits is None else outputs.num_bits.detach()
    # The first are the frames themselves; others are what a model's paper adds to its loss.
    return Part(part.share * errors[0].detach(), part.share * total.detach(), num_bits)
