"""Numbers as people write them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vinr.errors import UsageError
from vinr.units import (
    FrameSize,
    SegmentLength,
    SizeLike,
    format_count,
    format_length,
    parse_bytes,
    parse_count,
    parse_frames,
    parse_indices,
    parse_numbers,
    parse_rate,
    parse_seconds,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1.5M", 1_500_000), ("200k", 200_000), (17, 17), ("0.19m", 190_000), ("2G", 2_000_000_000)],
)
def test_counts(text: str | int, value: int) -> None:
    assert parse_count(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("1m30", 90), (2.5, 2.5), ("1.5h", 5400)],
)
def test_times(text: str | float, value: float) -> None:
    assert parse_seconds(text) == value


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1, "1 s"),
        (12.5, "12.5 s"),
        (60, "1 min"),
        (90.1, "1 min 30.1 s"),
        (3600, "1 h"),
        (5430, "1 h 30 min 30 s"),
    ],
)
def test_times_as_they_were_given(seconds: float, text: str) -> None:
    assert format_length(seconds) == text
    words = text.replace("min", "m").replace(" ", "")
    assert parse_seconds(words) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "frames"), [("5s", 125), (5, 125), ("1m", 1500), ("120f", 120), (" 7 F", 7), ("0.001s", 1)]
)
def test_lengths_of_segments(text: str | float, frames: int) -> None:
    assert SegmentLength.of(text).num_frames(Fraction(25)) == frames


@pytest.mark.parametrize("text", ["0f", "f", "-5f", "1.5f", "0s", "five"])
def test_lengths_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"segment '.*': give .* such as"):
        SegmentLength.of(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("25", Fraction(25)),
        ("29.97", Fraction(30_000, 1001)),
        ("30000/1001", Fraction(30000, 1001)),
        ("2997/100", Fraction(2997, 100)),
        (30, Fraction(30)),
        (23.976, Fraction(24_000, 1001)),
        ("23.98", Fraction(24_000, 1001)),
        (60_000 / 1001, Fraction(60_000, 1001)),
        ("119.88", Fraction(120_000, 1001)),
        ("29.98", Fraction(2998, 100)),
        ("12.5", Fraction(25, 2)),
        ("0.1", Fraction(1, 10)),
        ("30.00", Fraction(30)),
        ("999999.999", Fraction(999_999_999, 1000)),
        (1 / 3, Fraction(1, 3)),
        (Fraction(24000, 1001), Fraction(24000, 1001)),
    ],
)
def test_rates(text: str | float | Fraction, value: Fraction) -> None:
    assert parse_rate(text) == value


@pytest.mark.parametrize(
    ("size", "frame", "expected"),
    [
        ("360x640", (1080, 1920), (360, 640)),
        ("360×640", (1080, 1920), (360, 640)),
        ("640:360", (1080, 1920), (360, 640)),
        ((360, 640), (1080, 1920), (360, 640)),
        ("640:-2", (1080, 1920), (360, 640)),
        ("-2:360", (1080, 1920), (360, 640)),
        ("-2:360", (480, 853), (360, 640)),
        ("-1:360", (480, 851), (360, 638)),
        ("-1:99", (100, 101), (99, 100)),
        ("-2:99", (100, 101), (99, 100)),
        ("33:-1", (1080, 1920), (19, 33)),
        ("33:-2", (1080, 1920), (18, 33)),
        ("360p", (1080, 1920), (360, 640)),
        ("360P", (1920, 1080), (360, 202)),
        ("50%", (1080, 1920), (540, 960)),
        ("12.5 %", (1080, 1920), (135, 240)),
        ("50%", (5, 3), (3, 2)),
        ("1%", (5, 3), (1, 1)),
        ("200%", (5, 3), (10, 6)),
    ],
)
def test_sizes_of_frames(size: SizeLike, frame: tuple[int, int], expected: tuple[int, int]) -> None:
    assert FrameSize.of(size).of_frame(*frame) == expected


def test_sizes_that_are_the_same_are_stored_the_same() -> None:
    assert FrameSize.of("360x640").stored() == FrameSize.of("640:360").stored() == [360, 640]
    assert FrameSize.of((360, 640)).stored() == [360, 640]
    assert [FrameSize.of(text).stored() for text in ("360P", " 50%", "-2:360")] == ["360p", "50%", "-2:360"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "360",
        "0x5",
        "5:0",
        "0p",
        "0%",
        "-2:-2",
        "-3:360",
        "360p60",
        "640:360:1",
        "640 360",
        "1e3%",
        "9" * 400,
    ],
)
def test_sizes_that_cannot_be_read_say_how_to_write_them(text: str) -> None:
    with pytest.raises(UsageError, match=r"^size .*640:360.*height x width.*360p or 50%$") as caught:
        FrameSize.of(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["360p", "50%", "640:-2"])
def test_a_size_with_nothing_to_follow_needs_both_sides(text: str) -> None:
    with pytest.raises(UsageError, match=f"^size '{text}': give both sides, such as 640:360"):
        parse_size(text)


def test_sizes_and_frames() -> None:
    assert parse_size("640x1280") == parse_size("1280:640") == parse_size((640, 1280)) == (640, 1280)
    assert [parse_frames(text) for text in ("0:48", ":48", "100:", ":")] == [
        (0, 48),
        (None, 48),
        (100, None),
        (None, None),
    ]
    assert parse_indices("0,10,20:40:5", 100) == [0, 10, 20, 25, 30, 35]
    assert parse_indices("-1,::-4", 10) == [9, 9, 5, 1]
    assert format_count(1_504_413) == "1.50 M"


@pytest.mark.parametrize(
    ("parse", "texts"),
    [
        (parse_count, ["", "0", "-3", "1.5T", "many", "1e6"]),
        (parse_seconds, ["", "0", "-1s", "soon", "10 parsecs", "m"]),
        (parse_size, ["640", "640x", "0x3", "-2x4", "axb", "640x1280x3"]),
        (parse_rate, ["", "0", "0/5", "5/0", "-25", "25fps", "1/2/3", "1e3", "inf"]),
        (parse_frames, ["", "3", "a:b", "1:2:3", "-1:4"]),
    ],
)
def test_nonsense_is_refused_in_one_line(parse: object, texts: list[str]) -> None:
    for text in texts:
        with pytest.raises(UsageError, match=r"such as") as caught:
            parse(text)  # type: ignore[operator]
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", ",", "5", "-6", "1:2:0", "x", "7:9", "1,,2", "-"])
def test_frames_that_are_not_there(text: str) -> None:
    with pytest.raises(UsageError):
        parse_indices(text, 5)


PARSERS = (parse_count, parse_bytes, parse_seconds, parse_rate, parse_size, parse_frames, parse_numbers)


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize(
    "text", ["9" * 400, "9" * 400 + "k", "9" * 5000 + ":", "1." + "9" * 5000 + "q", "x" * 300]
)
def test_endless_numbers_are_refused_in_a_line(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("text", ["9" * 400, "0:" + "9" * 5000, "::" + "9" * 400, "-" + "9" * 5000])
def test_endless_frame_numbers_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_indices(text, 10)


@pytest.mark.parametrize("text", ["nan", "0.02,inf", "1e999"])
def test_numbers_are_finite(text: str) -> None:
    with pytest.raises(UsageError, match="give numbers"):
        parse_numbers(text)


@given(st.text(st.sampled_from("0123456789.:,-kmghsxB/ e_∞٣"), max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (*PARSERS, lambda text: parse_indices(text, 5)):
        with suppress(UsageError):
            parse(text)
