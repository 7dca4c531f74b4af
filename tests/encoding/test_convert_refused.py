"""Files that are no published checkpoint, damaged or hostile, and options that do not fit: one line each."""

from __future__ import annotations

import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from published_checkpoints import SMALL, published_document, random_model
from vinr.encoding.convert import convert
from vinr.encoding.hnerv_checkpoint import read_published
from vinr.errors import InputError, OutputError, UsageError

STEM = "decoder.0.conv.downconv.weight"
STAGE = "decoder.1.conv.upconv.0.weight"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good one, of a network that was never fitted."""
    path = tmp_path_factory.mktemp("published") / "quant_vid.pth"
    torch.save(published_document(random_model(SMALL)), path)
    return path


def replaced(layer: str, **parts: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a change of a document that puts other ``parts`` into the entry of ``layer``."""

    def change(document: dict[str, Any]) -> dict[str, Any]:
        document["model"][layer] = {**document["model"][layer], **parts}
        return document

    return change


def reshaped(layer: str, *shape: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return replaced(
        layer, quant=torch.zeros(shape, dtype=torch.uint8), min=torch.zeros(()), scale=torch.zeros(())
    )


def without(layer: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def change(document: dict[str, Any]) -> dict[str, Any]:
        del document["model"][layer]
        return document

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda _: {"epoch": 3, "state_dict": {}, "optimizer": {}}, "a training checkpoint"),
        (lambda _: [1, 2], "holds list"),
        (lambda _: torch.zeros(3), "holds Tensor"),
        (lambda d: {"model": d["model"]}, r"holds \['model'\], not \['embed', 'model'\]"),
        (lambda d: {**d, "more": 1}, "more"),
        (lambda d: {**d, "model": 3}, "'model' is a int"),
        (lambda d: {**d, "embed": torch.zeros(2)}, "embed holds Tensor"),
        (lambda d: {**d, "embed": d["model"][STAGE]}, "embed has 6 channels, the first layer takes 3"),
        (lambda d: {**d, "embed": d["model"]["head_layer.bias"]}, r"embed has shape \(3,\)"),
        (lambda d: {**d, "model": {**d["model"], "encoder.0.weight": 1}}, "'encoder.0.weight' belongs to no"),
        (
            lambda d: {**d, "model": {**d["model"], f"module.{STEM}": d["model"][STEM]}},
            "9 tensors under 8 names",
        ),
        (without(STAGE), "a layer is missing"),
        (without("head_layer.weight"), "a layer is missing"),
        (without("head_layer.bias"), "no decoder has weights"),
        (replaced(STEM, quant=torch.zeros(6, 3, 1, 1)), "uint8"),
        (replaced(STEM, scale=torch.zeros((), dtype=torch.int64)), "float16 or float32"),
        (replaced(STEM, scale=3.0), "scale is no plain tensor"),
        (replaced(STEM, quant=torch.zeros(1, dtype=torch.uint8).expand(10**12)), "quant is no plain tensor"),
        (replaced(STEM, quant=torch.zeros(6, 3, 1, 1, device="meta")), "quant is no plain tensor"),
        (replaced(STEM, min=torch.zeros(6, 3, 1, 1).to_sparse()), "min is no plain tensor"),
        (replaced(STEM, min=torch.zeros(1, 2, 1, 1)), "do not fit each other"),
        (replaced(STEM, min=torch.zeros(1, 1)), "do not fit each other"),
        (replaced(STEM, min=torch.tensor(math.nan)), "not all values are finite"),
        (replaced(STEM, scale=torch.tensor(math.inf)), "not all values are finite"),
        (reshaped(STEM, 54, 3, 1, 1), "no decoder has weights"),  # a first layer that enlarges
        (reshaped(STEM, 6, 3), "must be those of convolutions"),
        (reshaped(STAGE, 44, 6, 1, 1), "no decoder has weights"),  # 44 / 5 is no square
        (reshaped(STAGE, 45, 6, 1, 3), "no decoder has weights"),
        (reshaped(STAGE, 45, 6, 2, 2), "no decoder has weights"),
        (reshaped(STAGE, 45, 0, 1, 1), "no decoder has weights"),
        (reshaped("head_layer.weight", 4, 4, 3, 3), "no decoder has weights"),
    ],
)
def test_other_content_is_refused(
    change: Callable[[dict[str, Any]], object], complaint: str, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.pth"
    document = change(published_document(random_model(SMALL)))
    with pytest.raises(InputError, match=complaint):
        read_published(document)
    torch.save(document, path)
    with pytest.raises(InputError, match=rf"^{path}: ") as caught:
        convert(path, tmp_path / "out.vinr")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.vinr").exists()


@pytest.mark.parametrize(("scale", "complaint"), [(1e35, "too large to store"), (1e10, "not finite")])
def test_numbers_beyond_all_use_are_refused(scale: float, complaint: str, tmp_path: Path) -> None:
    document = published_document(random_model(SMALL))
    for entry in document["model"].values():
        entry["scale"] = torch.tensor(scale)
    torch.save(document, tmp_path / "checkpoint.pth")
    with pytest.raises(InputError, match=complaint):
        convert(tmp_path / "checkpoint.pth", tmp_path / "out.vinr")
    assert not (tmp_path / "out.vinr").exists()


class Trap:
    """Something whose loading by an ordinary unpickler leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def test_code_in_a_checkpoint_never_runs(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    document = {**published_document(random_model(SMALL)), "more": Trap(trace)}
    for number, is_zip in enumerate((True, False)):
        path = tmp_path / f"{number}.pth"
        torch.save(document, path, _use_new_zipfile_serialization=is_zip)
        with pytest.raises(InputError, match=r"a file of torch\.save"):
            convert(path, tmp_path / "out.vinr")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Trap(trace)))
    with pytest.raises(InputError, match=r"a file of torch\.save"):
        convert(tmp_path / "plain.pkl", tmp_path / "out.vinr")
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()  # so the trap works


def test_damaged_files_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    good = checkpoint.read_bytes()
    rng = np.random.default_rng(0)
    cases = [b"", b"text\n" * 99, good[: len(good) // 2], good[:-30], rng.bytes(5000), b"\x80\x02."]
    for number, content in enumerate(cases):
        path = tmp_path / f"{number}.pth"
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"^{path}: ") as caught:
            convert(path, tmp_path / "out.vinr")
        assert "\n" not in str(caught.value)


def test_archives_that_inflate_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(checkpoint) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for item in source.infolist():
            target.writestr(item.filename, source.read(item))
        target.writestr("quant_vid/data/999", bytes(10**6))
    with pytest.raises(InputError, match="a compressed archive"):
        convert(path, tmp_path / "out.vinr")


def test_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be opened"):
        convert(tmp_path / "none.pth", tmp_path / "out.vinr")
    with pytest.raises(InputError, match="cannot be opened"):
        convert(tmp_path, tmp_path / "out.vinr")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"overrides": ["fit.epochs=3"]}, r"fitted already; only architecture\.\* and compress\.\*"),
        ({"overrides": ["architecture.widths=[20, 16, 14, 13]"]}, "the checkpoint's shapes say"),
        ({"overrides": ["architecture.activation=tanh"]}, "architecture.activation"),
        ({"overrides": ["architecture.encoder_strides=[4, 3]"]}, "do not fit the checkpoint"),
        ({"overrides": ["compress.weight_bits=20"]}, "weight_bits"),
        ({"fps": "fast"}, "30000/1001"),
        ({"fps": 0}, "30000/1001"),
        ({"name": "a/b"}, "no slashes"),
        ({"name": ""}, "name"),
    ],
)
def test_options_that_are_refused(
    checkpoint: Path, tmp_path: Path, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        convert(checkpoint, tmp_path / "out.vinr", **options)
    assert list(tmp_path.iterdir()) == []


def test_outputs_are_protected(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must end in \.vinr"):
        convert(checkpoint, tmp_path / "out.mp4")
    (tmp_path / "kept.vinr").write_bytes(b"precious")
    with pytest.raises(OutputError, match="force=True"):
        convert(checkpoint, tmp_path / "kept.vinr")
    assert (tmp_path / "kept.vinr").read_bytes() == b"precious"
    with pytest.raises(OutputError, match="does not exist"):
        convert(checkpoint, tmp_path / "no" / "out.vinr")
