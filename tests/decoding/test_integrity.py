"""What damage touches, and that the rest comes out bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import vinr
from bombs import clip, file_of, network
from random_files import random_network
from vinr.bitstream import (
    Clip,
    Container,
    ContainerWriter,
    Header,
    SectionKind,
    Span,
    pack_varint,
    pack_zigzag,
)
from vinr.cli.app import app
from vinr.compress import pack_tensors
from vinr.config import load_preset
from vinr.encoding.segment import FittedSegment
from vinr.models.layers.clips import ClipLayout
from vinr.video.source import open_video
from vinr.video.spec import VideoSpec

LENGTHS = (5, 4)
NUM_FRAMES = sum(LENGTHS)
SIZE = (48, 64)


def write_file(path: Path, name: str, *, times: bool = False, sound: bytes = b"") -> Path:
    """Write a clip of two networks ``name``; hnerv's have a chunk for each frame."""
    preset = load_preset(f"{name}-tiny")
    segments, networks, first = [], [], 0
    for seed, count in enumerate(LENGTHS):
        spec = VideoSpec(count, *SIZE)
        model = random_network(name, spec, seed=seed)
        segment = FittedSegment.coded(preset, model, pack_tensors(model.stored(), preset.compress), spec)
        segments.append(segment)
        networks.append(segment.network([Span(0, first, count)]))
        first += count
    own = Clip(
        name="random", num_frames=first, height=SIZE[0], width=SIZE[1], has_times=times, has_audio=bool(sound)
    )
    writer = ContainerWriter(Header(created_by="a test", clips=(own,), networks=tuple(networks)))
    for number, segment in enumerate(segments):
        segment.add_to(writer, number)
    if times:
        steps = b"".join(map(pack_zigzag, (100, 50, *[0] * (NUM_FRAMES - 3))))
        writer.add(SectionKind.TIMES, 0, pack_varint(1) + pack_varint(1000) + b"\0" + steps)
    if sound:
        writer.add(SectionKind.AUDIO, 0, sound)
    writer.write(path)
    return path


def damaged(path: Path, kind: SectionKind, owner: int, part: int = 0) -> Path:
    """Return a copy of a file with one bit of a section flipped."""
    content = bytearray(path.read_bytes())
    with Container.open(path) as container:
        start = container.header_bytes + container.index_bytes
        for section in container.section_sizes():
            if (section.kind, section.owner) == (kind, owner):
                break
            start += section.num_bytes
        for earlier in range(part):
            start += len(container.read_part(kind, owner, earlier))
    content[start] ^= 1
    broken = path.with_name("broken.vinr")
    broken.write_bytes(content)
    return broken


def pngs(folder: Path) -> dict[int, np.ndarray]:
    return {int(path.stem.split("_")[1]): np.array(Image.open(path)) for path in sorted(folder.iterdir())}


