"""A size or a quality that is asked for: the weight of the rate moves until it is met."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from clips import moving_shapes, write_clip
from vinr.config import Phase
from vinr.encoding.advice import describe_miss
from vinr.encoding.encode import encode
from vinr.encoding.report import EncodeReport
from vinr.encoding.segment_work import COARSER_TRIALS, FINEST_TRIED, coded_to_quality
from vinr.errors import FitError, UsageError, command_line_words
from vinr.fit import Noted
from vinr.fit.rate_control import (
    AIM,
    LEAST_COST_DB,
    RateControl,
    cost_of_weight,
    line_at_end,
    weight_that_costs,
)


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


def test_a_weight_is_what_coding_costs() -> None:
    """The rate is worth what a bit less adds to the distortion D + c · 2⁻²ᵇ, whatever D and c are."""
    for cost_db in (0.1, 0.5, 1.0, 3.0, 6.0):
        weight = weight_that_costs(cost_db)
        assert cost_of_weight(weight) == pytest.approx(cost_db)
        coding = 10 ** (cost_db / 10) - 1  # of a distortion of 1 without it
        slope = coding * (2 ** (2 * 1e-6) - 1) / 1e-6 / (1 + coding)
        assert weight == pytest.approx(slope, rel=1e-5)
    weights = [weight_that_costs(cost_db / 10) for cost_db in range(300)]
    assert weights == sorted(weights)
    assert weights[0] == 0
    assert weights[-1] < 2 * math.log(2)


def run_network(control: RateControl, best_db: float, rise_db: float, steps: int = 200) -> float:
    """Return the PSNR of a network that would reach ``best_db`` uncoded, ``rise_db`` less at full rate.

    Its steps follow the weight with some inertia, and frames differ.
    """
    cost_db = 0.3
    for step in range(steps):
        progress = (step + 1) / steps
        cost_db += 0.05 * (cost_of_weight(control.weight) - cost_db)
        psnr_db = best_db - rise_db * (1 - progress) - cost_db + (0.5 if step % 2 else -0.5)
        control.observe(1e5, psnr_db, progress)
        if step % 20 == 19:
            control.end_round()
    return best_db - cost_db


@pytest.mark.parametrize("rise_db", [0.5, 1.0, 2.5])
@pytest.mark.parametrize("spare_db", [0.15, 0.25, 0.32, 1.0, 6.0])
def test_the_rate_weighs_less_where_a_quality_is_hardly_in_reach(spare_db: float, rise_db: float) -> None:
    """It is reached or nearly so, and a network with more to spare is priced as the recipe has it."""
    control = RateControl(phase(target_psnr_db=30), before_db=30 + spare_db - rise_db)
    reached = run_network(control, 30 + spare_db, rise_db)
    assert reached >= 30 - 0.02
    most_db = cost_of_weight(0.1)
    assert reached <= 30 + max(spare_db - most_db, 0) + 0.15
    if spare_db > 1:
        assert control.weight == pytest.approx(0.1)


def test_what_cannot_be_reached_gets_the_finest_steps() -> None:
    control = RateControl(phase(target_psnr_db=40), before_db=30.0)
    assert run_network(control, 31.0, 1.0) == pytest.approx(31 - LEAST_COST_DB, abs=0.05)


def test_without_a_plain_fit_before_it_the_weight_begins_as_told() -> None:
    for before_db in (math.nan, -math.inf):
        control = RateControl(phase(target_psnr_db=34, rate_weight=0.3), before_db)
        assert control.weight == pytest.approx(0.3)
    for step in range(50):
        control.observe(1e5, 30, 0.5 + step / 100)
        if step % 10 == 9:
            control.end_round()
    assert control.weight < 0.1
    less = control.weight
    control.end_round()
    assert control.weight == less  # no step, no move


def test_a_line_through_rounds_is_prolonged() -> None:
    assert line_at_end([(0.5, 30.0)]) is None
    assert line_at_end([(0.05, 25.0), (0.5, 30.0)]) is None  # the first was one of the rates that start again
    assert line_at_end([(0.5, 30.0), (0.6, 30.2)]) == pytest.approx(31.0)
    assert line_at_end([(0.4, 29.8), (0.5, 30.0), (0.6, 30.2)]) == pytest.approx(31.0)
    assert line_at_end([(0.5, 30.2), (0.6, 30.0)]) == pytest.approx(30.1)  # falls by chance: no line down


def test_without_a_target_the_weight_stays() -> None:
    control = RateControl(phase())
    assert not control.is_needed
    control.observe(1e5, 30, 0.5)
    assert control.weight == 0.1


@pytest.mark.parametrize("target", [{"target_bytes": 9000}, {"target_psnr_db": 29.0}])
def test_state_comes_back(target: dict[str, object]) -> None:
    control, other = RateControl(phase(**target), 33.0), RateControl(phase(**target))
    for round_number in range(3):
        control.observe(1e5, 30, 0.2 + 0.1 * round_number)
        control.end_round()
    control.observe(1e5, 30.5, 0.45)
    control.calibrate(14_000)
    other.load(control.state())
    for one in (control, other):
        one.observe(2e5, 31, 0.5)
        one.end_round()
    assert control.state() == other.state()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"target_bytes": 9, "quantization": "qat"}, "a target needs quantization = entropy, got qat"),
        ({"target_bytes": 9, "target_psnr_db": 30}, "target_bytes and target_psnr_db are both set"),
        ({"target_psnr_db": 30, "rate_unit": "bpp"}, "target_psnr_db needs rate_unit = relative, got bpp"),
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
    # The network is tiny: other steps move its PSNR by tenths of a decibel at once.
    assert asked <= report.psnr_db <= asked + 0.5
    assert report.num_bytes < 0.7 * plain.num_bytes
    assert not [note for note in notes if "target" in note]
    report, notes = encoded(video, tmp_path / "c.vinr", preset="hnerv-tiny", model=None, epochs=5, psnr=58)
    assert f"{report.psnr_db:.2f} dB are {58 - report.psnr_db:.2f} dB below the target of 58 dB" in notes[-1]
    assert "give more time or epochs, or a larger network, such as params=" in notes[-1]


def coded_at(curve: Callable[[float], float]) -> tuple[list[float], Callable[[float], Any]]:
    """Return amounts that are tried, and a segment whose PSNR follows ``curve`` of them."""
    tried: list[float] = []

    def coded(amount: float) -> Any:
        tried.append(amount)
        return SimpleNamespace(psnr_db=curve(amount), amount=amount)

    return tried, coded


def test_what_a_fit_has_to_spare_is_coded_away() -> None:
    tried, coded = coded_at(lambda amount: 34 - 6 * amount)
    segment: Any = coded_to_quality(coded, 33.0)
    assert 33 <= segment.psnr_db <= 33 + 6 / 2**COARSER_TRIALS + 1e-9
    assert len(tried) == 1 + COARSER_TRIALS


def test_what_lacks_a_little_is_coded_more_finely() -> None:
    tried, coded = coded_at(lambda amount: 32.9 - 0.5 * amount)
    segment: Any = coded_to_quality(coded, 33.0)
    assert 33 <= segment.psnr_db < 33.01
    assert -0.21 < segment.amount < -0.19
    assert len(tried) == 1 + COARSER_TRIALS


def test_a_quality_out_of_reach_costs_no_bytes_and_no_time() -> None:
    tried, coded = coded_at(lambda amount: 30 - 0.5 * amount)
    segment: Any = coded_to_quality(coded, 33.0)
    assert segment.amount == 0
    assert tried == [0.0, FINEST_TRIED]


def test_a_quality_that_is_met_is_coded_once() -> None:
    tried, coded = coded_at(lambda amount: 33.01)
    coded_to_quality(coded, 33.0)
    assert tried == [0.0]


def test_a_miss_is_told_with_what_to_do() -> None:
    with command_line_words():
        assert describe_miss(34.1, 34.0, 50_000) is None
        assert describe_miss(34.0, 34.0, 50_000) is None
        below, far = describe_miss(33.5, 34.0, 50_000), describe_miss(20.0, 34.0, 50_000)
        above = describe_miss(36.5, 34.0, 50_000)
    assert below == (
        "33.50 dB are 0.50 dB below the target of 34 dB: give more --time or --epochs, or a larger network, "
        "such as --params 57k"
    )
    assert far is not None
    assert far.endswith("such as --params 200k")
    assert above is not None
    assert above.startswith("36.50 dB are 2.50 dB above the target, even coded as coarsely as can be")
    assert "--params 25k" in above


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
