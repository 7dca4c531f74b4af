"""What `vinr info` says: bytes by component and by layer, ideal bits, and the figure."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import vinr
from clips import moving_shapes, write_clip
from command_line import Run
from vinr.bitstream import Container, SectionKind
from vinr.cli.app import app
from vinr.compress import pack_tensors
from vinr.compress.accounting import network_sizes
from vinr.config import CompressSettings, default_model, load_preset
from vinr.decoding import describe
from vinr.decoding.describe import FileInfo, layer_bars
from vinr.decoding.networks import NetworkLoader
from vinr.errors import BitstreamError, OutputError, UsageError
from vinr.models import StoredTensor, get_model, list_models, validate_architecture

FRAMES = 8


@pytest.fixture(scope="module", params=[*list_models(), "segments"])
def file(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    model_file: Callable[[str], Path],
    tiny_video: Path,
) -> Path:
    """A file of each model, and the tiny video in segments of three, two and three frames."""
    if request.param != "segments":
        return model_file(request.param)
    path = tmp_path_factory.mktemp("described") / "clip.vinr"
    vinr.encode(tiny_video, path, preset=f"{default_model()}-tiny", epochs=1, segment=3 / 25, device="cpu")
    return path


@pytest.fixture(scope="module")
def info(file: Path) -> FileInfo:
    return vinr.info(str(file))


def test_layers_are_the_stored_tensors(file: Path, info: FileInfo) -> None:
    assert [network.num_frames for network in info.networks] in ([FRAMES], [3, 2, 3])
    with Container.open(file) as container:
        loader = NetworkLoader(container, torch.device("cpu"))
        for number, network in enumerate(info.networks):
            model = loader.model(number)
            shapes = {name: item.value.numel() for name, item in model.stored().items() if not item.per_frame}
            per_frame = {f"latents.{name}": shape for name, shape in model.per_frame_shapes().items()}
            shapes |= {name: network.num_frames * int(np.prod(shape)) for name, shape in per_frame.items()}
            assert {layer.name: layer.num_elements for layer in network.layers} == shapes
            assert sum(shapes.values()) == network.num_parameters
            assert {layer.name for layer in network.layers if layer.role == "latent"} == per_frame.keys()


def test_bytes_add_up_to_the_sections_and_to_the_file(file: Path, info: FileInfo) -> None:
    with Container.open(file) as container:
        sections = container.section_sizes()
    own = (SectionKind.WEIGHTS, SectionKind.CHUNKS)
    for number, network in enumerate(info.networks):
        assert network.num_bytes == sum(s.num_bytes for s in sections if s.kind in own and s.owner == number)
        assert network.num_bytes == sum(layer.num_bytes for layer in network.layers)
        assert network.bits_per_parameter == pytest.approx(8 * network.num_bytes / network.num_parameters)
    assert sum(info.bytes_by_component.values()) == info.num_bytes == file.stat().st_size
    outside = {"header", "index", "keyframes", "audio", "times"}
    inside = sum(size for name, size in info.bytes_by_component.items() if name not in outside)
    assert inside == sum(network.num_bytes for network in info.networks)


def test_ideal_bits_are_close_below_the_bytes(info: FileInfo) -> None:
    """A range coder loses next to nothing; what lies above the ideal is side information and whole bytes."""
    for network in info.networks:
        for layer in network.layers:
            assert 0 < layer.side_bytes <= layer.num_bytes
            assert layer.bits_per_parameter == pytest.approx(8 * layer.num_bytes / layer.num_elements)
            assert layer.num_bytes >= layer.ideal_bits / 8 - 1
        side = sum(layer.side_bytes for layer in network.layers)
        # Each stream ends within four bytes of its content.
        streams = 1 + network.num_frames
        assert network.num_bytes <= side + network.ideal_bits / 8 + 4 * streams
        assert network.ideal_bits == pytest.approx(sum(layer.ideal_bits for layer in network.layers))


def test_bars_join_weights_and_biases_of_all_networks(info: FileInfo) -> None:
    bars = layer_bars(info)
    assert len({bar.label for bar in bars}) == len(bars)
    assert not [bar.label for bar in bars if bar.label.endswith((".weight", ".bias"))]
    assert sum(bar.num_bytes for bar in bars) == sum(network.num_bytes for network in info.networks)
    assert sum(bar.num_elements for bar in bars) == sum(network.num_parameters for network in info.networks)
    assert sum(bar.ideal_bits for bar in bars) == pytest.approx(sum(n.ideal_bits for n in info.networks))
    by_component: dict[str, int] = {}
    for bar in bars:
        for name, num_bytes in bar.parts.items():
            by_component[name] = by_component.get(name, 0) + num_bytes
    assert {name: info.bytes_by_component.get(name, 0) for name in by_component} == by_component


def test_command_line(tiny_file: Path, tmp_path: Path) -> None:
    info = vinr.info(str(tiny_file))
    ran = CliRunner().invoke(app, ["info", str(tiny_file), "--json"])
    document = json.loads(ran.stdout)
    assert document == json.loads(json.dumps(asdict(info)))
    layer = document["networks"][0]["layers"][0]
    assert {"name", "role", "num_elements", "num_bytes", "bits_per_parameter", "ideal_bits"} <= layer.keys()
    shown = CliRunner().invoke(app, ["info", str(tiny_file)]).stdout
    for bar in layer_bars(info):
        line = next(line for line in shown.splitlines() if line.split()[:1] == [bar.label])
        assert line.split()[1] == f"{bar.num_bytes:,}"
    drawn = CliRunner().invoke(app, ["info", str(tiny_file), "--plot", str(tmp_path / "a.png")])
    assert drawn.exit_code == 0
    picture = (tmp_path / "a.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    told = " ".join(drawn.stderr.split())  # folded where it is too long
    assert told.startswith("plot: ")
    assert told.endswith(f"a.png, {len(picture):,} bytes")


def test_a_file_of_a_model_that_is_not_installed_shows_its_bytes(
    run: Run, tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = vinr.info(tiny_file)
    model = whole.networks[0].model
    monkeypatch.setattr(describe, "list_models", lambda: ["nerv"])
    report = vinr.info(tiny_file)
    assert (report.networks, report.missing_model, report.num_networks) == ((), model, 1)
    assert sum(report.bytes_by_component.values()) == tiny_file.stat().st_size
    assert report.bytes_by_component["networks not read"] > 0.8 * report.num_bytes
    assert report.clips == whole.clips
    with pytest.raises(UsageError, match="there are no layers to draw; leave plot out"):
        vinr.info(tiny_file, plot=tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
    status, out, _ = run("info", tiny_file)
    assert status == 0
    shown = " ".join(out.split())
    assert f"model '{model}' is of no installed package, so that its networks are not read" in shown


def latent_network(num_frames: int) -> dict[str, StoredTensor]:
    return {
        "conv.weight": StoredTensor(torch.randn(8, 4, 3, 3), "weight"),
        "conv.bias": StoredTensor(torch.randn(8), "bias"),
        "latents.embedding": StoredTensor(torch.randn(num_frames, 4, 3, 2), "latent", per_frame=True),
        "latents.light": StoredTensor(torch.randn(num_frames, 2), "latent", per_frame=True),
    }


def one_slice(stored: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return what a reader expects: of per-frame tensors a slice."""
    return {
        name: StoredTensor(item.value[:1] if item.per_frame else item.value, item.role, item.per_frame)
        for name, item in stored.items()
    }


