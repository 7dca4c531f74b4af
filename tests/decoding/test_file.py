"""The file as an object: what it tells, what is read once, clips that share, and what closing means."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

import vinr
from bombs import clip, file_of, network
from random_files import random_file, random_set
from vinr.bitstream import SectionKind, Span
from vinr.decoding.settings import DecodeSettings
from vinr.video.spec import VideoSpec

LENGTHS = {"a": 3, "b": 4}


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips in one network."""
    return random_set(tmp_path_factory.mktemp("file") / "set.vinr", LENGTHS)


def test_a_file_tells_what_it_holds(joint: Path) -> None:
    with vinr.VinrFile.open(joint, device="cpu") as file:
        assert file.clip_names == ("a", "b")
        assert [entry.num_frames for entry in file.header.clips] == [3, 4]
        assert file.num_bytes == joint.stat().st_size
        assert file.format_version == 2
        sections = sum(section.num_bytes for section in file.sections)
        assert file.container.header_bytes + file.container.index_bytes + sections == file.num_bytes
        assert [section.kind for section in file.sections] == [SectionKind.WEIGHTS]
        assert str(file.sections[0].kind) == "WEIGHTS"
        assert file.bytes_read == file.container.header_bytes + file.container.index_bytes


def test_a_network_is_read_once_for_random_access_and_playing(tmp_path: Path) -> None:
    path = random_file(tmp_path / "a.vinr", VideoSpec(3, 48, 64), name="nerv")
    with vinr.open(path, device="cpu") as video:
        first = video[0]
        assert video.file.bytes_read == path.stat().st_size
        played = torch.cat(list(video.play()))
        assert torch.equal(played[0], first)
        assert torch.equal(torch.cat(list(video.play())), played)
        assert video.file.bytes_read == path.stat().st_size


def test_clips_of_one_network_share_it(joint: Path) -> None:
    with vinr.VinrFile.open(joint, device="cpu") as file:
        first, second = file.clip("a"), file.clip("b")
        assert (len(first), len(second)) == (3, 4)
        frames = [*first, *second, *torch.cat(list(second.play()))]
        assert file.bytes_read == file.num_bytes
    for name, stop in (("a", 3), ("b", 7)):
        with vinr.open(f"{joint}#{name}", device="cpu") as alone:
            assert torch.equal(torch.stack(list(alone)), torch.stack(frames[stop - len(alone) : stop]))


def test_other_layouts_are_other_copies(joint: Path) -> None:
    with vinr.VinrFile.open(joint, device="cpu") as file:
        plain = file.clip("a", settings=DecodeSettings(convolution="direct"))
        difference = plain[1].int() - file.clip("a")[1].int()
        weights = file.sections[0].num_bytes
        assert file.bytes_read == file.num_bytes + weights
    assert difference.abs().max() <= 1


def test_verify_reads_each_byte_once(joint: Path, tmp_path: Path) -> None:
    path = random_file(tmp_path / "a.vinr", VideoSpec(6, 16, 24), lengths=(2, 4), audio=b"sound" * 9)
    for source, name in ((joint, None), (path, None), (joint, "b")):
        with vinr.VinrFile.open(source, clip=name, device="cpu") as file:
            report = file.verify()
            assert report.is_whole
            names = file.clip_names if name is None else (name,)
            assert tuple(checked.name for checked in report.clips) == names
            assert file.bytes_read == file.num_bytes
            assert report.num_tried == report.num_networks == len(file.header.networks)


def test_verify_of_one_clip_reads_its_sections_alone() -> None:
    architecture = {"strides": [2, 2], "widths": [4, 4, 4], "levels": 2}
    networks = [network("nerv", architecture, [Span(number, 0, 1)]) for number in range(2)]
    content = file_of([clip(name, 1, 16, 16) for name in "ab"], networks)
    with vinr.VinrFile.open(content, clip="b", device="cpu") as file:
        assert file.verify().num_networks == 1
        assert file.bytes_read == file.num_bytes - file.sections[0].num_bytes


def test_a_clip_is_chosen_behind_the_path_or_by_name(joint: Path) -> None:
    with vinr.VinrFile.open(f"{joint}#b", device="cpu") as file:
        assert file.clip_name == "b"
        assert (len(file.clip()), len(file.clip("a"))) == (4, 3)
        with pytest.raises(vinr.UsageError, match="no clip 'c' in the file; it holds a, b"):
            file.clip("c")
    with (
        vinr.VinrFile.open(joint, device="cpu") as file,
        pytest.raises(vinr.UsageError, match=r"holds 2 clips; name one: FILE\.vinr#a, …"),
    ):
        file.clip()
    for refused in ({"clip": "c"}, {"device": "tpu"}, {"max_memory": "much"}):
        with pytest.raises(vinr.UsageError):
            vinr.VinrFile.open(joint, **refused)  # type: ignore[arg-type]


def test_a_clip_lasts_as_long_as_its_file(joint: Path) -> None:
    with vinr.VinrFile.open(joint, device="cpu") as file:
        with file.clip("a") as video:
            frame = video[2]
        assert torch.equal(video[2], frame)
    for ask in (lambda: video[2], lambda: file.clip("b")[0], file.verify, lambda: pickle.dumps(file)):
        with pytest.raises(vinr.InputError, match="the file is closed"):
            ask()
    video = vinr.open(f"{joint}#a", device="cpu")
    video.close()
    with pytest.raises(vinr.InputError, match="the file is closed"):
        video[0]


def test_clips_that_are_pickled_together_still_share_their_file(joint: Path) -> None:
    with vinr.VinrFile.open(joint, device="cpu") as file:
        first, second = pickle.loads(pickle.dumps((file.clip("a"), file.clip("b"))))
        assert first.file is second.file is not file
        assert torch.equal(second[3], file.clip("b")[3])
        first.file.close()
