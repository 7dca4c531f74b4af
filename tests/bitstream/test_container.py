"""Writing and reading whole files: round trips, lazy reading, and each defect of the outer layers."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitstream.crafting import assemble, entry, header, varint, writer
from vinr.bitstream import Clip, Container, ContainerWriter, Header, Network, SectionKind
from vinr.errors import BitstreamError, InputError, OutputError

PROLOGUE = 20
BYTES = writer().to_bytes()
BOUNDARIES = [0, 3, 4, 5, 6, 8, 12, 16, PROLOGUE]


def parts() -> tuple[bytes, bytes, bytes]:
    """Return stored header, index and sections of the sample file."""
    _, stored, index = writer().front()
    return stored, index, BYTES[PROLOGUE + len(stored) + len(index) :]


def test_layout_is_that_of_the_document() -> None:
    stored, index, sections = parts()
    assert BYTES[:8] == b"VINR\x02\x00" + struct.pack("<H", len(stored))
    assert assemble(stored, index, sections) == BYTES
    expected = varint(5)
    expected += entry(0x01, 0, b"weights of the first network")
    expected += entry(0x42, 0, b"three frames", b"two frames", count=2)
    expected += entry(0x03, 0, b"times") + entry(0x01, 1, b"") + entry(0x84, 1, b"sound" * 20)
    assert index == expected
    assert sections == b"weights of the first networkthree framestwo framestimes" + b"sound" * 20


@pytest.mark.parametrize("kind", ["bytes", "path", "text", "file"])
def test_reads_what_was_written(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.vinr"
    assert writer().write(path) == len(BYTES) == path.stat().st_size
    file = io.BytesIO(BYTES)
    source = {"bytes": BYTES, "path": path, "text": str(path), "file": file}[kind]
    with Container.open(source) as container:
        assert container.header == header()
        assert container.read(SectionKind.WEIGHTS, 0) == b"weights of the first network"
        assert container.read(SectionKind.WEIGHTS, 1) == b""
        assert container.read_part(SectionKind.CHUNKS, 0, 1) == b"two frames"
        assert container.read_part(SectionKind.CHUNKS, 0, 0) == b"three frames"
        assert container.read(SectionKind.TIMES, 0) == b"times"
        assert container.read(SectionKind.AUDIO, 1) == b"sound" * 20
        container.verify()
    assert not file.closed


def test_reads_only_what_is_asked_for() -> None:
    container = Container.open(BYTES)
    front = container.header_bytes + container.index_bytes
    assert container.bytes_read == front
    container.read_part(SectionKind.CHUNKS, 0, 1)
    assert container.bytes_read == front + len(b"two frames")
    container.verify()
    assert container.bytes_read == container.num_bytes + len(b"two frames")


def test_sizes_add_up() -> None:
    container = Container.open(BYTES)
    sizes = container.section_sizes()
    assert [(size.kind, size.owner, size.num_parts) for size in sizes] == [
        (SectionKind.WEIGHTS, 0, 1),
        (SectionKind.CHUNKS, 0, 2),
        (SectionKind.TIMES, 0, 1),
        (SectionKind.WEIGHTS, 1, 1),
        (SectionKind.AUDIO, 1, 1),
    ]
    total = sum(size.num_bytes for size in sizes)
    assert container.header_bytes + container.index_bytes + total == container.num_bytes == len(BYTES)


@given(st.binary(max_size=300), st.lists(st.binary(max_size=300), min_size=1, max_size=20), st.data())
def test_round_trip(weights: bytes, chunks: list[bytes], data: st.DataObject) -> None:
    per_chunk = data.draw(st.integers(1, 5))
    num_frames = per_chunk * (len(chunks) - 1) + data.draw(st.integers(1, per_chunk))
    clip = Clip(name="clip", num_frames=num_frames, height=2, width=2)
    network = Network(model="some", spans=((0, 0, num_frames),), frames_per_chunk=per_chunk)
    made = ContainerWriter(Header(created_by="vinr test", clips=(clip,), networks=(network,)))
    made.add_array(SectionKind.CHUNKS, 0, chunks)
    made.add(SectionKind.WEIGHTS, 0, weights)
    container = Container.open(made.to_bytes())
    assert container.read(SectionKind.WEIGHTS, 0) == weights
    assert [container.read_part(SectionKind.CHUNKS, 0, number) for number in range(len(chunks))] == chunks


def test_threads_read_what_they_asked_for() -> None:
    container = Container.open(BYTES)
    parts_read: set[tuple[int, bytes]] = set()

    def read_often(number: int) -> None:
        parts_read.update((number, container.read_part(SectionKind.CHUNKS, 0, number)) for _ in range(300))

    threads = [Thread(target=read_often, args=(number % 2,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert parts_read == {(0, b"three frames"), (1, b"two frames")}


def test_existing_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "clip.vinr"
    path.write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"clip\.vinr"):
        writer().write(path)
    assert path.read_bytes() == b"mine"
    writer().write(path, force=True)
    assert path.read_bytes() == BYTES


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be opened"):
        Container.open(tmp_path / "none.vinr")
    with pytest.raises(InputError, match="cannot be opened"):
        Container.open(tmp_path)


def test_sections_that_are_not_there() -> None:
    container = Container.open(BYTES)
    with pytest.raises(BitstreamError, match="no section AUDIO 0"):
        container.read(SectionKind.AUDIO, 0)
    with pytest.raises(BitstreamError, match=r"section CHUNKS 0 has parts 0 … 1, not 2"):
        container.read_part(SectionKind.CHUNKS, 0, 2)
    with pytest.raises(BitstreamError, match="not -1"):
        container.read_part(SectionKind.CHUNKS, 0, -1)


def test_writer_refuses_files_that_nobody_could_read() -> None:
    incomplete = ContainerWriter(header())
    with pytest.raises(ValueError, match="is missing"):
        incomplete.to_bytes()
    doubled = writer()
    doubled.add(SectionKind.WEIGHTS, 0, b"again")
    with pytest.raises(ValueError, match="duplicate"):
        doubled.to_bytes()
    for misuse, reason in (
        (lambda: doubled.add(SectionKind.CHUNKS, 0, b""), "CHUNKS is added by add_array"),
        (lambda: doubled.add_array(SectionKind.AUDIO, 0, [b""]), "AUDIO is added by add"),
        (lambda: Container.open(BYTES).read(SectionKind.CHUNKS, 0), "CHUNKS is read by read_part"),
    ):
        with pytest.raises(ValueError, match=reason):
            misuse()


class ShortReads(io.BytesIO):
    """Remembers the longest piece that was read."""

    longest = 0

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(size)
        self.longest = max(self.longest, len(piece))
        return piece


def with_sound(add: Callable[[ContainerWriter], None]) -> ContainerWriter:
    clip = Clip(name="one", num_frames=9, height=36, width=64, has_audio=True)
    network = Network(model="some", spans=((0, 0, 9),))
    made = ContainerWriter(Header(created_by="vinr test", clips=(clip,), networks=(network,)))
    made.add(SectionKind.WEIGHTS, 0, b"weights")
    add(made)
    return made


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 2500])
def test_a_section_that_lies_in_a_file_is_read_in_pieces(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vinr.bitstream.container.PIECE_BYTES", 1000)
    sound = bytes(number % 251 for number in range(size))
    file = ShortReads(sound)
    file.seek(size)  # as whoever wrote it leaves it
    made = with_sound(lambda made: made.add_file(SectionKind.AUDIO, 0, file))
    made.write(tmp_path / "a.vinr")
    assert file.longest == min(size, 1000)
    held = with_sound(lambda made: made.add(SectionKind.AUDIO, 0, sound))
    assert (tmp_path / "a.vinr").read_bytes() == held.to_bytes()


@pytest.mark.parametrize("size", [0, 1, 20_000])
def test_a_section_is_opened_as_a_file_and_read_where_it_is_asked_for(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vinr.bitstream.container.PIECE_BYTES", 4096)
    sound = bytes(number % 251 for number in range(size))
    with_sound(lambda made: made.add(SectionKind.AUDIO, 0, sound)).write(tmp_path / "a.vinr")
    with Container.open(tmp_path / "a.vinr") as container:
        file = container.open_section(SectionKind.AUDIO, 0)
        assert file.seek(0, io.SEEK_END) == size
        assert file.read(3) == b""
        for place in (0, 1, 7777, size):
            assert file.seek(place) == place
            assert file.read(10) == sound[place : place + 10]
        file.seek(2)
        file.seek(1, io.SEEK_CUR)
        assert file.read() == sound[3:]
        before = container.bytes_read
        container.open_section(SectionKind.AUDIO, 0)
        assert container.bytes_read == before + size  # for the checksum
        with pytest.raises(ValueError, match="CHUNKS is read by read_part"):
            container.open_section(SectionKind.CHUNKS, 0)


def test_a_section_that_is_damaged_is_not_opened() -> None:
    content = bytearray(with_sound(lambda made: made.add(SectionKind.AUDIO, 0, b"sound")).to_bytes())
    content[-1] ^= 1
    with pytest.raises(BitstreamError, match="AUDIO 0 is damaged"):
        Container.open(bytes(content)).open_section(SectionKind.AUDIO, 0)


def test_a_file_that_changes_before_it_is_written_is_noticed(tmp_path: Path) -> None:
    file = io.BytesIO(b"sound")
    made = with_sound(lambda made: made.add_file(SectionKind.AUDIO, 0, file))
    file.getbuffer()[0] = 0
    with pytest.raises(ValueError, match="AUDIO 0: is not what was announced"):
        made.write(tmp_path / "a.vinr")
    assert list(tmp_path.iterdir()) == []


def test_keyframes_are_parts_of_their_own() -> None:
    clip = Clip(name="one", num_frames=9, height=36, width=64)
    network = Network(model="some", spans=((0, 0, 9),), num_keyframes=3)
    made = ContainerWriter(Header(created_by="vinr test", clips=(clip,), networks=(network,)))
    made.add(SectionKind.WEIGHTS, 0, b"weights")
    made.add_array(SectionKind.KEYFRAMES, 0, [b"first", b"", b"third image"])
    container = Container.open(made.to_bytes())
    before = container.bytes_read
    assert container.read_part(SectionKind.KEYFRAMES, 0, 2) == b"third image"
    assert container.bytes_read == before + 11
    container.verify()


@pytest.mark.parametrize("count", [0, 1, 4])
def test_keyframes_are_those_that_the_header_announces(count: int) -> None:
    clip = Clip(name="one", num_frames=9, height=36, width=64)
    network = Network(model="some", spans=((0, 0, 9),), num_keyframes=3)
    made = ContainerWriter(Header(created_by="vinr test", clips=(clip,), networks=(network,)))
    made.add(SectionKind.WEIGHTS, 0, b"weights")
    if count:
        made.add_array(SectionKind.KEYFRAMES, 0, [b"image"] * count)
    with pytest.raises(ValueError, match=f"KEYFRAMES 0 (has {count} parts?, not 3|is missing)"):
        made.to_bytes()


@pytest.mark.parametrize("start", [b"", b"V", b"\x89PNG\r\n\x1a\n" + bytes(100), b"vinr" + BYTES[4:]])
def test_wrong_magic(start: bytes) -> None:
    with pytest.raises(BitstreamError, match=r"not a \.vinr file"):
        Container.open(start)


def test_newer_version() -> None:
    for content in (assemble(*parts(), version=3), b"VINR\x03"):
        with pytest.raises(BitstreamError, match=r"newer vinr \(format 3\); this one reads up to 2"):
            Container.open(content)
    with pytest.raises(BitstreamError, match="format version 0"):
        Container.open(assemble(*parts(), version=0))


def test_every_version_is_read() -> None:
    for version in (1, 2):
        with Container.open(assemble(*parts(), version=version)) as container:
            assert (container.format_version, container.header) == (version, header())


def test_reserved_flags() -> None:
    with pytest.raises(BitstreamError, match="flags 0x01"):
        Container.open(assemble(*parts(), flags=1))


def test_truncated() -> None:
    stored, index, sections = parts()
    front = PROLOGUE + len(stored) + len(index)
    ends = [
        *BOUNDARIES,
        PROLOGUE + len(stored),
        front - 1,
        front,
        *range(front + 1, len(BYTES)),
        len(BYTES) - 1,
    ]
    assert front + len(sections) == len(BYTES)
    for end in ends:
        with pytest.raises(BitstreamError):
            Container.open(BYTES[:end])


def test_file_that_shrinks_while_it_is_read() -> None:
    file = io.BytesIO(BYTES)
    container = Container.open(file)
    file.truncate(len(BYTES) - 10)
    with pytest.raises(BitstreamError, match="the file ends at byte"):
        container.verify()


def test_trailing_bytes() -> None:
    with pytest.raises(BitstreamError, match="the last section ends at byte"):
        Container.open(BYTES + b"\0")


def test_checksums_are_named() -> None:
    damaged = bytearray(BYTES)
    damaged[-1] ^= 1
    container = Container.open(bytes(damaged))
    assert container.read_part(SectionKind.CHUNKS, 0, 0) == b"three frames"
    with pytest.raises(
        BitstreamError, match=r"AUDIO 1 is damaged: checksum stored 0x[0-9a-f]{8}, computed 0x"
    ):
        container.verify()


def test_unknown_sections() -> None:
    stored, index, sections = parts()
    for kind, count in ((0x90, None), (0xD0, 1), (0x81, None)):
        more = varint(6) + index[1:] + entry(kind, 7, b"from the future", count=count)
        container = Container.open(assemble(stored, more, sections + b"from the future"))
        container.verify()
        assert container.section_sizes()[-1].kind is None
        assert container.header == header()
    for kind in (0x10, 0x02, 0x04, 0x43):
        more = varint(6) + index[1:] + entry(kind, 7, b"x", count=1 if kind & 0x40 else None)
        with pytest.raises(BitstreamError, match="unknown kind"):
            Container.open(assemble(stored, more, sections + b"x"))
