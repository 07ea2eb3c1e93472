"""Two hundred outer steps leave no tensor behind, without the cycle collector."""

import pytest
import torch
from torch import Tensor

from raymeta.compile import recurrence
from raymeta.hypergrad import (
    ES,
    PES,
    SOBA,
    Checkpointed,
    Estimator,
    Forward,
    Implicit,
    Reverse,
    Reversible,
    ShortTerm,
    Truncated,
)
from raymeta.optim import sgd
from raymeta.problem import BilevelProblem, descent
from raymeta.types import Hparams, Tensors
from tests.support.memory import assert_flat

pytestmark = pytest.mark.usefixtures("float64")

#: Without the engine "higher", which makes a class for each run: it and λ, which the
#: inner loss holds, are left to the cycle collector.
ESTIMATORS: dict[str, Estimator] = {
    "reverse": Reverse(1),
    "truncated": Truncated(2, window=1),
    "checkpointed": Checkpointed(2),
    "reversible": Reversible(1),
    "forward": Forward(1),
    "forward-chunk": Forward(1, chunk=2),
    "short-term": ShortTerm(),
    "short-term-next": ShortTerm(loss="next_batch"),
    "implicit": Implicit(1),
    "soba": SOBA(),
    "es": ES(1, sigma=0.01, pairs=1),
    "pes": PES(1, sigma=0.01, pairs=1),
    "traced": Checkpointed(2, compile=True),
    "traced-reversible": Reversible(1, compile=True),
    "traced-pes": PES(1, sigma=0.01, pairs=1, compile=True),
}
#: What is not learned: what has no effect at the minimum; what keeps gradients apart.
NUMBERS = {
    Implicit(1): ("lr", "momentum"),
    SOBA(): ("lr", "momentum"),
    ShortTerm(loss="next_batch"): ("l2",),
}


def parabola() -> tuple[BilevelProblem, Hparams]:
    """Two weights; λ in the optimizer and the inner loss."""
    h = torch.tensor([1.0, 4.0])

    def loss(params: Tensors) -> Tensor:
        return 0.5 * (h * (params["w"] - 1).square()).sum()

    problem = descent(
        init_params=lambda hparams: {"w": torch.zeros(2)},
        inner_loss=lambda params, hparams, batch: (
            loss(params) + hparams["l2"] * params["w"].square().sum()
        ),
        outer_loss=lambda params, hparams: loss(params),
        optimizer=lambda hparams: sgd(hparams["lr"], momentum=hparams["momentum"]),
    )
    return problem, {
        "lr": torch.tensor(0.05),
        "momentum": torch.tensor(0.3),
        "l2": torch.tensor(0.02),
    }


@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
def test_the_number_of_live_tensors_is_flat(estimator, monkeypatch):
    # Compiled: see test_compiled; here the graphs run operator by operator.
    monkeypatch.setattr(recurrence, "build", lambda graph, *_: graph.forward)
    problem, hparams = parabola()
    numbers = {name: float(hparams[name]) for name in NUMBERS.get(estimator, ())}
    assert_flat(estimator, problem, hparams | numbers)
