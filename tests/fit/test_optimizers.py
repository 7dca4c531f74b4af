"""Muon against torch's and against the singular values it should give; exact resumption of every rule."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vinr.config import FitSettings
from vinr.errors import UsageError
from vinr.fit import optimizers
from vinr.fit.optimizers import Muon, build_optimizer, is_matrix, orthogonalize, set_learning_rate


class Net(nn.Module):
    """One of each kind of parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 12, 3, padding=1)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.twin1 = nn.Conv2d(12, 12, 1)
        self.twin2 = nn.Conv2d(12, 12, 1)
        self.gate = nn.Conv2d(12, 1, 3, padding=1)  # one row: a vector of four axes
        self.norm = nn.GroupNorm(3, 12)
        self.linear = nn.Linear(12, 7)
        self.layer_scale = nn.Parameter(torch.full((7,), 0.5))
        self.grid0 = nn.Parameter(torch.randn(3, 7, generator=torch.Generator().manual_seed(9)))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x_NCHW = self.twin2(self.twin1(self.norm(self.depthwise(self.conv(x_NCHW)).relu())))
        x_NCHW = x_NCHW * self.gate(x_NCHW)
        value: Tensor = self.linear(x_NCHW.mean((2, 3))) * self.layer_scale + self.grid0.sum(0)
        return value


def new_net(*, channels_last: bool = False) -> Net:
    torch.manual_seed(0)
    net = Net()
    return net.to(memory_format=torch.channels_last) if channels_last else net


def train(net: Net, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        set_learning_rate(optimizer, 1 - step / 20)
        optimizer.zero_grad(set_to_none=True)
        loss = (net(torch.randn(2, 6, 5, 5, generator=generator)) - 1).square().mean()
        loss.backward()
        optimizer.step()


def weights(net: Net) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in net.parameters()]


RULES = {
    "adam": FitSettings(optimizer="adam", learning_rate=3e-3, betas=(0.5, 0.999)),
    "adamw": FitSettings(optimizer="adamw", learning_rate=3e-3, weight_decay=0.1),
    "adan": FitSettings(optimizer="adan", learning_rate=3e-3, betas=(0.98, 0.92, 0.99), weight_decay=0.1),
    "muon": FitSettings(optimizer="muon", learning_rate=3e-3, vector_learning_rate=1e-3, weight_decay=0.1),
}


# -- orthogonalisation ---------------------------------------------------------------------------------------


def rounds(value: Tensor) -> Tensor:
    """The definition: what becomes of a singular value."""
    value = 8.0934 * value - 23.6204 * value**3 + 17.4462 * value**5
    value = 3.6366 * value - 2.7219 * value**3 + 0.5365 * value**5
    return 2.6613 * value - 1.9772 * value**3 + 0.4526 * value**5


def newton_schulz_of_singular_values(matrix: Tensor) -> Tensor:
    """Each singular value σ / ‖·‖ goes through the rounds."""
    left, value, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    return left @ rounds(value / value.square().sum().sqrt()).diag() @ right


def test_rounds_are_nearer_to_one_than_jordans_five() -> None:
    value = torch.linspace(0.01, 1, 100_000, dtype=torch.float64)
    jordan = value
    for _ in range(5):
        jordan = 3.4445 * jordan - 4.7750 * jordan**3 + 2.0315 * jordan**5
    worst = (rounds(value) - 1).abs().max()
    assert worst < 0.271
    assert worst < (jordan - 1).abs().max()


