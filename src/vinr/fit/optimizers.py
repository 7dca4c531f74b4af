"""Update rules by name: Adam, AdamW, Adan, and Muon for networks made of convolutions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.optimizer import Optimizer

from vinr.config import OPTIMIZER_GROUP, FitSettings
from vinr.errors import UsageError
from vinr.settings import load_plugin

ADAM_EPSILON = 1e-8
# Rounds σ ← a·σ + b·σ³ + c·σ⁵, each the one that comes nearest to 1 everywhere in the range that the rounds
# before it leave of [0.01, 1]; no three others do better together (Amsel et al., "The Polar Express", 2025).
# Three leave [0.73, 1.27]; five of Jordan's (2024; 3.4445, −4.775, 2.0315 each) leave [0.68, 1.13].
NEWTON_SCHULZ_ROUNDS = (
    (8.0934, -23.6204, 17.4462),
    (3.6366, -2.7219, 0.5365),
    (2.6613, -1.9772, 0.4526),
)
NORM_EPSILON = 1e-7
# What is kept of each parameter, by kind of group.
MOMENTS = {
    "matrix": ("momentum",),
    "vector": ("step", "exp_avg", "exp_avg_sq"),
    "adan": ("exp_avg", "exp_avg_sq", "exp_avg_diff", "previous_grad"),
}
# Makes the mean square of an update that of Adam's (Liu et al., "Muon is scalable for LLM training", 2025).
UPDATE_SCALE = 0.2


Named = list[tuple[str, nn.Parameter]]


def build_optimizer(model_parameters: Iterable[tuple[str, nn.Parameter]], settings: FitSettings) -> Optimizer:
    """Return the optimiser that ``settings`` name, for the parameters (of ``named_parameters()``) that learn.

    Each group keeps its full rate as ``base_lr`` for :func:`set_learning_rate`. State comes back exactly
    through ``state_dict`` and ``load_state_dict``. A package of its own offers an optimiser under the entry
    point group ``vinr.optimizers``: a function of the named parameters and the settings that returns it.

    Raises
    ------
    UsageError
        If the settings ask for what the update rule does not do, or a package's optimiser cannot be used.
    """
    named: Named = [item for item in model_parameters if item[1].requires_grad]
    build = _BUILDERS.get(settings.optimizer, _build_plugin)
    optimizer = build(named, settings)
    for group in optimizer.param_groups:
        group["base_lr"] = group["lr"]
        group.setdefault("kind", "adan" if settings.optimizer == "adan" else "vector")
    return optimizer


def _build_muon(named: Named, settings: FitSettings) -> Optimizer:
    matrices, vectors = _split(named)
    return Muon(
        matrices,
        vectors,
        learning_rate=settings.learning_rate,
        vector_learning_rate=settings.vector_learning_rate,
        momentum=settings.momentum,
        betas=(settings.betas[0], settings.betas[1]),
        weight_decay=settings.weight_decay,
    )


def _build_adam(named: Named, settings: FitSettings) -> Optimizer:
    if settings.optimizer == "adam" and settings.weight_decay:
        raise UsageError(
            f"adam has no decoupled weight decay, got {settings.weight_decay:g}; use adamw or set it to 0"
        )
    rule = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    optimizer = rule(
        _groups_by_rate(named, settings),
        lr=settings.learning_rate,
        betas=(settings.betas[0], settings.betas[1]),
        eps=ADAM_EPSILON,
        weight_decay=settings.weight_decay,
        fused=_can_fuse(list(map(itemgetter(1), named))),
    )
    optimizer.register_load_state_dict_post_hook(_match_layout)
    return optimizer


def _build_adan(named: Named, settings: FitSettings) -> Optimizer:
    """Return Adan (Xie et al., TPAMI 2024): Adam with a moment for the difference of gradients."""
    from pytorch_optimizer import Adan  # takes seconds to load, and few recipes need it

    optimizer: Optimizer = Adan(
        _groups_by_rate(named, settings),
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=ADAM_EPSILON,
        weight_decay=settings.weight_decay,
    )
    return optimizer


_BUILDERS = {"adam": _build_adam, "adamw": _build_adam, "adan": _build_adan, "muon": _build_muon}


def _build_plugin(named: Named, settings: FitSettings) -> Optimizer:
    """Return the optimiser of an installed package, in each group what is ``kept`` of its parameters."""
    name = settings.optimizer
    build = load_plugin(OPTIMIZER_GROUP, name)
    optimizer = build(named, settings)
    if not isinstance(optimizer, Optimizer):
        raise UsageError(
            f"optimizer {name!r} returns a {type(optimizer).__name__}, not a torch.optim.Optimizer"
        )
    # What the rule keeps shows once it has moved something: copies, which nobody needs afterwards.
    copies: Named = []
    for key, parameter in named:
        copies.append((key, nn.Parameter(torch.zeros_like(parameter))))
        copies[-1][1].grad = torch.zeros_like(parameter)
    trial: Optimizer = build(copies, settings)
    trial.step()
    for group, tried in zip(optimizer.param_groups, trial.param_groups, strict=True):
        group["kept"] = [_kept_of(name, trial.state[copy]) for copy in tried["params"]]
    optimizer.register_load_state_dict_post_hook(_match_layout)
    return optimizer


def _kept_of(name: str, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return type and shape of what is kept of a parameter, by name, without values."""
    kept = {}
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise UsageError(f"optimizer {name!r} keeps {key} as {type(value).__name__}; keep it as a tensor")
        kept[key] = value.to("meta")
    return kept


