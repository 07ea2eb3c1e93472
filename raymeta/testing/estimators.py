"""Conformance suites of hypergradient estimators."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from raymeta._tree import detach, tree_leaves
from raymeta.hypergrad import Estimator, hypergradient
from raymeta.optim import sgd
from raymeta.problem import BilevelProblem, descent
from raymeta.tasks import Quadratic
from raymeta.testing.precision import DoublePrecision
from raymeta.testing.problems import heavy_problem, sgd_everything
from raymeta.testing.truth import flops, largest_relative_error, run_differences
from raymeta.types import Batch, Hparams, Tensors

Make = Callable[[int], Estimator]
Example = tuple[BilevelProblem, Hparams]
#: Steps of a run.
STEPS = 20


class EstimatorConformance(DoublePrecision):
    """What every estimator of exact derivatives must satisfy, of few steps or of all.

        class TestMyEstimator(EstimatorConformance):
            @pytest.fixture
            def make(self):
                return MyEstimator

    Fixtures:
        make: steps -> the estimator.
        example: a problem and λ that it can differentiate by.
        refused_at_zero: entries of λ that the estimator refuses where they are 0.
    """

    @pytest.fixture
    def make(self) -> Make:
        raise NotImplementedError

    @pytest.fixture
    def example(self) -> Example:
        problem, hparams = sgd_everything()
        del hparams["init_scale"]  # which a few steps cannot see
        return problem, hparams

    @pytest.fixture
    def refused_at_zero(self) -> tuple[str, ...]:
        return ()

    def test_true_gradient_where_the_hyperparameter_is_zero(
        self, make: Make, example: Example, refused_at_zero: tuple[str, ...]
    ) -> None:
        problem, hparams = example
        zeros = ("momentum", "dampening", "weight_decay", "l2")
        hparams |= {name: torch.tensor(0.0) for name in zeros}
        estimator = make(3)
        for name in refused_at_zero:
            with pytest.raises(ValueError, match=f"needs {name} > 0"):
                hypergradient(problem, hparams, estimator)
            hparams[name] = torch.tensor(0.1)
        grads = hypergradient(problem, hparams, estimator).grads
        truth = run_differences(problem, hparams, 3)
        assert largest_relative_error(grads, truth) < 1e-6
        assert all(float(grads[name].abs().sum()) > 0 for name in zeros)

    def test_no_nan_where_the_inner_gradient_is_zero(self, make: Make) -> None:
        task = Quadratic(initial=(0.0, 0.0, 0.0))
        hparams: Hparams = {"lr": torch.tensor(0.1), "momentum": torch.tensor(0.5)}
        grads = hypergradient(task.sample(0), hparams, make(3)).grads
        assert {k: float(g) for k, g in grads.items()} == {"lr": 0.0, "momentum": 0.0}

    def test_a_disconnected_hyperparameter_is_named(
        self, make: Make, example: Example
    ) -> None:
        problem, hparams = example
        hparams["unused"] = torch.tensor(1.0)
        message = "does not depend on hyperparameter 'unused'"
        with pytest.raises(ValueError, match=message):
            hypergradient(problem, hparams, make(2))

    def test_no_differentiable_hyperparameter_is_an_error(
        self, make: Make, example: Example
    ) -> None:
        problem, hparams = example
        numbers = {name: value.tolist() for name, value in hparams.items()}
        numbers["example_weight"] = torch.ones(16, dtype=torch.int64)
        with pytest.raises(ValueError, match="at least one floating-point tensor"):
            hypergradient(problem, numbers, make(2))

    def test_steps_below_one_are_refused(self, make: Make) -> None:
        with pytest.raises(ValueError, match="steps >= 1, but got steps=0"):
            make(0)

    def test_leaves_nothing_attached_and_changes_no_input(
        self, make: Make, example: Example
    ) -> None:
        problem, hparams = example
        before = {name: value.clone() for name, value in hparams.items()}
        estimator = make(3)
        rollout = estimator.init(problem, hparams)
        found = tree_leaves(estimator.estimate(problem, hparams, rollout))
        assert not any(x.requires_grad for x in found if isinstance(x, Tensor))
        for name, value in hparams.items():
            assert torch.equal(value, before[name])
            assert not value.requires_grad

    def test_no_stale_values_after_a_hyper_step(
        self, make: Make, example: Example
    ) -> None:
        problem, hparams = example
        estimator = make(3)
        hypergradient(problem, hparams, estimator)
        moved = {name: value * 1.1 for name, value in hparams.items()}
        again = hypergradient(problem, moved, estimator)
        fresh = hypergradient(sgd_everything()[0], moved, make(3))
        for name, grad in fresh.grads.items():
            assert torch.equal(again.grads[name], grad)

    def test_charge_equals_the_count_of_multiplications(self, make: Make) -> None:
        problem, hparams = heavy_problem()
        estimator = make(STEPS)
        rollout = estimator.init(problem, hparams)
        state = detach(problem.init(hparams))
        unit = flops(lambda: problem.step(state, hparams, problem.batch(0)))
        # First, since what is traced runs twice while it is.
        charged = estimator.estimate(problem, hparams, rollout)[0].gradient_evals
        counted = flops(lambda: estimator.estimate(problem, hparams, rollout)) / unit
        assert charged == estimator.cost(problem, hparams)
        # The first layer's input has neither gradient nor tangent: a bit less is done.
        assert 0.8 * charged < counted < 1.05 * charged


class WholeRunConformance(EstimatorConformance):
    """What an estimator of dE(s_T, λ)/dλ over whole runs must satisfy besides."""

    @pytest.fixture
    def example(self) -> Example:
        return sgd_everything()

    def test_agrees_with_central_differences_for_every_kind_of_hyperparameter(
        self, make: Make, example: Example
    ) -> None:
        problem, hparams = example
        grads = hypergradient(problem, hparams, make(STEPS)).grads
        truth = run_differences(problem, hparams, STEPS)
        assert largest_relative_error(grads, truth) < 1e-7

    def test_equals_the_closed_form_on_the_quadratic(self, make: Make) -> None:
        task = Quadratic()
        hparams: Hparams = {"lr": torch.tensor(0.07), "momentum": torch.tensor(0.6)}
        result = hypergradient(task.sample(4), hparams, make(task.horizon))
        start = task.start(seed=4)
        value, grads = task.closed_form(0.07, 0.6, task.horizon, start)
        assert float(result.outer_loss) == pytest.approx(value, rel=1e-12)
        for name, truth in grads.items():
            assert float(result.grads[name]) == pytest.approx(truth, rel=1e-10)

    def test_an_operator_without_the_derivative_is_named_before_step_1(
        self, make: Make
    ) -> None:
        x, c = torch.randn(6, 3), torch.randn(2, 3)
        steps = []

        def loss(params: Tensors, hparams: Hparams, batch: Batch) -> Tensor:
            steps.append(batch)
            return torch.cdist(x, params["c"], p=3.0).square().mean()

        problem = descent(
            init_params=lambda hparams: {"c": c},
            inner_loss=loss,
            outer_loss=lambda params, hparams: params["c"].square().sum(),
            optimizer=lambda h: sgd(h["lr"], momentum=0.5),
        )
        with pytest.raises(ValueError, match=r"derivative.*cdist"):
            hypergradient(problem, {"lr": torch.tensor(0.1)}, make(50))
        assert len(steps) <= 2
