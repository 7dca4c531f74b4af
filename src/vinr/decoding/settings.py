"""How the networks of a file are run when its frames are decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, ValidationError

from vinr.errors import UsageError
from vinr.settings import Settings, apply_overrides, describe_validation

SECTION = "decode"


class DecodeSettings(Settings):
    """How frames are computed; the defaults leave choices to the device (docs/decoding.md says how)."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="arithmetic; auto: fp16 on GPUs where the first frame shows no loss, else fp32"
    )
    channels_last: bool | None = Field(
        None, description="store maps pixel by pixel; none: where convolutions do without transforms"
    )
    convolution: Literal["auto", "direct"] = Field(
        "auto", description="auto: after a transform (Winograd, Fourier) where that is faster; or directly"
    )
    compile: bool = Field(False, description="let torch.compile make kernels, where it can")
    batch: int = Field(
        0, ge=0, le=256, description="frames a call when decoding in order; 0: 1, on GPUs what memory allows"
    )
    backend: Literal["torch", "onnx"] = Field("torch", description="what runs networks; onnx: ONNX Runtime")


def load_decode_settings(overrides: Sequence[str] = (), *, backend: str | None = None) -> DecodeSettings:
    """Return the settings with ``overrides`` (``decode.key=value``) applied; ``backend`` goes before them.

    Raises
    ------
    UsageError
        If a key is unknown or a value not allowed.
    """
    given = [*overrides, f"{SECTION}.backend={backend}"] if backend is not None else list(overrides)
    tree = apply_overrides({}, given)
    if odd := sorted(tree.keys() - {SECTION}):
        raise UsageError(f"--set {odd[0]}.…: decoding has settings decode.{', decode.'.join(known())} only")
    try:
        return DecodeSettings.model_validate(tree.get(SECTION, {}))
    except ValidationError as error:
        raise UsageError(f"{SECTION}.{describe_validation(error)}") from None


def known() -> tuple[str, ...]:
    """Return the names of the settings."""
    return tuple(DecodeSettings.model_fields)