@pytest.mark.parametrize("shape", [(4, 4), (3, 20), (20, 3), (1, 5), (40, 64), (64, 256), (675, 32)])
def test_orthogonalize_acts_on_singular_values(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    expected = newton_schulz_of_singular_values(matrix)
    float64 = orthogonalize(matrix.double()[None])[0]
    float32 = orthogonalize(matrix[None])[0]
    torch.testing.assert_close(float64, expected, atol=1e-11, rtol=0)
    assert (float32.double() - expected).norm() / expected.norm() < 2e-5


@pytest.mark.parametrize("lowest_exponent", [-1, -3, -6, -12])
def test_orthogonalize_stays_accurate_for_nearly_singular_matrices(lowest_exponent: int) -> None:
    generator = torch.Generator().manual_seed(5)
    left = torch.linalg.qr(torch.randn(30, 30, generator=generator, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(50, 30, generator=generator, dtype=torch.float64)).Q
    matrix = left @ torch.logspace(0, lowest_exponent, 30, dtype=torch.float64).diag() @ right.T
    expected = newton_schulz_of_singular_values(matrix)
    result = orthogonalize(matrix.float()[None])[0].double()
    assert (result - expected).norm() / expected.norm() < 1e-3
    assert torch.linalg.matrix_norm(result, ord=2) < 1.3


def test_orthogonalize_of_zero_is_zero() -> None:
    assert torch.equal(orthogonalize(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))


@settings(max_examples=30)
@given(
    batch=st.integers(1, 4), rows=st.integers(1, 12), columns=st.integers(1, 12), scale=st.floats(1e-4, 1e4)
)
def test_orthogonalize_knows_no_scale_and_no_neighbours(
    batch: int, rows: int, columns: int, scale: float
) -> None:
    generator = torch.Generator().manual_seed(batch * 1000 + rows * 50 + columns)
    matrices = torch.randn(batch, rows, columns, generator=generator, dtype=torch.float64)
    together = orthogonalize(matrices)
    for alone, result in zip(matrices, together, strict=True):
        torch.testing.assert_close(orthogonalize(scale * alone[None])[0], result, atol=1e-9, rtol=0)
        torch.testing.assert_close(orthogonalize(alone.T[None])[0], result.T, atol=1e-9, rtol=0)


# -- Adan ----------------------------------------------------------------------------------------------------


def test_adan_is_the_published_rule() -> None:
    """m, v and n of Xie et al., bias-corrected; the first difference of gradients is 0."""
    rate, (beta1, beta2, beta3) = 0.01, (0.98, 0.92, 0.99)
    generator = torch.Generator().manual_seed(0)
    parameter = nn.Parameter(torch.randn(5, 3, generator=generator, dtype=torch.float64))
    expected, settings_ = parameter.detach().clone(), RULES["adan"]
    update = {"learning_rate": rate, "weight_decay": 0.2}
    optimizer = build_optimizer([("weight", parameter)], settings_.model_copy(update=update))
    mean, change, square = (torch.zeros_like(expected) for _ in range(3))
    before = None
    for step in range(1, 6):
        gradient = torch.randn(5, 3, generator=generator, dtype=torch.float64)
        difference = torch.zeros_like(gradient) if before is None else gradient - before
        mean = beta1 * mean + (1 - beta1) * gradient
        change = beta2 * change + (1 - beta2) * difference
        square = beta3 * square + (1 - beta3) * (gradient + beta2 * difference) ** 2
        top = mean / (1 - beta1**step) + beta2 * change / (1 - beta2**step)
        expected = expected - rate * top / ((square / (1 - beta3**step)).sqrt() + 1e-8)
        expected, before = expected / (1 + rate * 0.2), gradient
        parameter.grad = gradient.clone()
        optimizer.step()
        torch.testing.assert_close(parameter.detach(), expected, atol=1e-12, rtol=0)


def test_adan_has_three_betas() -> None:
    with pytest.raises(ValueError, match=r"adan has 3 betas, got \(0.9, 0.999\)"):
        FitSettings(optimizer="adan")
    with pytest.raises(ValueError, match="muon has 2 betas"):
        FitSettings(optimizer="muon", betas=(0.9, 0.9, 0.9))


# -- Muon ----------------------------------------------------------------------------------------------------


def test_muon_agrees_with_torch_on_two_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch casts to bfloat16, which alone is 2 % off the exact update; here it runs in float32 too.

    Its five rounds are Jordan's, so ours take them too.
    """
    monkeypatch.setattr(Tensor, "bfloat16", Tensor.clone)
    monkeypatch.setattr(optimizers, "NEWTON_SCHULZ_ROUNDS", ((3.4445, -4.7750, 2.0315),) * 5)
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in ((16, 24), (24, 16), (16, 24), (10, 10))]
    ours = [nn.Parameter(value.clone()) for value in start]
    theirs = [nn.Parameter(value.clone()) for value in start]
    muon = Muon(ours, [], learning_rate=0.02, momentum=0.95, weight_decay=0.1)
    torch_muon = torch.optim.Muon(
        theirs, lr=0.02, momentum=0.95, weight_decay=0.1, nesterov=True, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(4):
        before = [parameter.detach().clone() for parameter in ours]
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        muon.step()
        torch_muon.step()
        for a, b, old in zip(ours, theirs, before, strict=True):
            assert (a - b).norm() / (b - old).norm() < 1e-4


def test_muon_update_of_a_convolution_is_that_of_its_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    value, gradient = (torch.randn(8, 5, 3, 3, generator=generator) for _ in range(2))
    convolution, matrix = nn.Parameter(value.clone()), nn.Parameter(value.flatten(1).clone())
    convolution.grad, matrix.grad = gradient, gradient.flatten(1)
    for parameter in (convolution, matrix):
        Muon([parameter], [], learning_rate=0.01).step()
    assert torch.equal(convolution.flatten(1), matrix)
    step = (value.flatten(1) - matrix).detach()
    expected = 0.01 * 0.2 * 45**0.5 * newton_schulz_of_singular_values(gradient.flatten(1))
    torch.testing.assert_close(step.double(), expected, atol=1e-5, rtol=0)


def test_muon_vectors_are_updated_as_by_adamw() -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(n, generator=generator) for n in (3, 70)]
    ours, theirs = ([nn.Parameter(value.clone()) for value in start] for _ in range(2))
    muon = Muon([], ours, learning_rate=0.5, vector_learning_rate=0.01, betas=(0.8, 0.99), weight_decay=0.1)
    adamw = torch.optim.AdamW(theirs, lr=0.01, betas=(0.8, 0.99), weight_decay=0.1, foreach=False)
    for _ in range(5):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        muon.step()
        adamw.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_muon_skips_what_has_no_gradient_and_runs_a_closure() -> None:
    used, unused = nn.Parameter(torch.eye(3)), nn.Parameter(torch.eye(3))
    bias = nn.Parameter(torch.zeros(3))
    muon = Muon([used, unused], [bias], learning_rate=0.1)

    def closure() -> float:
        loss = used.square().sum()
        loss.backward()
        return float(loss.detach())

    assert muon.step(closure) == 3.0
    assert torch.equal(unused, torch.eye(3))
    assert torch.equal(bias, torch.zeros(3))
    assert not torch.equal(used, torch.eye(3))


def test_muon_fits_half_precision_parameters() -> None:
    parameter = nn.Parameter(torch.eye(4, dtype=torch.bfloat16))
    parameter.grad = torch.eye(4, dtype=torch.bfloat16)
    Muon([parameter], [], learning_rate=0.1).step()
    assert parameter.dtype == torch.bfloat16
    assert parameter.diagonal().max() < 1


# -- choice of rule and rate ---------------------------------------------------------------------------------


def test_which_parameters_are_matrices() -> None:
    chosen = {name for name, parameter in new_net().named_parameters() if is_matrix(name, parameter)}
    assert chosen == {"conv.weight", "twin1.weight", "twin2.weight", "linear.weight"}
    assert not is_matrix("latents.per_frame.weight", torch.zeros(8, 16, 2, 4))
    assert not is_matrix("fold.weight", torch.zeros(1, 9))
    assert not is_matrix("fold.weight", torch.zeros(9, 1))
    assert is_matrix("volume.weight", torch.zeros(4, 3, 1, 3, 3))


def test_muon_groups_and_rates() -> None:
    net = new_net()
    net.conv.bias.requires_grad_(False)
    optimizer = build_optimizer(net.named_parameters(), RULES["muon"])
    assert isinstance(optimizer, Muon)
    assert [len(group["params"]) for group in optimizer.param_groups] == [4, 11]
    set_learning_rate(optimizer, 0.5)
    set_learning_rate(optimizer, 0.1)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([3e-4, 1e-4])
    assert [group["base_lr"] for group in optimizer.param_groups] == [3e-3, 1e-3]


def test_one_rate_serves_both_kinds_when_none_is_given() -> None:
    optimizer = build_optimizer(
        new_net().named_parameters(), FitSettings(optimizer="muon", learning_rate=2e-3)
    )
    assert [group["base_lr"] for group in optimizer.param_groups] == [2e-3, 2e-3]


@pytest.mark.parametrize(("name", "rule"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_adam_is_torchs(name: str, rule: type[torch.optim.Adam]) -> None:
    ours, theirs = new_net(), new_net()
    chosen = RULES[name]
    optimizer = build_optimizer(ours.named_parameters(), chosen)
    assert isinstance(optimizer, rule)
    reference = rule(
        theirs.parameters(),
        lr=chosen.learning_rate,
        betas=chosen.betas,
        weight_decay=chosen.weight_decay,
        foreach=False,
    )
    for group in reference.param_groups:
        group["base_lr"] = group["lr"]
    train(ours, optimizer, range(6))
    train(theirs, reference, range(6))
    for a, b in zip(weights(ours), weights(theirs), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_a_setting_without_effect_is_refused() -> None:
    with pytest.raises(UsageError, match="adam has no decoupled weight decay"):
        build_optimizer(new_net().named_parameters(), FitSettings(optimizer="adam", weight_decay=0.1))


@pytest.mark.parametrize("rule", ["adam", "adamw", "muon"])
def test_vectors_may_have_a_rate_of_their_own(rule: str) -> None:
    net = new_net()
    chosen = FitSettings.model_validate(
        {"optimizer": rule, "learning_rate": 0.2, "vector_learning_rate": 0.1}
    )
    optimizer = build_optimizer(net.named_parameters(), chosen)
    set_learning_rate(optimizer, 0.5)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(net.parameters()))
    for name, parameter in net.named_parameters():
        assert rates[id(parameter)] == (0.1 if is_matrix(name, parameter) else 0.05)


# -- resumption ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", sorted(RULES))
def test_ten_steps_are_five_and_five(name: str, channels_last: bool, tmp_path: Path) -> None:
    """Through a file, as checkpoints go: tensors row by row, which loses the order of channels-last state."""
    whole = new_net(channels_last=channels_last)
    train(whole, build_optimizer(whole.named_parameters(), RULES[name]), range(10))

    first = new_net(channels_last=channels_last)
    optimizer = build_optimizer(first.named_parameters(), RULES[name])
    train(first, optimizer, range(5))
    state = optimizer.state_dict()
    tensors = {
        f"{i}.{key}": value.contiguous()
        for i, slots in state["state"].items()
        for key, value in slots.items()
    }
    save_file(tensors, tmp_path / "state.safetensors")
    loaded: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(tmp_path / "state.safetensors").items():
        index, _, slot = key.partition(".")
        loaded.setdefault(int(index), {})[slot] = value

    second = new_net(channels_last=channels_last)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    resumed = build_optimizer(second.named_parameters(), RULES[name])
    resumed.load_state_dict({"state": loaded, "param_groups": state["param_groups"]})
    train(second, resumed, range(5, 10))
    for a, b in zip(weights(whole), weights(second), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", sorted(RULES))
def test_memory_order_changes_nothing_but_rounding(name: str) -> None:
    results = []
    for channels_last in (False, True):
        net = new_net(channels_last=channels_last)
        train(net, build_optimizer(net.named_parameters(), RULES[name]), range(3))
        results.append(weights(net))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", sorted(RULES))
def test_every_rule_lowers_the_loss(name: str) -> None:
    net = new_net()
    x_NCHW = torch.randn(2, 6, 5, 5, generator=torch.Generator().manual_seed(0))
    before = float((net(x_NCHW) - 1).square().mean().detach())
    optimizer = build_optimizer(net.named_parameters(), RULES[name])
    for _ in range(30):
        optimizer.zero_grad(set_to_none=True)
        (net(x_NCHW) - 1).square().mean().backward()
        optimizer.step()
    assert float((net(x_NCHW) - 1).square().mean().detach()) < 0.9 * before
