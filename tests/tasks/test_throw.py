import math

import pytest
import torch

from raymeta.hypergrad import Forward, hypergradient
from raymeta.outer.report import plain_run
from raymeta.tasks import Throw
from raymeta.tasks.throw import GRAVITY

pytestmark = pytest.mark.usefixtures("float64")
LAMBDA = {
    "speed": torch.tensor(30.0, dtype=torch.float64),
    "elevation": torch.tensor(0.4, dtype=torch.float64),
    "azimuth": torch.tensor(0.1, dtype=torch.float64),
    "backspin": torch.tensor(0.5, dtype=torch.float64),
    "sidespin": torch.tensor(-0.8, dtype=torch.float64),
}


def test_without_air_the_flight_is_a_parabola():
    task = Throw(drag=False, horizon=37)
    flight, loss = plain_run(task.sample(0), LAMBDA, task.horizon)
    speed, up, left = (float(LAMBDA[k]) for k in ("speed", "elevation", "azimuth"))
    run, time = speed * math.cos(up), task.seconds
    landed = torch.tensor(
        [
            run * math.cos(left) * time,
            run * math.sin(left) * time,
            speed * math.sin(up) * time - GRAVITY * time**2 / 2,
        ]
    )
    torch.testing.assert_close(
        flight.position, landed.expand(32, 3), rtol=1e-12, atol=0
    )
    miss = landed - torch.tensor(task.target)
    assert loss == pytest.approx(float(miss.square().sum()), rel=1e-12)


def test_the_solver_is_of_fourth_order():
    def end(horizon):
        return plain_run(Throw(horizon=horizon).sample(1), LAMBDA, horizon)[0].position

    truth = end(640)
    errors = [float((end(horizon) - truth).norm()) for horizon in (20, 40)]
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.15)


@pytest.mark.parametrize(("spin", "axis"), [("backspin", 2), ("sidespin", 1)])
def test_spin_bends_the_flight_to_its_side(spin, axis):
    still = LAMBDA | {"backspin": torch.tensor(0.0), "sidespin": torch.tensor(0.0)}
    problem = Throw(horizon=50, wind=0.0).sample(0)
    ends = [
        plain_run(problem, still | {spin: torch.tensor(value)}, 50)[0].position
        for value in (0.0, 0.5)
    ]
    assert bool((ends[1] - ends[0])[:, axis].min() > 0.5)


def test_forward_mode_through_two_thousand_steps_is_true():
    grads = [
        hypergradient(Throw(horizon=t).sample(0), LAMBDA, Forward(t)).grads
        for t in (2000, 250)
    ]
    for name in LAMBDA:
        torch.testing.assert_close(grads[0][name], grads[1][name], rtol=1e-6, atol=1e-6)


def test_held_out_balls_do_not_count():
    task = Throw(horizon=10, balls=3)
    problem = task.sample(0)
    flight, loss = plain_run(problem, LAMBDA, 10)
    squares = (flight.position - torch.tensor(task.target)).square().sum(1)
    assert len(squares) == 6
    assert loss == pytest.approx(float(squares[:3].mean()), rel=1e-12)
    metrics = problem.metrics(flight, LAMBDA)
    assert float(metrics["test_loss"]) == pytest.approx(float(squares[3:].mean()))
