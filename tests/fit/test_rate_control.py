"""A size or a quality that is asked for: the weight of the rate moves until it is met."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from clips import moving_shapes, write_clip
from vinr.config import Phase
from vinr.encoding.encode import encode
from vinr.encoding.report import EncodeReport
from vinr.errors import FitError, UsageError
from vinr.fit import Noted
from vinr.fit.rate_control import AIM, RateControl


def phase(**settings: object) -> Phase:
    return Phase.model_validate({"share": 0.5, "quantization": "entropy", "rate_weight": 0.1, **settings})


def run_plant(control: RateControl, bits_at: float, steps: int = 400) -> float:
    """Return the bits of a network whose bits fall by a fifth where the weight doubles, with some inertia."""
    bits = bits_at
    for step in range(steps):
        wanted = bits_at * (control.weight / 0.1) ** math.log2(0.8)
        bits += 0.1 * (wanted - bits)
        control.observe(bits, 30.0, (step + 1) / steps)
        if step % 40 == 39:
            control.calibrate(round(1.07 * bits / 8))
    return bits


@pytest.mark.parametrize("start", [40_000.0, 400_000.0])
def test_the_size_is_met_whatever_it_starts_from(start: float) -> None:
    control = RateControl(phase(target_bytes=12_000))
    bits = run_plant(control, start)
    assert 1.07 * bits / 8 == pytest.approx(AIM * 12_000, rel=0.02)


def test_better_than_asked_for_makes_bits_dearer() -> None:
    control = RateControl(phase(target_psnr_db=34))
    control.observe(1e5, 36, 0.5)
    dearer = control.weight
    assert dearer > 0.1
    for step in range(50):
        control.observe(1e5, 30, 0.5 + step / 100)
    assert control.weight < dearer


def test_without_a_target_the_weight_stays() -> None:
    control = RateControl(phase())
    assert not control.is_needed
    control.observe(1e5, 30, 0.5)
    assert control.weight == 0.1


def test_state_comes_back() -> None:
    control, other = (RateControl(phase(target_bytes=9000)) for _ in range(2))
    control.observe(1e5, 30, 0.2)
    control.calibrate(14_000)
    other.load(control.state())
    control.observe(2e5, 31, 0.4)
    other.observe(2e5, 31, 0.4)
    assert control.state() == other.state()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"target_bytes": 9, "quantization": "qat"}, "a target needs quantization = entropy, got qat"),
        ({"target_bytes": 9, "target_psnr_db": 30}, "target_bytes and target_psnr_db are both set"),
    ],
)
def test_targets_that_are_refused(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        phase(**settings)


# -- encode --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clip = moving_shapes(num_frames=6, height=32, width=48)
    return write_clip(tmp_path_factory.mktemp("rate") / "shapes.mkv", clip)


def encoded(video: Path, path: Path, **options: object) -> tuple[EncodeReport, list[str]]:
    notes: list[str] = []

    def watch(event: object) -> None:
        if isinstance(event, Noted):
            notes.append(event.text)

    given = {"model": "hnerv", "epochs": 15, "device": "cpu", "on_event": watch}
    report = encode(video, path, **(given | options))  # type: ignore[arg-type]
    assert path.stat().st_size == report.num_bytes
    return report, notes


def test_a_file_of_the_size_asked_for(video: Path, tmp_path: Path) -> None:
    report, _ = encoded(video, tmp_path / "a.vinr", size="9kB")
    assert 0.97 * 9000 <= report.num_bytes <= 9000
    bpp = report.bpp
    again, _ = encoded(video, tmp_path / "b.vinr", bpp=bpp, epochs=10)
    assert 0.97 * report.num_bytes <= again.num_bytes <= report.num_bytes


def test_the_size_holds_for_several_networks(video: Path, tmp_path: Path) -> None:
    report, _ = encoded(video, tmp_path / "a.vinr", size=16_000, segment=0.13, epochs=8)
    assert 0.95 * 16_000 <= report.num_bytes <= 16_000


def test_a_quality_is_met_or_missed_openly(video: Path, tmp_path: Path) -> None:
    once = {"overrides": ["fit.phases=[]"]}  # 8 bits
    plain, _ = encoded(video, tmp_path / "a.vinr", preset="hnerv-tiny", model=None, epochs=24, **once)
    asked = plain.psnr_db - 3
    options = {"preset": "hnerv-tiny", "model": None, "epochs": 24}
    report, notes = encoded(video, tmp_path / "b.vinr", psnr=asked, **options)
    assert report.psnr_db == pytest.approx(asked, abs=0.2)
    assert report.num_bytes < 0.8 * plain.num_bytes
    assert not [note for note in notes if "target" in note]
    _, notes = encoded(video, tmp_path / "c.vinr", preset="hnerv-tiny", model=None, epochs=5, psnr=58)
    assert any("target 58.00 dB: the budget was too small" in note for note in notes)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"size": "9kB", "psnr": 30.0}, "size and psnr exclude each other"),
        ({"bpp": 0.0}, "bpp 0: give bits per pixel above 0"),
        ({"psnr": 200.0}, "psnr 200: give decibels between 10 and 60"),
        ({"size": "much"}, "size 'much': give a positive one such as 500kB"),
        ({"size": 300}, "a file of 300 bytes leaves"),
        ({"size": 900}, "parameters are too few"),
    ],
)
def test_wishes_that_are_refused(
    video: Path, tmp_path: Path, options: dict[str, object], complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        encoded(video, tmp_path / "a.vinr", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_is_too_large_for_the_size(video: Path, tmp_path: Path) -> None:
    with pytest.raises(FitError, match=r"takes at least .* bytes, more than the .* of the target"):
        encoded(video, tmp_path / "a.vinr", size=520, params=40_000, epochs=1)
    assert not (tmp_path / "a.vinr").exists()
