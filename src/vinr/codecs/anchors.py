"""Real codecs on the frames that a network is fitted to: x264, x265, SVT-AV1, VP9, all of PyAV's wheel.

::

    uint8 RGB ── video/color ──> 8-bit 4:2:0 ── encoder ──> elementary stream ── decoder ──> uint8 RGB
                (or 4:4:4)                                    stat() = bytes       │
                                                                                  └──> planes, for YUV-PSNR

Every anchor is a frozen class that builds its exact options; they go into the result with the versions of
the libraries. Nothing is weakened silently: PSNR is compared, so encoders are tuned for it; B-frames are left
out only by the anchors that say so (as in many papers on learned codecs); the messages in which x264 and x265
state their settings, 0.5 to 2.5 kB, are left out of their streams. Keyframes come where encoders put them.

Encoders run on one thread, x265 without wavefronts, and x264 without AVX-512 (see ``video/encoders.py``):
the same bytes each time, and slightly fewer of them. x265 (frames larger than 64×64), SVT-AV1 and VP9 write
them on any x86 CPU, x264 on those with SSSE3 or more.

Axes: N frames, C colour channels (red, green, blue), H rows, W columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Final, Literal, final

from pydantic import Field

from vinr.errors import UsageError, did_you_mean
from vinr.settings import Settings
from vinr.video.encoders import MAX_WIDTH_WITHOUT_CU_TREE, drops_cu_tree, safe_options

Chroma = Literal["4:2:0", "4:4:4"]
RateControl = Literal["crf", "qp"]
Tune = Literal["psnr", "ssim"]
MpegPreset = Literal[
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
    "placebo",
]

PIXEL_FORMATS: Final[dict[Chroma, str]] = {"4:2:0": "yuv420p", "4:4:4": "yuv444p"}
NO_B_FRAMES: Final = "no B-frames (as in papers)"
NO_CU_TREE: Final = f"no CU tree (up to {MAX_WIDTH_WITHOUT_CU_TREE} pixels wide)"


class Anchor(Settings, ABC):
    """An encoder with all its settings but the one that is swept."""

    encoder: ClassVar[str]
    library: ClassVar[str]
    muxer: ClassVar[str]
    suffix: ClassVar[str]
    max_quality: ClassVar[int]
    sweep: ClassVar[tuple[int, ...]]
    chromas: ClassVar[tuple[Chroma, ...]] = ("4:2:0", "4:4:4")
    stream_filter: ClassVar[str | None] = None

    tune: Tune | None = Field(default="psnr", description="measure to tune for; none: the encoder's default")
    chroma: Chroma = Field(default="4:2:0", description="sampling of the 8-bit colours that are coded")
    rate_control: RateControl = Field(
        default="crf", description="constant rate factor, or constant quantiser"
    )

    @property
    @abstractmethod
    def title(self) -> str:
        """Codec, effort and what was left out, for tables."""

    @abstractmethod
    def _encoder_options(self, quality: int) -> dict[str, str]:
        """Return libav's options for CRF or QP ``quality``."""

    @final
    @property
    def name(self) -> str:
        """The title with whatever is not as usual."""
        extra: list[str] = [] if self.chroma == "4:2:0" else [self.chroma]
        extra += [] if self.tune == "psnr" else [f"tune {self.tune or 'default'}"]
        extra += [] if self.rate_control == "crf" else ["constant QP"]
        return ", ".join([self.title, *extra])

    @final
    @property
    def pixel_format(self) -> str:
        """libav's name of the samples that are coded."""
        return PIXEL_FORMATS[self.chroma]

    @final
    def check_quality(self, quality: int) -> None:
        """Refuse what cannot be coded.

        Raises
        ------
        UsageError
            If CRF or QP ``quality`` is out of range, or the codec cannot code the chroma.
        """
        if not 0 <= quality <= self.max_quality:
            raise UsageError(
                f"{self.name}: {self.rate_control} {quality} is out of range; give 0 to {self.max_quality}"
            )
        if self.chroma not in self.chromas:
            raise UsageError(f"{self.title} codes {', '.join(self.chromas)} only, not {self.chroma}")

    @final
    def options(self, quality: int, *, width: int) -> dict[str, str]:
        """Return libav's exact options on this CPU for CRF or QP ``quality`` and frames of ``width`` pixels.

        Raises
        ------
        UsageError
            As :meth:`check_quality`.
        """
        self.check_quality(quality)
        return safe_options(self.encoder, self._encoder_options(quality), width=width)

    @final
    def setting(self, quality: int, *, width: int) -> str:
        """Return ``CRF 28`` or ``QP 28``, and what frames of ``width`` pixels are coded without."""
        setting = f"{self.rate_control.upper()} {quality}"
        return f"{setting}, {NO_CU_TREE}" if drops_cu_tree(self.encoder, width) else setting


class _MpegAnchor(Anchor, ABC):
    """What x264 and x265 share: names of presets, range of CRF, B-frames that can be left out."""

    max_quality = 51
    # Six steps of CRF about halve the rate of both; the ends lie a factor of 2 ** (25 / 6), about 18, apart.
    sweep = (18, 23, 28, 33, 38, 43)

    preset: MpegPreset = Field(default="medium", description="effort")
    b_frames: bool = Field(default=True, description="whether frames may refer to later ones")

    @final
    @property
    def title(self) -> str:
        title = f"{self.encoder.removeprefix('lib')} {self.preset}"
        return title if self.b_frames else f"{title}, {NO_B_FRAMES}"


