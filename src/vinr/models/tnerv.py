"""T-NeRV: stored embeddings of frames, grids shared by groups of frames, and flow between decoded frames.

J. E. Saethre, R. Azevedo, C. Schroers, "Combining Frame and GOP Embeddings for Neural Video Representation",
CVPR 2024. No public code is known: where its supplement is silent the settings name the reading, and the
defaults give the published sizes to 1.2 %.

::

    frame ──> ConvNeXt stages ──(+)──> embedding (e, h, w)           while fitting; stored, one a frame
    time ──> sin, cos ──> MLP ───┘
    time ──> three grids over time, interpolated ──> (3·g, h, w)     stored, shared by groups of frames
    both ──> 5×5 conv, GELU (C0) ──> block per stage ──> flow-guided heads (_flow.py) ──> frame
    block: AdaIN(time) ──> 5×1 conv ──> 1×5 conv to s²·C ──> depth to space s ──> GELU

Axes: N frames of a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from vinr.models._base import HybridModel
from vinr.models._sizing import choose_strides, taper
from vinr.models._stored import FirstFrame, FrozenLatents, Latents
from vinr.models.ffnerv import TemporalGridConfig
from vinr.models.layers.blocks import Width, make_mlp, padded_size, require_whole_frames
from vinr.models.layers.encodings import TimeEncoding
from vinr.models.layers.flow import Evaluation, flow_stage, values_state
from vinr.models.layers.grids import TemporalGrids, grid_frames_for, grid_size
from vinr.models.layers.modulation import GainName, InstanceModulation
from vinr.models.layers.tnerv import AugmentMode, ConvPlan, FittingParts, PlainNorm, TimedBlock
from vinr.video.spec import FrameSource, Query, VideoSpec

Depths = Annotated[tuple[Annotated[int, Field(ge=1, le=32)], ...], Field(min_length=1, max_length=8)]
SomeWidths = Annotated[tuple[Width, ...], Field(max_length=7)]

# Supplement: widths shrink by 1.2 a stage; grids of 64, 128 and 256 maps for 600 frames.
REDUCTION = 1.2
GRID_SHARES = (64 / 600, 128 / 600, 256 / 600)
TARGET_GRID = (9, 16)
# The published 12.4 M network: embeddings and grids, as shares of all that is stored, beside the decoder.
EMBEDDING_SHARE = 0.24
GRID_SHARE = 0.16
# Supplement: depths and widths of the large encoder, and widths of the temporal MLP.
ENCODER_DEPTHS = (3, 3, 9, 6, 3)
ENCODER_WIDTHS = (64, 128, 256, 256)
TIME_WIDTHS = (256, 256, 128)
# Below this C0 configure() makes encoder and temporal MLP smaller too; 102 is the least published.
FULL_WIDTH = 100.0
MIN_WIDTH = 4
MIN_LEVELS, MIN_PART_WIDTH = 16, 8
# Most channels that configure() gives to embeddings and to all grids, over C0 (published: 0.16, 0.75).
MAX_EMBEDDING_RATIO, MAX_GRID_RATIO = 0.25, 0.75

ENCODING_BASE = 1.25


class TNeRVConfig(TemporalGridConfig):
    """Architecture of T-NeRV; the defaults are the readings of the paper that meet its published sizes.

    The encoder reduces by ``strides`` too; the first of ``widths`` follows the convolution before the blocks.
    """

    embedding_channels: int = Field(ge=0, le=4096, description="channels of a frame's embedding; 0: none")
    grid_channels: int = Field(ge=0, le=4096, description="channels of each grid; 0: no grids")
    conv_plan: ConvPlan = Field(
        "sep5", description="a block's convolution: 5×1 and 1×5; 1×1 and 3×3; HNeRV's kernels; two 3×3; 5×5"
    )
    pre_kernel: Literal[1, 3, 5] = Field(5, description="kernel of the convolution before the blocks")
    adain: Literal["time", "norm", "off"] = Field(
        "time", description="instance normalisation modulated by time, without modulation, or none"
    )
    adain_pos: Literal["in", "out"] = Field("in", description="at a block's input, or before its activation")
    adain_gain: GainName = Field("gamma", description="gain of AdaIN: what time gives, or 1 plus that")
    adain_act: Literal["gelu", "none"] = Field("gelu", description="non-linearity of gain and shift")
    time_levels: int = Field(80, ge=1, le=256, description="frequencies of the time encoding, of base 1.25")
    time_widths: SomeWidths = Field(TIME_WIDTHS, min_length=1, description="widths of the temporal MLP")
    aug_mode: AugmentMode = Field(
        "add", description="embedding from frame c and time a: c + a, c·(1 + a), 1×1 convolution of both, c"
    )
    aug_widths: SomeWidths = Field((512, 512), description="hidden widths of the MLP from time to embedding")
    encoder_widths: SomeWidths | None = Field(
        None, description="channels of the encoder's stages but the last; none: 64, 128, 256, 256, …"
    )
    encoder_depths: Depths | None = Field(
        None, description="ConvNeXt blocks of the encoder's stages; none: …, 3, 3, 9, 6, 3"
    )

    @model_validator(mode="after")
    def _check(self) -> TNeRVConfig:
        if bool(self.grid_frames) != bool(self.grid_channels):
            raise ValueError(
                f"grid_frames {self.grid_frames} and grid_channels {self.grid_channels} must both be given, "
                "or be empty and 0"
            )
        if not self.latent_channels:
            raise ValueError("embedding_channels and grid_channels are both 0; give one of them")
        if len(self.analysis_widths) != len(self.strides) - 1 or len(self.depths) != len(self.strides):
            raise ValueError(
                f"{len(self.strides)} strides need one fewer encoder_widths and as many encoder_depths, got "
                f"{self.encoder_widths} and {self.encoder_depths}"
            )
        return self

    @property
    def latent_channels(self) -> int:
        """Channels of embedding and grid features together."""
        return self.embedding_channels + self.grid_channels * len(self.grid_frames)

    @property
    def analysis_widths(self) -> tuple[int, ...]:
        """Channels of the encoder's stages but the last."""
        if self.encoder_widths is not None:
            return self.encoder_widths
        return _encoder_widths(len(self.strides), 1.0)

    @property
    def depths(self) -> tuple[int, ...]:
        """ConvNeXt blocks of the encoder's stages."""
        if self.encoder_depths is not None:
            return self.encoder_depths
        return ((3,) * len(self.strides) + ENCODER_DEPTHS)[-len(self.strides) :]


