"""The online scaled gradient method, on a quadratic and on the adult set."""

import copy
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from raymeta import online

ADULT = Path(__file__).parents[3] / "shared" / "data" / "adult" / "a1a"


def quadratic(**options):
    """Two tensors with curvatures from 1 to 100: the optimizer and its closure."""
    curvatures = torch.logspace(0, 2, 6, dtype=torch.float64)
    ws = [torch.nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2)]
    optimizer = online.OSGM(ws, **options)

    def closure():
        optimizer.zero_grad()
        loss = 0.5 * (curvatures * torch.cat(ws) ** 2).sum()
        loss.backward()
        return loss

    return optimizer, closure


@pytest.mark.parametrize("per", ["weight", "tensor", "group"])
def test_the_loss_never_rises_and_reaches_the_minimum(per):
    optimizer, closure = quadratic(per=per)
    losses = [optimizer.step(closure) for _ in range(300)]
    assert all(b <= a for a, b in pairwise(losses))
    assert losses[-1] < 1e-12
    assert optimizer.counts["evaluations"] == 302


def test_a_state_goes_on_to_the_bit():
    whole, closure = quadratic()
    losses = [whole.step(closure) for _ in range(20)]
    half, closure = quadratic()
    for _ in range(10):
        half.step(closure)
    resumed, other = quadratic()
    state = copy.deepcopy(half.state_dict())
    resumed.load_state_dict(state)
    for p, q in zip(
        resumed.param_groups[0]["params"], half.param_groups[0]["params"], strict=True
    ):
        p.data.copy_(q)
    assert [resumed.step(other) for _ in range(10)] == losses[10:]


def test_what_it_refuses():
    optimizer, _ = quadratic()
    with pytest.raises(ValueError, match="needs a closure"):
        optimizer.step()
    with pytest.raises(ValueError, match="unknown per 'layer'"):
        quadratic(per="layer")
    with pytest.raises(ValueError, match="complex ones"):
        online.OSGM([torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))])
    with pytest.raises(ValueError, match="another optimizer than OSGM"):
        optimizer.load_state_dict(torch.optim.Adam([torch.ones(2)]).state_dict())
    table = torch.nn.Embedding(3, 2, sparse=True)

    def sparse():
        loss = table(torch.tensor([1])).sum()
        loss.backward()
        return loss

    with pytest.raises(ValueError, match="no sparse gradients"):
        online.OSGM(table.parameters()).step(sparse)
    with pytest.raises(ValueError, match="finite loss and gradient to start from"):
        optimizer.step(lambda: torch.tensor(float("nan")))


@pytest.mark.skipif(not ADULT.exists(), reason="needs shared/data/adult/a1a")
def test_the_yardstick_without_a_grid():
    """448 gradients; descent, heavy ball and AdaGrad need over 1,000 with the best of
    their grids, OSGM's authors 281 with the best of 20 settings.
    """
    from sklearn.datasets import load_svmlight_file

    from jobs.benchmarks.online_osgm import gradients_needed, smoothed_svm

    x, y = load_svmlight_file(str(ADULT), n_features=123)
    data = torch.tensor(x.toarray()), torch.tensor(y)
    assert int(gradients_needed(*data, smoothed_svm, 0)) <= 600
