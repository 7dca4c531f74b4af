"""D-NeRV: clips of many videos from their keyframes, in one network.

B. He et al., "Towards Scalable Neural Representation for Diverse Videos", CVPR 2023,
https://arxiv.org/abs/2303.14124. Not DNeRV, which stores differences between frames.

::

    8 times ──> sin, cos ──> linear ×2 ──> (F, h0, w0) each ─┐
    start, end keyframe ──> encoder ──> maps at 6 scales ────┴─ coarsest ──> instance norm over the clip
                                          │                                          v
                                          └──> [warp to 8 frames, mix ──> gain, shift ──> 3×3 conv → depth
                                                to space s → GELU ──> mix over the 8 frames]  per stage
    8 frames <── · std + mean <── 1×1, 3×3 conv <── beside the keyframes, warped and mixed <──┘

Frames are decoded in clips of 8. Keyframes lie in the file as images, or in groups as streams. Each tile of a
frame is decoded like a video of its own.

Axes: B clips of a batch, D frames of a clip, N = B·D frames, K keyframes, F features, C channels, H rows,
W columns; 2: the keyframes at a clip's start and end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from vinr.errors import UsageError
from vinr.models.base import FirstFrame, IndexModel, ModelConfig, Scaling
from vinr.models.layers.blocks import (
    Kernel,
    Strides,
    Width,
    Widths,
    check_kernels,
    check_stages,
    enlarged,
    make_mlp,
)
from vinr.models.layers.clips import Clip, ClipDecoder, ClipLayout, ClipPart, FusionName, keep_parts
from vinr.models.layers.encodings import (
    EncodingPrecision,
    TimeEncoding,
    check_frequencies,
    cover_frame,
    no_graph,
)
from vinr.models.layers.flow import values_state
from vinr.models.layers.keyframes import KeyframeEncoder, Keyframes, LearnedKeyframes
from vinr.sizing.strides import MIN_WIDTH, affordable_latents, choose_strides, taper
from vinr.video.patches import all_patches, cut_at, join
from vinr.video.spec import PatchGrid, Query, VideoSpec, to_unit
from vinr.video.stills import Chroma

# configure(): tiles of at most this size, the longer side along the frame's.
TILE_SIDES = (256, 320)
MAX_TILES_PER_SIDE = 64
# configure(): keyframes of a group, about. Of clips that differ, larger groups save no more
# (docs/results/keyframe-groups.md).
KEYFRAME_GROUP = 16
MAX_KEYFRAME_GROUP = 64
# Above this quality small groups, whose colours are 4:2:0, take more bytes than images of 4:4:4 as close.
MAX_GROUPED_QUALITY = 70
# Copies of a frame, as floats, that putting its tiles together takes.
JOINED = 2

TileCount = Annotated[int, Field(ge=1, le=MAX_TILES_PER_SIDE)]
Share = Annotated[float, Field(ge=0, le=1)]
Deviation = Annotated[float, Field(ge=0.01, le=10)]


class DNeRVDiverseConfig(ModelConfig):
    """Architecture of D-NeRV; the defaults are those of the released code, but for the keyframes' coding."""

    size_fields: ClassVar[tuple[str, ...]] = ("widths", "stem_hidden")

    strides: Strides = Field((4, 2, 2, 2, 2), description="upsampling of each stage, 1 to 16")
    widths: Widths = Field(description="channels of the stem (F) and after each stage, 1 to 4096")
    clip_length: int = Field(8, ge=2, le=32, description="frames that are decoded together, 2 to 32")
    tile_rows: TileCount = Field(1, description="rows of tiles per frame, each like a video, 1 to 64")
    tile_cols: TileCount = Field(1, description="columns of tiles per frame, each like a video, 1 to 64")
    stem_hidden: Width = Field(512, description="hidden width of the stem, 1 to 4096")
    key_channels: Width = Field(64, description="channels of the keyframes' maps, 1 to 4096")
    base: float = Field(1.25, gt=1, le=10, description="ratio of neighbouring frequencies of the encoding")
    levels: int = Field(240, ge=1, le=256, description="frequencies of the encoding of time")
    encoding_precision: EncodingPrecision = Field(
        "exact", description="float32: angles rounded as in the released code"
    )
    mean: tuple[Share, Share, Share] = Field(
        (0.4519, 0.4505, 0.4519), description="mean of red, green and blue; the default is that of UVG"
    )
    std: tuple[Deviation, Deviation, Deviation] = Field(
        (0.2434, 0.2547, 0.2958), description="standard deviation of red, green and blue; default: of UVG"
    )
    keyframes: Literal["coded", "learned", "none"] = Field(
        "coded", description="images in the file; a latent each, fitted with the network; or no keyframes"
    )
    keyframe_quality: int = Field(
        50, ge=0, le=100, description="quality of coded keyframes on AVIF's scale, 0 (smallest) to 100"
    )
    keyframe_chroma: Chroma | None = Field(
        None,
        description="sampling of their colours; none: 4:4:4, in groups 4:2:0, which have no other",
    )
    keyframe_group: int = Field(
        1,
        ge=1,
        le=MAX_KEYFRAME_GROUP,
        description="keyframes per AV1 stream, up to 64; 1: an image each; 16 where vinr chooses",
    )
    learned_channels: Width = Field(16, description="channels of a learned keyframe's latent, 1 to 4096")
    learned_kernel: Kernel = Field(3, description="kernel of the stages that enlarge such latents, odd")
    flow: bool = Field(True, description="warp keyframes; else mix them as they are")
    fusion: FusionName = Field(
        "affine", description="keyframes set gain and shift of the features, or are appended to them"
    )
    scales: Literal["all", "coarsest"] = Field(
        "all", description="stages that keyframes join: all of them, or the first one only"
    )
    rgb_skip: bool = Field(True, description="the head sees the warped keyframes at full size")
    temporal_map: bool = Field(True, description="mix the frames of a clip after each stage")

    @model_validator(mode="after")
    def _check(self) -> DNeRVDiverseConfig:
        check_stages(self.strides, self.widths)
        check_kernels(self.learned_kernel)
        check_frequencies(self.base, self.levels)
        if self.keyframe_group > 1 and self.keyframe_chroma == "4:4:4":
            raise ValueError(
                f"keyframes in groups of {self.keyframe_group} have colours of 4:2:0: leave keyframe_chroma "
                "4:4:4 out, or set keyframe_group to 1"
            )
        return self


