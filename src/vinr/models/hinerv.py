"""HiNeRV: grids over time, bilinear upsampling and ConvNeXt blocks, for whole frames and for patches alike.

H. M. Kwan, G. Gao, F. Zhang, A. Gower, D. Bull, "HiNeRV: Video Compression with Hierarchical Encoding-based
Neural Representation", NeurIPS 2023, https://arxiv.org/abs/2306.09818. The faster variants A (larger steps of
upsampling) and B (fewer blocks, no normalisation before upsampling) of its supplement are settings. The
network is that of ``layers/hierarchical.py``.
"""

from __future__ import annotations

from vinr.models.layers.hierarchical import HierarchicalConfig, HierarchicalModel


class HiNeRVConfig(HierarchicalConfig):
    """Architecture of HiNeRV; the defaults are those of the paper."""


class HiNeRV(HierarchicalModel):
    """HiNeRV (NeurIPS 2023): feature grids over time, interpolated and refined by ConvNeXt blocks."""

    Config = HiNeRVConfig
