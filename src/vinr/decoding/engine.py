"""Decoding many frames in order, and decoding as settings say.

::

    times ──> batches of one network ──> runner ──> 8-bit frames ──> CPU            (GPU: copied while the
                                   torch (precision, layout, kernels)               next batch is computed)
                                   or ONNX Runtime

Axes: N frames of a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import groupby, islice
from typing import Final

import torch
from torch import Tensor

from vinr.decoding.networks import CACHED_NETWORKS, Layout, NetworkLoader, memory_told, to_uint8
from vinr.decoding.settings import DecodeSettings
from vinr.device import exact_float32, memory_kept
from vinr.errors import UsageError
from vinr.models import HybridModel, IndexModel, VideoModel
from vinr.sharing import LruCache, SharedLock
from vinr.video.spec import Query

Runner = Callable[[Query], Tensor]
"""Takes whole frames, returns float rgb_NCHW."""

HALF_TYPES: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Half precision shows no loss where it moves the first frame by no more than a tenth of an 8-bit level (root
# of the mean square): a third of what rounding to 8 bits does, 0.01 dB of a frame of 45 dB.
MAX_HALF_ERROR: Final = 0.1 / 255
# Share of the free memory, and frames per batch beyond which nothing is gained.
MEMORY_SHARE: Final = 0.5
MAX_BATCH: Final = 16


class Engine:
    """Runs the networks of a file as ``settings`` say; threads may share it.

    Parameters
    ----------
    networks
        The networks of the file, shared with whoever else computes with them in the same layout.
    device
        Where frames are computed. With ONNX Runtime networks stay on the CPU: it has a copy of its own, on a
        GPU where it finds one.
    on_note
        Called with a line of text for each choice made by measuring, or in place of what the settings say.
    """

    def __init__(
        self,
        networks: NetworkLoader,
        device: torch.device,
        settings: DecodeSettings,
        on_note: Callable[[str], None],
    ) -> None:
        if settings.precision == "fp16" and device.type == "cpu":
            raise UsageError("decode.precision fp16 is for GPUs, this device is cpu; take fp32, bf16 or auto")
        self._device = torch.device("cpu") if settings.backend == "onnx" else device
        self._settings, self._note = settings, on_note
        self._networks, self._layout = networks, self._choose_layout()
        self._runners: LruCache[VideoModel, Runner] = LruCache(CACHED_NETWORKS)
        self.bytes_per_frame = 0

    def run(self, network: int, times: Sequence[float]) -> Tensor:
        """Return uint8 rgb_NCHW, on the device, of the frames at ``times`` of ``network``, as one batch."""
        model = self._networks.model(network, self._layout)
        what = f"{len(times)} frames at once"
        with torch.inference_mode(), exact_float32(self._device), memory_told(what):
            query = Query.of_frames(torch.tensor(times, dtype=torch.float64, device=self._device))
            return to_uint8(self._runner(network, model, query)(query))

    def play(self, places: Iterable[tuple[int, float]]) -> Generator[Tensor, None, None]:
        """Yield uint8 rgb_NCHW, on the CPU, of the frames at ``places`` (network, time), in order.

        While frames are played, memory that is freed on the CPU is kept for the next ones.
        """
        with memory_kept(self._device):
            yield from _copied_behind(self._batches(places))

    def _batches(self, places: Iterable[tuple[int, float]]) -> Iterator[Tensor]:
        for network, group in groupby(places, key=lambda place: place[0]):
            times = (time for _, time in group)
            while batch := list(islice(times, self.batch_size())):
                yield self._measured(network, batch)

    # -- what a batch takes --------------------------------------------------------------------------------

    def batch_size(self) -> int:
        """Return how many frames a batch has; on a GPU 1 until ``bytes_per_frame`` is measured."""
        if self._settings.batch:
            return self._settings.batch
        if self._device.type != "cuda" or not self.bytes_per_frame:
            return 1
        free, _ = torch.cuda.mem_get_info(self._device)
        return min(max(int(MEMORY_SHARE * free / self.bytes_per_frame), 1), MAX_BATCH)

    def _measured(self, network: int, times: Sequence[float]) -> Tensor:
        """Run a batch; the first one tells how much memory a frame takes on a GPU."""
        if self._device.type != "cuda" or self.bytes_per_frame:
            return self.run(network, times)
        self._networks.model(network, self._layout)  # its weights are no part of it
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        rgb_NCHW = self.run(network, times)
        self.bytes_per_frame = max((torch.cuda.max_memory_allocated(self._device) - before) // len(times), 1)
        return rgb_NCHW

    # -- preparing a network -------------------------------------------------------------------------------

    def _choose_layout(self) -> Layout:
        """Return how the settings let layers compute; transforms are for float32 on CPUs."""
        settings = self._settings
        if settings.backend == "onnx":
            return Layout(self._device)
        is_plain = settings.convolution == "direct"
        transforms = not (is_plain or settings.compile or settings.channels_last)
        transforms = transforms and self._device.type == "cpu" and settings.precision != "bf16"
        channels_last = False if is_plain and settings.channels_last is None else settings.channels_last
        return Layout(self._device, transforms, channels_last, settings.compile)

    def _runner(self, network: int, model: VideoModel, query: Query) -> Runner:
        """Return what runs ``model``; ``query`` is what it is tried with where something is measured."""
        return self._runners.get(model, lambda: self._make_runner(network, model, query))

    def _make_runner(self, network: int, model: VideoModel, query: Query) -> Runner:
        if self._settings.backend == "onnx":
            from vinr.decoding.onnx_graph import OnnxRunner, export_graph  # needs packages of an extra

            networks = self._networks
            return OnnxRunner(model, export_graph(model, networks.skeleton(network), networks.name(network)))
        dtype = self.choose_type(model, query)
        runner = in_half(model, dtype) if dtype else model
        return self._compiled(model, runner) if self._settings.compile else runner

    def choose_type(self, model: VideoModel, query: Query) -> torch.dtype | None:
        """Return the half type that ``model`` runs in, None for float32; ``auto`` tries it on ``query``."""
        precision = self._settings.precision
        if precision != "auto":
            return HALF_TYPES.get(precision)
        if self._device.type == "cpu":
            return None
        exact_NCHW = model(query)
        error = float((in_half(model, torch.float16)(query) - exact_NCHW).square().mean().sqrt())
        lossless = error <= MAX_HALF_ERROR  # false where it overflowed to NaN
        chosen = "fp16" if lossless else "fp32"
        self._note(f"precision {chosen}: fp16 moves the first frame by {error * 255:.3f} levels of 255")
        return torch.float16 if lossless else None

    def _compiled(self, model: VideoModel, runner: Runner) -> Runner:
        """Return a runner with the compiled network, and with the plain one from where that fails."""
        assert isinstance(model, IndexModel | HybridModel)
        # Not the whole model: reading latents from the file is no graph.
        plain, state, compiling = model.decode, "new", SharedLock()

        def run(query: Query) -> Tensor:
            nonlocal state
            if state == "failed":
                return runner(query)
            try:
                if state == "compiled":
                    return runner(query)
                with compiling:  # by one thread, while others wait
                    if state == "new":
                        model.decode = torch.compile(plain)  # type: ignore[method-assign]
                    rgb_NCHW = runner(query)
                    state = "compiled" if state == "new" else state
                    return rgb_NCHW
            except Exception as error:  # whatever a compiler or its kernels raise
                model.decode, state = plain, "failed"  # type: ignore[method-assign]
                rgb_NCHW = runner(query)  # an error of the network itself comes again here
                self._note(f"torch.compile failed, decoding continues without it: {_first_line(error)}")
                return rgb_NCHW

        return run


def in_half(model: VideoModel, dtype: torch.dtype) -> Runner:
    """Return a runner of ``model`` in ``dtype``, as far as each operation allows."""

    def run(query: Query) -> Tensor:
        with torch.autocast(query.time_N.device.type, dtype=dtype):
            rgb_NCHW: Tensor = model(query)
        return rgb_NCHW.float()

    return run


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:200]


def _copied_behind(batches: Iterator[Tensor]) -> Iterator[Tensor]:
    """Yield batches on the CPU; those of a GPU are copied while it computes the next one."""
    waiting: tuple[Tensor, torch.cuda.Event] | None = None
    for rgb_NCHW in batches:
        if rgb_NCHW.device.type == "cpu":
            yield rgb_NCHW
            continue
        host_NCHW = torch.empty(rgb_NCHW.shape, dtype=rgb_NCHW.dtype, pin_memory=True)
        host_NCHW.copy_(rgb_NCHW, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(torch.cuda.current_stream(rgb_NCHW.device))
        if waiting is not None:
            waiting[1].synchronize()
            yield waiting[0]
        waiting = host_NCHW, done
    if waiting is not None:
        waiting[1].synchronize()
        yield waiting[0]
