"""The header of a .vinr file: its schema with bounds, to and from bytes (docs/format.md, section 2)."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Final, Literal, NamedTuple, NoReturn

from pydantic import Field, ValidationError, field_validator, model_validator

from vinr.bitstream.index import deflate, inflate
from vinr.errors import BitstreamError, plural
from vinr.settings import StoredValues, first_problem

# Bytes deflated (the prologue has 16 bits for them) and inflated.
MAX_STORED_HEADER: Final = 0xFFFF
MAX_HEADER: Final = 2**20
MAX_FRAMES: Final = 10**7
MAX_SIDE: Final = 16_384
MAX_PIXELS: Final = 2**25
# Levels of JSON; an architecture is at the fourth:  { networks [ { architecture {
MAX_DEPTH: Final = 12
ARCHITECTURE_DEPTH: Final = 4
# Whole numbers up to here are exact in a float64, as which other JSON readers hold them.
MAX_INTEGER: Final = 2**53
MAX_TEXT: Final = 1024
MAX_ASPECT: Final = 64

RatePart = Annotated[int, Field(ge=1, le=2**31 - 1)]
Offset = Annotated[int, Field(ge=-(2**53), le=2**53)]
Size = tuple[Annotated[int, Field(ge=1, le=65_536)], Annotated[int, Field(ge=1, le=65_536)]]


Tag = Annotated[int, Field(ge=0, le=255)]
SeiNumber = Annotated[int, Field(ge=0, le=2**32 - 1)]


class Tags(StoredValues):
    """What the original says of its colours, in numbers of ISO/IEC 23091-2; 2 says nothing."""

    primaries: Tag = Field(2, description="colour primaries")
    transfer: Tag = Field(2, description="transfer characteristics")
    matrix: Tag = Field(2, description="matrix coefficients")
    range: Literal[0, 1, 2] = Field(0, description="0: not stated, 1: limited, 2: full")


class Hdr(StoredValues):
    """HDR metadata in the units of H.265's SEI messages."""

    mastering: Annotated[tuple[SeiNumber, ...], Field(min_length=10, max_length=10)] | None = Field(
        None, description="display: x, y of green, blue, red, white; highest and lowest luminance"
    )
    light: tuple[SeiNumber, SeiNumber] | None = Field(None, description="highest light of pixel and frame")


class Color(StoredValues):
    """How the RGB frames relate to the Y'CbCr of the original file."""

    matrix: Literal["bt601", "bt709", "bt2020", "fcc", "smpte240m"] = Field(
        "bt601", description="luma coefficients of the original"
    )
    range: Literal["limited", "full"] = Field("limited", description="value range of the original")
    bit_depth: Literal[8, 10] = Field(8, description="bits per sample of the original")
    tags: Tags | None = Field(None, description="what the original states; none: matrix and range")
    hdr: Hdr | None = Field(None, description="HDR metadata of the original")


class EditRecord(StoredValues):
    """How a clip was cut from the original video: frames first, then crop, then resize."""

    first_frame: int = Field(0, ge=0, le=2**40, description="first frame taken")
    stop_frame: int | None = Field(None, ge=1, le=2**40, description="frame after the last; none: the end")
    crop: Size | None = Field(None, description="height and width cut from the centre; none: not cropped")
    resize: Size | None = Field(None, description="height and width resized to; none: not resized")
    stream: int | None = Field(None, ge=0, le=2**16, description="video stream; none: the main one")
    deinterlaced: bool = Field(False, description="whether fields were made frames")

    @model_validator(mode="after")
    def _check(self) -> EditRecord:
        if self.stop_frame is not None and self.stop_frame <= self.first_frame:
            raise ValueError(f"the range of frames {self.first_frame}:{self.stop_frame} is empty")
        return self


class Quality(StoredValues):
    """What was measured when the file was written, with the quantised networks."""

    psnr_db: float | None = Field(None, ge=-100, le=200, description="mean of the frames' PSNR, dB")
    pooled_psnr_db: float | None = Field(None, ge=-100, le=200, description="PSNR of the mean error, dB")
    ms_ssim: float | None = Field(None, ge=-1, le=1, description="mean of the frames' MS-SSIM")
    ms_ssim_window: int | None = Field(None, ge=1, le=65_536, description="rows of its window")


