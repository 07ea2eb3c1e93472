"""Every kind of module and of loss: true derivatives, or one line that refuses it."""

from typing import Any

import pytest

from raymeta.hypergrad import Reverse
from raymeta.problem import BilevelProblem
from raymeta.types import Hparams, Tensors
from tests.modules.catalogue import check
from tests.modules.catalogue.losses import LOSSES
from tests.modules.catalogue.others import REASONS
from tests.modules.catalogue.page import PATH, page
from tests.modules.catalogue.table import KINDS

pytestmark = [
    pytest.mark.usefixtures("float64"),
    # What torch itself says of its own layers.
    pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning"),
    pytest.mark.filterwarnings("ignore:.* is not the derivative of:UserWarning"),
    pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning"),
    pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning"),
]


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_of_module(name):
    kind = KINDS[name]
    if name in REASONS:
        pytest.skip(REASONS[name])
    refused = check.refusal_of(lambda: check.problem_of(kind))
    if refused:
        assert kind.refused
        assert kind.refused in refused
        return
    problem, hparams = check.problem_of(kind), check.hparams_of()
    truth: Tensors = {}
    if kind.surrogate:
        reverse = Reverse(check.STEPS)
        rollout = reverse.init(problem, hparams)
        truth = reverse.estimate(problem, hparams, rollout)[0].grads
    elif not kind.refused:
        truth = check.truth_of(problem, hparams)
        if not kind.random:
            by_torch = check.trained_by_torch(kind, problem)
            assert check.trained_by_raymeta(problem) == pytest.approx(by_torch, 1e-9)
    estimators = check.ESTIMATORS | (check.COMPILED if kind.compiled else {})
    _compare(kind, problem, hparams, estimators, truth)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss(name):
    loss = LOSSES[name]
    refused = check.refusal_of(lambda: check.problem_of_loss(loss))
    if refused:
        assert loss.refused
        assert loss.refused in refused
        return
    problem, hparams = check.problem_of_loss(loss), check.hparams_of()
    truth = {} if loss.refused else check.truth_of(problem, hparams)
    _compare(loss, problem, hparams, check.ESTIMATORS, truth)


def _compare(
    entry: Any,
    problem: BilevelProblem,
    hparams: Hparams,
    estimators: dict[str, Any],
    truth: Tensors,
) -> None:
    """Each estimator gives the truth, or is refused as the entry says."""
    for name, estimator in estimators.items():
        expected = entry.refused or entry.except_for.get(name, "")
        refused = check.refusal_of(lambda e=estimator: e.init(problem, hparams))
        if expected:
            assert expected in refused, name
        else:
            assert not refused, name
            check.require_true(problem, hparams, estimator, truth)


def test_the_page_is_up_to_date():
    assert PATH.read_text() == page(), "run python -m tests.modules.catalogue.page"
