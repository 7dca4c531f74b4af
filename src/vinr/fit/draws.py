"""Random numbers of one fit, from generators of its own.

PyTorch has one generator for the whole process. Two fits in two threads would draw from it in turns, each in
the way of the other, and a program would find its own sequence changed by an encode. So nothing in vinr draws
from it::

    seed ─> Draws ─┬─ on the CPU ──> initial weights, priors      (the numbers that torch.manual_seed(seed)
                   └─ on the device of the fit ──> coding noise    would give; part of the state of a fit)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Draws:
    """The generators of one fit: one on the CPU and, where the fit runs elsewhere, one on its device.

    Parameters
    ----------
    seed
        0 to 2^64 − 1; all generators begin with it.
    device
        Where the fit runs.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        device = torch.device(device)
        self._generators = {"cpu": torch.Generator().manual_seed(seed)}
        if device.type != "cpu":
            self._generators[device.type] = torch.Generator(device).manual_seed(seed)

    def uniform(self, *shape: int) -> Tensor:
        """Return numbers in [0, 1), on the CPU."""
        return torch.rand(shape, generator=self._generators["cpu"])

    def uniform_like(self, value: Tensor) -> Tensor:
        """Return numbers in [0, 1), of the shape, type, layout and device of ``value``, without gradient."""
        return torch.empty_like(value.detach()).uniform_(generator=self._generators[value.device.type])

    def as_global(self) -> TorchDispatchMode:
        """Let what PyTorch draws in the body, in this thread, on the CPU, come from here; for ``with``."""
        return _DrawnFrom(self._generators["cpu"])

    def state(self) -> dict[str, Tensor]:
        """Return the state of each generator by the type of its device: uint8, on the CPU."""
        return {name: generator.get_state() for name, generator in self._generators.items()}

    def load(self, states: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state`. A generator that it lacks, of a fit on another device, goes on as it is.

        Raises
        ------
        RuntimeError
            If a state is not one of such a generator.
        """
        for name, generator in self._generators.items():
            if name in states:
                generator.set_state(states[name])


class _DrawnFrom(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Gives every operation that draws a generator, so that the global one stays as it is."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._generator = generator

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and the guard against it loads the compiler

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Return what ``func`` does."""
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **(kwargs or {}))
        return _with_generator(func)(*args, **{**(kwargs or {}), "generator": self._generator})


def _with_generator(func: Any) -> Any:
    """Return the overload of an operation that draws that takes a generator.

    Raises
    ------
    NotImplementedError
        If there is none: such numbers cannot be drawn again, so no model may begin with them.
    """
    if any(argument.name == "generator" for argument in func._schema.arguments):
        return func
    prefix = "" if func._overloadname == "default" else f"{func._overloadname}_"
    overload = getattr(func.overloadpacket, f"{prefix}generator", None)
    if overload is None:
        raise NotImplementedError(f"{func} draws, and takes no generator; draw with an operation that does")
    return overload
