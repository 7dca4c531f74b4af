"""A .vinr file may be a path, bytes or a binary file, for every function that reads one."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

import vinr
from random_files import random_set
from vinr.decoding.file import FileLike, name_of

FORMS: dict[str, Callable[[Path], FileLike]] = {
    "bytes": Path.read_bytes,
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memory": lambda path: io.BytesIO(path.read_bytes()),
    "file": lambda path: path.open("rb"),
}


@contextmanager
def opened(form: str, path: Path) -> Iterator[FileLike]:
    """Give a file in a form; a file object stands at its end, as one that was just written."""
    file = FORMS[form](path)
    if isinstance(file, io.IOBase):
        file.seek(0, io.SEEK_END)
    try:
        yield file
        assert not (isinstance(file, io.IOBase) and file.closed)  # it is the caller's
    finally:
        if isinstance(file, io.IOBase):
            file.close()


@pytest.mark.parametrize("form", FORMS)
def test_reports_are_those_of_the_path(tiny_file: Path, tiny_video: Path, form: str) -> None:
    with opened(form, tiny_file) as file:
        assert vinr.info(file) == vinr.info(tiny_file)
        expected = vinr.verify(tiny_file, device="cpu")
        assert vinr.verify(file, device="cpu") == replace(expected, path=name_of(file))
        assert vinr.verify(file, device="cpu").lines()[0].startswith(f"{name_of(file)}: ")
        one, other = (vinr.evaluate(each, tiny_video, device="cpu") for each in (file, tiny_file))
        assert replace(one, decode_fps=0.0) == replace(other, decode_fps=0.0)
        assert torch.equal(vinr.FrameDataset(file)[1], vinr.FrameDataset(tiny_file)[1])


@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_is_that_of_the_path(tiny_file: Path, tmp_path: Path, form: str) -> None:
    def written(function: Callable[..., Any], source: FileLike, name: str, **options: Any) -> bytes:
        function(source, tmp_path / name, force=True, **options)
        return (tmp_path / name).read_bytes()

    with opened(form, tiny_file) as file:
        for function, options in (
            (vinr.decode, {"frames": "0,2", "device": "cpu"}),
            (vinr.decode, {"keep_going": True, "device": "cpu"}),
            (vinr.interpolate, {"factor": 2, "device": "cpu"}),
        ):
            content = written(function, file, "o.y4m", **options)
            assert content == written(function, tiny_file, "o.y4m", **options)
        vinr.info(file, plot=tmp_path / "plot.png")
        assert (tmp_path / "plot.png").exists()


def test_export_takes_bytes(tiny_file: Path, tmp_path: Path) -> None:
    (graph,) = vinr.export(tiny_file.read_bytes(), tmp_path / "a.onnx")
    (other,) = vinr.export(tiny_file, tmp_path / "b.onnx")
    assert graph == replace(other, path=graph.path)


def test_compare_takes_files_without_a_path(tiny_file: Path, tiny_video: Path, tmp_path: Path) -> None:
    with tiny_file.open("rb") as file:
        report = vinr.compare(
            tiny_video,
            tmp_path / "o.html",
            files=[tiny_file.read_bytes(), file, tiny_file],
            anchors=[],
            device="cpu",
        )
    (curve,) = report.curves
    assert sorted(point.setting for point in curve.points) == ["file 1", "file 2", tiny_file.name]
    assert len({(point.num_bytes, point.psnr_db) for point in curve.points}) == 1


@pytest.mark.parametrize(
    "source", [b"", b"none of ours", io.BytesIO(b"nothing")], ids=["empty", "bytes", "file"]
)
def test_what_is_none_is_refused_in_one_line(source: bytes | BinaryIO, tmp_path: Path) -> None:
    for call in (
        lambda: vinr.info(source),
        lambda: vinr.verify(source),
        lambda: vinr.decode(source, tmp_path / "o.y4m"),
        lambda: vinr.compare("a.mp4", tmp_path / "o.html", files=[source]),
    ):
        with pytest.raises(vinr.BitstreamError) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_clip_of_bytes_is_chosen_by_name(tmp_path: Path) -> None:
    path = random_set(tmp_path / "set.vinr", {"a": 4, "b": 2})
    content = path.read_bytes()
    with pytest.raises(vinr.UsageError, match="holds 2 clips"):
        vinr.decode(content, tmp_path / "o.y4m", device="cpu")
    report = vinr.decode(content, tmp_path / "o.y4m", clip="b", device="cpu")
    vinr.decode(f"{path}#b", tmp_path / "p.y4m", device="cpu")
    assert report.num_frames == 2
    assert (tmp_path / "o.y4m").read_bytes() == (tmp_path / "p.y4m").read_bytes()
    assert [clip.name for clip in vinr.verify(content, clip="b", device="cpu").clips] == ["b"]
    vinr.interpolate(content, tmp_path / "q.y4m", clip="b", device="cpu")
    assert (tmp_path / "q.y4m").exists()
    with pytest.raises(vinr.UsageError, match="no clip 'c' in the file"):
        vinr.evaluate(content, tmp_path / "o.y4m", clip="c", device="cpu")
