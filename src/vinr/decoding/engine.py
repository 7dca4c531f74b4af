"""Decoding many frames in order, and decoding as settings say.

::

    times ──> batches of one network ──> runner ──> frames ──> CPU                  (GPU: copied while the
                                   torch (precision, layout, kernels)               next batch is computed)
                                   or ONNX Runtime

Axes: N frames of a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import groupby, islice
from operator import itemgetter
from typing import Any, Final, Literal

import torch
from torch import Tensor

from vinr.decoding.networks import CACHED_NETWORKS, Layout, NetworkLoader, memory_told
from vinr.decoding.settings import DecodeSettings
from vinr.device import exact_float32, memory_kept
from vinr.errors import UsageError
from vinr.models import HybridModel, IndexModel, VideoModel
from vinr.sharing import LruCache, SharedLock
from vinr.video.spec import Query, max_level, to_levels

Runner = Callable[[Query], Tensor]
"""Takes whole frames, returns float rgb_NCHW."""

HALF_TYPES: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Half precision shows no loss where it moves the first frame by no more than a tenth of a level (root of the
# mean square): a third of what rounding to levels does, with 8 bits 0.01 dB of a frame of 45 dB.
MAX_HALF_ERROR: Final = 0.1
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
        self._bytes_per_frame = 0

    def run(self, network: int, times: Sequence[float]) -> Tensor:
        """Return levels rgb_NCHW, on the device, of the frames at ``times`` of ``network``, as one batch."""
        model = self._networks.model(network, self._layout)
        what = f"{len(times)} frames at once"
        with torch.inference_mode(), exact_float32(self._device), memory_told(what):
            query = Query.of_frames(torch.tensor(times, dtype=torch.float64, device=self._device))
            rgb_NCHW = self._runner(network, model, query)(query)
            return to_levels(rgb_NCHW, model.video.bit_depth)

    def play(self, places: Iterable[tuple[int, float]]) -> Generator[Tensor, None, None]:
        """Yield levels rgb_NCHW, on the CPU, of the frames at ``places`` (network, time), in order.

        While frames are played, memory that is freed on the CPU is kept for the next ones.
        """
        with memory_kept(self._device):
            yield from _copied_behind(self._batches(places))

    def _batches(self, places: Iterable[tuple[int, float]]) -> Iterator[Tensor]:
        for network, group in groupby(places, key=itemgetter(0)):
            times = map(itemgetter(1), group)
            while batch := list(islice(times, self._batch_size())):
                yield self._measured(network, batch)

    # -- what a batch takes --------------------------------------------------------------------------------

    def _batch_size(self) -> int:
        if self._settings.batch:
            return self._settings.batch
        if self._device.type != "cuda" or not self._bytes_per_frame:
            return 1
        free_bytes, _ = torch.cuda.mem_get_info(self._device)
        return choose_batch_size(free_bytes, self._bytes_per_frame)

    def _measured(self, network: int, times: Sequence[float]) -> Tensor:
        """Run a batch; the first one tells how much memory a frame takes on a GPU."""
        if self._device.type != "cuda" or self._bytes_per_frame:
            return self.run(network, times)
        self._networks.model(network, self._layout)  # its weights are no part of it
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        rgb_NCHW = self.run(network, times)
        batch_bytes = torch.cuda.max_memory_allocated(self._device) - before
        self._bytes_per_frame = max(batch_bytes // len(times), 1)
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
        return Layout(self._device, transforms, channels_last)

    def _runner(self, network: int, model: VideoModel, query: Query) -> Runner:
        """Return what runs ``model``; ``query`` is what it is tried with where something is measured."""
        return self._runners.get(model, lambda: self._make_runner(network, model, query))

    def _make_runner(self, network: int, model: VideoModel, query: Query) -> Runner:
        if self._settings.backend == "onnx":
            from vinr.decoding.onnx_graph import OnnxRunner, export_graph  # needs packages of an extra

            networks = self._networks
            return OnnxRunner(model, export_graph(model, networks.skeleton(network), networks.name(network)))
        dtype = self._choose_type(model, query)
        plain = _in_type(model, dtype)
        if not self._settings.compile:
            return plain
        return _CompiledRunner(lambda: _in_type(_compile_decoder(model), dtype), plain, self._note)

    def _choose_type(self, model: VideoModel, query: Query) -> torch.dtype | None:
        """Return the type of half precision that the network computes in; None: float32."""
        precision: str = self._settings.precision
        if precision == "auto":
            if self._device.type == "cpu":
                return None
            precision, note = choose_precision(
                model(query), _in_type(model, torch.float16)(query), max_level(model.video.bit_depth)
            )
            self._note(note)
        return HALF_TYPES.get(precision)


# -- choices -------------------------------------------------------------------------------------------------


def choose_batch_size(free_bytes: int, bytes_per_frame: int) -> int:
    """Return how many frames a GPU with ``free_bytes`` computes at once: 1 to :data:`MAX_BATCH`."""
    return min(max(int(MEMORY_SHARE * free_bytes / bytes_per_frame), 1), MAX_BATCH)


def choose_precision(
    exact_NCHW: Tensor, half_NCHW: Tensor, levels: int = 255
) -> tuple[Literal["fp16", "fp32"], str]:
    """Return the precision that a GPU computes a network in, and a line that says why.

    Its first frame, float rgb_NCHW in [0, 1], is ``exact_NCHW`` in fp32 and ``half_NCHW`` in fp16. They may
    differ by :data:`MAX_HALF_ERROR` of a level; the brightest colour is level ``levels``.
    """
    error = levels * float((half_NCHW - exact_NCHW).square().mean().sqrt())
    # False where fp16 overflowed and the error is no number.
    chosen: Literal["fp16", "fp32"] = "fp16" if error <= MAX_HALF_ERROR else "fp32"
    return chosen, f"precision {chosen}: fp16 moves the first frame by {error:.3f} levels of {levels}"


# -- runners -------------------------------------------------------------------------------------------------


def _in_type(runner: Runner, dtype: torch.dtype | None) -> Runner:
    """Return a runner that computes in ``dtype``, as far as each operation allows; None: as it is."""
    if dtype is None:
        return runner

    def run(query: Query) -> Tensor:
        with torch.autocast(query.time_N.device.type, dtype=dtype):
            rgb_NCHW = runner(query)
        return rgb_NCHW.float()

    return run


def _compile_decoder(model: VideoModel) -> Runner:
    """Return a runner of ``model`` whose decoder is compiled; the model itself stays as it is."""
    assert isinstance(model, IndexModel | HybridModel)
    # Not the whole model: reading latents from the file is no graph.
    decode: Callable[..., Tensor] = torch.compile(model.decode)

    def run(query: Query) -> Tensor:
        inputs: list[Any] = [query]
        if isinstance(model, HybridModel):
            inputs.append(model.latents_at(query.time_N))
        return model.crop(decode(*inputs), query)

    return run


class _CompiledRunner:
    """Runs a network compiled, and as it is from where that fails.

    ``make`` returns the compiled runner, ``plain`` is the other one, ``note`` is told of the failure.
    """

    def __init__(self, make: Callable[[], Runner], plain: Runner, note: Callable[[str], None]) -> None:
        self._make, self._plain, self._note = make, plain, note
        self._compiled: Runner | None = None
        self._has_failed, self._compiling = False, SharedLock()

    def __call__(self, query: Query) -> Tensor:
        """Return float rgb_NCHW."""
        if not self._has_failed:
            try:
                return self._run_compiled(query)
            except Exception as error:  # whatever a compiler or its kernels raise
                self._has_failed = True
                rgb_NCHW = self._plain(query)  # an error of the network itself comes again here
                self._note(f"torch.compile failed, decoding continues without it: {_first_line(error)}")
                return rgb_NCHW
        return self._plain(query)

    def _run_compiled(self, query: Query) -> Tensor:
        if self._compiled is not None:
            return self._compiled(query)
        # The first frame compiles: in one thread, while others wait.
        with self._compiling:
            if self._has_failed:
                return self._plain(query)
            compiled = self._compiled or self._make()
            rgb_NCHW = compiled(query)
            self._compiled = compiled
            return rgb_NCHW


def _first_line(error: Exception) -> str:
    message = str(error).strip() or "no message"
    return f"{type(error).__name__}: {message.splitlines()[0].rstrip()}"[:200]


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
