"""The processes that fit one network together, a device each; usually there is one, alone.

::

                  the same parameters, random numbers and order of frames in all
    a batch ─┬─ rank 0: its slice ─> gradients ─┐            ┌─> update
             ├─ rank 1: its slice ─> gradients ─┼── a sum ───┼─> the same update
             └─ rank 2: its slice ─> gradients ─┘            └─> the same update

    rank 0 alone: inputs, clock, sizes, PSNR of a round, files, display ──> what it decides, all do

Small things go through the CPUs (gloo), so that no GPU is waited for; gradients and frames through whatever
joins the devices (nccl between GPUs).

Axes: N rows of a tensor; what they are does not matter here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from importlib.metadata import version
from typing import Any, Final, TypeVar, final

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from vinr.errors import FitError, RankError, UsageError, argument, plural
from vinr.state.interruption import Interrupted, held_back, take_waiting, waiting
from vinr.state.launch import VARIABLES, working_together
from vinr.temporaries import Maker

RESTARTS: Final = "TORCHELASTIC_RESTART_COUNT"
# A process that has died is noticed at once; this is for one that lives and does not answer.
ANSWER_TIMEOUT: Final = timedelta(minutes=10)
# Between two fits the others wait while rank 0 codes, measures and reads.
IDLE_TIMEOUT: Final = timedelta(days=7)

Value = TypeVar("Value")


class StoppedTogether(Interrupted):
    """All ranks stop after the same step, since one was asked to."""


@final
class Ranks:
    """This process among the ``count`` that fit together; all do nothing where it is alone.

    Every method that exchanges something must be called by all ranks, in the same order.

    Parameters
    ----------
    number, count
        Rank of this process, from 0, and how many there are.
    local
        Its number on this machine, which is that of its GPU.
    host, idle
        PyTorch's groups of all ranks for what concerns CPUs alone: during a fit, and between two.
    """

    def __init__(
        self, number: int = 0, count: int = 1, local: int = 0, *, host: Any = None, idle: Any = None
    ) -> None:
        self.number, self.count, self._local, self._host, self._idle = number, count, local, host, idle
        self._is_whole, self._signal, self._maker = True, 0, Maker()

    @property
    def are_several(self) -> bool:
        """Whether this process is not alone."""
        return self.count > 1

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which decides, writes and shows."""
        return self.number == 0

    def own_device(self, device: torch.device) -> torch.device:
        """Return the device of this rank where the fit runs on ``device``: the CPU, or a GPU of its own.

        Raises
        ------
        UsageError
            If ``device`` is one certain GPU, or this machine has fewer GPUs than ranks.
        """
        if not self.are_several or device.type != "cuda":
            return device
        if device.index is not None:
            raise UsageError(f"device {device} is one GPU, and {self.count} processes fit; give cuda or auto")
        count = torch.cuda.device_count()
        if self._local >= count:
            raise UsageError(
                f"no GPU is left for rank {self.number}: its machine has {plural(count, 'CUDA device')}; "
                f"start at most as many processes there, or give {argument('device', 'cpu')}"
            )
        return torch.device("cuda", self._local)

    # -- what ranks exchange ---------------------------------------------------------------------------------

    def add_up(self, values: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the sums over all ranks of floating tensors on one device: one message."""
        if not self.are_several:
            return values
        flat = torch.cat([value.detach().reshape(-1) for value in values])
        with self._answered():
            dist.all_reduce(flat)
        parts = torch.split(flat, list(map(Tensor.numel, values)))
        return [part.view(value.shape) for part, value in zip(parts, values, strict=True)]

    def spread(self, values: Sequence[Tensor]) -> None:
        """Give all ranks the values of rank 0, in place; one message per device."""
        if not self.are_several:
            return
        by_device: dict[torch.device, list[Tensor]] = {}
        for value in values:
            by_device.setdefault(value.device, []).append(value.detach())
        for group in by_device.values():
            # As bytes, which every backend sends; types of 16 bits some do not.
            flat = torch.cat([_as_bytes(value) for value in group])
            with self._answered():
                dist.broadcast(flat, 0)
            sizes = [value.numel() * value.element_size() for value in group]
            for value, part in zip(group, torch.split(flat, sizes), strict=True):
                value.copy_(_from_bytes(part, value))

    def gather_rows(self, *values_N: Tensor) -> tuple[Tensor, ...]:
        """Return the rows of all ranks, one rank after another, of tensors that have N rows each, N ≥ 1."""
        if not self.are_several:
            return values_N
        own = torch.tensor([len(values_N[0])])
        counts = [torch.empty_like(own) for _ in range(self.count)]
        with self._answered():
            dist.all_gather(counts, own, group=self._host)
        sizes = [int(count) for count in counts]
        return tuple(self._gather(value_N, sizes) for value_N in values_N)

    def _gather(self, value_N: Tensor, sizes: Sequence[int]) -> Tensor:
        # Messages have to be equally long: rank 1 of sizes (2, 1) sends  a a,  and the second a is cut off.
        place_N = torch.arange(max(sizes), device=value_N.device).clamp_max(len(value_N) - 1)
        padded_N = value_N[place_N]
        gathered = [torch.empty_like(_as_bytes(padded_N)) for _ in sizes]
        with self._answered():
            dist.all_gather(gathered, _as_bytes(padded_N))
        rows = [_from_bytes(part, padded_N)[:size] for part, size in zip(gathered, sizes, strict=True)]
        return torch.cat(rows)

    def decide(self, choose: Callable[[], Value]) -> Value:
        """Return in all ranks what ``choose`` returns in rank 0; it is not called in the others."""
        if not self.are_several:
            return choose()
        chosen = [choose() if self.is_first else None]
        with self._answered():
            dist.broadcast_object_list(chosen, 0, group=self._host)
        return chosen[0]  # type: ignore[return-value]

    def agree(self, problem: str | None) -> None:
        """Go on only if no rank has a ``problem``.

        Raises
        ------
        UsageError
            In all ranks, with the first problem.
        """
        if not self.are_several:
            return
        problems: list[str | None] = [None] * self.count
        with self._answered():
            dist.all_gather_object(problems, problem, group=self._host)
        for number, text in enumerate(problems):
            if text is not None:
                raise UsageError(f"rank {number}: {text}")

    def settle(self, progress: float) -> float:
        """Return the ``progress`` of rank 0, after a step; learn whether any rank was asked to stop."""
        #            progress   signal                    largest
        #   rank 0   0.42       0 (none)         ──>      0.42, 15     in all ranks
        #   rank 1   −1         15 (SIGTERM)
        own = torch.tensor([progress if self.is_first else -1.0, waiting() or 0], dtype=torch.float64)
        with self._answered():
            dist.all_reduce(own, dist.ReduceOp.MAX, group=self._host)
        settled, signal = own.tolist()
        self._signal = int(signal)
        return float(settled)

    # -- work of all ranks -----------------------------------------------------------------------------------

    def send(self, message: object) -> None:
        """Give the others, which wait in :meth:`receive`, something to do; rank 0 alone calls it."""
        with self._answered():
            dist.broadcast_object_list([message], 0, group=self._idle)

    def receive(self) -> Any:
        """Wait for what rank 0 sends."""
        message: list[Any] = [None]
        with self._answered():
            dist.broadcast_object_list(message, 0, group=self._idle)
        return message[0]

    @contextmanager
    def in_step(self) -> Iterator[None]:
        """Work together in the body: signals wait until all ranks know, in :meth:`stop_if_asked`.

        Whoever leaves it by an error that the others do not have leaves them for good.
        """
        with held_back() if self.are_several else nullcontext():
            try:
                yield
            except (FitError, StoppedTogether):
                raise  # all ranks leave, at the same step
            except BaseException:
                self._is_whole = False
                raise

    def stop_if_asked(self) -> None:
        """Stop, in all ranks after the same step, if any of them was asked to.

        Raises
        ------
        Interrupted
            If so.
        """
        if self._signal:
            take_waiting()
            number, self._signal = self._signal, 0
            raise StoppedTogether(number)

    @contextmanager
    def _answered(self) -> Iterator[None]:
        """Turn PyTorch's error on a rank that has gone, or does not answer, into one line."""
        if not (self._is_whole and self._maker.is_here):
            raise RankError("the processes of this fit are no longer together; start them anew")
        try:
            yield
        except RuntimeError as error:
            self._is_whole = False
            raise RankError(
                f"rank {self.number} of {self.count} has lost another, which has ended or does not answer "
                f"({_reason(error)}); start all of them again, with {argument('resume', True)}"
            ) from error

    def leave(self) -> None:
        """Part, after the last exchange."""
        # Where a rank is lost, the end of this process closes what is open.
        if self._is_whole and self._maker.is_here:
            dist.destroy_process_group()


ALONE: Final = Ranks()
_current = ALONE


def current() -> Ranks:
    """Return the ranks that this process has joined, or :data:`ALONE`, as in a process forked from it."""
    return _current if _current._maker.is_here else ALONE


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the processes that ``torchrun`` has started; fits in the body of rank 0 run on all of them.

    What they do together is :func:`vinr.fit.follow.work_together`, or each steps a Trainer of its own.

    Raises
    ------
    UsageError
        If ``torchrun`` has not started this process, or says nonsense, or ranks have other versions.
    RankError
        If the others do not come.
    """
    global _current
    number, count, local = map(_variable, VARIABLES[:3])
    if torch.cuda.is_available() and local < torch.cuda.device_count():
        torch.cuda.set_device(local)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    try:
        store, _, _ = next(rendezvous("env://", timeout=ANSWER_TIMEOUT))
        # After a restart the store may still hold the addresses of processes that have died.
        store = dist.PrefixStore(f"vinr {os.environ.get(RESTARTS, 0)}", store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=ANSWER_TIMEOUT)
        host, idle = (dist.new_group(backend="gloo", timeout=time) for time in (ANSWER_TIMEOUT, IDLE_TIMEOUT))
        ranks = Ranks(number, count, local, host=host, idle=idle)
    except (RuntimeError, ValueError) as error:
        raise RankError(f"rank {number} of {count} does not find the others: {error}") from error
    _check_versions(ranks)
    _current = ranks
    # Processes that this one starts have its environment, and are no ranks.
    del os.environ[VARIABLES[0]]
    try:
        with working_together(count):
            yield ranks
    finally:
        os.environ[VARIABLES[0]] = str(number)
        _current = ALONE
        ranks.leave()


def _check_versions(ranks: Ranks) -> None:
    here = f"vinr {version('vinr')}, torch {torch.__version__}"
    first = ranks.decide(lambda: here)
    ranks.agree(None if here == first else f"it has {here}, and rank 0 {first}; install the same everywhere")


def _reason(error: RuntimeError) -> str:
    """Return the first sentence of what PyTorch says, without the place in its source."""
    return re.sub(r"^\[[^\]]*\]\s*", "", str(error)).splitlines()[0].partition(". ")[0]


def _variable(name: str) -> int:
    text = os.environ.get(name, "")
    if not text.isdecimal():
        raise UsageError(f"the environment variable {name} is {text!r}; torchrun sets it to a whole number")
    return int(text)


def _as_bytes(value: Tensor) -> Tensor:
    """Return what lies in ``value``, row by row, as uint8."""
    return value.reshape(-1).contiguous().view(torch.uint8)


def _from_bytes(flat: Tensor, like: Tensor) -> Tensor:
    """Return a tensor of the type and shape of ``like`` from its bytes."""
    # A part of a message may begin anywhere; numbers of 8 bytes may not.
    return flat.clone().view(like.dtype).view(like.shape)
