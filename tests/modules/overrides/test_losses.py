"""Losses and distances written out, against torch's own."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from raymeta.modules.counter_rng import Noise
from raymeta.modules.overrides.losses import RULES

pytestmark = pytest.mark.usefixtures("float64")
NOISE = Noise(0, torch.tensor(0))
GENERATOR = torch.Generator().manual_seed(0)
X, Y = (torch.randn(2, 6, 4, generator=GENERATOR, dtype=torch.float64) * 1.5).unbind()
SIGNS, CLASSES = Y.sign(), torch.tensor([0, 3, 1, 1, 2, 0])
SEVERAL = torch.tensor([[1, 3, -1, 2], [0, -1, 0, 0], [-1, 1, 2, 3]] * 2)
WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 1.5], dtype=torch.float64)
REDUCTIONS = [{"reduction": r} for r in ("mean", "sum", "none")]
OF_OLD = [{"size_average": False}, {"reduce": False}]
CASES = {
    F.mse_loss: ((X, Y), [*REDUCTIONS, *OF_OLD]),
    F.huber_loss: (
        (X, Y),
        [*REDUCTIONS, {"delta": 0.4}, {"weight": Y.square(), "reduction": "mean"}],
    ),
    F.soft_margin_loss: ((X, SIGNS), [*REDUCTIONS, *OF_OLD]),
    F.multi_margin_loss: (
        (X, CLASSES),
        [*REDUCTIONS, {"p": 2}, {"margin": 0.3}, {"weight": WEIGHTS}],
    ),
    F.multilabel_margin_loss: ((X, SEVERAL), REDUCTIONS),
    F.nll_loss: (
        (X, CLASSES, WEIGHTS),
        [*REDUCTIONS, *OF_OLD, {"ignore_index": 1}],
    ),
    F.cross_entropy: (
        (X, CLASSES, WEIGHTS),
        [*REDUCTIONS, {"label_smoothing": 0.2, "ignore_index": 1}],
    ),
    F.hardsigmoid: ((3 * X,), [{}, {"inplace": True}]),
    torch.cdist: ((X, Y[:3]), [{}, *({"p": p} for p in (1.0, 1.5, torch.inf))]),
    F.pdist: ((X,), [{}, {"p": 1.0}, {"p": 3.0}]),
}
EACH = [
    pytest.param(function, given, others, id=f"{function.__name__}-{others}")
    for function, (given, each) in CASES.items()
    for others in each
]


@pytest.mark.filterwarnings("ignore:.*size_average and reduce.*:UserWarning")
@pytest.mark.parametrize(("function", "given", "others"), EACH)
def test_value_and_derivative_are_torchs(function, given, others):
    def at(call) -> tuple[Tensor, Tensor]:
        x = given[0].clone().requires_grad_()
        value = call(x * 1.0, *given[1:], **others)
        (slope,) = torch.autograd.grad(value.sin().sum(), x)
        return value.detach(), slope

    ours = at(lambda *args, **kw: RULES[function](NOISE, *args, **kw))
    # torch's own derivative of hardsigmoid is 1/6 in single precision.
    close = 1e-7 if function is F.hardsigmoid else 1e-12
    for one, other in zip(ours, at(function), strict=True):
        torch.testing.assert_close(one, other, rtol=close, atol=close / 10)


@pytest.mark.parametrize("shape", [(4,), (1, 4)])
def test_one_example_needs_no_batch(shape):
    x = X[0].reshape(shape)
    for function, target in (
        (F.multi_margin_loss, CLASSES[:1] if len(shape) == 2 else CLASSES[0]),
        (F.multilabel_margin_loss, SEVERAL[0].reshape(shape)),
    ):
        torch.testing.assert_close(
            RULES[function](NOISE, x, target), function(x, target)
        )


def test_the_distance_of_a_point_to_itself_has_derivative_0():
    x = X.clone().requires_grad_()
    rule = RULES[torch.cdist]
    (ours,) = torch.autograd.grad(rule(NOISE, x, X).sum(), x, create_graph=True)
    (theirs,) = torch.autograd.grad(torch.cdist(x, X).sum(), x)
    torch.testing.assert_close(ours, theirs)
    assert bool(torch.autograd.grad(ours.square().sum(), x)[0].isfinite().all())


@pytest.mark.parametrize("function", [f for f in CASES if f is not F.hardsigmoid])
def test_has_second_derivatives(function):
    (x, *given), each = CASES[function]

    def value(x: Tensor) -> Tensor:
        return RULES[function](NOISE, x, *given, **each[0]).square().sum()

    assert torch.autograd.gradgradcheck(value, x.clone().requires_grad_())


@pytest.mark.parametrize("shape", [(4,), (2, 4), (2, 4, 3), (2, 4, 3, 2)])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_weights_of_classes_fit_outputs_of_any_shape(shape, reduction):
    outputs = torch.randn(shape, generator=GENERATOR)
    y = torch.randint(
        4, shape[:1] + shape[2:] if len(shape) > 1 else (), generator=GENERATOR
    )
    settings = {"weight": WEIGHTS, "reduction": reduction, "label_smoothing": 0.1}
    torch.testing.assert_close(
        RULES[F.cross_entropy](NOISE, outputs, y, **settings),
        F.cross_entropy(outputs, y, **settings),
    )
