"""A name that is unknown is answered with the one that was probably meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import vinr
from command_line import TINY, Run, refused
from random_files import random_set
from vinr.bench.recipe import load_recipe
from vinr.cli.catalogue import list_preset_entries
from vinr.codecs.anchors import parse_anchor
from vinr.config import default_model, load_preset
from vinr.decoding.settings import load_decode_settings
from vinr.errors import UsageError, did_you_mean, unknown
from vinr.fit.losses import build_loss
from vinr.fit.precision import resolve_precision
from vinr.models import get_model, validate_architecture

MODEL = default_model()
SWAPPED = MODEL[:-2] + MODEL[-1] + MODEL[-2]


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("epoch", "; did you mean 'epochs'?"),
        ("Learning-Rate", "; did you mean 'learning_rate'?"),
        ("something else", ""),
        ("", ""),
        ("e" * 100_000, ""),
        (3, ""),
    ],
)
def test_the_nearest_name_is_suggested(name: object, end: str) -> None:
    assert did_you_mean(name, ["epochs", "learning_rate"]) == end


def test_what_there_is_stands_before_the_suggestion() -> None:
    assert unknown("loss", "l3", ["l1", "ssim"]) == "unknown loss 'l3'; there are l1, ssim"
    assert unknown("loss", "sssim", ["l1", "ssim"]).endswith("there are l1, ssim; did you mean 'ssim'?")
    assert "\n" not in str(UsageError(unknown("loss", "l\n", ["l1"])))


@pytest.mark.parametrize(
    ("call", "start", "meant"),
    [
        (lambda: get_model(SWAPPED), f"unknown model '{SWAPPED}'", MODEL),
        (lambda: list_preset_entries(SWAPPED), f"unknown model '{SWAPPED}'", MODEL),
        (lambda: load_preset(f"{MODEL}-tyny"), f"unknown preset '{MODEL}-tyny'; {MODEL} has ", TINY),
        (lambda: load_preset(f"{SWAPPED}-tiny"), f"unknown preset '{SWAPPED}-tiny'", TINY),
        (lambda: load_preset(TINY, ["fit.recipe=papers"]), f"unknown recipe 'papers'; {MODEL} has ", "paper"),
        (lambda: load_recipe("hnerv-tabel-8"), "unknown recipe 'hnerv-tabel-8'", "hnerv-table-8"),
        (lambda: build_loss({"msssim": 1.0}), "unknown loss 'msssim'", "ms_ssim"),
        (lambda: load_preset(TINY, ["fit.optimizer=adamm"]), "fit.optimizer: unknown", "adam"),
        (lambda: resolve_precision("fp23", "cpu"), "unknown precision 'fp23'", "fp32"),
        (lambda: load_preset(TINY, ["fit.learnin_rate=3"]), "fit.learnin_rate", "learning_rate"),
        (lambda: load_preset(TINY, ["fitt.epochs=3"]), "fitt: no such", "fit"),
        (lambda: load_preset(TINY, ["fit.schedule.warm=1"]), "fit.schedule.warm:", "warmup"),
        (lambda: load_preset(TINY, ["fit.phases=[{share=0.1, prier=1}]"]), "fit.phases.0.prier", "prior"),
        (lambda: load_preset(TINY, ["compress.weight_bit=8"]), "compress.", "weight_bits"),
        (lambda: load_decode_settings(["decode.bach=1"]), "decode.bach: no such setting", "batch"),
        (lambda: vinr.DecodeSettings(backed="onnx"), "decode.backed: no such setting", "backend"),
        (lambda: parse_anchor("h264"), "anchor 'h264': the codec must be one of", "x264"),
    ],
)  # fmt: skip
def test_each_kind_of_name(call: Callable[[], object], start: str, meant: str) -> None:
    with pytest.raises(UsageError) as caught:
        call()
    text = str(caught.value).removeprefix(f"preset {TINY}: ")
    assert text.startswith(start)
    assert f"did you mean {meant!r}?" in text
    assert "\n" not in text


def test_architecture_settings_of_a_model() -> None:
    architecture = load_preset(TINY).architecture
    known = next(iter(get_model(MODEL).Config.model_fields))
    with pytest.raises(UsageError, match=f"architecture.{known}x: no such setting; .*did you mean '{known}'"):
        validate_architecture(get_model(MODEL), {**architecture, f"{known}x": 3})


def test_clips_of_a_file(tmp_path: Path) -> None:
    path = random_set(tmp_path / "set.vinr", {"beauty": 2, "jockey": 2})
    with pytest.raises(UsageError, match=r"no clip 'beuty' .*; did you mean 'beauty'"):
        vinr.open(path, clip="beuty")


def test_a_model_s_name_is_answered_with_models(run: Run, tiny_video: Path, tmp_path: Path) -> None:
    file, page = tmp_path / "a.vinr", tmp_path / "a.html"
    for words in (("encode", tiny_video, file), ("compare", tiny_video, page)):
        result = run(*words, "--model", SWAPPED, "--device", "cpu")
        refused(result, f"unknown model '{SWAPPED}'", f"did you mean '{MODEL}'?")
        assert "preset" not in result[2]
    result = run("encode", tiny_video, file, "--model", TINY)
    refused(result, f"model '{TINY}' is a preset; give it as --preset {TINY}")
    assert list(tmp_path.iterdir()) == []


def test_a_loss_as_a_word_says_what_a_loss_is() -> None:
    with pytest.raises(UsageError, match=r"fit\.loss: .* a table, such as \{name = 1\.0\} \(got 'l1'\)"):
        load_preset(TINY, ["fit.loss=l1"])
