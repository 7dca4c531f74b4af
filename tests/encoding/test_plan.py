"""What an encode will do: its length and sizes, segments and joined clips, targets, and what is refused."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clips import moving_shapes, write_clip
from vinr.bitstream import header as header_module
from vinr.encoding.assembly import check_networks
from vinr.encoding.plan import (
    BITS_PER_PARAMETER,
    FIXED_BITS_PER_PARAMETER,
    Target,
    default_parameters,
    default_seconds,
    plan_encode,
)
from vinr.encoding.splitting import MAX_SEGMENT_BYTES, join_clips, split_segments
from vinr.errors import UsageError
from vinr.models import get_model, validate_architecture
from vinr.units import SegmentLength
from vinr.video.source import open_video
from vinr.video.spec import VideoSpec

CLIP = VideoSpec(16, 32, 64)
LEARNED = 'fit.phases=[{share=0.3, quantization="entropy"}]'
TRAINED = 'fit.phases=[{share=0.3, quantization="qat"}]'


@pytest.mark.parametrize("setting", ["compress.weight_bits=6", "compress.latent_bits=6"])
def test_steps_of_another_kind_are_refused_where_steps_are_learned(setting: str) -> None:
    with pytest.raises(UsageError, match=r"compress\.\w+ changes nothing where steps are learned"):
        plan_encode([CLIP], preset="nerv-tiny", overrides=[LEARNED, setting])
    assert plan_encode([CLIP], preset="nerv-tiny", overrides=["fit.phases=[]", setting]).presets


def test_bits_count_where_the_network_is_trained_for_the_range() -> None:
    bits = plan_encode([CLIP], preset="nerv-tiny", overrides=[TRAINED, "compress.weight_bits=6"])
    assert bits.presets[0].compress.weight_bits == 6


# -- defaults ------------------------------------------------------------------------------------------------


def test_default_sizes_go_through_the_two_known_points() -> None:
    assert default_parameters(132 * 160 * 320) == 190_000
    assert default_parameters(132 * 640 * 1280) == pytest.approx(1_500_000, rel=0.01)
    assert default_seconds(132 * 160 * 320) == 180
    assert default_seconds(4 * 132 * 160 * 320) == pytest.approx(360)


@given(st.integers(1, 10**13), st.integers(1, 10**13))
def test_larger_videos_get_no_less(first: int, second: int) -> None:
    small, large = sorted((first, second))
    assert 20_000 <= default_parameters(small) <= default_parameters(large) <= 30_000_000
    assert 30 <= default_seconds(small) <= default_seconds(large) <= 6 * 3600


def test_the_length_is_what_was_asked_for_and_a_time_where_nothing_was() -> None:
    chosen = plan_encode([CLIP], preset="nerv-tiny")
    assert chosen.time_is_chosen
    assert chosen.seconds == default_seconds(CLIP.num_pixels)
    assert "(chosen; see time, epochs)" in str(chosen)
    for plan in (
        plan_encode([CLIP], preset="nerv-tiny", epochs=7),
        plan_encode([CLIP], preset="nerv-tiny", overrides=["fit.epochs=7"]),
    ):
        assert (plan.seconds, plan.time_is_chosen) == (None, False)
        assert plan.presets[0].fit.epochs == 7
        assert ", 7 epochs" in str(plan)
    assert plan_encode([CLIP], preset="nerv-tiny", overrides=["fit.recipe=paper"]).seconds is None
    timed = plan_encode([CLIP], preset="nerv-tiny", seconds=12.0)
    assert (timed.seconds, timed.time_is_chosen) == (12.0, False)
    with pytest.raises(UsageError, match="both a number of epochs and a time"):
        plan_encode([CLIP], preset="nerv-tiny", epochs=7, seconds=12.0)


def test_a_plan_says_what_it_has_chosen() -> None:
    """Model, recipe, time, size of network and file, frames: as the README promises of the first command."""
    spec = VideoSpec(132, 160, 320)
    plan = plan_encode([spec])
    words = plan.in_full([spec], other_bytes=20_000)
    assert words.startswith("model hnerv, recipe vinr, 3 min (chosen; see time, epochs): ")
    size = re.fullmatch(
        r".*: ([\d.]+) k parameters, about ([\d.]+) kB with 20 kB of audio and times, (.*)", words
    )
    assert size is not None
    assert float(size[2]) == pytest.approx(float(size[1]) * FIXED_BITS_PER_PARAMETER / 8 + 20, rel=0.01)
    assert size[3] == "132 frames of 320×160 (width × height)"
    target = plan_encode([spec], target=Target(num_bytes=50_000), epochs=9)
    assert "9 epochs: " in target.in_full([spec])
    assert "parameters, at most 49" in target.in_full([spec])


def test_a_seed_is_that_of_every_network() -> None:
    plan = plan_encode([CLIP], preset="nerv-tiny", seed=5, segment=SegmentLength(0.1))
    assert len(plan.presets) > 1
    assert {preset.fit.seed for preset in plan.presets} == {5}


def test_a_size_is_shared_by_pixels() -> None:
    small, large = VideoSpec(4, 32, 64, Fraction(25)), VideoSpec(12, 32, 64, Fraction(25))
    plan = plan_encode([small, large], model="nerv", num_parameters=120_000, epochs=1)
    assert [job.share for job in plan.jobs] == [0.25, 0.75]
    stored = []
    for preset, spec in zip(plan.presets, (small, large), strict=True):
        config = validate_architecture(get_model("nerv"), preset.architecture)
        stored.append(get_model("nerv").on_meta(config, spec).num_stored())
    assert stored == pytest.approx([30_000, 90_000], rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model": "nerv", "preset": "nerv-tiny"}, "give one of them"),
        ({"preset": "nerv-tiny", "num_parameters": 9_000}, "nerv-tiny fixes the size"),
        ({"preset": "nerv-tiny", "overrides": ["fit.loss={ms_ssim=1.0}"]}, "ms_ssim"),
        ({"preset": "no-such"}, "unknown preset"),
        ({"model": "no-such"}, "no-such"),
        (
            {"preset": "nerv-tiny", "overrides": ["fit.join_clips=true"], "segment": SegmentLength(1.0)},
            "segment cuts clips apart",
        ),
    ],
)
def test_plans_that_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        plan_encode([CLIP], **arguments)


# -- segments ------------------------------------------------------------------------------------------------

SPECS = st.lists(
    st.builds(VideoSpec, st.integers(1, 300), st.sampled_from([16, 36]), st.sampled_from([16, 50])),
    min_size=1,
    max_size=4,
)


@given(SPECS, st.none() | st.floats(0.01, 30))
def test_segments_cover_every_frame_once_in_order(specs: list[VideoSpec], seconds: float | None) -> None:
    jobs = split_segments(specs, None if seconds is None else SegmentLength(seconds))
    covered = [
        (span.clip, span.first_frame + index)
        for job in jobs
        for span in job.spans
        for index in range(span.num_frames)
    ]
    assert covered == [(clip, frame) for clip, spec in enumerate(specs) for frame in range(spec.num_frames)]
    assert sum(job.share for job in jobs) == pytest.approx(1)
    for clip, spec in enumerate(specs):
        lengths = [span.num_frames for job in jobs for span in job.spans if span.clip == clip]
        # Equally long to within one frame, and no longer than asked for.
        assert max(lengths) - min(lengths) <= 1
        assert seconds is None or max(lengths) <= max(round(seconds * spec.fps), 1)
        assert seconds is not None or len(lengths) == 1


def test_ten_frames_of_at_most_four_are_three_segments() -> None:
    jobs = split_segments([VideoSpec(10, 16, 16, Fraction(25))], SegmentLength.of("0.16s"))
    assert jobs == split_segments([VideoSpec(10, 16, 16, Fraction(25))], SegmentLength.of("4f"))
    assert [(span.first_frame, span.num_frames) for job in jobs for span in job.spans] == [
        (0, 3),
        (3, 4),
        (7, 3),
    ]


@pytest.mark.parametrize(
    ("num_frames", "cuts", "bounds"),
    [
        (19, [], [8, 13, 19]),  # not 8 + 8 + 3: the 11 that are left are halved
        (20, [6, 13], [6, 13, 20]),
        (20, [3, 12], [8, 12, 20]),  # 3 is in the first half of a segment
        (20, [5, 7, 15], [7, 15, 20]),  # the last cut in reach
        (8, [4], [8]),  # short enough as it is
        (9, [], [4, 9]),
    ],
)
def test_segments_end_at_cuts(num_frames: int, cuts: list[int], bounds: list[int]) -> None:
    jobs = split_segments([VideoSpec(num_frames, 16, 16)], SegmentLength(frames=8), [cuts])
    assert [span.first_frame + span.num_frames for job in jobs for span in job.spans] == bounds


@given(st.integers(1, 300), st.integers(1, 60), st.sets(st.integers(1, 299)))
def test_segments_that_end_at_cuts_cover_every_frame(num_frames: int, longest: int, cuts: set[int]) -> None:
    jobs = split_segments([VideoSpec(num_frames, 16, 16)], SegmentLength(frames=longest), [sorted(cuts)])
    spans = [span for job in jobs for span in job.spans]
    assert [span.first_frame for span in spans[1:]] == [s.first_frame + s.num_frames for s in spans[:-1]]
    assert sum(span.num_frames for span in spans) == num_frames
    assert 1 <= min(span.num_frames for span in spans) <= max(s.num_frames for s in spans) <= longest


def test_more_networks_than_a_header_holds_are_refused_before_the_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = write_clip(tmp_path / "clip.mkv", moving_shapes(num_frames=60, height=16, width=16))
    with open_video(video) as reader:
        plan = plan_encode([reader.spec], preset="nerv-tiny", segment=SegmentLength(frames=1))
        check_networks([reader], plan.jobs, plan.presets)
        monkeypatch.setattr(header_module, "MAX_HEADER", 2000)
        with pytest.raises(UsageError, match=r"does not hold 60 networks; give longer segments"):
            check_networks([reader], plan.jobs, plan.presets)


def test_frames_that_fill_more_than_two_gib_are_cut() -> None:
    spec = VideoSpec(1000, 1080, 1920)
    jobs = split_segments([spec], None)
    assert len(jobs) == 3
    assert all(3 * job.spec([spec]).num_pixels <= MAX_SEGMENT_BYTES for job in jobs)
    # A single frame may be larger: it cannot be cut.
    assert len(split_segments([VideoSpec(2, 40_000, 40_000)], None)) == 2


@given(SPECS)
def test_clips_of_one_size_are_joined_and_no_others(specs: list[VideoSpec]) -> None:
    jobs = join_clips(split_segments(specs, None), specs)
    sizes = [(job.spec(specs).height, job.spec(specs).width) for job in jobs]
    assert len(set(sizes)) == len(sizes)
    for job, size in zip(jobs, sizes, strict=True):
        clips = [span.clip for span in job.spans]
        assert clips == [clip for clip, spec in enumerate(specs) if (spec.height, spec.width) == size]
        assert job.spec(specs).span_lengths == tuple(specs[clip].num_frames for clip in clips)
    assert sum(job.share for job in jobs) == pytest.approx(1)


def test_joined_clips_fill_at_most_two_gib() -> None:
    specs = [VideoSpec(count, 1080, 1920) for count in (200, 200, 100, 30)]
    jobs = join_clips(split_segments(specs, None), specs)
    assert [[span.clip for span in job.spans] for job in jobs] == [[0], [1, 2, 3]]
    assert all(3 * job.spec(specs).num_pixels <= MAX_SEGMENT_BYTES for job in jobs)


# -- targets -------------------------------------------------------------------------------------------------


def test_networks_share_what_the_rest_of_a_file_leaves() -> None:
    specs = [VideoSpec(4, 32, 64), VideoSpec(12, 32, 64)]
    jobs = split_segments(specs, None)
    assert Target().network_bytes(jobs, specs) is None
    found = Target(num_bytes=100_000, other_bytes=20_000).network_bytes(jobs, specs)
    assert found is not None
    small, large = found
    assert large == pytest.approx(3 * small, abs=2)
    assert 79_000 < small + large < 80_000
    with pytest.raises(
        UsageError,
        match=r"audio and times take 99,900; overrides=\['compress\.audio=false'\] leaves the audio out",
    ):
        Target(num_bytes=100_000, other_bytes=99_900).network_bytes(jobs, specs)


def test_a_target_is_that_of_a_last_phase_that_learns_steps() -> None:
    target = Target(num_bytes=30_000)
    plain = plan_encode([CLIP], preset="nerv-tiny", overrides=["fit.phases=[]"], target=target)
    (phase,) = plain.presets[0].fit.phases
    assert phase.quantization == "entropy"
    assert plain.network_bytes is not None
    assert phase.target_bytes == plain.network_bytes[0] < 30_000
    trained = plan_encode([CLIP], preset="nerv-tiny", overrides=[TRAINED], target=Target(psnr_db=30.0))
    first, last = trained.presets[0].fit.phases
    assert (first.quantization, last.quantization) == ("qat", "entropy")
    assert (first.target_psnr_db, last.target_psnr_db) == (None, 30.0)
    assert first.share + last.share <= 1
    learned = plan_encode([CLIP], preset="nerv-tiny", overrides=[LEARNED], target=target)
    (phase,) = learned.presets[0].fit.phases
    assert phase.target_bytes is not None
    assert phase.schedule is not None
    # A quality is met on the recipe's own learning rates, by weights that are a loss of quality.
    priced = LEARNED.replace("}]", ', rate_unit="bpp"}]')
    asked = plan_encode([CLIP], preset="nerv-tiny", overrides=[priced], target=Target(psnr_db=30.0))
    (phase,) = asked.presets[0].fit.phases
    assert (phase.schedule, phase.rate_unit, phase.target_psnr_db) == (None, "relative", 30.0)


def test_bytes_alone_choose_the_parameters_that_fill_them() -> None:
    plan = plan_encode([CLIP], model="nerv", target=Target(num_bytes=30_000), epochs=1)
    assert plan.network_bytes is not None
    cls, preset = get_model("nerv"), plan.presets[0]
    stored = cls.on_meta(validate_architecture(cls, preset.architecture), CLIP).num_stored()
    assert stored == pytest.approx(8 * plan.network_bytes[0] / BITS_PER_PARAMETER, rel=0.03)


@pytest.mark.parametrize(("num_bytes", "is_fixed"), [(30_000, True), (4_000, False)])
def test_symbols_are_fixed_where_the_size_leaves_bits_for_them(num_bytes: int, is_fixed: bool) -> None:
    target = Target(num_bytes=num_bytes)
    plan = plan_encode([CLIP], model="hnerv", num_parameters=60_000, target=target, epochs=1)
    phase = plan.presets[0].fit.phases[-1]
    assert phase.target_bytes is not None
    assert (phase.fix_from is not None) == is_fixed


def test_a_quality_is_met_by_symbols_that_are_rounded() -> None:
    plan = plan_encode([CLIP], model="hnerv", target=Target(psnr_db=30.0), epochs=1)
    assert plan.presets[0].fit.phases[-1].fix_from is None
    phases = ['fit.phases=[{share = 0.5, quantization = "entropy", fix_from = 0.5}]']
    with pytest.raises(UsageError, match="leave fix_from out"):
        plan_encode([CLIP], model="hnerv", target=Target(psnr_db=30.0), epochs=1, overrides=phases)
