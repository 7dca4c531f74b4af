"""What x264 needs for a PSNR: between two CRFs, within its time, and why it is sometimes not known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import vinr
from clips import MemoryClip, moving_shapes, write_clip
from command_line import TINY
from vinr.codecs.anchors import X264
from vinr.codecs.runs import choose_upsampling, decode_anchor, encode_anchor
from vinr.encoding.reference import CrfSearch, NoReferenceError, X264Point, find_reference
from vinr.encoding.report import EncodeReport, bytes_of, read_before, with_reference
from vinr.quality.clip import compare
from vinr.video.source import FrameTensor, open_video
from vinr.video.spec import VideoSpec


@pytest.fixture(scope="module")
def clip() -> MemoryClip:
    return moving_shapes(num_frames=6, height=48, width=64)


def test_the_crf_is_the_last_that_is_good_enough(clip: MemoryClip, tmp_path: Path) -> None:
    found = find_reference(clip, 34.0, seconds=60)
    points = {}
    for crf in (found.crf, found.crf + 1):
        encoded = encode_anchor(X264(), clip, tmp_path / f"{crf}.264", quality=crf)
        decoded = decode_anchor(encoded.path, clip.spec, upsampling=choose_upsampling(clip))
        points[crf] = (compare(decoded, clip).psnr_db, encoded.num_bytes)
    assert points[found.crf][0] >= 34.0 > points[found.crf + 1][0]
    assert points[found.crf + 1][1] <= found.num_bytes <= points[found.crf][1]


@pytest.mark.parametrize("psnr_db", [8.0, 21.3, 33.0, 44.9, 47.5])
def test_bytes_lie_between_the_neighbours(
    psnr_db: float, clip: MemoryClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PSNR falls by 0.8 dB a CRF from 48 dB on, bytes by a tenth."""

    def measured(self: object, crf: int) -> X264Point:
        return X264Point(crf, round(1e6 * 0.9**crf), 48 - 0.8 * crf)

    monkeypatch.setattr(CrfSearch, "measure", measured)
    found = find_reference(clip, psnr_db, seconds=60)
    exact = (48 - psnr_db) / 0.8
    assert found.crf == min(int(exact), 51)
    assert found.num_bytes == pytest.approx(1e6 * 0.9 ** min(exact, 51), rel=0.001)
    assert found.psnr_db == pytest.approx(max(psnr_db, 48 - 0.8 * 51))


def test_why_there_is_none(clip: MemoryClip, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoReferenceError, match="does not reach that with 4:2:0"):
        find_reference(clip, 89.0, seconds=60)
    ticks = iter(range(0, 100_000, 40))
    with pytest.raises(NoReferenceError, match=r"it would take about \d+ s"):
        find_reference(clip, 30.0, seconds=60, now=lambda: float(next(ticks)))
    deep = FrameTensor(torch.zeros(2, 3, 8, 8, dtype=torch.uint16), VideoSpec(2, 8, 8, bit_depth=10))
    with pytest.raises(NoReferenceError, match="10 bits are not compared"):
        find_reference(deep, 30.0, seconds=60)
    monkeypatch.setattr(X264, "encoder", "libnothing")
    with pytest.raises(NoReferenceError, match="has no x264"):
        find_reference(clip, 30.0, seconds=60)


def test_an_encode_reports_source_and_reference(tmp_path: Path, clip: MemoryClip) -> None:
    videos = [write_clip(tmp_path / f"{name}.mkv", clip) for name in "ab"]
    options = {"preset": TINY, "epochs": 1, "device": "cpu", "reference": True}
    one = vinr.encode(videos[0], tmp_path / "one.vinr", **options)  # type: ignore[arg-type]
    assert one.source_bytes == videos[0].stat().st_size
    assert (one.height, one.width) == (48, 64)
    assert one.reference is not None
    two = vinr.encode(videos, tmp_path / "two.vinr", **options)  # type: ignore[arg-type]
    assert two.source_bytes == sum(video.stat().st_size for video in videos)
    assert two.reference is not None
    assert two.reference.num_bytes > one.reference.num_bytes
    assert bytes_of([str(tmp_path)]) == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert bytes_of([str(videos[0]), "-"]) is None


def test_no_time_is_taken_that_is_not_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("vinr.encoding.report._reference_of")
    report = EncodeReport("a.vinr", 1, 1, 1, 30, None, None, "nerv", 1, 1, 1, 30, 0, seconds=61)
    assert with_reference(report, [], [], budget=60.0).reference_note == "no time is left"


def test_time_is_left_for_ending_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []

    def found(readers: object, segments: object, deadline: float, now: object) -> None:
        given.append(deadline)

    monkeypatch.setattr("vinr.encoding.report._reference_of", found)
    report = EncodeReport("a.vinr", 1, 1, 1, 30, None, None, "nerv", 1, 1, 1, 30, 0, seconds=50)
    with_reference(report, [], [], budget=60.0, closing=4.0, now=lambda: 1000.0)
    with_reference(report, [], [], budget=None, closing=4.0, now=lambda: 1000.0)
    assert given == [1006.0, 1030.0]
    assert with_reference(report, [], [], budget=60.0, closing=10.0).reference_note == "no time is left"


def test_reading_again_is_tried_before_it_is_done(tiny_video: Path) -> None:
    """Reading the first frames, all 8 of them, takes 3 s here."""
    seconds = [0.0]

    def now() -> float:
        seconds[0] += 3
        return seconds[0]

    with open_video(tiny_video) as reader:
        assert len(read_before(reader, 100.0, now).rgb_NCHW) == 8
        with pytest.raises(NoReferenceError, match="reading the video again would take about 3 s"):
            read_before(reader, 5.0, now)


def test_ctrl_c_ends_x264_and_not_the_report(
    tiny_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vinr.encoding.report.find_reference", interrupted)
    output = tmp_path / "a.vinr"
    report = vinr.encode(tiny_video, output, preset=TINY, epochs=1, device="cpu", reference=True)
    assert (report.reference, report.reference_note) == (None, "interrupted")
    assert list(tmp_path.iterdir()) == [output]
