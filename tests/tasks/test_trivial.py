"""Ways without a network, and where the commands say that a network is behind them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import vinr
from clips import MemoryClip, moving_shapes, write_clip
from command_line import TINY, Run
from deep_clips import gradient, spec_10
from vinr.decoding.decoder import VideoDecoder
from vinr.fit import Event
from vinr.fit.events import Noted
from vinr.tasks.between import BetweenFrames, look_between
from vinr.tasks.held_out import MAX_SHARE, hold_out_copy, join_masks, measure_copy
from vinr.tasks.inpainting_scores import InpaintingScore
from vinr.tasks.masks import box_mask, center_mask
from vinr.tasks.trivial import (
    NearestVisibleFrames,
    SurroundingsFrames,
    fill_from_surroundings,
    say_behind,
)
from vinr.video.source import open_video
from vinr.video.spec import FrameSource, VideoSpec


@dataclass(frozen=True)
class SpecifiedClip:
    """Frames in memory with a spec of their own: several clips, or 10 bits."""

    rgb_NCHW: Tensor
    spec: VideoSpec

    def frames(self, index_N: Tensor) -> Tensor:
        # Of uint16 torch indexes on the CPU only through another type.
        values = self.rgb_NCHW.view(torch.int16) if self.rgb_NCHW.dtype == torch.uint16 else self.rgb_NCHW
        return values[index_N].view(self.rgb_NCHW.dtype)


def noise(num_frames: int, height: int = 32, width: int = 48) -> Tensor:
    return torch.randint(256, (num_frames, 3, height, width), generator=torch.Generator().manual_seed(1)).to(
        torch.uint8
    )


def all_frames(source: FrameSource) -> Tensor:
    return source.frames(torch.arange(source.spec.num_frames))


def moving_hole(num_frames: int, height: int = 32, width: int = 48) -> Tensor:
    """A box of 8×8 that moves by its own width, mask_T1HW."""
    mask_T1HW = torch.zeros(num_frames, 1, height, width, dtype=torch.bool)
    for index in range(num_frames):
        mask_T1HW[index, 0, 8:16, 8 * index : 8 * index + 8] = True
    return mask_T1HW


# -- surroundings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 48), (31, 47), (1, 9), (9, 1), (1, 1)])
def test_surroundings_of_one_colour_fill_with_that(size: tuple[int, int]) -> None:
    color_NCHW = torch.tensor([0.1, 0.5, 0.9]).view(1, 3, 1, 1).expand(1, 3, *size)
    known_N1HW = torch.zeros(1, 1, *size, dtype=torch.bool)
    known_N1HW[..., 0, 0] = True
    assert torch.allclose(fill_from_surroundings(color_NCHW, known_N1HW), color_NCHW, atol=1e-6)
    assert not fill_from_surroundings(color_NCHW, ~known_N1HW & False).any()  # nothing is known: black


def test_a_smooth_image_is_filled_closely_and_known_pixels_stay() -> None:
    rgb_NCHW = moving_shapes(num_frames=1, height=64, width=64).rgb_NCHW[..., 32:, 32:].double() / 255
    known_N1HW = ~center_mask(32, 32).expand(1, 1, -1, -1)
    filled_NCHW = fill_from_surroundings(rgb_NCHW, known_N1HW)
    inside = ~known_N1HW.expand_as(rgb_NCHW)
    assert torch.equal(filled_NCHW[~inside], rgb_NCHW[~inside])
    assert (filled_NCHW - rgb_NCHW)[inside].abs().max() < 0.1


@pytest.mark.parametrize("way", [SurroundingsFrames, NearestVisibleFrames])
def test_hidden_pixels_are_used_by_no_way(
    way: type[SurroundingsFrames] | type[NearestVisibleFrames],
) -> None:
    rgb_NCHW, hidden_T1HW = noise(4), moving_hole(4)
    other_NCHW = torch.where(hidden_T1HW, 255 - rgb_NCHW, rgb_NCHW)
    filled = [all_frames(way(MemoryClip(frames), hidden_T1HW)) for frames in (rgb_NCHW, other_NCHW)]
    assert torch.equal(*filled)
    assert torch.equal(filled[0].masked_fill(hidden_T1HW, 0), rgb_NCHW.masked_fill(hidden_T1HW, 0))


# -- the nearest frame ---------------------------------------------------------------------------------------


def test_what_stands_still_is_filled_exactly_by_the_nearest_frame() -> None:
    still_NCHW = noise(1).expand(4, -1, -1, -1)
    filled = NearestVisibleFrames(MemoryClip(still_NCHW), moving_hole(4))
    assert torch.equal(all_frames(filled), still_NCHW)


def test_the_nearest_frame_is_the_earlier_of_two_within_the_clip() -> None:
    rgb_NCHW = torch.arange(5, dtype=torch.uint8).mul(20).view(5, 1, 1, 1).expand(5, 3, 4, 4)
    hidden_T1HW = torch.zeros(5, 1, 4, 4, dtype=torch.bool)
    hidden_T1HW[1, 0, 0, 0] = hidden_T1HW[3, 0, 0, 0] = hidden_T1HW[0, 0, 3, 3] = True
    joined = MemoryClip(rgb_NCHW)
    first = all_frames(NearestVisibleFrames(joined, hidden_T1HW))[:, 0]
    assert (int(first[1, 0, 0]), int(first[3, 0, 0]), int(first[0, 3, 3])) == (0, 40, 20)
    # The same frames as two clips of 3 and 2: frame 3 is the first of its clip.
    cut = SpecifiedClip(rgb_NCHW, replace(joined.spec, span_lengths=(3, 2)))
    assert int(all_frames(NearestVisibleFrames(cut, hidden_T1HW))[3, 0, 0, 0]) == 80


def test_pixels_that_no_frame_shows_come_from_the_surroundings() -> None:
    clip, mask_T1HW = MemoryClip(noise(3)), center_mask(32, 48).expand(3, 1, -1, -1)
    nearest, blurred = NearestVisibleFrames(clip, mask_T1HW), SurroundingsFrames(clip, mask_T1HW)
    assert torch.equal(all_frames(nearest), all_frames(blurred))


def test_ten_bits_stay_ten_bits() -> None:
    rgb_NCHW = gradient(num_frames=3)
    clip = SpecifiedClip(rgb_NCHW, spec_10(rgb_NCHW)[0])
    for way in (SurroundingsFrames, NearestVisibleFrames):
        filled_NCHW = all_frames(way(clip, moving_hole(3)))
        assert filled_NCHW.dtype == torch.uint16
        # The ramp rises by 174 levels over the hole, which at first touches the frame's edge.
        difference = (filled_NCHW.int() - rgb_NCHW.int()).abs()
        assert 0 < int(difference.max()) < 174


# -- a copy of the mask --------------------------------------------------------------------------------------


def test_a_copy_of_the_mask_is_a_small_hole_on_known_pixels() -> None:
    for mask_T1HW in (moving_hole(4, 64, 96), center_mask(64, 96).expand(4, 1, -1, -1)):
        copy_T1HW = hold_out_copy(mask_T1HW)
        assert copy_T1HW is not None
        assert copy_T1HW.shape == mask_T1HW.shape
        assert not (copy_T1HW & mask_T1HW).any()
        assert 0 < copy_T1HW.sum() <= MAX_SHARE * (~mask_T1HW).sum()
        assert torch.equal(join_masks(mask_T1HW, copy_T1HW), mask_T1HW | copy_T1HW)
    # A small mask is moved as it is, and in every frame by the same way.
    mask_T1HW = moving_hole(4, 64, 96)
    copy_T1HW = hold_out_copy(mask_T1HW)
    assert copy_T1HW is not None
    moves = {
        tuple((copy.nonzero()[0] - mask.nonzero()[0]).tolist())
        for copy, mask in zip(copy_T1HW, mask_T1HW, strict=True)
    }
    assert len(moves) == 1
    assert int(copy_T1HW.sum()) == int(mask_T1HW.sum())


def test_one_mask_for_all_frames_takes_the_memory_of_one() -> None:
    mask_T1HW = box_mask(64, 96, side=8).expand(50, 1, -1, -1)
    copy_T1HW = hold_out_copy(mask_T1HW)
    assert copy_T1HW is not None
    assert copy_T1HW.stride(0) == join_masks(mask_T1HW, copy_T1HW).stride(0) == 0


def test_where_little_is_known_nothing_is_held_out() -> None:
    mask_T1HW = torch.ones(2, 1, 32, 48, dtype=torch.bool)
    mask_T1HW[..., 0] = False
    assert hold_out_copy(mask_T1HW) is None


def test_a_copy_is_measured_in_every_way() -> None:
    clip, mask_T1HW = MemoryClip(noise(1).expand(4, -1, -1, -1)), moving_hole(4)
    copy_T1HW = hold_out_copy(mask_T1HW)
    assert copy_T1HW is not None
    measured = measure_copy(clip, MemoryClip(255 - clip.rgb_NCHW), mask_T1HW, copy_T1HW)
    assert measured.network_psnr_db < measured.surroundings_psnr_db < 15
    assert measured.nearest_psnr_db == pytest.approx(90)  # nothing moves, and noise has no surroundings
    assert measured.share == float(copy_T1HW.double().mean())
    assert measured.behind is not None
    assert "nearest frame 90.00 dB" in measured.behind
    assert measure_copy(clip, clip, mask_T1HW, copy_T1HW).behind is None


def test_only_a_way_that_is_better_is_named() -> None:
    assert say_behind(30.0, {"a": 30.0, "b": 20.0}) is None
    line = "the network is behind a way without one: 30.00 dB, b 31.50 dB"
    assert say_behind(30.0, {"a": 30.5, "b": 31.5}) == line
    score = InpaintingScore(0.1, 16.1, 25.0, 20.0, 22.0, 6.0, 15.0, 16.8, 26.0, 12.0, 21.0, 1.0, 1.0)
    assert score.behind == "the network is behind a way without one: 16.10 dB, blurred surroundings 16.80 dB"


# -- the commands --------------------------------------------------------------------------------------------


def write_mask(path: Path) -> Path:
    mask_HW = np.zeros((32, 48), np.uint8)
    mask_HW[4:10, 6:14] = 255
    Image.fromarray(mask_HW).save(path)
    return path


def test_a_filling_is_measured_where_the_fit_saw_nothing(tmp_path: Path) -> None:
    rgb_NCHW = moving_shapes(num_frames=3, height=32, width=48).rgb_NCHW
    mask = write_mask(tmp_path / "mask.png")
    with open_video(mask) as reader:
        mask_T1HW = (reader.read().rgb_NCHW[:, :1] > 0).expand(3, -1, -1, -1)
    copy_T1HW = hold_out_copy(mask_T1HW)
    assert copy_T1HW is not None
    reports, filled = [], []
    for name, frames in (("a", rgb_NCHW), ("b", torch.where(copy_T1HW, 255 - rgb_NCHW, rgb_NCHW))):
        events: list[Event] = []
        video = write_clip(tmp_path / f"{name}.mkv", MemoryClip(frames))
        report = vinr.inpaint(
            video, tmp_path / name, mask=mask, preset=TINY, epochs=1, device="cpu", on_event=events.append
        )
        assert report.held_out is not None
        # One epoch is not enough, except where the surroundings are no guide.
        assert (report.held_out.behind is not None) == (name == "a")
        notes = [event.text for event in events if isinstance(event, Noted)]
        says = f"{report.held_out.behind}, in a held-out copy of the mask"
        assert notes[-1].startswith(says) == (name == "a")
        with open_video(tmp_path / name) as reader:
            filled.append(reader.read().rgb_NCHW.masked_fill(copy_T1HW, 0))
        reports.append(report)
    # What lies in the copy is not fitted, but measured.
    assert torch.equal(*filled)
    assert reports[0].visible_psnr_db == reports[1].visible_psnr_db
    assert reports[0].held_out != reports[1].held_out


def test_the_command_prints_both_and_whole_frames_hold_nothing_out(
    run: Run, tiny_video: Path, tmp_path: Path
) -> None:
    options = ("--mask", "boxes:6", "--preset", TINY, "--epochs", 1, "--device", "cpu")
    status, out, err = run("inpaint", tiny_video, tmp_path / "a", *options)
    assert status == 0
    assert " dB of the network in a copy of the mask that it did not see" in out
    assert " dB by blurred surroundings, " in out
    assert "the network is behind a way without one" in err
    status, out, err = run("inpaint", tiny_video, tmp_path / "b", *options, "--all-pixels")
    assert status == 0
    assert "copy of the mask" not in out + err


class PlayedClip:
    """A decoder of frames in memory, with one frame for all times between."""

    def __init__(self, rgb_NCHW: Tensor, between_CHW: Tensor) -> None:
        self._rgb_NCHW, self._between_CHW = rgb_NCHW, between_CHW

    def __len__(self) -> int:
        return len(self._rgb_NCHW)

    def play(self, times: Iterable[float | Fraction]) -> Iterator[Tensor]:
        for time in times:
            frame_CHW = self._rgb_NCHW[int(time)] if time == int(time) else self._between_CHW
            yield frame_CHW.unsqueeze(0)


def test_frames_far_from_the_mix_are_behind_it() -> None:
    # Each frame is 2 off the mix of the frames on both sides: 100 of (104 + 100) / 2, then 104, and so on.
    levels = [100, 104, 104, 100, 100]
    rgb_NCHW = torch.tensor(levels, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 4, 4)

    def look(level: int, num_frames: int = 5, factor: int = 2) -> BetweenFrames | None:
        between_CHW = torch.full((3, 4, 4), level, dtype=torch.uint8)
        return look_between(cast(VideoDecoder, PlayedClip(rgb_NCHW[:num_frames], between_CHW)), factor)

    # Between frames 1 and 2 the mix is 104, then 102, then 100.
    good = look(102)
    assert good is not None
    assert (good.num_places, good.num_behind, good.behind) == (3, 0, None)
    assert good.mix_psnr_db == pytest.approx(20 * np.log10(255 / 2), abs=1e-3)
    assert good.from_mix_psnr_db == pytest.approx((40 * np.log10(255 / 2) + 90) / 3, abs=1e-3)
    # 107 is 3, 5 and 7 off: more than twice 2 at two places of three.
    bad = look(107)
    assert bad is not None
    assert bad.num_behind == 2
    assert bad.behind is not None
    assert "at 2 of 3 places" in bad.behind
    # Of two new frames the first is looked at, a third of the way: 104, 102.67, 100.
    third = look(106, factor=3)
    assert third is not None
    assert third.num_behind == 1
    assert third.behind is not None
    assert "is probably behind" in third.behind
    assert look(104, num_frames=2) is None
