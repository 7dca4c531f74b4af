"""How tensors of each role are quantised: the one reading of the settings."""

from __future__ import annotations

from vinr.config import CompressSettings
from vinr.models import Role, StoredTensor

# Below this a step of its own, of 2 bytes, costs a channel more than it saves.
MIN_CHANNEL_ELEMENTS = 8


def bits_of(role: Role, settings: CompressSettings) -> int:
    """Return the bits that index the range of a tensor of this role."""
    return {
        "weight": settings.weight_bits,
        "bias": settings.bias_bits,
        "grid": settings.grid_bits,
        "latent": settings.latent_bits,
        "keyframe": settings.latent_bits,
    }[role]


def is_channelwise(item: StoredTensor, settings: CompressSettings) -> bool:
    """Return whether a tensor has a step for each index of its first axis: weights that are large enough."""
    value = item.value
    return (
        settings.weight_scales == "channel"
        and item.role == "weight"
        and not item.per_frame
        and value.ndim >= 2
        and value.shape[0] >= 2
        and value.numel() >= MIN_CHANNEL_ELEMENTS * value.shape[0]
    )
