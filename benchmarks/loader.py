"""Random frames per second, as a PyTorch DataLoader reads them: from a .vinr file, and from H.264.

    python -m benchmarks.loader --time 20m

Bunny as HNeRV, fitted for so long by the clock, and as H.264 by x264 (preset medium, 4:2:0) of the same PSNR,
or of --psnr: that which the network has where it is fitted to the end, since how long it was fitted changes
nothing about how fast it is decoded. The CRF is found by bisection, for keyframes at every frame, at every
12, and where x264 puts them. PyAV and torchcodec read H.264: they seek to the keyframe before a frame and
decode up to it; a batch is read in rising order, so that no frame is decoded twice for it. vinr.FrameDataset
decodes each frame by itself.

All readers open their file once per process, before the clock starts, and use one thread per process. An
epoch of random frames is timed from the first request to the last batch. What is compared takes turns.
"CPU ms" is the CPU time of a frame in the reading process, without workers: it leaves out what other programs
take. torchcodec is optional (its wheels bring no FFmpeg: its libraries have to be on LD_LIBRARY_PATH).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final

import av
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

import vinr
from benchmarks import _record
from vinr.compress.rescale import bisect_largest
from vinr.errors import plural
from vinr.quality.clip import psnr_per_frame_db
from vinr.video.samples import sample_clip
from vinr.video.source import open_video
from vinr.video.spec import to_unit

CROP: Final = (640, 1280)
# Rows and columns: the network that the HNeRV paper fits to Bunny at that size.
NETWORKS: Final = {(160, 320): "hnerv-0.19m-bunny4", (640, 1280): "hnerv-0.35m-bunny"}
KEYFRAMES: Final = {"every frame": "1", "every 12": "12", "default": None}
BATCHES: Final = (1, 8, 32)
WORKERS: Final = (0, 2)
MAX_CRF: Final = 51.0
# Steps of 0.4 of CRF.
CRF_TRIALS: Final = 7
FRAMES_SCORED_AT_ONCE: Final = 8


# -- readers -------------------------------------------------------------------------------------------------


class PyAVFrames(Dataset[Tensor]):
    """The frames of an H.264 file as uint8 rgb_CHW, by PyAV.

    Opened in the process that reads: what was read before a fork cannot be read after it.
    """

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._container: Any = None
        self._frames: Iterator[Any] = iter(())
        self._next = -1  # the frame that comes next without a seek
        with av.open(self._path) as container:
            stream = container.streams.video[0]
            packets = [packet for packet in container.demux(stream) if packet.pts is not None]
        self._pts = sorted(packet.pts for packet in packets)
        keyframes = {packet.pts for packet in packets if packet.is_keyframe}
        self._is_keyframe = [pts in keyframes for pts in self._pts]

    def __len__(self) -> int:
        return len(self._pts)

    def __getitem__(self, index: int) -> Tensor:
        if self._container is None:
            self._container = av.open(self._path)
            self._container.streams.video[0].thread_count = 1
        # A seek costs nothing less than going on, unless a keyframe lies between here and there.
        if not 0 <= self._next <= index or any(self._is_keyframe[self._next + 1 : index + 1]):
            self._container.seek(self._pts[index], stream=self._container.streams.video[0])
            self._frames = self._container.decode(video=0)
        frame = next(frame for frame in self._frames if frame.pts == self._pts[index])
        self._next = index + 1
        return torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)

    def __getitems__(self, indices: Sequence[int]) -> list[Tensor]:
        """Return the frames of a batch, read in rising order."""
        frames = {index: self[index] for index in sorted(set(indices))}
        return [frames[index] for index in indices]


class TorchcodecFrames(Dataset[Tensor]):
    """The same by torchcodec, which puts the frames of a batch in order itself."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._decoder: Any = None
        self._num_frames = len(PyAVFrames(path))

    def __len__(self) -> int:
        return self._num_frames

    def __getitem__(self, index: int) -> Tensor:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Tensor]:
        """Return the frames of a batch."""
        if self._decoder is None:
            from torchcodec.decoders import VideoDecoder

            self._decoder = VideoDecoder(self._path, num_ffmpeg_threads=1)
        return list(self._decoder.get_frames_at(indices=list(indices)).data.unbind())


def find_torchcodec() -> str | None:
    """Return the version of torchcodec, None where it cannot be used."""
    try:
        import torchcodec.decoders  # noqa: F401

        return version("torchcodec")
    except (ImportError, OSError, RuntimeError, PackageNotFoundError):
        return None


