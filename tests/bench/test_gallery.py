"""The gallery: its pictures show the frames they are said to show, its figures are those of the files."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.gallery import measure
from benchmarks.gallery.__main__ import main
from benchmarks.gallery.measure import GalleryReport, run_gallery
from benchmarks.gallery.page import MARK, gallery_page
from benchmarks.gallery.settings import KEPT, load_gallery, parse_gallery
from benchmarks.gallery.shown import ShownFrames
from PIL import Image
from torch import Tensor

from clips import MemoryClip, moving_shapes
from vinr.bench import runner
from vinr.bench.recipe import SCALES
from vinr.bench.run import plan_jobs
from vinr.bench.work import Values, Work
from vinr.comparison.report import CAPTION_ROWS, GAP_COLUMNS, signed_difference
from vinr.config import load_preset
from vinr.decoding.file import open_clip
from vinr.errors import InputError, OutputError, UsageError, VinrError
from vinr.tasks.masks import box_mask
from vinr.temporaries import try_lock
from vinr.video.samples import sample_clip
from vinr.video.source import open_video

# Of the tiny scale: panels of 64 columns are enlarged to 320.
FRAMES, HEIGHT, WIDTH, ENLARGED = 8, 32, 64, 5
# Mean levels by which a panel may differ from its frame: WebP of quality 85, with colours at half size, costs
# 0.4 to 3.4 levels; and by which it may lie nearer to another panel, since some frames look much the same.
LOSSY, NEARER = 5.0, 0.5


def object_clip() -> tuple[MemoryClip, Tensor]:
    """Frames in which a square moves, and mask_THW of it, as wide as DAVIS' masks: to its edge."""
    clip = moving_shapes(num_frames=FRAMES, height=HEIGHT, width=WIDTH)
    mask_THW = (clip.rgb_NCHW == round(0.95 * 255)).all(1)
    return clip, mask_THW


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data that has the clip whose object is removed."""
    folder = tmp_path_factory.mktemp("data")
    clip, mask_THW = object_clip()
    for name, pictures in (
        ("frames", clip.rgb_NCHW.permute(0, 2, 3, 1).numpy()),
        ("masks", mask_THW.numpy().astype(np.uint8) * 255),
    ):
        own = folder / "davis" / "bmx-trees" / name
        own.mkdir(parents=True)
        for index, picture in enumerate(pictures):
            Image.fromarray(np.ascontiguousarray(picture)).save(own / f"{index:05d}.png")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, data: Path) -> GalleryReport:
    return run_gallery(scale="tiny", data=data, out=tmp_path_factory.mktemp("gallery") / "out", device="cpu")


@pytest.fixture(scope="module")
def bunny_NCHW() -> Tensor:
    """The frames that are fitted, read anew."""
    with open_video(sample_clip(), crop=(640, 1280), resize=(HEIGHT, WIDTH), frames=(0, FRAMES)) as reader:
        return reader.read().rgb_NCHW


def section(report: GalleryReport, name: str) -> dict[str, Any]:
    return next(found for found in report.document["sections"] if found["name"] == name)


def networks(report: GalleryReport, name: str) -> Iterator[tuple[dict[str, Any], ShownFrames, Path]]:
    """Yield each network of a section with the frames that its job kept, and the job's path."""
    jobs = report.page_path.parent / "jobs"
    for found in section(report, name)["networks"]:
        own = [
            path
            for path in jobs.glob("*.json")
            if json.loads(path.read_text(encoding="utf-8"))["setup"] == found["setup"]
        ]
        (path,) = [path for path in own if path.name.startswith(found["kind"])]
        yield found, ShownFrames.read(path.with_suffix(".shown")), path


def psnr_db(first: Tensor, second: Tensor) -> float:
    """Return the PSNR of two images, computed in another way than the package does."""
    error = (first.double() - second.double()) / 255
    return -10 * math.log10(float(error.pow(2).mean()) + 1e-9)


