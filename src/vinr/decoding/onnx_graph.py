"""Networks as ONNX graphs: from the number of a frame and its latents to colours.

::

    frame (int64, N) ──> rows of tables, where the network encodes time ─┐
    latents (float32, N first) ──────────────────────────────────────────┴─> rgb (float32, N, 3, H, W)

Encodings are exact, in integers, which is no graph; models mark that with ``no_graph``. While
a network is traced, each such function gives rows of a table of what it returns for all frames. Needs the
extra ``vinr[onnx]``.

Axes: N frames of a batch, T frames of the video, C channels, H rows, W columns.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from threading import get_ident
from typing import Any, Final
from unittest.mock import patch

import torch
from torch import Tensor, nn

from vinr.errors import UsageError
from vinr.models import HybridModel, IndexModel, Latents, VideoModel
from vinr.models.base import FrozenLatents
from vinr.sharing import SharedLock
from vinr.video.spec import Query

FRAME_INPUT: Final = "frame"
OUTPUT: Final = "rgb"
# Largest difference between a graph's frame and the network's: well below one level of 255.
TOLERANCE: Final = 0.25 / 255
MARK: Final = "no_graph"
# Classes are changed while a network is traced, which two threads must not do at once.
_REPLACING: Final = SharedLock()

NoGraph = Callable[..., Tensor]


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
        graph = _export(_FrameGraph(model, _read_tables(model, skeleton)))
        _check(model, graph)
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


def _check(model: VideoModel, graph: bytes) -> None:
    """Raise ValueError unless ``graph`` gives the first and the last frame as ``model`` does."""
    runner = OnnxRunner(model, graph)
    for index in {0, model.video.num_frames - 1}:
        with torch.inference_mode():
            query = Query.of_frames(torch.tensor([index]))
            error = float((runner(query) - model(query).cpu()).abs().max())
        if not error <= TOLERANCE:
            raise ValueError(f"frame {index} of the graph is {error * 255:.3f} levels of 255 off")


class OnnxRunner:
    """Runs the ``graph`` of ``model`` by ONNX Runtime; latents come from where the model finds them."""

    def __init__(self, model: VideoModel, graph: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        available = onnxruntime.get_available_providers()
        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        self._model = model
        self._session = onnxruntime.InferenceSession(
            graph, options, providers=[item for item in wanted if item in available]
        )
        inputs = self._session.get_inputs()
        self._inputs = {item.name for item in inputs}
        self._one_by_one = inputs[0].shape[0] == 1

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
        given = {FRAME_INPUT: frame_N, **latents.per_frame}
        feed = {name: value.cpu().numpy() for name, value in given.items() if name in self._inputs}
        rows = [slice(row, row + 1) for row in range(len(query))] if self._one_by_one else [slice(None)]
        parts = [{name: value[row] for name, value in feed.items()} for row in rows]
        return torch.cat([torch.from_numpy(self._session.run([OUTPUT], part)[0]) for part in parts])


# -- tables --------------------------------------------------------------------------------------------------


class _FrameGraph(nn.Module):
    """A network whose inputs are tensors: numbers of frames, and latents in the order of ``names``."""

    def __init__(self, model: VideoModel, tables: Sequence[Tensor]) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(model.per_frame_shapes())
        self.count = len(tables)
        for number, table in enumerate(tables):
            self.register_buffer(f"table{number}", table)

    def forward(self, frame_N: Tensor, *latents: Tensor) -> Tensor:
        rows = iter(range(self.count))

        def look_up(original: NoGraph, *_: Any) -> Tensor:
            table = self.get_buffer(f"table{next(rows)}")
            # Of a table over time, (T, rows a frame, …), the rows of the frames; else the table itself.
            return table[frame_N].flatten(0, 1) if table.ndim > 2 else table

        with _replaced(self.model, look_up):
            return _decode(
                self.model, Query.of_frames(frame_N), Latents(dict(zip(self.names, latents, strict=True)))
            )


def _decode(model: VideoModel, query: Query, latents: Latents) -> Tensor:
    assert isinstance(model, IndexModel | HybridModel)
    rgb_NCHW = model.decode(query, latents) if isinstance(model, HybridModel) else model.decode(query)
    return model.crop(rgb_NCHW, query)


def _read_tables(model: VideoModel, skeleton: VideoModel) -> list[Tensor]:
    """Return what functions that are no graph give: (T, rows a frame, …); (rows, …) where all are alike."""
    if not _marked(model):
        return []
    num_frames = model.video.num_frames
    shapes = skeleton.per_frame_shapes().items()
    if shapes and isinstance(skeleton, HybridModel):
        nothing = {name: torch.empty((num_frames, *shape), device="meta") for name, shape in shapes}
        skeleton.attach_latents(FrozenLatents(Latents(nothing)))
    tables = []
    for one, whole in zip(_recorded(model, 1), _recorded(skeleton, num_frames), strict=True):
        if whole.shape == one.shape:
            tables.append(one.float())
        elif whole.is_meta:
            raise ValueError("pixels are made outside of any graph")
        else:
            tables.append(whole.float().view(num_frames, -1, *whole.shape[1:]))
    return tables


def _recorded(model: VideoModel, num_frames: int) -> list[Tensor]:
    """Return what those functions return, in order, when the first ``num_frames`` are decoded together."""
    found: list[Tensor] = []
    device = next(model.parameters()).device

    def record(original: NoGraph, *arguments: Any) -> Tensor:
        found.append(original(*arguments))
        return found[-1].to(device)

    shapes = model.per_frame_shapes().items()
    latents = {name: torch.zeros((num_frames, *shape), device=device) for name, shape in shapes}
    with torch.inference_mode(), _replaced(model, record):
        _decode(model, Query.of_frames(torch.arange(num_frames)), Latents(latents))
    return found


@contextmanager
def _replaced(model: nn.Module, replacement: Callable[..., Tensor]) -> Iterator[None]:
    """Call ``replacement`` (original, \\*arguments) for functions of the model's parts that are no graph.

    They are replaced in this thread alone: others may decode meanwhile.
    """
    thread = get_ident()
    with _REPLACING, ExitStack() as stack:
        for owner, name, original in _marked(model):

            def call(*arguments: Any, original: NoGraph = original) -> Tensor:
                if get_ident() != thread:
                    return original(*arguments)
                return replacement(original, *arguments)

            stack.enter_context(patch.object(owner, name, call))
        yield


def _marked(model: nn.Module) -> set[tuple[type, str, NoGraph]]:
    """Return class, name and function of each method marked as no graph, of modules and their parts."""
    parts = [part for module in model.modules() for part in (module, *vars(module).values())]
    owners = {owner for part in parts for owner in type(part).__mro__}
    return {
        (owner, name, value)
        for owner in owners
        if owner.__module__.partition(".")[0] != "torch"
        for name, value in vars(owner).items()
        if getattr(value, MARK, False)
    }


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
    shapes = frame.model.per_frame_shapes()
    latents = [torch.zeros(num_frames, *shapes[name]) for name in frame.names]
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
