"""Networks as ONNX graphs: from the number of a frame and its latents to colours.

::

    frame (int64, N) ──> rows of tables, where the network encodes time ─┐
    latents (float32, N first) ──────────────────────────────────────────┴─> rgb (float32, N, 3, H, W)

Encodings are exact, in integers, which is no graph; models mark them with ``no_graph``. While a network is
traced, each such function gives rows of a table of what it returns for all frames. Needs the extra
``vinr[onnx]``.

Axes: N frames of a batch, T frames of the video, C channels, H rows, W columns.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Final

import torch
from torch import Tensor, nn

from vinr.errors import UsageError
from vinr.models import FrozenLatents, HybridModel, IndexModel, Latents, VideoModel
from vinr.models.layers.encodings import no_graph_replaced
from vinr.video.spec import Query, max_level

FRAME_INPUT: Final = "frame"
OUTPUT: Final = "rgb"
# Largest difference between a graph's frame and the network's, in levels: well below one.
TOLERANCE: Final = 0.25


def export_graph(model: VideoModel, skeleton: VideoModel, name: str) -> bytes:
    """Return the network as an ONNX file.

    Parameters
    ----------
    model
        The network, ready to decode.
    skeleton
        The same without memory for its values (:meth:`VideoModel.on_meta`).
    name
        Of the model, for messages.

    Raises
    ------
    UsageError
        If the packages for it are missing, or a frame of this model is not one graph.
    """
    _require("onnx", "onnxruntime", "onnxscript")
    try:
        graph = _export(_FrameGraph(model, read_tables(model, skeleton)))
        check_graph(model, graph)
    except Exception as error:  # tracing and translating raise whatever they like
        reason = str(error).strip().partition("\n")[0][:160] or type(error).__name__
        raise UsageError(
            f"{name} cannot be run by ONNX: a frame is not one graph of its number and its latents "
            f"({reason}); use the backend torch"
        ) from None
    return graph


def _require(*packages: str) -> None:
    if missing := [package for package in packages if find_spec(package) is None]:
        raise UsageError(f"ONNX needs {', '.join(missing)}, not installed here: pip install 'vinr[onnx]'")


def check_graph(model: VideoModel, graph: bytes) -> None:
    """Raise ValueError unless ``graph`` gives the first and the last frame as ``model`` does."""
    runner, levels = OnnxRunner(model, graph), max_level(model.video.bit_depth)
    for index in {0, model.video.num_frames - 1}:
        with torch.inference_mode():
            query = Query.of_frames(torch.tensor([index]))
            error = levels * float((runner(query) - model(query).cpu()).abs().max())
        # Not "error > TOLERANCE": a graph of no numbers is refused as well.
        if not error <= TOLERANCE:
            raise ValueError(f"frame {index} of the graph is {error:.3f} levels of {levels} off")


class OnnxRunner:
    """Runs the ``graph`` of ``model`` by ONNX Runtime; latents come from where the model finds them."""

    def __init__(self, model: VideoModel, graph: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # In order: what the first one cannot run falls to the next.
        providers = ["CPUExecutionProvider"]
        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            providers.insert(0, "CUDAExecutionProvider")
        self._model = model
        self._session = onnxruntime.InferenceSession(graph, options, providers=providers)
        inputs = self._session.get_inputs()
        self._input_names = {item.name for item in inputs}
        self._takes_one_frame = inputs[0].shape[0] == 1

    def __call__(self, query: Query) -> Tensor:
        """Return float rgb_NCHW of whole frames, on the CPU.

        Raises
        ------
        UsageError
            If a time lies between frames.
        """
        frame_N = query.time_N.long()
        if bool((frame_N != query.time_N).any()):
            raise UsageError("ONNX cannot compute a frame between frames; use the backend torch")
        latents = self._model.latents_at(query.time_N) if isinstance(self._model, HybridModel) else Latents()
        inputs = {}
        for name, value in {FRAME_INPUT: frame_N, **latents.per_frame}.items():
            if name in self._input_names:  # the exporter leaves out what a network does not use
                inputs[name] = value.cpu()
        size = 1 if self._takes_one_frame else len(query)
        batches_NCHW = []
        for first in range(0, len(query), size):
            batch = {name: value[first : first + size].numpy() for name, value in inputs.items()}
            batches_NCHW.append(torch.from_numpy(self._session.run([OUTPUT], batch)[0]))
        return torch.cat(batches_NCHW)


# -- tables --------------------------------------------------------------------------------------------------


class _FrameGraph(nn.Module):
    """A network whose inputs are tensors: numbers of frames, and latents in the order of ``names``."""

    def __init__(self, model: VideoModel, tables: Sequence[Tensor]) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(model.per_frame_shapes())
        for number, table in enumerate(tables):
            self.register_buffer(f"table{number}", table)

    def forward(self, frame_N: Tensor, *latents: Tensor) -> Tensor:
        tables = self.buffers(recurse=False)

        def look_up(function: Callable[..., Tensor], *_: Any) -> Tensor:
            table = next(tables)
            # Of a table over time, (T, rows per frame, …), the rows of the frames; else the table itself.
            return table[frame_N].flatten(0, 1) if table.ndim > 2 else table

        with no_graph_replaced(look_up):
            values = Latents(dict(zip(self.names, latents, strict=True)))
            return _decode(self.model, Query.of_frames(frame_N), values)


def _decode(model: VideoModel, query: Query, latents: Latents) -> Tensor:
    assert isinstance(model, IndexModel | HybridModel)
    rgb_NCHW = model.decode(query, latents) if isinstance(model, HybridModel) else model.decode(query)
    return model.crop(rgb_NCHW, query)


def read_tables(model: VideoModel, skeleton: VideoModel) -> list[Tensor]:
    """Return what functions that are no graph return for all frames, in the order of their calls.

    A table is (T, rows per frame, …) of float32, or (rows, …) where it is the same for all frames. Parameters
    are those of :func:`export_graph`.

    Raises
    ------
    ValueError
        If such a function returns pixels.
    """
    num_frames = model.video.num_frames
    results_of_one = _record_results(model, 1)
    if not results_of_one:
        return []
    if isinstance(skeleton, HybridModel):
        skeleton.attach_latents(FrozenLatents(_latents(skeleton, num_frames, torch.device("meta"))))
    tables = []
    for one, whole in zip(results_of_one, _record_results(skeleton, num_frames), strict=True):
        if whole.shape == one.shape:
            tables.append(one.float())
        elif whole.is_meta:
            # Computed from parameters, which the skeleton lacks: a table of it would hold the frames.
            raise ValueError("pixels are made outside of any graph")
        else:
            tables.append(whole.float().view(num_frames, -1, *whole.shape[1:]))
    return tables


def _record_results(model: VideoModel, num_frames: int) -> list[Tensor]:
    """Return what those functions return, in order, when the first ``num_frames`` are decoded together."""
    results: list[Tensor] = []
    device = next(model.parameters()).device

    def record(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
        with no_graph_replaced(None):  # what it calls itself belongs to its own result
            results.append(function(*arguments))
        return results[-1].to(device)

    with torch.inference_mode(), no_graph_replaced(record):
        _decode(model, Query.of_frames(torch.arange(num_frames)), _latents(model, num_frames, device))
    return results


def _latents(model: VideoModel, num_frames: int, device: torch.device) -> Latents:
    """Return latents of zeros."""
    per_frame = {}
    for name, shape in model.per_frame_shapes().items():
        per_frame[name] = torch.zeros((num_frames, *shape), device=device)
    return Latents(per_frame)


# -- tracing -------------------------------------------------------------------------------------------------


def _export(frame: _FrameGraph) -> bytes:
    """Trace a network for batches of any size, or where that fails for one frame at a time."""
    failure: Exception | None = None
    for num_frames in (2, 1):
        try:
            return _trace(frame, num_frames)
        except Exception as error:  # the second failure, or both: the first says more
            failure = failure or error
    assert failure is not None
    raise failure


def _trace(frame: _FrameGraph, num_frames: int) -> bytes:
    frame_N = torch.arange(num_frames).clamp(max=frame.model.video.num_frames - 1)
    latents = list(_latents(frame.model, num_frames, torch.device("cpu")).per_frame.values())
    axes: dict[int, Any] = {0: torch.export.Dim("N")} if num_frames > 1 else {}
    with warnings.catch_warnings(), _quiet(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter's own parts
        dynamic = (axes, (axes,) * len(latents)) if latents else (axes,)
        program = torch.export.export(frame, (frame_N, *latents), dynamic_shapes=dynamic, strict=False)
        graph = torch.onnx.export(
            program,
            dynamo=True,
            input_names=[FRAME_INPUT, *frame.names],
            output_names=[OUTPUT],
            verbose=False,
        )
    assert graph is not None
    content: bytes = graph.model_proto.SerializeToString()
    return content


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter from logging what concerns only its authors."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