def panel(report: GalleryReport, network: dict[str, Any], row: int, column: int) -> Tensor:
    """Return a panel of a picture as rgb_CHW, each enlarged pixel as the mean of its block."""
    with Image.open(report.page_path.parent / network["picture"]) as image:
        sheet_HWC = torch.from_numpy(np.array(image.convert("RGB"))).float()
    top = row * (ENLARGED * HEIGHT + CAPTION_ROWS) + CAPTION_ROWS
    left = column * (ENLARGED * WIDTH + GAP_COLUMNS)
    part_HWC = sheet_HWC[top : top + ENLARGED * HEIGHT, left : left + ENLARGED * WIDTH]
    blocks = part_HWC.reshape(HEIGHT, ENLARGED, WIDTH, ENLARGED, 3)
    return blocks.mean((1, 3)).permute(2, 0, 1)


# -- the page and its pictures -------------------------------------------------------------------------------


def test_page_shows_every_network_of_every_section(made: GalleryReport) -> None:
    text = made.page_path.read_text(encoding="utf-8")
    assert text.startswith(MARK)
    assert text == gallery_page(json.loads(made.json_path.read_text(encoding="utf-8")))
    settings = load_gallery()
    assert [found["name"] for found in made.document["sections"]] == [one.name for one in settings.sections]
    pictures = re.findall(r"!\[.*\]\(([^)]*)\)", text)
    assert len(pictures) == sum(len(one.networks) for one in settings.sections)
    assert sorted(pictures) == sorted(path.name for path in made.page_path.parent.glob("*.webp"))
    for one in settings.sections:
        assert f"\n## {one.title}\n" in text
        # No figure is asked for that is not measured; frames this small have no MS-SSIM alone.
        for network in section(made, one.name)["networks"]:
            assert {name for name, value in network["values"].items() if value is None} <= {"ms_ssim"}
        for network in one.networks:
            assert f"\n| {network.label} | " in text
    assert text.count(f"Fitted: bunny, frames 0 to {FRAMES - 1}, {HEIGHT}×{WIDTH} pixels.") == 3
    assert f"davis/bmx-trees, frames 0 to {FRAMES - 1}, {HEIGHT}×{WIDTH} pixels; masks grown by 1" in text
    assert "CC BY 3.0" in text
    assert "CVPR 2016" in text
    for path in made.page_path.parent.rglob("*"):  # nothing tells where it was made
        if path.suffix in (".md", ".json"):
            assert str(made.page_path.parent.parent) not in path.read_text(encoding="utf-8")


def test_pictures_have_a_row_a_frame_and_a_column_a_panel(made: GalleryReport) -> None:
    for one in load_gallery().sections:
        for network in section(made, one.name)["networks"]:
            with Image.open(made.page_path.parent / network["picture"]) as image:
                width = len(one.panels) * (ENLARGED * WIDTH + GAP_COLUMNS) - GAP_COLUMNS
                height = len(one.shown) * (ENLARGED * HEIGHT + CAPTION_ROWS)
                assert image.size == (width, height)
                caption_HWC = np.asarray(image.convert("RGB"))[:CAPTION_ROWS]
            for column in range(len(one.panels)):  # each panel has its caption, and none reaches the next
                left = column * (ENLARGED * WIDTH + GAP_COLUMNS)
                assert (caption_HWC[:, left : left + ENLARGED * WIDTH] < 100).any()
                assert (caption_HWC[:, left + ENLARGED * WIDTH - 4 : left + ENLARGED * WIDTH] > 150).all()


def test_panels_are_the_frames_that_were_kept(made: GalleryReport) -> None:
    for one in load_gallery().sections:
        for network, kept, _ in networks(made, one.name):
            for row in range(len(one.shown)):
                frames = {name: frames_NCHW[row] for name, frames_NCHW in kept.rgb_NCHW.items()}
                frames["difference"] = signed_difference(frames[one.compared], frames["original"])
                for column, name in enumerate(one.panels):
                    found_CHW = panel(made, network, row, column)
                    errors = {
                        other: float((found_CHW - frame_CHW.float()).abs().mean())
                        for other, frame_CHW in frames.items()
                    }
                    assert errors[name] < LOSSY, (one.name, name)
                    assert errors[name] < min(errors.values()) + NEARER, (one.name, name)


# -- figures -------------------------------------------------------------------------------------------------


