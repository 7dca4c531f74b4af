"""T-NeRV: stored embeddings of frames, grids shared by groups of frames, and flow between decoded frames.

J. E. Saethre, R. Azevedo, C. Schroers, "Combining Frame and GOP Embeddings for Neural Video Representation",
CVPR 2024. No public code is known: where its supplement is silent the settings name the reading, and the
defaults give the published sizes to 1.2 %.

::

    frame ──> ConvNeXt stages ──(+)──> embedding (e, h, w)           while fitting; stored, one per frame
    time ──> sin, cos ──> MLP ───┘
    time ──> three grids over time, interpolated ──> (3·g, h, w)     stored, shared by groups of frames
    both ──> 5×5 conv, GELU (C0) ──> block per stage ──> flow-guided heads (layers/flow.py) ──> frame
    block: AdaIN(time) ──> 5×1 conv ──> 1×5 conv to s²·C ──> depth to space s ──> GELU

Axes: N frames of a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from vinr.models.base import FirstFrame, FrozenLatents, HybridModel, Latents, Scaling
from vinr.models.layers.blocks import (
    Width,
    grid_size,
    make_mlp,
    padded_size,
    require_whole_frames,
    stage_kernels,
)
from vinr.models.layers.convnext import ConvNeXtEncoder
from vinr.models.layers.encodings import TimeEncoding
from vinr.models.layers.flow import Evaluation, FrameBuffer, TemporalGridConfig, flow_stage, values_state
from vinr.models.layers.grids import TemporalGrids, grid_frames_for
from vinr.models.layers.modulation import GainName, InstanceModulation, PlainNorm
from vinr.sizing.strides import affordable_latents, shrink
from vinr.video.spec import BitDepth, FrameSource, Query, VideoSpec

AugmentMode = Literal["add", "scale", "concat", "off"]
ConvPlan = Literal["sep5", "bott3", "hnerv", "two3", "regular5"]
Depths = Annotated[tuple[Annotated[int, Field(ge=1, le=32)], ...], Field(min_length=1, max_length=8)]
SomeWidths = Annotated[tuple[Width, ...], Field(max_length=7)]

# Supplement: grids of 64, 128 and 256 maps for 600 frames.
GRID_SHARES = (64 / 600, 128 / 600, 256 / 600)
# The published 12.4 M network: embeddings and grids, as shares of all that is stored, beside the decoder.
EMBEDDING_SHARE = 0.24
GRID_SHARE = 0.16
# Most channels of embeddings and of all grids that configure() gives, over C0 (published: 0.16, 0.75).
MAX_EMBEDDING_RATIO, MAX_GRID_RATIO = 0.25, 0.75
# Supplement: depths and widths of the large encoder, and widths of the temporal MLP.
ENCODER_DEPTHS = (3, 3, 9, 6, 3)
ENCODER_WIDTHS = (64, 128, 256, 256)
TIME_WIDTHS = (256, 256, 128)
# Below this C0 encoder and temporal MLP shrink too; 102 is the least published.
FULL_WIDTH, MIN_PART_WIDTH = 100.0, 8
# So does the MLP from time to embedding: it is not stored, but at full width its update by Muon takes longer
# than all the rest of a small network's step, and quality is the same (docs/models/tnerv.md).
MIN_AUG_WIDTH = 64
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
        # The published depths are those of the last stages; more stages before them have 3 each.
        return self.encoder_depths or ((3,) * len(self.strides) + ENCODER_DEPTHS)[-len(self.strides) :]


class FittingParts(nn.Module):
    """What only fitting needs: frame and time to embedding, and the frames that neighbours are taken from.

    Embeddings come from frame c and time a: c + a, c · (1 + a), a 1×1 convolution of both, or c. Where there
    are none, nothing but the buffer is made. ``size`` is that of an embedding, ``bit_depth`` the video's.
    """

    source: FrameSource | None = None
    """The frames being fitted: embeddings of neighbours come from there."""

    def __init__(self, config: TNeRVConfig, size: tuple[int, int], bit_depth: BitDepth) -> None:
        super().__init__()
        channels, time_widths = config.embedding_channels, (2 * config.time_levels, *config.aug_widths)
        self.mode, self.shape = config.aug_mode, (channels, *size)
        self.buffer = FrameBuffer(bit_depth)
        if not channels:
            return
        self.frames = ConvNeXtEncoder(config.strides, (*config.analysis_widths, channels), config.depths)
        if self.mode != "off":
            self.hidden = make_mlp(time_widths, "gelu")
            self.last = nn.Linear(time_widths[-1], math.prod(self.shape))
        if self.mode == "concat":
            self.mix = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, rgb_NCHW: Tensor, time_NF: Tensor) -> Tensor:
        """Return embeddings of frames whose times are encoded in ``time_NF``."""
        frame_NCHW: Tensor = self.frames(rgb_NCHW)
        if self.mode == "off":
            return frame_NCHW
        # One linear layer makes all (e, h, w) of an embedding.
        time_NCHW: Tensor = self.last(self.hidden(time_NF)).view(-1, *self.shape)
        if self.mode == "concat":
            mixed_NCHW: Tensor = self.mix(torch.cat([frame_NCHW, time_NCHW], 1))
            return mixed_NCHW
        return frame_NCHW + time_NCHW if self.mode == "add" else frame_NCHW * (1 + time_NCHW)


class TimedBlock(nn.Module):
    """Norm → convolutions to ``stride``² times the channels → depth to space → GELU.

    ``norm`` (None: none) is called with features and condition, before the convolutions if ``norm_first``,
    else right before the GELU. ``number`` counts blocks from 0.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        number: int,
        stride: int,
        plan: ConvPlan,
        norm: nn.Module | None,
        norm_first: bool,
    ) -> None:
        super().__init__()
        self.norm, self.norm_first = norm, norm_first
        self.conv = _wide_conv(plan, number, in_channels, out_channels, stride)
        self.shuffle = nn.PixelShuffle(stride)
        narrow = max(out_channels // 2, 1)
        self.last_conv = nn.Conv2d(narrow, out_channels, 3, padding=1) if plan == "two3" else nn.Identity()

    def forward(self, feature_NCHW: Tensor, condition_NF: Tensor | None) -> Tensor:
        """Return features with ``stride`` times the rows and columns."""
        if self.norm is not None and self.norm_first:
            feature_NCHW = self.norm(feature_NCHW, condition_NF)
        feature_NCHW = self.last_conv(self.shuffle(self.conv(feature_NCHW)))
        if self.norm is not None and not self.norm_first:
            feature_NCHW = self.norm(feature_NCHW, condition_NF)
        return F.gelu(feature_NCHW)


def _wide_conv(plan: ConvPlan, number: int, before: int, after: int, stride: int) -> nn.Module:
    """Return what comes before depth to space in block ``number``; no activation lies between two layers."""
    wide = after * stride**2
    if plan == "sep5":
        rows = nn.Conv2d(before, after, (5, 1), padding=(2, 0))
        return nn.Sequential(rows, nn.Conv2d(after, wide, (1, 5), padding=(0, 2)))
    if plan == "bott3":
        narrow = max(before // 2, 1)
        return nn.Sequential(nn.Conv2d(before, narrow, 1), nn.Conv2d(narrow, wide, 3, padding=1))
    if plan == "two3":
        return nn.Conv2d(before, max(after // 2, 1) * stride**2, 3, padding=1)
    kernel = 5 if plan == "regular5" else stage_kernels(1, 5, number + 1)[number]
    return nn.Conv2d(before, wide, kernel, padding=kernel // 2)


class TNeRV(HybridModel):
    """T-NeRV (CVPR 2024): frame embeddings, temporal grids, and frames refined by warped neighbours."""

    Config = TNeRVConfig
    # Supplement: widths shrink by 1.2 per stage.
    scaling = Scaling(
        grid=(9, 16),
        reduction=1.2,
        lower=4,
        shrinks={
            "time_levels": (FULL_WIDTH, 16),
            "time_widths": (FULL_WIDTH, MIN_PART_WIDTH),
            "aug_widths": (FULL_WIDTH, MIN_AUG_WIDTH),
        },
    )

    def __init__(self, config: TNeRVConfig, video: VideoSpec, *, with_encoder: bool = True) -> None:
        super().__init__(config, video, with_encoder=with_encoder)
        self.config = config
        size = grid_size(video.height, video.width, config.strides)
        self.encoding = TimeEncoding(video.num_frames, ENCODING_BASE, config.time_levels)
        self.encoder = FittingParts(config, size, video.bit_depth) if with_encoder else None
        self.temporal: nn.Module | None = None
        if config.adain == "time":
            self.temporal = make_mlp((self.encoding.num_features, *config.time_widths), "gelu")
        self.grids: TemporalGrids | None = None
        if config.grid_frames:
            self.grids = TemporalGrids(
                video.num_frames, config.grid_frames, channels=config.grid_channels, size=size
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

        Embeddings get as many channels (at least one) as keep them within 24 % of the total, grids
        fill up to 40 % together with them: the split of the published 12.4 M network.
        """
        chosen = cls.scale(video, width, settings)
        if width < FULL_WIDTH and "encoder_depths" not in chosen:
            widths = _encoder_widths(len(chosen["strides"]), width / FULL_WIDTH)
            chosen.setdefault("encoder_widths", widths)
        return TNeRVConfig(**_split(video, chosen))

    def coded_size(self) -> tuple[int, int]:
        """See :meth:`VideoModel.coded_size`: multiples of the product of the strides."""
        return padded_size(self.video, self.config.strides)

    def per_frame_shapes(self) -> dict[str, tuple[int, ...]]:
        """See :meth:`VideoModel.per_frame_shapes`: one embedding (e, h, w) per frame."""
        channels = self.config.embedding_channels
        size = grid_size(self.video.height, self.video.width, self.config.strides)
        return {"embedding": (channels, *size)} if channels else {}

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
            lambda: self.evaluate(query.time_N, latents),
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
            self.evaluate(query.time_N, latents),
            self.encoder.buffer,
            lambda time: self._evaluate_one(time, query),
        )
        return tuple((share, self.crop(rgb_NCHW, query)) for share, rgb_NCHW in outputs)

    def _evaluate_one(self, time: float, query: Query) -> Evaluation:
        """Evaluate the frame at ``time``, from stored latents or, while fitting, from the frame itself."""
        time_N = torch.tensor([time], dtype=torch.float64, device=query.time_N.device)
        if self.latents is None and self._store is None and isinstance(self.encoder, FittingParts):
            assert self.encoder.source is not None
            return self.evaluate(time_N, self.encode(self.encoder.source, time_N.round().long()))
        return self.evaluate(time_N, self.latents_at(time_N))

    def evaluate(self, time_N: Tensor, latents: Latents) -> Evaluation:
        """Return independent frames at ``time_N`` of their ``latents``, with flow and weights."""
        parts = list(latents.per_frame.values())
        if self.grids is not None:
            parts.append(self.grids(time_N))
        condition_NF = None
        if self.temporal is not None:
            condition_NF = self.temporal(self.encoding(time_N).to(self.pre.weight))
        feature_NCHW = F.gelu(self.pre(torch.cat(parts, 1)))
        coarse_NCHW = feature_NCHW
        for number, block in enumerate(self.blocks, 1):
            feature_NCHW = block(feature_NCHW, condition_NF)
            if number == self.num_coarse:
                coarse_NCHW = feature_NCHW
        evaluation: Evaluation = self.heads(coarse_NCHW, feature_NCHW)
        return evaluation


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


def _encoder_widths(num_stages: int, share: float) -> tuple[int, ...]:
    """Return ``share`` of the published widths of all encoder stages but the last; further ones are alike."""
    full = ENCODER_WIDTHS + ENCODER_WIDTHS[-1:] * num_stages
    return tuple(shrink(width, share, MIN_PART_WIDTH) for width in full[: num_stages - 1])


def _split(video: VideoSpec, chosen: dict[str, Any]) -> dict[str, Any]:
    """Give embeddings and grids their shares of what the rest of the network stores."""
    without_grids = chosen.get("grid_channels") == 0 or chosen.get("grid_frames") == ()
    if without_grids:
        chosen |= {"grid_channels": 0, "grid_frames": ()}
    bare = TNeRVConfig(**chosen | {"embedding_channels": 1, "grid_channels": 0, "grid_frames": ()})
    # One channel of all embeddings, or of one map of a grid, takes this many parameters.
    cells = math.prod(grid_size(video.height, video.width, bare.strides))
    all_cells = cells * video.num_frames
    decoder = TNeRV.on_meta(bare, video).num_stored() - all_cells
    budget = affordable_latents(decoder, EMBEDDING_SHARE + GRID_SHARE)
    share = 1.0 if without_grids else EMBEDDING_SHARE / (EMBEDDING_SHARE + GRID_SHARE)
    affordable = min(share * budget / all_cells, MAX_EMBEDDING_RATIO * bare.widths[0])
    embedding_channels = chosen.setdefault("embedding_channels", max(1, int(affordable)))
    if without_grids:
        return chosen
    budget -= embedding_channels * all_cells
    nominal = chosen.get("grid_frames") or grid_frames_for(video.num_frames, GRID_SHARES, even=True)
    exact = min(budget / (sum(nominal) * cells), MAX_GRID_RATIO * bare.widths[0] / len(nominal))
    channels = chosen.setdefault("grid_channels", max(math.ceil(exact), 1))
    # Channels are rounded up; the maps are thinned out in time by as much.
    thinned = min(exact / channels, 1.0)
    chosen.setdefault("grid_frames", tuple(max(round(frames * thinned), 1) for frames in nominal))
    return chosen