class TNeRV(HybridModel):
    """T-NeRV (CVPR 2024): frame embeddings, temporal grids, and frames refined by warped neighbours."""

    Config = TNeRVConfig

    def __init__(self, config: TNeRVConfig, video: VideoSpec, *, with_encoder: bool = True) -> None:
        super().__init__(config, video, with_encoder=with_encoder)
        self.config = config
        size = grid_size(video, config.strides)
        self.encoding = TimeEncoding(video.num_frames, ENCODING_BASE, config.time_levels)
        self.encoder = _make_fitting_parts(config, size) if with_encoder else None
        num_features = self.encoding.num_features
        self.temporal = (
            make_mlp((num_features, *config.time_widths), "gelu") if config.adain == "time" else None
        )
        self.grids = (
            TemporalGrids(video.num_frames, config.grid_frames, channels=config.grid_channels, size=size)
            if config.grid_frames
            else None
        )
        self.pre = nn.Conv2d(
            config.latent_channels, config.widths[0], config.pre_kernel, padding=config.pre_kernel // 2
        )
        self.blocks = nn.ModuleList(_make_block(config, number) for number in range(len(config.strides)))
        self.num_coarse, _ = flow_stage(config.strides)
        self.heads = config.make_heads()
        self.guide = config.make_guide(video.num_frames)
        if not config.embedding_channels:
            self.attach_latents(FrozenLatents(Latents()))

    @classmethod
    def configure(cls, video: VideoSpec, *, width: float, settings: Mapping[str, Any]) -> TNeRVConfig:
        """See :meth:`VideoModel.configure`; ``width`` is C0 before rounding.

        Embeddings get as many channels (at least one) as keep them within 24 % of the stored numbers, grids
        fill up to 40 % together with them: the split of the published 12.4 M network.
        """
        chosen = dict(settings)
        scale = min(width / FULL_WIDTH, 1.0)
        chosen.setdefault("strides", choose_strides(video.height, video.width, target_grid=TARGET_GRID))
        num_stages = len(chosen["strides"])
        chosen.setdefault("widths", taper(width, num_stages + 1, reduction=REDUCTION, lower=MIN_WIDTH))
        if scale < 1:
            levels = TNeRVConfig.model_fields["time_levels"].default
            chosen.setdefault("time_levels", max(round(levels * scale), MIN_LEVELS))
            chosen.setdefault("time_widths", tuple(_part(value, scale) for value in TIME_WIDTHS))
            if "encoder_depths" not in chosen:
                chosen.setdefault("encoder_widths", _encoder_widths(num_stages, scale))
        return TNeRVConfig(**_split(video, chosen))

    def coded_size(self) -> tuple[int, int]:
        """See :meth:`VideoModel.coded_size`: multiples of the product of the strides."""
        return padded_size(self.video, self.config.strides)

    def per_frame_shapes(self) -> dict[str, tuple[int, ...]]:
        """See :meth:`VideoModel.per_frame_shapes`: one embedding (e, h, w) a frame."""
        channels = self.config.embedding_channels
        return {"embedding": (channels, *grid_size(self.video, self.config.strides))} if channels else {}

    def first_frame(self) -> FirstFrame:
        """See :meth:`VideoModel.first_frame`."""
        return self.guide.first_frame(self.coded_size())

    def frames_using_latents(self, first: int, stop: int) -> range:
        """See :meth:`VideoModel.frames_using_latents`: neighbours are evaluated from their own latents."""
        return self.guide.frames_near(first, stop)

    def encode(self, source: FrameSource, index_N: Tensor) -> Latents:
        """See :meth:`HybridModel.encode`."""
        if not isinstance(self.encoder, FittingParts):
            raise ValueError("the encoder was dropped; give no source")
        self.encoder.source = source
        if not self.config.embedding_channels:
            return Latents()
        rgb_NCHW = self.read_frames(source, index_N)
        return Latents({"embedding": self.encoder(rgb_NCHW, self.encoding(index_N).to(rgb_NCHW))})

    def decode(self, query: Query, latents: Latents) -> Tensor:
        """See :meth:`HybridModel.decode`."""
        require_whole_frames(query)
        has_latents = self.latents is not None or self._store is not None
        return self.guide.decode(
            query.time_N,
            lambda: self._evaluate(query.time_N, latents),
            lambda time: self._evaluate_one(time, query),
            (values_state(self), self._store) if has_latents else None,
        )

    def training_outputs(self, query: Query, source: FrameSource | None) -> tuple[tuple[float, Tensor], ...]:
        """See :meth:`VideoModel.training_outputs`: final, independent and aggregated frames."""
        require_whole_frames(query)
        if source is None:
            return super().training_outputs(query, None)
        latents = self.encode(source, query.time_N.round().long())
        assert isinstance(self.encoder, FittingParts)
        outputs = self.guide.training_outputs(
            query.time_N,
            self._evaluate(query.time_N, latents),
            self.encoder.buffer,
            lambda time: self._evaluate_one(time, query),
        )
        return tuple((share, self.crop(rgb_NCHW, query)) for share, rgb_NCHW in outputs)

    def _evaluate_one(self, time: float, query: Query) -> Evaluation:
        """Evaluate the frame at ``time``, from stored latents or, while fitting, from the frame itself."""
        time_N = torch.tensor([time], dtype=torch.float64, device=query.time_N.device)
        if self.latents is None and self._store is None and isinstance(self.encoder, FittingParts):
            assert self.encoder.source is not None
            return self._evaluate(time_N, self.encode(self.encoder.source, time_N.round().long()))
        return self._evaluate(time_N, self.latents_at(time_N))

    def _evaluate(self, time_N: Tensor, latents: Latents) -> Evaluation:
        parts = list(latents.per_frame.values())
        if self.grids is not None:
            parts.append(self.grids(time_N))
        condition_NF = None
        if self.temporal is not None:
            condition_NF = self.temporal(self.encoding(time_N).to(self.pre.weight))
        feature_NCHW = nn.functional.gelu(self.pre(torch.cat(parts, 1)))
        coarse_NCHW = feature_NCHW
        for number, block in enumerate(self.blocks, 1):
            feature_NCHW = block(feature_NCHW, condition_NF)
            if number == self.num_coarse:
                coarse_NCHW = feature_NCHW
        found: Evaluation = self.heads(coarse_NCHW, feature_NCHW)
        return found