def test_decoded_frames_and_figures_are_those_of_the_file(made: GalleryReport, bunny_NCHW: Tensor) -> None:
    for network, kept, path in networks(made, "decoded"):
        file, values = path.with_suffix(".vinr"), network["values"]
        assert values["num_bytes"] == file.stat().st_size
        assert values["bpp"] == pytest.approx(8 * file.stat().st_size / (FRAMES * HEIGHT * WIDTH))
        assert values["ms_ssim"] is None  # frames of 32×64 have no room for five scales
        with open_clip(file, device="cpu") as decoder:
            decoded_NCHW = torch.stack(list(decoder))
        per_frame = [psnr_db(*pair) for pair in zip(decoded_NCHW, bunny_NCHW, strict=True)]
        assert values["psnr_db"] == pytest.approx(sum(per_frame) / FRAMES, abs=1e-6)
        assert network["frames"] == [1, 6]
        assert network["shown_psnr_db"] == {"decoded": pytest.approx([per_frame[1], per_frame[6]], abs=1e-6)}
        assert torch.equal(kept.rgb_NCHW["original"], bunny_NCHW[[1, 6]])
        assert torch.equal(kept.rgb_NCHW["decoded"], decoded_NCHW[[1, 6]])
        assert f"| {network['label']} | " + f"{values['num_parameters']:,} | {values['psnr_db']:.2f} | " in (
            made.page_path.read_text(encoding="utf-8")
        )


def test_interpolated_frames_are_held_out_ones(made: GalleryReport, bunny_NCHW: Tensor) -> None:
    ways = []
    for network, kept, _ in networks(made, "interpolated"):
        values = network["values"]
        ways.append(values["way"])
        assert network["frames"] == [3, 5]  # of 1, 3, 5, 7
        assert torch.equal(kept.rgb_NCHW["original"], bunny_NCHW[[3, 5]])
        assert torch.equal(kept.rgb_NCHW["nearest"], bunny_NCHW[[2, 4]])
        repeated = [psnr_db(bunny_NCHW[index - 1], bunny_NCHW[index]) for index in (1, 3, 5, 7)]
        assert values["nearest_psnr_db"] == pytest.approx(sum(repeated) / 4, abs=1e-6)
        pairs = zip(kept.rgb_NCHW["interpolated"], bunny_NCHW[[3, 5]], strict=True)
        predicted = [psnr_db(*pair) for pair in pairs]
        assert network["shown_psnr_db"]["interpolated"] == pytest.approx(predicted, abs=1e-6)
        assert network["shown_psnr_db"]["nearest"] == pytest.approx(repeated[1:3], abs=1e-6)
        assert values["held_out_psnr_db"] == pytest.approx(
            sum(predicted) / 2, abs=1.5
        )  # a half of the frames
    assert sorted(ways) == ["embeddings", "time"]


def test_inpainted_frames_are_filled_where_they_were_masked(made: GalleryReport, bunny_NCHW: Tensor) -> None:
    mask_HW = box_mask(HEIGHT, WIDTH, side=4)
    for network, kept, _ in networks(made, "inpainted"):
        seen_NCHW, filled_NCHW = kept.rgb_NCHW["seen"], kept.rgb_NCHW["filled"]
        assert not seen_NCHW[..., mask_HW].any()
        for frames_NCHW in (seen_NCHW, filled_NCHW):
            assert torch.equal(frames_NCHW[..., ~mask_HW], bunny_NCHW[[1, 6]][..., ~mask_HW])
        assert (filled_NCHW[..., mask_HW] != bunny_NCHW[[1, 6]][..., mask_HW]).any()
        black = [psnr_db(torch.zeros(()), frame_CHW[:, mask_HW]) for frame_CHW in bunny_NCHW]
        values = network["values"]
        assert values["input_masked_psnr_db"] == pytest.approx(sum(black) / FRAMES, abs=1e-6)
        assert values["masked_percent"] == pytest.approx(100 * 5 * 16 / (HEIGHT * WIDTH))
        assert values["masked_psnr_db"] != values["input_masked_psnr_db"]


