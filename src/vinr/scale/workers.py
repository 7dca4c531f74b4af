"""Which workers run jobs: how many, where, and what each of them may use.

Ray is imported only when workers are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Final, Self

from vinr.errors import UsageError, argument
from vinr.state.launch import num_together

EXTRA: Final = "vinr[ray]"
MAX_WORKERS: Final = 10_000
MAX_THREADS: Final = 1024


@dataclass(frozen=True)
class Workers:
    """Workers that jobs run on.

    ``count`` is how many jobs run at a time; None, on a cluster: as many as its CPUs and GPUs allow.
    ``address`` is that of a Ray cluster, None: this machine. ``threads`` are CPU threads of each worker,
    ``gpus`` the GPUs of each: below 1 that share of one, so that several workers use it together.
    """

    count: int | None = None
    address: str | None = None
    threads: int = 1
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.count is None and self.address is None:
            raise UsageError(f"give {argument('workers')}, or the address of a cluster as {argument('ray')}")
        if self.count is not None and not 1 <= self.count <= MAX_WORKERS:
            raise UsageError(
                f"{argument('workers')} {self.count}: give the jobs at a time, 1 to {MAX_WORKERS:,}"
            )
        if not 1 <= self.threads <= MAX_THREADS:
            name = argument("threads_per_worker")
            raise UsageError(f"{name} {self.threads}: give threads of a worker, 1 to {MAX_THREADS:,}")
        if not (0 <= self.gpus <= 1 or (self.gpus <= 64 and self.gpus == int(self.gpus))):
            name = argument("gpus_per_worker")
            raise UsageError(f"{name} {self.gpus:g}: give a share of a GPU such as 0.5, or whole GPUs")

    @classmethod
    def asked_for(
        cls,
        workers: int | None,
        ray: str | None,
        gpus_per_worker: float | None = None,
        threads_per_worker: int | None = None,
        threads: int | None = None,
    ) -> Self | None:
        """Return the workers that the arguments of a command ask for, None if none are.

        ``threads`` are those of the process itself.

        Raises
        ------
        UsageError
            If the arguments contradict each other, or Ray is not installed.
        """
        if workers is None and ray is None:
            for name, value in (
                ("gpus_per_worker", gpus_per_worker),
                ("threads_per_worker", threads_per_worker),
            ):
                if value is not None:
                    needed = f"{argument('workers')} or {argument('ray')}"
                    raise UsageError(f"{argument(name)} {value:g} has no effect without {needed}")
            return None
        if threads is not None:
            raise UsageError(
                f"{argument('threads')} {threads} are those of this process; those of workers are "
                f"{argument('threads_per_worker')}"
            )
        _refuse_ranks(workers, ray)
        each = 1 if threads_per_worker is None else threads_per_worker
        asked = cls(workers, ray, each, gpus_per_worker or 0.0)
        import_ray()
        return asked

    def device(self, name: str) -> str:
        """Return the device of each worker where a command was given ``name``: what ``auto`` means there."""
        if name != "auto":
            return name
        return "cuda" if self.gpus else "cpu"

    def __str__(self) -> str:
        text = "as many workers as there is room for" if self.count is None else f"{self.count} workers"
        text = "1 worker" if self.count == 1 else text
        return text if self.address is None else f"{text} of the cluster at {self.address}"


def _refuse_ranks(workers: int | None, ray: str | None) -> None:
    """Refuse workers in a process that fits together with others: those would wait for it, idle."""
    count = num_together()
    if count == 1:
        return
    asked = argument("ray", ray) if workers is None else argument("workers", workers)
    together = f"torchrun has started {count} processes, which fit one network together"
    raise UsageError(
        f"{asked}: {together} and would wait, idle, for the workers; start vinr without torchrun, or leave "
        f"{argument('workers')} and {argument('ray')} out"
    )


def import_ray() -> ModuleType:
    """Return the module.

    Raises
    ------
    UsageError
        If it is not installed.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        use = f"{argument('workers')} and {argument('ray')} run jobs on Ray, which is not installed"
        raise UsageError(f"{use}: pip install '{EXTRA}', or leave them out") from None
    return ray  # type: ignore[no-any-return]
