"""Several clips in one network and one file: addressed by name, each with its own quality, spans in order."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

import vinr
from clips import MemoryClip, moving_shapes, write_clip
from vinr.bitstream import Span
from vinr.encoding.encode import encode
from vinr.encoding.plan import plan_encode
from vinr.encoding.splitting import Job, join_clips
from vinr.errors import UsageError
from vinr.fit import Event, Noted
from vinr.fit.fingerprint import Fingerprint
from vinr.models import get_model, list_models
from vinr.quality.clip import compare
from vinr.units import SegmentLength
from vinr.video.spec import VideoSpec

JOINED = ["fit.join_clips=true"]


@pytest.fixture(scope="module")
def clips() -> dict[str, MemoryClip]:
    """Two clips of one size and different length and content."""
    first = moving_shapes(num_frames=3, height=32, width=64)
    second = moving_shapes(num_frames=5, height=32, width=64)
    return {"first": first, "second": replace(second, rgb_NCHW=second.rgb_NCHW.flip(3))}


@pytest.fixture(scope="module")
def paths(clips: dict[str, MemoryClip], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    return [write_clip(folder / f"{name}.mkv", clip) for name, clip in clips.items()]


def some_or_slow() -> list[Any]:
    """Models that are meant to join clips, one with latents and one without; the others with -m slow."""
    usual = {"hnerv", "nerv", *(name for name in list_models() if get_model(name).joins_clips)}
    return [name if name in usual else pytest.param(name, marks=pytest.mark.slow) for name in list_models()]


@pytest.fixture(scope="module", params=some_or_slow())
def joint_file(
    request: pytest.FixtureRequest, paths: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Both clips in one network of each model."""
    path = tmp_path_factory.mktemp("joint") / f"{request.param}.vinr"
    encode(paths, path, preset=f"{request.param}-tiny", epochs=1, device="cpu", overrides=JOINED)
    return path


def test_one_network_holds_both_clips(joint_file: Path, clips: dict[str, MemoryClip]) -> None:
    with vinr.open(f"{joint_file}#second", device="cpu") as video:
        assert [clip.name for clip in video.file.header.clips] == ["first", "second"]
        assert [network.spans for network in video.file.header.networks] == [(Span(0, 0, 3), Span(1, 0, 5))]
        assert len(video) == 5


def test_each_clip_has_its_own_quality(joint_file: Path, clips: dict[str, MemoryClip]) -> None:
    for name, clip in clips.items():
        with vinr.open(f"{joint_file}#{name}", device="cpu") as video:
            quality = compare(video, clip)
            assert video.clip.quality is not None
            assert video.clip.quality.psnr_db == pytest.approx(quality.psnr_db, abs=1e-4)
            assert video.clip.quality.pooled_psnr_db == pytest.approx(quality.pooled_psnr_db, abs=1e-3)


def test_clips_are_read_in_any_order(joint_file: Path) -> None:
    with vinr.open(f"{joint_file}#second", device="cpu") as video:
        in_order = video[:]
    with vinr.open(f"{joint_file}#second", device="cpu") as video:
        assert torch.equal(video[3], in_order[3])
        assert torch.equal(video.frames_at([0, 4, 1]).rgb_NCHW, in_order[[0, 4, 1]])


def test_without_joining_each_clip_has_a_network(paths: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "apart.vinr"
    encode(paths, path, preset="nerv-tiny", epochs=1, device="cpu", overrides=["fit.join_clips=false"])
    with vinr.open(f"{path}#first", device="cpu") as video:
        spans = [network.spans for network in video.file.header.networks]
        assert spans == [(Span(0, 0, 3),), (Span(1, 0, 5),)]


def spec(num_frames: int, height: int = 32) -> VideoSpec:
    return VideoSpec(num_frames, height, 64, Fraction(25))


def test_models_join_clips_as_they_are_meant() -> None:
    for name in list_models():
        plan = plan_encode([spec(5), spec(6)], preset=f"{name}-tiny")
        assert len(plan.jobs) == (1 if get_model(name).joins_clips else 2)


def test_clips_of_other_sizes_have_networks_of_their_own() -> None:
    plan = plan_encode([spec(5), spec(4, 48), spec(6)], model="nerv", num_parameters=60_000, overrides=JOINED)
    assert [job.spans for job in plan.jobs] == [(Span(0, 0, 5), Span(2, 0, 6)), (Span(1, 0, 4),)]
    assert sum(job.share for job in plan.jobs) == pytest.approx(1)
    shares = [11 * 32 / (11 * 32 + 4 * 48), 4 * 48 / (11 * 32 + 4 * 48)]
    assert [job.share for job in plan.jobs] == pytest.approx(shares)


def test_no_network_is_asked_for_more_frames_than_memory_holds() -> None:
    specs = [VideoSpec(100, 1080, 1920) for _ in range(8)]
    jobs = [Job((Span(number, 0, 100),), 1 / 8) for number in range(8)]
    joined = join_clips(jobs, specs)
    assert [len(job.spans) for job in joined] == [3, 3, 2]
    assert [span for job in joined for span in job.spans] == [job.spans[0] for job in jobs]


def test_segments_and_joined_clips_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="segment cuts clips apart, but nerv joins them"):
        plan_encode([spec(50), spec(60)], preset="nerv-tiny", segment=SegmentLength(1), overrides=JOINED)


def test_an_interrupted_joint_encode_goes_on(paths: list[Path], tmp_path: Path) -> None:
    """A finished network is kept with the quality of each of its clips."""
    from vinr.encoding.segment import FittedSegment, load_segment, save_segment

    kept: list[tuple[FittedSegment, Fingerprint]] = []
    path = tmp_path / "kept.safetensors"

    def keep(segment: FittedSegment, usual: Path, fingerprint: Fingerprint) -> None:
        kept.append((segment, fingerprint))
        save_segment(segment, usual, fingerprint)
        save_segment(segment, path, fingerprint)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vinr.encoding.segment_work.save_segment", keep)
        encode(paths, tmp_path / "a.vinr", preset="nerv-tiny", epochs=1, device="cpu", overrides=JOINED)
    [(segment, fingerprint)] = kept
    assert len(segment.qualities) == 2
    joint = VideoSpec(8, 32, 64, Fraction(25), span_lengths=(3, 5))
    assert load_segment(path, fingerprint, joint) == segment


def test_clips_of_one_size_may_share_a_network(paths: list[Path], tmp_path: Path) -> None:
    notes: list[str] = []

    def note(event: Event) -> None:
        if isinstance(event, Noted):
            notes.append(event.text)

    apart, together = tmp_path / "apart.vinr", tmp_path / "together.vinr"
    encode(paths, apart, preset="hnerv-tiny", epochs=1, device="cpu", on_event=note)
    assert any("2 clips of one size have a network each; join=True fits one" in text for text in notes)
    notes.clear()
    encode(paths, together, preset="hnerv-tiny", epochs=1, device="cpu", join=True, on_event=note)
    assert not any("a network each" in text for text in notes)
    assert len(vinr.info(apart).networks) == 2
    assert len(vinr.info(together).networks) == 1
    with pytest.raises(UsageError, match="segment cuts clips apart"):
        encode(paths, tmp_path / "c.vinr", preset="hnerv-tiny", epochs=1, join=True, segment="1s")
