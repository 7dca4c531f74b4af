"""Files in programs and notebooks: what they say of themselves, latents and weights out of them."""

from __future__ import annotations

import base64
import io
import json
import pydoc
import re
from collections.abc import Callable
from operator import methodcaller
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import vinr
from command_line import Run, refused
from vinr.decoding.exporting import ExportedWeights
from vinr.models import get_model, validate_architecture
from vinr.models.base import FrozenLatents, HybridModel, Latents, StoredTensor
from vinr.video.spec import Query, VideoSpec, to_levels

ModelFile = Callable[[str], Path]
# What notebooks call to show an object.
as_html = methodcaller("_repr_html_")


def test_the_package_shows_its_names() -> None:
    assert {*vinr.__all__, "__version__"} <= {*dir(vinr)}
    shown = pydoc.render_doc(vinr, renderer=pydoc.plaintext)
    for name in ("encode", "open", "evaluate", "VideoDecoder", "Trainer"):
        assert re.search(rf"\b{name}\b", shown)


def test_a_decoder_says_what_it_is(model_file: ModelFile) -> None:
    path = model_file("hnerv")
    with vinr.open(path, device="cpu") as video:
        facts = "8 frames of 50×36 (width × height), 25 fps, 0.320 s, hnerv"
        assert repr(video).startswith("<VideoDecoder ")
        assert facts in repr(video)
        assert f"file of {path.stat().st_size:,} bytes" in repr(video)
        assert (video.fps, video.duration) == (25, 0.32)
        assert str(path) in repr(video.file)


def test_a_notebook_shows_a_strip_of_frames(model_file: ModelFile) -> None:
    with vinr.open(model_file("nerv"), device="cpu") as video:
        shown = as_html(video)
        image = Image.open(io.BytesIO(base64.b64decode(shown.partition("base64,")[2].partition('"')[0])))
        assert image.size == (6 * round(96 * 50 / 36), 96)
        assert "frames 0, 1, 3, 4, 6, 7" in shown
        assert "<script" not in shown


def test_names_of_clips_are_no_markup(model_file: ModelFile) -> None:
    with vinr.open(model_file("nerv"), device="cpu") as video:
        video.clip = video.clip.model_copy(update={"name": "<script>x</script>"})
        assert "<script>" not in as_html(video)
        assert "&lt;script&gt;" in as_html(video)


def test_latents_are_those_that_frames_are_made_of(model_file: ModelFile) -> None:
    with vinr.open(model_file("hnerv"), device="cpu") as video:
        latents = video.latents
        model = video.file.networks.model(0)
        assert isinstance(model, HybridModel)
        assert {name: len(value) for name, value in latents.items()} == {"embedding": 8}
        expected = model.latents_at(torch.tensor([5.0])).per_frame["embedding"]
        assert torch.equal(latents["embedding"][5:6], expected)
    with pytest.raises(vinr.InputError):
        video.latents  # noqa: B018
    with vinr.open(model_file("nerv"), device="cpu") as timed:
        assert timed.latents == {}


def test_exported_weights_make_the_same_frames(model_file: ModelFile, tmp_path: Path) -> None:
    """The file is enough to build the model anew, with nothing of vinr's file format."""
    output = tmp_path / "w.safetensors"
    (report,) = vinr.export(model_file("hnerv"), safetensors=output)
    assert isinstance(report, ExportedWeights)
    assert (report.num_bytes, report.num_frames) == (output.stat().st_size, 8)
    tensors = load_file(output)
    assert report.num_tensors == len(tensors)
    with safe_open(output, "pt") as opened:
        about = opened.metadata()
    cls = get_model(about["model"])
    model = cls(validate_architecture(cls, json.loads(about["architecture"])), VideoSpec(8, 36, 50)).eval()
    assert isinstance(model, HybridModel)
    latents = {name[8:]: tensors.pop(name) for name in list(tensors) if name.startswith("latents.")}
    like = model.stored()
    model.restore({name: StoredTensor(value, like[name].role) for name, value in tensors.items()})
    model.attach_latents(FrozenLatents(Latents(latents)))
    with torch.no_grad(), vinr.open(model_file("hnerv"), device="cpu") as video:
        frame_1CHW = to_levels(model(Query.of_frames(torch.tensor([3]))), 8)
        assert (frame_1CHW[0].int() - video[3].int()).abs().max() <= 1


def test_export_is_asked_for_something(run: Run, model_file: ModelFile, tmp_path: Path) -> None:
    path = model_file("nerv")
    refused(run("export", path), "nothing is asked for; give --onnx or --safetensors")
    status, out, _ = run("export", path, "--safetensors", tmp_path / "w.safetensors")
    assert status == 0
    assert re.search(r"w\.safetensors  [\d,]+ bytes, frames 0 to 7, \d+ tensors", out)


def test_an_error_of_a_damaged_file_names_it(run: Run, model_file: ModelFile, tmp_path: Path) -> None:
    content = bytearray(model_file("nerv").read_bytes())
    content[len(content) // 2] ^= 255
    path = tmp_path / "damaged.vinr"
    path.write_bytes(content)
    for words in (("decode", path, tmp_path / "a.mkv"), ("info", path), ("eval", path, path)):
        status, _, err = run(*words)
        assert status == 2
        assert err.startswith(f"vinr: {path}: ")
        assert err.count(str(path)) == 1
    with pytest.raises(vinr.BitstreamError, match=r"damaged\.vinr: "), vinr.open(path, device="cpu") as video:
        video[0]
