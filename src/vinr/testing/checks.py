"""What every model must do, each as a function that raises :class:`CheckError` with one line.

All checks try the model with its ``tiny`` preset, on a CPU, in seconds.

Axes: N frames, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vinr.config import list_presets, load_preset, presets_of
from vinr.decoding.file import open_clip
from vinr.encoding.encode import encode
from vinr.errors import UsageError
from vinr.models import (
    FrozenLatents,
    Latents,
    ModelConfig,
    VideoModel,
    describe_model,
    get_model,
    validate_architecture,
)
from vinr.models.cost import describe_size
from vinr.sizing.solve import TOLERANCE, TOLERANCE_PARAMETERS, solve_size
from vinr.testing.clips import MemoryClip, moving_shapes
from vinr.video.spec import Query, VideoSpec

RECIPES: Final = ("paper", "vinr")
# Neighbours of a frame, on either side, whose latents a model may read for it.
NUM_NEIGHBOURS: Final = 2
GMACS_TOLERANCE: Final = 4e-3


class CheckError(AssertionError):
    """A model does not do what every model must; the message is one line."""


@dataclass(frozen=True)
class ClipSize:
    """Frames, rows and columns of a clip that a check is run on."""

    num_frames: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.num_frames} × {self.height}×{self.width}"

    def clip(self) -> MemoryClip:
        """Return a clip of this size."""
        return moving_shapes(num_frames=self.num_frames, height=self.height, width=self.width)


SMALL: Final = ClipSize(3, 32, 64)
# One frame, three and five; odd sizes, portrait, and the size that tiny presets are made for.
EVERY_CLIP: Final = (ClipSize(1, 33, 47), ClipSize(3, 64, 30), ClipSize(3, 47, 33), ClipSize(5, 32, 64))


@dataclass(frozen=True)
class Subject:
    """The model that is checked, by the name it is registered under."""

    name: str

    @property
    def model_class(self) -> type[VideoModel]:
        """The class of the model."""
        return get_model(self.name)

    def config(self) -> ModelConfig:
        """Return the architecture of its tiny preset."""
        return validate_architecture(self.model_class, load_preset(f"{self.name}-tiny").architecture)

    def build(self, clip: MemoryClip, *, with_encoder: bool = True) -> VideoModel:
        """Return its tiny network for ``clip``, keyframes coded where it has any."""
        return with_keyframes(self.model_class(self.config(), clip.spec, with_encoder=with_encoder), clip)


def with_keyframes(model: VideoModel, clip: MemoryClip) -> VideoModel:
    """Return ``model``, its keyframes coded where it has any."""
    if model.keyframes is not None:
        model.keyframes.code(clip)
    return model


def require(is_so: bool, problem: str) -> None:
    """Raise :class:`CheckError` with ``problem`` unless something is so."""
    if not is_so:
        raise CheckError(problem)


def _all_frames(clip: MemoryClip) -> Query:
    return Query.of_frames(torch.arange(clip.spec.num_frames))


def _decoded(model: VideoModel, query: Query) -> Tensor:
    with torch.no_grad():
        rgb_NCHW: Tensor = model(query)
    return rgb_NCHW


# -- frames --------------------------------------------------------------------------------------------------


def check_frames(subject: Subject, size: ClipSize) -> None:
    """Frames have the right shape, dtype and range."""
    clip = size.clip()
    model = subject.build(clip)
    rgb_NCHW = model(_all_frames(clip), clip).detach()
    expected = (size.num_frames, 3, size.height, size.width)
    require(rgb_NCHW.shape == expected, f"frames have shape {tuple(rgb_NCHW.shape)}, not {expected}")
    require(rgb_NCHW.dtype == torch.float32, f"frames are {rgb_NCHW.dtype}, not torch.float32")
    require(bool(rgb_NCHW.isfinite().all()), "frames hold values that are not finite")
    low, high = float(rgb_NCHW.min()), float(rgb_NCHW.max())
    require(0 <= low <= high <= 1, f"colours reach from {low:.3g} to {high:.3g}; they must lie in [0, 1]")
    coded = model.coded_size()
    require(
        coded[0] >= size.height and coded[1] >= size.width, f"coded_size() is {coded}: less than the frame"
    )


def check_single_frames(subject: Subject, size: ClipSize) -> None:
    """A frame is the same alone, among all, and in any order."""
    clip = size.clip()
    model = subject.build(clip).double()
    model.freeze(clip)
    everything = _decoded(model, _all_frames(clip))
    for chosen in ([3], [4, 0], [2, 2, 1]):
        index_N = torch.tensor(chosen)
        error = float((_decoded(model, Query.of_frames(index_N)) - everything[index_N]).abs().max())
        require(error < 1e-12, f"frames {chosen} differ by {error:.1e} from the same frames among all")


def check_many_frames(subject: Subject, size: ClipSize) -> None:
    """The first, the middle and the last of a thousand frames differ."""
    clip = size.clip()
    model = subject.build(clip)
    model.freeze(clip)
    model.eval()
    indices = (0, size.num_frames // 2, size.num_frames - 1)
    with torch.inference_mode():
        frames = [model(Query.of_frames(torch.tensor([index])))[0] for index in indices]
    for index, frame in zip(indices, frames, strict=True):
        require(frame.shape == (3, size.height, size.width), f"frame {index} has shape {tuple(frame.shape)}")
    for number in (0, 1):
        is_other = not torch.equal(frames[number], frames[number + 1])
        require(is_other, f"frames {indices[number]} and {indices[number + 1]} are the same")


def check_double_precision(subject: Subject, size: ClipSize) -> None:
    """A network of float64 computes in float64."""
    clip = size.clip()
    single, double = subject.build(clip), subject.build(clip)
    double.load_state_dict(single.state_dict())
    double.double()
    exact = double(_all_frames(clip), clip)
    require(exact.dtype == torch.float64, f"frames of a float64 network are {exact.dtype}")
    error = float((single(_all_frames(clip), clip) - exact).abs().max().detach())
    require(error < 1e-4, f"float32 and float64 differ by {error:.1e}")


# -- what is stored ------------------------------------------------------------------------------------------


def check_restoring(subject: Subject, size: ClipSize) -> None:
    """A network made from what is stored decodes the same."""
    clip = size.clip()
    model = subject.build(clip)
    expected = model(_all_frames(clip), clip).detach()
    model.freeze(clip)
    frozen = _decoded(model, _all_frames(clip))
    error = float((frozen - expected).abs().max())
    require(torch.allclose(frozen, expected, atol=1e-5), f"freezing changes frames by {error:.1e}")
    fresh = subject.build(clip, with_encoder=False)
    fresh.restore(model.stored())
    is_same = torch.equal(_decoded(fresh, _all_frames(clip)), frozen)
    require(is_same, "a restored network gives other frames: something that it needs is not stored")
    require(list(fresh.stored()) == list(model.stored()), "stored() has other names or another order")


def check_copies(subject: Subject, size: ClipSize) -> None:
    """Restored values are copies."""
    clip = size.clip()
    model = subject.build(clip)
    model.freeze(clip)
    fresh = subject.build(clip, with_encoder=False)
    fresh.restore(model.stored())
    for name, item in fresh.stored().items():
        is_copy = item.value.data_ptr() != model.stored()[name].value.data_ptr()
        require(is_copy, f"{name} shares the memory of the network that it was restored from")


def check_no_encoder(subject: Subject, size: ClipSize) -> None:
    """A decoder holds no encoder."""
    model = subject.build(size.clip(), with_encoder=False)
    kept = [name for name, _ in model.named_parameters() if name.startswith("encoder.")]
    require(not kept, f"with_encoder=False keeps {kept[:3]}")


def check_latents(subject: Subject, size: ClipSize) -> None:
    """A frame reads the latents of itself and near neighbours, of no others."""
    clip = size.clip()
    model = subject.build(clip)
    model.freeze(clip)
    if not model.per_frame_shapes():
        per_frame = [name for name, item in model.stored().items() if item.per_frame]
        require(not per_frame, f"{per_frame[:3]} are per frame; per_frame_shapes() does not name them")
        return
    kept = {name: item.value.detach() for name, item in model.stored().items() if item.per_frame}
    store = FrozenLatents(Latents({name.removeprefix("latents."): value for name, value in kept.items()}))
    asked: list[int] = []

    class Recorder:
        def read(self, index_N: Tensor) -> Latents:
            asked.extend(index_N.tolist())
            return store.read(index_N)

    fresh = subject.build(clip, with_encoder=False)
    fresh.restore({name: item for name, item in model.stored().items() if not item.per_frame})
    fresh.attach_latents(Recorder())
    query = Query.of_frames(torch.tensor([4]))
    frame = _decoded(fresh, query)
    near = set(range(4 - NUM_NEIGHBOURS, 5 + NUM_NEIGHBOURS))
    require(set(asked) <= near, f"frame 4 reads the latents of frames {sorted(set(asked) - near)}")
    is_same = torch.allclose(frame, _decoded(model, query), atol=1e-6)
    require(is_same, "latents that come from a store give another frame")


def check_counting(subject: Subject, size: ClipSize) -> None:
    """Counting without memory gives what is stored."""
    clip = size.clip()
    model = subject.build(clip)
    counted = subject.model_class.on_meta(subject.config(), clip.spec)
    devices = {item.value.device.type for item in counted.stored().values()}
    require(devices == {"meta"}, f"on the device meta tensors lie on {sorted(devices)}")
    model.freeze(clip)
    stored = model.stored()
    total = sum(item.value.numel() for item in stored.values())
    require(counted.num_stored() == total, f"num_stored() is {counted.num_stored():,}, {total:,} are stored")
    shapes = {name: tuple(item.value.shape) for name, item in stored.items() if item.per_frame}
    expected = {}
    for name, shape in counted.per_frame_shapes().items():
        expected[f"latents.{name}"] = (size.num_frames, *shape)
    require(shapes == expected, f"latents have shapes {shapes}, per_frame_shapes() says {expected}")


# -- training ------------------------------------------------------------------------------------------------


def check_gradients(subject: Subject, size: ClipSize) -> None:
    """Everything stored gets a gradient, before and after freezing."""
    clip = size.clip()
    model = subject.build(clip)
    target = clip.rgb_NCHW / 255
    torch.autograd.backward(F.mse_loss(model(_all_frames(clip), clip), target))
    _require_gradients(model, "while the encoder is trained")
    model.freeze(clip)
    model.zero_grad()
    torch.autograd.backward(F.mse_loss(model(_all_frames(clip)), target))
    _require_gradients(model, "of the frozen network")


def _require_gradients(model: VideoModel, when: str) -> None:
    without = []
    for name, item in model.stored().items():
        gradient = item.value.grad
        if gradient is None or gradient.abs().max() == 0:
            without.append(name)
    require(not without, f"{', '.join(without[:3])} has no gradient {when}")


def check_learning(subject: Subject, size: ClipSize) -> None:
    """Twenty-five steps of Adam lower the error by a fifth."""
    clip = size.clip()
    model = subject.build(clip)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    target = clip.rgb_NCHW / 255
    errors = []
    for _ in range(25):
        error = F.mse_loss(model(_all_frames(clip), clip), target)
        optimizer.zero_grad()
        torch.autograd.backward(error)
        optimizer.step()
        errors.append(error.item())
    require(errors[-1] < 0.8 * errors[0], f"the error goes from {errors[0]:.4f} to {errors[-1]:.4f} only")


# -- sizes, presets, files -----------------------------------------------------------------------------------


def check_sizes(subject: Subject, size: ClipSize) -> None:
    """--params finds a network of twice the smallest size, to 2 %, and it runs."""
    clip, cls = size.clip(), subject.model_class
    smallest = cls.on_meta(cls.configure(clip.spec, width=0.25, settings={}), clip.spec).num_stored()
    try:
        config = solve_size(cls, clip.spec, 2 * smallest, {})
    except UsageError as error:
        raise CheckError(
            f"{error}; name in size_fields the settings that a number of parameters may change"
        ) from None
    model = with_keyframes(cls(config, clip.spec), clip)
    miss = model.num_stored() - 2 * smallest
    is_near = abs(miss) <= max(TOLERANCE * 2 * smallest, TOLERANCE_PARAMETERS)
    require(is_near, f"{2 * smallest:,} parameters are missed by {miss:+,}")
    frames = model(_all_frames(clip), clip)
    require(frames.shape == (size.num_frames, 3, size.height, size.width), "frames have another shape")


def check_configuration(subject: Subject, size: ClipSize) -> None:
    """The configuration survives a file, and every setting has a description."""
    config = subject.config()
    brief = config.model_dump_json(exclude_defaults=True)
    require(type(config).model_validate_json(brief) == config, "the configuration read back is another")
    without = [name for name, field in type(config).model_fields.items() if not field.description]
    require(not without, f"{', '.join(without[:3])} has no description; give Field(..., description=...)")


def check_paper(subject: Subject, size: ClipSize) -> None:
    """The first line of the docstring names the paper with its year."""
    line = describe_model(subject.name)
    require(any(character.isdigit() for character in line), f"the docstring names no year: {line!r}")


def check_presets(subject: Subject, size: ClipSize) -> None:
    """There is a tiny preset, both recipes load, and every preset has the size that its source states."""
    name = subject.name
    require(f"{name}-tiny" in list_presets(), f"there is no preset {name}-tiny; add [sizes.tiny]")
    for recipe in RECIPES:
        try:
            load_preset(f"{name}-tiny", [f"fit.recipe={recipe}"])
        except UsageError as error:
            raise CheckError(f"{error}; add [fit.{recipe}]") from None
    for preset in presets_of(name):
        check_stated_size(preset)


def check_stated_size(name: str) -> None:
    """A preset has the parameters, and the multiply-accumulates, that its source states."""
    preset = load_preset(name)
    paper = preset.paper
    if paper is None:
        raise CheckError(f"{name} does not state what its source says; add its table `paper`")
    cls, video = get_model(preset.model), VideoSpec(paper.num_frames, paper.height, paper.width)
    size = describe_size(cls, validate_architecture(cls, preset.architecture), video)
    require(size.stored == paper.parameters, f"{name} stores {size.stored:,}, states {paper.parameters:,}")
    if paper.gmacs is not None:
        is_near = abs(size.macs / 1e9 / paper.gmacs - 1) <= GMACS_TOLERANCE
        require(is_near, f"{name} takes {size.macs / 1e9:.2f} GMAC per frame, states {paper.gmacs}")


def check_file(subject: Subject, size: ClipSize) -> None:
    """A file is written and decodes to frames of the clip's size, as good as its header says."""
    clip = size.clip()
    with TemporaryDirectory() as name:
        folder, file = Path(name, "frames"), Path(name, "clip.vinr")
        folder.mkdir()
        for index, rgb_CHW in enumerate(clip.rgb_NCHW):
            picture = Image.fromarray(rgb_CHW.permute(1, 2, 0).contiguous().numpy())
            picture.save(folder / f"{index:03}.png")
        report = encode(folder, file, preset=f"{subject.name}-tiny", epochs=1, device="cpu")
        with open_clip(file, device="cpu") as video:
            frames_NCHW = video.frames(torch.arange(size.num_frames))
    shape = tuple(frames_NCHW.shape)
    require(shape == tuple(clip.rgb_NCHW.shape), f"decoded frames have shape {shape}")
    error = (frames_NCHW.double() - clip.rgb_NCHW.double()) / 255
    psnr_db = float((-10 * (error.square().mean((1, 2, 3)) + 1e-9).log10()).mean())
    is_same = abs(psnr_db - report.psnr_db) < 0.01
    require(is_same, f"the decoded file has {psnr_db:.2f} dB, its header says {report.psnr_db:.2f}")


