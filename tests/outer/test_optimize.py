"""Plain training, and hypergradient descent: replay, the result, refusals."""

import itertools
import math
from dataclasses import dataclass, replace

import pytest
import torch

from raymeta import Result, optimize
from raymeta.hypergrad import Forward, Reverse, ShortTerm
from raymeta.optim import load_schedule
from raymeta.outer.descend import descend, evaluate
from raymeta.outer.optimize import mean_hparams
from raymeta.outer.replay import loss_curve, replay
from raymeta.outer.report import Report, outer_value, plain_run
from raymeta.outer.result import better
from raymeta.space import Choice, Positive, Real, Space, Unit
from raymeta.tasks import Quadratic
from raymeta.testing.kill import untimed
from tests.support.small_tasks import (
    Diverging,
    OneStep,
    Small,
    every_estimator,
    run_cost,
)

pytestmark = pytest.mark.usefixtures("float64")


# --------------------------------------------------------------------- at fixed λ


def test_evaluate_charges_every_step_and_a_third_of_each_outer_pass():
    task = Small()
    problem, rungs = task.sample(0), [2, 5, 13]
    assert problem.outer_cost == 1.0
    problem = replace(problem, outer_cost=6.0)
    reports = list(evaluate(problem, task.space, task.space.initial_point(), rungs))
    assert [r.gradient_evals for r in reports] == [2 + 2, 5 + 4, 13 + 6]
    assert [r.inner_steps for r in reports] == rungs
    assert [r.outer_step for r in reports] == [1, 2, 3]
    assert [r.complete for r in reports] == [False, False, True]
    assert not any(r.state is None for r in reports)
    assert reports[-1].schedule == [(13, task.space.initial_point())]


def test_evaluates_values_are_those_of_plain_runs():
    task = Small()
    problem, hparams = task.sample(0), task.space.initial()
    point = task.space.point(hparams)
    for report in evaluate(problem, task.space, point, [2, 5, 13]):
        assert report.outer_loss == plain_run(problem, hparams, report.inner_steps)[1]
        assert report.hparams == point


def test_evaluate_wants_the_spaces_own_names():
    task = Small()
    point = task.space.initial_point()
    del point["l2"]
    with pytest.raises(ValueError, match="hyperparameter 'l2' is missing"):
        next(evaluate(task.sample(0), task.space, point, [1]))


def test_evaluate_reports_a_diverged_run_as_it_is():
    task = Quadratic()
    point = {"lr": 1e200, "momentum": 0.5}
    reports = list(evaluate(task.sample(0), task.space, point, [1, 2, 20]))
    assert not any(math.isfinite(report.outer_loss) for report in reports[1:])
    assert reports[-1].complete


def test_the_loss_curve_begins_before_training_and_ends_with_the_run():
    task = Small()
    problem, space = task.sample(0), task.space
    first = space.point(space.initial())
    schedule = [(2, first), (1, first | {"l2": 0.1}), (3, first | {"momentum": 0.9})]
    curve = loss_curve(problem, space, schedule)
    assert len(curve) == 7
    assert curve[0] == outer_value(problem, problem.init(space.initial()), {})
    assert curve[2] == plain_run(problem, space.initial(), 2)[1]
    state = replay(problem, space, schedule)
    assert curve[6] == outer_value(problem, state, space.initial())
    assert curve[6] != plain_run(problem, space.initial(), 6)[1]


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
        again = outer_value(problem, state, task.space.hparams(report.hparams))
        if isinstance(estimator, Forward):
            # torch takes other kernels, with other rounding, where tangents go along.
            rounding = 1e-9 if dtype == torch.float64 else 1e-3
            assert again == pytest.approx(report.outer_loss, rel=rounding)
        else:
            assert again == report.outer_loss
            for name, p in report.state.params.items():
                assert torch.equal(state.params[name], p)


def test_the_mean_of_a_schedule_weighs_steps_in_coordinates():
    space = Space(
        lr=Positive(1.0), mu=Unit([0.5, 0.5], shape=(2,)), c=Choice(["a", "b"])
    )
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
        own = space.hparams(flat)
        mean = mean_hparams(space, [(3, space.point(own)), (4, space.point(own))])
        assert all(torch.equal(mean[name], own[name]) for name in own)
        assert {value.dtype for value in mean.values()} == {torch.float32}


# -------------------------------------------------------------------------- the result


def test_a_result_is_the_best_complete_run():
    task = Small()
    result = optimize(task, Reverse(13), budget=500, seed=3)
    complete = [r for r in result.reports if r.complete]
    assert result.outer_loss == min(r.outer_loss for r in complete)
    (best,) = [r for r in complete if r.outer_loss == result.outer_loss][:1]
    task.space.check(result.hparams)
    assert task.space.point(result.hparams) == pytest.approx(best.hparams, rel=1e-12)
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


def interrupted_after(count: int):
    """What presses Ctrl-C at that report."""
    calls = itertools.count(1)

    def progress(report: Report, best: float) -> None:
        if next(calls) == count:
            raise KeyboardInterrupt

    return progress


