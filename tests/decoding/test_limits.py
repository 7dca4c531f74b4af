"""What a file may cost: small files that ask for much are refused or read in part, before memory is taken."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import vinr
from bombs import bombs, clip, file_of, network, single
from fresh import run_fresh
from published_checkpoints import SMALL, published_document, random_model
from random_files import random_file
from vinr.bitstream import Container, Span
from vinr.cli.app import app
from vinr.config import default_model, load_preset
from vinr.decoding import networks
from vinr.decoding.networks import MEMORY, allowed_for, memory_told, parse_memory
from vinr.errors import LimitError, OutOfMemoryError, UsageError, visible
from vinr.fit import Noted
from vinr.models import VideoModel, cost, get_model, list_models, validate_architecture
from vinr.models.cost import FrameCost, MacCounter, measure_first_frame
from vinr.video.spec import VideoSpec, to_levels

LARGEST = 10_000
TINY_PRESET = f"{default_model()}-tiny"
TINY = {"strides": [2, 2], "widths": [4, 4, 4], "levels": 2}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("bombs")
    found = {}
    for number, (name, content) in enumerate(bombs().items()):
        found[name] = str(folder / f"{number}.vinr")
        Path(found[name]).write_bytes(content)
    return found


def test_all_are_small(files: dict[str, str]) -> None:
    assert all(Path(path).stat().st_size < LARGEST for path in files.values())


def test_some_take_almost_all_that_their_size_allows(files: dict[str, str]) -> None:
    for name in ("maps almost too large", "work almost too much", "layers almost too many"):
        with vinr.open(files[name], device="cpu") as video:
            cost, allowed = video.file.networks.cost(0), allowed_for(Path(files[name]).stat().st_size)
            share = max(cost.num_bytes / allowed.num_bytes, cost.operations / allowed.operations)
            assert 0.8 < share < 1


@pytest.mark.parametrize("name", ["maps of 2160 × 3840", "maps of 8192 × 4096"])
def test_feature_maps(files: dict[str, str], name: str) -> None:
    with (
        vinr.open(files[name], device="cpu") as video,
        pytest.raises(LimitError, match=r"max_memory='[0-9]+GB'"),
    ):
        video[0]
    with pytest.raises(LimitError, match="network 0 needs about"):
        vinr.verify(files[name], device="cpu")


def test_a_limit_of_the_caller_s_own_is_named(tiny_file: Path) -> None:
    words = r"needs about [\d.]+ MB for a frame of .*; with this max_memory it may ask for 0\.001 MB"
    with (
        vinr.open(tiny_file, device="cpu", max_memory="1kB") as video,
        pytest.raises(LimitError, match=words),
    ):
        video[0]


def test_more_is_allowed_on_demand(tmp_path: Path) -> None:
    content = single("nerv", TINY, clip("a", 1, 16, 16))
    with vinr.open(content, device="cpu", max_memory="1kB") as video, pytest.raises(LimitError):
        video[0]
    with vinr.open(content, device="cpu", max_memory="1GB") as video:
        assert video[0].shape == (3, 16, 16)


@pytest.mark.parametrize("name", list_models())
def test_each_model_is_measured_without_memory(name: str, tmp_path: Path) -> None:
    path = random_file(tmp_path / "a.vinr", VideoSpec(2, 48, 64), name=name)
    with vinr.open(path, device="cpu") as video:
        cost = video.file.networks.cost(0)
        assert 0 < cost.num_bytes < MEMORY
        assert cost.operations > 0
        assert video[0].shape == (3, 48, 64)


def test_peak_of_live_maps_not_their_sum() -> None:
    class Chain(VideoModel):
        pass

    model = get_model("nerv")
    skeleton = model.on_meta(model.Config(strides=(2, 2), widths=(4, 4, 4), levels=2), VideoSpec(1, 64, 64))
    cost = measure_first_frame(skeleton, partial(to_levels, bit_depth=8))
    # The largest map: 4 channels of 64 × 64 float32; a few of them are there at once, not all of the network.
    assert 4 * 4 * 64 * 64 < cost.num_bytes < 20 * 4 * 4 * 64 * 64


@pytest.mark.parametrize("name", list_models())
def test_shapes_are_those_that_torch_finds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, preset = get_model(name), load_preset(f"{name}-tiny")

    def measured() -> FrameCost:
        skeleton = model.on_meta(validate_architecture(model, preset.architecture), VideoSpec(16, 32, 64))
        return measure_first_frame(skeleton, partial(to_levels, bit_depth=8))

    ours = measured()
    for finder in ("_shortcut", "_create"):
        monkeypatch.setattr(cost, finder, lambda *_: None)
    assert ours == measured()


def test_tensors_that_do_not_fit_are_told_by_torch() -> None:
    def tensor(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    wrong: list[Callable[[], Tensor]] = [
        lambda: torch.cat([tensor(2, 3), tensor(2, 4)]),
        lambda: torch.cat([tensor(2, 3), tensor(2, 3, 1)]),
        lambda: torch.stack([tensor(2, 3), tensor(2, 4)]),
        lambda: tensor(2, 3) @ tensor(2, 3),
        lambda: torch.bmm(tensor(1, 2, 3), tensor(2, 3, 2)),
    ]
    for compute in wrong:
        with pytest.raises((RuntimeError, ValueError, IndexError)), torch.no_grad(), MacCounter():
            compute()
    with torch.no_grad(), MacCounter():
        whole = tensor(4, dtype=torch.int64)
        assert torch.cat([tensor(2, 3), tensor(5, 3)], -2).shape == (7, 3)
        assert torch.stack([tensor(2, 3)] * 4, -1).shape == (2, 3, 4)
        assert tensor(2, 3)[whole].shape == (4, 3)
        assert tensor(2, 3, 4).sum((0, -1), keepdim=True).shape == (1, 3, 1)
        assert torch.where(tensor(2, 1) > 0, tensor(3), tensor(2, 3)).shape == (2, 3)
        assert torch.arange(3, device="meta").dtype == torch.int64


def test_measuring_loads_no_compiler() -> None:
    code = """
