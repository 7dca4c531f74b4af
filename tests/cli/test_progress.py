"""What is said while work is done: stages, steps, one time left; a line a minute without a terminal."""

from __future__ import annotations

import io
import time

import pytest

from vinr.cli import progress
from vinr.cli.began import START_FIELD, process_start
from vinr.cli.progress import LINE_SECONDS, Loudness, Watch, loudness_of
from vinr.errors import UsageError
from vinr.fit import (
    Collapsed,
    FramesDone,
    JobEnded,
    Noted,
    NotKept,
    OfJob,
    RoundDone,
    StageBegun,
    StepDone,
)

ROUND = RoundDone(5.0, 0.5, 28.126, 30.0, 30.0, 330, loss=0.0123, bpp=0.1, learning_rate=0.001)


class FakeTime:
    """A clock that goes on when told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def now() -> FakeTime:
    return FakeTime()


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    out, err = capsys.readouterr()
    assert out == ""
    return str(err).splitlines()


def watch(now: FakeTime, loudness: Loudness = "usual") -> Watch:
    return Watch(loudness, clock=now, is_terminal=False)


def test_without_a_terminal_there_is_a_line_a_minute(
    now: FakeTime, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = watch(now)
    shown.on_event(StageBegun("fitting"))
    shown.on_event(ROUND)
    for step in range(1, 6):
        now.seconds += 0.45 * LINE_SECONDS
        shown.on_event(StepDone(5.0 + step / 10, 0.5 + step / 100, 100.0))
    assert lines(capsys) == ["fitting: 53%  epoch 5.3  28.13 dB  2 min left"]
    now.seconds += LINE_SECONDS
    shown.on_event(StageBegun("measuring"))
    now.seconds += 10
    shown.on_event(FramesDone(1, 4))
    now.seconds += LINE_SECONDS
    shown.on_event(FramesDone(2, 4))
    assert lines(capsys) == ["measuring", "measuring: 50%  70 s left"]


def test_verbose_tells_rounds_and_stages(now: FakeTime, capsys: pytest.CaptureFixture[str]) -> None:
    shown = watch(now, "verbose")
    shown.on_event(StageBegun("fitting"))
    shown.on_event(ROUND)
    now.seconds += 12.34
    shown.on_event(StageBegun("coding"))
    said = "epoch 5.0  step 330  PSNR 28.13 dB  loss 0.01230  learning rate 1.00e-03  0.1000 bpp  30.0 s"
    assert lines(capsys) == [said, "fitting took 12.3 s"]


def test_quiet_tells_what_went_wrong_alone(now: FakeTime, capsys: pytest.CaptureFixture[str]) -> None:
    shown = watch(now, "quiet")
    shown.on_event(StageBegun("fitting"))
    shown.on_event(Noted("a choice"))
    now.seconds += 2 * LINE_SECONDS
    shown.on_event(ROUND)
    assert lines(capsys) == []
    shown.on_event(Collapsed(11.0, 30.0, 0.5, 0.5))
    shown.on_event(NotKept("No space left on device"))
    assert len(lines(capsys)) == 2
    with pytest.raises(UsageError, match="--verbose and --quiet exclude each other"):
        loudness_of(verbose=True, quiet=True)


def test_a_bar_moves_with_steps_and_names_the_stage(now: FakeTime, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = type(progress.ERR)()
    console.file = screen
    console._force_terminal = True
    console.width = 120
    monkeypatch.setattr(progress, "ERR", console)
    shown = Watch(clock=now, is_terminal=True)
    assert screen.getvalue() == ""  # an error of usage must not leave a bar behind
    shown.on_event(StageBegun("fitting"))
    shown.on_event(ROUND)
    shown.on_event(StepDone(5.5, 0.25, 61.0))
    shown.stop()
    last = screen.getvalue()
    assert "fitting" in last
    assert "25%  epoch 5.5  28.13 dB  61 s left" in last
    assert last.count("left") == last.count("s left")  # one time left, not two


def test_a_time_counts_from_the_start_of_the_process() -> None:
    before = time.monotonic() - (time.clock_gettime(time.CLOCK_BOOTTIME) - 100.0)
    values = ["S", *["0"] * (START_FIELD - 1), "10000"]  # in hundredths of a second: 100 s after the boot
    began = process_start(lambda: f"1 (a name) (of a kind) {' '.join(values)} 7")
    assert began == pytest.approx(before, abs=5)
    for text in ("", "1 (a) S", "1 (a) S " + " ".join(["x"] * 30)):
        assert process_start(lambda text=text: text) <= time.monotonic()


def test_jobs_of_workers_share_one_display(now: FakeTime, capsys: pytest.CaptureFixture[str]) -> None:
    """Of two jobs one is done and the other half fitted: three quarters, in a line that names no job."""
    shown = watch(now)
    for number in (0, 1):
        shown.on_event(OfJob(number, 2, f"segment {number + 1}", StageBegun("fitting")))
    shown.on_event(OfJob(1, 2, "segment 2", Noted("a choice")))
    now.seconds += LINE_SECONDS / 2
    shown.on_event(OfJob(1, 2, "segment 2", StepDone(5.0, 0.5, 9.0)))
    shown.on_event(OfJob(0, 2, "segment 1", StageBegun("coding")))
    now.seconds += LINE_SECONDS
    shown.on_event(JobEnded(0, 2, "segment 1"))
    assert lines(capsys) == ["segment 2: a choice", "fitting: 75%  1 of 2 jobs done  30 s left"]
    shown.on_event(OfJob(1, 2, "segment 2", NotKept("No space left on device")))
    assert lines(capsys)[0].startswith("segment 2: the state could not be saved")
