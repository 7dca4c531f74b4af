"""Commands on many files: lists in, results out, what is done is skipped, what fails is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import vinr
from clips import moving_shapes, write_clip
from command_line import Run
from vinr.errors import InputError, UsageError
from vinr.fit import JobEnded, OfJob
from vinr.folders import decode_folder, encode_folder, evaluate_folder
from vinr.folders.commands import ENCODE_COLUMNS
from vinr.folders.manifest import list_entries

SETTINGS: dict[str, Any] = {
    "preset": "nerv-tiny",
    "epochs": 1,
    "device": "cpu",
    "overrides": ["fit.phases=[]"],
}
OPTIONS = ("--preset", "nerv-tiny", "--epochs", "1", "--device", "cpu", "--set", "fit.phases=[]")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two videos, one of them in a folder, a damaged one, and a text."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "more").mkdir()
    write_clip(folder / "a.mkv", moving_shapes(num_frames=4, height=24, width=40))
    write_clip(folder / "more" / "b.mkv", moving_shapes(num_frames=5, height=24, width=40))
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "notes.txt").write_text("about them", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def files(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of their files."""
    folder = tmp_path_factory.mktemp("files")
    encode_folder(videos, folder, **SETTINGS)
    return folder


def statuses(results: Any) -> dict[str, str]:
    return {result.input: result.status for result in results}


def test_each_video_becomes_a_file_and_what_fails_is_named(videos: Path, files: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (files / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["input"]: row["status"] for row in rows} == {
        "a.mkv": "done",
        "broken.mp4": "failed",
        "more/b.mkv": "done",
    }
    failed = next(row for row in rows if row["status"] == "failed")
    assert "broken.mp4" in failed["reason"]
    done = next(row for row in rows if row["input"] == "more/b.mkv")
    assert done["output"] == "more/b.vinr"
    assert done["values"]["num_bytes"] == (files / "more" / "b.vinr").stat().st_size
    alone = tmp_path / "a.vinr"
    vinr.encode(videos / "a.mkv", alone, **SETTINGS)
    assert (files / "a.vinr").read_bytes() == alone.read_bytes()


def test_what_is_done_is_skipped_until_source_or_settings_change(
    videos: Path, files: Path, tmp_path: Path
) -> None:
    events: list[Any] = []
    report = encode_folder(videos, files, on_event=events.append, **SETTINGS)
    assert statuses(report.results) == {"a.mkv": "skipped", "broken.mp4": "failed", "more/b.mkv": "skipped"}
    assert not report.is_whole
    assert [event.name for event in events if isinstance(event, JobEnded)] == [
        "a.mkv",
        "broken.mp4",
        "more/b.mkv",
    ]
    assert not [event for event in events if isinstance(event, OfJob)]  # nothing was fitted
    before = (files / "a.vinr").read_bytes()
    changed = encode_folder(videos, files, **{**SETTINGS, "epochs": 2})
    reason = next(result.reason for result in changed.results if result.input == "a.mkv")
    assert reason is not None
    assert "exists already" in reason
    assert (files / "a.vinr").read_bytes() == before


def test_lists_name_files_outputs_and_settings(videos: Path, tmp_path: Path) -> None:
    rows = [
        {"input": str(videos / "a.mkv"), "output": "first/one.vinr", "frames": "0:2"},
        {"input": str(videos / "a.mkv"), "output": "two.vinr", "epochs": 2},
    ]
    lines = tmp_path / "list.jsonl"
    lines.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    report = encode_folder(lines, tmp_path / "out", **SETTINGS)
    assert report.is_whole
    assert [result.output for result in report.results] == ["first/one.vinr", "two.vinr"]
    assert [result.values["num_frames"] for result in report.results] == [2, 4]
    assert [result.values["num_epochs"] for result in report.results] == [1, 2]
    table = tmp_path / "list.csv"
    columns = f"input,output,frames,epochs\n{videos}/a.mkv,first/one.vinr,0:2,\n{videos}/a.mkv,two.vinr,,2\n"
    table.write_text(columns, encoding="utf-8")
    again = encode_folder(table, tmp_path / "out", **SETTINGS)
    assert [result.status for result in again.results] == ["skipped", "skipped"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("l.csv", "input\n", "names no file"),
        ("l.csv", "inputs\na.mkv\n", "line 2 names no input"),
        ("l.csv", "input,epoch\na.mkv,3\n", "unknown column 'epoch'; .* did you mean 'epochs'"),
        ("l.csv", "input,epochs\na.mkv\n", "line 2 has not as many columns"),
        ("l.jsonl", '{"input": "a.mkv", "output": "../x.vinr"}', "outside the folder of outputs"),
        ("l.jsonl", '{"input": "a.mkv", "epochs": [1]}', "give a text or a number"),
        ("l.jsonl", '{"input": "a.mkv"', "cannot be read as JSON lines"),
    ],
)
def test_lists_that_are_refused(name: str, content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises((InputError, UsageError), match=words):
        list_entries(tmp_path / name, (".mkv",), ENCODE_COLUMNS)


def test_two_inputs_of_one_output_are_refused(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.mkv"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UsageError, match=r"a\.mkv and a\.mp4 would both become a\.vinr"):
        encode_folder(tmp_path, tmp_path / "out", **SETTINGS)
    assert not (tmp_path / "out").exists()


def test_files_of_a_folder_are_decoded_and_scored(videos: Path, files: Path, tmp_path: Path) -> None:
    report = decode_folder(files, tmp_path / "out", suffix=".mkv", codec="ffv1", device="cpu")
    assert statuses(report.results) == {"a.vinr": "done", "more/b.vinr": "done"}
    vinr.decode(files / "a.vinr", tmp_path / "a.mkv", codec="ffv1", device="cpu")
    assert (tmp_path / "out" / "a.mkv").read_bytes() == (tmp_path / "a.mkv").read_bytes()
    scores = evaluate_folder(files, videos, device="cpu")
    assert scores.is_whole
    by_name = {result.input: result.values for result in scores.results}
    with vinr.open(files / "a.vinr") as decoder:
        quality = decoder.clip.quality
    assert quality is not None
    assert by_name["a.vinr"]["psnr_db"] == pytest.approx(quality.psnr_db, abs=1e-3)


# -- command line --------------------------------------------------------------------------------------------


def test_the_command_line_counts_and_ends_with_1_if_any_failed(
    run: Run, videos: Path, files: Path, tmp_path: Path
) -> None:
    status, out, err = run("encode", videos, files, *OPTIONS)
    assert (status, out) == (1, "3 files: 0 done, 2 skipped, 1 failed\n")
    assert "files of other kinds are left out, such as notes.txt" in err
    assert "broken.mp4: " in err
    status, out, err = run("eval", files, videos, "--device", "cpu", "--json")
    assert status == 0
    assert [row["input"] for row in json.loads(out)] == ["a.vinr", "more/b.vinr"]
    status, out, err = run("decode", files, tmp_path / "out", "--device", "cpu")
    assert (status, out) == (0, "2 files: 2 done, 0 skipped, 0 failed\n")
    assert (tmp_path / "out" / "more" / "b.mp4").exists()


def test_images_are_one_video_and_the_message_says_so(run: Run, videos: Path, tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "f_0.png").write_bytes(b"")
    status, _, err = run("encode", tmp_path / "frames", tmp_path / "out", *OPTIONS)
    assert status == 2
    assert "holds images such as f_0.png, which are one video" in err
    status, _, err = run("encode", videos / "a.mkv", tmp_path / "out", *OPTIONS)
    assert status == 2
    assert "the name must end in .vinr" in err
    assert not (tmp_path / "out").exists()
