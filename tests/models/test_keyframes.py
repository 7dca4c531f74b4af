"""Frames that a network is given, as images or groups: coded once, read alike from memory and a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import vinr
from clips import MemoryClip, moving_shapes, write_clip
from vinr.bitstream import Container, ContainerWriter, SectionKind
from vinr.config import load_preset
from vinr.encoding.encode import encode
from vinr.errors import BitstreamError
from vinr.models import get_model, list_models, validate_architecture
from vinr.models.layers.keyframes import Keyframes


@pytest.fixture(scope="module")
def clip() -> MemoryClip:
    return moving_shapes(num_frames=10, height=32, width=64)


def new(clip: MemoryClip, group: int = 1) -> Keyframes:
    return Keyframes((0, 4, 9), clip.spec, quality=80, chroma="4:4:4" if group == 1 else "4:2:0", group=group)


@pytest.mark.parametrize(("group", "num_parts"), [(1, 3), (2, 2), (3, 1), (64, 1)])
def test_a_file_gives_what_was_fitted_to(clip: MemoryClip, group: int, num_parts: int) -> None:
    coded = new(clip, group)
    coded.code(clip)
    assert len(coded) == 3
    assert len(coded.coded) == coded.num_parts == num_parts
    assert coded.num_bytes == sum(map(len, coded.coded))
    read = new(clip, group)
    read.attach(coded.coded.__getitem__)
    for number, frame in enumerate((0, 4, 9)):
        assert torch.equal(read.read(number), coded.read(number))
        difference = (coded.read(number).double() - clip.rgb_NCHW[frame].double()).abs().mean()
        assert 0 < difference < 6


def test_images_are_read_when_needed_and_the_last_few_kept(clip: MemoryClip) -> None:
    keyframes = Keyframes(range(10), clip.spec, quality=50, chroma="4:2:0")
    keyframes.code(clip)
    asked: list[int] = []

    def load(number: int) -> bytes:
        asked.append(number)
        return keyframes.coded[number]

    lazy = Keyframes(range(10), clip.spec, quality=50, chroma="4:2:0")
    lazy.attach(load)
    for number in (7, 7, 1, 7, 2, 3, 4, 7, 1):
        lazy.read(number)
    assert asked == [7, 1, 2, 3, 4, 1]


def test_a_group_is_decoded_once_for_all_of_its_keyframes(clip: MemoryClip) -> None:
    keyframes = Keyframes(range(10), clip.spec, quality=50, group=3)
    keyframes.code(clip)
    assert [list(keyframes.of_part(part)) for part in range(4)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    asked: list[int] = []

    def load(number: int) -> bytes:
        asked.append(number)
        return keyframes.coded[number]

    lazy = Keyframes(range(10), clip.spec, quality=50, group=3)
    lazy.attach(load)
    # In order, at a boundary, and back beyond the two groups that are kept.
    for number in (0, 1, 2, 3, 2, 3, 9, 8, 9, 0):
        assert torch.equal(lazy.read(number), keyframes.read(number))
    assert asked == [0, 1, 3, 2, 0]
    assert (lazy.decoded_together, lazy.max_kept) == (3, 6)


def test_groups_have_half_the_colours(clip: MemoryClip) -> None:
    with pytest.raises(ValueError, match="groups have colours of 4:2:0, not 4:4:4"):
        Keyframes((0, 4), clip.spec, quality=50, chroma="4:4:4", group=2)


def test_nothing_to_read_is_our_own_mistake(clip: MemoryClip) -> None:
    with pytest.raises(ValueError, match="has no keyframes yet"):
        new(clip).read(0)


# -- models that have some -----------------------------------------------------------------------------------


def with_keyframes() -> list[str]:
    spec = moving_shapes(num_frames=10, height=32, width=64).spec
    found = []
    for name in list_models():
        cls = get_model(name)
        config = validate_architecture(cls, load_preset(f"{name}-tiny").architecture)
        if cls.on_meta(config, spec).keyframes is not None:
            found.append(name)
    return found


# Clips of 8 frames: 10 frames have keyframes 0, 8 and 9.
@pytest.fixture(scope="module", params=[(name, group) for name in with_keyframes() for group in (1, 2)])
def file(request: pytest.FixtureRequest, clip: MemoryClip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name, group = request.param
    folder = tmp_path_factory.mktemp("keyframes")
    video = write_clip(folder / "clip.mkv", clip)
    encode(
        video,
        folder / "clip.vinr",
        preset=f"{name}-tiny",
        epochs=2,
        device="cpu",
        overrides=[f"architecture.keyframe_group={group}"],
    )
    return folder / "clip.vinr"


def test_their_bytes_are_in_the_file_and_in_the_report(file: Path) -> None:
    info = vinr.info(str(file))
    assert info.bytes_by_component["keyframes"] > 100
    assert sum(info.bytes_by_component.values()) == file.stat().st_size


def test_a_frame_needs_few_of_them(file: Path) -> None:
    with vinr.open(file, device="cpu") as video:
        all_frames = video[:]
    with vinr.open(file, device="cpu") as video:
        assert torch.equal(video[9], all_frames[9])


def rewritten(file: Path, keyframes: list[bytes]) -> bytes:
    """Return the file with other keyframes, checksums and counts fitting."""
    with Container.open(file) as container:
        header = container.header
        network = header.networks[0].model_copy(update={"num_keyframes": len(keyframes)})
        writer = ContainerWriter(header.model_copy(update={"networks": (network,)}))
        writer.add(SectionKind.WEIGHTS, 0, container.read(SectionKind.WEIGHTS, 0))
    writer.add_array(SectionKind.KEYFRAMES, 0, keyframes)
    return writer.to_bytes()


def keyframes_of(file: Path) -> list[bytes]:
    with Container.open(file) as container:
        count = container.header.networks[0].num_keyframes
        return [container.read_part(SectionKind.KEYFRAMES, 0, number) for number in range(count)]


def test_number_of_keyframes_is_the_models(file: Path) -> None:
    images = keyframes_of(file)
    with vinr.open(rewritten(file, images), device="cpu") as video:
        video[0]
    for changed in (images[:-1], [*images, images[0]]):
        video = vinr.open(rewritten(file, changed), device="cpu")
        with pytest.raises(
            BitstreamError, match=rf"has {len(changed)} parts? of keyframes, its model {len(images)}"
        ):
            video[0]


def test_a_keyframe_that_is_no_image_is_refused_when_it_is_needed(file: Path) -> None:
    images = keyframes_of(file)
    with (
        vinr.open(rewritten(file, [*images[:-1], b"no image"]), device="cpu") as video,
        pytest.raises(BitstreamError, match=r"not a readable (AVIF image|AV1 stream)"),
    ):
        video[9]


def test_another_keyframe_changes_the_frame(file: Path) -> None:
    images = keyframes_of(file)
    with (
        vinr.open(file, device="cpu") as before,
        vinr.open(rewritten(file, [images[-1], *images[1:]]), device="cpu") as after,
    ):
        # A group of another number of keyframes is refused.
        if len(images) == 2:
            with pytest.raises(BitstreamError, match="a group of 2 keyframes shows 1"):
                after[0]
        else:
            assert not torch.equal(before[0], after[0])


@pytest.mark.parametrize("part", [0, -1])
def test_damage_takes_the_frames_of_all_keyframes_of_a_part(file: Path, tmp_path: Path, part: int) -> None:
    images = keyframes_of(file)
    content = bytearray(file.read_bytes())
    place = bytes(content).index(images[part])
    content[place + len(images[part]) // 2] ^= 1
    broken = tmp_path / "broken.vinr"
    broken.write_bytes(content)
    # Keyframe 0 has the clip of frames 0 … 7, keyframe 8 both clips, keyframe 9 the last one: a group of 0
    # and 8 has all frames.
    first, stop = (8, 10) if part else (0, 8 if len(images) == 3 else 10)
    report = vinr.verify(str(broken), device="cpu")
    assert report.clips[0].lost == ((first, stop),)
    if (first, stop) == (0, 10):
        return
    decoded = vinr.decode(str(broken), str(tmp_path / "rest"), device="cpu", keep_going=True)
    assert decoded.lost == ((first, stop),)
    assert len(list((tmp_path / "rest").iterdir())) == 10 - (stop - first)