import sys
from vinr.config import load_preset
from vinr.models import validate_architecture
from vinr.models import get_model
from vinr.models import list_models
from vinr.models.cost import measure_first_frame
from vinr.video.spec import to_levels
from vinr.video.spec import VideoSpec
for name in list_models():
    model = get_model(name)
    config = validate_architecture(model, load_preset(name + "-tiny").architecture)
    measure_first_frame(model.on_meta(config, VideoSpec(16, 32, 64)), lambda rgb: to_levels(rgb, 8))
    assert not {"torch._dynamo", "sympy"} & sys.modules.keys(), name
"""
    found = run_fresh(code)
    assert found.returncode == 0, found.stderr.decode()


def test_an_encode_and_a_conversion_say_that_readers_refuse_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_video: Path
) -> None:
    events: list[object] = []
    monkeypatch.setattr(networks, "MEMORY", 1)
    monkeypatch.setattr(networks, "MEMORY_PER_BYTE", 0)
    output = tmp_path / "a.vinr"
    vinr.encode(tiny_video, output, preset=TINY_PRESET, epochs=1, device="cpu", on_event=events.append)
    notes = [event.text for event in events if isinstance(event, Noted)]
    assert any(
        text.startswith("readers refuse this file by default: network 0 needs about") for text in notes
    )
    checkpoint = tmp_path / "a.pth"
    torch.save(published_document(random_model(SMALL)), checkpoint)
    arguments = ["convert", str(checkpoint), str(tmp_path / "b.vinr")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert "readers refuse this file by default: network 0 needs about" in result.stderr
    monkeypatch.undo()
    result = CliRunner().invoke(app, [*arguments, "--force"])
    assert "readers refuse" not in result.stderr


def test_many_frames_and_times_stay_compact(files: dict[str, str]) -> None:
    with vinr.open(files["10⁷ frames"], device="cpu") as video:
        assert next(video.play()).shape[1:] == (3, 16, 16)
    with vinr.open(files["10⁷ times"], device="cpu") as video:
        assert video.timeline.pts is not None
        assert video.timeline.seconds(10**7 - 1) == Fraction(10**7 - 1, 90_000)
        assert video.timeline.index_at(1) == 90_000


def test_spans_cost_one_frame_a_network(files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    run = get_model("nerv").decode
    monkeypatch.setattr(get_model("nerv"), "decode", lambda self, query: calls.append(1) or run(self, query))
    report = vinr.verify(files["4,096 spans"], device="cpu")
    assert (report.is_whole, report.num_networks, report.num_tried) == (True, 1, 1)
    assert len(calls) == 2  # once without values, once with


def test_verify_tries_as_many_networks_as_the_budget_allows(files: dict[str, str]) -> None:
    report = vinr.verify(files["200 networks"], device="cpu")
    assert report.is_whole
    assert 0 < report.num_tried < report.num_networks == 200
    assert f"{report.num_tried} of 200 networks tried" in report.lines()[0]


def test_info_reads_as_many_networks_as_the_budget_allows(files: dict[str, str]) -> None:
    info = vinr.info(files["200 networks"])
    assert 0 < len(info.networks) < info.num_networks == 200
    assert sum(info.bytes_by_component.values()) == info.num_bytes


def test_info_of_many_numbers(files: dict[str, str]) -> None:
    for name in ("many numbers", "1,500 chunks"):
        info = vinr.info(files[name])
        assert (len(info.networks), info.num_networks) == (0, 1) or name == "1,500 chunks"
    with vinr.open(files["many numbers"], device="cpu") as video, pytest.raises(LimitError):
        video[0]


def test_many_clips_are_read_once(files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    original = Container.open.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(
        Container, "open", classmethod(lambda cls, source: opened.append(1) or original(cls, source))
    )
    assert len(vinr.verify(files["1,500 clips"], device="cpu").clips) == 1500
    assert len(opened) == 1


def test_memory_that_runs_out_is_no_damage() -> None:
    for error in (
        MemoryError(),
        RuntimeError("[enforce fail] posix_memalign failed"),
        torch.OutOfMemoryError(),
    ):
        with pytest.raises(OutOfMemoryError, match="not enough memory for a frame"), memory_told("a frame"):
            raise error
    with pytest.raises(RuntimeError, match="other"), memory_told("a frame"):
        raise RuntimeError("other")
    assert OutOfMemoryError.exit_status == 1


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4 * 10**9), ("500 mb", 5 * 10**8), (1000, 1000), ("2k", 2000), (None, None)]
)
def test_sizes(text: str | int | None, size: int | None) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1GB", "0", 0, "1e9", "9" * 400])
def test_sizes_refused(text: str | int) -> None:
    with pytest.raises(UsageError, match="give a positive size"):
        parse_memory(text)


def test_nothing_of_a_file_reaches_the_terminal_raw(tmp_path: Path) -> None:
    evil = "\x1b]0;title\x07\u202e\nclip faked"
    path = tmp_path / "a.vinr"
    path.write_bytes(
        file_of([clip("a", 1, 16, 16)], [network("nerv", TINY, [Span(0, 0, 1)])], created_by=evil)
    )
    assert visible(vinr.info(str(path)).created_by) == "\\x1b]0;title\\x07\\u202e\\nclip faked"
    with pytest.raises(vinr.BitstreamError) as caught:
        raise vinr.BitstreamError(f"network 0: {evil}")
    assert str(caught.value).isprintable()
    assert visible("naïve × …") == "naïve × …"
