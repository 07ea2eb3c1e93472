"""Diagnoses against closed forms, Lyapunov exponents, and runs that jump."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import raymeta
from raymeta import tasks
from raymeta.hypergrad import Reverse
from raymeta.hypergrad.base import plain_cost
from raymeta.optim import sgd
from raymeta.outer.diagnose import FEW, diagnose
from raymeta.outer.report import plain_run
from raymeta.outer.sensitivity import metasmoothness
from raymeta.problem import BilevelProblem, TrainState, descent
from raymeta.space import Choice, Positive, Real, Space
from raymeta.tasks import (
    Cleaning,
    Digits,
    LearningRateSchedule,
    Logistic,
    Quadratic,
)
from tests.support.small_tasks import Diverging, Small


@dataclass(frozen=True, kw_only=True)
class Parabola:
    """w ← (1 - α h) w on E = h w² / 2, of which everything has a closed form."""

    lr: float = 0.05
    curvature: float = 4.0
    horizon: int = 20
    budget: float = 1000.0
    name: str = "parabola"
    shape: tuple[int, ...] = ()

    @property
    def space(self):
        return Space(lr=Positive(self.lr, shape=self.shape))

    def sample(self, seed):
        def loss(params, *_):
            return 0.5 * self.curvature * params["w"].square()

        return descent(
            init_params=lambda h: {"w": torch.tensor(1.5)},
            inner_loss=loss,
            outer_loss=loss,
            optimizer=lambda h: sgd(h["lr"]),
        )


@dataclass(frozen=True, kw_only=True)
class LogisticMap:
    """s ← r s (1 - s), whose growth is chaotic at r = 3.9."""

    r: float = 3.9
    horizon: int = 60
    budget: float = 1000.0
    name: str = "logistic map"

    @property
    def space(self):
        return Space(r=Real(self.r, low=2.0, high=4.0))

    def sample(self, seed):
        return BilevelProblem(
            init=lambda h: {"s": torch.tensor(0.3)},
            step=lambda s, h, b: {"s": h["r"] * s["s"] * (1 - s["s"])},
            outer_loss=lambda s, h: (s["s"] - 0.5).square(),
        )


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("lr", [0.05, 0.55])
def test_of_a_parabola_everything_is_the_closed_form(lr):
    task = Parabola(lr=lr)
    found = diagnose(task, step=1e-4)
    factor, T, h, w = 1 - lr * 4.0, 20, 4.0, 1.5
    w_T = factor**T * w
    assert found.outer_loss == pytest.approx(h * w_T**2 / 2)
    (slope,) = found.slopes
    truth = lr * h * w_T * T * factor ** (T - 1) * -h * w  # dE/dlog α
    assert slope.exact == pytest.approx(abs(truth))  # along the gradient
    assert found.effective == pytest.approx(1.0)
    assert found.steepness == pytest.approx(abs(truth) / found.outer_loss)
    assert slope.difference == pytest.approx(slope.exact, rel=1e-4)
    assert found.exponent == pytest.approx(math.log(abs(factor)))
    assert found.adjoint == pytest.approx(
        [abs(h * w_T) * abs(factor) ** (T - t) for t in found.times]
    )
    moved = [abs(lr * t * factor ** (t - 1) * h * w) if t else 0.0 for t in found.times]
    assert found.tangent == pytest.approx(moved, rel=1e-4)
    assert found.smoothness == 1.0
    assert found.verdict == "trust"
    assert found.reasons == ()


@pytest.mark.usefixtures("float64")
def test_a_chaotic_run_grows_by_its_lyapunov_exponent_and_is_for_search():
    found = diagnose(LogisticMap())
    s, logs = 0.3, []
    for _ in range(60):
        logs.append(math.log(abs(3.9 * (1 - 2 * s))))
        s = 3.9 * s * (1 - s)
    assert found.exponent == pytest.approx(sum(logs) / 60, rel=1e-3)
    assert found.growth > 1e9
    assert found.verdict == "use search"
    assert "shorter horizon" in found.line
    assert found.line.count("\n") == 0
    calm = diagnose(LogisticMap(r=2.5))
    assert calm.exponent < 0
    assert calm.verdict == "trust"


@dataclass(frozen=True, kw_only=True)
class Network:
    """A small network whose learning rate is where kinks matter."""

    activation: type[nn.Module] = nn.ReLU
    lr: float = 0.5
    horizon: int = 40
    budget: float = 1000.0
    name: str = "network"

    @property
    def space(self):
        return Space(lr=Positive(self.lr, low=1e-3, high=3.0))

    def sample(self, seed):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(60, 6, generator=generator)
        y = (x[:, 0] * x[:, 1] > 0).long()
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            hidden = nn.Linear(6, 16), self.activation()
            net = nn.Sequential(*hidden, nn.Linear(16, 2))
        return raymeta.module_problem(
            net,
            loss=F.cross_entropy,
            train=(x[:40], y[:40]),
            val=(x[40:], y[40:]),
            optimizer=lambda h: sgd(h["lr"], momentum=0.9),
            seed=seed,
        )


def test_a_relu_network_that_jumps_is_told_by_its_layers():
    found = diagnose(Network(), seed=2)
    (slope,) = found.slopes
    problem, (low, high) = (
        Network().sample(2),
        (0.5 * math.exp(d) for d in (-0.03, 0.03)),
    )
    runs = [plain_run(problem, {"lr": torch.tensor(lr)}, 40)[1] for lr in (low, high)]
    sign = math.copysign(1.0, (runs[1] - runs[0]) * slope.difference)
    assert sign * slope.difference == pytest.approx(
        (runs[1] - runs[0]) / 0.06, rel=1e-3
    )
    assert slope.exact > 0 > slope.difference  # along the gradient E falls
    assert found.smoothness < 0
    assert found.verdict == "use search"
    assert [(n.path, n.kind) for n in found.non_smooth] == [("1", "ReLU")]
    assert "GELU" in found.line
    assert found.validation_size == 20


def test_the_same_network_with_gelu_is_trusted():
    found = diagnose(Network(activation=nn.GELU), seed=2)
    assert found.agreement > 0.95
    assert found.smoothness > 0.95
    assert found.verdict == "trust"
    assert found.non_smooth == ()


def test_choices_stay_and_several_coordinates_are_looked_at_in_turn():
    found = diagnose(Small(), precision=False)
    assert found.point["sign"] == 1.0
    assert found.hyperparameters == 4
    assert [s.along for s in found.slopes] == ["gradient"]
    every = diagnose(Small(), coordinates=True, precision=False)
    names = {s.along for s in every.slopes[1:]}
    assert len(names) == 3
    assert names < {"lr[0]", "lr[1]", "momentum", "l2"}
    assert every.gradient_evals == pytest.approx(
        found.gradient_evals + 6 * plain_cost(Small().sample(0), 13)
    )
    assert diagnose(Small(), step=1e-3, coordinates=True).agreement > 0.95


def test_a_schedule_is_looked_at_along_its_gradient():
    found = diagnose(Parabola(shape=(20,)))
    assert found.hyperparameters == 20
    assert len(found.slopes) == 1
    assert found.verdict == "trust"


@pytest.mark.parametrize(
    "task",
    [
        *(Parabola(), Small(), Digits(horizon=4, per_layer=False)),
        *(Cleaning(horizon=4), LearningRateSchedule(horizon=4), Logistic(horizon=4)),
        *map(tasks.get, ("quadratic", "quadratic-noisy", "surface-branin")),
    ],
    ids=lambda task: task.name,
)
def test_it_costs_no_more_than_six_plain_runs(task, monkeypatch):
    """An estimate of 3 T and 3 runs; without room for the graph, 4 T and 2 runs."""
    problem, T = task.sample(0), task.horizon
    run, outer = plain_cost(problem, T), problem.outer_cost
    found = diagnose(task)
    assert found.gradient_evals == pytest.approx(3 * T + outer + 3 * run)
    assert found.gradient_evals <= 6 * run * (1 + 1e-9)
    few = 1 < found.hyperparameters <= FEW
    assert [s.along == "gradient" for s in found.slopes] == [True, False][: 1 + few]
    monkeypatch.setattr("raymeta.outer.diagnose.ROOM", -1)
    tight = diagnose(task)
    assert tight.gradient_evals == pytest.approx(4 * T + outer + 2 * run)
    assert tight.slopes[0].exact == pytest.approx(found.slopes[0].exact, rel=1e-4)
    assert tight.adjoint == pytest.approx(found.adjoint, rel=1e-4)
    assert tight.verdict == found.verdict


@pytest.mark.usefixtures("float64")
def test_the_others_are_looked_at_together_and_one_sided():
    """Uphill in each, by one run; its curvature counts as rounding."""
    task = Quadratic()
    one, other = diagnose(task, step=1e-4).slopes
    every = diagnose(task, step=1e-4, coordinates=True).slopes[1]
    assert other.along == every.along
    assert other.exact == pytest.approx(abs(every.exact), rel=1e-9)
    assert other.difference == pytest.approx(abs(every.difference), rel=1e-3)
    assert other.below == diagnose(task).outer_loss
    bend = abs(one.below + one.above - 2 * other.below) / 2e-4
    assert other.rounding == pytest.approx(bend + 2 * one.rounding)
    assert other.off == 0.0


def test_a_start_that_diverges_is_one_line():
    found = diagnose(Diverging())
    assert found.verdict == "use search"
    assert found.line.startswith("use search: training diverges at the start (E = ")
    assert found.gradient_evals == plain_cost(Diverging().sample(0), 20)
    assert found.record["outer_loss"] is None
    assert len(found.frame) == 1


def test_a_slope_that_is_not_finite_is_one_line():
    class Steep(Parabola):
        def sample(self, seed):
            problem = super().sample(seed)
            return replace(problem, outer_loss=lambda s, h: (0 * s.params["w"]).sqrt())

    found = diagnose(Steep())
    assert found.line.startswith("use search: the hypergradient is not finite, but E")
    assert len(found.frame) == 1


class Changed(Quadratic):
    """A quadratic whose step is another function."""

    def sample(self, seed):
        problem = super().sample(seed)
        return replace(problem, step=lambda s, h, b: self.change(problem.step(s, h, b)))

    def change(self, state):
        noise = 1e-3 * torch.randn(3)
        return state._replace(params={"w": state.params["w"] + noise})


def test_a_step_that_draws_unseeded_is_told():
    assert "a step is another one each time" in diagnose(Changed()).line


class Casts(Quadratic):
    """A quadratic with a matrix in single precision, which nothing else goes with."""

    def sample(self, seed):
        problem, matrix = super().sample(seed), torch.eye(3)

        def step(state, hparams, batch):
            state = problem.step(state, hparams, batch)
            return state._replace(params={"w": matrix @ state.params["w"]})

        return replace(problem, step=step)


class Drawn(Changed):
    """A quadratic with seeded noise, which in each precision is another."""

    def change(self, state):
        w, seed = state.params["w"], torch.Generator().manual_seed(0)
        noise = 0.1 * torch.rand(3, generator=seed, dtype=w.dtype)
        return state._replace(params={"w": w + noise})


def test_precisions_are_compared_where_the_problem_can_be_cast():
    found = diagnose(Quadratic(), precision=True)
    double, half = found.precision
    assert (double.dtype, half.dtype) == ("float64", "bfloat16")
    assert double.outer_loss == pytest.approx(found.outer_loss, rel=1e-4)
    assert double.slope == pytest.approx(found.slopes[0].exact, rel=1e-3)
    assert half.outer_loss == pytest.approx(found.outer_loss, rel=0.5)
    assert half.outer_loss != found.outer_loss
    double, _ = diagnose(Casts(), precision=True).precision
    assert math.isnan(double.outer_loss)
    assert "dtype" in double.why
    double, _ = diagnose(Drawn(), precision=True).precision
    assert double.why == "a step draws other random numbers in it"


@pytest.mark.usefixtures("float64")
def test_what_is_in_double_precision_is_compared_with_single():
    single, _ = diagnose(Quadratic(), precision=True).precision
    assert single.dtype == "float32"


def test_the_definition_of_metasmoothness():
    def state(*w):
        return TrainState({"w": torch.tensor(w)}, {"w": torch.rand(2)}, {})

    one, two = state(0.0, 0.0), state(1.0, -3.0)
    assert metasmoothness(one, two, state(2.0, -2.0)) == pytest.approx(-0.5)
    assert metasmoothness(one, two, state(9.0, -3.1)) == 1.0
    assert math.isnan(metasmoothness(one, one, two))


def test_an_estimate_is_that_of_reverse_mode():
    task = Network(activation=nn.Tanh)
    exact = raymeta.hypergradient(task.sample(0), task.space.initial(), Reverse(40))
    (slope,) = diagnose(task).slopes
    assert abs(slope.exact) == pytest.approx(
        abs(float(exact.grads["lr"]) * 0.5), rel=1e-4
    )


def test_few_validation_examples_for_many_hyperparameters_are_told():
    class Few(Network):
        @property
        def space(self):
            return Space(lr=Positive(0.05), scale=Positive(1.0))

        def sample(self, seed):
            problem = super().sample(seed)
            return replace(problem, init=lambda h: _scaled(problem.init(h), h["scale"]))

    found = diagnose(Few(activation=nn.Tanh))
    assert found.reasons[-1].startswith("2 hyperparameters on 20 validation examples")
    assert found.verdict == "trust"


def _scaled(state, scale):
    return state._replace(params={k: scale * p for k, p in state.params.items()})


def test_what_is_said_of_it():
    found = diagnose("quadratic")
    assert repr(found) == "Diagnosis('quadratic': trust)"
    frame = found.frame
    assert frame["check"].tolist() == [
        "outer loss", "slope", "slope", "metasmoothness", "adjoint", "tangent",
        "precision", "gradient",
    ]  # fmt: skip
    assert found.record["slopes"][0]["along"] == "gradient"
    assert found.record["verdict"] == "trust"


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("quadratc", {}, "unknown task 'quadratc': did you mean 'quadratic'"),
        (Quadratic, {}, "a task must be an object, but got the class Quadratic"),
        ("quadratic", {"step": -1.0}, "needs 0 < step < inf, but got -1.0"),
        ("quadratic", {"step": "big"}, "step must be a number, but got 'big'"),
        ("quadratic", {"seed": -1}, "seed must be an integer from 0"),
    ],
)
def test_bad_input_is_one_line(task, options, message):
    with pytest.raises(ValueError, match=message) as error:
        diagnose(task, **options)
    assert "\n" not in str(error.value)


def test_nothing_continuous_is_told():
    class Options(Quadratic):
        @property
        def space(self):
            return Space(opt=Choice(("a", "b")))

    with pytest.raises(ValueError, match="needs a continuous hyperparameter"):
        diagnose(Options())
