"""One hyper-step per run: where short horizons mislead, and where gradients end."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import pytest
import torch

from raymeta import optimize
from raymeta.hypergrad import Estimator, Reverse
from raymeta.outer.base import Evaluated, HyperDescent
from raymeta.outer.coordinates import Coordinates
from raymeta.outer.offline import OfflineDescent
from raymeta.outer.report import Report
from raymeta.problem import BilevelProblem, no_data
from raymeta.space import Positive, Real, Space
from raymeta.tasks import Task
from tests.support.small_tasks import (
    OneStep,
)

D = TypeVar("D", bound=HyperDescent)

pytestmark = pytest.mark.usefixtures("float64")


@dataclass(frozen=True, kw_only=True)
class Flight:
    """x_t = speed t / 16 should be at 4 when t = 16: before, faster looks better."""

    speed: float
    name: str = "flight"
    horizon: int = 16
    budget: float = 600.0

    @property
    def space(self) -> Space:
        return Space(speed=Positive(self.speed))

    def sample(self, seed: int) -> BilevelProblem:
        return BilevelProblem(
            init=lambda hparams: torch.zeros(()),
            batch=no_data,
            step=lambda x, hparams, batch: x + hparams["speed"] / 16,
            outer_loss=lambda x, hparams: (x - 4).square(),
        )


def made(kind: type[D], task: Task, estimator: Estimator, budget: float) -> D:
    """A descent of this kind, at the start of a task."""
    return kind(
        problem=task.sample(0),
        coordinates=Coordinates(task.space),
        estimator=estimator,
        horizon=task.horizon,
        budget=budget,
        seed=0,
        hyper_lr=None,
    )


#: Gradient evaluations of a hypergradient over T = 16, and before it.
ONE = 3 * 16 + 1
SHORT = sum(3 * 16 // 2**i + 1 for i in (1, 2, 3))


@pytest.mark.parametrize("speed", [2.0, 4.5, 6.0])
def test_what_short_horizons_mislead_converges_as_newtons_method_does(speed):
    """To 12 digits of E in as many hypergradients; halving intervals gives 2 a step."""
    result = optimize(Flight(speed=speed), Reverse(16), budget=700)
    spent = [r.gradient_evals for r in result.reports if r.outer_loss < 1e-12]
    assert spent[0] < SHORT + 12 * ONE


def test_where_the_step_of_t_half_fails_the_gradient_over_t_gives_a_shorter_one():
    """T/2 sees the ball at 2.1, and points to faster; T sees it at 4.2."""
    speed = 4.2 / math.exp(1.0 + 1.5)
    reports = optimize(Flight(speed=speed), Reverse(16)).reports[4:9]
    over_t = [r.hparams["speed"] for r in reports]
    spent = [
        b.gradient_evals - a.gradient_evals for a, b in itertools.pairwise(reports)
    ]
    plain = 16 + 1 / 3
    assert spent == pytest.approx([ONE, plain, ONE, ONE])
    assert over_t[0] == over_t[3] == pytest.approx(4.2)
    assert over_t[1] > over_t[2] > 4.2 > over_t[4] > 4.2 / math.e


class Level(Flight):
    """E is 1 wherever finite, so that nothing is better than anything else."""

    @property
    def space(self) -> Space:
        return Space(steep=Real(0.0), flat=Real(0.0), flatter=Real(0.0))

    def sample(self, seed: int) -> BilevelProblem:
        return replace(
            super().sample(seed),
            step=lambda x, hparams, batch: x,
            outer_loss=lambda x, hparams: torch.ones(()),
        )


def test_random_points_are_farther_away_where_e_is_flat():
    """In proportion to the root of how flat it is, and ten times at most."""
    descent = made(OfflineDescent, Level(speed=1.0), Reverse(16), budget=1e4)
    descent._best = descent._best._replace(value=1.0)
    descent._update_sensitivity(torch.tensor([-3.0, 3.0 / 16, 0.0]))
    descent._update_sensitivity(torch.zeros(3))  # of a diverged run: says nothing
    reports = list(descent._local_search())
    assert len(reports) > 500
    spread = {
        name: torch.tensor([r.hparams[name] for r in reports[20:]]).std().item()
        for name in ("steep", "flat", "flatter")
    }
    # 500 normal numbers have their standard deviation within 10 % (three sigma).
    assert spread == pytest.approx({"steep": 0.1, "flat": 0.4, "flatter": 1.0}, rel=0.1)


def test_the_gradient_of_a_diverged_run_does_not_say_where_e_is_flat():
    """What of it is not finite becomes 0, and may be what is steepest."""

    class Broken(Level):
        def sample(self, seed: int) -> BilevelProblem:
            return replace(
                super().sample(seed),
                outer_loss=lambda x, hparams: (
                    hparams["steep"].log() + hparams["flat"] + 0.5 * hparams["flatter"]
                ),
            )

    descent = made(OfflineDescent, Broken(speed=1.0), Reverse(16), budget=100)
    best = Evaluated(descent.coordinates.start(), math.inf, None)
    (report,) = descent._descend(best)
    assert report.outer_loss == -math.inf
    assert descent._shares.tolist() == [1.0, 1.0, 1.0]


class Listed(OfflineDescent):
    """Its descents find better points, or not; when they begin is written down."""

    gain: float
    begun: list[int]

    looks_beside = False

    def _descend(self, best: Evaluated) -> Iterator[Report]:
        self.begun.append(self._found)
        self._best = self._best._replace(value=self._best.value - self.gain)
        return
        yield

    def _local_search(self, tries: float = math.inf) -> Iterator[Report]:
        self._found += 1
        return self._best if self._found < 20 else None
        yield

    _found = 0


@pytest.mark.parametrize(
    ("gain", "begun"), [(1.0, list(range(20))), (0.0, [0, 1, 3, 7, 15])]
)
def test_descents_that_lead_nowhere_are_tried_after_ever_more_better_points(
    gain, begun
):
    """The first is none of them: it begins where nothing is known."""
    task = OneStep()
    descent = made(Listed, task, Reverse(1), budget=1000)
    descent.gain, descent.begun = gain, []
    descent._best = descent._best._replace(value=1.0)
    assert list(descent.reports()) == []
    assert descent.begun == begun
