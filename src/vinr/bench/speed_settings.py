"""How long and how often ``vinr bench speed`` measures."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from vinr.settings import Settings

Share = Annotated[float, Field(gt=0, le=1)]


class SpeedSettings(Settings):
    """How long and how often is measured."""

    epochs: int = Field(30, ge=1, le=100_000, description="epochs of the paper's recipe")
    budgets: tuple[Share, ...] = Field(
        (0.125, 1 / 3, 1.0), min_length=1, description="vinr's times, as shares of the paper's recipe's"
    )
    turns: int = Field(5, ge=3, le=1000, description="times that everything compared is measured, in turn")
    steps: int = Field(4, ge=1, le=1000, description="steps of a fit a turn")
    frames: int = Field(4, ge=1, le=1000, description="frames decoded a turn")
    limit_seconds: float = Field(0.2, gt=0, le=60, description="seconds that a limit is measured a turn")
    compile: bool = Field(True, description="also decode with torch.compile")
    onnx: bool = Field(True, description="also decode with ONNX Runtime, where it is installed")
    memory: bool = Field(True, description="measure peak memory, in processes of their own")


# Each process that measures memory has to load torch, which is what takes seconds here.
QUICK: Final = SpeedSettings(
    epochs=1,
    budgets=(1.0,),
    turns=3,
    steps=1,
    frames=1,
    limit_seconds=0.01,
    compile=False,
    onnx=False,
    memory=False,
)
