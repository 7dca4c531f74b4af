"""A program of a user, with annotations: it uses all public names, and mypy checks it (test_public.py)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

import vinr
from vinr.config import load_preset
from vinr.fit import RoundDone


def encode_and_score(video: Path, mask: Path, folder: Path) -> tuple[float, int]:
    file = folder / "a.vinr"
    encoded: vinr.EncodeReport = vinr.encode([video], file, params="30k", epochs=1, device="cpu")
    decoded: vinr.DecodeReport = vinr.decode(file, folder / "a.mkv", frames=[0, 2], codec="ffv1")
    scored: vinr.EvaluationReport = vinr.evaluate(file, video, settings=vinr.DecodeSettings(batch=2))
    filled: vinr.InpaintReport = vinr.inpaint(video, folder / "filled.mkv", mask=mask, epochs=1)
    slower: vinr.InterpolateReport = vinr.interpolate(file, folder / "slow.y4m", factor=2)
    compared: vinr.ComparisonReport = vinr.compare(
        video, folder / "page.html", files=[file], anchors=["x264"]
    )
    converted: vinr.ConvertReport = vinr.convert(folder / "published.pth", folder / "b.vinr", fps=25)
    exported: tuple[vinr.ExportedGraph | vinr.ExportedWeights, ...] = vinr.export(file, folder / "a.onnx")
    planned: vinr.CapacityReport = vinr.plan(video, params="30k", segment="5s", workers=2)
    seconds = encoded.seconds + filled.seconds + 3600 * planned.wall_hours
    num_frames = decoded.num_frames + slower.num_frames + converted.num_frames + exported[0].num_frames
    return scored.psnr_db + seconds, num_frames + len(compared.curves)


def describe(file: str) -> list[str]:
    held: vinr.FileInfo = vinr.info(file)
    checked: vinr.VerifyReport = vinr.verify(file)
    lines = [*held.bytes_by_component, *checked.lines()]
    with vinr.VinrFile.open(file, device="cpu") as opened:
        for name in opened.clip_names:
            clip: vinr.VideoDecoder = opened.clip(name)
            spec: vinr.VideoSpec = clip.spec
            lines.append(f"{name}: {spec.num_frames} frames, {clip.audio() is not None}")
    return lines


class Reversed:
    """A frame source that shows another one backwards."""

    def __init__(self, source: vinr.FrameSource) -> None:
        self._source = source

    @property
    def spec(self) -> vinr.VideoSpec:
        return self._source.spec

    def frames(self, index_N: torch.Tensor) -> torch.Tensor:
        return self._source.frames(self.spec.num_frames - 1 - index_N)


def darker(stream: vinr.FrameStream) -> Iterator[vinr.FrameBatch]:
    for batch in stream:
        yield vinr.FrameBatch(batch.index_N, batch.rgb_NCHW // 2)


def play(file: bytes) -> torch.Tensor:
    try:
        with vinr.open(file, clip="a", device="cpu", settings=vinr.DecodeSettings()) as video:
            frame: torch.Tensor = video[0]
            frames: torch.Tensor = video[1:3]
            batch: vinr.FrameBatch = video.frames_at([0, -1])
            backwards = vinr.FrameStream.of(Reversed(video))
            dark = vinr.FrameStream(video.spec, darker(backwards))
            played = torch.cat([part.rgb_NCHW for part in dark])
            return torch.cat([frame[None], frames, batch.rgb_NCHW, played, *video.play([0.5])])
    except (vinr.BitstreamError, vinr.InputError, vinr.LimitError, vinr.OutOfMemoryError) as error:
        raise SystemExit(error.exit_status) from error
    except (vinr.UsageError, vinr.OutputError, vinr.FitError, vinr.RankError) as error:
        wrong: vinr.VinrError = error
        raise SystemExit(str(wrong)) from None


def absolute(prediction_NCHW: torch.Tensor, target_NCHW: torch.Tensor) -> torch.Tensor:
    return (prediction_NCHW - target_NCHW).abs().mean((1, 2, 3))


def train(frames: vinr.FrameSource) -> float:
    preset = load_preset("nerv-tiny", ["fit.epochs=2", "fit.phases=[]"])
    trainer = vinr.Trainer(frames, preset, loss=absolute)
    seconds = [event.seconds_left for event in trainer.rounds() if isinstance(event, RoundDone)]
    return trainer.finish().seconds + sum(seconds)


def dataset(file: Path) -> vinr.FrameDataset:
    return vinr.FrameDataset(file, clip="a")