# -- all of them ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """A check, and the clips that it is run on. What it asks for is the first line of its docstring."""

    name: str
    run: Callable[[Subject, ClipSize], None]
    sizes: tuple[ClipSize, ...] = (SMALL,)

    @property
    def purpose(self) -> str:
        """What the check asks for, in a sentence."""
        return (self.run.__doc__ or "").splitlines()[0]

    def __call__(self, subject: Subject) -> None:
        """Run the check on each of its clips.

        Raises
        ------
        CheckError
            With the clip's size where it has several.
        """
        for size in self.sizes:
            try:
                self.run(subject, size)
            except CheckError as error:
                where = f" (clip of {size})" if len(self.sizes) > 1 else ""
                raise CheckError(f"{error}{where}") from None


CHECKS: Final = (
    Check("paper", check_paper),
    Check("presets", check_presets),
    Check("configuration", check_configuration),
    Check("frames", check_frames, EVERY_CLIP),
    Check("restoring", check_restoring, EVERY_CLIP),
    Check("copies", check_copies),
    Check("no-encoder", check_no_encoder),
    Check("single-frames", check_single_frames, (ClipSize(5, 33, 47),)),
    Check("latents", check_latents, (ClipSize(9, 32, 64),)),
    Check("counting", check_counting, EVERY_CLIP),
    Check("gradients", check_gradients),
    Check("learning", check_learning),
    Check("sizes", check_sizes, EVERY_CLIP),
    Check("double-precision", check_double_precision, (ClipSize(2, 32, 64),)),
    Check("many-frames", check_many_frames, (ClipSize(1000, 8, 16),)),
    Check("file", check_file),
)


def check_model(name: str) -> None:
    """Run all checks on the model that is registered as ``name``.

    Raises
    ------
    UsageError
        If there is no such model, or it cannot be imported.
    CheckError
        With the first thing that the model does not do.
    """
    get_model(name)
    for check in CHECKS:
        check(Subject(name))
