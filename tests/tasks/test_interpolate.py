"""Frames between frames: of a file, and as an experiment on frames that are known."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import vinr
from clips import MemoryClip, moving_shapes
from command_line import Run, refused
from vinr.config import Preset
from vinr.encoding.plan import choose_preset
from vinr.errors import UsageError
from vinr.fit import fit
from vinr.models import HybridModel, get_model, list_models
from vinr.tasks import Interpolate, Noise
from vinr.tasks.denoising import measure_denoising
from vinr.tasks.frames import FittedFrames
from vinr.tasks.interpolation import encoded_frames, measure_interpolation
from vinr.video.source import open_video
from vinr.video.spec import Query, to_levels

EVERY_MODEL = pytest.mark.parametrize("model", list_models())


@pytest.fixture(scope="module")
def clip() -> MemoryClip:
    return moving_shapes(num_frames=5, height=32, width=48)


def tiny(model: str, clip: MemoryClip, *, epochs: int) -> Preset:
    settings = [f"fit.epochs={epochs}", "fit.loss={l2=1.0}"]
    return choose_preset(
        clip.spec, model=None, preset=f"{model}-tiny", num_parameters=None, overrides=settings
    )


def hybrid_models() -> list[str]:
    return [name for name in list_models() if issubclass(get_model(name), HybridModel)]


def psnr_db(first_NCHW: Tensor, second_NCHW: Tensor) -> float:
    """Return the mean over frames, computed in another way than the package does."""
    error_NCHW = (first_NCHW.double() - second_NCHW.double()) / 255
    per_frame = [-10 * math.log10(float(frame.pow(2).mean()) + 1e-9) for frame in error_NCHW]
    return sum(per_frame) / len(per_frame)


# -- of a file -----------------------------------------------------------------------------------------------


def test_frames_between_the_frames_of_a_file(run: Run, tiny_file: Path, tmp_path: Path) -> None:
    status, out, err = run("interpolate", tiny_file, "--factor", 3, tmp_path / "slow", "--device", "cpu")
    assert status == 0, err
    assert " dB from mixed neighbours; true ones are not known\n" in out
    with open_video(tmp_path / "slow") as reader:
        written = reader.read().rgb_NCHW
    with vinr.open(tiny_file, device="cpu") as video:
        assert len(written) == 3 * (len(video) - 1) + 1
        assert torch.equal(written[::3], torch.stack(list(video)))
        assert torch.equal(written[4], video.frames(torch.tensor([1 + 1 / 3], dtype=torch.float64))[0])
    assert not torch.equal(written[4], written[3])


def test_interpolating_is_decoding_at_a_higher_rate(run: Run, tiny_file: Path, tmp_path: Path) -> None:
    report = vinr.interpolate(tiny_file, tmp_path / "a.y4m", device="cpu")
    assert report.num_frames == 15
    assert report.between is not None
    assert report.between.num_places == 6
    assert run("decode", tiny_file, tmp_path / "b.y4m", "--fps-scale", 2, "--device", "cpu")[0] == 0
    assert (tmp_path / "a.y4m").read_bytes() == (tmp_path / "b.y4m").read_bytes()
    with open_video(tmp_path / "a.y4m") as reader:
        assert reader.spec.fps == 50


def test_bad_interpolations_are_refused(run: Run, tiny_file: Path, tmp_path: Path) -> None:
    for factor in (1, 17):
        with pytest.raises(UsageError, match=f"factor {factor}: give a whole number from 2 to 16"):
            vinr.interpolate(tiny_file, tmp_path / "out.y4m", factor=factor)
    refused(run("interpolate", tmp_path / "no.vinr", tmp_path / "out.y4m"), "no.vinr")
    refused(run("interpolate", tiny_file, tmp_path / "out.avi"), ".avi")
    kept = tmp_path / "kept.y4m"
    kept.write_bytes(b"precious")
    refused(run("interpolate", tiny_file, kept), "--force")
    assert list(tmp_path.iterdir()) == [kept]


# -- the experiment ------------------------------------------------------------------------------------------


@EVERY_MODEL
def test_every_model_is_measured_in_its_ways(model: str, clip: MemoryClip) -> None:
    score = measure_interpolation(clip, tiny(model, clip, epochs=1))
    expected = ["embeddings", "encoder"] if model in hybrid_models() else ["time"]
    assert [held_out.way for held_out in score.held_out] == expected
    assert score.held_out_frames == (1, 3)
    assert all(len(held_out.per_frame_psnr_db) == 2 for held_out in score.held_out)
    assert score.by(score.held_out[0].way) == score.held_out[0]


def test_baselines_are_the_nearest_frame_and_the_mean(clip: MemoryClip) -> None:
    score = measure_interpolation(clip, tiny(list_models()[0], clip, epochs=1))
    rgb_NCHW = clip.rgb_NCHW.double()
    assert score.nearest_psnr_db == pytest.approx(psnr_db(rgb_NCHW[[0, 2]], rgb_NCHW[[1, 3]]), abs=1e-6)
    mean_NCHW = ((rgb_NCHW[[0, 2]] + rgb_NCHW[[2, 4]]) / 2).round()
    assert score.mean_psnr_db == pytest.approx(psnr_db(mean_NCHW, rgb_NCHW[[1, 3]]), abs=1e-6)
    with pytest.raises(UsageError, match="one frame"):
        measure_interpolation(MemoryClip(clip.rgb_NCHW[:1]), tiny(list_models()[0], clip, epochs=1))


@pytest.mark.parametrize("model", hybrid_models())
def test_embeddings_and_encoder_are_what_they_are_called(model: str, clip: MemoryClip) -> None:
    task, held_out_N = Interpolate(2), torch.tensor([1, 3])
    result = fit(clip, tiny(model, clip, epochs=2), task, keep_encoder=True)
    network = result.model
    assert isinstance(network, HybridModel)
    assert network.latents is not None
    assert result.encoder is not None
    mixed = {name: value.detach().clone() for name, value in network.latents.per_frame.items()}
    network.encoder = result.encoder
    with torch.no_grad():
        encoded = network.encode(clip, held_out_N).per_frame
    network.drop_encoder()
    before = FittedFrames(network, clip.spec).frames(held_out_N)
    with encoded_frames(network, result.encoder, clip, held_out_N):
        inside = {name: value.detach().clone() for name, value in network.latents.per_frame.items()}
    for name, value in encoded.items():
        assert torch.allclose(inside[name][held_out_N], value, atol=1e-6)
        assert not torch.allclose(inside[name][held_out_N], mixed[name][held_out_N], atol=1e-6)
        assert torch.equal(inside[name][::2], mixed[name][::2])
        assert torch.equal(network.latents.per_frame[name], mixed[name])
    assert torch.equal(FittedFrames(network, clip.spec).frames(held_out_N), before)
    assert network.encoder is None


def test_the_encoder_sees_what_embeddings_cannot(clip: MemoryClip) -> None:
    # A flash in a held-out frame: no mix of neighbours shows it, the encoder was given it.
    flashing = clip.rgb_NCHW.clone()
    flashing[1] = 255 - flashing[1]
    first, second = (
        measure_interpolation(MemoryClip(rgb_NCHW), tiny(hybrid_models()[0], clip, epochs=3))
        for rgb_NCHW in (clip.rgb_NCHW, flashing)
    )
    assert first.seen_psnr_db == second.seen_psnr_db
    for way in ("embeddings", "encoder"):
        own, other = (score.by(way).per_frame_psnr_db for score in (first, second))  # type: ignore[arg-type]
        assert own[0] != other[0]
    assert first.by("embeddings").per_frame_psnr_db[1] == second.by("embeddings").per_frame_psnr_db[1]


def test_fitted_frames_are_the_networks(clip: MemoryClip) -> None:
    result = fit(clip, tiny(list_models()[0], clip, epochs=1))
    index_N = torch.tensor([4, 0, 2])
    with torch.no_grad():
        expected = torch.cat(
            [to_levels(result.model(Query.of_frames(index_N[i : i + 1])), 8) for i in range(3)]
        )
    assert torch.equal(FittedFrames(result.model, clip.spec).frames(index_N), expected)


# -- denoising -----------------------------------------------------------------------------------------------


def test_a_small_network_leaves_noise_out(clip: MemoryClip) -> None:
    noise = Noise("salt_pepper", 0.3)
    score = measure_denoising(clip, tiny(hybrid_models()[0], clip, epochs=15), noise)
    noisy = torch.stack([noise.add(rgb_CHW, index) for index, rgb_CHW in enumerate(clip.rgb_NCHW)])
    assert score.input_psnr_db == pytest.approx(psnr_db(noisy, clip.rgb_NCHW), abs=1e-6)
    assert score.psnr_db > score.input_psnr_db + 1
    assert score.psnr_db > score.noisy_psnr_db