@dataclass
class Reader:
    """A file, who reads it, and what was measured."""

    name: str
    keyframes: str
    path: Path
    make: Callable[[Path], Dataset[Tensor]]
    psnr_db: float
    crf: float | None = None
    frames_per_second: dict[tuple[int, int], list[float]] = field(default_factory=dict)
    cpu_ms: dict[int, list[float]] = field(default_factory=dict)

    def row(self, size: tuple[int, int]) -> dict[str, Any]:
        """Return the medians, one row of the table."""
        row: dict[str, Any] = {
            "frame": f"{size[0]}×{size[1]}",
            "reader": self.name,
            "keyframes": self.keyframes,
            "bytes": self.path.stat().st_size,
            "PSNR dB": round(self.psnr_db, 2),
            "CRF": "" if self.crf is None else round(self.crf, 1),
        }
        for batch, values in self.cpu_ms.items():
            row[f"CPU ms, batch {batch}"] = median(values)
        for (batch, workers), values in self.frames_per_second.items():
            row[f"frames/s, batch {batch}, {workers} workers"] = median(values)
        return row


# -- files ---------------------------------------------------------------------------------------------------


def encode_h264(rgb_NCHW: Tensor, path: Path, *, rate: Any, crf: float, keyframes: str | None) -> None:
    """Write frames as H.264 in MP4."""
    options = {"preset": "medium", "crf": f"{crf:.3f}", "threads": "1"}
    if keyframes is not None:
        options |= {"g": keyframes, "keyint_min": keyframes, "sc_threshold": "0"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = *rgb_NCHW.shape[2:], "yuv420p"
        for rgb_CHW in rgb_NCHW:
            frame = av.VideoFrame.from_ndarray(rgb_CHW.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def psnr_db(frames: Dataset[Tensor], original_NCHW: Tensor, *, every: int = 1) -> float:
    """Return the mean PSNR over all frames, or one in so many, as they are read in order."""
    values: list[float] = []
    for index_N in torch.split(torch.arange(0, len(original_NCHW), every), FRAMES_SCORED_AT_ONCE):
        read_NCHW = torch.stack([frames[index] for index in index_N.tolist()])
        values += psnr_per_frame_db(to_unit(read_NCHW), to_unit(original_NCHW[index_N])).tolist()
    return fmean(values)


def h264_of_psnr(
    original_NCHW: Tensor, path: Path, *, rate: Any, target_db: float, keyframes: str | None
) -> tuple[float, float]:
    """Write H.264 of ``target_db``, by one frame in eight; return its CRF, and the PSNR of all frames."""

    def encoded_db(amount: float, every: int) -> float:
        encode_h264(original_NCHW, path, rate=rate, crf=MAX_CRF * amount, keyframes=keyframes)
        return psnr_db(PyAVFrames(path), original_NCHW, every=every)

    def is_good(amount: float) -> bool:
        return encoded_db(amount, FRAMES_SCORED_AT_ONCE) >= target_db

    amount = bisect_largest(is_good, low=0.0, num_trials=CRF_TRIALS)
    return MAX_CRF * amount, encoded_db(amount, 1)


def make_readers(
    size: tuple[int, int],
    folder: Path,
    budget: dict[str, Any],
    target_db: float | None,
    torchcodec: str | None,
) -> list[Reader]:
    """Return all readers of Bunny at ``size``; files that ``folder`` has already are taken as they are.

    H.264 has ``target_db``, that of the network if None.
    """
    clip = str(sample_clip())
    resize = None if size == CROP else size
    with open_video(clip, crop=CROP, resize=resize) as video:
        original_NCHW, rate = video.read().rgb_NCHW, video.spec.frame_rate
    path = folder / f"hnerv-{size[0]}x{size[1]}.vinr"
    if not path.exists():
        vinr.encode(clip, path, preset=NETWORKS[size], crop=CROP, resize=resize, device="cpu", **budget)
    network_db = psnr_db(vinr.FrameDataset(path), original_NCHW)
    readers = [Reader("vinr.FrameDataset", "–", path, vinr.FrameDataset, network_db)]
    for name, keyframes in KEYFRAMES.items():
        path = folder / f"h264-{size[0]}x{size[1]}-{keyframes or 'default'}.mp4"
        crf, reached_db = h264_of_psnr(
            original_NCHW, path, rate=rate, target_db=target_db or network_db, keyframes=keyframes
        )
        readers.append(Reader("PyAV", name, path, PyAVFrames, reached_db, crf))
        if torchcodec is not None:
            reached_db = psnr_db(TorchcodecFrames(path), original_NCHW)
            readers.append(Reader("torchcodec", name, path, TorchcodecFrames, reached_db, crf))
    return readers


# -- measuring -----------------------------------------------------------------------------------------------


class Order(Sampler[int]):
    """Gives the numbers that were put into it."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def __iter__(self) -> Iterator[int]:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def measure(reader: Reader, numbers: Sequence[int], batch: int, workers: int) -> None:
    """Read frames ``numbers`` once, after a batch for each process that opens its file."""
    order = Order()
    loader: DataLoader[Tensor] = DataLoader(
        reader.make(reader.path),
        batch_size=batch,
        sampler=order,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=_one_thread,
    )
    order.numbers = list(numbers[:1]) * (batch * max(workers, 1))
    for _ in loader:
        pass
    order.numbers = list(numbers)
    started, started_cpu = time.perf_counter(), time.process_time()
    count = sum(map(len, loader))
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
    assert count == len(numbers)
    reader.frames_per_second.setdefault((batch, workers), []).append(count / seconds)
    if not workers:
        reader.cpu_ms.setdefault(batch, []).append(1000 * cpu_seconds / count)


def take_turns(readers: Sequence[Reader], *, turns: int, num_frames: int) -> None:
    """Measure all readers, one after another, ``turns`` times."""
    for turn in range(turns):
        drawn, count = random.Random(turn), len(PyAVFrames(readers[1].path))
        for batch in BATCHES:
            numbers = [drawn.randrange(count) for _ in range(num_frames)]
            for workers in WORKERS:
                for reader in readers:
                    measure(reader, numbers, batch, workers)
        print(f"turn {turn + 1} of {turns}", flush=True)


def main() -> None:
    """Measure both sizes and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--time", default="20m", help="time of a fit, such as 20m")
    parser.add_argument("--epochs", type=int, help="epochs of a fit, in place of a time")
    parser.add_argument("--psnr", type=float, help="that of H.264 in dB (default: that of the network)")
    parser.add_argument("--turns", type=int, default=3, help="measurements of each")
    parser.add_argument("--frames", type=int, default=64, help="random frames of a measurement")
    parser.add_argument("--folder", type=Path, default=Path("loader"), help="where files and rows are kept")
    parser.add_argument("--sizes", nargs="+", default=["160x320", "640x1280"], help="rows x columns")
    parser.add_argument("--write", action="store_true", help="write docs/results/loader.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(exist_ok=True)
    torchcodec = find_torchcodec()
    rows: list[dict[str, Any]] = []
    settings: dict[str, dict[str, Any]] = {}
    for text in options.sizes:
        kept = options.folder / f"rows-{text}.json"
        if not kept.exists():
            height, width = map(int, text.split("x"))
            budget = {"time": options.time} if options.epochs is None else {"epochs": options.epochs}
            readers = make_readers((height, width), options.folder, budget, options.psnr, torchcodec)
            take_turns(readers, turns=options.turns, num_frames=options.frames)
            conditions = {
                "turns": options.turns,
                "frames": options.frames,
                "fit": options.time if options.epochs is None else plural(options.epochs, "epoch"),
                "psnr": options.psnr,
                "torchcodec": torchcodec,
                "PyAV": version("av"),
                "load average": os.getloadavg()[1],
            }
            own = [reader.row((height, width)) for reader in readers]
            kept.write_text(json.dumps({"conditions": conditions, "rows": own}))
        document = json.loads(kept.read_text())
        settings[text] = document["conditions"]
        rows += document["rows"]
        print(_record.table(rows), flush=True)
    if options.write:
        sizes = " ".join(options.sizes)
        command = f"python -m benchmarks.loader --sizes {sizes} --write"
        _record.write("loader", command, settings, rows, page_text(rows, settings))


def describe(size: str, conditions: dict[str, Any]) -> str:
    """Return a line on how the frames of a size were measured."""
    network, target_db = f"a fit of {conditions['fit']}", conditions["psnr"]
    which = "of the PSNR of the network" if target_db is None else f"of {target_db} dB"
    return (
        f"- {size.replace('x', '×')}: {network}, H.264 {which}; {conditions['turns']} turns of "
        f"{conditions['frames']} random frames each; PyAV {conditions['PyAV']}, torchcodec "
        f"{conditions['torchcodec'] or 'could not be used'}; load average {conditions['load average']:.1f}"
    )


def page_text(rows: Sequence[dict[str, Any]], settings: dict[str, dict[str, Any]]) -> str:
    """Return the page: what was done, then a table for CPU time and one for frames per second."""
    about = (__doc__ or "").partition("\n\n    ")[0] + "\n\n" + (__doc__ or "").partition("--time 20m\n\n")[2]
    lines = [describe(size, conditions) for size, conditions in settings.items()]
    where = (
        "\n".join(lines)
        + f"\n\nMedians of the turns, on {os.cpu_count()} CPUs. Where the load average is above "
        "that, frames per second are those of a busy machine, and say little where a frame takes less than a "
        "few milliseconds of CPU time."
    )
    common = ("frame", "reader", "keyframes", "bytes", "PSNR dB")
    cpu = [{key: row[key] for key in row if key in (*common, "CRF") or key.startswith("CPU")} for row in rows]
    wall = []
    for row in rows:
        short = {key.removeprefix("frames/s, "): row[key] for key in row if key.startswith("frames/s")}
        wall.append({**{key: row[key] for key in ("frame", "reader", "keyframes")}, **short})
    return f"{about}\n{where}\n\n{_record.table(cpu)}\n\nFrames per second:\n\n{_record.table(wall)}"


if __name__ == "__main__":
    main()
