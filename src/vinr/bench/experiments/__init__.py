"""The kinds of experiment that recipes are made of: each takes a job's work and returns what it measured."""

from __future__ import annotations

from collections.abc import Callable

from vinr.bench.recipe import Kind
from vinr.bench.work import Values, Work


def experiment_of(kind: Kind) -> Callable[[Work], Values]:
    """Return the function that runs jobs of ``kind``; imported when needed, since each needs much."""
    match kind:
        case "fit":
            from vinr.bench.experiments.networks import fit_experiment as run
        case "encode":
            from vinr.bench.experiments.networks import encode_experiment as run
        case "interpolate":
            from vinr.bench.experiments.tasks import interpolate_experiment as run
        case "inpaint":
            from vinr.bench.experiments.tasks import inpaint_experiment as run
        case "denoise":
            from vinr.bench.experiments.tasks import denoise_experiment as run
        case "rate_distortion":
            from vinr.bench.experiments.curves import rate_distortion_experiment as run
        case "decode":
            from vinr.bench.experiments.playing import decode_experiment as run
        case "clips":
            from vinr.bench.experiments.clips import clips_experiment as run
    return run
