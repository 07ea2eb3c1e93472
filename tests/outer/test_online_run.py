"""One run that descends while it trains; numbers against the toy's closed form."""

import math
from dataclasses import replace

import pytest

from raymeta.hypergrad import ShortTerm
from raymeta.outer.coordinates import Coordinates
from raymeta.outer.look_ahead import LookAhead
from raymeta.outer.online_run import OnlineRun
from raymeta.outer.steps.adam import HYPER_LR, ClippedAdam
from raymeta.space import Choice, Space
from raymeta.tasks import Quadratic
from tests.support.search_toys import Bowl


def within(task, steps=1, lr=HYPER_LR):
    space = task.space
    fixed = {name: Choice((c.initial,)) for name, c in space.choices.items()}
    return OnlineRun(
        problem=task.sample(0),
        coordinates=Coordinates(Space(**{**space, **fixed})),
        estimator=ShortTerm(steps),
        horizon=task.horizon,
        adam=ClippedAdam(lr),
    )


def begun(run):
    return run.begin(run.coordinates.start())


def test_without_hyper_steps_it_is_plain_training():
    task = Bowl()
    run = within(task, lr=0.0)
    for t, step in enumerate(run.steps(begun(run), 9), 1):
        assert step.value == pytest.approx(task.outer(0.1, 0, t), rel=1e-6)
        assert run.coordinates.point(step.x)["lr"] == pytest.approx(0.1)
    assert t == 9


@pytest.mark.parametrize("lr", [0.2, 0.06])
def test_the_first_hyper_step_has_the_length_of_the_hyper_learning_rate(lr):
    """Adam's first step is η sign(g), and a larger lr lowers the loss."""
    run = within(Bowl(), lr=lr)
    _, step = run.steps(begun(run), 2)
    second = 0.1 * math.exp(lr)
    assert float(step.x.exp()) == pytest.approx(second, rel=1e-6)
    exact = (1 - 0.1) ** 2 * (1 - second) ** 2
    assert step.value == pytest.approx(exact, rel=1e-6)


LOOK = LookAhead(1, 1, 20, compares=True)


@pytest.mark.parametrize("look", [None, LOOK])
def test_left_and_taken_up_it_is_the_same_run_to_the_last_bit(look):
    run = replace(within(Quadratic()), look=look)
    whole = [(s.value, s.x.tolist()) for s in run.steps(begun(run), 20)]
    state, pieces = begun(run), []
    for end in (3, 5, 9, 20):
        for step in run.steps(state, end):
            pieces.append((step.value, step.x.tolist()))
            state = step.state
    assert pieces == whole


@pytest.mark.parametrize(("steps", "look"), [(3, None), (1, LOOK)])
def test_it_charges_what_it_said(steps, look):
    run = replace(within(Quadratic(), steps=steps), look=look)
    spent = sum(step.gradient_evals for step in run.steps(begun(run), 20))
    assert spent + run.outer_loss_charge == pytest.approx(run.charge(0, 20))


def test_a_longer_look_is_compared_with_a_short_one_from_the_same_place():
    """What is compared costs the short one; training goes on from the longer one."""
    run = replace(within(Quadratic()), look=LOOK)
    steps = list(run.steps(begun(run), 20))
    (compared, *_) = [i for i, s in enumerate(steps) if not math.isnan(s.agreement)]
    before, step = steps[compared - 1], steps[compared]
    problem, hparams = run.problem, run.coordinates.hparams(step.x)
    short, _ = ShortTerm(1).estimate(problem, hparams, before.state.rollout)
    long, ahead = ShortTerm(4).estimate(problem, hparams, before.state.rollout)
    same = [
        float((long.grads[k].sign() * short.grads[k].sign()).mean()) for k in long.grads
    ]
    assert step.agreement == pytest.approx(sum(same) / len(same))
    assert step.value == float(long.outer_loss)
    assert step.state.rollout.step == ahead.step == before.state.rollout.step + 4
    assert step.gradient_evals == long.gradient_evals + short.gradient_evals
