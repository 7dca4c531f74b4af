"""What players show besides the samples goes through a .vinr file: in, told by ``info``, out."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
from typer.testing import CliRunner

import vinr
from random_files import random_file
from video.test_deinterlace import write_fields
from video.video_clips import MASTER, tags_in, write_clip
from vinr.bitstream import Color, Container, Hdr, Tags
from vinr.cli.app import app
from vinr.video import mux
from vinr.video.source import open_video
from vinr.video.spec import ColorTags, VideoSpec
from vinr.video.spec import Hdr as VideoHdr

PQ = ColorTags(9, 16, 9, 1)
DISPLAY = (13250, 34500, 7500, 3000, 34000, 16000, 15635, 16450, 10_000_000, 50)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An HDR clip of wide pixels, encoded."""
    folder = tmp_path_factory.mktemp("shown")
    source = write_clip(
        folder / "in.mkv",
        2,
        height=32,
        codec="libx265",
        pixel_format="yuv420p10le",
        options={"x265-params": f"log-level=none:master-display={MASTER}:max-cll=1000,400"},
        tags=PQ,
        pixel_aspect=Fraction(4, 3),
    )
    vinr.encode(source, folder / "a.vinr", preset="nerv-tiny", epochs=1, device="cpu")
    return folder / "a.vinr"


def test_info_tells_it(file: Path) -> None:
    (clip,) = vinr.info(file).clips
    assert clip.pixel_aspect == "4:3"
    assert clip.colors == "primaries BT.2020, transfer PQ, matrix BT.2020, range limited"
    assert clip.hdr == "display of 0.005 to 1000 cd/m², pixels up to 1000 cd/m², frames up to 400"
    shown = " ".join(CliRunner().invoke(app, ["info", str(file)], env={"COLUMNS": "200"}).output.split())
    assert ", pixels 4:3" in shown
    assert f"colours {clip.colors} HDR {clip.hdr}" in shown
    as_json = json.loads(CliRunner().invoke(app, ["info", str(file), "--json"]).output)
    assert as_json["clips"][0]["pixel_aspect"] == "4:3"


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "x265"), ("a.mkv", "x264"), ("a.mp4", "av1")])
def test_decode_writes_it(file: Path, tmp_path: Path, name: str, codec: str) -> None:
    report = vinr.decode(file, tmp_path / name, codec=codec, device="cpu")
    assert report.notes == ()
    assert tags_in(tmp_path / name) == PQ
    with open_video(tmp_path / name) as reader:
        assert reader.spec.pixel_aspect == Fraction(4, 3)
        assert reader.spec.color.hdr == VideoHdr(DISPLAY, (1000, 400))


def test_decode_says_what_images_cannot_hold(file: Path, tmp_path: Path) -> None:
    (note,) = vinr.decode(file, tmp_path / "images", device="cpu").notes
    assert note.startswith("pixels are 4/3 times as wide as high, but viewers of PNG show them as square")
    (note,) = vinr.decode(file, tmp_path / "a.y4m", device="cpu").notes
    assert note.startswith("y4m cannot state BT.2020, PQ colours")


def test_what_is_as_usual_is_not_told(tmp_path: Path) -> None:
    file = random_file(tmp_path / "a.vinr", VideoSpec(2, 16, 24))
    output = CliRunner().invoke(app, ["info", str(file)]).output
    assert "clip random: 2 frames of 24×16 (width × height) at 30.000 fps\n" in output
    assert "colours" not in output


def test_eval_does_not_advise_another_reading(tmp_path: Path) -> None:
    source = write_fields(tmp_path / "in.mkv", 3)
    vinr.encode(source, tmp_path / "a.vinr", preset="nerv-tiny", epochs=1, device="cpu")
    assert vinr.evaluate(tmp_path / "a.vinr", source, device="cpu").notes == ()


def test_all_of_it(tmp_path: Path) -> None:
    color = Color(matrix="bt709", tags=Tags(range=2), hdr=Hdr(light=(5, 1)))
    stated = {"bit_depth": 8, "last_seconds": (3, 2), "audio_start": (-1, 4), "color": color}
    file = random_file(tmp_path / "a.vinr", VideoSpec(2, 16, 24), audio=b"tone", stated=stated)
    (clip,) = vinr.info(file).clips
    assert (clip.last_seconds, clip.audio_start, clip.bit_depth) == (1.5, -0.25, 8)
    output = CliRunner().invoke(app, ["info", str(file)], env={"COLUMNS": "200"}).output
    assert "last frame held for 1.500 s, with audio from -0.250 s\n" in output
    assert "range full" in output
    assert "pixels up to 5 cd/m², frames up to 1" in output


def test_files_of_version_1_say_what_was_converted() -> None:
    """Their matrix and range are those of the original, and go on being written."""
    golden = Path(__file__).parent.parent / "golden" / "v1.vinr"
    with Container.open(golden) as container:
        clip = container.header.clips[0]
    assert (container.format_version, clip.color.tags, clip.pixel_aspect) == (1, None, (1, 1))


def test_eval_deinterlaces_as_encode_did(tmp_path: Path) -> None:
    source = write_fields(tmp_path / "in.mkv", 3)
    notes: list[str] = []
    vinr.encode(
        source,
        tmp_path / "a.vinr",
        preset="nerv-tiny",
        epochs=1,
        device="cpu",
        deinterlace=True,
        on_event=lambda event: notes.append(str(event)),
    )
    assert "interlaced" not in " ".join(notes)
    (clip,) = vinr.info(tmp_path / "a.vinr").clips
    report = vinr.evaluate(tmp_path / "a.vinr", source, device="cpu")
    assert "deinterlaced" in clip.edit
    assert clip.psnr_db == pytest.approx(report.psnr_db, abs=1e-3)


def test_a_shape_that_cannot_be_stated_is_told(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only when the file is finished is it known whether its shape of pixels can be stated."""
    monkeypatch.setattr(mux, "state_shape", lambda *_: False)
    notes = vinr.decode(file, tmp_path / "o.mkv", device="cpu").notes
    assert [note for note in notes if "may be shown as square; write .mp4" in note]