CASES = [
    ("hnerv", SectionKind.WEIGHTS, 0, 0, ((0, 5),)),
    ("hnerv", SectionKind.WEIGHTS, 1, 0, ((5, 9),)),
    ("hnerv", SectionKind.CHUNKS, 0, 1, ((1, 2),)),
    ("hnerv", SectionKind.CHUNKS, 1, 1, ((6, 7),)),
    ("dnerv_diverse", SectionKind.KEYFRAMES, 1, 0, ((5, 9),)),
]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A file of each model in a folder of its own, with its frames beside it; made when first asked for."""
    made: dict[str, Path] = {}

    def original(name: str) -> Path:
        if name not in made:
            made[name] = write_file(tmp_path_factory.mktemp(name) / "a.vinr", name)
            assert vinr.verify(str(made[name]), device="cpu").is_whole
            vinr.decode(str(made[name]), str(made[name].with_name("whole")), device="cpu")
        return made[name]

    return original


@pytest.mark.parametrize(("name", "kind", "owner", "part", "lost"), CASES)
def test_damage_touches_what_it_must(
    name: str,
    kind: SectionKind,
    owner: int,
    part: int,
    lost: tuple[tuple[int, int], ...],
    originals: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.vinr"
    path.write_bytes(originals(name).read_bytes())
    broken = damaged(path, kind, owner, part)
    report = vinr.verify(str(broken), device="cpu")
    assert not report.is_whole
    assert [kind.name in text for text in report.damaged] == [True]
    assert report.clips[0].lost == lost
    decoded = vinr.decode(
        str(broken),
        str(tmp_path / "rest"),
        device="cpu",
        keep_going=True,
    )
    assert decoded.lost == lost
    assert "frames lost to damage" in decoded.notes[-1]
    whole, rest = pngs(originals(name).with_name("whole")), pngs(tmp_path / "rest")
    gone = {number for first, stop in lost for number in range(first, stop)}
    assert rest.keys() == set(range(NUM_FRAMES)) - gone
    assert all(np.array_equal(rest[number], whole[number]) for number in rest)


def test_neighbours_of_lost_latents_are_lost(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.vinr", "tnerv")
    with Container.open(path) as container:
        size = container.header.networks[0].frames_per_chunk
    guide = random_network("tnerv", VideoSpec(5, *SIZE)).guide
    reach = max(map(abs, guide.offsets))
    assert reach > 0
    report = vinr.verify(str(damaged(path, SectionKind.CHUNKS, 0, 0)), device="cpu")
    assert report.clips[0].lost == ((0, min(size + reach, 5)),)


def test_clips_on_both_sides_of_a_keyframe() -> None:
    layout = ClipLayout((5, 3), 2)
    # Keyframes 0, 2, 4 | 5, 7; clips 0-1, 2-3, 4 | 5-6, 7.
    assert list(layout.keyframes) == [0, 2, 4, 5, 7]
    found = [layout.frames_using(number) for number in range(5)]
    assert found == [range(2), range(4), range(2, 5), range(5, 7), range(5, 8)]


def test_frames_keep_their_times(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.vinr", "hnerv", times=True)
    broken = damaged(path, SectionKind.CHUNKS, 0, 0)
    vinr.decode(str(path), str(tmp_path / "whole.mkv"), device="cpu", codec="ffv1")
    vinr.decode(str(broken), str(tmp_path / "rest.mkv"), device="cpu", codec="ffv1", keep_going=True)
    with open_video(tmp_path / "whole.mkv") as whole, open_video(tmp_path / "rest.mkv") as rest:
        assert torch.equal(rest.read().rgb_NCHW, whole.read(1, NUM_FRAMES).rgb_NCHW)


def test_frames_of_a_pattern_are_replaced_by_those_of_the_same_numbers(tmp_path: Path) -> None:
    broken = damaged(write_file(tmp_path / "a.vinr", "hnerv"), SectionKind.CHUNKS, 0, 0)
    pattern = str(tmp_path / "f_%d.png")
    count = vinr.decode(broken, pattern, device="cpu", keep_going=True).num_frames
    numbers = sorted(tmp_path.glob("f_*.png"))
    assert len(numbers) == count < NUM_FRAMES
    assert not (tmp_path / "f_0.png").exists()
    again = vinr.decode(broken, pattern, device="cpu", keep_going=True, force=True)
    assert again.num_frames == count
    (tmp_path / "f_0.png").write_bytes(b"of another set")
    with pytest.raises(vinr.OutputError, match=r"f_0\.png: 1 file of another set would remain"):
        vinr.decode(str(broken), pattern, device="cpu", keep_going=True, force=True)
    assert (tmp_path / "f_0.png").read_bytes() == b"of another set"


def test_damaged_times_leave_all_frames(tmp_path: Path) -> None:
    broken = damaged(write_file(tmp_path / "a.vinr", "hnerv", times=True), SectionKind.TIMES, 0)
    (checked,) = vinr.verify(broken, device="cpu").clips
    assert (checked.lost, checked.times_ok) == ((), False)
    with pytest.raises(vinr.BitstreamError, match="TIMES"):
        vinr.decode(str(broken), str(tmp_path / "out"), device="cpu")
    report = vinr.decode(broken, tmp_path / "out", device="cpu", keep_going=True)
    assert report.num_frames == NUM_FRAMES
    assert report.notes == ("the presentation times are damaged; the frame rate is constant",)


def test_damaged_sound_leaves_all_frames(tmp_path: Path) -> None:
    broken = damaged(write_file(tmp_path / "a.vinr", "hnerv", sound=b"sound" * 9), SectionKind.AUDIO, 0)
    clip_report = vinr.verify(str(broken), device="cpu").clips[0]
    assert (clip_report.lost, clip_report.sound_ok) == ((), False)
    report = vinr.decode(broken, tmp_path / "a.mkv", device="cpu", keep_going=True)
    assert report.notes == ("the audio is damaged and left out",)


def test_status_and_output_of_the_commands(tmp_path: Path) -> None:
    run = CliRunner().invoke
    path = write_file(tmp_path / "a.vinr", "hnerv")
    broken = str(damaged(path, SectionKind.CHUNKS, 0, 1))
    found = run(app, ["verify", str(path), "--device", "cpu"])
    assert (found.exit_code, "no damage found" in found.output) == (0, True)
    found = run(app, ["verify", broken, "--device", "cpu"])
    assert found.exit_code == 2
    assert "frames lost: 1; unaffected: 0, 2-8" in found.output
    found = run(app, ["verify", broken, "--device", "cpu", "--json"])
    assert json.loads(found.stdout)["clips"][0]["lost"] == [[1, 2]]
    found = run(app, ["decode", broken, str(tmp_path / "out"), "--device", "cpu", "--keep-going"])
    assert found.exit_code == 1
    assert len(list((tmp_path / "out").iterdir())) == NUM_FRAMES - 1


def test_one_clip_of_several(tmp_path: Path) -> None:
    architecture = {"strides": [2, 2], "widths": [4, 4, 4], "levels": 2}
    clips = [clip(name, 1, 16, 16) for name in "ab"]
    path = tmp_path / "set.vinr"
    path.write_bytes(
        file_of(clips, [network("nerv", architecture, [Span(number, 0, 1)]) for number in range(2)])
    )
    broken = damaged(path, SectionKind.WEIGHTS, 0)
    assert vinr.verify(f"{broken}#b", device="cpu").is_whole
    assert not vinr.verify(f"{broken}#a", device="cpu").is_whole
    both = vinr.verify(str(broken), device="cpu")
    assert [report.is_whole for report in both.clips] == [False, True]
    with pytest.raises(vinr.UsageError, match="no clip 'c'"):
        vinr.verify(f"{broken}#c", device="cpu")


def test_a_damaged_header_leaves_nothing(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.vinr", "hnerv")
    content = bytearray(path.read_bytes())
    content[25] ^= 1
    path.write_bytes(content)
    with pytest.raises(vinr.BitstreamError, match="header is damaged"):
        vinr.verify(str(path), device="cpu")
