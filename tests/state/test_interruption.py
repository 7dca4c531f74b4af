"""Signals: exceptions at once, or as soon as what must stay whole is done; handlers are put back."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from fresh import run_fresh
from vinr.state import interruption
from vinr.state.interruption import Interrupted, announced, exit_status, held_back, raised

pytestmark = pytest.mark.usefixtures("usual_signals")
SIGNALS = interruption.NUMBERS


@pytest.fixture(autouse=True)
def _handlers_are_put_back() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    assert {number: signal.getsignal(number) for number in SIGNALS} == before
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_an_interrupt_with_its_exit_status(number: int) -> None:
    with pytest.raises(KeyboardInterrupt) as stopped, raised():
        signal.raise_signal(number)
    assert isinstance(stopped.value, Interrupted)
    assert stopped.value.number == number
    assert exit_status(stopped.value) == 128 + number
    assert exit_status(KeyboardInterrupt()) == 130


def test_a_signal_waits_for_the_end_of_the_block() -> None:
    done = []

    def work() -> None:
        with held_back():
            with held_back():
                signal.raise_signal(signal.SIGTERM)
                done.append("inner")
            signal.raise_signal(signal.SIGINT)  # the first one counts
            done.append("outer")
        done.append("never")

    with pytest.raises(Interrupted, match="SIGTERM"), raised():
        work()
    assert done == ["inner", "outer"]


def test_a_signal_survives_the_error_of_a_block() -> None:
    def broken() -> None:
        with held_back():
            signal.raise_signal(signal.SIGINT)
            raise ValueError("broken")

    def work() -> None:
        with pytest.raises(ValueError, match="broken"):
            broken()
        with held_back():
            pass

    with pytest.raises(Interrupted), raised():
        work()


def test_it_is_said_once_that_a_signal_was_seen() -> None:
    said = []

    def work() -> None:
        with held_back():
            for _ in range(3):
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted), raised(), announced(lambda: said.append(1)):
        work()
    assert said == [1]


def test_it_is_said_while_the_main_thread_is_at_work_elsewhere() -> None:
    """Python's handler runs when the main thread gets to it; the thread that watches need not wait."""
    said = threading.Event()
    seen = []

    def hold(number: int, frame: object) -> None:
        # Stands for an instruction that takes long: the real handler has not run yet.
        seen.append(said.wait(timeout=60))

    with announced(said.set), held_back():
        before = signal.signal(signal.SIGINT, hold)
        signal.raise_signal(signal.SIGINT)
        signal.signal(signal.SIGINT, before)
    assert seen == [True]


def test_signals_that_are_ignored_stay_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with raised():
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_nothing_is_done_outside_the_main_thread() -> None:
    ends = []

    def work() -> None:
        with raised(), announced(lambda: None), held_back():
            ends.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ends == [signal.getsignal(signal.SIGTERM)]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_before_any_command_runs_is_no_traceback(name: str) -> None:
    code = (
        "import signal, sys, vinr.cli.app as cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"cli.app = lambda **_: signal.raise_signal(signal.{name})\n"
        "cli.main()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (128 + signal.Signals[name], "")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_any_command_ends_with_the_status_of_its_signal(name: str) -> None:
    code = (
        "import signal, vinr.cli.app as cli, vinr.decoding.playback as playback\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"playback.verify = lambda *a, **k: signal.raise_signal(signal.{name})\n"
        "cli.main()"
    )
    ended = run_fresh(code, "verify", "x.vinr")
    assert ended.returncode == 128 + signal.Signals[name]
    assert b"Traceback" not in ended.stderr
