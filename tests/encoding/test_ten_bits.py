"""10-bit video through the whole codec: fitted, stored, measured, decoded and written at 10 bits."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch

import vinr
from deep_clips import gradient, write_10
from video.video_clips import write_clip
from vinr.config import load_preset
from vinr.errors import InputError, UsageError
from vinr.fit import Event, RoundDone, fit
from vinr.fit.fingerprint import fingerprint_of
from vinr.fit.prepare import DeviceFrames
from vinr.fit.task import Reconstruct
from vinr.models import list_models
from vinr.quality.clip import compare
from vinr.quality.record import psnr_of_mse_db
from vinr.tasks.frames import FilledFrames, MaskedFrames
from vinr.tasks.noise import Noise, NoisyFrames
from vinr.video.depth import with_depth
from vinr.video.reading import ReadOptions
from vinr.video.source import FrameTensor, open_video
from vinr.video.spec import BitDepth, FrameStream, VideoSpec

NUM_FRAMES, HEIGHT, WIDTH = 6, 36, 50


@pytest.fixture(scope="module")
def deep_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deep")
    return write_10(folder / "ramps.mkv", gradient(NUM_FRAMES, HEIGHT, WIDTH), codec="ffv1")


@pytest.fixture(scope="module")
def deep_file(deep_video: Path) -> Path:
    path = deep_video.with_suffix(".vinr")
    vinr.encode(deep_video, path, preset="hnerv-tiny", epochs=4, device="cpu")
    return path


def read(path: Path, bit_depth: BitDepth | None = None) -> FrameTensor:
    with open_video(path, options=ReadOptions(bit_depth=bit_depth)) as reader:
        return reader.read()


def test_a_file_says_10_bits_and_its_frames_are_uint16(deep_file: Path) -> None:
    with vinr.open(deep_file, device="cpu") as video:
        assert video.spec.bit_depth == 10
        assert video.clip.bit_depth == 10
        assert (video[3].dtype, video[3].shape) == (torch.uint16, (3, HEIGHT, WIDTH))
        assert (video[2:2].dtype, video[2:2].shape[0]) == (torch.uint16, 0)
        every = torch.cat(list(video.play()))
    assert int(every.int().max()) > 255
    assert vinr.info(deep_file).clips[0].bit_depth == 10
    dataset = vinr.FrameDataset(deep_file)
    assert torch.equal(torch.stack([dataset[index] for index in range(len(dataset))]), every)


@pytest.mark.parametrize(
    ("codec", "pixel_format"),
    [("ffv1", "gbrp10le"), ("ffv1", "yuv444p10le"), ("ffv1", "yuv422p12le"), ("libx265", "yuv420p10le")],
)
def test_lossless_output_is_what_was_decoded(codec: str, pixel_format: str, tmp_path: Path) -> None:
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    size = {"height": HEIGHT, "width": 64}
    source = write_clip(
        tmp_path / "in.mkv", NUM_FRAMES, codec=codec, pixel_format=pixel_format, options=options, **size
    )
    path, output = tmp_path / "in.vinr", tmp_path / "out.mkv"
    vinr.encode(source, path, preset="nerv-tiny", epochs=1, device="cpu")
    vinr.decode(path, output, codec="ffv1", device="cpu")
    with vinr.open(path, device="cpu") as video:
        assert video.spec.bit_depth == 10
        assert torch.equal(read(output).rgb_NCHW, video[:])


def test_quality_is_measured_at_10_bits_on_decoded_frames(
    deep_file: Path, deep_video: Path, tmp_path: Path
) -> None:
    vinr.decode(deep_file, tmp_path / "out.mkv", codec="ffv1", device="cpu")
    decoded, original = read(tmp_path / "out.mkv").rgb_NCHW, read(deep_video).rgb_NCHW
    mse_N = ((decoded.double() - original.double()) / 1023).square().mean(dim=(1, 2, 3))
    psnr_db = sum(map(psnr_of_mse_db, mse_N.tolist())) / NUM_FRAMES
    with vinr.open(deep_file, device="cpu") as video:
        assert video.clip.quality is not None
        assert video.clip.quality.psnr_db == pytest.approx(psnr_db, abs=1e-4)
    assert vinr.evaluate(deep_file, deep_video, device="cpu").psnr_db == pytest.approx(psnr_db, abs=1e-4)


def test_8_bit_output_on_request(deep_file: Path, tmp_path: Path) -> None:
    vinr.decode(deep_file, tmp_path / "out.mkv", codec="ffv1", bit_depth=8, device="cpu")
    vinr.decode(deep_file, tmp_path / "frames", bit_depth=8, device="cpu")
    with vinr.open(deep_file, device="cpu") as video:
        rounded = with_depth(video[:], 8)
    for output in (tmp_path / "out.mkv", tmp_path / "frames"):
        frames = read(output)
        assert (frames.spec.color.bit_depth, frames.spec.bit_depth) == (8, 8)
        assert torch.equal(frames.rgb_NCHW, rounded)


def test_8_bit_frames_of_deep_video_on_request(deep_video: Path, tmp_path: Path) -> None:
    path = tmp_path / "flat.vinr"
    vinr.encode(deep_video, path, preset="nerv-tiny", epochs=1, bit_depth=8, device="cpu")
    with vinr.open(path, device="cpu") as video:
        assert (video.spec.bit_depth, video.spec.color.bit_depth) == (8, 10)
        assert video[0].dtype == torch.uint8
    # The reference is read as the file was: at 8 bits.
    assert vinr.evaluate(path, deep_video, device="cpu").num_frames == NUM_FRAMES


def test_clips_of_two_depths_get_networks_of_their_own(deep_video: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat.mkv"
    vinr.encode(deep_video, tmp_path / "a.vinr", preset="nerv-tiny", epochs=1, bit_depth=8, device="cpu")
    vinr.decode(tmp_path / "a.vinr", flat, codec="ffv1", device="cpu")
    path = tmp_path / "set.vinr"
    joined = {"preset": "nerv-tiny", "epochs": 1, "overrides": ["fit.join_clips=true"], "device": "cpu"}
    vinr.encode([deep_video, flat], path, **joined)
    with vinr.VinrFile.open(path, device="cpu") as file:
        assert [clip.bit_depth for clip in file.header.clips] == [10, 8]
        assert len(file.header.networks) == 2
    vinr.encode([deep_video, flat], path, bit_depth=10, force=True, **joined)
    with vinr.VinrFile.open(path, device="cpu") as file:
        assert [clip.bit_depth for clip in file.header.clips] == [10, 10]
        assert len(file.header.networks) == 1


@pytest.mark.parametrize("model", list_models())
def test_every_model_fits_and_decodes_10_bits(model: str, deep_video: Path, tmp_path: Path) -> None:
    path = tmp_path / f"{model}.vinr"
    report = vinr.encode(deep_video, path, preset=f"{model}-tiny", epochs=1, device="cpu")
    with vinr.open(path, device="cpu") as video:
        every = torch.cat(list(video.play()))
        assert every.dtype == torch.uint16
        assert torch.equal(video[:], every)
        assert torch.equal(torch.stack([video[index] for index in range(NUM_FRAMES)]), every)
        quality = compare(video, read(deep_video))
    assert report.psnr_db == pytest.approx(quality.psnr_db, abs=1e-9)
    assert vinr.verify(path, device="cpu").is_whole


def test_bit_depths_are_never_compared_with_each_other(deep_video: Path) -> None:
    with pytest.raises(InputError, match="frames of 8 bits with a reference of 10"):
        compare(read(deep_video, 8), read(deep_video))


def test_codecs_are_compared_at_8_bits(deep_video: Path, deep_file: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    report = vinr.compare(
        deep_video,
        tmp_path / "page.html",
        files=[deep_file],
        anchors=["x264:20:40"],
        device="cpu",
        on_note=notes.append,
    )
    assert f"networks and codecs are compared at 8 bits; {deep_video} is rounded" in notes
    with vinr.open(deep_file, device="cpu") as video:
        rounded = FrameStream.numbered(replace(video.spec, bit_depth=8), [with_depth(video[:], 8)])
        quality = compare(rounded, read(deep_video, 8))
    points = {curve.name: curve.points for curve in report.curves}
    assert any(point.psnr_db == pytest.approx(quality.psnr_db) for point in points["vinr hnerv"])
    assert any("x264" in name for name in points)


def test_yuv_psnr_is_that_of_10_bit_planes(deep_video: Path) -> None:
    original = read(deep_video)
    moved = original.rgb_NCHW.int() + 4  # one level of 8 bits, a flat offset: chroma stays
    inside = FrameTensor(original.rgb_NCHW.int().clamp(max=1000).to(torch.uint16), original.spec)
    brighter = FrameTensor((inside.rgb_NCHW.int() + 4).to(torch.uint16), original.spec)
    assert int(moved.max()) > 1023
    quality = compare(brighter, inside, yuv=True)
    assert quality.psnr_db == pytest.approx(20 * torch.log10(torch.tensor(1023 / 4)).item(), abs=1e-3)
    assert quality.yuv_psnr_db is not None
    assert quality.yuv_psnr_db > 45


def test_sources_must_return_what_their_spec_says() -> None:
    spec = VideoSpec(2, 32, 48, Fraction(25))
    frames = FrameTensor(gradient(2), VideoSpec(2, 32, 48, Fraction(25), bit_depth=10))

    class Wrong:
        def __init__(self) -> None:
            self.spec = spec

        def frames(self, index_N: torch.Tensor) -> torch.Tensor:
            return frames.frames(index_N)

    with pytest.raises(InputError, match=r"torch\.uint16 .* its spec promises torch\.uint8"):
        DeviceFrames(Wrong(), torch.device("cpu"))
    with pytest.raises(ValueError, match=r"torch\.uint8"):
        FrameTensor(gradient(2), spec)


def test_tasks_keep_10_bits(deep_video: Path) -> None:
    frames, index_N = read(deep_video), torch.arange(NUM_FRAMES)
    mask = torch.zeros((NUM_FRAMES, 1, HEIGHT, WIDTH), dtype=torch.bool)
    mask[..., 4:9, 4:9] = True
    black = MaskedFrames(frames, mask)
    assert black.frames(index_N)[mask.expand(-1, 3, -1, -1)].int().max() == 0
    filled = FilledFrames(black, frames, mask)
    assert torch.equal(filled.frames(index_N), frames.rgb_NCHW)
    white = NoisyFrames(frames, Noise("white", 0.5)).frames(index_N)
    assert (white.dtype, int(white.int().max())) == (torch.uint16, 1023)
    noisy = NoisyFrames(frames, Noise("gaussian", 0.1)).frames(index_N)
    error = (noisy.double() - frames.rgb_NCHW.double())[:, 1:].std() / 1023
    assert float(error) == pytest.approx(0.1, abs=0.02)


def test_inpainting_writes_10_bits(deep_video: Path, tmp_path: Path) -> None:
    output = tmp_path / "filled.mkv"
    vinr.inpaint(deep_video, output, mask="center", preset="nerv-tiny", epochs=1, codec="ffv1", device="cpu")
    found, original = read(output), read(deep_video)
    assert found.spec.bit_depth == 10
    # Outside of the mask nothing changes.
    assert torch.equal(found.rgb_NCHW[..., :8, :], original.rgb_NCHW[..., :8, :])


def test_a_resumed_fit_of_10_bits_is_the_uninterrupted_one(deep_video: Path, tmp_path: Path) -> None:
    # FFNeRV keeps neighbouring frames beside its parameters, as levels.
    preset = load_preset("ffnerv-tiny", ["fit.epochs=3", "fit.phases=[]", "fit.precision=fp32"])
    frames, checkpoint = read(deep_video), tmp_path / "state.fit"
    whole = fit(frames, preset)

    def interrupt(event: Event) -> None:
        if isinstance(event, RoundDone) and event.epochs_done >= 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(frames, preset, checkpoint=checkpoint, on_event=interrupt)
    resumed = fit(frames, preset, checkpoint=checkpoint, resume=True)
    for name, item in whole.model.stored().items():
        assert torch.equal(resumed.model.stored()[name].value, item.value), name
    deep, flat = (
        fingerprint_of(source, preset, Reconstruct(), None) for source in (frames, read(deep_video, 8))
    )
    with pytest.raises(UsageError, match="bit_depth 8 was 10"):
        flat.check(deep)


def test_trainer_takes_sources_of_10_bits(deep_video: Path) -> None:
    trainer = vinr.Trainer(read(deep_video), load_preset("hnerv-tiny", ["fit.epochs=1"]))
    trainer.step()
    assert trainer.model.video.bit_depth == 10
