"""Plain training, and hypergradient descent: replay, the result, refusals."""

import itertools
import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch

from raymeta import Result, optimize
from raymeta.hypergrad import ES, PES, Reverse, ShortTerm
from raymeta.hypergrad.registry import ESTIMATORS, by_name
from raymeta.optim import load_schedule, sgd
from raymeta.outer.coordinates import Coordinates
from raymeta.outer.descend import descend
from raymeta.outer.replay import replay
from raymeta.outer.report import Report, outer_value
from raymeta.outer.result import better
from raymeta.problem import BilevelProblem, descent
from raymeta.space import Choice, Positive, Real, Space, Unit
from raymeta.tasks import Quadratic
from raymeta.testing.kill import untimed
from raymeta.types import Hparams, Tensors
from tests.support.small_tasks import (
    Diverging,
    OneStep,
    Small,
    every_estimator,
    run_cost,
)

pytestmark = pytest.mark.usefixtures("float64")


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
        *("agreement", "roughness", "rejected", "offset"),
        *("holdout_loss", "standard_error", "examples", "status", "failure"),
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


@dataclass(frozen=True, kw_only=True)
class Penalties:
    """Ten penalties of which about half are too strong, and a target in metres."""

    horizon: int = 16
    budget: float = 2000.0
    name: str = "penalties"

    @property
    def space(self) -> Space:
        return Space(l2=Positive(0.1, shape=(10,)), aim=Real(2.0, low=-40.0, high=40.0))

    def sample(self, seed: int) -> BilevelProblem:
        ends = torch.tensor([0.0, 3.0]).repeat(5)

        def inner(params: Tensors, hparams: Hparams, batch: object) -> torch.Tensor:
            w = params["w"]
            return (w - hparams["aim"]).square().sum() + hparams["l2"] @ w.square()

        return descent(
            init_params=lambda hparams: {"w": torch.ones(10)},
            inner_loss=inner,
            outer_loss=lambda params, hparams: (params["w"] - ends).square().sum(),
            optimizer=lambda hparams: sgd(0.1, momentum=0.5),
        )


EVERY = {name: by_name(name, 16) for name in ESTIMATORS} | {
    "es": ES(16, sigma=0.01, pairs=4),
    "pes": PES(4, sigma=0.01, pairs=4),
    "short_term of one step": ShortTerm(1),
}


@pytest.mark.parametrize("hyper_lr", [None, 1e-3])
@pytest.mark.parametrize("name", EVERY)
def test_the_hyper_rate_is_the_first_step_in_each_coordinate(name, hyper_lr):
    """Of the elements of a tensor, over whole runs, where their sum agrees."""
    task, estimator = Penalties(), EVERY[name]
    reports = descend(
        task, task.sample(0), estimator, seed=0, budget=2000.0, hyper_lr=hyper_lr
    )
    coordinates = Coordinates(task.space)
    points = (task.space.hparams(r.hparams, dtype=torch.float64) for r in reports)
    start, again, moved = (coordinates.at(next(points)) for _ in range(3))
    assert torch.equal(start, again)
    first = hyper_lr or (1.0 if estimator.steps == 16 else 0.2)
    steps = (moved - start).tolist()
    signs = {math.copysign(1.0, step) for step in steps[:10] if step}
    assert len(signs) == (1 if estimator.steps == 16 else 2)
    moved = [abs(step) for step in steps if step]
    assert moved == pytest.approx([first] * len(moved), rel=1e-9)
    assert len(moved) >= 6


@pytest.mark.parametrize("hyper_lr", [1e-3, 2.5])
@pytest.mark.parametrize(
    ("name", "longest", "growth"),
    [("reverse", 1.5, 1.5), ("short_term", 0.2, math.exp(0.5))],
)
def test_lengths_grow_by_a_factor_and_to_the_longest(name, longest, growth, hyper_lr):
    """From each of the first estimates to the next."""
    task = Penalties()
    reports = optimize(task, EVERY[name], hyper_lr=hyper_lr, budget=600.0).reports
    coordinates = Coordinates(task.space)
    xs = [
        coordinates.at(task.space.hparams(r.hparams, dtype=torch.float64))
        for r in reports[1:4]
    ]
    first, second = (float((b - a).abs().max()) for a, b in pairwise(xs))
    assert first == pytest.approx(hyper_lr)
    assert second <= min(max(hyper_lr, longest), growth * hyper_lr) * (1 + 1e-9)


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
