"""The module that a run is handed back as: the user's own, with tuned tensors."""

import pickle
from collections.abc import Callable
from copy import deepcopy
from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

from raymeta.modules import PerStep
from raymeta.outer.report import plain_run
from tests.support.module_cases import (
    VAL,
    Tied,
    data,
    frozen,
    hparams_of,
    mlp,
    problem_of,
)

pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning"),
]


class Mean(nn.Module):
    """A running mean that `state_dict` leaves out, and an extra state."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6), persistent=False)
        self.info = {"version": 2}

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.8 * self.mean + 0.2 * x.mean(0)
        return x - self.mean

    def get_extra_state(self) -> dict[str, int]:
        return self.info

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.info = state


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.GRU(1, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x[:, :, None])[0][:, -1])


def frozen_in_the_middle() -> nn.Module:
    net = mlp(nn.Linear(6, 6), nn.Linear(6, 6))
    net[1].requires_grad_(False)
    net[2].bias.requires_grad_(False)
    return net


def shared() -> nn.Module:
    layer = nn.Linear(6, 6)
    return mlp(layer, nn.Tanh(), layer)


def pruned() -> nn.Module:
    net = mlp()
    prune.l1_unstructured(net[0], "weight", 7)
    prune.random_structured(net[2], "weight", 1, dim=0)
    return net


def used(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """One that was called before, and keeps what it computed, with its graph."""

    def called() -> nn.Module:
        net = make()
        net(*data().tensors[:1])
        return net

    return called


def of_old() -> nn.Module:
    return mlp(nn.utils.weight_norm(nn.Linear(6, 6)))


MODULES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "frozen": (frozen, {}),
    "frozen in the middle": (frozen_in_the_middle, {}),
    "tied": (Tied, {}),
    "shared": (shared, {}),
    "a recurrent layer": (Recurrent, {}),
    "buffers that are not saved": (lambda: mlp(Mean()), {}),
    "norm": (lambda: mlp(nn.BatchNorm1d(6)), {}),
    "norm, batch": (lambda: mlp(nn.BatchNorm1d(6)), {"batch_norm": "batch"}),
    "norm, frozen": (lambda: mlp(nn.BatchNorm1d(6)), {"batch_norm": "frozen"}),
    "norm, per step": (lambda: mlp(nn.BatchNorm1d(6)), {"batch_norm": PerStep(9)}),
    "norm, fewer steps": (lambda: mlp(nn.BatchNorm1d(6)), {"batch_norm": PerStep(3)}),
    "norm, weights per step": (
        lambda: mlp(nn.BatchNorm1d(6)),
        {
            "batch_norm": PerStep(9),
            "init_params": lambda params, h: (
                params | {"1.weight": params["1.weight"].expand(9, 6).clone()}
            ),
        },
    ),
    "a buffer from λ": (
        lambda: mlp(Mean()),
        {"frozen": lambda h: {"1.mean": h["lr"] * torch.ones(6)}},
    ),
    "a weight from λ": (
        frozen,
        {"frozen": lambda h: {"0.weight": h["lr"].expand(6, 5)}},
    ),
    "weight norm": (lambda: mlp(parametrizations.weight_norm(nn.Linear(6, 6))), {}),
    "orthogonal": (lambda: mlp(parametrizations.orthogonal(nn.Linear(6, 6))), {}),
    "spectral norm": (lambda: mlp(parametrizations.spectral_norm(nn.Linear(6, 6))), {}),
    "spectral norm of old": (lambda: mlp(nn.utils.spectral_norm(nn.Linear(6, 6))), {}),
    "weight norm of old": (of_old, {}),
    "weight norm of old, used": (used(of_old), {}),
    "pruned": (pruned, {}),
    "pruned, used": (used(pruned), {}),
}


def value(module: nn.Module) -> float:
    x, targets = data(n=VAL, seed=1).tensors
    return float(F.cross_entropy(module(x), targets).detach())


@pytest.mark.parametrize(("make", "others"), MODULES.values(), ids=MODULES)
def test_a_tuned_module_has_the_outer_loss_by_plain_torch(make, others):
    with torch.random.fork_rng([]):
        torch.manual_seed(2)
        module = make()
    problem = problem_of(module, **others)
    state, truth = plain_run(problem, hparams_of(), 5)
    tuned = problem.module(state, hparams_of())
    assert type(tuned) is type(module)
    assert value(tuned) == pytest.approx(truth, abs=1e-12)
    # No way of raymeta's is left in it, and it may be copied after a call, too.
    assert all(
        vars(a).keys() == vars(b).keys()
        for a, b in zip(tuned.modules(), module.modules(), strict=True)
    )
    if not any(map(parametrize.is_parametrized, tuned.modules())):
        assert value(pickle.loads(pickle.dumps(tuned))) == value(tuned)
    flags = [p.requires_grad for p in module.parameters()]
    assert [p.requires_grad for p in tuned.parameters()] == flags
    # It is independent of the problem.
    with torch.no_grad():
        for tensor in chain(tuned.parameters(), tuned.buffers()):
            tensor.zero_()
    assert plain_run(problem, hparams_of(), 5)[1] == truth
    again = problem.module(state, hparams_of())
    assert value(again) == pytest.approx(truth, abs=1e-12)


@pytest.mark.parametrize("name", ["frozen", "tied", "norm", "norm, per step", "pruned"])
def test_a_fresh_module_takes_what_was_tuned(name):
    make, others = MODULES[name]
    problem = problem_of(make(), **others)
    state, truth = plain_run(problem, hparams_of(), 5)
    fresh = make()
    fresh.load_state_dict(problem.module(state, hparams_of()).state_dict())
    assert value(fresh.eval()) == pytest.approx(truth, abs=1e-12)


def test_a_tuned_module_can_be_copied_before_and_after_a_call():
    problem = problem_of(used(of_old)())
    state, truth = plain_run(problem, hparams_of(), 3)
    tuned = problem.module(state, hparams_of())
    assert value(deepcopy(tuned)) == pytest.approx(truth, abs=1e-12)
    assert not tuned[1].weight.requires_grad


def test_training_can_go_on_from_a_tuned_module():
    problem = problem_of(mlp(nn.BatchNorm1d(6), Mean()))
    state, _ = plain_run(problem, hparams_of(), 3)
    tuned = problem.module(state, hparams_of())
    after = problem_of(tuned).init(hparams_of())
    assert all(torch.equal(after.params[k], state.params[k]) for k in state.params)
    assert all(torch.equal(after.buffers[k], state.buffers[k]) for k in state.buffers)
    assert tuned[2].info == {"version": 2}
