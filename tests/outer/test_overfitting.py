"""Validation data held back, and a validation set that descents overfit."""

import math
import warnings
from contextlib import closing
from dataclasses import dataclass

import pytest
import torch
from sklearn.datasets import load_wine
from torch import nn
from torch.nn import functional as F

from raymeta import optimize
from raymeta.hypergrad import Reverse, ShortTerm
from raymeta.modules import module_problem
from raymeta.optim import sgd
from raymeta.outer.report import held_out, plain_run
from raymeta.results.jsonlines import JsonLines
from raymeta.results.overfitting import Overfitting, overfitted
from raymeta.search.frame import to_frame
from raymeta.search.plan import make_plan
from raymeta.search.study.coordinator import Coordinator
from raymeta.search.tune.quiet import quiet_tune
from raymeta.search.tune.search_study import study_of
from raymeta.space import Positive, Space
from raymeta.tasks import Cleaning, Digits, Logistic, Quadratic
from raymeta.testing.in_process import run_trial


@dataclass(frozen=True, kw_only=True)
class Wine:
    """Class weights that may grow without end, on 53 validation examples."""

    holdout: object = None
    tests: bool = False
    horizon: int = 60
    budget: float = 2000.0
    name: str = "wine"

    @property
    def space(self):
        classes = Positive(1.0, low=1e-4, high=1e4, shape=(3,))
        return Space(lr=Positive(0.1, low=1e-3, high=10.0), classes=classes)

    def sample(self, seed):
        x, y = map(torch.tensor, load_wine(return_X_y=True))
        x = ((x - x.mean(0)) / x.std(0)).float()
        order = torch.randperm(178, generator=torch.Generator().manual_seed(seed))
        parts = [(x[i], y[i]) for i in order.split([72, 53, 53])]
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            network = nn.Linear(13, 3)

        def weighted(out, y, h, index):
            losses = F.cross_entropy(out, y, reduction="none")
            return (h["classes"][y] * losses).mean()

        return module_problem(
            network,
            loss=F.cross_entropy,
            train=parts[0],
            val=parts[1],
            test=parts[2] if self.tests else None,
            holdout=parts[2] if self.holdout == "data" else self.holdout,
            train_loss=weighted,
            optimizer=lambda h: sgd(h["lr"], momentum=0.9),
            seed=seed,
        )


@pytest.mark.parametrize(
    ("task", "text"),
    [
        (Wine(holdout=0.3), "on validation data held back"),
        (Wine(holdout="data"), "on validation data held back"),
        (Wine(tests=True), "but the test loss is"),
        (Wine(), "on 13.2 validation examples for each hyperparameter"),
    ],
    ids=["a share", "data", "a test set", "nothing"],
)
def test_class_weights_that_fit_53_examples_are_warned_of(task, text):
    with pytest.warns(Overfitting) as caught:
        result = optimize(task, Reverse(60), progress=False)
    (warning,) = caught
    said = str(warning.message)
    assert said.startswith(f"wine: E fell from {result.start_loss:.4g} to ")
    assert text in said
    assert "fewer or tied hyperparameters" in said
    assert "\n" not in said
    assert warning.filename == __file__


@pytest.mark.parametrize(
    "task", [Digits(horizon=20), Logistic(horizon=60), Cleaning(horizon=30)]
)
def test_shipped_tasks_raise_no_false_alarm(task):
    with warnings.catch_warnings():
        warnings.simplefilter("error", Overfitting)
        result = optimize(task, Reverse(task.horizon), budget=1200, progress=False)
    assert result.outer_loss < 0.9 * result.start_loss
    assert result.standard_error > 0


def test_a_share_is_held_back_of_the_validation_data():
    """E is the mean over the rest; both together are the mean over all of it."""
    whole, part = Wine().sample(3), Wine(holdout=0.3).sample(3)
    assert (whole.validation_size, part.validation_size) == (53, 37)
    assert part.outer_cost == pytest.approx(37 / 72)
    hparams = Wine().space.initial()
    state, value = plain_run(whole, hparams, 60)
    again, rest = plain_run(part, hparams, 60)
    assert torch.equal(state.params["weight"], again.params["weight"])
    held = held_out(part, state, hparams)["holdout_loss"]
    assert (37 * rest + 16 * held) / 53 == pytest.approx(value, rel=1e-5)
    other = Wine(holdout=0.3).sample(3)
    assert held_out(other, state, hparams)["holdout_loss"] == held


def test_data_held_back_change_nothing_but_what_is_known_at_the_end():
    with pytest.warns(Overfitting):
        without, result = (
            optimize(task, Reverse(60), progress=False)
            for task in (Wine(), Wine(holdout="data"))
        )
    assert [r.outer_loss for r in result.reports] == [
        r.outer_loss for r in without.reports
    ]
    problem, space = Wine(holdout="data").sample(0), Wine().space
    state, _ = plain_run(problem, space.initial(), 60)
    start = held_out(problem, state, space.initial())["holdout_loss"]
    column = result.frame["holdout_loss"].tolist()
    assert column[0] == result.start_holdout_loss == pytest.approx(start, rel=1e-6)
    assert column[-1] == result.holdout_loss > start
    assert all(map(math.isnan, column[1:-1]))
    assert without.frame["holdout_loss"].isna().all()


def test_the_standard_error_is_that_of_a_mean():
    problem, hparams = Wine().sample(0), Wine().space.initial()
    state, value = plain_run(problem, hparams, 60)
    folds = problem.fold_losses(state, hparams)
    assert folds.shape == (10,)
    sizes = torch.tensor([6.0] * 3 + [5.0] * 7)
    assert float(folds @ sizes) / 53 == pytest.approx(value, rel=1e-5)
    error = held_out(problem, state, hparams)["standard_error"]
    assert error == pytest.approx(float(folds.std()) / math.sqrt(10))
    assert held_out(Quadratic().sample(0), None, {}) == {}


@pytest.mark.parametrize("share", [0.0, 1.0, -0.3, 0.001, math.nan])
def test_a_share_that_leaves_nothing_is_refused(share):
    with pytest.raises(ValueError, match=r"needs 0 < holdout < 1 .* but got holdout="):
        Wine(holdout=share).sample(0)


@pytest.mark.parametrize("method", ["random", "long_term", "tpe_descent"])
def test_a_comparison_has_the_column_for_searches_and_descents(method, tmp_path):
    task = Wine(holdout=0.3)
    with closing(JsonLines(tmp_path / "journal")) as journal, quiet_tune():
        plan = make_plan(task, method, 600.0, seeds=1)
        coordinator = Coordinator(map(study_of, plan.study_specs()), journal)
        while run := coordinator.request_trial():
            run_trial(coordinator, run)
        frame = to_frame(coordinator.studies.values())
    problem, hparams = task.sample(0), task.space.initial()
    state, _ = plain_run(problem, hparams, 60)
    start = held_out(problem, state, hparams)["holdout_loss"]
    assert frame["holdout_loss"].iloc[0] == pytest.approx(start, rel=1e-6)
    assert frame["holdout_loss"].notna().sum() == 2
    final = frame.iloc[-1]
    assert (final.status, final.failure) == ("final", "")
    assert final.standard_error >= 0
    rose = final.holdout_loss > start and final.outer_loss < frame.outer_loss.iloc[0]
    assert bool(overfitted(frame)) == rose


def test_a_step_ahead_is_warned_of_too():
    with pytest.warns(Overfitting, match="wine: E fell"):
        optimize(Wine(holdout=0.3), ShortTerm(3), seed=2, progress=False)
