"""Logs of fits: a CSV file, TensorBoard's event files, and what is refused."""

from __future__ import annotations

import csv
from dataclasses import fields, replace
from pathlib import Path

import pytest

from vinr.errors import OutputError, UsageError
from vinr.fit import CsvLog, RoundDone, StageBegun, TensorBoardLog
from vinr.fit.logs import open_log

ROUND = RoundDone(1.0, 0.5, 28.5, 12.0, 12.0, 66, loss=0.25, learning_rate=0.001)
LATER = replace(ROUND, epochs_done=2.0, steps_done=132, num_bits=8000.0, bpp=0.5, phase=0)


def test_a_round_is_a_line_at_once(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    with CsvLog(path) as log:
        log(StageBegun("fitting"))
        log(ROUND)
        (row,) = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
        assert {*row} == {"network", *(field.name for field in fields(RoundDone))}
        assert (row["psnr_db"], row["loss"], row["num_bits"], row["phase"]) == ("28.5", "0.25", "", "-1")
        log(StageBegun("coding"))
        log(StageBegun("fitting"))
        log(LATER)
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert [row["network"] for row in rows] == ["0", "1"]
    assert rows[1]["bpp"] == "0.5"


def test_a_resumed_fit_adds_to_its_log(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    for event in (ROUND, LATER):
        with CsvLog(path) as log:
            log(event)
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert [row["steps_done"] for row in rows] == ["66", "132"]


def test_another_file_is_not_written_into(tmp_path: Path) -> None:
    path = tmp_path / "notes.csv"
    path.write_text("my notes\n", encoding="utf-8")
    with pytest.raises(OutputError, match=r"notes\.csv: is no log of vinr"):
        CsvLog(path)
    assert path.read_text(encoding="utf-8") == "my notes\n"
    with pytest.raises(OutputError, match="does not exist; create it first"):
        CsvLog(tmp_path / "missing" / "run.csv")


def test_a_name_says_which_log(tmp_path: Path) -> None:
    with open_log(str(tmp_path / "a.csv")) as log:
        assert isinstance(log, CsvLog)
    with pytest.raises(UsageError, match=r"log a\.txt: give a name that ends in \.csv, or a folder"):
        open_log("a.txt")


def test_tensorboard_reads_the_events(tmp_path: Path) -> None:
    with open_log(str(tmp_path / "runs")) as log:
        assert isinstance(log, TensorBoardLog)
        log(StageBegun("fitting"))
        log(ROUND)
        log(StageBegun("fitting"))
        log(LATER)
    found = scalars(tmp_path / "runs")
    assert found["psnr_db"] == [(66, 28.5)]
    assert "num_bits" not in found
    assert found["network1/num_bits"] == [(132, 8000.0)]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return step and value of each scalar in the event files of ``folder``."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, list[tuple[int, float]]] = {}
    (path,) = folder.iterdir()
    data, place = path.read_bytes(), 0
    while place < len(data):
        # length, 8 bytes | checksum, 4 | event | checksum, 4
        length = int.from_bytes(data[place : place + 8], "little")
        event = Event.FromString(data[place + 12 : place + 12 + length])
        place += length + 16
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    with pytest.raises(UsageError, match=r"pip install 'vinr\[log\]'"):
        TensorBoardLog(tmp_path / "runs")