class Clip(StoredValues):
    """One clip: size, rate, colour and origin of its frames."""

    name: str = Field(min_length=1, max_length=255, description="name, unique in the file")
    num_frames: int = Field(ge=1, le=MAX_FRAMES, description="number of frames")
    height: int = Field(ge=1, le=MAX_SIDE, description="rows")
    width: int = Field(ge=1, le=MAX_SIDE, description="columns")
    bit_depth: Literal[8, 10] = Field(8, description="bits per sample of the frames")
    frame_rate: tuple[RatePart, RatePart] = Field((30, 1), description="frames per second as a fraction")
    pixel_aspect: tuple[RatePart, RatePart] = Field((1, 1), description="width of a pixel over its height")
    last_seconds: tuple[RatePart, RatePart] | None = Field(
        None, description="how long the last frame is held; none: as long as the rate says"
    )
    audio_start: tuple[Offset, RatePart] = Field((0, 1), description="start of AUDIO, seconds from frame 0")
    color: Color = Field(default_factory=Color, description="colour of the original")
    edit: EditRecord | None = Field(None, description="how the clip was cut from the original")
    has_audio: bool = Field(False, description="whether there is a section AUDIO")
    has_times: bool = Field(False, description="whether there is a section TIMES")
    quality: Quality | None = Field(None, description="measured quality")

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if any(letter in "/\\" or not letter.isprintable() for letter in name):
            raise ValueError("a clip's name may have no slashes and no control characters")
        return name

    @model_validator(mode="after")
    def _check_pixels(self) -> Clip:
        if self.height * self.width > MAX_PIXELS:
            raise ValueError(f"{self.height} × {self.width} pixels; at most {MAX_PIXELS} are allowed")
        if max(self.pixel_aspect) > MAX_ASPECT * min(self.pixel_aspect):
            raise ValueError(f"pixel_aspect {self.pixel_aspect}: at most {MAX_ASPECT} to 1, either way")
        return self


class Span(NamedTuple):
    """Frames ``first_frame`` … ``first_frame + num_frames − 1`` of clip number ``clip``."""

    clip: int
    first_frame: int
    num_frames: int


