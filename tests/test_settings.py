"""Settings given as text: whatever they hold, they are applied or refused in one line."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vinr
from vinr.config import load_preset
from vinr.decoding.file import FileLike
from vinr.errors import InputError, UsageError
from vinr.models import list_models
from vinr.settings import apply_overrides, checked_arguments


@pytest.mark.parametrize("value", ["[" * 3000, "{a=" * 3000, "[" * 3000 + "]" * 3000])
def test_deep_nesting_is_refused(value: str) -> None:
    with pytest.raises(UsageError, match="nested too deeply") as caught:
        load_preset("hnerv-tiny", [f"fit.epochs={value}"])
    assert len(str(caught.value)) < 200


def test_deep_keys_are_refused() -> None:
    with pytest.raises(UsageError, match=r"section\.key=value"):
        load_preset("hnerv-tiny", ["architecture" + ".a" * 3000 + "=1"])


def test_a_value_is_one_value() -> None:
    assert apply_overrides({}, ["fit.epochs=3"]) == {"fit": {"epochs": 3}}
    assert apply_overrides({}, ["fit.epochs=3\nfit = 4"]) == {"fit": {"epochs": "3\nfit = 4"}}
    assert apply_overrides({}, ["fit.seed=" + "9" * 5000]) == {"fit": {"seed": "9" * 5000}}


@given(st.text(max_size=40))
def test_any_override_is_applied_or_refused(text: str) -> None:
    with suppress(UsageError):
        apply_overrides({}, [f"fit.key={text}", text])


@pytest.mark.parametrize(
    "line",
    [
        "architecture = 3",
        "architecture = []",
        "fit = 7",
        "fit = 'adam'",
        "compress = []",
        "recipes = 3",
        "recipes = { vinr = 3 }",
        "recipes = { vinr = ['paper'] }",
        "source = []",
        "paper = 3",
        "width = {a=" + "{a=" * 2000,
        "width = " + "9" * 5000,
    ],
    ids=lambda line: line[:24],
)
def test_preset_files_of_the_wrong_kind_are_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(f'model = "{list_models()[0]}"\n{line}\n', encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load_preset(path)
    assert "\n" not in str(caught.value)


def test_preset_file_that_names_no_model(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text("model = 3\n", encoding="utf-8")
    with pytest.raises(UsageError, match="unknown model '3'"):
        load_preset(path)


# -- arguments of functions ----------------------------------------------------------------------------------


@checked_arguments(unchecked=["file"])
def example(
    file: Any,
    inputs: str | PathLike[str] | Sequence[str | PathLike[str]] = (),
    *,
    size: int | str | None = None,
    rate: float | None = None,
    crop: tuple[int, int] | None = None,
    names: Sequence[str] = (),
    on_event: Callable[[int], None] = print,
) -> dict[str, Any]:
    """Return its arguments."""
    return {"file": file, "inputs": inputs, "size": size, "rate": rate, "crop": crop, "names": names}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rate", "x"),
        ("rate", [1]),
        ("size", 1.5),
        ("size", {}),
        ("crop", 5),
        ("crop", (1, 2, 3)),
        ("crop", ("a", "b")),
        ("names", "one"),
        ("names", [3]),
        ("inputs", 3),
        ("inputs", ["a", 3]),
        ("on_event", "x"),
        ("size", b"10"),
        ("rate", b"0.5"),
        ("crop", (b"1", 2)),
        ("inputs", b"a.mp4"),
        ("names", [bytearray(b"a")]),
        ("size", True),
        ("rate", False),
        ("rate", np.True_),
        ("crop", (True, 2)),
    ],
)
def test_arguments_of_other_types_are_refused(name: str, value: object) -> None:
    with pytest.raises(UsageError) as caught:
        example(0, **{name: value})
    assert str(caught.value).startswith(f"{name} {value!r}: give ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("size", "a whole number, a text or None"),
        ("rate", "a number or None"),
        ("crop", "(a whole number, a whole number) or None"),
        ("names", "a list, each a text"),
        ("inputs", "a text, a path or a list, each a text or a path"),
        ("on_event", "a function"),
    ],
)
def test_what_is_allowed_is_said_in_words(name: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        example(0, **{name: {}})  # type: ignore[arg-type]
    assert str(caught.value) == f"{name} {{}}: give {words}"


def test_a_file_may_be_a_path_bytes_or_a_binary_file() -> None:
    @checked_arguments()
    def opened(file: FileLike) -> FileLike:
        return file

    for file in ("a", Path("a"), b"a", bytearray(b"a"), memoryview(b"a"), io.BytesIO(b"a")):
        assert opened(file) is file
    for other in (3, None, ["a"], io.BytesIO, io.StringIO("a"), True):
        with pytest.raises(UsageError, match=r"give a text, a path, bytes or a binary file$"):
            opened(other)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "setting", ["fit.epochs=true", "fit.learning_rate=true", "fit.patches=[true, 1]", "fit.loss={l1 = true}"]
)
def test_true_is_no_number_in_settings(setting: str) -> None:
    key = setting.partition("=")[0]
    with pytest.raises(UsageError, match=rf"{key}: Input should be a number, not true or false"):
        load_preset("hnerv-tiny", [setting])
    assert load_preset("hnerv-tiny", ["compress.audio=false"]).compress.audio is False


def test_what_stands_for_a_value_is_taken_as_that() -> None:
    found = example(0, rate="0.5", crop=[3, 4], on_event=lambda number: None)
    assert (found["rate"], found["crop"]) == (0.5, (3, 4))


@pytest.mark.parametrize("name", ["a.mp4", "caf\udce9.mp4", "Bildschirm\u202ffoto.mp4", " 5 "])
def test_texts_and_paths_pass_as_they_are(name: str) -> None:
    """Bytes of a name that are no text stand as halves of characters."""
    for value in (name, Path(name), [name, Path(name)]):
        assert example(0, value)["inputs"] == value
    assert example(0, size=name, names=[name]) == example(0) | {"size": name, "names": [name]}
    unchecked = object()
    assert example(unchecked)["file"] is unchecked


def test_wrong_names_of_arguments_are_python_s_own_error() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'sice'"):
        example(0, sice=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="missing a required argument: 'file'"):
        example()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("encode", {"inputs": 3}),
        ("encode", {"inputs": ["a.mp4", None]}),
        ("encode", {"output": 3}),
        ("encode", {"bpp": "x"}),
        ("encode", {"psnr": "x"}),
        ("encode", {"params": []}),
        ("encode", {"size": {}}),
        ("encode", {"epochs": 1.5}),
        ("encode", {"time": ["10m"]}),
        ("encode", {"segment": {}}),
        ("encode", {"segment": b"10"}),
        ("encode", {"frames": "0:5"}),
        ("encode", {"crop": 5}),
        ("encode", {"resize": 8}),
        ("encode", {"seed": "x"}),
        ("encode", {"overrides": "fit.seed=3"}),
        ("encode", {"device": 3}),
        ("encode", {"on_event": 3}),
        ("inpaint", {"mask": 3}),
        ("inpaint", {"epochs": "x"}),
        ("interpolate", {"factor": "x"}),
        ("interpolate", {"file": 3}),
        ("compare", {"params": "12k"}),
        ("compare", {"bpp": 0.1}),
        ("compare", {"bpp": ["x"]}),
        ("compare", {"anchors": "x264"}),
        ("compare", {"page": 3}),
        ("compare", {"seed": True}),
        ("compare", {"params": [True]}),
        ("encode", {"epochs": True}),
        ("encode", {"psnr": True}),
        ("encode", {"seed": False}),
        ("encode", {"frames": (False, 3)}),
        ("encode", {"time": True}),
        ("inpaint", {"epochs": True}),
        ("interpolate", {"factor": True}),
        ("interpolate", {"max_memory": True}),
    ],
    ids=str,
)
def test_public_functions_refuse_arguments_of_other_types(
    function: str, arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    needed: dict[str, dict[str, Any]] = {
        "encode": {"inputs": "a.mp4", "output": "o.vinr"},
        "inpaint": {"source": "a.mp4", "output": "o.mp4", "mask": "center"},
        "interpolate": {"file": "a.vinr", "output": "o.mp4"},
        "compare": {"source": "a.mp4"},
    }
    (name,) = arguments
    with pytest.raises(UsageError, match=f"^{name} .*: give "):
        getattr(vinr, function)(**needed[function] | arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"device": 3},
        {"device": None},
        {"clip": 3},
        {"max_memory": []},
        {"max_memory": True},
        {"settings": "x"},
    ],
    ids=str,
)
def test_a_file_is_not_opened_with_arguments_of_other_types(
    tiny_file: Path, arguments: dict[str, Any]
) -> None:
    with pytest.raises(UsageError):
        vinr.open(tiny_file, **arguments)


@pytest.mark.parametrize("file", [3, None, ["a.vinr"]])
def test_what_is_no_file_is_called_so(file: Any) -> None:
    with pytest.raises(InputError, match="is not a file; give a path, bytes, or a binary file"):
        vinr.open(file)


def test_a_file_that_is_open_as_text_is_refused(tiny_file: Path) -> None:
    with tiny_file.open(encoding="latin-1") as file, pytest.raises(InputError, match="open it in mode 'rb'"):
        vinr.open(file)  # type: ignore[arg-type]


@pytest.mark.parametrize("values", [{"batch": -1}, {"bath": 1}, {"precision": b"fp32"}], ids=str)
def test_settings_of_decoding_refuse_what_is_not_allowed(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"^decode.{next(iter(values))}: ") as caught:
        vinr.DecodeSettings(**values)
    assert "\n" not in str(caught.value)
