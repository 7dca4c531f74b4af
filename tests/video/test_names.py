"""A clip has a name that a .vinr file can hold, whatever its file is called; no two have the same."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vinr
from clips import moving_shapes, write_clip
from vinr.bitstream import Clip
from vinr.video.names import MAX_NAME, clip_name, unique_names

NAMES = {
    "Screen Recording 2024-05-01 at 9.41.00\u202fAM.mov": "Screen Recording 2024-05-01 at 9.41.00 AM",
    "no\xa0break.mp4": "no break",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467.mp4": "\U0001f468\U0001f469\U0001f467",
    "\u2764\ufe0f.mp4": "\u2764",
    "caf\udce9.mp4": "caf_",
    "back\\slash.mp4": "back_slash",
    "new\nline.mp4": "new line",
    "tab\there.mp4": "tab here",
    "esc\x1b[31mred.mp4": "esc_[31mred",
    "c1\x9bcontrol.mp4": "c1_control",
    "bell\x07.mp4": "bell_",
    "\u202egnp.mp4": "gnp",
    "\u2066isolated\u2069.mp4": "isolated",
    "zero\u200bwidth\ufeff.mp4": "zerowidth",
    "soft\xadhyphen.mp4": "softhyphen",
    "line\u2028paragraph\u2029.mp4": "line paragraph",
    "wide\u3000space.mp4": "wide space",
    "private\ue000.mp4": "private_",
    "\u200b.mp4": "video",
    "\xa0.mp4": "video",
    "plain name, (1) #2.mp4": "plain name, (1) #2",
    "-dash.mp4": "-dash",
    "sample:2.mp4": "sample:2",
    "東京 é ñ.mkv": "東京 é ñ",
    "e\u0301.mp4": "e\u0301",
    "no suffix": "no suffix",
    "two  spaces.mp4": "two  spaces",
    ".hidden": ".hidden",
    "x" * 300 + ".mp4": "x" * MAX_NAME,
    "/": "video",
}


def clip(name: str) -> Clip:
    """What a file says of a clip of that name."""
    return Clip(name=name, num_frames=1, height=8, width=8)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_of_files_become_names_of_clips(name: str) -> None:
    assert clip_name(PurePosixPath(name).stem) == NAMES[name]
    assert clip(clip_name(PurePosixPath(name).stem)).name == NAMES[name]


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=()), max_size=300))
def test_any_name_becomes_one_that_a_file_holds(name: str) -> None:
    assert clip(clip_name(name)).name.isprintable()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a", "b"], ["a", "b"]),
        (["a", "a", "a"], ["a", "a-2", "a-3"]),
        (["a", "a", "a-2"], ["a", "a-3", "a-2"]),
        (["a", "a-2", "a"], ["a", "a-2", "a-3"]),
        (["a-2", "a", "a", "a-2"], ["a-2", "a", "a-3", "a-2-2"]),
        (["x" * MAX_NAME] * 2, ["x" * MAX_NAME, "x" * (MAX_NAME - 2) + "-2"]),
    ],
)
def test_no_two_clips_have_the_same_name(names: list[str], expected: list[str]) -> None:
    assert unique_names(names) == expected


@given(st.lists(st.sampled_from(["a", "a-2", "a-3", "a-2-2", "b"]), max_size=8))
def test_names_of_clips_are_unique(names: list[str]) -> None:
    unique = unique_names(names)
    assert len(set(unique)) == len(names)


def test_a_recording_named_by_its_system_is_encoded(tmp_path: Path) -> None:
    # Bytes, as the folder holds them: some locales have no text for these.
    source = Path(os.fsdecode(os.fsencode(tmp_path) + b"/at 9.41\xe2\x80\xafAM.mkv"))
    write_clip(source, moving_shapes(num_frames=3, height=16, width=24))
    target = tmp_path / "o.vinr"
    vinr.encode(source, target, preset="nerv-tiny", epochs=1, device="cpu")
    with vinr.open(target, device="cpu") as video:
        assert video.clip.name == clip_name(source.stem)