def _split(named: Named) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the matrices and the vectors; see :func:`is_matrix`."""
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for name, parameter in named:
        (matrices if is_matrix(name, parameter) else vectors).append(parameter)
    return matrices, vectors


def _groups_by_rate(named: Named, settings: FitSettings) -> list[dict[str, list[nn.Parameter] | float]]:
    """Return one group, or two where vectors have a rate of their own."""
    if settings.vector_learning_rate is None:
        return [{"params": list(map(itemgetter(1), named))}]
    matrices, vectors = _split(named)
    # Groups in this order: a kept state numbers parameters as they stand here.
    return [{"params": matrices}, {"params": vectors, "lr": settings.vector_learning_rate}]


def set_learning_rate(optimizer: Optimizer, multiplier: float) -> None:
    """Set the rate of every group to ``multiplier`` times its full rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * multiplier


def moments_of(optimizer: Optimizer) -> dict[int, dict[str, Tensor]]:
    """Return what the update rule keeps of each parameter, once it has moved it.

    Parameters are numbered as in ``state_dict``; the tensors show type and shape alone.
    """
    count = torch.zeros((), dtype=torch.float32)
    moments: list[dict[str, Tensor]] = []
    for group in optimizer.param_groups:
        if "kept" in group:
            moments += group["kept"]
            continue
        for parameter in group["params"]:
            kept = dict.fromkeys(MOMENTS[group["kind"]], parameter.detach())
            if "step" in kept:
                kept["step"] = count
            moments.append(kept)
    return dict(enumerate(moments))


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Return whether Muon orthogonalises this parameter.

    It does where the parameter maps features to features: the ``weight`` of a linear layer or a dense
    convolution, out × (in · kernel). All else is updated by Adam: biases, norms and layer scales (one axis),
    depthwise convolutions (their channels do not mix), per-frame latents and feature grids (tables whose rows
    are no linear map; they are never called ``weight``), and matrices of a single row or column.
    """
    parts = name.split(".")
    if parts[-1] != "weight" or "latents" in parts or parameter.ndim < 2:
        return False
    is_depthwise = parameter.ndim > 2 and parameter.shape[1] == 1
    rows = parameter.shape[0]
    return not is_depthwise and rows > 1 and parameter.numel() > rows


def orthogonalize(matrix_BMN: Tensor) -> Tensor:
    """Return the matrices B with their singular values moved close to 1 by Newton–Schulz rounds.

    Each round X ← (a + b·XXᵀ + c·(XXᵀ)²) X multiplies by a polynomial in XXᵀ, and these all commute: they are
    multiplied as M × M matrices (M the smaller side) and applied to X once. In exact arithmetic this is the
    usual iteration, at 2·M²N + 9·M³ multiplications instead of 6·M²N + 3·M³. In float32 it is within 2e-5
    (relative) of the exact result for random matrices, within 1e-3 where singular values span many decades;
    the usual iteration in bfloat16 is about 2e-2 off.
    """
    return _orthogonalize_together([matrix_BMN])[0]


def _orthogonalize_together(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Orthogonalise matrices (…, M, N), in float32 or wider, whose smaller sides are equal, in one batch.

    Only products with the matrices themselves need their longer sides; the polynomials do not.
    """
    # Each matrix lying, M ≤ N, of norm 1: (B, M, N) or (M, N).
    wide, grams, gram_counts = [], [], []
    for matrix_BMN in matrices:
        wide_BMN = _lying(matrix_BMN)
        norm_B11 = torch.linalg.matrix_norm(wide_BMN, keepdim=True)
        wide_BMN = wide_BMN / norm_B11.clamp_min(NORM_EPSILON)
        gram_BMM = wide_BMN @ wide_BMN.mT
        wide.append(wide_BMN)
        grams.append(gram_BMM.reshape(-1, *gram_BMM.shape[-2:]))
        gram_counts.append(len(grams[-1]))
    #   X₁ (M, N₁)   X₂ (M, N₂)   X₃ (B, M, N₃)
    #       │            │            │
    #   XXᵀ (1, M, M) ┊ (1, M, M) ┊ (B, M, M)    one batch, whatever N₁, N₂ and N₃ are
    products = torch.split(_newton_schulz(torch.cat(grams)), gram_counts)
    results = []
    for product_BMM, wide_BMN, matrix_BMN in zip(products, wide, matrices, strict=True):
        result_BMN = product_BMM.view(*wide_BMN.shape[:-1], -1) @ wide_BMN
        results.append(result_BMN if wide_BMN.shape == matrix_BMN.shape else result_BMN.mT)
    return results


