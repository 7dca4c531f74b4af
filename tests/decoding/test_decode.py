"""Random access: a frame alone, in a slice, by time, from bytes; only what it needs is read."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from multiprocessing import get_all_start_methods
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader

import vinr
from vinr.config import list_presets
from vinr.decoding.file import VinrFile, split_clip
from vinr.decoding.settings import DecodeSettings
from vinr.models import list_models
from vinr.video.spec import to_levels

TINY = [name for name in list_presets() if name.endswith("-tiny")]


@pytest.fixture(scope="module", params=list_models())
def file(request: pytest.FixtureRequest, model_file: Callable[[str], Path]) -> Path:
    """A file of each model: 8 frames of 36×50 pixels."""
    return model_file(request.param)


def test_frames_have_the_size_of_the_video(file: Path) -> None:
    with vinr.open(file, device="cpu") as video:
        assert (len(video), video.spec.num_frames, video.spec.height, video.spec.width) == (8, 8, 36, 50)
        assert video.spec.fps == 25
        assert video[0].shape == (3, 36, 50)
        assert video[0].dtype == torch.uint8


def test_any_access_gives_the_same_frame_bit_for_bit(file: Path) -> None:
    with vinr.open(file, device="cpu") as video:
        whole = torch.stack(list(video))
    with vinr.open(file, device="cpu") as video:
        assert torch.equal(video[5], whole[5])
        assert torch.equal(video[-1], whole[7])
        assert torch.equal(video[1:7:3], whole[1:7:3])
        assert torch.equal(video[::-1], whole.flip(0))
        batch = video.frames_at([6, 0, 6, -2])
        assert batch.index_N.tolist() == [6, 0, 6, 6]
        assert torch.equal(batch.rgb_NCHW, whole[[6, 0, 6, 6]])
        assert torch.equal(video.frames_played_at([0.0, 0.1, 0.31]).rgb_NCHW, whole[[0, 2, 7]])


def test_file_bytes_and_path_decode_alike(tiny_file: Path) -> None:
    content = tiny_file.read_bytes()
    frames = []
    for source in (tiny_file, str(tiny_file), content, io.BytesIO(content)):
        with vinr.open(source, device="cpu") as video:
            frames.append(video[3])
    assert all(torch.equal(frame, frames[0]) for frame in frames)


def test_frame_number_out_of_range(tiny_file: Path) -> None:
    with vinr.open(tiny_file, device="cpu") as video:
        for index in (8, -9):
            with pytest.raises(IndexError, match="frames 0 to 7"):
                video[index]
        with pytest.raises(IndexError, match=r"plays from 0 to 0\.320 s"):
            video.frames_played_at([0.32])
        assert video[3:3].shape == (0, 3, 36, 50)


@pytest.mark.parametrize("time", [-3.0, -0.5, 7.5, 8.0, float("nan"), float("inf"), float("-inf")])
def test_times_outside_of_the_clip_are_python_s_own_errors(tiny_file: Path, time: float) -> None:
    with vinr.open(tiny_file, device="cpu") as video:
        for ask in (
            lambda: video.frames(torch.tensor([0.0, time])),
            lambda: list(map(video.frames, [torch.tensor([time])])),
            lambda: video.play([0, time]),
            lambda: video.frames_played_at([time]),
        ):
            with pytest.raises(
                IndexError,
                match=r"^time (-?[0-9.]+|nan|-?inf) (in frames is out of range|s); the clip [^\n]*$",
            ):
                ask()


def test_numbers_of_frames_are_those_of_python(tiny_file: Path) -> None:
    with vinr.open(tiny_file, device="cpu") as video:
        whole = torch.stack(list(video))
        for one in (True, np.int64(1), np.uint8(1), torch.tensor(1)):
            assert torch.equal(video[one], whole[1])
        assert torch.equal(video[[3, -1, 3]], whole[[3, 7, 3]])
        assert video[[]].shape == (0, 3, 36, 50)
        for wrong in (1.5, "1", None, [1, 1.5]):
            with pytest.raises(TypeError, match=r"frame numbers are integers, not (float|str|NoneType): "):
                video[wrong]  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="not float"):
            video.frames_at([1.5])  # type: ignore[list-item]


def test_a_closed_file_says_so_whatever_it_is_asked_for(tiny_file: Path) -> None:
    video = vinr.open(tiny_file, device="cpu")
    started = video.play()
    next(started)
    video[0]  # its network is in memory
    video.close()
    video.close()
    for ask in (
        lambda: video[0],
        lambda: video.frames(torch.tensor([])),
        lambda: list(video),
        lambda: video.play(),
        lambda: next(started),
        lambda: video.audio(),
        lambda: video.file.verify(),
        lambda: video.file.networks.parts(0),
        lambda: pickle.dumps(video),
    ):
        with pytest.raises(vinr.InputError, match=r"^the file is closed; open it again to decode$"):
            ask()
    assert len(video) == 8


def test_a_file_object_that_is_closed_by_its_owner(tiny_file: Path) -> None:
    for file in (io.BytesIO(tiny_file.read_bytes()), tiny_file.open("rb")):
        video = vinr.open(file, device="cpu")
        file.close()
        with pytest.raises(
            vinr.InputError, match=r"^the file cannot be read \(.*closed file\); open it again$"
        ):
            video[0]
    with pytest.raises(vinr.InputError, match="is not seekable"):
        vinr.open(file)


def test_a_decoder_is_pickled_as_what_it_opened(tiny_file: Path) -> None:
    settings = DecodeSettings(convolution="direct")
    for file in (tiny_file, f"{tiny_file}#shapes", tiny_file.read_bytes()):
        with (
            vinr.open(file, device="cpu", settings=settings) as video,
            pickle.loads(pickle.dumps(video)) as other,
        ):
            assert torch.equal(other[5], video[5])
            assert other.clip == video.clip
    with VinrFile.open(tiny_file, device="cpu", max_memory="5GB") as file:
        # A worker that got other limits or times than its parent would refuse, or show other frames.
        other = pickle.loads(pickle.dumps(file.clip(constant_rate=True)))
        assert other.file.networks.max_memory == 5_000_000_000
        assert other.__reduce__()[0].keywords["constant_rate"]
        other.file.close()
    advice = "open the file by its path or as bytes"
    with (
        tiny_file.open("rb") as opened,
        vinr.open(opened, device="cpu") as video,
        pytest.raises(TypeError, match=advice),
    ):
        pickle.dumps(video)


def test_another_default_type_is_refused_in_a_line(tiny_file: Path) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(vinr.UsageError, match=r"^PyTorch's default type is torch\.float64; [^\n]*$"):
            vinr.open(tiny_file)
    finally:
        torch.set_default_dtype(torch.float32)


def test_any_name_behind_a_file_is_a_clip(tmp_path: Path) -> None:
    folder = tmp_path / "old.vinr#1"
    folder.mkdir()
    for path in (tmp_path / "set.vinr", folder / "set.vinr", tmp_path / "alone.vinr#2"):
        path.touch()
    for name in ("b", "take#2", "#", "", "c.vinr#d"):
        assert split_clip(f"{tmp_path}/set.vinr#{name}") == (f"{tmp_path}/set.vinr", name)
        assert split_clip(f"{folder}/set.vinr#{name}") == (f"{folder}/set.vinr", name)
    for alone in (f"{folder}/set.vinr", f"{tmp_path}/alone.vinr#2", f"{tmp_path}/set.mp4#b", "nothing.vinr"):
        assert split_clip(alone) == (alone, None)
    assert split_clip("nothing.vinr#a#b") == ("nothing.vinr", "a#b")


def test_one_frame_reads_only_its_latents(file: Path) -> None:
    with vinr.open(file, device="cpu") as video:
        video[2]
        one = video.file.bytes_read
        list(video)
        everything = video.file.bytes_read
        chunks = video.file.header.networks[0].num_chunks
    if chunks > 1:
        latents = (everything - one) / (chunks - 1)
        assert one < everything - latents * (chunks - 2)
    else:
        assert one == everything
    assert everything == file.stat().st_size


def test_frames_between_frames_are_interpolated(file: Path) -> None:
    with vinr.open(file, device="cpu") as video:
        between = video.frames(torch.tensor([2.5], dtype=torch.float64))
        whole = video.frames(torch.tensor([2.0, 3.0], dtype=torch.float64))
        assert torch.equal(whole, video[2:4])
        assert between.shape == (1, 3, 36, 50)


def test_dataset_works_in_worker_processes(tiny_file: Path) -> None:
    dataset = vinr.FrameDataset(tiny_file)
    assert len(pickle.loads(pickle.dumps(dataset))) == 8
    with vinr.open(tiny_file, device="cpu") as video:
        whole = torch.stack(list(video))
    loaded = torch.cat(list(DataLoader(dataset, batch_size=3)))
    assert torch.equal(loaded, whole)
    with vinr.open(tiny_file, device="cpu") as video:
        video[0]
        every = ConcatDataset([dataset, vinr.FrameDataset(tiny_file), video])  # used, not used, a decoder
        order = torch.randperm(24, generator=torch.Generator().manual_seed(1)).tolist()
        for start in sorted({"fork", "spawn"} & set(get_all_start_methods())):
            loader = DataLoader(
                every, batch_size=5, sampler=order, num_workers=2, multiprocessing_context=start
            )
            assert torch.equal(torch.cat(list(loader)), whole.repeat(3, 1, 1, 1)[order]), start


def test_clip_must_be_known(tiny_file: Path) -> None:
    with vinr.open(f"{tiny_file}#shapes", device="cpu") as video:
        assert video[0].shape == (3, 36, 50)
    with pytest.raises(vinr.UsageError, match="no clip 'other' in the file; it holds shapes"):
        vinr.open(f"{tiny_file}#other")


def test_rounding_to_eight_bits() -> None:
    values = torch.tensor([[-0.1, 0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 1.7]])
    assert to_levels(values, 8).tolist() == [[0, 0, 0, 1, 255, 255]]


def test_every_model_has_a_tiny_preset() -> None:
    assert sorted(name.removesuffix("-tiny") for name in TINY) == list_models()
