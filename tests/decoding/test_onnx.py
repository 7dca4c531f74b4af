"""Networks as ONNX graphs: the frames of the torch backend, over all models; files; and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import vinr
from random_files import random_file, random_network
from vinr.bitstream import Container
from vinr.decoding import onnx_graph
from vinr.decoding.exporting import ExportedGraph
from vinr.decoding.networks import NetworkLoader
from vinr.decoding.onnx_graph import OnnxRunner
from vinr.decoding.settings import DecodeSettings
from vinr.errors import OutputError
from vinr.models import HybridModel, VideoModel, list_models
from vinr.video.spec import Query, VideoSpec, to_levels

VIDEO = VideoSpec(4, 30, 50)
# A frame of these is made of other decoded frames, or of a whole clip.
REFUSED = {"dnerv_diverse", "ffnerv", "tnerv"}
# Exporting takes seconds. Here are a model of time and one of latents, the others are tested with -m slow.
TIMED, HYBRID = "nerv", "hnerv"


@pytest.fixture(scope="module", autouse=True)
def _one_registry() -> Iterator[None]:
    """Read the exporter's table of operations once: it takes a second for each export."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry  # loads slowly

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of a model with latents."""
    return random_file(tmp_path_factory.mktemp("onnx") / "clip.vinr", VIDEO, name=HYBRID)


@pytest.fixture(scope="module")
def graph(file: Path) -> Path:
    """Its network as an ONNX file."""
    path = file.with_suffix(".onnx")
    assert vinr.export(str(file), str(path)) == (
        ExportedGraph(str(path), path.stat().st_size, 0, VIDEO.num_frames, 0),
    )
    return path


def check_frames(path: Path) -> None:
    """Assert that ONNX Runtime shows what torch shows, in batches and alone."""
    with vinr.open(path, device="cpu") as video:
        expected = torch.cat(list(video.play())).int()
    with vinr.open(path, device="cpu", settings=DecodeSettings(backend="onnx", batch=3)) as video:
        found, alone = torch.cat(list(video.play())).int(), video[2].int()
    assert (found - expected).abs().max() <= 1
    assert (alone - expected[2]).abs().max() <= 1
    assert float((found != expected).float().mean()) < 1e-3


def test_frames_are_those_of_torch(tmp_path: Path) -> None:
    check_frames(random_file(tmp_path / "clip.vinr", VIDEO, name=TIMED))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*list_models()} - REFUSED))
def test_frames_of_all_models_are_those_of_torch(tmp_path: Path, name: str) -> None:
    check_frames(random_file(tmp_path / "clip.vinr", VIDEO, name=name))


def test_file_takes_numbers_and_latents_of_any_many_frames(file: Path, graph: Path) -> None:
    import onnxruntime  # loads slowly

    session = onnxruntime.InferenceSession(graph)
    assert [item.name for item in session.get_inputs()] == ["frame", "embedding"]
    assert [item.name for item in session.get_outputs()] == ["rgb"]
    with Container.open(file) as container, vinr.open(file, device="cpu") as video:
        model = NetworkLoader(container, torch.device("cpu")).model(0)
        assert isinstance(model, HybridModel)
        for count in (1, 3):
            index_N = torch.arange(count)
            embedding = model.latents_at(index_N.double()).per_frame["embedding"]
            (rgb,) = session.run(None, {"frame": index_N.numpy(), "embedding": embedding.numpy()})
            difference = to_levels(torch.from_numpy(rgb), 8).int() - video[:count].int()
            assert difference.abs().max() <= 1


def test_times_between_frames_are_refused(file: Path, graph: Path) -> None:
    with Container.open(file) as container:
        model = NetworkLoader(container, torch.device("cpu")).model(0)
        runner = OnnxRunner(model, graph.read_bytes())
        assert runner(Query.of_frames(torch.tensor([2.0, 1.0]))).shape == (2, 3, VIDEO.height, VIDEO.width)
        with pytest.raises(vinr.UsageError, match="between frames"):
            runner(Query.of_frames(torch.tensor([2.0, 1.5])))


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_frames_made_of_others_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    path = random_file(tmp_path / "clip.vinr", VIDEO, name=name)
    message = rf"^{name} cannot be run by ONNX: a frame is not one graph .*; use the backend torch$"
    settings = DecodeSettings(backend="onnx")
    with (
        vinr.open(path, device="cpu", settings=settings) as video,
        pytest.raises(vinr.UsageError, match=message),
    ):
        video[0]


def test_a_graph_of_other_frames_is_refused(tmp_path: Path, graph: Path) -> None:
    other = random_network(HYBRID, VIDEO, seed=1)
    with pytest.raises(ValueError, match=r"frame \d of the graph is \d+\.\d+ levels of 255 off"):
        onnx_graph.check_graph(other, graph.read_bytes())


def test_tables_hold_what_is_encoded_for_each_frame() -> None:
    model = random_network(TIMED, VIDEO)
    skeleton = type(model).on_meta(model.config, VIDEO)  # type: ignore[arg-type]
    (table,) = onnx_graph.read_tables(model, skeleton)
    encoding = model.encoding  # type: ignore[union-attr]
    for index in range(VIDEO.num_frames):
        assert torch.equal(table[index], encoding(torch.tensor([index])).float())  # type: ignore[operator]
    assert len(table) == VIDEO.num_frames


# -- files ---------------------------------------------------------------------------------------------------


def test_several_networks_need_a_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []

    def graph(model: VideoModel, skeleton: VideoModel, name: str) -> bytes:
        lengths.append(skeleton.video.num_frames)
        return b"graph%d" % (len(lengths) - 1)

    monkeypatch.setattr(onnx_graph, "export_graph", graph)
    path = random_file(tmp_path / "clip.vinr", VIDEO, lengths=(3, 1))
    with pytest.raises(vinr.UsageError, match=r"2 networks.*part_%02d\.onnx, not '.*a\.onnx'"):
        vinr.export(str(path), str(tmp_path / "a.onnx"))
    parts = [tmp_path / "part_0.onnx", tmp_path / "part_1.onnx"]
    assert vinr.export(str(path), str(tmp_path / "part_%d.onnx")) == (
        ExportedGraph(str(parts[0]), 6, 0, 3, 0),
        ExportedGraph(str(parts[1]), 6, 3, 1, 0),
    )
    assert [part.read_bytes() for part in parts] == [b"graph0", b"graph1"]


def test_existing_files_are_kept(file: Path, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_text("precious", encoding="utf-8")
    with pytest.raises(OutputError, match="force=True"):
        vinr.export(str(file), str(tmp_path / "a.onnx"))
    assert (tmp_path / "a.onnx").read_text(encoding="utf-8") == "precious"


def test_missing_packages_are_named(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        onnx_graph, "find_spec", lambda name: None if name == "onnxruntime" else find_spec(name)
    )
    message = r"^ONNX needs onnxruntime, not installed here: pip install 'vinr\[onnx\]'$"
    with pytest.raises(vinr.UsageError, match=message):
        vinr.export(str(file), str(tmp_path / "a.onnx"))
    with (
        vinr.open(file, device="cpu", settings=DecodeSettings(backend="onnx")) as video,
        pytest.raises(vinr.UsageError, match=message),
    ):
        video[0]
