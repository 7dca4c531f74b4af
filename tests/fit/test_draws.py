"""Random numbers of fits: those of a seed, in each fit by itself, and none of the program around."""

from __future__ import annotations

import ast
from pathlib import Path
from threading import Barrier, Thread
from typing import Final

import pytest
import torch
from torch import Tensor

import vinr
from vinr.config import default_model, load_preset
from vinr.fit import Event, RoundDone, build_model
from vinr.fit.draws import Draws
from vinr.fit.precision import Precision
from vinr.models import get_model, list_models, validate_architecture
from vinr.video.spec import VideoSpec

VIDEO: Final = VideoSpec(4, 36, 50)
CPU: Final = torch.device("cpu")
# Initial weights, an initial prior, noise on single numbers and on all of them.
PHASES: Final = (
    'fit.phases=[{share = 0.3, quantization = "noise"},'
    ' {share = 0.4, quantization = "entropy", prior = "factorized"}]'
)
DRAWING: Final = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson"}
LIKE: Final = {"rand_like", "randn_like", "randint_like"}
OF_TORCH: Final = {"torch", "torch.random", "torch.cuda"}
OF_THE_PROCESS: Final = {"manual_seed", "seed", "set_rng_state", "get_rng_state", "default_generator"}


def encoded(
    video: Path, output: Path, model: str, *, barrier: Barrier | None = None, seed: int = 1
) -> tuple[bytes, list[float]]:
    """Return the file, and what the program's own generator gives during the encode and afterwards."""
    drawn = [float(torch.rand(()))] if barrier is None else []

    def turn(event: Event) -> None:
        if barrier is None:
            drawn.append(float(torch.rand(())))
        elif isinstance(event, RoundDone):
            barrier.wait(60)

    vinr.encode(
        video,
        output,
        preset=f"{model}-tiny",
        epochs=4,
        seed=seed,
        device="cpu",
        overrides=[PHASES, "fit.batch_size=4"],
        on_event=turn,
    )
    return output.read_bytes(), drawn


def sequence(seed: int, count: int) -> list[float]:
    torch.manual_seed(seed)
    return [float(torch.rand(())) for _ in range(count)]