@final
class X264(_MpegAnchor):
    """H.264 by x264."""

    encoder = "libx264"
    library = "libx264"
    muxer = "h264"
    suffix = ".264"
    stream_filter = "filter_units=remove_types=6"  # supplemental messages: x264 writes its settings there

    def _encoder_options(self, quality: int) -> dict[str, str]:
        options = {self.rate_control: str(quality), "preset": self.preset, "threads": "1"}
        return {**options, **_tune_option(self.tune), **({} if self.b_frames else {"bf": "0"})}


@final
class X265(_MpegAnchor):
    """H.265 by x265."""

    encoder = "libx265"
    library = "libx265"
    muxer = "hevc"
    suffix = ".265"

    def _encoder_options(self, quality: int) -> dict[str, str]:
        # One thread, and no message with the settings in the stream.
        params = "log-level=none:info=0:pools=none:frame-threads=1" + ("" if self.b_frames else ":bframes=0")
        options = {self.rate_control: str(quality), "preset": self.preset, "x265-params": params}
        return {**options, **_tune_option(self.tune)}


@final
class SvtAv1(Anchor):
    """AV1 by SVT-AV1."""

    encoder = "libsvtav1"
    library = "libSvtAv1Enc"
    muxer = "obu"
    suffix = ".obu"
    max_quality = 63
    sweep = (20, 28, 36, 44, 52, 60)
    chromas = ("4:2:0",)

    preset: int = Field(default=6, ge=0, le=13, description="0 (slowest) to 13")

    @property
    def title(self) -> str:
        return f"SVT-AV1 preset {self.preset}"

    def _encoder_options(self, quality: int) -> dict[str, str]:
        params = ["lp=1"]  # one thread
        # SVT-AV1 numbers its tunings: 0 for the eye, 1 for PSNR, 2 for SSIM.
        params += [] if self.tune is None else [f"tune={'1' if self.tune == 'psnr' else '2'}"]
        # A constant quantiser has no rate control that varies it over the frame.
        params += ["rc=0", "aq-mode=0"] if self.rate_control == "qp" else []
        return {
            self.rate_control: str(quality),
            "preset": str(self.preset),
            "svtav1-params": ":".join(params),
        }


@final
class Vp9(Anchor):
    """VP9 by libvpx, one pass. Its IVF file has 32 bytes, and 12 per frame, on top of the stream."""

    encoder = "libvpx-vp9"
    library = "libvpx"
    muxer = "ivf"
    suffix = ".ivf"
    max_quality = 63
    sweep = (20, 28, 36, 44, 52, 60)

    preset: int = Field(default=1, ge=0, le=5, description="cpu-used: 0 (slowest) to 5")

    @property
    def title(self) -> str:
        return f"VP9 good, cpu-used {self.preset}"

    def _encoder_options(self, quality: int) -> dict[str, str]:
        # CRF sets the quality alone where no bit rate is aimed at; qmin = qmax then leaves one quantiser.
        level = str(quality)
        options = {"crf": level, "b": "0", "deadline": "good", "cpu-used": str(self.preset)}
        if self.rate_control == "qp":
            options |= {"qmin": level, "qmax": level}
        return {**options, "threads": "1", "row-mt": "0", **_tune_option(self.tune)}


CODECS: Final[dict[str, type[X264 | X265 | SvtAv1 | Vp9]]] = {
    "x264": X264,
    "x265": X265,
    "av1": SvtAv1,
    "vp9": Vp9,
}


def _tune_option(tune: Tune | None) -> dict[str, str]:
    return {} if tune is None else {"tune": tune}


def parse_anchor(text: str) -> tuple[Anchor, tuple[int, ...]]:
    """Return an anchor and the qualities to sweep from ``x265-veryslow-nob-444:qp:22:27:32:37``.

    After the codec (x264, x265, av1, vp9) may stand its preset, ``nob`` (no B-frames), ``444``; after colons
    ``qp`` and the values, which have defaults.

    Raises
    ------
    UsageError
        If a part is not known.
    """
    named, *numbers = text.strip().lower().split(":")
    codec, *words = named.split("-")
    if codec not in CODECS:
        known = f"{', '.join(CODECS)}, as in x265-medium{did_you_mean(codec, CODECS)}"
        raise UsageError(f"anchor {text!r}: the codec must be one of {known}")
    values: dict[str, object] = {}
    if numbers[:1] == ["qp"]:
        values["rate_control"] = numbers.pop(0)
    for word in words:
        if word == "nob" and "b_frames" in CODECS[codec].model_fields:
            values["b_frames"] = False
        # What is neither is taken for a preset, which the class checks: names for x264, numbers for AV1.
        elif word == "444":
            values["chroma"] = "4:4:4"
        else:
            values["preset"] = word
    try:
        anchor = CODECS[codec].model_validate(values)
        sweep = tuple(map(int, numbers)) or anchor.sweep
    except ValueError:
        raise UsageError(
            f"anchor {text!r}: give a codec, its preset, nob (x264, x265), 444, and values of CRF or QP, "
            f"such as x265-medium-nob, av1-4, x265-veryslow:qp:22:27:32:37"
        ) from None
    for quality in sweep:
        anchor.check_quality(quality)
    return anchor, sweep
