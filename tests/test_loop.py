"""Plain training, and hypergradient descent: budgets, replay, optima, divergence."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from raymeta import Result, optimize
from raymeta.hypergrad import Estimator, Forward, Reverse, ShortTerm
from raymeta.loop import (
    Report,
    better,
    descend,
    evaluate,
    loss_curve,
    mean_hparams,
    replay,
)
from raymeta.modules import module_problem
from raymeta.optim import sgd
from raymeta.outer.report import outer_value, plain_run
from raymeta.problem import BilevelProblem, descent
from raymeta.space import Choice, Positive, Real, Space, Unit
from raymeta.tasks import Quadratic, Task
from raymeta.types import Hparams, Tensors

pytestmark = pytest.mark.usefixtures("float64")


@dataclass(frozen=True, kw_only=True)
class Small:
    """A classifier with dropout and batch norm; λ of several shapes, and a choice."""

    horizon: int = 13
    budget: float = 1000.0
    name: str = "small"

    @property
    def space(self) -> Space:
        return Space(
            lr=Positive([0.03, 0.1], low=1e-3, high=3.0, shape=(2,)),
            sign=Choice([1.0, -1.0]),
            momentum=Unit(0.5, high=0.95),
            l2=Positive(1e-3),
        )

    def sample(self, seed: int) -> BilevelProblem:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(30, 4, generator=generator)
        y = (x[:, 0] + 0.3 * x[:, 1] > 0).long()
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            norm, drop = nn.BatchNorm1d(6), nn.Dropout(0.2)
            net = nn.Sequential(nn.Linear(4, 6), norm, nn.Tanh(), drop, nn.Linear(6, 2))

        def l2(params: Tensors, hparams: Hparams) -> torch.Tensor:
            squares = sum(p.square().sum() for p in params.values())
            return hparams["sign"] * hparams["l2"] * squares

        def optimizer(hparams: Hparams):
            lr = dict(zip(("0", "1"), hparams["lr"], strict=True))
            return sgd(lr | {"4": hparams["lr"][1]}, momentum=hparams["momentum"])

        return module_problem(
            net,
            loss=F.cross_entropy,
            train=TensorDataset(x[:18], y[:18]),
            val=TensorDataset(x[18:24], y[18:24]),
            test=TensorDataset(x[24:], y[24:]),
            metrics={"share": lambda outputs, targets: targets.double().mean()},
            optimizer=optimizer,
            batch_size=6,
            seed=seed,
            regularizer=l2,
        )


@dataclass(frozen=True, kw_only=True)
class OneStep:
    """One step on a parabola: the best learning rate has a closed form."""

    eigenvalues: tuple[float, ...] = (1.0, 3.0, 9.0)
    horizon: int = 1
    budget: float = 300.0
    name: str = "one step"

    @property
    def space(self) -> Space:
        return Space(lr=Positive(1e-3, low=1e-5, high=1e3))

    @property
    def best_lr(self) -> float:
        squares, cubes = (sum(h**k for h in self.eigenvalues) for k in (2, 3))
        return squares / cubes

    def sample(self, seed: int) -> BilevelProblem:
        h = torch.tensor(self.eigenvalues)

        def loss(params: Tensors, *_: object) -> torch.Tensor:
            return 0.5 * (h * params["w"].square()).sum()

        return descent(
            init_params=lambda hparams: {"w": torch.ones(len(h))},
            inner_loss=loss,
            outer_loss=loss,
            optimizer=lambda hparams: sgd(hparams["lr"]),
        )


@dataclass(frozen=True, kw_only=True)
class Diverging(Quadratic):
    """Starts where every step multiplies the weights."""

    lr: float = 3.0

    @property
    def space(self) -> Space:
        return Space(lr=Positive(self.lr), momentum=Unit(0.5))


WHOLE: list[Estimator] = [Reverse(13), Forward(13)]
ONLINE: list[Estimator] = [
    ShortTerm(1),
    ShortTerm(3),
    ShortTerm(8),
    Forward(1),
    Forward(5),
]
every_estimator = pytest.mark.parametrize("estimator", WHOLE + ONLINE, ids=str)


def with_horizon(estimator: Estimator, steps: int) -> Estimator:
    return replace(estimator, steps=steps) if estimator in WHOLE else estimator


# --------------------------------------------------------------------- at fixed λ


def test_evaluate_charges_every_step_and_a_third_of_each_outer_pass():
    task = Small()
    problem, rungs = task.sample(0), [2, 5, 13]
    assert problem.outer_cost == 1.0
    problem = replace(problem, outer_cost=6.0)
    reports = list(evaluate(problem, task.space, task.space.initial(), rungs))
    assert [r.gradient_evals for r in reports] == [2 + 2, 5 + 4, 13 + 6]
    assert [r.inner_steps for r in reports] == rungs
    assert [r.outer_step for r in reports] == [1, 2, 3]
    assert [r.complete for r in reports] == [False, False, True]
    assert [r.state is None for r in reports] == [True, True, False]
    assert reports[-1].schedule == [(13, task.space.flatten(task.space.initial()))]


def test_evaluates_values_are_those_of_plain_runs():
    task = Small()
    problem, hparams = task.sample(0), task.space.initial()
    for report in evaluate(problem, task.space, hparams, [2, 5, 13]):
        assert report.outer_loss == plain_run(problem, hparams, report.inner_steps)[1]
        assert report.hparams == task.space.flatten(hparams)


def test_evaluate_wants_the_spaces_own_names():
    task = Small()
    hparams = task.space.initial()
    del hparams["l2"]
    with pytest.raises(ValueError, match="hyperparameter 'l2' is missing"):
        next(evaluate(task.sample(0), task.space, hparams, [1]))


def test_evaluate_reports_a_diverged_run_as_it_is():
    task = Quadratic()
    hparams = {"lr": torch.tensor(1e200), "momentum": torch.tensor(0.5)}
    reports = list(evaluate(task.sample(0), task.space, hparams, [1, 2, 20]))
    assert not any(math.isfinite(report.outer_loss) for report in reports[1:])
    assert reports[-1].complete


def test_the_loss_curve_begins_before_training_and_ends_with_the_run():
    task = Small()
    problem, space = task.sample(0), task.space
    first = space.flatten(space.initial())
    schedule = [(2, first), (1, first | {"l2": 0.1}), (3, first | {"momentum": 0.9})]
    curve = loss_curve(problem, space, schedule)
    assert len(curve) == 7
    assert curve[0] == outer_value(problem, problem.init(space.initial()), {})
    assert curve[2] == plain_run(problem, space.initial(), 2)[1]
    state = replay(problem, space, schedule)
    assert curve[6] == outer_value(problem, state, space.initial())
    assert curve[6] != plain_run(problem, space.initial(), 6)[1]


# -------------------------------------------------------------------------- the budget


def run_cost(estimator: Estimator, task: Task) -> float:
    """By the estimators' docstrings, for λ in the inner loss as well."""
    lengths = [estimator.steps] * (task.horizon // estimator.steps)
    if left := task.horizon % estimator.steps:
        lengths.append(left)
    outer = task.sample(0).outer_cost
    scalars = len(task.space.flat_domains()) - len(task.space.choices)
    per_step = 1 + 2 * scalars if isinstance(estimator, Forward) else 3
    return sum(per_step * steps + outer for steps in lengths)


@every_estimator
@pytest.mark.parametrize("horizon", [13, 16])
def test_a_budget_of_one_run_is_one_run(estimator, horizon):
    task = Small(horizon=horizon)
    estimator = with_horizon(estimator, horizon)
    cost = run_cost(estimator, task)
    reports = list(descend(task, task.sample(0), estimator, seed=0, budget=cost))
    assert reports[-1].complete
    assert reports[-1].inner_steps == horizon
    assert reports[-1].gradient_evals == pytest.approx(cost, rel=1e-12)
    assert [report.complete for report in reports[:-1]] == [False] * (len(reports) - 1)
    message = rf"at least {math.ceil(cost)} gradient evaluations for one run, but got"
    with pytest.raises(ValueError, match=message):
        descend(task, task.sample(0), estimator, seed=0, budget=cost * (1 - 1e-6))


@every_estimator
@pytest.mark.parametrize(("horizon", "extra"), [(13, 1.7), (16, 37.3), (7, 333.0)])
def test_the_budget_is_spent_but_never_exceeded(estimator, horizon, extra):
    task = Small(horizon=horizon)
    estimator = with_horizon(estimator, horizon)
    if estimator.steps > horizon:
        estimator = replace(estimator, steps=horizon - 1)
    cost = run_cost(estimator, task)
    budget = cost + extra
    reports = list(descend(task, task.sample(1), estimator, seed=0, budget=budget))
    spent = [report.gradient_evals for report in reports]
    assert spent == sorted(spent)
    assert spent[-1] <= budget
    assert budget - spent[-1] < cost
    assert [report.outer_step for report in reports] == list(range(1, len(reports) + 1))


@every_estimator
def test_a_diverging_problem_does_not_exceed_it_either(estimator):
    task = Diverging(lr=1e30, horizon=13)
    reports = list(descend(task, task.sample(0), estimator, seed=0, budget=151.0))
    assert reports[-1].gradient_evals <= 151.0
    assert any(report.outer_loss == math.inf for report in reports)


def test_the_charge_counts_hyperparameters_in_the_inner_loss():
    """Quadratic has none there: the first gradient of a look-ahead costs 1, not 3."""
    task = Quadratic(horizon=20)
    (one, *_) = descend(task, task.sample(0), ShortTerm(3), seed=0, budget=100)
    assert one.gradient_evals == 1 + 3 + 3 + 1
    reports = list(descend(task, task.sample(0), ShortTerm(3), seed=0, budget=53))
    assert [r.inner_steps for r in reports] == [3, 6, 9, 12, 15, 18, 20]
    assert reports[-1].gradient_evals == 6 * (1 + 6 + 1) + (1 + 3 + 1)


def test_whole_runs_look_at_short_horizons_first_where_the_budget_has_room():
    task = Quadratic(horizon=16)
    problem, estimator = task.sample(0), Reverse(16)
    wide = descend(task, problem, estimator, seed=0, budget=94)
    assert [report.inner_steps for report in wide] == [2, 4, 8, 16]
    narrow = descend(task, problem, estimator, seed=0, budget=93)
    assert [report.inner_steps for report in narrow] == [16]


def test_an_estimator_of_longer_runs_is_cut_to_the_horizon():
    task = Quadratic(horizon=9)
    longer = optimize(task, Reverse(500), budget=300)
    exact = optimize(task, Reverse(9), budget=300)
    assert longer.outer_loss == exact.outer_loss
    assert len(longer.reports) == len(exact.reports)


# ------------------------------------------------------------------------------ replay


@every_estimator
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_complete_report_replays_to_the_same_value(estimator, dtype):
    torch.set_default_dtype(dtype)
    task = Small()
    problem, budget = task.sample(2), 3.5 * run_cost(estimator, task)
    reports = descend(task, problem, estimator, seed=0, budget=budget)
    complete = [report for report in reports if report.complete]
    assert len(complete) >= 2
    for report in complete:
        assert sum(steps for steps, _ in report.schedule) == task.horizon
        assert report.schedule[-1][1] == report.hparams
        state = replay(problem, task.space, report.schedule)
        again = outer_value(problem, state, task.space.unflatten(report.hparams))
        if isinstance(estimator, Forward):
            # torch takes other kernels, with other rounding, where tangents go along.
            rounding = 1e-9 if dtype == torch.float64 else 1e-3
            assert again == pytest.approx(report.outer_loss, rel=rounding)
        else:
            assert again == report.outer_loss
            for name, p in report.state.params.items():
                assert torch.equal(state.params[name], p)


def test_the_mean_of_a_schedule_weighs_steps_in_coordinates():
    space = Space(lr=Positive(1.0), mu=Unit([0.5, 0.5], shape=(2,)), c=Choice("ab"))
    first = {"lr": 1.0, "mu[0]": 0.5, "mu[1]": 0.9, "c": "b"}
    last = {"lr": 16.0, "mu[0]": 0.5, "mu[1]": 0.1, "c": "b"}
    mean = mean_hparams(space, [(3, first), (1, last)])
    assert float(mean["lr"]) == pytest.approx(2.0, rel=1e-14)
    middle = 1 / (1 + math.exp(-(0.75 - 0.25) * math.log(9)))
    assert mean["mu"].tolist() == pytest.approx([0.5, middle], rel=1e-13)
    assert mean["c"] == "b"


def test_the_mean_of_one_value_is_that_value_in_single_precision():
    torch.set_default_dtype(torch.float32)
    space = Space(lr=Positive(0.1), mu=Unit(0.5), w=Real(0.0))
    for i in range(1, 100):
        flat = {"lr": 0.013 * i, "mu": 0.01 * i, "w": 0.7 * i}
        own = space.unflatten(flat)
        mean = mean_hparams(space, [(3, space.flatten(own)), (4, space.flatten(own))])
        assert all(torch.equal(mean[name], own[name]) for name in own)
        assert {value.dtype for value in mean.values()} == {torch.float32}


# ---------------------------------------------------------------------- known optima


@pytest.mark.parametrize("estimator", [Reverse(1), Forward(1)], ids=str)
def test_finds_the_best_learning_rate_of_one_step(estimator):
    task = OneStep()
    assert task.best_lr == pytest.approx(91 / 757, rel=1e-12)
    result = optimize(task, estimator)
    assert float(result.hparams["lr"]) == pytest.approx(task.best_lr, rel=0.02)
    best = 0.5 * sum(h * (1 - task.best_lr * h) ** 2 for h in task.eigenvalues)
    assert best <= result.outer_loss <= 1.001 * best


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_finds_the_optimum_of_the_quadratic_in_the_box(seed):
    """Against a grid of the closed form."""
    task = Quadratic(horizon=3, eigenvalues=(1.0, 3.0))
    start = task.start(seed)
    rates = torch.logspace(-3, -0.5, 120).tolist()
    momenta = torch.linspace(0, 0.99, 100).tolist()
    grid = [task.closed_form(a, m, 3, start)[0] for a in rates for m in momenta]
    result = optimize(task, Reverse(3), budget=600, seed=seed)
    lr, momentum = float(result.hparams["lr"]), float(result.hparams["momentum"])
    found = task.closed_form(lr, momentum, 3, start)[0]
    assert found == pytest.approx(result.outer_loss, rel=1e-10)
    assert found < 1.03 * min(grid)
    assert 1e-3 <= lr <= 10**-0.5 * (1 + 1e-12)


@pytest.mark.parametrize("estimator", [ShortTerm(1), ShortTerm(7), Forward(5)], ids=str)
def test_online_methods_reach_far_below_the_start(estimator):
    task = Quadratic()
    start = plain_run(task.sample(0), task.space.initial(), task.horizon)[1]
    result = optimize(task, estimator, budget=1000)
    assert result.outer_loss < 0.03 * start


@every_estimator
def test_choices_stay_at_their_initial_value(estimator):
    task = Small()
    result = optimize(task, estimator, budget=2 * run_cost(estimator, task))
    assert result.hparams["sign"] == 1.0
    assert {report.hparams["sign"] for report in result.reports} == {1.0}


# -------------------------------------------------------------------------- the result


def test_a_result_is_the_best_complete_run():
    task = Small()
    result = optimize(task, Reverse(13), budget=500, seed=3)
    complete = [r for r in result.reports if r.complete]
    assert result.outer_loss == min(r.outer_loss for r in complete)
    (best,) = [r for r in complete if r.outer_loss == result.outer_loss][:1]
    task.space.check(result.hparams)
    assert task.space.flatten(result.hparams) == pytest.approx(best.hparams, rel=1e-12)
    assert result.schedule == [(13, best.hparams)]
    problem = task.sample(3)
    assert outer_value(problem, result.state, result.hparams) == result.outer_loss
    truth = problem.metrics(result.state, result.hparams)
    assert result.metrics == {name: float(value) for name, value in truth.items()}
    assert set(result.metrics) == {"test_loss", "test_share"}
    assert all(r.state is None for r in result.reports)
    assert all((r.schedule is not None) == r.complete for r in result.reports)


def test_a_task_without_metrics_has_none():
    assert optimize(OneStep(), Reverse(1), budget=20).metrics == {}


def test_the_default_budget_is_the_tasks():
    task = OneStep(budget=77.0)
    default = optimize(task, Reverse(1)).reports
    given = optimize(task, Reverse(1), budget=77.0).reports
    assert [r.gradient_evals for r in default] == [r.gradient_evals for r in given]
    assert 77 - 4 < default[-1].gradient_evals <= 77


def test_the_frame_has_a_row_per_report():
    result = optimize(Small(), ShortTerm(5), budget=200)
    frame = result.frame
    assert list(frame.columns) == [
        *("task", "method", "family", "seed", "trial", "outer_step", "inner_steps"),
        *("gradient_evals", "wall_s", "outer_loss", "best_outer_loss"),
        *("status", "failure"),
        "hp/lr[0]",
        "hp/lr[1]",
        "hp/sign",
        "hp/momentum",
        "hp/l2",
        *("test_loss", "test_share"),
    ]
    final, frame = frame.iloc[-1], frame.iloc[:-1]
    assert final["status"] == "final"
    assert final["test_loss"] == result.metrics["test_loss"]
    assert final["outer_loss"] == result.outer_loss
    assert frame["test_loss"].isna().all()
    assert len(frame) == len(result.reports)
    assert list(frame["outer_loss"]) == [r.outer_loss for r in result.reports]
    assert list(frame["hp/lr[1]"]) == [r.hparams["lr[1]"] for r in result.reports]
    assert frame["best_outer_loss"].iloc[-1] == result.outer_loss
    assert frame["best_outer_loss"].isna().tolist()[:3] == [True, True, False]


def test_the_best_so_far_ignores_diverged_and_incomplete_runs():
    nan, inf = math.nan, math.inf
    told = [(nan, 1), (inf, 1), (3.0, 1), (1.0, 0), (nan, 1), (4.0, 1), (2.0, 1)]
    reports = [
        Report(i, 1, float(i), value, bool(complete), {}, None)
        for i, (value, complete) in enumerate(told)
    ]
    seconds = [float(i) for i in range(7)]
    result = Result("t", "m", 0, {}, 2.0, None, [], {}, reports, seconds)
    best = result.frame["best_outer_loss"].tolist()
    assert all(map(math.isnan, best[:2]))
    assert best[2:] == [3.0, 3.0, 3.0, 3.0, 2.0, 2.0]


def test_better_means_complete_finite_and_lower():
    def report(value: float, complete: bool = True) -> Report:
        return Report(1, 1, 1.0, value, complete, {}, None)

    assert better(report(1.0), None)
    assert better(report(1.0), report(2.0))
    assert not better(report(2.0), report(2.0))
    assert not better(report(1.0, complete=False), report(2.0))
    assert not any(better(report(v), None) for v in (math.nan, math.inf, -math.inf))


@every_estimator
def test_a_seed_fixes_every_report(estimator):
    task = Small()
    budget = 6 * run_cost(estimator, task)
    values = [
        [r.outer_loss for r in optimize(task, estimator, budget=budget, seed=s).reports]
        for s in (1, 1, 2)
    ]
    assert values[0] == values[1]
    assert values[0] != values[2]


def test_the_seed_of_restarts_is_not_the_problems():
    task = Quadratic(horizon=3)
    problem = task.sample(0)
    runs = [
        [
            r.hparams["lr"]
            for r in descend(task, problem, Reverse(3), seed=s, budget=400)
        ]
        for s in (0, 0, 1)
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    assert runs[0][:4] == runs[2][:4]


def test_the_hyper_rate_is_the_first_step_in_each_coordinate():
    task = Quadratic(horizon=16)
    for estimator in (Reverse(16), ShortTerm(2)):
        reports = descend(
            task, task.sample(0), estimator, seed=0, budget=200, hyper_lr=0.03
        )
        one, two = (task.space.unflatten(next(reports).hparams) for _ in range(2))
        before, after = (task.space.unconstrained(h) for h in (one, two))
        for name in before:
            step = abs(float(after[name] - before[name]))
            assert step == pytest.approx(0.03, rel=1e-9)


# -------------------------------------------------------------------------- divergence


@pytest.mark.parametrize("lr", [3.0, 1e4])
@pytest.mark.parametrize(
    "estimator",
    [Reverse(20), Forward(20), ShortTerm(1), ShortTerm(7), Forward(1), Forward(6)],
    ids=str,
)
def test_a_start_that_diverges_is_left(estimator, lr):
    torch.set_default_dtype(torch.float32)
    task = Diverging(lr=lr)
    value = plain_run(task.sample(0), task.space.initial(), 20)[1]
    assert not math.isfinite(value)
    result = optimize(task, estimator, budget=2000)
    assert result.outer_loss < 10
    assert float(result.hparams["lr"]) < 0.5
    for report in result.reports:
        assert all(math.isfinite(value) for value in report.hparams.values())
        assert 0 < report.hparams["momentum"] < 1


def test_a_run_that_grows_without_overflow_is_left_too():
    task = Diverging(lr=0.5)
    assert 1e6 < plain_run(task.sample(0), task.space.initial(), 20)[1] < math.inf
    for estimator in (ShortTerm(1), ShortTerm(7), Forward(6)):
        assert optimize(task, estimator, budget=2000).outer_loss < 0.01


def test_without_any_finite_run_the_budget_is_spent_and_the_error_says_so():
    class Hopeless(OneStep):
        def sample(self, seed: int) -> BilevelProblem:
            problem = super().sample(seed)
            return replace(problem, outer_loss=lambda s, h: s.params["w"].sum() / 0)

    task = Hopeless()
    for estimator in (Reverse(1), ShortTerm(1)):
        message = (
            r"no run of 'one step' ended with a finite outer loss in \d+ estimates"
        )
        with pytest.raises(ValueError, match=message):
            optimize(task, estimator, budget=60)


# ---------------------------------------------------------------------------- refusals


@dataclass(frozen=True, kw_only=True)
class Discrete(OneStep):
    @property
    def space(self) -> Space:
        return Space(lr=Choice([0.1, 0.2]))


REFUSED = {
    "all discrete": (
        lambda: optimize(Discrete(), Reverse(1)),
        r"needs a continuous hyperparameter, but the space has only \['lr'\]: add",
    ),
    "a small budget": (
        lambda: optimize(Quadratic(), Reverse(20), budget=60.9),
        r"Reverse on 'quadratic' needs a .*budget of at least 61 gradient evaluations "
        r"for one run, but got 60.9: .* the budget",
    ),
    "a budget that is no number": (
        lambda: optimize(Quadratic(), ShortTerm(), budget=math.nan),
        r"ShortTerm on 'quadratic' needs a .*budget of at least 40 .* but got nan",
    ),
    "restarting without the horizon": (
        lambda: optimize(Quadratic(), Reverse(19)),
        r"Reverse restarts training at each estimate, so it needs steps=20, the "
        r"horizon of 'quadratic', but got steps=19: use the horizon, or ShortTerm",
    ),
    "no hyper rate": (
        lambda: optimize(Quadratic(), Reverse(20), hyper_lr=0.0),
        r"descend needs hyper_lr > 0, but got 0.0",
    ),
    "a negative hyper rate": (
        lambda: optimize(Quadratic(), ShortTerm(), hyper_lr=-0.1),
        r"descend needs hyper_lr > 0, but got -0.1",
    ),
    "a hyper rate that is no number": (
        lambda: optimize(Quadratic(), ShortTerm(), hyper_lr=math.nan),
        r"descend needs hyper_lr > 0, but got nan",
    ),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses_before_the_first_step(make, message):
    with pytest.raises(ValueError, match=message):
        make()
