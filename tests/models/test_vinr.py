"""vinr's own network: shared blocks, which are HiNeRV's with equal weights; its coarse base grid."""

from __future__ import annotations

import pytest
import torch

from vinr.config import load_preset, presets_of
from vinr.models import validate_architecture
from vinr.models.hinerv import HiNeRV, HiNeRVConfig
from vinr.models.layers.hierarchical import HierarchicalModel
from vinr.models.vinr import Vinr, VinrConfig
from vinr.sizing.solve import solve_size
from vinr.video.patches import all_patches, join
from vinr.video.spec import PatchGrid, Query, VideoSpec

VIDEO = VideoSpec(3, 40, 48)
# The first stage keeps its width, the others change it once.
SHAPE = {"strides": (2, 2, 2), "widths": (12, 8, 6), "depths": (3, 4, 1)}


def randomised(config: VinrConfig) -> Vinr:
    torch.manual_seed(0)
    model = Vinr(config, VIDEO).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def block_counts(model: HierarchicalModel) -> list[int]:
    return [len(stage.blocks) for stage in model.stages]  # type: ignore[arg-type, union-attr]


def test_blocks_of_one_width_are_stored_once() -> None:
    assert block_counts(HiNeRV(HiNeRVConfig(**SHAPE), VIDEO)) == [3, 4, 1]
    assert block_counts(Vinr(VinrConfig(**SHAPE), VIDEO)) == [1, 4, 1]
    assert block_counts(HiNeRV(HiNeRVConfig(**SHAPE, shared_stages=3), VIDEO)) == [1, 2, 1]


def test_shared_blocks_are_blocks_with_equal_weights() -> None:
    shared = randomised(VinrConfig(**SHAPE, shared_stages=3))
    apart = HiNeRV(HiNeRVConfig(**SHAPE), VIDEO).double()
    values = shared.state_dict()
    for name in apart.state_dict():
        if name not in values:  # stages.1.blocks.3.fc1.weight is that of the stage's last block
            stage = int(name.split(".")[1])
            last = f"blocks.{block_counts(shared)[stage] - 1}."
            values[name] = values[f"stages.{stage}.{last}{name.split('.', 4)[4]}"]
    apart.load_state_dict(values)
    query = Query.of_frames(torch.tensor([0.0, 1.5, 2]))
    with torch.no_grad():
        torch.testing.assert_close(shared(query), apart(query), rtol=0, atol=1e-12)


@pytest.mark.parametrize("coarse_channels", [0, 2])
def test_patches_equal_their_parts_of_the_frame(coarse_channels: int) -> None:
    config = VinrConfig(**SHAPE, coarse_grid_channels=coarse_channels, coarse_grid_frames=2)
    model, grid = randomised(config), PatchGrid(5, 3)
    index_N = torch.arange(3)
    with torch.no_grad():
        patches = model(all_patches(index_N, grid))
        joined = join(patches, grid, height=40, width=48)
        assert (joined - model(Query.of_frames(index_N))).abs().max() < 1e-12


def test_the_coarse_grid_has_a_cell_for_four_by_four_of_the_base_grid() -> None:
    config = VinrConfig(**SHAPE, base_grid_levels=1, coarse_grid_channels=2, coarse_grid_frames=1)
    model = randomised(config)
    seen: list[torch.Tensor] = []
    model.stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(Query.of_frames(torch.tensor([1])))
    # A base grid of 5×6 cells: the squares at its end are cut.   0 0 0 0 1 1   (× 4 rows)
    #                                                             2 2 2 2 3 3
    assert model.coarse_grid is not None
    (table,) = model.coarse_grid.parameters()
    cells_HW = torch.tensor([[0, 0, 0, 0, 1, 1]] * 4 + [[2, 2, 2, 2, 3, 3]])
    expected_CHW = table[cells_HW].permute(2, 0, 1)
    torch.testing.assert_close(seen[0][0, -2:], expected_CHW, rtol=0, atol=0)


def test_files_that_name_no_coarse_grid_have_none() -> None:
    assert Vinr(VinrConfig(**SHAPE), VIDEO).coarse_grid is None


@pytest.mark.parametrize("num_parameters", [20_000, 200_000])
def test_a_size_is_met_with_wider_stages(num_parameters: int) -> None:
    video = VideoSpec(132, 160, 320)
    own, published = (solve_size(cls, video, num_parameters, {}) for cls in (Vinr, HiNeRV))
    assert Vinr.on_meta(own, video).num_stored() == pytest.approx(num_parameters, rel=0.01)
    assert own.widths[0] > 1.3 * published.widths[0]
    assert own.depths == (3, 2, 1)


def test_new_networks_have_finer_base_grids_and_other_blocks() -> None:
    """What files say of them; a file that says nothing has what the model's config has, for good."""
    video = VideoSpec(132, 160, 320)
    own, published = (solve_size(cls, video, 200_000, {}) for cls in (Vinr, HiNeRV))
    assert own.strides == (2, *published.strides[1:])
    assert (own.depths, own.expansions) == ((3, 2, 1), (3, 4, 3))
    silent = VinrConfig(strides=(2, 2, 2), widths=(12, 8, 6))
    assert (silent.stage_depths, silent.stage_expansions) == ((4, 3, 1), (4, 4, 1))
    short = solve_size(Vinr, VideoSpec(8, 36, 50), 12_000, {})
    assert (short.depths, short.expansions) == ((3, 1), (3, 3))
    assert (own.coarse_grid_channels > 0, published.coarse_grid_channels) == (True, 0)
    assert own.coarse_grid_frames > own.base_grid_frames
    assert solve_size(Vinr, video, 200_000, {"expansions": [1, 2, 3]}).expansions == (1, 2, 3)
    shares = []
    for cls, config in ((Vinr, own), (HiNeRV, published)):
        stored = cls.on_meta(config, video).stored()
        held = sum(item.value.numel() for name, item in stored.items() if name.startswith("base_grid"))
        shares.append(held / 200_000)
    assert shares[0] > 1.8 * shares[1]


def test_the_family_of_sizes_grows() -> None:
    names = presets_of("vinr")
    assert names == ["vinr-tiny", "vinr-xs", "vinr-s", "vinr-m", "vinr-l"]
    counts = []
    for name in names:
        preset = load_preset(name)
        paper = preset.paper
        assert paper is not None
        video = VideoSpec(paper.num_frames, paper.height, paper.width)
        counts.append(Vinr.on_meta(validate_architecture(Vinr, preset.architecture), video).num_stored())
        assert counts[-1] == paper.parameters
    assert counts == sorted(counts)