class Network(StoredValues):
    """One network: its architecture and the frames it represents, numbered in order of its spans."""

    model: str = Field(min_length=1, max_length=64, description="name of the model")
    architecture: dict[str, Any] = Field(default_factory=dict, description="configuration of the model")
    spans: tuple[Span, ...] = Field(min_length=1, max_length=4096, description="frames represented")
    frames_per_chunk: int = Field(0, ge=0, le=MAX_FRAMES, description="frames per chunk of latents; 0: none")
    num_keyframes: int = Field(0, ge=0, le=MAX_FRAMES, description="parts of its keyframes: images, groups")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="arithmetic of the fit")

    @property
    def num_frames(self) -> int:
        """Frames the network represents."""
        return sum(span.num_frames for span in self.spans)

    @property
    def num_chunks(self) -> int:
        """Chunks of latents: 0 if there are none."""
        return -(-self.num_frames // self.frames_per_chunk) if self.frames_per_chunk else 0


class Header(StoredValues):
    """Everything a file says about itself except where its sections lie."""

    created_by: str = Field(min_length=1, max_length=64, description="program and version that wrote it")
    clips: tuple[Clip, ...] = Field(min_length=1, max_length=4096, description="the clips")
    networks: tuple[Network, ...] = Field(min_length=1, max_length=65_536, description="the networks")

    @property
    def num_frames(self) -> int:
        """Frames of all clips."""
        return sum(clip.num_frames for clip in self.clips)

    @model_validator(mode="after")
    def _check(self) -> Header:
        if len({clip.name for clip in self.clips}) != len(self.clips):
            raise ValueError("two clips have the same name")
        if self.num_frames > MAX_FRAMES:
            raise ValueError(
                f"the clips have {plural(self.num_frames, 'frame')}; at most {MAX_FRAMES:,} are allowed"
            )
        for number, network in enumerate(self.networks):
            _check_plain(network.architecture, ARCHITECTURE_DEPTH)
            if network.num_keyframes > network.num_frames:
                counts = f"{network.num_keyframes} parts of keyframes, but {network.num_frames} frames"
                raise ValueError(f"network {number} has {counts}")
        self._check_spans()
        for number, network in enumerate(self.networks):
            first = self.clips[network.spans[0].clip]
            for span in network.spans:
                clip = self.clips[span.clip]
                if (clip.height, clip.width) != (first.height, first.width):
                    raise ValueError(f"network {number} represents clips of different sizes")
                if clip.bit_depth != first.bit_depth:
                    raise ValueError(f"network {number} represents clips of different bit depths")
        return self

    def _check_spans(self) -> None:
        """Sorted by clip and frame, each span must begin where the one before it ended."""
        #   clip 0  |── span ──|──── span ────|     `clip`, `frame`: the first frame that no span
        #   clip 1  |───────── span ──────────|                      before this one has covered
        spans: list[Span] = []
        for network in self.networks:
            spans += network.spans
        clip, frame = 0, 0
        for span in sorted(spans):
            if clip < len(self.clips) and frame == self.clips[clip].num_frames:
                clip, frame = clip + 1, 0
            continues = clip < len(self.clips) and (span.clip, span.first_frame) == (clip, frame)
            if not continues or span.num_frames < 1:
                raise ValueError(f"span {list(span)} does not continue clip {clip} at frame {frame}")
            frame += span.num_frames
            if frame > self.clips[clip].num_frames:
                num_frames = self.clips[clip].num_frames
                raise ValueError(f"span {list(span)} reaches past the clip's {plural(num_frames, 'frame')}")
        if clip != len(self.clips) - 1 or frame != self.clips[clip].num_frames:
            raise ValueError(f"no span covers clip {clip} from frame {frame}")


def _check_plain(tree: object, depth: int = 1) -> None:
    """Refuse JSON values that are too deep (the root is at ``depth``) or too large."""
    # A list of what is still to look at, not recursion: the depth of a hostile file must not cost stack.
    waiting = [(tree, depth)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"more than {MAX_DEPTH} levels of nesting")
        if isinstance(value, dict):
            for key, item in value.items():
                waiting += [(key, depth + 1), (item, depth + 1)]
        elif isinstance(value, (list, tuple)):
            waiting += [(item, depth + 1) for item in value]
        elif isinstance(value, str):
            if len(value) > MAX_TEXT:
                raise ValueError(f"a text of {len(value)} characters; at most {MAX_TEXT} are allowed")
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise ValueError("a number that is not finite")
        elif isinstance(value, int):
            if abs(value) > MAX_INTEGER:
                raise ValueError("an integer outside ±2^53")
        elif value is not None:
            raise ValueError(f"a {type(value).__name__}, which is not JSON")


def pack_header(header: Header) -> bytes:
    """Return ``header`` as it is stored: compact JSON without defaults, deflated.

    Raises
    ------
    ValueError
        If it is longer than the format allows.
    """
    plain = header.model_dump_json(exclude_defaults=True).encode()
    stored = deflate(plain)
    if len(plain) > MAX_HEADER or len(stored) > MAX_STORED_HEADER:
        sizes = f"{len(plain)} bytes, {len(stored)} deflated"
        raise ValueError(f"the header is too long ({sizes}); use fewer networks")
    return stored


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("duplicate key")
    return table


def unpack_header(stored: bytes) -> Header:
    """Return the header that :func:`pack_header` stored.

    Raises
    ------
    BitstreamError
        If it is damaged, too large, or breaks a rule of the format.
    """
    plain = inflate(stored, MAX_HEADER, "header")
    try:
        text = plain.decode("utf-8")
        # The schema does not see repeated keys, nor what is inside an architecture.
        _check_plain(json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_without_repeats))
        return Header.model_validate_json(text)
    except ValidationError as error:
        raise BitstreamError(f"header: {first_problem(error)}") from None
    except RecursionError:
        raise BitstreamError(f"header is nested too deep; at most {MAX_DEPTH} levels are allowed") from None
    except ValueError as error:
        raise BitstreamError(f"header cannot be used: {error}") from None