def _make_fitting_parts(config: TNeRVConfig, size: tuple[int, int]) -> FittingParts:
    return FittingParts(
        config.strides,
        (*config.analysis_widths, config.embedding_channels),
        config.depths,
        time_widths=(2 * config.time_levels, *config.aug_widths),
        size=size,
        mode=config.aug_mode,
    )


def _make_block(config: TNeRVConfig, number: int) -> TimedBlock:
    before, after = config.widths[number : number + 2]
    norm: nn.Module | None = PlainNorm() if config.adain == "norm" else None
    if config.adain == "time":
        norm = InstanceModulation(
            config.time_widths[-1],
            before if config.adain_pos == "in" else after,
            activation=None if config.adain_act == "none" else config.adain_act,
            gain=config.adain_gain,
        )
    return TimedBlock(
        before,
        after,
        number=number,
        stride=config.strides[number],
        plan=config.conv_plan,
        norm=norm,
        norm_first=config.adain_pos == "in",
    )


def _part(width: int, scale: float) -> int:
    return max(round(width * scale), MIN_PART_WIDTH)


def _encoder_widths(num_stages: int, scale: float) -> tuple[int, ...]:
    full = ENCODER_WIDTHS + ENCODER_WIDTHS[-1:] * num_stages
    return tuple(_part(width, scale) for width in full[: num_stages - 1])


