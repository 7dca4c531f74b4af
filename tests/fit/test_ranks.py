"""Two processes that fit one network: what one process alone would come to, and never two opinions."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

import vinr
from clips import write_clip
from command_line import Run, refused
from two_ranks import (
    Fitted,
    clip,
    interrupt_and_go_on,
    lose,
    on_two,
    preset_of,
    run_command,
    step_all,
    stepped,
)
from vinr.config import FitSettings
from vinr.errors import UsageError
from vinr.fit import fit
from vinr.fit.batches import Batches
from vinr.fit.checkpoint import read_fit_state
from vinr.fit.ranks import Ranks, joined
from vinr.state.launch import num_together, working_together

FIXED = '{share = 0.4, quantization = "entropy", fix_from = 0.3}'
ENTROPY = f"fit.phases=[{{share = 0.3, sparsity = 0.2}}, {FIXED}]"
TARGET = 'fit.phases=[{share = 0.6, quantization = "entropy", target_bytes = 4000}]'
FIXED_TARGET = 'fit.phases=[{share = 0.6, quantization = "entropy", target_bytes = 5500, fix_from = 0.2}]'
# Seven frames: four for one rank, three for the other.
ONE_STEP = ["fit.epochs=1", "fit.batch_size=7"]
# Name of a fit: model, settings, options.
FITS = {
    "whole frames": ("hnerv", ["fit.gradient_clip=0.01"], {}),
    "patches": ("hinerv", ["fit.epochs=1", "fit.patches=[2,2]", "fit.batch_size=1"], {}),
    "neighbours": ("ffnerv", [], {}),
    "neighbours, a step": ("ffnerv", ONE_STEP, {}),
    "neighbours of a hybrid, a step": ("tnerv", ONE_STEP, {}),
    "entropy": ("hnerv", [ENTROPY], {}),
    "entropy, a step": ("hnerv", [*ONE_STEP, 'fit.phases=[{share = 1.0, quantization = "entropy"}]'], {}),
    "groups, a step": ("dnerv_diverse", ONE_STEP, {}),
    "size": ("hnerv", [TARGET], {}),
    "size, fixed": ("hnerv", [FIXED_TARGET], {}),
    "uneven": ("hnerv", ["fit.batch_size=3", "fit.drop_last=false", ENTROPY], {}),
    "clock": ("hnerv", [ENTROPY], {"clock": (8, 800)}),
    "collapse": ("hnerv", ["fit.epochs=4"], {"poisoned": 5}),
    "too small": ("hnerv", ["fit.batch_size=1"], {}),
}


@pytest.fixture(scope="module")
def both() -> list[dict[str, Fitted]]:
    """What each of two processes came to, by the name of the fit."""
    fits = {name: (preset_of(model, *settings), options) for name, (model, settings, options) in FITS.items()}
    return on_two(step_all, fits)


# -- steps ---------------------------------------------------------------------------------------------------


def test_slices_of_all_ranks_are_the_batch() -> None:
    settings = FitSettings(batch_size=5, micro_batch=2, drop_last=False)
    frame_N = torch.arange(11)
    whole = Batches(frame_N, frame_N, settings.model_copy(update={"micro_batch": 0}), (8, 8))
    for count in (2, 3, 5):
        ranks = [Batches(frame_N, frame_N, settings, (8, 8), Ranks(number, count)) for number in range(count)]
        slices = [batches.of_epoch(4) for batches in ranks]
        for (batch,), *parts in zip(whole.of_epoch(4), *slices, strict=True):
            assert len(set(map(len, parts))) == 1  # as many parts in each rank
            used = [part for own in parts for part in own if part.share]
            assert torch.equal(torch.cat([part.sample_N for part in used]), batch.sample_N)
            assert sum(part.share for part in used) == pytest.approx(1, abs=1e-12)
            assert all(len(part.sample_N) in (1, 2) for own in parts for part in own)


@pytest.mark.parametrize("name", [name for name in FITS if name != "too small"])
def test_ranks_never_disagree(both: list[dict[str, Fitted]], name: str) -> None:
    first, second = (results[name] for results in both)
    assert first.tensors.keys() == second.tensors.keys()
    for key, value in first.tensors.items():
        assert torch.equal(value, second.tensors[key]), key
    assert (first.steps, first.psnr_db, first.events) == (second.steps, second.psnr_db, second.events)


@pytest.mark.parametrize(("name", "part"), [("whole frames", 1), ("patches", 2)])
def test_ranks_do_what_one_process_does_part_by_part(
    both: list[dict[str, Fitted]], name: str, part: int
) -> None:
    """The same sums in the same order: bit for bit the same."""
    model, settings, _ = FITS[name]
    alone = stepped(preset_of(model, *settings, f"fit.micro_batch={part}"))
    ranks = both[0][name]
    assert ranks.psnr_db == alone.psnr_db
    for key, value in alone.tensors.items():
        assert torch.equal(ranks.tensors[key], value), key


@pytest.mark.parametrize("name", [name for name in FITS if name.endswith("step")])
def test_gradients_are_those_of_one_process(both: list[dict[str, Fitted]], name: str) -> None:
    """But for the order of sums: those of seven frames are others than those of four and of three."""
    model, settings, _ = FITS[name]
    alone = stepped(preset_of(model, *settings))
    ranks = both[0][name]
    assert ranks.steps == alone.steps == 1
    assert ranks.psnr_db == pytest.approx(alone.psnr_db, abs=1e-4)
    for key, value in alone.tensors.items():
        if key.startswith("random."):
            assert torch.equal(ranks.tensors[key], value)  # as many numbers were drawn
        elif key.startswith("optimizer."):  # after one step, a moment is a multiple of the gradient
            assert torch.allclose(ranks.tensors[key], value, rtol=0, atol=1e-3 * value.abs().max()), key


def test_one_spoilt_rank_makes_all_go_back(both: list[dict[str, Fitted]]) -> None:
    for results in both:
        assert results["collapse"].collapses == 1
        assert results["collapse"].steps == 4 * 3


def test_the_clock_of_rank_0_ends_the_fit(both: list[dict[str, Fitted]]) -> None:
    for results in both:
        assert results["clock"].steps == 8
        assert "coding.log_step" in results["clock"].tensors  # the last phase was reached


def test_a_batch_too_small_for_all_is_refused(both: list[dict[str, Fitted]]) -> None:
    for results in both:
        assert results["too small"] == (
            "fit.batch_size 1 is the batch of all 2 processes together, too small for a part each; give "
            "overrides=['fit.batch_size=2'] or more, or start fewer processes"
        )


def test_each_rank_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Ranks(5, 8, local=1).own_device(torch.device("cuda")) == torch.device("cuda:1")
    assert Ranks(5, 8, local=2).own_device(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(UsageError, match="cuda:0 is one GPU, and 8 processes fit; give cuda or auto"):
        Ranks(0, 8).own_device(torch.device("cuda:0"))
    with pytest.raises(UsageError, match="no GPU is left for rank 6: its machine has 2 CUDA devices; start"):
        Ranks(6, 8, local=2).own_device(torch.device("cuda"))
    assert Ranks().own_device(torch.device("cuda:1")) == torch.device("cuda:1")  # alone: as ever


def test_what_torchrun_did_not_say_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "first")
    with (
        pytest.raises(UsageError, match="the environment variable RANK is 'first'; torchrun sets it"),
        joined(),
    ):
        pass


# -- whole fits ----------------------------------------------------------------------------------------------


def test_an_interrupted_fit_goes_on(tmp_path: Path) -> None:
    results, others = on_two(interrupt_and_go_on, tmp_path, preset_of("hnerv", ENTROPY))
    assert others == {}  # only rank 0 works by itself
    assert results["interrupted"] == (128 + signal.SIGTERM, 5)
    assert results["refused"] == "rank 1: it does not want to"
    for name, value in results["whole"].items():
        assert torch.equal(results["resumed"][name], value), name
        assert torch.equal(results["again"][name], value), name


def test_a_killed_rank_ends_the_fit_which_one_process_continues(tmp_path: Path) -> None:
    said, nothing = on_two(lose, 1, tmp_path / "kept")
    assert nothing is None
    assert said.startswith("rank 0 of 2 has lost another, which has ended or does not answer (")
    assert said.endswith("); start all of them again, with resume=True")
    assert read_fit_state(tmp_path / "kept").last.values.steps_done == 3  # the last whole round
    result = fit(clip(), preset_of("hnerv"), checkpoint=tmp_path / "kept", resume=True)
    assert result.num_steps == 9


def test_nobody_waits_for_a_rank_0_that_was_killed(tmp_path: Path) -> None:
    nothing, said = on_two(lose, 0, tmp_path / "kept")
    assert nothing is None
    assert said.startswith("rank 1 of 2 has lost another, which has ended or does not answer (")


WITH_WORKERS = {
    "encode": ("encode", "in.mkv", "out.vinr", "--workers", "2"),
    "encode on a cluster": ("encode", "in.mkv", "out.vinr", "--ray", "auto"),
    "encode a folder": ("encode", "videos", "files", "--workers", "2"),
    "decode": ("decode", "in.vinr", "out.mkv", "--workers", "2"),
    "decode a folder": ("decode", "videos", "files", "--workers", "2"),
    "eval": ("eval", "videos", "originals", "--workers", "2"),
    "compare": ("compare", "in.mkv", "page.html", "--workers", "2"),
    "bench": ("bench", "hnerv-table-8", "--scale", "tiny", "--workers", "2"),
}


@pytest.mark.parametrize("name", WITH_WORKERS)
def test_processes_that_fit_together_have_no_workers(
    name: str, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("videos", "originals"):
        (tmp_path / folder).mkdir()
    write_clip(tmp_path / "in.mkv", clip())
    before = sorted(path.name for path in tmp_path.rglob("*"))
    asked = " ".join(WITH_WORKERS[name][-2:])
    with working_together(4):
        result = run(*WITH_WORKERS[name])
    refused(
        result,
        f"{asked}: torchrun has started 4 processes, which fit one network together and would wait, idle, "
        "for the workers; start vinr without torchrun, or leave --workers and --ray out",
    )
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_torchrun_with_workers_ends_in_one_line(tmp_path: Path) -> None:
    video = write_clip(tmp_path / "in.mkv", clip())
    arguments = ["encode", str(video), str(tmp_path / "two.vinr"), "--epochs", "1", "--workers", "2"]
    assert on_two(run_command, tmp_path, arguments) == [2, 0]
    (line,) = (tmp_path / "err0").read_text().splitlines()
    assert line.startswith("vinr: --workers 2: torchrun has started 2 processes")
    assert (tmp_path / "out0").read_text() == (tmp_path / "out1").read_text() == ""
    assert (tmp_path / "err1").read_text() == ""
    assert num_together() == 1
    assert not (tmp_path / "two.vinr").exists()


def test_the_command_writes_one_file_and_says_everything_once(tmp_path: Path) -> None:
    video = write_clip(tmp_path / "in.mkv", clip())
    settings = ["fit.precision=fp32", "fit.phases=[]", "fit.micro_batch=1"]
    vinr.encode(video, tmp_path / "one.vinr", preset="hnerv-tiny", epochs=2, device="cpu", overrides=settings)
    options = ["--preset", "hnerv-tiny", "--epochs", "2", "--device", "cpu"]
    for setting in settings[:2]:
        options += ["--set", setting]
    arguments = ["encode", str(video), str(tmp_path / "two.vinr"), *options]
    assert on_two(run_command, tmp_path, arguments) == [0, 0]
    assert (tmp_path / "two.vinr").read_bytes() == (tmp_path / "one.vinr").read_bytes()
    assert (tmp_path / "out0").read_text().startswith("source ")
    assert "2 processes share every step of the fit" in (tmp_path / "err0").read_text()
    assert (tmp_path / "out1").read_text() == (tmp_path / "err1").read_text() == ""