def test_a_removed_object_is_masked_wider_than_its_mask(made: GalleryReport) -> None:
    clip, mask_THW = object_clip()
    grown_THW = torch.zeros_like(mask_THW)
    for row in (-1, 0, 1):
        for column in (-1, 0, 1):
            grown_THW |= torch.roll(mask_THW, (row, column), (1, 2))
    # Rolling goes round the edge where the square lies in a corner.
    grown_THW[:2, -1, :], grown_THW[:2, :, -1] = False, False
    ((network, kept, _),) = networks(made, "removed")
    assert network["frames"] == [1, 4, 6]
    for row, index in enumerate(network["frames"]):
        original_CHW, mask_HW = clip.rgb_NCHW[index], grown_THW[index]
        assert mask_HW.sum() > mask_THW[index].sum()
        assert torch.equal(kept.rgb_NCHW["original"][row], original_CHW)
        assert torch.equal(kept.rgb_NCHW["seen"][row], original_CHW.masked_fill(mask_HW, 0))
        filled_CHW = kept.rgb_NCHW["filled"][row]
        assert torch.equal(filled_CHW[:, ~mask_HW], original_CHW[:, ~mask_HW])
        assert not torch.equal(filled_CHW[:, mask_HW], original_CHW[:, mask_HW])
    # Nobody knows what is behind it.
    assert not {"masked_psnr_db", "filled_psnr_db", "network_psnr_db"} & network["values"].keys()
    assert network["shown_psnr_db"] == {}


# -- what is kept, and what is left out ----------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kinds of the jobs that were run, one a section; they keep originals and measure nothing."""
    seen: list[str] = []
    whole = load_gallery()
    sections = [one.model_copy(update={"networks": one.networks[:1]}) for one in whole.sections]
    few = whole.model_copy(update={"sections": tuple(sections)})
    monkeypatch.setattr(measure, "load_gallery", lambda: few)

    def experiment_of(kind: str) -> Callable[[Work], Values]:
        def experiment(work: Work) -> Values:
            seen.append(kind)
            work.keep_shown(dict.fromkeys(KEPT[kind], work.frames))  # type: ignore[index]
            return {}

        return experiment

    monkeypatch.setattr(runner, "experiment_of", experiment_of)
    return seen


def test_without_data_the_section_is_left_out_and_says_what_it_needs(
    made: GalleryReport, calls: list[str], tmp_path: Path
) -> None:
    found = section(made, "removed")
    assert found["left_out"] is None
    for data in (None, tmp_path):  # no folder; one that has nothing
        report = run_gallery(scale="tiny", data=data, out=tmp_path / "out", device="cpu")
        removed = section(report, "removed")
        assert removed["networks"] == []
        text = report.page_path.read_text(encoding="utf-8")
        left_out = text.partition("## Object removed\n\n")[2].partition("\n\n")[0]
        assert left_out == removed["left_out"]
        assert "`--data FOLDER` with `davis/bmx-trees/frames` and `davis/bmx-trees/masks`" in left_out
        assert "CVPR 2016" not in text
        assert not list((tmp_path / "out").glob("removed*"))
    assert calls.count("inpaint") == 1


def test_jobs_that_have_ended_are_kept(calls: list[str], tmp_path: Path) -> None:
    def make(*, force: bool = False) -> GalleryReport:
        return run_gallery(scale="tiny", out=tmp_path, device="cpu", force=force)

    first = make()
    count = len(calls)
    assert calls == ["encode", "interpolate", "inpaint"]
    assert make().document == first.document
    assert len(calls) == count
    for suffix in (".json", ".shown"):  # a job without its frames has not ended either
        next((tmp_path / "jobs").glob(f"interpolate*{suffix}")).unlink()
        make()
        assert calls[count:] == ["interpolate"]
        del calls[count:]
    make(force=True)
    assert len(calls) == 2 * count


def test_what_another_process_is_at_is_missing_on_the_page(calls: list[str], tmp_path: Path) -> None:
    run_gallery(scale="tiny", out=tmp_path, device="cpu")
    path = next((tmp_path / "jobs").glob("inpaint*.json"))
    path.unlink()
    with try_lock(path.with_suffix(".lock")):  # as another process would hold it
        report = run_gallery(scale="tiny", out=tmp_path, device="cpu")
    assert section(report, "inpainted")["num_missing"] == 1
    assert "1 jobs have not ended" in report.page_path.read_text(encoding="utf-8")