class DNeRVDiverse(IndexModel):
    """D-NeRV (CVPR 2023): diverse videos in one network; it warps their keyframes."""

    Config = DNeRVDiverseConfig
    # Below F = 48 key channels, the stem's hidden layer and the encoding shrink with it.
    scaling = Scaling(
        grid=(4, 5),
        lower=32,
        shrinks={"key_channels": (48, 4), "stem_hidden": (48, 8), "levels": (48, 16)},
    )
    joins_clips = True

    def __init__(self, config: DNeRVDiverseConfig, video: VideoSpec, *, with_encoder: bool = True) -> None:
        super().__init__(config, video, with_encoder=with_encoder)
        self.config = config
        self.tile_grid = PatchGrid(config.tile_rows, config.tile_cols)
        self.stem_grid = cover_frame(*_tile_size(video, self.tile_grid), config.strides, (None, None))
        self.layout = ClipLayout(video.span_lengths, config.clip_length)
        if config.keyframes == "coded":
            self.keyframes = Keyframes(
                tuple(self.layout.keyframes),
                video,
                quality=config.keyframe_quality,
                chroma=config.keyframe_chroma or ("4:4:4" if config.keyframe_group == 1 else "4:2:0"),
                group=config.keyframe_group,
            )
        self.decoded_parts = keep_parts(self.tile_grid.rows * self.tile_grid.cols)
        stem_outputs = math.prod(self.stem_grid) * config.widths[0]
        self.stem = make_mlp([2 * config.levels, config.stem_hidden, stem_outputs], "gelu")
        self.pyramid = self._make_pyramid()
        self.decoder = ClipDecoder(
            config.widths,
            config.strides,
            clip_length=config.clip_length,
            key_channels=config.key_channels if self.pyramid is not None else 0,
            all_scales=config.scales == "all",
            rgb_skip=config.rgb_skip,
            flow=config.flow,
            fusion=config.fusion,
            temporal_map=config.temporal_map,
        )

    def _make_pyramid(self) -> KeyframeEncoder | LearnedKeyframes | None:
        config = self.config
        if config.keyframes == "none":
            return None
        if config.keyframes == "coded":
            return KeyframeEncoder(config.strides, config.key_channels)
        needs_all = config.scales == "all" or config.rgb_skip
        return LearnedKeyframes(
            self.layout.num_keyframes,
            config.learned_channels,
            tiles=self.tile_grid,
            size=self.stem_grid,
            strides=config.strides if needs_all else config.strides[:1],
            channels=config.key_channels,
            kernel=config.learned_kernel,
            with_rgb=config.rgb_skip,
        )

    @classmethod
    def configure(cls, video: VideoSpec, *, width: float, settings: Mapping[str, Any]) -> DNeRVDiverseConfig:
        """See :meth:`VideoModel.configure`; ``width`` is F before rounding.

        Tiles have at most 256×320 pixels (320×256 in upright frames), which bounds memory. As published, only
        the first stride may be 4, and widths are 2F after the first stage, then each divided by the stride,
        at least 32 (F, where that is less). Keyframes are
        coded in groups of about 16 where that can be and saves bytes.
        """
        chosen = dict(settings)
        chosen.setdefault("keyframe_group", _keyframe_group(video, chosen))
        sides = TILE_SIDES if video.height <= video.width else TILE_SIDES[::-1]
        chosen.setdefault("tile_rows", min(-(-video.height // sides[0]), MAX_TILES_PER_SIDE))
        chosen.setdefault("tile_cols", min(-(-video.width // sides[1]), MAX_TILES_PER_SIDE))
        tile = _tile_size(video, PatchGrid(chosen["tile_rows"], chosen["tile_cols"]))
        if "strides" not in chosen:
            # As published only the first stride may be 4: later ones become two of 2.
            first, *others = choose_strides(*tile, target_grid=cls.scaling.grid)
            strides = [first]
            for stride in others:
                strides += (2, 2) if stride == 4 else (stride,)
            chosen["strides"] = tuple(strides)
        if "widths" not in chosen:
            lower = min(max(width, MIN_WIDTH), cls.scaling.lower)
            widths = taper(width, 1, reduction=1, lower=1)
            exact = 2 * width
            for stride in (1, *chosen["strides"][1:]):
                exact /= stride
                widths += taper(exact, 1, reduction=1, lower=lower)
            chosen["widths"] = widths
        chosen = cls.scale(video, width, chosen)
        return _afford_latents(DNeRVDiverseConfig(**chosen), video, settings)

    def coded_size(self) -> tuple[int, int]:
        """See :meth:`VideoModel.coded_size`: tiles, each its first grid times all strides."""
        height, width = enlarged(self.stem_grid, self.config.strides)
        return self.tile_grid.rows * height, self.tile_grid.cols * width

    def group_of(self, index_N: Tensor) -> Tensor:
        """See :meth:`VideoModel.group_of`: clips, numbered through all videos."""
        return self.layout.group_of(index_N)

    def first_frame(self) -> FirstFrame:
        """See :meth:`VideoModel.first_frame`: the tiles of a clip one by one, all of which are kept."""
        zero_N = torch.zeros(1, dtype=torch.int64)
        num_pixels, floats = math.prod(self.coded_size()), 3 * (self.config.clip_length + JOINED)
        query = Query(torch.zeros(1, dtype=torch.float64), zero_N, zero_N, self.tile_grid)
        return FirstFrame(query, self.tile_grid.rows * self.tile_grid.cols, 4 * floats * num_pixels)

    def frames_using_keyframe(self, number: int) -> range:
        """See :meth:`VideoModel.frames_using_keyframe`: those of the clips on both sides of it."""
        return self.layout.frames_using(number)

    def check_patches(self, grid: PatchGrid) -> None:
        """See :meth:`VideoModel.check_patches`: the model's own tiles, or whole frames."""
        if not grid.is_whole_frame and grid != self.tile_grid:
            tiles = f"[{self.tile_grid.rows}, {self.tile_grid.cols}]"
            raise UsageError(
                f"this network has tiles of {tiles}, not {grid.rows}×{grid.cols}: set fit.patches to {tiles} "
                f"or [1, 1]"
            )

    # -- decoding ------------------------------------------------------------------------------------------

    def decode(self, query: Query) -> Tensor:
        """See :meth:`IndexModel.decode`: tiles of the model's own grid, or whole frames put together.

        A time between frames is that of the frame before in its clip, all of whose times are later by the
        fraction. With gradients all clips are one batch. Without, tiles of clips are decoded one by one, so
        that a frame is the same whatever it is decoded with, and kept for the frames that follow.

        Raises
        ------
        ValueError
            If the query is for patches of another grid, or there are no keyframes yet.
        """
        grid, (height, width) = self.tile_grid, self.coded_size()
        if query.grid != grid and not query.grid.is_whole_frame:
            raise ValueError(f"this model has tiles of {grid}, not of {query.grid}")
        tiles = query if query.grid == grid else all_patches(query.time_N, grid)
        tiles_NCHW: Tensor = self._decode_tiles(tiles)
        return tiles_NCHW if tiles is query else join(tiles_NCHW, grid, height=height, width=width)

    @no_graph  # which clips there are is no graph
    def _decode_tiles(self, query: Query) -> Tensor:
        parts, places = [], []
        columns = query.time_N.tolist(), query.row_N.tolist(), query.col_N.tolist()
        for time, row, col in zip(*columns, strict=True):
            number, place, shift = self.layout.locate(time)
            parts.append(ClipPart(number, shift, row, col))
            places.append(place)
        # Without values all at once costs the same, and is counted sooner.
        if not torch.is_grad_enabled() and not next(self.parameters()).is_meta:
            generation = 0 if self.keyframes is None else self.keyframes.generation
            state = values_state(self), generation
            pairs = zip(parts, places, strict=True)
            return torch.stack([self._decode_part(part, state)[place] for part, place in pairs])
        # Each part once: its D frames follow one another, those of the next part after them.
        distinct = list(dict.fromkeys(parts))
        images = list(chain.from_iterable(map(self._read_images, distinct)))
        rgb_NCHW = self.decode_parts(distinct, images)
        rows = []
        for part, place in zip(parts, places, strict=True):
            rows += [distinct.index(part) * self.config.clip_length + place]
        return rgb_NCHW[rows]

    def _decode_part(self, part: ClipPart, state: object) -> Tensor:
        """Return the frames (D, 3, H, W) of one part of a clip, decoded by itself or kept from before."""
        return self.decoded_parts.get(part, lambda: self.decode_parts([part], self._read_images(part)), state)

    def decode_parts(self, parts: Sequence[ClipPart], images: Sequence[Tensor]) -> Tensor:
        """Return the frames (N, 3, H, W) of all ``parts``; ``images`` are their keyframes, uint8 rgb_CHW."""
        like = next(self.parameters())
        clips = [self.layout.clip(part.number) for part in parts]
        maps = self._read_maps(parts, clips, images)
        times, distances, shifts = [], [], []
        for clip, part in zip(clips, parts, strict=True):
            times.append(self.encode_clip_times(clip, part.shift))
            distances += clip.distances(part.shift)
            shifts.append(part.shift)
        distance_N = torch.tensor(distances, dtype=torch.float64).to(like)
        shift_B = torch.tensor(shifts, dtype=torch.float64).to(like)
        return self.decode_clips(torch.cat(times).to(like), maps, distance_N, shift_B)

    def decode_clips(
        self, time_NF: Tensor, maps: Sequence[Tensor], distance_N: Tensor, shift_B: Tensor
    ) -> Tensor:
        """Return rgb_NCHW in [0, 1] of the frames of whole clips.

        ``time_NF`` are encoded times; for the others see :meth:`ClipDecoder.forward`.
        """
        # The stem's outputs are (F, h0, w0) of each frame, row by row.
        feature_NCHW = self.stem(time_NF).view(-1, self.config.widths[0], *self.stem_grid)
        raw_NCHW = self.decoder(feature_NCHW, maps, distance_N, shift_B)
        mean_C11, std_C11 = self._statistics(raw_NCHW)
        rgb_NCHW: Tensor = (raw_NCHW * std_C11 + mean_C11).clamp(0, 1)
        return rgb_NCHW

    def encode_keyframes(self, rgb_KCHW: Tensor) -> list[Tensor]:
        """Return the maps of keyframes in [0, 1], coarse to fine, their normalised colours last."""
        assert isinstance(self.pyramid, KeyframeEncoder)
        mean_C11, std_C11 = self._statistics(rgb_KCHW)
        maps: list[Tensor] = self.pyramid((rgb_KCHW - mean_C11) / std_C11)
        return maps

    def _statistics(self, like: Tensor) -> Iterator[Tensor]:
        """Yield mean and standard deviation of the colours, (C, 1, 1)."""
        for values in (self.config.mean, self.config.std):
            yield torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)

    def encode_clip_times(self, clip: Clip, shift: float) -> Tensor:
        """Return float64 features (D, F) of the times of a clip in its own video, on the CPU."""
        config = self.config
        encoding = TimeEncoding(
            clip.num_frames, config.base, config.levels, "interleaved", "i/(T-1)", config.encoding_precision
        )
        time_NF: Tensor = encoding(torch.tensor(clip.times(shift), dtype=torch.float64))
        return time_NF

    def _read_images(self, part: ClipPart) -> list[Tensor]:
        """Return start and end keyframe of a clip, uint8 rgb_CHW, where keyframes are images."""
        if self.keyframes is None or next(self.parameters()).is_meta:
            return []
        return [self.keyframes.read(number) for number in self.layout.clip(part.number).keyframes]

    def _read_maps(
        self, parts: Sequence[ClipPart], clips: Sequence[Clip], images: Sequence[Tensor]
    ) -> list[Tensor]:
        """Return the maps of the keyframes of ``parts``, start and end of one after another."""
        if self.pyramid is None:
            return []
        if isinstance(self.pyramid, LearnedKeyframes):
            places = []
            for part, clip in zip(parts, clips, strict=True):
                places += [(number, part.row, part.col) for number in clip.keyframes]
            maps: list[Tensor] = self.pyramid(places)
            return maps
        like = next(self.parameters())
        if like.is_meta:
            tile_size = enlarged(self.stem_grid, self.config.strides)
            return self.encode_keyframes(like.new_empty(2 * len(parts), 3, *tile_size))
        # Images 2i and 2i + 1 are the start and the end keyframe of part i.
        tiles = [self._cut(image, parts[number // 2]) for number, image in enumerate(images)]
        return self.encode_keyframes(to_unit(torch.cat(tiles).to(like.device), like.dtype))

    def _cut(self, rgb_CHW: Tensor, part: ClipPart) -> Tensor:
        """Return the tile of ``part``, (1, C, H, W); beyond the frame its edges are repeated."""
        row_N, col_N = torch.tensor([part.row]), torch.tensor([part.col])
        query = Query(torch.zeros(1, dtype=torch.float64), row_N, col_N, self.tile_grid)
        return cut_at(rgb_CHW.unsqueeze(0), query, coded_size=self.coded_size())


def _tile_size(video: VideoSpec, grid: PatchGrid) -> tuple[int, int]:
    return -(-video.height // grid.rows), -(-video.width // grid.cols)


def _keyframe_group(video: VideoSpec, settings: Mapping[str, Any]) -> int:
    """Return about 16 keyframes per group, or 1 where ``settings`` or the size of frames need images."""
    from vinr.video.sequences import can_be_sequence  # decoding chooses nothing

    can_group = (
        settings.get("keyframes", "coded") == "coded"
        and settings.get("keyframe_chroma") != "4:4:4"
        and settings.get("keyframe_quality", 0) <= MAX_GROUPED_QUALITY
        and can_be_sequence(video.height, video.width)
    )
    if not can_group:
        return 1
    # Groups of one size: a last one of few keyframes would take nearly as many bytes as a full one. A single
    # keyframe, which is a group of 1, is smaller as an image.
    clip_length = settings.get("clip_length", DNeRVDiverseConfig.model_fields["clip_length"].default)
    num_keyframes = ClipLayout(video.span_lengths, clip_length).num_keyframes
    num_groups = max(round(num_keyframes / KEYFRAME_GROUP), 1)
    return -(-num_keyframes // num_groups)


def _afford_latents(
    config: DNeRVDiverseConfig, video: VideoSpec, settings: Mapping[str, Any]
) -> DNeRVDiverseConfig:
    """Return ``config`` with as many channels of learned keyframes as their share of the total allows."""
    if config.keyframes != "learned" or "learned_channels" in settings:
        return config
    thin = config.model_copy(update={"learned_channels": 1})
    model = DNeRVDiverse.on_meta(thin, video)
    assert isinstance(model.pyramid, LearnedKeyframes)
    per_channel = model.pyramid.num_latents
    affordable = int(affordable_latents(model.num_stored() - per_channel) / per_channel)
    return config.model_copy(update={"learned_channels": max(1, min(config.learned_channels, affordable))})
