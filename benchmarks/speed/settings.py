"""What is measured, how long and how often."""

from __future__ import annotations

from typing import Annotated, Final, Literal, get_args

from pydantic import Field

from vinr.settings import Settings

Share = Annotated[float, Field(gt=0, le=1)]
Part = Literal["steps", "quality", "decoding", "memory"]
PARTS: Final[tuple[Part, ...]] = get_args(Part)


class SpeedSettings(Settings):
    """What is measured, how long and how often."""

    parts: tuple[Part, ...] = Field(
        PARTS, min_length=1, description="quality needs steps, which are then measured too"
    )
    variants: bool = Field(False, description="also time steps with each part of vinr's recipe switched off")
    epochs: int = Field(30, ge=1, le=100_000, description="epochs of the paper's recipe")
    budgets: tuple[Share, ...] = Field(
        (0.125, 1 / 3, 1.0), min_length=1, description="vinr's times, as shares of the paper's recipe's"
    )
    turns: int = Field(
        5, ge=3, le=1000, description="times that everything compared is measured, interleaved"
    )
    steps: int = Field(4, ge=1, le=1000, description="steps of a fit per turn")
    frames: int = Field(4, ge=1, le=1000, description="frames decoded per turn")
    limit_seconds: float = Field(0.2, gt=0, le=60, description="seconds that a limit is measured per turn")
    compile: bool = Field(True, description="also decode with torch.compile")
    onnx: bool = Field(True, description="also decode with ONNX Runtime, where it is installed")


# Each process that measures memory has to load torch, which is what takes seconds here.
QUICK: Final = SpeedSettings(
    parts=("steps", "quality", "decoding"),
    epochs=1,
    budgets=(1.0,),
    turns=3,
    steps=1,
    frames=1,
    limit_seconds=0.01,
    compile=False,
    onnx=False,
)
