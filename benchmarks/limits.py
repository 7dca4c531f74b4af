"""What files may cost by default, and what networks do cost: whether every legitimate file opens.

For each model at four frame sizes, 132 frames: twice the smallest network that `vinr encode --params` makes;
one of 60,000 parameters; that of the default plan; and that of the default plan for a single frame. For each
published preset: its network at the size that its source states. "MB" and "10⁹ operations" are what the first
frame takes, as a reader finds it without memory (docs/format.md, section 8); "of memory" and "of work" are
parts of what a file of 3 bits per parameter may ask for, without keyframes, which would allow more. Above 1 a
reader refuses the file unless `--max-memory` allows more.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import _record
from vinr.cli.catalogue import list_preset_entries
from vinr.config import load_preset
from vinr.decoding import networks
from vinr.decoding.networks import allowed_for, network_cost
from vinr.encoding.plan import default_parameters
from vinr.errors import UsageError
from vinr.models import ModelConfig, VideoModel, get_model, list_models, validate_architecture
from vinr.sizing.solve import DIAL_LIMITS, solve_size
from vinr.video.spec import VideoSpec

NUM_FRAMES: Final = 132
FRAMES: Final = ((160, 320), (640, 1280), (1080, 1920), (2160, 3840))
SMALL: Final = 60_000
BITS_PER_PARAMETER: Final = 3


@dataclass(frozen=True)
class Case:
    """A network: its row so far, and how its configuration is found."""

    row: dict[str, Any]
    model_class: type[VideoModel]
    video: VideoSpec
    config: Callable[[], ModelConfig]


def _doubled(cls: type[VideoModel], video: VideoSpec, settings: dict[str, Any]) -> int:
    """Return twice the parameters of the smallest network that the size search makes."""
    return 2 * cls.on_meta(cls.configure(video, width=DIAL_LIMITS[0], settings=settings), video).num_stored()


def _solved(
    cls: type[VideoModel], video: VideoSpec, num_parameters: Callable[[], int], settings: dict[str, Any]
) -> ModelConfig:
    return solve_size(cls, video, num_parameters(), settings)


def of_sizes() -> Iterator[Case]:
    """Yield networks of each model, frame size and number of parameters."""
    for name in list_models():
        cls, settings = get_model(name), dict(load_preset(name).architecture)
        for height, width in FRAMES:
            video = VideoSpec(NUM_FRAMES, height, width)
            still = VideoSpec(1, height, width)
            sizes: dict[str, tuple[VideoSpec, Callable[[], int]]] = {
                "smallest × 2": (video, partial(_doubled, cls, video, settings)),
                "60k": (video, lambda: SMALL),
                "default": (video, partial(default_parameters, video.num_pixels)),
                "default, 1 frame": (still, partial(default_parameters, still.num_pixels)),
            }
            for size, (spec, num_parameters) in sizes.items():
                row = {"model": name, "size": size, "frame": f"{height}×{width}"}
                yield Case(row, cls, spec, partial(_solved, cls, spec, num_parameters, settings))


def of_presets() -> Iterator[Case]:
    """Yield the networks of all presets."""
    for entry in list_preset_entries():
        preset = load_preset(entry.name)
        cls = get_model(preset.model)
        video = VideoSpec(entry.num_frames, entry.height, entry.width)
        row = {"model": preset.model, "size": entry.name, "frame": f"{entry.height}×{entry.width}"}
        yield Case(row, cls, video, partial(validate_architecture, cls, preset.architecture))


def measure(case: Case) -> dict[str, int]:
    """Return what the first frame takes; all latents are in one chunk, which is kept whole."""
    skeleton = case.model_class.on_meta(case.config(), case.video)
    num_parameters = skeleton.num_stored()
    cost = network_cost(skeleton, case.video.num_frames)
    return {
        "parameters": num_parameters,
        "file bytes": num_parameters * BITS_PER_PARAMETER // 8,
        "bytes": cost.num_bytes,
        "operations": cost.operations,
    }


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the table."""
    return {
        "model": row["model"],
        "size": row["size"],
        "frame": row["frame"],
        "parameters": f"{row['parameters']:,}",
        "MB": f"{row['bytes'] / 1e6:,.0f}",
        "10⁹ operations": f"{row['operations'] / 1e9:,.1f}",
        "of memory": f"{memory_share(row):.2f}",
        "of work": f"{work_share(row):.2f}",
    }


def memory_share(row: dict[str, Any]) -> float:
    """Return the part that a network takes of the memory that its file may ask for."""
    return float(row["bytes"] / allowed_for(row["file bytes"]).num_bytes)


def work_share(row: dict[str, Any]) -> float:
    """Return the part that a network takes of the operations that its file may ask for."""
    return float(row["operations"] / allowed_for(row["file bytes"]).operations)


def report(rows: Sequence[dict[str, Any]]) -> None:
    """Write the results."""
    refused = [row for row in rows if max(memory_share(row), work_share(row)) > 1]
    names = "\n".join(f"- {row['model']}, {row['size']}, {row['frame']}" for row in refused)
    text = f"{__doc__}\nRefused by default: {len(refused)} of {len(rows)}.\n\n{names}\n\n"
    settings = {
        "num_frames": NUM_FRAMES,
        "bits_per_parameter": BITS_PER_PARAMETER,
        "memory": networks.MEMORY,
        "memory_per_byte": networks.MEMORY_PER_BYTE,
        "operations": networks.WORK,
        "operations_per_byte": networks.WORK_PER_BYTE,
        "bytes_without_operations": networks.BYTES_WITHOUT_WORK,
    }
    table = _record.table([shown(row) for row in rows])
    _record.write("limits", "python benchmarks/limits.py", settings, rows, text + table)
    print(f"{len(refused)} of {len(rows)} refused\n{names}")


def main() -> None:
    """Measure all networks, but for those in the file of rows; judge them by the limits there are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, default=Path("limits.rows.json"), help="finished rows")
    given = parser.parse_args()
    rows = json.loads(given.rows.read_text(encoding="utf-8")) if given.rows.exists() else []
    finished = {(row["model"], row["size"], row["frame"]) for row in rows}
    for case in (*of_presets(), *of_sizes()):
        if tuple(case.row.values()) in finished:
            continue
        try:
            rows.append(case.row | measure(case))
        except UsageError as error:
            print(f"{case.row}: {error}", flush=True)  # there is no such network
            continue
        print(rows[-1], flush=True)
        given.rows.write_text(json.dumps(rows), encoding="utf-8")
    report(rows)


if __name__ == "__main__":
    main()