def _lying(matrix_BMN: Tensor) -> Tensor:
    rows, columns = matrix_BMN.shape[-2:]
    return matrix_BMN.mT if rows > columns else matrix_BMN


def _newton_schulz(gram_BMM: Tensor) -> Tensor:
    """Return the polynomials of ``gram_BMM`` = XXᵀ that X is multiplied by."""
    product_BMM: Tensor | None = None
    for number, (a, b, c) in enumerate(NEWTON_SCHULZ_ROUNDS, 1):
        factor_BMM = torch.baddbmm(gram_BMM, gram_BMM, gram_BMM, beta=b, alpha=c)
        factor_BMM.diagonal(dim1=-2, dim2=-1).add_(a)
        product_BMM = factor_BMM if product_BMM is None else torch.bmm(factor_BMM, product_BMM)
        if number < len(NEWTON_SCHULZ_ROUNDS):
            gram_BMM = torch.bmm(torch.bmm(factor_BMM, gram_BMM), factor_BMM)
    assert product_BMM is not None
    return product_BMM


class Muon(Optimizer):
    """Momentum, orthogonalised (Jordan, 2024), for matrices; Adam with decoupled weight decay for vectors.

    A convolution counts as the matrix out × (in · kernel). Its update is orthogonalised and scaled by
    0.2 · √max(rows, columns), so that the rates of Adam fit. Matrices whose smaller sides are equal are
    worked on together.

    Parameters
    ----------
    matrices, vectors
        The parameters of either kind; see :func:`is_matrix`.
    learning_rate
        Rate of the matrices.
    vector_learning_rate
        Rate of the vectors; ``learning_rate`` when None.
    momentum
        Decay of the running mean of matrix gradients (Nesterov's look-ahead is used).
    betas
        Decay of Adam's two moments.
    weight_decay
        Shrinks all parameters by rate · weight_decay per step.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        vectors: Iterable[nn.Parameter],
        *,
        learning_rate: float,
        vector_learning_rate: float | None = None,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
    ) -> None:
        vectors = list(vectors)
        vector_lr = learning_rate if vector_learning_rate is None else vector_learning_rate
        # "fused" is also how the base class knows that step counters are tensors on the parameters' device.
        groups: list[dict[str, Any]] = [
            {"params": list(matrices), "lr": learning_rate, "kind": "matrix", "momentum": momentum},
            {
                "params": vectors,
                "lr": vector_lr,
                "kind": "vector",
                "betas": betas,
                "fused": _can_fuse(vectors),
            },
        ]
        super().__init__(groups, {"weight_decay": weight_decay})
        self.register_load_state_dict_post_hook(_match_layout)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient; ``closure`` may recompute the loss first."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        for group in self.param_groups:
            learning = [parameter for parameter in group["params"] if parameter.grad is not None]
            if learning and group["kind"] == "matrix":
                self._step_matrices(learning, group)
            elif learning:
                self._step_vectors(learning, group)
        return value

    def _step_matrices(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        # Matrices of one smaller side go through the iteration together: a small network has many of them,
        # and each product alone is too little work for a core.
        same_side: dict[tuple[int, torch.device, torch.dtype], list[nn.Parameter]] = {}
        for parameter in parameters:
            key = min(parameter.flatten(1).shape), parameter.device, _full_type(parameter.dtype)
            same_side.setdefault(key, []).append(parameter)
        for (_, _, dtype), members in same_side.items():
            updates = [self._look_ahead(p, group["momentum"]).flatten(1).to(dtype) for p in members]
            for parameter, update_MN in zip(members, _orthogonalize_together(updates), strict=True):
                rate = group["lr"] * UPDATE_SCALE * math.sqrt(max(update_MN.shape))
                if group["weight_decay"]:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update_MN.reshape(parameter.shape), alpha=-rate)

    def _look_ahead(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        mean: Tensor = state["momentum"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(mean, momentum)

    def _step_vectors(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                device = parameter.device if group["fused"] else None
                state["step"] = torch.zeros((), dtype=torch.float32, device=device)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
        beta1, beta2 = group["betas"]
        states = [self.state[parameter] for parameter in parameters]
        adam(
            parameters,  # type: ignore[arg-type]
            list(map(attrgetter("grad"), parameters)),
            list(map(itemgetter("exp_avg"), states)),
            list(map(itemgetter("exp_avg_sq"), states)),
            [],  # of AMSGrad
            list(map(itemgetter("step"), states)),
            fused=group["fused"],
            decoupled_weight_decay=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=ADAM_EPSILON,
            maximize=False,
        )


def _full_type(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _can_fuse(parameters: list[nn.Parameter]) -> bool:
    return all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)


def _match_layout(optimizer: Optimizer) -> None:
    """Store loaded state in the memory order of its parameter.

    Files keep tensors row by row. The fused update walks state and parameter in memory order and would
    silently pair the wrong elements of a channels-last weight.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)