@pytest.mark.parametrize(("num_frames", "frames_per_chunk"), [(1, 1), (7, 1), (7, 3), (6, 3), (5, 9)])
def test_reader_finds_what_the_writer_counted(num_frames: int, frames_per_chunk: int) -> None:
    stored = latent_network(num_frames)
    packed = pack_tensors(stored, CompressSettings(), frames_per_chunk)
    lengths = [min(frames_per_chunk, num_frames - first) for first in range(0, num_frames, frames_per_chunk)]
    chunks = list(zip(lengths, packed.chunks, strict=True))
    assert network_sizes(packed.fixed, one_slice(stored), chunks) == packed.components


def test_chunks_that_do_not_fit_are_refused() -> None:
    stored = latent_network(4)
    packed = pack_tensors(stored, CompressSettings(), 2)
    with pytest.raises(BitstreamError, match="would hold"):
        network_sizes(packed.fixed, one_slice(stored), [(10**9, packed.chunks[0])])
    plain = {name: item for name, item in stored.items() if not item.per_frame}
    fixed = pack_tensors(plain, CompressSettings()).fixed
    with pytest.raises(BitstreamError, match="no latents"):
        network_sizes(fixed, plain, [(1, b"ab")])


def test_clips_are_all_described(tmp_path: Path) -> None:
    paths = [
        write_clip(tmp_path / f"{name}.mkv", moving_shapes(num_frames=2, height=32, width=48))
        for name in ("a", "b")
    ]
    vinr.encode(paths, tmp_path / "both.vinr", preset="nerv-tiny", epochs=1, device="cpu")
    for name in ("both.vinr", "both.vinr#b"):
        info = vinr.info(str(tmp_path / name))
        assert [clip.name for clip in info.clips] == ["a", "b"]
        assert len(info.networks) == 2


def test_figures_are_protected(tiny_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "bytes.png"
    vinr.info(str(tiny_file), plot=str(path))
    drawn = path.read_bytes()
    with pytest.raises(OutputError, match="force=True"):
        vinr.info(str(tiny_file), plot=str(path))
    path.write_bytes(b"old")
    vinr.info(str(tiny_file), plot=str(path), force=True)
    assert path.read_bytes() == drawn
    with pytest.raises(UsageError, match=r"must end in \.png"):
        vinr.info(str(tiny_file), plot=str(tmp_path / "bytes.svg"))
    with pytest.raises(OutputError, match="does not exist"):
        vinr.info(str(tiny_file), plot=str(tmp_path / "no" / "bytes.png"))
    assert list(tmp_path.iterdir()) == [path]


def test_architecture_without_latents_has_no_latent_bytes() -> None:
    preset = load_preset("nerv-tiny")
    cls = get_model(preset.model)
    clip = moving_shapes(num_frames=2, height=32, width=64)
    model = cls(validate_architecture(cls, preset.architecture), clip.spec)
    packed = pack_tensors(model.stored(), preset.compress)
    assert network_sizes(packed.fixed, model.stored(), ()) == packed.components
