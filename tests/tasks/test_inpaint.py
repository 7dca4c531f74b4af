"""Inpainting: masks of every kind, the command, what it leaves untouched, and its experiment."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import vinr
from clips import MemoryClip, moving_shapes, write_clip
from command_line import TINY, Run, refused
from vinr.cli.app import main
from vinr.encoding import plan, splitting
from vinr.errors import InputError
from vinr.fit import Event, Noted
from vinr.tasks import inpainting
from vinr.tasks.inpainting_scores import measure_inpainting
from vinr.tasks.masks import box_mask, center_mask, grow_mask, open_mask
from vinr.video.source import open_video

FRAMES, HEIGHT, WIDTH = 8, 36, 50  # of tiny_video
OPTIONS = ("--preset", TINY, "--epochs", 1, "--device", "cpu")


def hole(*, num_frames: int = FRAMES, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """A box that moves to the right, mask_THW."""
    mask_THW = torch.zeros(num_frames, height, width, dtype=torch.bool)
    for index in range(num_frames):
        mask_THW[index, 10:20, 5 + index : 20 + index] = True
    return mask_THW


def write_masks(folder: Path, mask_THW: Tensor, *, value: int = 255, mode: str = "L") -> Path:
    folder.mkdir()
    for index, mask_HW in enumerate(mask_THW):
        image = Image.fromarray(mask_HW.numpy().astype(np.uint8) * value).convert(mode)
        image.save(folder / f"{index:05d}.png")
    return folder


def opened(mask: str | Path, video: Path, **edit: tuple[int, int]) -> Tensor:
    with open_video(video, **edit) as reader:  # type: ignore[arg-type]
        mask_T1HW = open_mask(str(mask), reader, frames=edit.get("frames"))
        assert mask_T1HW.shape == (reader.spec.num_frames, 1, reader.spec.height, reader.spec.width)
    return mask_T1HW.squeeze(1)


def read(path: Path) -> Tensor:
    with open_video(path) as reader:
        return reader.read().rgb_NCHW


# -- masks ---------------------------------------------------------------------------------------------------


def test_five_boxes_lie_where_the_code_of_the_paper_has_them() -> None:
    mask_HW = box_mask(480, 960)
    assert int(mask_HW.sum()) == 5 * 50 * 50
    assert float(mask_HW.double().mean()) == pytest.approx(0.027, abs=2e-4)  # the table's 2.7 %
    for row, col in ((240, 480), (120, 240), (120, 720), (360, 240), (360, 720)):
        assert bool(mask_HW[row - 25 : row + 25, col - 25 : col + 25].all())
        assert not mask_HW[row - 26, col]
        assert not mask_HW[row + 25, col]
        assert not mask_HW[row, col - 26]
        assert not mask_HW[row, col + 25]


def test_boxes_of_odd_sides_and_at_the_edge() -> None:
    assert torch.equal(box_mask(100, 200, side=11), box_mask(100, 200, side=10))
    cut_HW = box_mask(20, 200, side=16)
    assert cut_HW[:13, 50].all()  # rows −3 … 12 of the frame
    assert not cut_HW[13:, 42].any() or cut_HW[13:, 42].sum() == 7


def test_center_box_is_a_quarter_of_each_side() -> None:
    mask_HW = center_mask(1080, 1920)
    assert int(mask_HW.sum()) == 270 * 480
    assert bool(mask_HW[540 - 135 : 540 + 135, 960 - 240 : 960 + 240].all())


@pytest.mark.parametrize("pixels", [0, 1, 3])
def test_a_grown_mask_reaches_as_many_pixels_further(pixels: int) -> None:
    mask_T1HW = torch.zeros(2, 1, 12, 16, dtype=torch.bool)
    mask_T1HW[0, 0, 1, 8] = True  # near the edge, in one frame
    grown_T1HW = grow_mask(mask_T1HW, pixels)
    expected_T1HW = torch.zeros_like(mask_T1HW)
    expected_T1HW[0, 0, max(1 - pixels, 0) : 2 + pixels, 8 - pixels : 9 + pixels] = True
    assert grown_T1HW.dtype == torch.bool
    assert torch.equal(grown_T1HW, expected_T1HW)


def test_named_masks_are_those_of_the_edited_frames(tiny_video: Path) -> None:
    assert torch.equal(opened("boxes:9", tiny_video), box_mask(HEIGHT, WIDTH, side=9).expand(FRAMES, -1, -1))
    small = opened("center", tiny_video, crop=(32, 48), resize=(16, 24), frames=(2, 5))
    assert torch.equal(small, center_mask(16, 24).expand(3, -1, -1))
    assert torch.equal(opened("centre", tiny_video), opened("center", tiny_video))


@pytest.mark.parametrize(("value", "mode"), [(255, "L"), (1, "L"), (3, "RGB"), (255, "1"), (200, "P")])
def test_a_folder_of_images(value: int, mode: str, tiny_video: Path, tmp_path: Path) -> None:
    folder = write_masks(tmp_path / "masks", hole(), value=value, mode=mode)
    assert torch.equal(opened(folder, tiny_video), hole())


def test_a_video_and_a_single_image(tiny_video: Path, tmp_path: Path) -> None:
    rgb_NCHW = (hole() * 255).to(torch.uint8).unsqueeze(1).expand(-1, 3, -1, -1)
    video = write_clip(tmp_path / "mask.mkv", MemoryClip(rgb_NCHW))
    assert torch.equal(opened(video, tiny_video), hole())
    still = write_masks(tmp_path / "masks", hole()) / "00002.png"
    assert torch.equal(opened(still, tiny_video), hole()[2].expand(FRAMES, -1, -1))


def test_masks_are_cropped_and_cut_like_the_video(tiny_video: Path, tmp_path: Path) -> None:
    folder = write_masks(tmp_path / "masks", hole())
    cropped = opened(folder, tiny_video, crop=(32, 48), frames=(2, 6))
    assert torch.equal(cropped, hole()[2:6, 2:34, 1:49])
    # As many masks as frames were chosen: they are theirs.
    few = write_masks(tmp_path / "few", hole()[2:6])
    assert torch.equal(opened(few, tiny_video, frames=(2, 6)), hole()[2:6])


@pytest.mark.parametrize("size", [(18, 25), (12, 10), (17, 23), (40, 60)])
def test_a_resized_pixel_is_masked_if_a_masked_one_takes_part_in_it(
    size: tuple[int, int], tmp_path: Path
) -> None:
    clip = moving_shapes(num_frames=1, height=HEIGHT, width=WIDTH)
    dot = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
    dot[0, 17, 24] = True
    still = write_masks(tmp_path / "dot", dot) / "00000.png"
    spoiled = clip.rgb_NCHW.clone()
    spoiled[:, :, 17, 24] = 255 - spoiled[:, :, 17, 24]
    videos = [
        write_clip(tmp_path / f"{n}.mkv", MemoryClip(rgb)) for n, rgb in enumerate((clip.rgb_NCHW, spoiled))
    ]
    found = opened(still, videos[0], resize=size)
    frames = []
    for video in videos:
        with open_video(video, resize=size) as reader:
            frames.append(reader.read().rgb_NCHW)
    changed = (frames[0] != frames[1]).any(1)
    assert changed.any()
    assert not (changed & ~found).any()
    assert found.sum() < 100


# -- the command ---------------------------------------------------------------------------------------------


def test_masked_pixels_are_filled_and_the_others_stay(
    run: Run, tiny_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The network's whole frames are of a fit without a test of the filling: here both are such fits.
    monkeypatch.setattr(inpainting, "hold_out_copy", lambda mask_T1HW: None)
    masks = write_masks(tmp_path / "masks", hole())
    status, out, err = run(
        "inpaint", tiny_video, "--mask", masks, tmp_path / "filled", *OPTIONS, "--epochs", 3, "--json"
    )
    assert status == 0, err
    report = json.loads(out)
    assert report["num_frames"] == FRAMES
    assert report["masked_share"] == pytest.approx(150 / (HEIGHT * WIDTH))
    assert report["num_epochs"] == 3
    assert 5 < report["visible_psnr_db"] < 60
    before, after = read(tiny_video), read(tmp_path / "filled")
    inside = hole().unsqueeze(1).expand_as(before)
    assert torch.equal(after[~inside], before[~inside])
    assert (after[inside] != before[inside]).double().mean() > 0.9

    status, out, err = run(
        "inpaint", tiny_video, tmp_path / "own.mkv", "--mask", masks, *OPTIONS, "--epochs", 3, "--all-pixels",
        "--codec", "ffv1",
    )  # fmt: skip
    assert status == 0, err
    assert f"{report['visible_psnr_db']:.2f} dB" in out
    own = read(tmp_path / "own.mkv")
    assert (own[inside].int() - after[inside].int()).abs().max() <= 3  # limited-range 4:4:4 rounds
    assert not torch.equal(own[~inside], before[~inside])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["filled", "masks", "own.mkv"]


def test_the_plan_says_in_which_arithmetic(tiny_video: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    report = vinr.inpaint(
        tiny_video,
        tmp_path / "o.mkv",
        mask="center",
        preset=TINY,
        epochs=1,
        device="cpu",
        overrides=["fit.precision=bf16"],
        on_event=events.append,
    )
    note, *_ = [event.text for event in events if isinstance(event, Noted)]
    assert note.endswith(" CPU thread, bf16 (as set)")
    assert report.precision == "bf16"


def test_what_is_hidden_does_not_change_the_filling(tmp_path: Path) -> None:
    clip = moving_shapes(num_frames=3, height=32, width=48)
    mask_THW = hole(num_frames=3, height=32, width=48)
    other = torch.where(mask_THW.unsqueeze(1), 255 - clip.rgb_NCHW, clip.rgb_NCHW)
    masks = write_masks(tmp_path / "masks", mask_THW)
    filled = []
    for name, rgb_NCHW in (("a", clip.rgb_NCHW), ("b", other)):
        video = write_clip(tmp_path / f"{name}.mkv", MemoryClip(rgb_NCHW))
        report = vinr.inpaint(video, tmp_path / name, mask=masks, preset=TINY, epochs=1, device="cpu")
        assert report == vinr.InpaintReport(**{**vars(report), "path": str(tmp_path / name)})
        filled.append(read(tmp_path / name))
    assert torch.equal(*filled)


def test_long_videos_are_filled_part_by_part(
    tiny_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splitting, "MAX_SEGMENT_BYTES", 5 * 3 * HEIGHT * WIDTH)
    masks = write_masks(tmp_path / "masks", hole())
    fitted = []
    original = inpainting.fit
    monkeypatch.setattr(inpainting, "fit", lambda *a, **k: fitted.append(a[0]) or original(*a, **k))
    report = vinr.inpaint(
        tiny_video, tmp_path / "out", mask=masks, preset=TINY, epochs=1, device="cpu", frames=(1, 8)
    )
    assert [frames.spec.num_frames for frames in fitted] == [4, 3]
    assert report.num_frames == 7
    before, after = read(tiny_video)[1:], read(tmp_path / "out")
    inside = hole()[1:].unsqueeze(1).expand_as(before)
    assert torch.equal(after[~inside], before[~inside])
    assert not torch.equal(after[inside], before[inside])


def test_a_part_that_is_masked_wholly_is_refused_before_any_fit(
    tiny_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splitting, "MAX_SEGMENT_BYTES", 5 * 3 * HEIGHT * WIDTH)
    mask_THW = hole()
    mask_THW[4:] = True
    masks = write_masks(tmp_path / "masks", mask_THW)
    monkeypatch.setattr(inpainting, "fit", None)
    with pytest.raises(InputError, match="every pixel of frames 4 to 7, fitted together"):
        vinr.inpaint(tiny_video, tmp_path / "out", mask=masks, preset=TINY, epochs=1, device="cpu")
    assert not (tmp_path / "out").exists()


def test_y4m_on_stdout_is_not_mixed_with_the_report(
    tiny_video: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["vinr", "inpaint", str(tiny_video), "-", "--mask", "boxes:9", *map(str, OPTIONS)]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    written = capfdbinary.readouterr().out
    header, frames = written.split(b"\n", 1)
    assert header.startswith(b"YUV4MPEG2 ")
    assert len(frames) == FRAMES * (len(b"FRAME\n") + 3 * HEIGHT * WIDTH)
    monkeypatch.setattr(sys, "argv", [*words, "--json"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert b"--json" in capfdbinary.readouterr().err


def test_interrupted_inpainting_leaves_nothing(
    run: Run, tiny_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(inpainting, "fit", stop)
    status, out, err = run("inpaint", tiny_video, tmp_path / "out.mkv", "--mask", "boxes:9", *OPTIONS)
    assert (status, out) == (130, "")
    assert "nothing was written" in err
    assert list(tmp_path.iterdir()) == []


# -- what is refused -----------------------------------------------------------------------------------------


def test_bad_masks_are_refused(run: Run, tiny_video: Path, tmp_path: Path) -> None:
    def refused_mask(mask: str | Path, *words: str, options: tuple[str, ...] = ()) -> None:
        output = tmp_path / "out.mkv"
        refused(run("inpaint", tiny_video, output, "--mask", mask, *OPTIONS, *options), *words)
        assert not output.exists()

    refused_mask(tmp_path / "missing", "missing", "no such file", "boxes")
    refused_mask("circles", "circles", "no such file", "center")
    (tmp_path / "text.png").write_text("no picture", encoding="utf-8")
    refused_mask(tmp_path / "text.png", "text.png")
    (tmp_path / "none").mkdir()
    refused_mask(tmp_path / "none", "no images")
    wide = write_masks(tmp_path / "wide", hole(width=52))
    refused_mask(wide, "52×36 (width × height)", "50×36")
    few = write_masks(tmp_path / "few", hole()[:5])
    refused_mask(few, "5 frames for 8", "a single image")
    refused_mask(few, "5 frames for 6", options=("--frames", "2:8"))
    many = write_masks(tmp_path / "many", hole(num_frames=9))
    refused_mask(many, "9 frames for 8")
    black = write_masks(tmp_path / "black", torch.zeros_like(hole()))
    refused_mask(black, "masks no pixel")
    white = write_masks(tmp_path / "white", torch.ones_like(hole()))
    refused_mask(white, "altogether")
    refused_mask("boxes", "altogether", "50×36 (width × height)")
    refused_mask("boxes:1", "masks no pixel")


def test_outputs_and_options_are_checked_before_the_fit(
    run: Run, tiny_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inpainting, "fit", lambda *a, **k: pytest.fail("fitted"))
    mask = ("--mask", "boxes:9")
    kept = tmp_path / "kept.mkv"
    kept.write_bytes(b"precious")
    refused(run("inpaint", tiny_video, kept, *mask, *OPTIONS), "--force")
    refused(run("inpaint", tiny_video, tmp_path / "out.avi", *mask, *OPTIONS), ".avi")
    refused(run("inpaint", tiny_video, tmp_path / "no" / "out.mkv", *mask, *OPTIONS), "does not exist")
    refused(run("inpaint", tiny_video, tmp_path / "o.mkv", *mask, "--model", "vgg"), "vgg")
    refused(run("inpaint", tmp_path / "no.mp4", tmp_path / "o.mkv", *mask, *OPTIONS), "no.mp4")
    refused(run("inpaint", tiny_video, tmp_path / "o.mkv", *mask, "--epochs", 1, "--time", "9s"), "give one")
    assert kept.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [kept]


# -- the experiment ------------------------------------------------------------------------------------------


def test_measures_of_one_frame_add_up() -> None:
    clip = moving_shapes(num_frames=1, height=32, width=48)
    mask_T1HW = center_mask(32, 48).expand(1, 1, -1, -1)
    preset = plan.choose_preset(
        clip.spec, model=None, preset=TINY, num_parameters=None, overrides=["fit.epochs=3"]
    )
    score = measure_inpainting(clip, mask_T1HW, preset)

    def mse(psnr_db: float) -> float:
        return 10 ** (-psnr_db / 10)

    assert score.masked_share == pytest.approx(8 * 12 / (32 * 48))
    assert mse(score.filled_psnr_db) == pytest.approx(
        score.masked_share * mse(score.masked_psnr_db), rel=1e-4
    )
    black = (clip.rgb_NCHW.double() / 255).square().permute(0, 2, 3, 1)[mask_T1HW[:, 0]].mean()
    assert score.input_masked_psnr_db == pytest.approx(-10 * math.log10(black), abs=1e-4)
    assert mse(score.input_psnr_db) == pytest.approx(score.masked_share * float(black), rel=1e-4)
    assert score.network_psnr_db < score.filled_psnr_db
    # The network's whole frame: its masked pixels and the others, by their shares.
    parts = score.masked_share, 1 - score.masked_share
    whole = parts[0] * mse(score.masked_psnr_db) + parts[1] * mse(score.visible_psnr_db)
    assert mse(score.network_psnr_db) == pytest.approx(whole, rel=1e-4)
    assert score.num_epochs == 3
    with pytest.raises(InputError, match="no pixel"):
        measure_inpainting(clip, torch.zeros_like(mask_T1HW), preset)


def test_a_network_fills_better_than_black_does() -> None:
    clip = moving_shapes(num_frames=4, height=32, width=48)
    mask_T1HW = center_mask(32, 48).expand(4, 1, -1, -1)
    preset = plan.choose_preset(
        clip.spec, model=None, preset=TINY, num_parameters=None, overrides=["fit.epochs=20"]
    )
    score = measure_inpainting(clip, mask_T1HW, preset)
    assert score.masked_psnr_db > score.input_masked_psnr_db + 3
    assert score.filled_psnr_db > score.input_psnr_db + 3