def test_settings_of_the_caller_hold_for_all_networks(calls: list[str], tmp_path: Path) -> None:
    report = run_gallery(scale="tiny", out=tmp_path, device="cpu", epochs=3, overrides=["fit.batch_size=1"])
    for found in report.document["sections"]:
        for network in found["networks"]:
            assert network["setup"]["epochs"] == 3
            assert network["setup"]["overrides"] == ["fit.batch_size=1"]
    assert "`--epochs 3 --set fit.batch_size=1`" in report.page_path.read_text(encoding="utf-8")


# -- bad input -----------------------------------------------------------------------------------------------


def test_bad_input_is_refused_before_anything_is_fitted(calls: list[str], data: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "README.md").write_text("# Precious\n", encoding="utf-8")
    few = tmp_path / "few"
    for name, count in (("frames", FRAMES), ("masks", FRAMES - 1)):
        folder = few / "davis" / "bmx-trees" / name
        folder.mkdir(parents=True)
        for path in sorted((data / "davis" / "bmx-trees" / name).iterdir())[:count]:
            (folder / path.name).write_bytes(path.read_bytes())
    cases: list[tuple[type[VinrError], str, dict[str, Any]]] = [
        (UsageError, "scale 'small'", {"scale": "small"}),
        (UsageError, "epocs", {"overrides": ["fit.epocs=1"]}),
        (UsageError, "tpu", {"device": "tpu"}),
        (InputError, "data folder .*nowhere: is not a folder", {"data": tmp_path / "nowhere"}),
        (InputError, "7 frames for 8", {"data": few}),
        (OutputError, "does not exist", {"out": tmp_path / "no" / "out"}),
        (OutputError, "is no folder", {"out": own / "README.md"}),
        (OutputError, r"README.md: exists and is no gallery's page", {"out": own}),
        (OutputError, r"README.md: exists and is no gallery's page", {"out": own, "force": True}),
    ]
    for error, said, given in cases:
        with pytest.raises(error, match=said) as caught:
            run_gallery(**{"scale": "tiny", "out": tmp_path / "out", "device": "cpu", **given})
        assert "\n" not in str(caught.value)
        assert caught.value.exit_status == 2
    assert calls == []
    assert (own / "README.md").read_text(encoding="utf-8") == "# Precious\n"
    assert not (tmp_path / "out").exists()


def test_the_script(calls: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--scale", "tiny", "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*words, "--data", str(tmp_path / "none")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("vinr: data folder ")
    assert len(err.splitlines()) == 1
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert out == f"page: {tmp_path / 'out' / 'README.md'}\n"
    assert "Object removed: Left out" in err
    with pytest.raises(SystemExit) as caught:
        main(["--scale", "small"])
    assert caught.value.code == 2


def test_the_page_in_the_docs_is_made_from_its_document() -> None:
    folder = Path(__file__).parent.parent.parent / "docs" / "gallery"
    document = json.loads((folder / "gallery.json").read_text(encoding="utf-8"))
    assert gallery_page(document) == (folder / "README.md").read_text(encoding="utf-8")


# -- settings ------------------------------------------------------------------------------------------------


def test_every_network_is_planned_at_every_scale() -> None:
    settings = load_gallery()
    for scale in SCALES:
        for one in settings.sections:
            for network in one.networks:
                (job,) = plan_jobs(one.kind, settings.setup(one, network, scale), scale, shown=one.shown)
                load_preset(job.setup.preset or job.setup.model or "", job.setup.overrides)
                assert job.setup.epochs
                assert job.clip.partition("/")[0] in settings.credits


def test_settings_that_say_nonsense_are_refused() -> None:
    tree = load_gallery().model_dump(mode="json", exclude_unset=True)
    first, *rest = tree["sections"]
    for changed, said in (
        ({"sections": [first, first]}, "two sections have one name"),
        ({"sections": [{**first, "panels": {"filled": "filled"}}, *rest]}, "no panel is called 'filled'"),
        ({"sections": [{**first, "panels": {"decoded": "8×"}}, *rest]}, "caption '8×'"),
        ({"sections": [{**first, "shown": [1.5]}, *rest]}, "shown"),
        ({"colour": "red"}, "colour"),
    ):
        with pytest.raises(UsageError, match=said):
            parse_gallery({**tree, **changed})
