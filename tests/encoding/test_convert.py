"""Published checkpoints become files that decode to the same frames; golden codes check the test's writer."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from typer.testing import CliRunner

import vinr
from clips import MemoryClip, moving_shapes
from golden_tensors import Golden
from published_checkpoints import (
    LEAST_AXIS,
    NEAR,
    SMALL,
    frames_of,
    published_document,
    published_entry,
    random_model,
)
from vinr.cli.app import app
from vinr.config import load_preset
from vinr.encoding.convert import convert
from vinr.encoding.hnerv_checkpoint import dequantise, read_published
from vinr.fit import fit
from vinr.models import validate_architecture
from vinr.models.hnerv import HNeRV, HNeRVConfig


@dataclass(frozen=True)
class Published:
    """A checkpoint on disk, and what it decodes to."""

    path: Path
    document: dict[str, Any]
    rgb_NCHW: Tensor
    clip: MemoryClip


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """A tiny network fitted to enough frames that embeddings and two layers have pairs for each fibre."""
    clip = moving_shapes(num_frames=LEAST_AXIS, height=32, width=64)
    preset = load_preset("hnerv-tiny", ["fit.epochs=6", "fit.batch_size=4"])
    model = fit(clip, preset).model
    assert isinstance(model, HNeRV)
    document = published_document(model)
    path = tmp_path_factory.mktemp("published") / "quant_vid.pth"
    torch.save(document, path)
    return Published(path, document, frames_of(document, [4, 2, 2], F.gelu), clip)


@pytest.fixture(scope="module")
def file(fitted: Published, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("converted") / "video.vinr"
    convert(fitted.path, path)
    return path


# -- codes and values are the published ones -----------------------------------------------------------------


@pytest.mark.parametrize("bits", Golden("compression").config["hnerv_bits"])
def test_writer_and_loader_reproduce_the_published_quantiser(bits: int) -> None:
    golden = Golden("compression")
    inputs = golden.below("hnerv_quantiser.input")
    assert inputs
    for name, value in inputs.items():
        expected = {
            part: golden[f"hnerv_quantiser.{bits}bit.{theirs}/{name}"]
            for part, theirs in (("quant", "codes"), ("min", "min"), ("scale", "scale"))
        }
        written = published_entry(value, bits)
        for part in expected:
            assert written[part].dtype == expected[part].dtype
            assert torch.equal(written[part], expected[part]), f"{name}: {part}"
        golden_value = golden[f"hnerv_quantiser.{bits}bit.dequantised/{name}"]
        assert torch.equal(dequantise(expected, name=name), golden_value), name


def test_the_checkpoint_has_all_kinds_of_groupings(fitted: Published) -> None:
    """What follows would prove little if every tensor had one pair."""
    entries = [fitted.document["embed"], *fitted.document["model"].values()]
    assert {entry["min"].dtype for entry in entries} == {torch.float16, torch.float32}
    assert {entry["min"].ndim for entry in entries} >= {0, 4}
    assert fitted.document["embed"]["min"].shape == (1, 8, 2, 4)
    assert fitted.document["embed"]["quant"].max() == 63


def test_constant_tensors_have_scale_zero() -> None:
    entry = published_entry(torch.full((7,), 0.25), 8)
    assert entry["scale"] == 0
    assert torch.equal(dequantise(entry, name="bias"), torch.full((7,), 0.25))


# -- the file ------------------------------------------------------------------------------------------------


def test_frames_are_those_of_the_checkpoint(fitted: Published, file: Path) -> None:
    mse = F.mse_loss(fitted.rgb_NCHW, fitted.clip.rgb_NCHW / 255)
    assert -10 * math.log10(mse) > 16  # the network shows something
    with vinr.open(file, device="cpu") as video:
        decoded_NCHW = torch.stack(list(video))
        assert (video.spec.num_frames, video.spec.height, video.spec.width) == (LEAST_AXIS, 32, 64)
    difference_NCHW = (decoded_NCHW - 255 * fitted.rgb_NCHW).abs()
    assert difference_NCHW.max() <= 0.5 + NEAR
    rounded_NCHW = (255 * fitted.rgb_NCHW).round()
    assert (decoded_NCHW != rounded_NCHW).float().mean() < 0.02


def test_report_says_what_was_written(fitted: Published, tmp_path: Path) -> None:
    path = tmp_path / "video.vinr"
    report = convert(fitted.path, path, fps="24000/1001", name="bunny")
    assert report.num_bytes == path.stat().st_size
    assert report.checkpoint_bytes == fitted.path.stat().st_size
    symbols = [
        entry["quant"].numel() for entry in (fitted.document["embed"], *fitted.document["model"].values())
    ]
    assert report.num_parameters == sum(symbols)
    assert report.bits_per_parameter == pytest.approx(8 * report.num_bytes / sum(symbols))
    assert 0 < report.largest_difference < NEAR
    assert report.num_compared == 3
    info = vinr.info(str(path))
    (clip,) = info.clips
    assert (clip.name, clip.num_frames, clip.psnr_db) == ("bunny", LEAST_AXIS, None)
    assert clip.fps == pytest.approx(24000 / 1001)
    assert info.networks[0].model == "hnerv"
    assert vinr.verify(str(path)).is_whole


def test_fewer_bits_make_a_smaller_file_further_off(fitted: Published, tmp_path: Path) -> None:
    reports = [
        convert(
            fitted.path,
            tmp_path / f"{bits}.vinr",
            overrides=[f"compress.{role}_bits={bits}" for role in ("weight", "bias", "latent")],
        )
        for bits in (8, 11, 14)
    ]
    sizes = [report.num_bytes for report in reports]
    off = [report.largest_difference for report in reports]
    assert sizes == sorted(sizes)
    assert off[0] > 4 * off[1] > 16 * off[2]


def test_command_line(fitted: Published, tmp_path: Path) -> None:
    path = tmp_path / "video.vinr"
    ran = CliRunner().invoke(app, ["convert", str(fitted.path), str(path), "--fps", "25", "--json"])
    assert ran.exit_code == 0, ran.output
    report = json.loads(ran.stdout)
    assert report["fps"] == 25
    with vinr.open(path, device="cpu") as video:
        assert video.clip.name == "quant_vid"
    again = CliRunner().invoke(app, ["convert", str(fitted.path), str(path), "--force"])
    assert "bits per parameter" in again.stdout
    shown = CliRunner().invoke(app, ["decode", str(path), str(tmp_path / "frames"), "--frames", "0,50"])
    assert shown.exit_code == 0
    assert len(list((tmp_path / "frames").iterdir())) == 2


# -- architectures -------------------------------------------------------------------------------------------

ARCHITECTURES = [
    HNeRVConfig(strides=(5, 4, 2), widths=(11, 9, 8, 7), embedding_channels=4),
    HNeRVConfig(strides=(2, 2, 2), widths=(9, 5, 4, 6), kernel_min=3, kernel_max=3),
    HNeRVConfig(strides=(2, 1, 3), widths=(6, 6, 6, 6), kernel_min=3, kernel_max=7, head_kernel=1),
    HNeRVConfig(strides=(2, 3, 2), widths=(6, 5, 4, 4), blocks_per_stage=2),
    HNeRVConfig(strides=(2,), widths=(5, 3), embedding_channels=1),
]


@pytest.mark.parametrize("config", ARCHITECTURES, ids=lambda config: f"{config.strides}")
def test_architecture_follows_from_shapes(config: HNeRVConfig) -> None:
    model = random_model(config, num_frames=4, grid=(1, 3))
    network = read_published(published_document(model))
    found = HNeRVConfig.model_validate(network.architecture)
    # A stage's largest kernel is all that shapes tell of kernel_max.
    assert found == config.model_copy(update={"kernel_max": max(config.kernels)})
    scale = math.prod(config.strides)
    assert (network.num_frames, network.height, network.width) == (4, scale, 3 * scale)
    assert network.stored.keys() == model.stored().keys()
    for name, item in model.stored().items():
        assert (network.stored[name].role, network.stored[name].per_frame) == (item.role, item.per_frame)
        assert (network.stored[name].value - item.value).abs().max() < 0.06 * item.value.abs().max()


def test_names_of_parallel_training_and_of_earlier_code() -> None:
    document = published_document(random_model(SMALL))
    renamed = OrderedDict(
        (f"module.{name}".replace("conv.upconv", "blocks.0.conv.upconv"), entry)
        for name, entry in document["model"].items()
    )
    found = read_published({**document, "model": renamed})
    assert found.stored.keys() == read_published(document).stored.keys()


def test_what_shapes_do_not_tell_is_set(tmp_path: Path) -> None:
    document = published_document(random_model(SMALL))
    torch.save(document, tmp_path / "checkpoint.pth")
    convert(tmp_path / "checkpoint.pth", tmp_path / "gelu.vinr")
    convert(tmp_path / "checkpoint.pth", tmp_path / "relu.vinr", overrides=["architecture.activation=relu"])
    for name, activation in (("gelu", F.gelu), ("relu", F.relu)):
        expected_NCHW = 255 * frames_of(document, [3, 2], activation)
        with vinr.open(tmp_path / f"{name}.vinr", device="cpu") as video:
            assert video.spec.fps == 30
            assert (video[:] - expected_NCHW).abs().max() <= 0.5 + NEAR


# Name, shape of the codes, shape of min and scale, as in the published checkpoint of 1.5 M numbers.
BUNNY = [
    ("decoder.0.conv.downconv.weight", (68, 16, 1, 1), (1, 16, 1, 1)),
    ("decoder.0.conv.downconv.bias", (68,), ()),
    ("decoder.1.conv.upconv.0.weight", (1425, 68, 1, 1), (1425, 1, 1, 1)),
    ("decoder.1.conv.upconv.0.bias", (1425,), (1,)),
    ("decoder.2.conv.upconv.0.weight", (768, 57, 3, 3), (768, 1, 3, 3)),
    ("decoder.2.conv.upconv.0.bias", (768,), ()),
    ("decoder.3.conv.upconv.0.weight", (640, 48, 5, 5), (1, 48, 5, 5)),
    ("decoder.3.conv.upconv.0.bias", (640,), ()),
    ("decoder.4.conv.upconv.0.weight", (132, 40, 5, 5), (1, 40, 5, 5)),
    ("decoder.4.conv.upconv.0.bias", (132,), (1,)),
    ("decoder.5.conv.upconv.0.weight", (112, 33, 5, 5), (1, 33, 5, 5)),
    ("decoder.5.conv.upconv.0.bias", (112,), ()),
    ("head_layer.weight", (3, 28, 3, 3), ()),
    ("head_layer.bias", (3,), ()),
]


def test_the_published_checkpoint_of_bunny_is_understood() -> None:
    def entry(codes: tuple[int, ...], pairs: tuple[int, ...]) -> dict[str, Tensor]:
        dtype = torch.float16 if pairs else torch.float32
        code = torch.randint(0, 256, codes, dtype=torch.uint8)
        return {
            "quant": code,
            "min": torch.zeros(pairs, dtype=dtype),
            "scale": torch.ones(pairs, dtype=dtype),
        }

    model = OrderedDict((name, entry(codes, pairs)) for name, codes, pairs in BUNNY)
    network = read_published({"embed": entry((132, 16, 2, 4), (1, 16, 2, 4)), "model": model})
    preset = load_preset("hnerv-1.5m-bunny")
    assert HNeRVConfig.model_validate(network.architecture) == validate_architecture(
        HNeRV, preset.architecture
    )
    assert (network.num_frames, network.height, network.width) == (132, 640, 1280)
    assert sum(item.value.numel() for item in network.stored.values()) == 1_505_172
    first = model["decoder.1.conv.upconv.0.weight"]["quant"]
    assert torch.equal(network.stored["blocks.0.conv.weight"].value, first.float())
