"""How the networks of a file are run when its frames are decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, ValidationError

from vinr.errors import UsageError
from vinr.settings import Settings, apply_overrides, describe_validation

SECTION = "decode"


class DecodeSettings(Settings):
    """How frames are computed; the defaults leave choices to the device (docs/decoding.md says how).

    Raises
    ------
    UsageError
        If a name is unknown or a value not allowed.
    """

    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="arithmetic; auto: fp16 on GPUs if the first frame loses nothing, else fp32"
    )
    channels_last: bool | None = Field(
        None, description="channels-last memory layout; none: where no convolution uses a transform"
    )
    convolution: Literal["auto", "direct"] = Field(
        "auto", description="auto: by a transform (Winograd, Fourier) where that is faster; direct: never"
    )
    compile: bool = Field(False, description="compile networks with torch.compile")
    batch: int = Field(
        0,
        ge=0,
        le=256,
        description="frames per batch when playing; 0: 1 on CPUs, what memory allows on GPUs",
    )
    backend: Literal["torch", "onnx"] = Field("torch", description="what runs networks; onnx: ONNX Runtime")

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise UsageError(f"{SECTION}.{describe_validation(error, DecodeSettings)}") from None


def load_decode_settings(overrides: Sequence[str] = (), *, backend: str | None = None) -> DecodeSettings:
    """Return the settings with ``overrides`` (``decode.key=value``) applied; ``backend`` goes before them.

    Raises
    ------
    UsageError
        If a key is unknown or a value not allowed.
    """
    items = list(overrides)
    if backend is not None:
        items.append(f"{SECTION}.backend={backend}")
    tree = apply_overrides({}, items)
    if unknown := sorted(tree.keys() - {SECTION}):
        names = ", ".join(f"{SECTION}.{name}" for name in DecodeSettings.model_fields)
        raise UsageError(f"setting {unknown[0]}.…: decoding only has {names}")
    return DecodeSettings(**tree.get(SECTION, {}))
