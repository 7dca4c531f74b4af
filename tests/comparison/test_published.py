"""Files of published points: what is read, and one line for each defect."""

from __future__ import annotations

from pathlib import Path

import pytest

from vinr.comparison.published import published_curves, read_published
from vinr.errors import InputError, UsageError

PUBLISHED = Path(__file__).parents[2] / "docs" / "published"
HEAD = "codec,clip,bpp,psnr_db,ms_ssim,source\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "points.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_points_of_a_clip_become_curves(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "# a comment, with a comma\ncodec,clip,bpp,psnr_db,ms_ssim,domain,source\n"
        'HM,Beauty,0.2,35.5,0.91,rgb,"a paper, its table 3"\n'
        "HM,Beauty,0.1,34.5,,,a paper\n"
        "VTM,Beauty,0.1,38.5,,yuv611,another\n"
        "\n"
        "HM,Jockey,0.3,36,,rgb,a paper\n",
    )
    assert len(read_published(path)) == 4
    hm, vtm = published_curves(f"{path}#Beauty")
    assert (hm.name, hm.kind, hm.source) == ("HM", "published", "a paper, its table 3; a paper")
    assert hm.samples("psnr_db") == [(0.1, 34.5), (0.2, 35.5)]
    assert hm.samples("ms_ssim_db") == [(0.2, pytest.approx(10.4576, abs=1e-3))]
    assert vtm.samples("psnr_db") == []  # another kind of PSNR is never mixed in
    assert vtm.samples("yuv_psnr_db") == [(0.1, 38.5)]


def test_the_clip_must_be_clear(tmp_path: Path) -> None:
    path = write(tmp_path, f"{HEAD}HM,Beauty,0.2,35.5,,x\nHM,Jockey,0.1,34.5,,x\n")
    with pytest.raises(UsageError, match=r"choose a clip, such as .*#Beauty; it has Beauty, Jockey"):
        published_curves(str(path))
    with pytest.raises(UsageError, match=r"no clip 'Bee'; it has Beauty, Jockey"):
        published_curves(f"{path}#Bee")
    alone = write(tmp_path, f"{HEAD}HM,Beauty,0.2,35.5,,x\n")
    assert [item.name for item in published_curves(str(alone))] == ["HM"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "columns none; it must have codec, clip"),
        ("codec,clip,bpp\nHM,B,0.2\n", "must have codec, clip, bpp, psnr_db"),
        ("codec,clip,bpp,psnr_db,ms_ssim,source,colour\n", "may have domain"),
        ("codec,codec,clip,bpp,psnr_db,ms_ssim,source\n", "head line"),
        (HEAD, "no points"),
        (f"# note\n{HEAD}HM,B,0.2,35,,x\nHM,B,zero,35,,x\n", "line 4: bpp 'zero'"),
        (f"{HEAD}HM,B,-0.1,35,,x\n", "line 2: bpp '-0.1'"),
        (f"{HEAD}HM,B,0.1,nan,,x\n", "line 2: psnr_db 'nan'"),
        (f"{HEAD}HM,B,0.1,350,,x\n", "psnr_db '350': give a number above 0, at most 100"),
        (f"{HEAD}HM,B,0.1,,1.5,x\n", "ms_ssim '1.5'"),
        (f"{HEAD}HM,B,0.1,,,x\n", "give bpp, and psnr_db or ms_ssim"),
        (f"{HEAD}HM,B,,35,,x\n", "give bpp"),
        (f"{HEAD}HM,B,0.1,35,,\n", "source is empty"),
        (f"{HEAD},B,0.1,35,,x\n", "codec is empty"),
        (f"{HEAD}HM,B,0.1,35,,a paper, table 3\n", "has 7 fields, the head line 6; quote"),
        (f"{HEAD}HM,B,0.1,35\n", "has 4 fields"),
        (f'{HEAD}HM,B,0.1,35,,"a paper\n', "is not CSV"),
        ("codec,clip,bpp,psnr_db,ms_ssim,domain,source\nHM,B,0.1,35,,y,x\n", "rgb or yuv611"),
    ],
)
def test_defects_are_named_with_their_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        read_published(write(tmp_path, text))
    assert words in str(caught.value)
    assert "points.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_published(tmp_path / "missing.csv")
    (tmp_path / "picture.csv").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(InputError, match="UTF-8"):
        read_published(tmp_path / "picture.csv")


@pytest.mark.parametrize("path", sorted(PUBLISHED.glob("*.csv")), ids=lambda path: path.stem)
def test_the_files_of_this_project_are_readable(path: Path) -> None:
    points = read_published(path)
    assert all(len(point.source) > 20 for point in points)
    for clip in {point.clip for point in points}:
        for item in published_curves(f"{path}#{clip}"):
            samples = item.samples("psnr_db") or item.samples("yuv_psnr_db")
            values = [value for _, value in samples]
            assert values == sorted(values), f"{clip} {item.name}"  # more bits, more quality


def test_averages_of_hinerv_are_those_of_its_clips() -> None:
    points = [p for p in read_published(PUBLISHED / "hinerv-uvg.csv") if p.codec == "HiNeRV (paper)"]
    average = [point for point in points if point.clip == "Average"]
    clips = sorted({point.clip for point in points} - {"Average"})
    assert len(clips) == 7
    for place, mean in enumerate(average):
        own = [[point for point in points if point.clip == clip][place] for clip in clips]
        assert mean.psnr_db == pytest.approx(sum(point.psnr_db or 0 for point in own) / 7, abs=0.006)
        assert mean.bpp == pytest.approx(sum(point.bpp for point in own) / 7, abs=1e-4)