def test_encodes_in_two_threads_give_the_bytes_of_each_alone(tiny_video: Path, tmp_path: Path) -> None:
    models = {default_model(): 1, next(name for name in list_models() if name != default_model()): 2}
    found: dict[str, bytes] = {}
    barrier = Barrier(2)  # rounds of both fits follow one another, on any machine

    def work(name: str, seed: int) -> None:
        output = tmp_path / f"{name}-thread.vinr"
        found[name] = encoded(tiny_video, output, name, barrier=barrier, seed=seed)[0]

    threads = [Thread(target=work, args=item) for item in models.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, seed in models.items():
        assert found[name] == encoded(tiny_video, tmp_path / f"{name}.vinr", name, seed=seed)[0]


def test_an_encode_and_its_program_do_not_disturb_each_other(tiny_video: Path, tmp_path: Path) -> None:
    contents = []
    for seed in (5, 6):
        torch.manual_seed(seed)
        content, drawn = encoded(tiny_video, tmp_path / f"{seed}.vinr", default_model())
        drawn.append(float(torch.rand(())))
        assert drawn == sequence(seed, len(drawn))
        contents.append(content)
    assert contents[0] == contents[1]


def test_opening_a_file_draws_nothing(tiny_file: Path) -> None:
    torch.manual_seed(5)
    with vinr.open(tiny_file, device="cpu") as video:
        video[0]
    assert [float(torch.rand(()))] == sequence(5, 1)


def test_trying_how_long_coding_takes_draws_nothing(
    tiny_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However slow the machine is: the time is not kept to here.
    monkeypatch.setattr("vinr.encoding.foresee.check_time", lambda work, seconds: None)
    torch.manual_seed(5)
    vinr.encode(tiny_video, tmp_path / "a.vinr", preset=f"{default_model()}-tiny", time=0.1, device="cpu")
    assert [float(torch.rand(()))] == sequence(5, 1)


@pytest.mark.parametrize("name", list_models())
def test_draws_are_those_that_a_seed_gives(name: str) -> None:
    preset = load_preset(f"{name}-tiny", ["fit.seed=7"])
    draws = Draws(preset.fit.seed)
    torch.manual_seed(5)
    found = build_model(preset, VIDEO, CPU, Precision("fp32"), draws).state_dict()
    assert [float(torch.rand(()))] == sequence(5, 1)
    torch.manual_seed(preset.fit.seed)
    cls = get_model(name)
    expected = cls(validate_architecture(cls, preset.architecture), VIDEO).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in found.items())
    # The noise of the coding goes on where the weights ended.
    assert torch.equal(draws.uniform(3, 4, 1), torch.rand(3, 4, 1))
    assert torch.equal(draws.uniform_like(torch.empty(300)), torch.rand(300))


def test_numbers_follow_the_layout() -> None:
    value_NCHW = torch.empty(2, 5, 4, 3).to(memory_format=torch.channels_last).requires_grad_()
    torch.manual_seed(3)
    found, expected = Draws(3).uniform_like(value_NCHW), torch.rand_like(value_NCHW)
    assert torch.equal(found, expected)
    assert found.stride() == expected.stride()
    assert not found.requires_grad


@pytest.mark.parametrize("place", ["now", "later"])
def test_draws_go_on_from_their_state(place: str) -> None:
    draws = Draws(3)
    draws.uniform(5)
    state = draws.state()
    expected = draws.uniform(7)
    other = draws if place == "now" else Draws(4)
    other.load(state)
    assert torch.equal(other.uniform(7), expected)


def test_every_way_of_drawing_is_led_to_the_draws() -> None:
    def drawn() -> list[Tensor]:
        value = torch.empty(6)
        filled = torch.nn.init.trunc_normal_(torch.empty(40))
        like = [torch.rand_like(value), torch.randn_like(value), torch.randint_like(value, 9)]
        made = [torch.rand(4), torch.randn(4), torch.randint(9, (4,)), torch.randint(3, 9, (4,))]
        others = [torch.randperm(9), torch.full((9,), 0.5).bernoulli(), torch.normal(0.0, 1.0, (4,))]
        dropped = torch.nn.functional.dropout(torch.ones(40))
        return [filled, *like, *made, *others, dropped, value.exponential_(), torch.normal(torch.zeros(3))]

    torch.manual_seed(5)
    expected = drawn()
    torch.manual_seed(6)
    with Draws(5).as_global():
        found = drawn()
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert [float(torch.rand(()))] == sequence(6, 1)


def test_what_takes_no_generator_is_refused() -> None:
    with Draws(5).as_global(), pytest.raises(NotImplementedError, match="native_dropout"):
        torch.native_dropout(torch.ones(4), 0.5, True)


@pytest.mark.parametrize("path", sorted(Path(vinr.__file__).parent.rglob("*.py")), ids=lambda path: path.stem)
def test_nothing_draws_from_the_generator_of_the_process(path: Path) -> None:
    """Models are built with :meth:`Draws.as_global`; all else names its generator."""
    # The first makes the draws, the second seeds and restores the generator around a check.
    if path.name in ("draws.py", "verdicts.py"):
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    led = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.With) and "as_global()" in ast.unparse(node.items[0])
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in OF_THE_PROCESS | LIKE:
            assert ast.unparse(node.value) not in OF_TORCH, f"line {node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node not in led:
            is_torch = ast.unparse(node.func.value) == "torch"
            named = any(keyword.arg == "generator" for keyword in node.keywords)
            assert not (is_torch and node.func.attr in DRAWING) or named, f"line {node.lineno}"
