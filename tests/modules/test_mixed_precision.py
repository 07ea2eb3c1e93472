"""Training under autocast: bfloat16 inside the module, float32 everywhere else."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raymeta._tree import tree_leaves
from raymeta.hypergrad import Forward, Reverse, hypergradient
from raymeta.hypergrad.base import advance
from raymeta.problem import BilevelProblem
from raymeta.testing.truth import largest_relative_error
from tests.support.module_cases import hparams_of, mlp, problem_of, ridge


def attention() -> nn.Module:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project, self.head = nn.Linear(1, 12), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.project(x[..., None]).chunk(3, -1)
            return self.head(F.scaled_dot_product_attention(q, k, v).mean(1))

    torch.manual_seed(0)
    return Attention()


MODULES = {
    "mlp": mlp,
    "batch norm": lambda: mlp(nn.BatchNorm1d(6)),
    "layer norm": lambda: mlp(nn.LayerNorm(6)),
    "dropout": lambda: mlp(nn.Dropout(0.3)),
    "attention": attention,
}
every = pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
HPARAMS = hparams_of(l2=torch.full((4,), 0.01))


def problem(make, **others) -> BilevelProblem:
    return problem_of(make(), **others)


def seen_by(layer: nn.Module) -> list[torch.dtype]:
    """Dtypes that a layer gives, appended at every call of it or of its copies."""
    seen: list[torch.dtype] = []
    layer.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    return seen


@every
def test_hypergradients_are_float32_and_those_of_float32_to_the_rounding(make):
    mixed = problem(make, autocast=torch.bfloat16)
    truth = hypergradient(problem(make), hparams_of(), Reverse(4))
    reverse = hypergradient(mixed, hparams_of(), Reverse(4))
    rollout = Forward(4).init(mixed, hparams_of())
    forward, rollout = Forward(4).estimate(mixed, hparams_of(), rollout)
    dtypes = {
        x.dtype for x in tree_leaves((reverse.grads, forward.grads, rollout.carry))
    }
    assert dtypes == {torch.float32}
    # bfloat16 has 8 digits: 0.4 %.
    assert largest_relative_error(reverse.grads, truth.grads) < 0.06
    assert largest_relative_error(forward.grads, reverse.grads) < 0.03
    assert float(reverse.outer_loss) != float(truth.outer_loss)
    assert float(reverse.outer_loss) == pytest.approx(float(truth.outer_loss), rel=0.01)


@every
def test_weights_and_statistics_stay_float32(make):
    mixed = problem(make, autocast=torch.bfloat16)
    state = mixed.init(hparams_of())
    after = advance(mixed, hparams_of(), state, 0, 2)
    kinds = [[x.dtype for x in tree_leaves(s)] for s in (state, after)]
    assert kinds[0] == kinds[1]


def test_layers_compute_in_bfloat16_and_the_loss_does_not():
    net = mlp()
    inside, losses = seen_by(net[0]), []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        losses.append(outputs.dtype)
        return F.cross_entropy(outputs, targets)

    mixed = problem_of(net, loss=loss, autocast=torch.bfloat16)
    state = advance(mixed, hparams_of(), mixed.init(hparams_of()), 0, 1)
    mixed.outer_loss(state, hparams_of())
    assert set(inside) == {torch.bfloat16}
    assert set(losses) == {torch.float32}


def test_what_is_outside_the_module_is_not_cast():
    mixed = problem(mlp, autocast=torch.bfloat16, regularizer=ridge)
    plain = problem(mlp, regularizer=ridge)
    state = plain.init(HPARAMS)

    def penalty(some: BilevelProblem) -> Tensor:
        with_it = some.inner_loss(state, HPARAMS, some.batch(0))
        none = hparams_of(l2=torch.zeros(4))
        return with_it - some.inner_loss(state, none, some.batch(0))

    torch.testing.assert_close(penalty(mixed), penalty(plain), rtol=1e-4, atol=1e-6)