def _split(video: VideoSpec, chosen: dict[str, Any]) -> dict[str, Any]:
    """Give embeddings and grids their shares of what the rest of the network stores."""
    if chosen.get("grid_channels") == 0 or chosen.get("grid_frames") == ():
        chosen |= {"grid_channels": 0, "grid_frames": ()}
    bare = TNeRVConfig(**chosen | {"embedding_channels": 1, "grid_channels": 0, "grid_frames": ()})
    cells = math.prod(grid_size(video, bare.strides))
    decoder = TNeRV.on_meta(bare, video).num_stored() - video.num_frames * cells
    budget = decoder * (EMBEDDING_SHARE + GRID_SHARE) / (1 - EMBEDDING_SHARE - GRID_SHARE)
    share = 1.0 if chosen.get("grid_channels") == 0 else EMBEDDING_SHARE / (EMBEDDING_SHARE + GRID_SHARE)
    if "embedding_channels" not in chosen:
        affordable = min(share * budget / (video.num_frames * cells), MAX_EMBEDDING_RATIO * bare.widths[0])
        chosen["embedding_channels"] = max(1, int(affordable))
    budget -= chosen["embedding_channels"] * video.num_frames * cells
    if chosen.get("grid_channels") == 0:
        return chosen
    nominal = chosen.get("grid_frames") or grid_frames_for(video.num_frames, GRID_SHARES, even=True)
    exact = min(budget / (sum(nominal) * cells), MAX_GRID_RATIO * bare.widths[0] / len(nominal))
    chosen.setdefault("grid_channels", max(math.ceil(exact), 1))
    thinned = min(exact / chosen["grid_channels"], 1.0)
    chosen.setdefault("grid_frames", tuple(max(round(frames * thinned), 1) for frames in nominal))
    return chosen
