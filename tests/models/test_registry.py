"""What every model must do, tried with its ``tiny`` preset; new models are found by file name."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clips import MemoryClip, moving_shapes
from vinr import models
from vinr.cli import catalogue
from vinr.cli.catalogue import list_preset_entries
from vinr.config import list_presets, load_preset, presets_of
from vinr.models import (
    FrozenLatents,
    Latents,
    ModelConfig,
    StoringModule,
    VideoModel,
    describe_model,
    get_model,
    list_models,
    validate_architecture,
)
from vinr.sizing.solve import solve_size
from vinr.video.spec import Query

EVERY_MODEL = pytest.mark.parametrize("name", list_models())
# One frame, three and five; odd sizes, portrait, and the size the presets were made for.
EVERY_CLIP = pytest.mark.parametrize(
    ("num_frames", "height", "width"), [(1, 33, 47), (3, 64, 30), (3, 47, 33), (5, 32, 64)]
)


def build(name: str, clip: MemoryClip, *, with_encoder: bool = True) -> VideoModel:
    model_class = get_model(name)
    config = validate_architecture(model_class, load_preset(f"{name}-tiny").architecture)
    return with_keyframes(model_class(config, clip.spec, with_encoder=with_encoder), clip)


def with_keyframes(model: VideoModel, clip: MemoryClip) -> VideoModel:
    """Return ``model``, its keyframes coded where it has any."""
    if model.keyframes is not None:
        model.keyframes.code(clip)
    return model


def all_frames(clip: MemoryClip) -> Query:
    return Query.of_frames(torch.arange(clip.spec.num_frames))


def decoded(model: VideoModel, query: Query) -> Tensor:
    with torch.no_grad():
        return model(query)


@EVERY_MODEL
@EVERY_CLIP
def test_frames_have_the_right_shape_and_range(name: str, num_frames: int, height: int, width: int) -> None:
    clip = moving_shapes(num_frames=num_frames, height=height, width=width)
    model = build(name, clip)
    rgb_NCHW = model(all_frames(clip), clip)
    assert rgb_NCHW.shape == (num_frames, 3, height, width)
    assert rgb_NCHW.dtype == torch.float32
    assert bool(rgb_NCHW.isfinite().all())
    assert 0 <= rgb_NCHW.min() <= rgb_NCHW.max() <= 1
    coded_height, coded_width = model.coded_size()
    assert coded_height >= height
    assert coded_width >= width


@EVERY_MODEL
@EVERY_CLIP
def test_a_restored_model_decodes_the_same(name: str, num_frames: int, height: int, width: int) -> None:
    clip = moving_shapes(num_frames=num_frames, height=height, width=width)
    model = build(name, clip)
    expected = model(all_frames(clip), clip).detach()
    model.freeze(clip)
    frozen = decoded(model, all_frames(clip))
    assert torch.allclose(frozen, expected, atol=1e-5)
    fresh = build(name, clip, with_encoder=False)
    fresh.restore(model.stored())
    assert torch.equal(decoded(fresh, all_frames(clip)), frozen)
    assert list(fresh.stored()) == list(model.stored())


@EVERY_MODEL
def test_restored_values_are_copies(name: str) -> None:
    clip = moving_shapes(num_frames=2, height=32, width=64)
    model = build(name, clip)
    model.freeze(clip)
    fresh = build(name, clip, with_encoder=False)
    fresh.restore(model.stored())
    for given, own in zip(model.stored().values(), fresh.stored().values(), strict=True):
        assert given.value.data_ptr() != own.value.data_ptr()


@EVERY_MODEL
def test_a_decoder_has_no_encoder(name: str) -> None:
    model = build(name, moving_shapes(num_frames=2, height=32, width=64), with_encoder=False)
    assert not [key for key, _ in model.named_parameters() if key.startswith("encoder.")]


@EVERY_MODEL
def test_one_frame_alone_is_the_frame_among_all(name: str) -> None:
    clip = moving_shapes(num_frames=5, height=33, width=47)
    model = build(name, clip).double()
    model.freeze(clip)
    everything = decoded(model, all_frames(clip))
    for chosen in ([3], [4, 0], [2, 2, 1]):
        index_N = torch.tensor(chosen)
        assert (decoded(model, Query.of_frames(index_N)) - everything[index_N]).abs().max() < 1e-12


@EVERY_MODEL
def test_only_the_latents_of_the_frame_asked_for_are_read(name: str) -> None:
    clip = moving_shapes(num_frames=9, height=32, width=64)
    model = build(name, clip)
    model.freeze(clip)
    if not model.per_frame_shapes():
        assert not any(item.per_frame for item in model.stored().values())
        return
    kept = {key: item.value.detach() for key, item in model.stored().items() if item.per_frame}
    store = FrozenLatents(Latents({key.removeprefix("latents."): value for key, value in kept.items()}))
    asked: list[int] = []

    class Recorder:
        def read(self, index_N: Tensor) -> Latents:
            asked.extend(index_N.tolist())
            return store.read(index_N)

    fresh = build(name, clip, with_encoder=False)
    fresh.restore({key: item for key, item in model.stored().items() if not item.per_frame})
    fresh.attach_latents(Recorder())
    frame = decoded(fresh, Query.of_frames(torch.tensor([4])))
    assert set(asked) <= {2, 3, 4, 5, 6}  # the frame, and two neighbours a side for models that use them
    assert torch.allclose(frame, decoded(model, Query.of_frames(torch.tensor([4]))), atol=1e-6)


@EVERY_MODEL
def test_gradients_reach_everything_stored(name: str) -> None:
    clip = moving_shapes(num_frames=3, height=32, width=64)
    model = build(name, clip)
    target = clip.rgb_NCHW / 255
    F.mse_loss(model(all_frames(clip), clip), target).backward()
    check_gradients(model)
    model.freeze(clip)
    model.zero_grad()
    F.mse_loss(model(all_frames(clip)), target).backward()
    check_gradients(model)


def check_gradients(model: VideoModel) -> None:
    without = [
        key
        for key, item in model.stored().items()
        if item.value.grad is None or item.value.grad.abs().max() == 0
    ]
    assert without == []


@pytest.mark.slow  # tests/fit/test_phases.py fits every model a little
@EVERY_MODEL
def test_a_few_steps_lower_the_error(name: str) -> None:
    clip = moving_shapes(num_frames=3, height=32, width=64)
    model = build(name, clip)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    target = clip.rgb_NCHW / 255
    errors = []
    for _ in range(25):
        error = F.mse_loss(model(all_frames(clip), clip), target)
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.8 * errors[0]


@EVERY_MODEL
@EVERY_CLIP
def test_counting_without_memory_is_right(name: str, num_frames: int, height: int, width: int) -> None:
    clip = moving_shapes(num_frames=num_frames, height=height, width=width)
    model = build(name, clip)
    counted = type(model).on_meta(model_config(name), clip.spec)
    assert all(item.value.device.type == "meta" for item in counted.stored().values())
    assert counted.num_stored() == model.num_stored()
    model.freeze(clip)
    stored = model.stored()
    assert counted.num_stored() == sum(item.value.numel() for item in stored.values())
    shapes = {key: tuple(item.value.shape) for key, item in stored.items() if item.per_frame}
    expected = {f"latents.{key}": (num_frames, *shape) for key, shape in counted.per_frame_shapes().items()}
    assert shapes == expected


def model_config(name: str) -> ModelConfig:
    return validate_architecture(get_model(name), load_preset(f"{name}-tiny").architecture)


@EVERY_MODEL
@pytest.mark.parametrize(
    ("num_frames", "height", "width"),
    [
        (1, 33, 47),
        pytest.param(3, 64, 30, marks=pytest.mark.slow),
        pytest.param(3, 47, 33, marks=pytest.mark.slow),
        pytest.param(5, 32, 64, marks=pytest.mark.slow),
    ],
)
def test_solved_architectures_run(name: str, num_frames: int, height: int, width: int) -> None:
    clip = moving_shapes(num_frames=num_frames, height=height, width=width)
    model_class = get_model(name)
    smallest = model_class.on_meta(
        model_class.configure(clip.spec, width=0.25, settings={}), clip.spec
    ).num_stored()
    config = solve_size(model_class, clip.spec, 2 * smallest, {})
    model = with_keyframes(model_class(config, clip.spec), clip)
    assert abs(model.num_stored() / smallest - 2) <= 0.04
    assert model(all_frames(clip), clip).shape == (num_frames, 3, height, width)


@EVERY_MODEL
def test_double_precision_is_kept(name: str) -> None:
    clip = moving_shapes(num_frames=2, height=32, width=64)
    single, double = build(name, clip), build(name, clip)
    double.load_state_dict(single.state_dict())
    double.double()
    exact = double(all_frames(clip), clip)
    assert exact.dtype == torch.float64
    assert (single(all_frames(clip), clip) - exact).abs().max() < 1e-4


@EVERY_MODEL
def test_configurations_survive_a_file(name: str) -> None:
    config = model_config(name)
    brief = config.model_dump_json(exclude_defaults=True)
    assert type(config).model_validate_json(brief) == config
    undescribed = [key for key, field in type(config).model_fields.items() if not field.description]
    assert undescribed == []


def test_registered_parameters_are_stored_in_their_roles() -> None:
    module = StoringModule()
    module.register_stored("table", nn.Parameter(torch.zeros(6, 2)), role="grid", rows_per_step=2)
    module.weight = nn.Parameter(torch.zeros(3, 3))
    table, weight = (module.stored_as(name, value) for name, value in module.named_parameters())
    assert (table.role, table.rows_per_step, table.per_frame) == ("grid", 2, False)
    assert (weight.role, weight.rows_per_step) == ("weight", 0)
    latents = FrozenLatents(Latents({"embedding": torch.zeros(4, 2)}))
    stored = latents.stored_as("embedding", latents.per_frame["embedding"])
    assert (stored.role, stored.per_frame) == ("latent", True)


def helpers_of(name: str) -> set[str]:
    """Return what the file of a model imports of models and sizes, but for the protocol itself."""
    source = Path(models.__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            ("vinr.models", "vinr.sizing")
        ):
            imported.add(node.module or "")
    return imported - {"vinr.models.base"}


@EVERY_MODEL
def test_a_model_file_needs_no_other_model(name: str) -> None:
    assert not {f"vinr.models.{other}" for other in list_models()} & helpers_of(name)


def test_the_file_of_nerv_reads_alone() -> None:
    assert len(helpers_of("nerv")) <= 2


@EVERY_MODEL
def test_models_say_which_paper_they_are(name: str) -> None:
    assert any(character.isdigit() for character in describe_model(name))
    assert f"{name}-tiny" in list_presets()


@EVERY_MODEL
def test_every_recipe_of_a_model_loads(name: str) -> None:
    for recipe in ("paper", "vinr"):
        assert load_preset(f"{name}-tiny", [f"fit.recipe={recipe}"]).fit.recipe == recipe


@EVERY_MODEL
def test_first_and_last_preset_have_the_size_their_source_states(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = presets_of(name)
    monkeypatch.setattr(catalogue, "presets_of", lambda model: [own[0], own[-1]])
    check_sizes(name)


@pytest.mark.slow  # 171 networks are built without values
@EVERY_MODEL
def test_presets_have_the_size_their_source_states(name: str) -> None:
    check_sizes(name)


def check_sizes(name: str) -> None:
    for entry in list_preset_entries(name):
        assert entry.stored_parameters == entry.paper_parameters, entry.name
        if entry.paper_gmacs is not None:
            gmacs = entry.macs_per_pixel * entry.height * entry.width / 1e9
            assert gmacs == pytest.approx(entry.paper_gmacs, rel=4e-3), entry.name


@EVERY_MODEL
def test_a_thousand_frames(name: str) -> None:
    """Latents, grids over time, clips and encodings reach the last frame, and tell it from the others."""
    clip = moving_shapes(num_frames=1000, height=8, width=16)
    model = build(name, clip)
    model.freeze(clip)
    model.eval()
    with torch.inference_mode():
        frames = [model(Query.of_frames(torch.tensor([index])))[0] for index in (0, 500, 999)]
    assert all(frame.shape == (3, 8, 16) for frame in frames)
    assert not torch.equal(frames[0], frames[1])
    assert not torch.equal(frames[1], frames[2])