def test_ctrl_c_gives_what_was_found_until_then():
    task = Small()
    whole = optimize(task, Reverse(13), budget=500)
    cut = optimize(task, Reverse(13), budget=500, progress=interrupted_after(6))
    assert (whole.interrupted, cut.interrupted) == (False, True)
    assert len(cut.reports) == 6
    assert untimed(cut.reports) == untimed(whole.reports[:6])
    complete = [r.outer_loss for r in cut.reports if r.complete]
    assert cut.outer_loss == min(complete)
    assert cut.frame["status"].iloc[-1] == "final"
    assert cut.metrics.keys() == whole.metrics.keys()


def test_ctrl_c_before_any_full_run_is_an_interrupt():
    with pytest.raises(KeyboardInterrupt):
        optimize(Diverging(lr=1e30), Reverse(20), progress=interrupted_after(3))


def test_progress_hears_every_report_and_the_best_of_full_runs():
    heard: list[tuple[Report, float]] = []
    result = optimize(
        Small(), ShortTerm(5), budget=200, progress=lambda *said: heard.append(said)
    )
    assert [report for report, _ in heard] == result.reports
    best = math.inf
    for report, told in heard:
        best = min(best, report.outer_loss) if report.complete else best
        assert told == best
    assert heard[0][1] == result.start_loss


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
    assert frame["best_outer_loss"].iloc[0] == frame["outer_loss"].iloc[0]


def test_the_best_so_far_ignores_diverged_and_incomplete_runs():
    nan, inf = math.nan, math.inf
    told = [(nan, 1), (inf, 1), (3.0, 1), (1.0, 0), (nan, 1), (4.0, 1), (2.0, 1)]
    reports = [
        Report(i, 1, float(i), value, bool(complete), {}, None)
        for i, (value, complete) in enumerate(told)
    ]
    result = Result("t", "m", 0, {}, 2.0, None, [], {}, reports)
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


@pytest.mark.parametrize("hyper_lr", [1e-3, 0.03, 0.5, 2.5])
@pytest.mark.parametrize("estimator", [Reverse(16), ShortTerm(2)], ids=str)
def test_the_hyper_rate_is_the_first_step_in_each_coordinate(estimator, hyper_lr):
    """After the run at the start, and the first estimate there."""
    task = Unbounded(horizon=16)
    reports = descend(
        task, task.sample(0), estimator, seed=0, budget=200, hyper_lr=hyper_lr
    )
    zero, one, two = (task.space.hparams(next(reports).hparams) for _ in range(3))
    assert zero == one
    before, after = (task.space.unconstrained(h) for h in (one, two))
    for name in before:
        step = abs(float(after[name] - before[name]))
        assert step == pytest.approx(hyper_lr, rel=1e-9)


@pytest.mark.parametrize("hyper_lr", [1e-3, 0.1])
def test_a_short_first_step_grows_as_fast_as_signs_agree_and_no_faster(hyper_lr):
    """By 1.5 from each hypergradient to the next; no plain run tries a longer one."""
    task = Unbounded(horizon=16)
    reports = optimize(task, Reverse(16), budget=300, hyper_lr=hyper_lr).reports
    lr = [math.log(r.hparams["lr"]) for r in reports]
    assert [r.inner_steps for r in reports[:5]] == [16, 2, 4, 8, 16]
    steps = [lr[2] - lr[1], lr[3] - lr[2]]
    assert steps == pytest.approx([hyper_lr, 1.5 * hyper_lr], rel=1e-9)


# ---------------------------------------------------------------------------- refusals


@dataclass(frozen=True, kw_only=True)
class Unbounded(Quadratic):
    """No step is cut."""

    @property
    def space(self) -> Space:
        return Space(lr=Positive(1e-3), momentum=Unit(0.5))


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


def test_a_result_gives_back_the_tuned_module_and_its_schedule(tmp_path):
    task = Small()
    found = optimize(task, ShortTerm(3), budget=150)
    problem = task.sample(0)

    tuned, again = found.module(), found.module()

    assert not tuned.training
    assert tuned is not again
    state = dict(tuned.state_dict())
    assert found.params.keys() <= state.keys()
    for name, value in (found.params | found.state.buffers).items():
        assert torch.equal(state[name], value)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 4, generator=generator)
    y = (x[:, 0] + 0.3 * x[:, 1] > 0).long()
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(tuned(x[18:24]), y[18:24])
    assert float(loss) == pytest.approx(found.outer_loss, rel=1e-6)

    found.export(tmp_path / "schedule.json")
    read = load_schedule(tmp_path / "schedule.json")
    assert read == found.schedule
    state = replay(problem, task.space, read)
    assert all(torch.equal(state.params[k], v) for k, v in found.params.items())


def test_a_result_without_a_module_says_so():
    found = optimize(Quadratic(), Reverse(20), budget=200)
    with pytest.raises(ValueError, match="'quadratic' trains no module: take its stat"):
        found.module()
